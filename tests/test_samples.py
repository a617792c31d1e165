"""Samples of one domain: images, their classes from every source, their held-out part, and what is made of them."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from conftest import refused, write_images
from helpers import over
from PIL import Image

import img2img
from img2img.core.needs import Needs
from img2img.data.domain import Domain
from img2img.data.finding import find_domains
from img2img.data.options import ImagesConfig, LabelledConfig
from img2img.data.samples import Samples, open_samples
from img2img.data.stream import stream
from img2img.errors import ConfigError, DataError, Img2ImgError

PLAIN, LABELLED = Needs(), Needs(labels=True)


def grey(n=5, size=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def idx(path, array):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def find(data=None, **options):
    """Find the images of a folder, an idx file or arrays."""
    files = {"data": str(data)} if data is not None and not isinstance(data, list | np.ndarray) else {}
    return find_domains(PLAIN, ImagesConfig(**{"size": 4} | files | options), data=None if files else data)


def find_labelled(data=None, labels=None, **options):
    """Find the images of a folder, an idx file or arrays, and their classes."""
    files = {
        key: str(x)
        for key, x in {"data": data, "labels": labels}.items()
        if x is not None and not isinstance(x, list | np.ndarray | torch.Tensor | int | tuple)
    }
    arrays = {key: x for key, x in {"data": data, "labels": labels}.items() if key not in files}
    return find_domains(LABELLED, LabelledConfig(**{"size": 4} | files | options), **arrays)


def image(split):
    return split.train["image"]


# Which images.


def test_images_of_every_source(tmp_path):
    path = idx(tmp_path / "train-images-idx3-ubyte.gz", grey())
    split = find(path)
    domain = image(split)
    assert (len(domain), domain.channels, domain.dtype, split.counts) == (5, 1, "uint8", "5 images")
    assert np.array_equal(domain.load(2)[..., 0], grey()[2])
    write_images(tmp_path / "images", 4, (6, 5), seed=0)
    domain = image(find(tmp_path / "images"))
    assert (len(domain), domain.channels, domain.dtype, domain.size(0)) == (4, 3, "uint8", (5, 6))
    for dtype in ("uint8", "uint16", "float32"):
        for shape in ((3, 4, 5), (3, 4, 5, 2)):
            array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
            for data in (array, list(array)):
                domain = image(find(data))
                assert (len(domain), domain.channels, domain.dtype) == (3, 2 if len(shape) == 4 else 1, dtype)
                assert np.array_equal(np.squeeze(domain.load(1)), array[1])
    domain = image(find([np.zeros((4, 6), np.uint8), np.zeros((9, 5), np.uint8)]))
    assert [domain.size(i) for i in range(2)] == [(4, 6), (9, 5)]


def test_grey_images_among_colour_ones_are_read_as_colour(tmp_path):
    folder = write_images(tmp_path / "images", 3, (4, 4), seed=0)
    Image.fromarray(grey()[0]).save(folder / "grey.png")
    opened = open_samples(PLAIN, ImagesConfig(data=str(folder), size=4))
    assert opened.images.notes == ("1 grey image is read as colour.",)
    assert opened.train.channels == {"image": 3} and opened.images.counts == "4 images"
    assert opened.heldout is None and opened.images.held == "" and opened.train.classes == ()


@over(
    "data answer",
    [
        (grey(1), "Domain data has one image to train on; a GAN needs at least two."),
        ([grey()[0], np.zeros((4, 4), np.uint16)], "are of different kinds"),
        ([np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.uint8)], "are of different kinds"),
        (grey()[0], "Array 0 of domain data is uint8 of shape (4,)"),
        (np.zeros((2, 4, 4), complex), "Array 0 of domain data is complex128"),
        (np.zeros((0, 4, 4), np.uint8), "There are no images of domain data."),
        (np.zeros((0, 4, 4, 3), np.uint8), "There are no images of domain data."),
    ],
)
def test_arrays_that_are_refused(data, answer):
    assert answer in refused(DataError, find, data)


def test_files_that_are_refused(tmp_path):
    assert "Give the images with --data" in refused(ConfigError, find)
    nowhere = tmp_path / "nowhere"
    assert refused(DataError, find, nowhere) == f"There is no folder, and no idx file, {nowhere}."
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(DataError, find, tmp_path / "empty")
    folder = write_images(tmp_path / "images", 1, (4, 4), seed=0)
    assert "no folder, and no idx file" in refused(DataError, find, folder / "000.png")
    assert refused(DataError, find, folder) == "Domain data has one image to train on; a GAN needs at least two."
    labels = idx(tmp_path / "train-labels-idx1-ubyte", np.arange(9, dtype=np.uint8))
    text = refused(DataError, find, labels)
    assert "holds labels, not images; give the file of images, such as train-images-idx3-ubyte.gz" in text


def test_a_folder_of_idx_files_names_the_one_to_give(tmp_path):
    for name in ("t10k-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"):
        idx(tmp_path / name, grey())
    text = refused(DataError, find, tmp_path)
    assert (
        f"contains no images except idx files; use one of them: --data {tmp_path / 'train-images-idx3-ubyte.gz'}."
        in text
    )


@over(
    "augment data kind answer",
    [
        ("dihedral", grey(size=4), DataError, "Domain data has 5 images smaller than the 8 px crop"),
        ("strong", np.zeros((3, 8, 8), np.uint32), DataError, "which --augment strong cannot warp"),
        ("flipp", grey(), ConfigError, "Unknown --augment 'flipp'. Did you mean 'flip'?"),
    ],
)
def test_augmentations_that_are_refused(augment, data, kind, answer):
    assert answer in refused(kind, find, data, size=8, augment=augment)


def test_arrays_as_data_of_a_translation_method_are_refused(tmp_path):
    with pytest.raises(Img2ImgError):
        img2img.train("cyclegan", data=np.zeros((4, 32, 32), np.uint8), out=tmp_path / "run", size=32, steps=1)


# Classes.


def labels_by_file(split, part="train"):
    """Return the class of every image file, by its name."""
    domain = getattr(split, part)["image"]
    names = [source.path.name for source in domain.sources]
    return dict(zip(names, (split.classes[label] for label in domain.labels), strict=True))


def write_classes(root, **counts):
    """Write one folder of images per class, named class_NUMBER.png."""
    for name, count in counts.items():
        for path in write_images(root / name, count, (4, 4), seed=len(name)).iterdir():
            path.rename(path.with_name(f"{name}_{path.name}"))
    return root


def test_classes_are_the_top_folders_in_natural_order(tmp_path):
    write_classes(tmp_path / "data", class10=2, class9=3, Class1=1)
    write_images(tmp_path / "data" / "class9" / "deep" / "deeper", 2, (4, 4), seed=9)
    (tmp_path / "data" / ".hidden").mkdir()
    split = find_labelled(tmp_path / "data")
    assert split.classes == ("Class1", "class9", "class10")
    assert split.counts == "8 images of 3 classes" and split.heldout is None
    assert all(name.startswith(label) or (label == "class9") for name, label in labels_by_file(split).items())
    assert sorted(image(split).labels) == [0, 1, 1, 1, 1, 1, 2, 2]


def test_classes_of_idx_files(tmp_path):
    labels = np.array([7, 1, 7, 1, 3], np.uint8)
    for images, beside in (
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        ("a-images.idx3-ubyte.gz", "a-labels.idx1-ubyte"),
        ("b-images-idx3-ubyte", "b-labels-idx1-ubyte.gz"),
    ):
        path = idx(tmp_path / images, grey())
        assert f"{path} has no file of labels beside it, such as " in refused(ConfigError, find_labelled, path)
        idx(tmp_path / beside, labels)
        split = find_labelled(path)
        assert split.classes == ("1", "3", "7") and image(split).labels == (2, 0, 2, 0, 1)
    named = idx(tmp_path / "mine.idx", labels[::-1].copy())
    assert image(find_labelled(path, named)).labels == (1, 0, 2, 0, 2)


def test_classes_of_arrays():
    for labels, classes, indices in (
        ([10, 9, 9, 10, 2], ("2", "9", "10"), (2, 1, 1, 2, 0)),
        (np.array([1, 0, 0, 1, 1]), ("0", "1"), (1, 0, 0, 1, 1)),
        (torch.tensor([1, 0, 0, 1, 1]), ("0", "1"), (1, 0, 0, 1, 1)),
        (np.array(["b", "a", "a", "b", "b"]), ("a", "b"), (1, 0, 0, 1, 1)),
        (["cat", "dog", "cat", "cat", "dog"], ("cat", "dog"), (0, 1, 0, 0, 1)),
        ((np.int64(3), torch.tensor(4), 3, 3, 4), ("3", "4"), (0, 1, 0, 0, 1)),
    ):
        split = find_labelled(grey(), labels)
        assert (split.classes, image(split).labels) == (classes, indices)


def test_classes_of_a_table(tmp_path):
    write_classes(tmp_path / "data", x=2, y=2)
    table = tmp_path / "labels.csv"
    table.write_text(
        "\ufefffile,quality, Label \nx/x_000.png,1,cat\n./x/x_001.png,2,dog\r\n"
        'y\\y_000.png,3,"dog"\n\ny/y_001.png,4,cat\nz/1.png,5,bird\n',
        encoding="utf-8",
    )
    split = find_labelled(tmp_path / "data", table)
    assert labels_by_file(split) == {"x_000.png": "cat", "x_001.png": "dog", "y_000.png": "dog", "y_001.png": "cat"}
    assert split.classes == ("cat", "dog")
    assert split.notes == (f"1 row of {table} is of images that are not used.",)
    inside = table.rename(tmp_path / "data" / "labels.csv")
    (tmp_path / "data" / "other.csv").touch()
    assert find_labelled(tmp_path / "data", inside).notes[0] == "1 file was skipped: 1 .csv."


TABLES = {
    "empty": ("", "has to name the columns file and label, separated by commas; it is ''"),
    "semicolons": ("file;label\nx/x_000.png;cat\n", "it is 'file;label'"),
    "twice the column": ("file,label,label\nx,y,z\n", "has to name the columns file and label"),
    "no label": ("file,label\nx/x_000.png\n", "Line 2 of "),
    "empty label": ("file,label\nx/x_000.png,\n", "is not a file and its label"),
    "comma in a name": ("file,label\nx,1.png,cat\n", "names with commas have to be quoted"),
    "two labels": ("file,label\nx/x_000.png,cat\nx/x_000.png,dog\n", "gives x/x_000.png two labels: cat and dog."),
    "not text": (b"\xff\xfe\x00", "cannot be read as a CSV"),
    "open quote": ('file,label\n"x', "cannot be read as a CSV"),
    "incomplete": ("file,label\nx/x_000.png,cat\n", "3 images have no row in "),
    "one class": (
        "".join(["file,label\n", *(f"{c}/{c}_00{i}.png,cat\n" for c in "xy" for i in range(2))]),
        "has only the class cat; this method needs at least two.",
    ),
}


def test_tables_that_are_refused(tmp_path):
    write_classes(tmp_path / "data", x=2, y=2)
    wrong = {}
    for name, (content, answer) in TABLES.items():
        table = tmp_path / "labels.csv"
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
        text = refused(DataError, find_labelled, tmp_path / "data", table)
        if answer not in text:
            wrong[name] = text
    assert wrong == {}
    missing = tmp_path / "missing.csv"
    text = refused(DataError, find_labelled, tmp_path / "data", missing)
    assert text == f"There is no file of labels {missing}."


def test_labels_that_are_refused(tmp_path):
    data = write_classes(tmp_path / "data", x=2, y=2)
    one = write_classes(tmp_path / "one", x=3)
    loose = write_classes(tmp_path / "loose", x=2, y=2)
    write_images(loose, 6, (4, 4), seed=1)
    empty = write_classes(tmp_path / "empty", x=2, y=2)
    (empty / "z").mkdir()
    images = idx(tmp_path / "train-images-idx3-ubyte", grey())
    short = idx(tmp_path / "short.idx", np.arange(3, dtype=np.uint8))
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n")
    wrong = {}
    for kind, arguments, answer in (
        (DataError, (one,), "one has only the class x; this method needs at least two."),
        (DataError, (loose,), "6 images lie in no class folder: "),
        (DataError, (empty,), f"1 class folder holds no image: {empty / 'z'}. Add images or remove it."),
        (DataError, (grey(), [0, 1]), "data has 5 images and 2 labels; there has to be one for each image."),
        (DataError, (images, short), "has 5 images and 3 labels"),
        (DataError, (images, images), "does not hold labels; give a file such as train-labels-idx1-ubyte.gz."),
        (DataError, (grey(), [0, 0, 0, 0, 0]), "data has only the class 0; this method needs at least two."),
        (DataError, (grey(), [0, 1.5, 0, 1, 1]), "labels[1] is 1.5; labels are whole numbers or text"),
        (DataError, (grey(), [True, False, True, True, True]), "labels[0] is True"),
        (DataError, (grey(), 3), "labels is a file, or one label per image, not int."),
        (ConfigError, (grey(),), "This method needs the class of every image; give labels=, one per image."),
        (ConfigError, (None, [0, 1]), "Give the images with --data: a folder of images or an idx file. Labels"),
        (ConfigError, (None, table), "Labels alone are not enough."),
        (ConfigError, (data, [0, 1, 0, 1]), "are its sub-folders, or --labels FILE.csv, not a list."),
        (ConfigError, (data, short), "are its sub-folders, or --labels FILE.csv, not a list."),
        (ConfigError, (images, table), "A CSV of labels names files in a folder"),
    ):
        text = refused(kind, find_labelled, *arguments)
        if answer not in text:
            wrong[answer] = text
    assert wrong == {}
    both = LabelledConfig(size=4, labels=str(short))
    text = refused(ConfigError, find_domains, LABELLED, both, data=grey(), labels=[0, 1, 0, 1, 0])
    assert text == "Give labels once, as a file or as a list."
    text = refused(ConfigError, find_domains, PLAIN, ImagesConfig(size=4), data=grey(), labels=[0, 1, 0, 1, 0])
    assert text == "This method does not use labels; leave them out."


def test_labels_are_part_of_what_tells_data_apart():
    one, other, none = (
        image(find_labelled(grey(), [0, 1, 0, 1, 1])),
        image(find_labelled(grey(), [0, 1, 1, 1, 1])),
        image(find(grey())),
    )
    assert one.identity() != other.identity()
    assert none.identity() == {key: value for key, value in one.identity().items() if key != "labels"}


# Held out.


def test_val_fraction_holds_images_and_their_labels_out():
    labels = [0, 1] * 5
    config = LabelledConfig(size=4, val_fraction=0.3)
    opened = open_samples(LABELLED, config, data=grey(10), labels=labels)
    train, heldout = opened.train.domains["image"], opened.heldout.domains["image"]
    assert (len(train), len(heldout), opened.images.counts, opened.images.held) == (7, 3, "7 images of 2 classes", "3")
    known = {x.tobytes(): label for x, label in zip(grey(10), labels, strict=True)}
    for domain in (train, heldout):
        assert [known[domain.load(i).tobytes()] for i in range(len(domain))] == list(domain.labels)
    sample = opened.heldout[1]
    assert sample["label"] == heldout.labels[1] and sample["label"].dtype == torch.int64
    assert opened.heldout.labels == heldout.labels and opened.heldout.classes == ("0", "1")
    assert heldout.evenly(2).labels == (heldout.labels[0], heldout.labels[2])
    plain = open_samples(PLAIN, ImagesConfig(size=4, val_fraction=0.3), data=grey(10))
    assert (len(plain.train), len(plain.heldout), plain.heldout[0].keys()) == (7, 3, {"image"})
    assert torch.equal(plain.heldout[1]["image"], sample["image"])


def test_val_fractions_that_are_refused():
    assert "--val-fraction 0.9 of the 5 images of domain data leaves too few." in refused(
        ConfigError, find, grey(), val_fraction=0.9
    )
    labels = ["rare", *["other"] * 9]
    texts = []
    for i in range(10):
        try:
            find_labelled(grey(10), labels[-i:] + labels[:-i], val_fraction=0.3)
        except ConfigError as error:
            texts.append(str(error))
    assert texts == ["--val-fraction 0.3 leaves no image of rare to train on; use a smaller share."] * 3


@over(part=["val", "test"])
def test_a_root_of_train_and_a_held_out_part(tmp_path, part):
    write_images(tmp_path / "train" / "deep", 4, (4, 4), seed=0)
    write_images(tmp_path / "train", 1, (4, 4), seed=1)
    write_images(tmp_path / part, 2, (4, 4), seed=2)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "readme.txt").touch()
    split = find(tmp_path, val_fraction=0.5)
    assert [len(domains["image"]) for domains in (split.train, split.heldout)] == [5, 2]
    assert split.notes == ("--val-fraction is ignored because the data set has a held-out part.",)
    write_images(tmp_path / "val", 3, (4, 4), seed=3)  # of both, val is held out
    assert len(find(tmp_path).heldout["image"]) == 3
    write_images(tmp_path / "more", 3, (4, 4), seed=3)  # images beside the parts: one collection
    split = find(tmp_path)
    assert split.heldout is None
    assert (
        f"{tmp_path} is used as a whole: its folders train and val are not a training and a held-out part."
        in split.notes
    )


def test_a_root_of_train_and_a_held_out_part_of_classes(tmp_path):
    write_classes(tmp_path / "train", cat=3, dog=2)
    write_classes(tmp_path / "test", dog=2)
    split = find_labelled(tmp_path)
    assert split.classes == ("cat", "dog")
    assert set(labels_by_file(split, "heldout").values()) == {"dog"}
    table = tmp_path / "labels.csv"
    files = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.png"))]
    table.write_text("\n".join(["file,label", *(f"{file},{i % 2}" for i, file in enumerate(files))]))
    split = find_labelled(tmp_path, table)
    assert split.heldout["image"].labels == (0, 1) and image(split).labels == (0, 1, 0, 1, 0)
    write_classes(tmp_path / "test", bird=2)
    text = refused(DataError, find_labelled, tmp_path)
    assert text == "Held-out images have a class that no training image has: bird."


def test_classes_called_train_and_test(tmp_path):
    """Folders of such names are classes where images lie directly in `train`, or where there are other classes."""
    two = write_classes(tmp_path / "two", train=3, test=2)
    assert find_labelled(two).classes == ("test", "train") and find_labelled(two).heldout is None
    assert find(two).heldout is not None
    three = write_classes(tmp_path / "three", train=3, test=2, car=2)
    write_images(three / "train" / "steam", 2, (4, 4), seed=0)
    assert find_labelled(three).classes == ("car", "test", "train") and find(three).heldout is None
    write_images(two / "train" / "steam", 2, (4, 4), seed=0)
    assert "holds images both directly and in sub-folders, so it is unclear" in refused(DataError, find_labelled, two)


def test_held_out_images_of_another_kind_are_refused(tmp_path):
    write_images(tmp_path / "train", 3, (4, 4), seed=0)
    (tmp_path / "val").mkdir()
    Image.fromarray(grey()[0].astype(np.uint16)).save(tmp_path / "val" / "deep.png")
    assert "The held-out images of domain data" in refused(DataError, find, tmp_path)


# Samples.


def samples_of(images, seed=0, labels=None, **options):
    needs, group = (PLAIN, ImagesConfig) if labels is None else (LABELLED, LabelledConfig)
    arrays = {"data": images} | ({} if labels is None else {"labels": labels})
    return open_samples(needs, group(**{"size": 4} | options), seed, **arrays).train


@over(augment=["none", "standard", "dihedral"])
def test_a_sample_is_a_function_of_the_seed_and_its_number(augment):
    data = grey(6, size=5)
    first, second, other = (samples_of(data, seed, augment=augment) for seed in (0, 0, 1))
    numbers = [11, 0, 7, 3, 100]
    a = {n: first[n]["image"] for n in numbers}
    assert all(torch.equal(second[n]["image"], a[n]) for n in reversed(numbers))
    assert any(not torch.equal(other[n]["image"], a[n]) for n in numbers)
    assert torch.equal(pickle.loads(pickle.dumps(first))[7]["image"], a[7])
    assert all(x.shape == (1, 4, 4) and x.min() >= -1 and x.max() <= 1 for x in a.values())


def test_an_epoch_shows_every_image_once_with_its_label():
    data = np.arange(7, dtype=np.uint8).repeat(16).reshape(7, 4, 4) * 30
    labels = [0, 1, 1, 1, 1, 1, 1]  # classes are not balanced
    for augment in ("none", "flip"):
        samples, orders = samples_of(data, labels=labels, augment=augment), []
        for epoch in range(3):
            batch = samples.fetch(range(epoch * 7, epoch * 7 + 7))
            values = ((batch["image"].mean((1, 2, 3)) + 1) * 127.5 / 30).round().int().tolist()
            assert sorted(values) == list(range(7)) and batch["label"].dtype == torch.int64
            assert batch["label"].tolist() == [labels[i] for i in values]
            one = samples[epoch * 7 + 3]
            assert one["label"].shape == () and one["label"] == batch["label"][3]
            orders.append(tuple(values))
        assert len(set(orders)) == 3 and len(samples) == 7


def test_balanced_classes_take_turns_and_each_shows_every_image_before_any_again():
    labels = [0, 0, 0, 0, 0, 1, 1, 2]
    images = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((8, 4, 4, 1), np.uint8)
    needs = Needs(labels=True, balanced=True)
    train = open_samples(needs, LabelledConfig(size=4), seed=3, data=images, labels=labels).train
    batch = train.fetch(range(45))
    assert batch["label"].tolist() == [0, 1, 2] * 15 and len(train) == 8
    shown = [int(train.scales["image"].decode(x)[0, 0, 0]) for x in batch["image"]]
    assert [labels[i] for i in shown] == [0, 1, 2] * 15
    for start in (0, 5, 10):
        assert sorted(shown[0::3][start : start + 5]) == [0, 1, 2, 3, 4]
    assert len({tuple(shown[0::3][start : start + 5]) for start in (0, 5, 10)}) > 1
    assert torch.equal(train[31]["image"], batch["image"][31])


def test_labels_change_no_image_and_travel_through_the_stream():
    plain, labelled = samples_of(grey(6)), samples_of(grey(6), labels=[0, 1, 0, 1, 0, 1])
    for x, y in zip(stream(plain, 1, 5, 2), stream(labelled, 1, 5, 2), strict=True):
        assert torch.equal(x["image"], y["image"]) and y["label"].shape == (2,) and "label" not in x


def test_three_domains_paired_or_not_with_labels():
    images = {key: grey(6, 5, seed) for seed, key in enumerate(("x", "y", "z"))}
    for paired in (True, False):
        domains = {key: Domain.of(key, [*x[..., None]]) for key, x in images.items()}
        domains["y"] = domains["x"] if paired else domains["y"].select(range(4))
        domains["x"] = domains["x"].__class__(**vars(domains["x"]) | {"labels": (0, 1, 0, 1, 0, 1)})
        data = Samples(domains, ImagesConfig(size=4, augment="dihedral"), paired, ("even", "odd"))
        batch = data.fetch(range(6))
        assert {key: x.shape for key, x in batch.items()} == dict.fromkeys("xyz", (6, 1, 4, 4)) | {"label": (6,)}
        assert batch["label"].sum() == 3
        assert torch.equal(batch["x"], batch["y"]) == paired


def test_images_are_resized():
    for size in (2, 4, 9):
        assert samples_of([grey()[0], grey(size=6)[0]], size=size)[0]["image"].shape == (1, size, size)


def test_pixels_of_images_that_fit_are_kept():
    data = grey()
    samples = samples_of(data)
    found = {tuple(samples.scales["image"].decode(samples[i]["image"]).ravel().tolist()) for i in range(5)}
    assert found == {tuple(x.ravel().tolist()) for x in data}


@over("dtype low high", [("uint8", 0, 255), ("uint16", 7, 40000), ("float32", -2.5, 3.0)])
def test_scales(dtype, low, high):
    data = np.full((3, 4, 4), low, dtype)
    data[1, 2, 3] = high
    samples = samples_of(data)
    scale = samples.scales["image"]
    assert (scale.low, scale.high, scale.dtype) == (low, high, dtype) and samples.channels == {"image": 1}


def test_images_that_do_not_fit_into_memory_are_read_each_time(tmp_path):
    folder = str(write_images(tmp_path / "images", 3, (4, 4), seed=0))
    kept, read = (open_samples(PLAIN, ImagesConfig(data=folder, size=4, cache_mb=mb)).train for mb in (64, 0))
    assert kept.cached and not read.cached
    assert all(torch.equal(kept[i]["image"], read[i]["image"]) for i in range(6))
