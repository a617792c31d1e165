"""The idx format: what is read, and what is refused in one sentence and little memory."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from conftest import refused
from helpers import over

from img2img.core.needs import Needs
from img2img.data.finding import find_domains
from img2img.data.idx import is_idx, read_idx
from img2img.data.options import ImagesConfig
from img2img.errors import DataError

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


def test_round_trip(tmp_path):
    wrong = []
    for name in ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"):
        for dtype in CODES:
            for shape in ((7,), (3, 4, 5), (2, 4, 5, 3)):
                array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
                path = write(tmp_path / name, idx_bytes(array))
                read = read_idx(path)
                alike = read.dtype == array.dtype and read.dtype.isnative and np.array_equal(read, array)
                wrong += [] if is_idx(path) and alike else [(name, dtype, shape)]
    assert wrong == []


def test_idx_files_are_told_by_name(tmp_path):
    assert is_idx(write(tmp_path / "Digits.IDX", b""))
    assert not is_idx(write(tmp_path / "digits.bin", b""))
    assert not is_idx(tmp_path / "missing-idx3-ubyte")
    (tmp_path / "idx").mkdir()
    assert not is_idx(tmp_path / "idx")


PROMISES = r"is damaged: \d+ of \d+ bytes|claims to hold \d+ MiB, over 100 times its own size; unpack it first"
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


@over("content reason", DAMAGED.values())
def test_damaged_files(content, reason, tmp_path):
    for suffix in ("", ".gz"):
        path = write(tmp_path / f"idx{suffix}", content)
        with pytest.raises(DataError, match=reason):
            read_idx(path)
        assert str(path) in refused(DataError, find_domains, Needs(), ImagesConfig(data=str(path), size=4))


def test_cut_and_damaged_gzip_files(tmp_path):
    packed = gzip.compress(idx_bytes(grey()))
    plain_named_gz = idx_bytes(grey())
    contents = [packed[:cut] for cut in (3, 20, -40, -8)]
    contents += [packed[:20] + bytes(20) + packed[40:], plain_named_gz]
    path = tmp_path / "idx.gz"
    for content in contents:
        path.write_bytes(content)
        assert "cannot be read as an idx file" in refused(DataError, read_idx, path), content


def test_a_bomb_takes_no_memory(tmp_path):
    path, part = tmp_path / "x-idx3-ubyte.gz", bytes(2**20)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header((2**9, 2**10, 2**10)))
        for _ in range(2**9):
            file.write(part)
    tracemalloc.start()
    try:
        assert "claims to hold 512 MiB, over 100 times its own size" in refused(DataError, read_idx, path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_file_is_in_memory_once(tmp_path):
    path, array = tmp_path / "x-idx3-ubyte", np.zeros((2**4, 2**10, 2**10), np.uint8)
    path.write_bytes(idx_bytes(array))
    tracemalloc.start()
    try:
        read = read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * array.nbytes
    finally:
        tracemalloc.stop()
    assert np.array_equal(read, array)
