"""Collections of images: idx files, folders and arrays, and the samples made of them."""

import gzip
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import refused, write_images
from img2img.data.collection import Images, ImagesConfig, open_images
from PIL import Image

import img2img
from img2img.core.method import Method
from img2img.data.idx import is_idx, read_idx
from img2img.data.opening import LAYOUTS
from img2img.errors import ConfigError, DataError, Img2ImgError
from img2img.methods import METHODS

CODES = {"uint8": (0x08, "u1"), "float32": (0x0D, ">f4"), "float64": (0x0E, ">f8")}


def header(shape, code=0x08):
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def idx_bytes(array):
    code, stored = CODES[array.dtype.name]
    return header(array.shape, code) + array.astype(stored).tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def grey(n=5, size=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


# idx.


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"])
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (2, 4, 5, 3)])
def test_idx_round_trip(name, dtype, shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    path = write(tmp_path / name, idx_bytes(array))
    read = read_idx(path)
    assert is_idx(path)
    assert read.dtype == array.dtype and read.dtype.isnative
    assert np.array_equal(read, array)


def test_what_is_an_idx_file(tmp_path):
    assert is_idx(write(tmp_path / "Digits.IDX", b""))
    assert not is_idx(write(tmp_path / "digits.bin", b""))
    assert not is_idx(tmp_path / "missing-idx3-ubyte")
    (tmp_path / "idx").mkdir()
    assert not is_idx(tmp_path / "idx")


PROMISES = r"is damaged: \d+ of \d+ bytes|says that it holds \d+ MiB, over 100 times its own size; unpack it first"
DAMAGED = {
    "empty": (b"", "cannot be read as an idx file"),
    "two bytes": (b"\0\0", "cannot be read as an idx file"),
    "cut in the header": (header((5, 4, 4))[:9], "cannot be read as an idx file|is not an idx file"),
    "cut after an axis": (header((5, 4, 4))[:12], "is not an idx file of bytes or floats"),
    "cut in the pixels": (idx_bytes(grey())[:-3], "is damaged: 77 of 80 bytes are there"),
    "no pixels": (header((5, 4, 4)), "is damaged: 0 of 80 bytes are there"),
    "a picture": (b"\x89PNG\r\n\x1a\n" * 8, "is not an idx file of bytes or floats"),
    "16 bit": (header((5, 4, 4), 0x0B) + bytes(160), "is not an idx file of bytes or floats"),
    "no axes": (header(()), "is not an idx file of bytes or floats"),
    "five axes": (header((1, 1, 1, 1, 1)) + b"\0", "is not an idx file of bytes or floats"),
    "promises too much": (header((60000, 4000, 4000)) + bytes(80), PROMISES),
    "promises beyond 64 bits": (header((2**32 - 1,) * 4), PROMISES),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("content", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_idx_files(content, reason, suffix, tmp_path):
    path = write(tmp_path / f"idx{suffix}", content)
    with pytest.raises(DataError, match=reason):
        read_idx(path)
    assert str(path) in refused(DataError, open_images, ImagesConfig(data=str(path), size=4))


@pytest.mark.parametrize(
    "cut",
    [
        *(3, 20, -40),
        -8,
    ],
)
def test_a_cut_gzip_file(cut, tmp_path):
    path = tmp_path / "idx.gz"
    path.write_bytes(gzip.compress(idx_bytes(grey()))[:cut])
    assert "cannot be read as an idx file" in refused(DataError, read_idx, path)


def test_a_damaged_gzip_file(tmp_path):
    path, content = tmp_path / "idx.gz", bytearray(gzip.compress(idx_bytes(grey())))
    content[20:40] = bytes(20)
    path.write_bytes(content)
    assert "cannot be read as an idx file" in refused(DataError, read_idx, path)
    path.write_bytes(idx_bytes(grey()))  # plain, under the name of a packed one
    assert "cannot be read as an idx file" in refused(DataError, read_idx, path)


# Which images.


def test_images_of_an_idx_file(tmp_path):
    path = write(tmp_path / "train-images-idx3-ubyte.gz", idx_bytes(grey()))
    domain = open_images(ImagesConfig(data=str(path), size=4))
    assert (len(domain), domain.channels, domain.dtype) == (5, 1, "uint8")
    assert np.array_equal(domain.load(2)[..., 0], grey()[2])


def test_images_of_a_folder(tmp_path):
    write_images(tmp_path / "images", 4, (6, 5), seed=0)
    domain = open_images(ImagesConfig(data=str(tmp_path / "images"), size=4))
    assert (len(domain), domain.channels, domain.dtype, domain.size(0)) == (4, 3, "uint8", (5, 6))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 2)])
