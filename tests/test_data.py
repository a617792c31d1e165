"""From folders and arrays to training samples: layouts, augmentation, the stream."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.data.augment import PRESETS, Augment
from img2img.data.images import Picture, write_image
from img2img.data.layouts import DataConfig, HeldOut, Translation, open_data
from img2img.data.picture import DTYPES
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


def arrays(count, seed=0, **kind):
    return [picture(seed + i, **kind) for i in range(count)]


def config(size=32, augment="none", **options):
    return DataConfig(
        size=size, augment=augment, **{k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    )


def names(domain):
    return [source.path.name for source in domain.sources]


def dataset(paired=False, a=6, b=5, seed=0, shared=False, **options):
    cfg = config(**options)
    opened = open_data(cfg, paired, arrays(a), arrays(a if paired else b, seed=50))
    return Translation(*opened.train, cfg, paired, seed, shared)


def same(x, y):
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


PICTURES = {seed: arrays(8, seed) for seed in (0, 50)}


# Layouts


def test_two_folders(unpaired):
    a, b = unpaired
    opened = open_data(config(a=a, b=b), False)
    assert [len(d) for d in opened.train] == [6, 5] and opened.heldout is None
    assert [d.title for d in opened.train] == ["A", "B"]
    for domain, folder in zip(opened.train, unpaired, strict=True):
        assert (domain.channels, domain.dtype) == (3, "uint8")
        assert [s.path for s in domain.sources] == sorted(folder.iterdir())
        with Image.open(domain.sources[2].path) as image:
            np.testing.assert_array_equal(domain.load(2), np.asarray(image))


def test_two_folders_are_searched_deeply(tmp_path):
    fill(tmp_path / "a" / "x", 2)
    fill(tmp_path / "a" / "y" / "z", 2)
    fill(tmp_path / "b", 3)
    opened = open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)
    assert [len(d) for d in opened.train] == [4, 3]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("held", ["test", "val", None])
def test_standard_root(tmp_path, paired, held):
    for i, domain in enumerate("AB"):
        fill(tmp_path / f"train{domain}", 4, seed=10 * i)
        if held:
            fill(tmp_path / f"{held}{domain}", 2, seed=100 + 10 * i)
    opened = open_data(config(data=tmp_path), paired)
    assert [len(d) for d in opened.train] == [4, 4]
    assert (opened.heldout is not None) == bool(held)
    if held:
        assert [len(d) for d in opened.heldout] == [2, 2]
        assert {s.path.parent.name for s in opened.heldout[1].sources} == {f"{held}B"}


def test_standard_root_of_side_by_side_pairs(tmp_path):
    fill(tmp_path / "train", 4, width=64)
    fill(tmp_path / "val", 2, seed=9, width=64)
    for options in ({"data": tmp_path}, {"ab": tmp_path}, {"ab": tmp_path / "train"}):
        opened = open_data(config(**options), True)
        assert [len(d) for d in opened.train] == [4, 4] and [len(d) for d in opened.heldout] == [2, 2]
    with pytest.raises(DataError, match="trainA and trainB"):
        open_data(config(data=tmp_path), False)


def test_side_by_side(pairs):
    opened = open_data(config(ab=pairs), True)
    a, b = opened.train
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
        open_data(config(ab=tmp_path / "ab"), True)


def test_pairs_by_stem_in_sub_folders_with_other_suffixes(tmp_path):
    for sub in ("x", "y"):
        fill(tmp_path / "a" / sub, 2, seed=ord(sub))
        fill(tmp_path / "b" / sub, 2, seed=ord(sub), suffix=".tif")
    a, b = open_data(config(a=tmp_path / "a", b=tmp_path / "b"), True).train
    assert len(a) == 4
    for i in range(4):
        assert a.sources[i].path.relative_to(tmp_path / "a").with_suffix("") == b.sources[i].path.relative_to(
            tmp_path / "b"
        ).with_suffix("")
        np.testing.assert_array_equal(a.load(i), b.load(i))


def test_images_without_partner_are_listed(tmp_path):
    fill(tmp_path / "a", 9, name="only_a{i}")
    fill(tmp_path / "a", 2)
    fill(tmp_path / "b", 2)
    fill(tmp_path / "b", 1, name="only_b")
    with pytest.raises(DataError, match=r"10 images have no partner.*only_a0\.png.*and 5 more"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), True)
    assert [len(d) for d in open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False).train] == [11, 3]


def test_same_stem_twice_is_named(tmp_path):
    fill(tmp_path / "a", 2)
    fill(tmp_path / "b", 2)
    fill(tmp_path / "a", 1, suffix=".tif")
    with pytest.raises(DataError, match=r"0\.(png|tif).*0\.(png|tif) differ only in the suffix"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), True)


def test_pairs_of_unequal_size_are_named(tmp_path):
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 3)
    fill(tmp_path / "b", 1, height=30)
    with pytest.raises(DataError, match=r"1 pairs differ in size: .*0\.png \(32x32 and 32x30\)"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), True)
    open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)


def test_direction_b2a_swaps(pairs):
    there, back = (open_data(config(ab=pairs, direction=d), True) for d in ("a2b", "b2a"))
    np.testing.assert_array_equal(there.train[0].load(1), back.train[1].load(1))
    np.testing.assert_array_equal(there.train[1].load(1), back.train[0].load(1))


def test_direction_b2a_swaps_the_held_out_part_too(tmp_path):
    fill(tmp_path / "train", 3, width=64)
    fill(tmp_path / "val", 2, width=64)
    there, back = (open_data(config(data=tmp_path, direction=d), True) for d in ("a2b", "b2a"))
    np.testing.assert_array_equal(there.heldout[0].load(1), back.heldout[1].load(1))


def test_direction_is_for_pairs_and_spelled_right(unpaired, pairs):
    a, b = unpaired
    with pytest.raises(ConfigError, match="--direction is for pairs"):
        open_data(config(a=a, b=b, direction="b2a"), False)
    with pytest.raises(ConfigError, match="Did you mean 'a2b'"):
        open_data(config(ab=pairs, direction="a2bb"), True)


def test_equal_folders_are_refused(unpaired):
    a, _ = unpaired
    with pytest.raises(DataError, match="the same folder"):
        open_data(config(a=a, b=a / ".." / a.name), False)


def test_one_image_is_too_few(tmp_path):
    fill(tmp_path / "a", 1)
    fill(tmp_path / "b", 3)
    with pytest.raises(DataError, match="Domain A has one image"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)


def test_grey_images_among_colour_are_read_as_colour(tmp_path):
    fill(tmp_path / "a", 2)
    fill(tmp_path / "a", 1, name="grey", channels=1)
    fill(tmp_path / "b", 3)
    opened = open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)
    a = opened.train[0]
    assert a.channels == 3 and len(opened.notes) == 1 and opened.notes[0].startswith("1 grey")
    grey = a.load(names(a).index("grey.png"))
    assert grey.shape == (32, 32, 3)
    np.testing.assert_array_equal(grey, np.repeat(picture(0, channels=1), 3, axis=2))


def test_domains_may_differ_in_channels_and_type(tmp_path):
    fill(tmp_path / "a", 2, channels=1, dtype="uint16")
    fill(tmp_path / "b", 2, channels=5, dtype="float32", suffix=".tif")
    cfg = config(a=tmp_path / "a", b=tmp_path / "b")
    data = Translation(*open_data(cfg, False).train, cfg, False)
    assert data.channels == {"a": 1, "b": 5}
    sample = data[0]
    assert sample["a"].shape == (1, 32, 32) and sample["b"].shape == (5, 32, 32)
    assert sample["a"].dtype == sample["b"].dtype == torch.float32


@pytest.mark.parametrize("other", [{"dtype": "uint16"}, {"channels": 5, "suffix": ".tif"}])
def test_kinds_that_do_not_go_together_are_counted(tmp_path, other):
    fill(tmp_path / "a", 3)
    fill(tmp_path / "a", 1, name="other", **other)
    fill(tmp_path / "b", 2)
    with pytest.raises(DataError, match=r"domain A are of different kinds: 3 with 3 channels of uint8, 1 with"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)


def test_small_images_are_refused_for_a_crop_at_their_own_scale(tmp_path):
    fill(tmp_path / "a", 2)
    fill(tmp_path / "b", 2)
    fill(tmp_path / "b", 1, name="small", height=31)
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    with pytest.raises(DataError, match=r"Domain B has 1 image smaller than the 32 px crop: .*small\.png \(32x31\)"):
        open_data(config(augment="dihedral", **folders), False)
    open_data(config(augment="none", **folders), False)


def test_files_with_several_pages_are_named_before_training(tmp_path):
    fill(tmp_path / "a", 2)
    fill(tmp_path / "b", 2)
    write_image(tmp_path / "b" / "stack.tif", Picture(np.stack([picture(0), picture(1)])))
    with pytest.raises(DataError, match=r"1 of the images .*stack\.tif has 2 pages; training takes single images"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif"])
def test_arrays_in_files_are_trained_on(tmp_path, suffix):
    fill(tmp_path / "a", 3, suffix=suffix, channels=5, dtype="float32")
    fill(tmp_path / "b", 3)
    cfg = config(a=tmp_path / "a", b=tmp_path / "b")
    data = Translation(*open_data(cfg, False).train, cfg, False)
    assert data.channels == {"a": 5, "b": 3} and data[0]["a"].shape == (5, 32, 32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("augment", PRESETS)
def test_every_type_is_trained_on_or_refused(dtype, augment):
    cfg, images = config(augment=augment), arrays(3, height=40, width=40, dtype=dtype)
    if augment == "strong" and dtype in ("int8", "uint32", "int32", "float16"):
        with pytest.raises(DataError, match=f"Domain A has {dtype} values, which --augment strong cannot warp; use"):
            open_data(cfg, False, images, images)
        return
    sample = Translation(*open_data(cfg, False, images, images).train, cfg, False)[0]
    assert sample["a"].dtype == torch.float32 and sample["a"].abs().max() <= 1.001


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_corrupt_files_are_named_at_the_start(tmp_path, content):
    fill(tmp_path / "a", 2)
    fill(tmp_path / "b", 2)
    (tmp_path / "b" / "broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"1 of the images in .*b cannot be used: .*broken\.png"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)


def test_file_with_a_good_header_and_no_pixels_is_named_before_training(tmp_path):
    fill(tmp_path / "a", 2)
    fill(tmp_path / "b", 2)
    data = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "1.png").write_bytes(data[: len(data) // 2])
    cfg = config(a=tmp_path / "a", b=tmp_path / "b")
    with pytest.raises(DataError, match=r"1\.png"):
        Translation(*open_data(cfg, False).train, cfg, False)


@pytest.mark.parametrize(
    "options", [{}, {"a": "x"}, {"a": "x", "b": "y", "data": "z"}, {"ab": "x", "data": "y"}, {"b": "y"}]
)
@pytest.mark.parametrize("paired", [False, True])
def test_images_are_named_in_exactly_one_way(options, paired):
    with pytest.raises(ConfigError, match="in one way: --a DIR --b DIR") as caught:
        open_data(config(**options), paired)
    for name in options:
        assert f"--{name}" in str(caught.value).partition("You gave")[2]


def test_side_by_side_is_for_pairs_only(pairs):
    with pytest.raises(ConfigError, match="in one way"):
        open_data(config(ab=pairs), False)


def test_missing_folder_is_named(tmp_path, unpaired):
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        open_data(config(a=unpaired[0], b=tmp_path / "nowhere"), False)
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        open_data(config(data=tmp_path / "nowhere"), False)
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        open_data(config(ab=tmp_path / "nowhere"), True)


def test_unknown_augmentation(unpaired):
    with pytest.raises(ConfigError, match="Did you mean 'dihedral'"):
        open_data(config(a=unpaired[0], b=unpaired[1], augment="dihedrall"), False)


@pytest.mark.parametrize("paired", [False, True])
def test_arrays(paired):
    a, b = np.stack(arrays(3, channels=1))[..., 0], arrays(3, seed=9)
    opened = open_data(config(), paired, a, b)
    assert [(len(d), d.channels, d.dtype) for d in opened.train] == [(3, 1, "uint8"), (3, 3, "uint8")]
    np.testing.assert_array_equal(opened.train[0].load(1)[..., 0], a[1])


def test_arrays_that_do_not_fit():
    with pytest.raises(ConfigError, match="both"):
        open_data(config(), False, arrays(3), None)
    with pytest.raises(DataError, match="equally many images in A and B, but there are 3 and 2"):
        open_data(config(), True, arrays(3), arrays(2))
    with pytest.raises(DataError, match="Array 0 of domain B is int64"):
        open_data(config(), False, arrays(3), [np.zeros((4, 4), np.int64)])
    with pytest.raises(DataError, match="array 1 of domain A"):
        open_data(config(), True, [picture(0), picture(1, height=30)], arrays(2))
    with pytest.raises((ConfigError, DataError), match="domain B"):
        open_data(config(), False, arrays(3), [])


def test_pairs_match_in_either_unicode_form(tmp_path):
    name = "caf\u00e9 {i}"
    fill(tmp_path / "a", 3, name=unicodedata.normalize("NFC", name))
    fill(tmp_path / "b", 3, name=unicodedata.normalize("NFD", name))
    a, b = open_data(config(a=tmp_path / "a", b=tmp_path / "b"), True).train
    pairs = [[unicodedata.normalize("NFC", n) for n in names(domain)] for domain in (a, b)]
    assert pairs[0] == pairs[1] == [f"caf\u00e9 {i}.png" for i in range(3)]
    fill(tmp_path / "a", 1, name=unicodedata.normalize("NFD", name))
    with pytest.raises(DataError, match="differ only in the suffix, or in how accents are encoded; keep one"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), True)


def test_partners_that_differ_only_in_case_are_named(tmp_path):
    fill(tmp_path / "a", 2, name="IMG_{i}")
    fill(tmp_path / "b", 2, name="img_{i}")
    with pytest.raises(DataError, match=r"4 images have no partner.*IMG_0\.png and .*img_0\.png differ only in case"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), True)
    fill(tmp_path / "c", 2, name="other_{i}")
    with pytest.raises(DataError, match=r"or remove these images\.$"):
        open_data(config(a=tmp_path / "a", b=tmp_path / "c"), True)


def test_of_a_mixed_folder_the_minority_is_named(tmp_path):
    fill(tmp_path / "a", 8)
    fill(tmp_path / "a", 7, name="deep_{i}", dtype="uint16")
    fill(tmp_path / "b", 2)
    with pytest.raises(
        DataError, match=r"8 with 3 channels of uint8, 7 with 3 channels of uint16 \(.*deep_0\.png, .*2 more"
    ):
        open_data(config(a=tmp_path / "a", b=tmp_path / "b"), False)
    mixed = [*arrays(3), *arrays(1, dtype="uint16")]
    with pytest.raises(DataError, match=r"1 with 3 channels of uint16 \(array 3 of domain A\)\. Convert"):
        open_data(config(), False, mixed, arrays(2))


@pytest.mark.parametrize("paired", [False, True])
def test_files_passed_over_are_counted_once(tmp_path, paired):
    for place in ("trainA", "trainB", "testA", "testB"):
        fill(tmp_path / place, 3)
    for name in ("trainA/x.heic", "trainB/y.HEIC", "testB/z.avif", "testB/.hidden.avif"):
        (tmp_path / name).touch()
    notes = open_data(config(data=tmp_path), paired).notes
    assert notes == ("3 files were skipped: 2 .heic, 1 .avif.",)
    fill(tmp_path / "ab", 3, width=64)
    (tmp_path / "ab" / "x.gif").touch()
    assert open_data(config(ab=tmp_path / "ab"), True).notes == ("1 file was skipped: 1 .gif.",)


# Held out


@pytest.mark.parametrize("paired", [False, True])
def test_val_fraction_splits_off_disjoint_images(tmp_path, paired):
    fill(tmp_path / "a", 10)
    fill(tmp_path / "b", 10)
    opened = open_data(config(a=tmp_path / "a", b=tmp_path / "b", val_fraction=0.3), paired)
    for train, heldout in zip(opened.train, opened.heldout, strict=True):
        assert (len(train), len(heldout)) == (7, 3)
        assert not set(names(train)) & set(names(heldout))
        assert len(set(names(train) + names(heldout))) == 10
    if paired:
        assert names(opened.train[0]) == names(opened.train[1])
        assert names(opened.heldout[0]) == names(opened.heldout[1])
    again = open_data(config(a=tmp_path / "a", b=tmp_path / "b", val_fraction=0.3), paired)
    assert names(again.heldout[0]) == names(opened.heldout[0])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_val_fraction_out_of_range(pairs, fraction):
    with pytest.raises(ConfigError, match="--val-fraction takes a number from 0 to below 1"):
        open_data(config(ab=pairs, val_fraction=fraction), True)


@pytest.mark.parametrize("fraction", [0.01, 0.9])
def test_val_fraction_that_leaves_too_few(pairs, fraction):
    with pytest.raises(ConfigError, match=f"--val-fraction {fraction} of the 6 images .* leaves too few"):
        open_data(config(ab=pairs, val_fraction=fraction), True)


@pytest.mark.parametrize("part", ["val", "test"])
def test_siblings_of_folders_called_train_are_held_out(tmp_path, part):
    for i, domain in enumerate("AB"):
        fill(tmp_path / f"train{domain}", 3, seed=10 * i)
        fill(tmp_path / f"{part}{domain}", 2, seed=10 * i)
    opened = open_data(config(a=tmp_path / "trainA", b=tmp_path / "trainB"), True)
    assert [len(d) for d in opened.heldout] == [2, 2]
    assert opened.heldout[0].sources[0].path.parent == tmp_path / f"{part}A"


def test_a_held_out_folder_of_its_own_wins_over_val_fraction(tmp_path):
    fill(tmp_path / "train", 6, width=64)
    fill(tmp_path / "val", 2, width=64)
    opened = open_data(config(data=tmp_path, val_fraction=0.5), True)
    assert len(opened.train[0]) == 6 and len(opened.heldout[0]) == 2


@pytest.mark.parametrize("augment", PRESETS)
def test_held_out_images_have_the_training_size_and_no_augmentation(augment):
    cfg = config(augment=augment, size=32)
    a, b = open_data(cfg, True, arrays(3, height=40, width=48), arrays(3, height=40, width=48)).train
    heldout = HeldOut(a, b, Translation(a, b, cfg, True))
    assert len(heldout) == 3
    first = heldout[1]
    assert first["a"].shape == (3, 32, 32) and torch.equal(first["a"], first["b"])
    assert same(first, heldout[1])
    if PRESETS[augment].resize is None:
        middle = picture(1, height=40, width=48)[4:36, 8:40]
        assert torch.equal(first["a"], torch.from_numpy(middle.transpose(2, 0, 1).astype(np.float32)) * (2 / 255) - 1)


# Augmentation


@pytest.mark.parametrize("preset", PRESETS)
def test_one_draw_for_both_images_of_a_pair(preset):
    augment, image = Augment(preset, 32), picture(0, 40, 40)
    for seed in range(20):
        a, b = augment(seed, image, image.copy())
        assert a.shape == (32, 32, 3) or preset in ("none", "flip")
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint16", 3), ("float32", 5)])
def test_augmentation_keeps_type_and_channels_of_both(preset, dtype, channels):
    image = picture(0, 40, 40, channels, dtype)
    partner = picture(1, 40, 40, 1, "uint8")
    a, b = Augment(preset, 32)(3, image, partner)
    assert (a.dtype, a.shape[2], b.dtype, b.shape[2]) == (dtype, channels, "uint8", 1)
    assert a.shape[:2] == b.shape[:2]


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_seeds_equal_results(preset):
    image = picture(0, 40, 40)
    before = image.copy()
    first, second = Augment(preset, 32), Augment(preset, 32)
    second(99, image)  # what was drawn before does not matter
    for seed in (0, 1, 2**31 - 1):
        np.testing.assert_array_equal(first(seed, image)[0], second(seed, image)[0])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_seeds_differ(preset):
    augment, image = Augment(preset, 32), picture(0, 40, 40)
    assert len({augment(seed, image)[0].tobytes() for seed in range(12)}) > 1


def test_dihedral_has_all_eight_positions():
    augment, image = Augment("dihedral", 16), picture(0, 16, 16)
    seen = {augment(seed, image)[0].tobytes() for seed in range(100)}
    turned = [np.rot90(image, k) for k in range(4)]
    expected = {x.tobytes() for t in turned for x in (t, t[:, ::-1])}
    assert seen == expected


def test_standard_crops_a_mirrored_or_plain_window():
    augment, image = Augment("standard", 32), picture(0, 36, 36)
    windows = {
        image[i : i + 32, j : j + 32][:, ::step].tobytes() for i in range(5) for j in range(5) for step in (1, -1)
    }
    assert {augment(seed, image)[0].tobytes() for seed in range(40)} <= windows


def test_augmenting_leaves_the_global_generators_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = (np.random.get_state()[1].copy(), torch.get_rng_state())
    Augment("strong", 32)(5, picture(0, 40, 40))
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


# Samples


@pytest.mark.parametrize("augment", PRESETS)
@pytest.mark.parametrize("paired", [False, True])
def test_samples_are_a_function_of_seed_and_number(augment, paired):
    first, second = (dataset(paired, augment=augment) for _ in range(2))
    order = [0, 17, 3, 5, 17, 40]
    forward = [first[n] for n in order]
    backward = [second[n] for n in reversed(order)][::-1]
    assert all(same(x, y) for x, y in zip(forward, backward, strict=True))
    for sample in forward:
        assert all(x.shape == (3, 32, 32) and x.min() >= -1 and x.max() <= 1 for x in sample.values())


def test_other_seed_other_samples():
    first, second = dataset(augment="flip"), dataset(augment="flip", seed=1)
    assert not all(same(first[n], second[n]) for n in range(12))


@pytest.mark.parametrize("augment", PRESETS)
def test_pairs_stay_together_through_a_sample(augment):
    cfg = config(augment=augment)
    images = arrays(4)
    data = Translation(*open_data(cfg, True, images, images).train, cfg, True)
    for n in range(12):
        assert torch.equal(data[n]["a"], data[n]["b"])


def image_of(x, count, seed=0):
    """Which of `arrays(count, seed)` the sample is."""
    pixels = ((x + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    (found,) = [i for i, image in enumerate(PICTURES[seed][:count]) if np.array_equal(pixels, image)]
    return found


@pytest.mark.parametrize(("paired", "a", "b"), [(True, 6, 6), (False, 6, 4), (False, 3, 7)])
def test_epochs_show_every_image_of_a_once(paired, a, b):
    data = dataset(paired, a, b)
    length = max(a, b)
    assert len(data) == length
    orders = []
    for epoch in range(3):
        seen = [image_of(data[n]["a"], a) for n in range(epoch * length, (epoch + 1) * length)]
        counts = np.bincount(seen, minlength=a)
        assert set(counts) <= {length // a, -(-length // a)}  # each once, or as evenly as it goes
        orders.append(tuple(seen))
    assert len(set(orders)) > 1


def test_partner_is_drawn_at_random_without_pairs():
    data = dataset(False, 4, 5)
    met = {(image_of(s["a"], 4), image_of(s["b"], 5, seed=50)) for s in (data[n] for n in range(120))}
    assert len(met) > 15  # of 20 combinations


def test_larger_domain_b_is_shown_whole_in_each_epoch():
    """The class promises one epoch to show every image of the larger domain once, whichever of the two that is."""
    data = dataset(False, 3, 8)
    seen = {image_of(data[n]["b"], 8, seed=50) for n in range(len(data))}
    assert seen == set(range(8))


@pytest.mark.parametrize("augment", ["standard", "dihedral"])
def test_cache_does_not_change_samples(augment):
    cached, fresh = dataset(augment=augment), dataset(augment=augment, cache_mb=0)
    assert cached.cached and not fresh.cached
    assert all(same(cached[n], fresh[n]) for n in range(14))


def test_cache_does_not_change_samples_of_files(unpaired):
    a, b = unpaired
    results = []
    for cache_mb in (0, 64):
        cfg = config(a=a, b=b, cache_mb=cache_mb, augment="strong")
        data = Translation(*open_data(cfg, False).train, cfg, False)
        results.append([data[n] for n in range(8)])
    assert all(same(x, y) for x, y in zip(*results, strict=True))


def test_samples_leave_the_store_alone():
    data = dataset(augment="strong")
    before = data.stores["a"].memory.clone()
    data[0]["a"].zero_()
    for n in range(10):
        data[n]
    assert torch.equal(data.stores["a"].memory, before)


# The stream


def batches(data, *args, **kwargs):
    return list(stream(data, *args, **kwargs))


def test_batches_hold_the_samples_in_order():
    data = dataset(augment="flip")
    out = batches(data, 0, 4, 3)
    assert len(out) == 4
    for k, batch in enumerate(out):
        for i in range(3):
            assert same({name: x[i] for name, x in batch.items()}, data[3 * k + i])


def test_two_ranks_see_what_one_process_sees():
    data = dataset(augment="standard")
    whole = batches(data, 0, 5, 4)
    ranks = [batches(data, 0, 5, 2, rank=rank, world_size=2) for rank in range(2)]
    for k, batch in enumerate(whole):
        assert same(batch, {name: torch.cat([ranks[0][k][name], ranks[1][k][name]]) for name in batch})


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_starting_later_is_skipping(start):
    data = dataset(augment="standard")
    whole = batches(data, 0, 8, 2)
    assert all(same(x, y) for x, y in zip(whole[start:], batches(data, start, 8, 2), strict=True))


def test_stream_leaves_the_global_generator_alone():
    data = dataset(augment="standard")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(data, 0, 3, 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_workers_change_nothing():
    here, there = dataset(augment="standard"), dataset(augment="standard", shared=True)
    assert all(same(x, y) for x, y in zip(batches(here, 1, 6, 2), batches(there, 1, 6, 2, workers=2), strict=True))
