"""From folders and arrays of two domains to training samples: where images are found, augmentation, the stream."""

import hashlib
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from helpers import over
from PIL import Image

from img2img.core.needs import Needs
from img2img.data.augment import PRESETS, Augment
from img2img.data.finding import find_domains
from img2img.data.images import write_image
from img2img.data.options import DataConfig, ImagesConfig, LabelledConfig, UnpairedConfig, data_options
from img2img.data.picture import DTYPES, Picture
from img2img.data.samples import open_samples
from img2img.data.stream import stream
from img2img.errors import ConfigError, DataError


def picture(seed, height=32, width=32, channels=3, dtype="uint8"):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random((height, width, channels)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def fill(folder, count, seed=0, suffix=".png", name="{i}", **kind):
    for i in range(count):
        write_image(folder / (name.format(i=i) + suffix), Picture(picture(seed + i, **kind)))
    return folder


def two_folders(folder, a=2, b=2):
    """Fill two folders, and return the options that name them."""
    return {"a": fill(folder / "a", a), "b": fill(folder / "b", b)}


def arrays(count, seed=0, **kind):
    return [picture(seed + i, **kind) for i in range(count)]


def config(size=32, augment="none", **options):
    return DataConfig(
        size=size, augment=augment, **{k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    )


def opening(function, paired, options):
    images = {key: options.pop(key) for key in "ab" if not isinstance(options.get(key, ""), Path | str)}
    return function(Needs(("a", "b"), paired), config(**options), **images)


def find(paired=False, **options):
    """Find the two domains that options name; `a` and `b` may be arrays."""
    return opening(find_domains, paired, options)


def train_on(paired=False, seed=0, shared=False, **options):
    """Open the training samples that options name; `a` and `b` may be arrays, or numbers of them."""
    for key, first in ("a", 0), ("b", 50):
        if isinstance(options.get(key), int):
            options[key] = arrays(options[key], first)

    def function(needs, chosen, **images):
        return open_samples(needs, chosen, seed, shared, **images).train

    return opening(function, paired, options)


def names(domain):
    return [source.path.name for source in domain.sources]


def lengths(domains):
    return [len(domain) for domain in domains.values()]


def same(x, y):
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


PICTURES = {seed: arrays(8, seed) for seed in (0, 50)}


# Options


def test_every_need_has_its_options():
    two = ("a", "b")
    needs = [Needs(two, paired=True), Needs(two), Needs(), Needs(labels=True)]
    assert [data_options(need) for need in needs] == [DataConfig, UnpairedConfig, ImagesConfig, LabelledConfig]
    assert UnpairedConfig() != DataConfig() and vars(UnpairedConfig()) == vars(DataConfig())  # runs record the same


# Layouts


def test_two_folders(unpaired):
    a, b = unpaired
    split = find(a=a, b=b)
    assert lengths(split.train) == [6, 5] and split.heldout is None and split.counts == "6 images of A, 5 of B"
    assert [d.title for d in split.train.values()] == ["A", "B"]
    for domain, folder in zip(split.train.values(), unpaired, strict=True):
        assert (domain.channels, domain.dtype) == (3, "uint8")
        assert [s.path for s in domain.sources] == sorted(folder.iterdir())
        with Image.open(domain.sources[2].path) as image:
            np.testing.assert_array_equal(domain.load(2), np.asarray(image))


def test_two_folders_are_searched_deeply(tmp_path):
    fill(tmp_path / "a" / "x", 2)
    fill(tmp_path / "a" / "y" / "z", 2)
    fill(tmp_path / "b", 3)
    assert lengths(find(a=tmp_path / "a", b=tmp_path / "b").train) == [4, 3]


def test_standard_root(tmp_path):
    for held in ("test", "val", None):
        root = tmp_path / str(held)
        for i, domain in enumerate("AB"):
            fill(root / f"train{domain}", 4, seed=10 * i)
            if held:
                fill(root / f"{held}{domain}", 2, seed=100 + 10 * i)
        for paired in (False, True):
            for options in ({"data": root}, {"a": root / "trainA", "b": root / "trainB"}):
                split = find(paired, **options)
                assert lengths(split.train) == [4, 4]
                if held:
                    assert lengths(split.heldout) == [2, 2]
                    assert {s.path.parent for s in split.heldout["b"].sources} == {root / f"{held}B"}
                else:
                    assert split.heldout is None


def test_standard_root_of_side_by_side_pairs(tmp_path):
    fill(tmp_path / "train", 4, width=64)
    fill(tmp_path / "val", 2, seed=9, width=64)
    for options in ({"data": tmp_path}, {"ab": tmp_path}, {"ab": tmp_path / "train"}):
        split = find(True, **options)
        assert lengths(split.train) == [4, 4] and lengths(split.heldout) == [2, 2]
    with pytest.raises(DataError, match="trainA and trainB"):
        find(data=tmp_path)


def test_side_by_side(pairs):
    a, b = find(True, ab=pairs).train.values()
    assert len(a) == len(b) == 6 and a.size(0) == b.size(0) == (32, 32)
    for i in range(6):
        with Image.open(a.sources[i].path) as image:
            whole = np.asarray(image)
        np.testing.assert_array_equal(a.load(i), whole[:, :32])
        np.testing.assert_array_equal(b.load(i), whole[:, 32:])


def test_side_by_side_of_odd_width_is_named(tmp_path):
    fill(tmp_path / "ab", 2, width=64)
    fill(tmp_path / "ab", 1, name="odd", width=63)
    with pytest.raises(DataError, match=r"even width.*odd\.png \(63x32\)"):
        find(True, ab=tmp_path / "ab")


def test_pairs_by_stem_in_sub_folders_with_other_suffixes(tmp_path):
    for sub in ("x", "y"):
        fill(tmp_path / "a" / sub, 2, seed=ord(sub))
        fill(tmp_path / "b" / sub, 2, seed=ord(sub), suffix=".tif")
    a, b = find(True, a=tmp_path / "a", b=tmp_path / "b").train.values()
    assert len(a) == 4
    for i in range(4):
        stems = {d.sources[i].path.relative_to(tmp_path / key).with_suffix("") for key, d in (("a", a), ("b", b))}
        assert len(stems) == 1
        np.testing.assert_array_equal(a.load(i), b.load(i))


def test_images_without_partner_are_listed(tmp_path):
    folders = two_folders(tmp_path)
    fill(tmp_path / "a", 9, name="only_a{i}")
    fill(tmp_path / "b", 1, name="only_b")
    with pytest.raises(DataError, match=r"10 images have no partner.*only_a0\.png.*and 5 more"):
        find(True, **folders)
    assert lengths(find(**folders).train) == [11, 3]


def test_same_stem_twice_is_named(tmp_path):
    folders = two_folders(tmp_path)
    fill(tmp_path / "a", 1, suffix=".tif")
    with pytest.raises(DataError, match=r"0\.(png|tif).*0\.(png|tif) differ only in the suffix"):
        find(True, **folders)


def test_pairs_of_unequal_size_are_named(tmp_path):
    folders = two_folders(tmp_path, 3, 3)
    fill(tmp_path / "b", 1, height=30)
    with pytest.raises(DataError, match=r"1 pairs differ in size: .*0\.png \(32x32 and 32x30\)"):
        find(True, **folders)
    find(**folders)


def test_direction_b2a_swaps(tmp_path):
    fill(tmp_path / "train", 3, width=64)
    fill(tmp_path / "val", 2, seed=9, width=64)
    there, back = (find(True, data=tmp_path, direction=d) for d in ("a2b", "b2a"))
    for one, other in (there.train, back.train), (there.heldout, back.heldout):
        np.testing.assert_array_equal(one["a"].load(1), other["b"].load(1))
        np.testing.assert_array_equal(one["b"].load(1), other["a"].load(1))


def test_direction_is_for_pairs_and_spelled_right(unpaired, pairs):
    a, b = unpaired
    with pytest.raises(ConfigError, match="--direction is for pairs"):
        find(a=a, b=b, direction="b2a")
    with pytest.raises(ConfigError, match="Did you mean 'a2b'"):
        find(True, ab=pairs, direction="a2bb")


def test_equal_folders_are_refused(unpaired):
    a, _ = unpaired
    with pytest.raises(DataError, match="the same folder"):
        find(a=a, b=a / ".." / a.name)


def test_too_few_images(tmp_path):
    with pytest.raises(DataError, match="Domain A has one image"):
        find(**two_folders(tmp_path, 1, 3))
    with pytest.raises(DataError, match="no images of domain B"):
        find(a=arrays(3), b=[])


def test_grey_images_among_colour_are_read_as_colour(tmp_path):
    folders = two_folders(tmp_path, 2, 3)
    fill(tmp_path / "a", 1, name="grey", channels=1)
    split = find(**folders)
    a = split.train["a"]
    assert a.channels == 3 and split.notes == ("1 grey image of domain A is read as colour.",)
    grey = a.load(names(a).index("grey.png"))
    assert grey.shape == (32, 32, 3)
    np.testing.assert_array_equal(grey, np.repeat(picture(0, channels=1), 3, axis=2))


def test_domains_may_differ_in_channels_and_type(tmp_path):
    fill(tmp_path / "a", 2, channels=1, dtype="uint16")
    fill(tmp_path / "b", 2, channels=5, dtype="float32", suffix=".tif")
    data = train_on(a=tmp_path / "a", b=tmp_path / "b")
    assert data.channels == {"a": 1, "b": 5}
    sample = data[0]
    assert sample["a"].shape == (1, 32, 32) and sample["b"].shape == (5, 32, 32)
    assert sample["a"].dtype == sample["b"].dtype == torch.float32


@over(other=[{"dtype": "uint16"}, {"channels": 5, "suffix": ".tif"}])
def test_kinds_that_do_not_go_together_are_counted(tmp_path, other):
    folders = two_folders(tmp_path, 3, 2)
    fill(tmp_path / "a", 1, name="other", **other)
    with pytest.raises(DataError, match=r"domain A are of different kinds: 3 with 3 channels of uint8, 1 with"):
        find(**folders)


def test_small_images_are_refused_for_a_crop_at_their_own_scale(tmp_path):
    folders = two_folders(tmp_path)
    fill(tmp_path / "b", 1, name="small", height=31)
    with pytest.raises(DataError, match=r"Domain B has 1 image smaller than the 32 px crop: .*small\.png \(32x31\)"):
        find(augment="dihedral", **folders)
    find(augment="none", **folders)


def test_files_with_several_pages_are_named_before_training(tmp_path):
    folders = two_folders(tmp_path)
    write_image(tmp_path / "b" / "stack.tif", Picture(np.stack([picture(0), picture(1)])))
    with pytest.raises(DataError, match=r"1 of the images .*stack\.tif has 2 pages, and a single image") as e:
        find(**folders)
    assert "use --pages channels (pages='channels') if they are its channels" in str(e.value)
    planes = np.stack([picture(seed, channels=1)[..., 0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "b" / "stack.tif", planes, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(DataError, match="otherwise save each page as a separate file"):
        find(**folders)
    tifffile.imwrite(tmp_path / "b" / "stack.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    find(**folders)


@over(suffix=[".npy", ".npz", ".tif"])
def test_arrays_in_files_are_trained_on(tmp_path, suffix):
    fill(tmp_path / "a", 3, suffix=suffix, channels=5, dtype="float32")
    fill(tmp_path / "b", 3)
    data = train_on(a=tmp_path / "a", b=tmp_path / "b")
    assert data.channels == {"a": 5, "b": 3} and data[0]["a"].shape == (5, 32, 32)


def test_every_type_is_trained_on_or_refused():
    wrong = []
    for dtype in DTYPES:
        images = arrays(3, height=40, width=40, dtype=dtype)
        for augment in PRESETS:
            try:
                sample = train_on(a=images, b=images, augment=augment)[0]
                good = sample["a"].dtype == torch.float32 and sample["a"].abs().max() <= 1.001
            except DataError as error:
                good = augment == "strong" and dtype in ("int8", "uint32", "int32", "float16")
                good = good and f"Domain A has {dtype} values, which --augment strong cannot warp; use" in str(error)
            wrong += [] if good else [(dtype, augment)]
    assert wrong == []


@over(content=[b"", b"no image"])
def test_corrupt_files_are_named_at_the_start(tmp_path, content):
    folders = two_folders(tmp_path)
    (tmp_path / "b" / "broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"1 of the images in .*b cannot be used: .*broken\.png"):
        find(**folders)


def test_file_with_a_good_header_and_no_pixels_is_named_before_training(tmp_path):
    folders = two_folders(tmp_path)
    data = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "1.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"1\.png"):
        train_on(**folders)


def test_images_are_named_in_exactly_one_way(pairs):
    for paired in (False, True):
        for letters in ("", "a", "b", "a b data", "ab data"):
            with pytest.raises(ConfigError, match="in one of these ways: --a DIR --b DIR") as caught:
                find(paired, **{name: "x" for name in letters.split()})
            for name in letters.split():
                assert f"--{name}" in str(caught.value).partition("You gave")[2]
    with pytest.raises(ConfigError, match="in one of these ways"):
        find(ab=pairs)  # side by side, for a method without pairs


def test_missing_folder_is_named(tmp_path, unpaired):
    nowhere = tmp_path / "nowhere"
    for paired, options in (
        (False, {"a": unpaired[0], "b": nowhere}),
        (False, {"data": nowhere}),
        (True, {"ab": nowhere}),
    ):
        with pytest.raises(DataError, match=r"no folder .*nowhere"):
            find(paired, **options)


def test_unknown_augmentation(unpaired):
    with pytest.raises(ConfigError, match="Did you mean 'dihedral'"):
        find(a=unpaired[0], b=unpaired[1], augment="dihedrall")


@over(paired=[False, True])
def test_arrays(paired):
    a, b = np.stack(arrays(3, channels=1))[..., 0], arrays(3, seed=9)
    train = find(paired, a=a, b=b).train
    assert [(len(d), d.channels, d.dtype) for d in train.values()] == [(3, 1, "uint8"), (3, 3, "uint8")]
    np.testing.assert_array_equal(train["a"].load(1)[..., 0], a[1])


@over(
    "paired a b kind answer",
    [
        (False, arrays(3), None, ConfigError, "both"),
        (True, arrays(3), arrays(2), DataError, "equally many images in A and B, but there are 3 and 2"),
        (False, arrays(3), [np.zeros((4, 4), np.int64)], DataError, "Array 0 of domain B is int64"),
        (True, [picture(0), picture(1, height=30)], arrays(2), DataError, "array 1 of domain A"),
    ],
)
def test_arrays_that_do_not_fit(paired, a, b, kind, answer):
    with pytest.raises(kind, match=answer):
        find(paired, a=a, b=b)


def test_pairs_match_in_either_unicode_form(tmp_path):
    name = "caf\u00e9 {i}"
    fill(tmp_path / "a", 3, name=unicodedata.normalize("NFC", name))
    fill(tmp_path / "b", 3, name=unicodedata.normalize("NFD", name))
    train = find(True, a=tmp_path / "a", b=tmp_path / "b").train
    pairs = [[unicodedata.normalize("NFC", n) for n in names(domain)] for domain in train.values()]
    assert pairs[0] == pairs[1] == [f"caf\u00e9 {i}.png" for i in range(3)]
    fill(tmp_path / "a", 1, name=unicodedata.normalize("NFD", name))
    with pytest.raises(DataError, match="differ only in the suffix, or in how accents are encoded; keep one"):
        find(True, a=tmp_path / "a", b=tmp_path / "b")


def test_partners_that_differ_only_in_case_are_named(tmp_path):
    fill(tmp_path / "a", 2, name="IMG_{i}")
    fill(tmp_path / "b", 2, name="img_{i}")
    with pytest.raises(DataError, match=r"4 images have no partner.*IMG_0\.png and .*img_0\.png differ only in case"):
        find(True, a=tmp_path / "a", b=tmp_path / "b")
    fill(tmp_path / "c", 2, name="other_{i}")
    with pytest.raises(DataError, match=r"or remove these images\.$"):
        find(True, a=tmp_path / "a", b=tmp_path / "c")


def test_of_a_mixed_folder_the_minority_is_named(tmp_path):
    folders = two_folders(tmp_path, 8, 2)
    fill(tmp_path / "a", 7, name="deep_{i}", dtype="uint16")
    with pytest.raises(
        DataError, match=r"8 with 3 channels of uint8, 7 with 3 channels of uint16 \(.*deep_0\.png, .*2 more"
    ):
        find(**folders)
    mixed = [*arrays(3), *arrays(1, dtype="uint16")]
    with pytest.raises(DataError, match=r"1 with 3 channels of uint16 \(array 3 of domain A\)\. Convert"):
        find(a=mixed, b=arrays(2))


@over(paired=[False, True])
def test_files_passed_over_are_counted_once(tmp_path, paired):
    for place in ("trainA", "trainB", "testA", "testB"):
        fill(tmp_path / place, 3)
    for name in ("trainA/x.heic", "trainB/y.HEIC", "testB/z.avif", "testB/.hidden.avif"):
        (tmp_path / name).touch()
    assert find(paired, data=tmp_path).notes == ("3 files were skipped: 2 .heic, 1 .avif.",)
    fill(tmp_path / "ab", 3, width=64)
    (tmp_path / "ab" / "x.gif").touch()
    assert find(True, ab=tmp_path / "ab").notes == ("1 file was skipped: 1 .gif.",)


# Held out


@over(paired=[False, True])
def test_val_fraction_splits_off_disjoint_images(tmp_path, paired):
    folders = two_folders(tmp_path, 10, 10)
    split, again = (find(paired, **folders, val_fraction=0.3) for _ in range(2))
    for train, heldout in zip(split.train.values(), split.heldout.values(), strict=True):
        assert (len(train), len(heldout)) == (7, 3)
        assert len(set(names(train) + names(heldout))) == 10
    if paired:
        for part in (split.train, split.heldout):
            assert names(part["a"]) == names(part["b"])
    assert names(again.heldout["a"]) == names(split.heldout["a"])


def test_val_fractions_that_are_refused(pairs):
    for fraction in (-0.1, 1.0, 2.0):
        with pytest.raises(ConfigError, match="--val-fraction takes a number from 0 to below 1"):
            find(True, ab=pairs, val_fraction=fraction)
    for fraction in (0.01, 0.9):
        with pytest.raises(ConfigError, match=f"--val-fraction {fraction} of the 6 images .* leaves too few"):
            find(True, ab=pairs, val_fraction=fraction)


def test_a_held_out_folder_of_its_own_wins_over_val_fraction(tmp_path):
    fill(tmp_path / "train", 6, width=64)
    fill(tmp_path / "val", 2, width=64)
    split = find(True, data=tmp_path, val_fraction=0.5)
    assert lengths(split.train) == [6, 6] and lengths(split.heldout) == [2, 2]
    assert split.notes == ("--val-fraction is ignored because the data set has a held-out part.",)


@over(augment=PRESETS)
def test_held_out_images_have_the_training_size_and_no_augmentation(augment):
    images = arrays(4, height=40, width=48)
    opened = open_samples(
        Needs(("a", "b"), paired=True), config(augment=augment, val_fraction=0.25), a=images, b=images
    )
    heldout = opened.heldout
    assert (len(heldout), opened.images.held, heldout.labels) == (1, "1 and 1", ())
    first = heldout[0]
    assert first["a"].shape == (3, 32, 32) and torch.equal(first["a"], first["b"])
    assert same(first, heldout[0])
    if PRESETS[augment].resize is None:
        middle = heldout.domains["a"].load(0)[4:36, 8:40]
        assert torch.equal(first["a"], torch.from_numpy(middle.transpose(2, 0, 1).astype(np.float32)) * (2 / 255) - 1)


# Augmentation


@over(preset=PRESETS)
def test_one_draw_for_both_images_of_a_pair(preset):
    augment, image = Augment(preset, 32), picture(0, 40, 40)
    for seed in range(20):
        a, b = augment(seed, image), augment(seed, image.copy())
        assert a.shape == (32, 32, 3) or preset in ("none", "flip")
        np.testing.assert_array_equal(a, b)


@over(preset=PRESETS)
def test_augmentation_keeps_type_and_channels_of_both(preset):
    for dtype, channels in (("uint8", 1), ("uint16", 3), ("float32", 5)):
        image = picture(0, 40, 40, channels, dtype)
        partner = picture(1, 40, 40, 1, "uint8")
        augment = Augment(preset, 32)
        a, b = augment(3, image), augment(3, partner)
        assert (a.dtype, a.shape[2], b.dtype, b.shape[2]) == (dtype, channels, "uint8", 1)
        assert a.shape[:2] == b.shape[:2]


@over(preset=PRESETS)
def test_equal_seeds_give_equal_results_and_others_differ(preset):
    image = picture(0, 40, 40)
    before = image.copy()
    first, second = Augment(preset, 32), Augment(preset, 32)
    second(99, image)  # earlier draws do not matter
    for seed in (0, 1, 2**31 - 1):
        np.testing.assert_array_equal(first(seed, image), second(seed, image))
    np.testing.assert_array_equal(image, before)
    assert (len({first(seed, image).tobytes() for seed in range(12)}) > 1) == (preset != "none")


def test_dihedral_has_all_eight_positions():
    augment, image = Augment("dihedral", 16), picture(0, 16, 16)
    seen = {augment(seed, image).tobytes() for seed in range(100)}
    turned = [np.rot90(image, k) for k in range(4)]
    expected = {x.tobytes() for t in turned for x in (t, t[:, ::-1])}
    assert seen == expected


def test_standard_crops_a_mirrored_or_plain_window():
    augment, image = Augment("standard", 32), picture(0, 36, 36)
    windows = {
        image[i : i + 32, j : j + 32][:, ::step].tobytes() for i in range(5) for j in range(5) for step in (1, -1)
    }
    assert {augment(seed, image).tobytes() for seed in range(40)} <= windows


def test_augmenting_leaves_the_global_generators_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = (np.random.get_state()[1].copy(), torch.get_rng_state())
    Augment("strong", 32)(5, picture(0, 40, 40))
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


# Samples

# Digests of batches 1 to 8 of three samples, made before one class replaced those of pairs, of domains and of images.
# The images have the side before the crop, so nothing is resized.
STREAMS = {
    "none": (16, "e61c41c229383aa4", "77d12e56982e0984", "ae579a39958bdb1a", "4ef58197e7a974c7"),
    "flip": (16, "d30ea36b350ac67c", "7c28dc5a67f15fbb", "5b5f9a98b11e92fe", "a83cea0a35d9ce64"),
    "standard": (18, "0d1b1ec9b08a76cf", "f5fac63222b8df9b", "39e3c6df661715a5", "70c67d03d4119f53"),
    "dihedral": (19, "9f398409038020b0", "9ed1a391368f531e", "9a5dfc3bb8b5a3fc", "8b02ce762ad27dbd"),
    "strong": (20, "ebec33b50d248ce5", "5ca98bc82d38c336", "e0ea93e812b15405", "20e04f9ca7c11d39"),
}


def digest(batches):
    content = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            content.update(name.encode() + batch[name].numpy().tobytes())
    return content.hexdigest()[:16]


def drawn(count, seed, side, channels):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side, channels), dtype=np.uint8) for _ in range(count)]


def test_streams_are_what_they_were():
    assert STREAMS.keys() == PRESETS.keys()
    found = {}
    for augment, (side, *_) in STREAMS.items():
        digests = []
        for paired, a, b in ((True, 6, 6), (False, 6, 4), (False, 3, 7)):
            images = {"a": drawn(a, 0, side, 3), "b": drawn(b, 1, side, 1)}
            data = train_on(paired, 3, size=16, augment=augment, **images)
            digests.append(digest(stream(data, 1, 9, 3)))
        chosen = ImagesConfig(size=16, augment=augment)
        data = open_samples(Needs(), chosen, 3, data=drawn(7, 0, side, 3)).train
        found[augment] = (side, *digests, digest(stream(data, 1, 9, 3)))
    assert found == STREAMS


@over(augment=PRESETS, paired=[False, True])
def test_samples_are_a_function_of_seed_and_number(augment, paired):
    b = 6 if paired else 5
    first, second = (train_on(paired, a=6, b=b, augment=augment) for _ in range(2))
    order = [0, 17, 3, 5, 17, 40]
    forward = [first[n] for n in order]
    backward = [second[n] for n in reversed(order)][::-1]
    assert all(same(x, y) for x, y in zip(forward, backward, strict=True))
    for sample in forward:
        assert all(x.shape == (3, 32, 32) and x.min() >= -1 and x.max() <= 1 for x in sample.values())
    batch = first.fetch(order)
    assert all(torch.equal(torch.stack([sample[key] for sample in forward]), batch[key]) for key in "ab")


def test_other_seed_other_samples():
    first, second = (train_on(seed=seed, a=6, b=5, augment="flip") for seed in (0, 1))
    assert not all(same(first[n], second[n]) for n in range(12))


@over(augment=PRESETS)
def test_pairs_stay_together_through_a_sample(augment):
    images = arrays(4)
    data = train_on(True, a=images, b=images, augment=augment)
    for n in range(12):
        assert torch.equal(data[n]["a"], data[n]["b"])


def image_of(x, count, seed=0):
    """Return which of `arrays(count, seed)` the sample is."""
    pixels = ((x + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    (found,) = [i for i, image in enumerate(PICTURES[seed][:count]) if np.array_equal(pixels, image)]
    return found


def test_epochs_show_every_image_once_or_as_evenly_as_possible():
    for paired, a, b in ((True, 6, 6), (False, 6, 4), (False, 3, 7)):
        data = train_on(paired, a=a, b=b)
        length = max(a, b)
        assert len(data) == length
        for key, count, seed in (("a", a, 0), ("b", b, 50)):
            orders = []
            for epoch in range(3):
                numbers = range(epoch * length, (epoch + 1) * length)
                seen = [image_of(data[n][key], count, seed) for n in numbers]
                assert set(np.bincount(seen, minlength=count)) <= {length // count, -(-length // count)}
                orders.append(tuple(seen))
            assert len(set(orders)) > 1


def test_partner_is_drawn_at_random_without_pairs():
    data = train_on(a=4, b=5)
    met = {(image_of(s["a"], 4), image_of(s["b"], 5, seed=50)) for s in (data[n] for n in range(120))}
    assert len(met) > 15  # of 20 combinations


def test_cache_does_not_change_samples(unpaired):
    for augment in ("standard", "dihedral", "strong"):
        for images in ({"a": 6, "b": 5}, dict(zip("ab", unpaired, strict=True))):
            cached, fresh = (train_on(**images, augment=augment, cache_mb=mb) for mb in (64, 0))
            assert cached.cached and not fresh.cached
            assert all(same(cached[n], fresh[n]) for n in range(14))


def test_samples_leave_the_store_alone():
    data = train_on(a=6, b=5, augment="strong")
    before = data.stores["a"].memory.clone()
    data[0]["a"].zero_()
    for n in range(10):
        data[n]
    assert torch.equal(data.stores["a"].memory, before)


# The stream


def batches(data, *args, **kwargs):
    return list(stream(data, *args, **kwargs))


def test_batches_hold_the_samples_in_order():
    data = train_on(a=6, b=5, augment="flip")
    out = batches(data, 0, 4, 3)
    assert len(out) == 4
    for k, batch in enumerate(out):
        for i in range(3):
            assert same({name: x[i] for name, x in batch.items()}, data[3 * k + i])


def test_two_ranks_see_what_one_process_sees():
    data = train_on(a=6, b=5, augment="standard")
    whole = batches(data, 0, 5, 4)
    ranks = [batches(data, 0, 5, 2, rank=rank, world_size=2) for rank in range(2)]
    for k, batch in enumerate(whole):
        assert same(batch, {name: torch.cat([ranks[0][k][name], ranks[1][k][name]]) for name in batch})


def test_starting_later_is_skipping():
    data = train_on(a=6, b=5, augment="standard")
    whole = batches(data, 0, 8, 2)
    for start in (0, 1, 4, 7):
        assert all(same(x, y) for x, y in zip(whole[start:], batches(data, start, 8, 2), strict=True))


def test_stream_leaves_the_global_generator_alone():
    data = train_on(a=6, b=5, augment="standard")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(data, 0, 3, 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_workers_change_nothing():
    here, there = (train_on(a=6, b=5, shared=shared, augment="standard") for shared in (False, True))
    assert all(same(x, y) for x, y in zip(batches(here, 1, 6, 2), batches(there, 1, 6, 2, workers=2), strict=True))