def test_images_of_arrays(shape, dtype):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    for data in (array, list(array)):
        domain = open_images(ImagesConfig(size=4), data)
        assert (len(domain), domain.channels, domain.dtype) == (3, 2 if len(shape) == 4 else 1, dtype)
        assert np.array_equal(np.squeeze(domain.load(1)), array[1])


def test_arrays_of_several_sizes():
    domain = open_images(ImagesConfig(size=4), [np.zeros((4, 6), np.uint8), np.zeros((9, 5), np.uint8)])
    assert [domain.size(i) for i in range(2)] == [(4, 6), (9, 5)]


def test_grey_images_among_colour_ones_are_read_as_colour(tmp_path):
    folder = write_images(tmp_path / "images", 3, (4, 4), seed=0)
    Image.fromarray(grey()[0]).save(folder / "grey.png")
    opened = LAYOUTS["images"].open(ImagesConfig(data=str(folder), size=4), False, 0, False)
    assert opened.notes == ("1 grey image is read as colour.",)
    assert opened.train.channels == {"image": 3} and opened.counts == "4 images"
    assert opened.heldout is None and opened.held == ""


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (grey(1), "A GAN needs at least two images to train on; there are 1."),
        ([grey()[0], np.zeros((4, 4), np.uint16)], "are of different kinds"),
        ([np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.uint8)], "are of different kinds"),
        (grey()[0], "Array 0 of domain data is uint8 of shape (4,)"),
        (np.zeros((2, 4, 4), complex), "Array 0 of domain data is complex128"),
    ],
    ids=["one", "types", "channels", "one image", "complex"],
)
def test_arrays_that_are_refused(data, answer):
    assert answer in refused(DataError, open_images, ImagesConfig(size=4), data)


def test_one_file_is_refused(tmp_path):
    folder = write_images(tmp_path / "images", 1, (4, 4), seed=0)
    text = refused(DataError, open_images, ImagesConfig(data=str(folder), size=4))
    assert text == "A GAN needs at least two images to train on; there are 1."


def test_labels_given_for_images(tmp_path):
    path = write(tmp_path / "train-labels-idx1-ubyte", idx_bytes(np.arange(9, dtype=np.uint8)))
    text = refused(DataError, open_images, ImagesConfig(data=str(path)))
    assert "holds labels, not images; give the file of images, as train-images-idx3-ubyte.gz" in text


@pytest.mark.parametrize("shape", [(0, 4, 4), (0, 4, 4, 3)])
def test_no_images_at_all(shape):
    text = refused(DataError, open_images, ImagesConfig(size=4), np.zeros(shape, np.uint8))
    assert "are of different kinds" not in text


def test_where_the_images_are(tmp_path):
    assert "Say where the images are: --data" in refused(ConfigError, open_images, ImagesConfig())
    missing = tmp_path / "nowhere"
    text = refused(DataError, open_images, ImagesConfig(data=str(missing)))
    assert text == f"There is no folder, and no idx file, {missing}."
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(DataError, open_images, ImagesConfig(data=str(tmp_path / "empty")))
    picture = tmp_path / "one.png"
    Image.fromarray(grey()[0]).save(picture)
    assert "no folder, and no idx file" in refused(DataError, open_images, ImagesConfig(data=str(picture)))


@pytest.mark.parametrize(
    ("augment", "data", "kind", "answer"),
    [
        ("dihedral", grey(size=4), DataError, "Domain data has 5 images smaller than the 8 px crop"),
        ("strong", np.zeros((3, 8, 8), np.uint32), DataError, "which --augment strong cannot warp"),
        ("flipp", grey(), ConfigError, "Unknown --augment 'flipp'. Did you mean 'flip'?"),
    ],
    ids=["small", "unwarpable", "unknown"],
)
def test_augmentations_that_are_refused(augment, data, kind, answer):
    assert answer in refused(kind, lambda: open_images(ImagesConfig(size=8, augment=augment), data))


def test_arrays_as_data_of_a_translation_method_are_refused(tmp_path):
    with pytest.raises(Img2ImgError):
        img2img.train("cyclegan", data=np.zeros((4, 32, 32), np.uint8), out=tmp_path / "run", size=32, steps=1)


# Samples.


def samples_of(images, seed=0, **options):
    config = ImagesConfig(**{"size": 4} | options)
    return Images(open_images(config, images), config, seed)


@pytest.mark.parametrize("augment", ["none", "standard", "dihedral"])
def test_a_sample_is_a_function_of_the_seed_and_its_number(augment):
    data = grey(6, size=5)
    first, second, other = (samples_of(data, seed, augment=augment) for seed in (0, 0, 1))
    numbers = [11, 0, 7, 3, 100]
    a = {n: first[n]["image"] for n in numbers}
    assert all(torch.equal(second[n]["image"], a[n]) for n in reversed(numbers))
    assert any(not torch.equal(other[n]["image"], a[n]) for n in numbers)
    assert torch.equal(pickle.loads(pickle.dumps(first))[7]["image"], a[7])
    assert all(x.shape == (1, 4, 4) and x.min() >= -1 and x.max() <= 1 for x in a.values())


def test_an_epoch_shows_every_image_once():
    data = np.arange(7, dtype=np.uint8).repeat(16).reshape(7, 4, 4) * 30
    samples, orders = samples_of(data), []
    for epoch in range(3):
        values = [round((samples[epoch * 7 + i]["image"].mean().item() + 1) * 127.5 / 30) for i in range(7)]
        assert sorted(values) == list(range(7))
        orders.append(tuple(values))
    assert len(set(orders)) == 3 and len(samples) == 7


@pytest.mark.parametrize("size", [2, 4, 9])
def test_images_are_resized(size):
    assert samples_of([grey()[0], grey(size=6)[0]], size=size)[0]["image"].shape == (1, size, size)


def test_pixels_of_images_that_fit_are_kept():
    data = grey()
    samples = samples_of(data)
    found = {tuple(samples.scales["image"].decode(samples[i]["image"]).ravel().tolist()) for i in range(5)}
    assert found == {tuple(image.ravel().tolist()) for image in data}


@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("uint16", 7, 40000), ("float32", -2.5, 3.0)])
def test_scales(dtype, low, high):
    data = np.full((3, 4, 4), low, dtype)
    data[1, 2, 3] = high
    samples = samples_of(data)
    assert parts_of(samples.scales["image"]) == (low, high, dtype) and samples.channels == {"image": 1}


def parts_of(scale):
    return scale.low, scale.high, scale.dtype


def test_images_that_do_not_fit_into_memory_are_read_each_time(tmp_path):
    folder = str(write_images(tmp_path / "images", 3, (4, 4), seed=0))
    kept, read = samples_of(None, data=folder), samples_of(None, data=folder, cache_mb=0)
    assert kept.cached and not read.cached
    assert all(torch.equal(kept[i]["image"], read[i]["image"]) for i in range(6))


def test_every_method_has_a_layout():
    assert {method.layout for method in METHODS.values()} <= set(LAYOUTS)
    assert all(issubclass(method, Method) for method in METHODS.values())


def test_a_folder_of_idx_files_names_the_one_to_give(tmp_path):
    for name in ("t10k-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"):
        write(tmp_path / name, idx_bytes(grey()))
    text = refused(DataError, open_images, ImagesConfig(data=str(tmp_path), size=4))
    assert f"holds no image but idx files; give one: --data {tmp_path / 'train-images-idx3-ubyte.gz'}." in text


def test_an_idx_bomb_takes_no_memory(tmp_path):
    path, part = tmp_path / "x-idx3-ubyte.gz", bytes(2**20)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header((2**9, 2**10, 2**10)))
        for _ in range(2**9):
            file.write(part)
    tracemalloc.start()
    try:
        assert "says that it holds 512 MiB, over 100 times its own size" in refused(DataError, read_idx, path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_an_idx_file_is_in_memory_once(tmp_path):
    path, array = tmp_path / "x-idx3-ubyte", np.zeros((2**4, 2**10, 2**10), np.uint8)
    path.write_bytes(idx_bytes(array))
    tracemalloc.start()
    try:
        read = read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * array.nbytes
    finally:
        tracemalloc.stop()
    assert np.array_equal(read, array)
