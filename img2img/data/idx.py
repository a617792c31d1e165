"""The idx format of MNIST: a header, then all images as plain bytes; often gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from img2img.data.picture import Array, quote
from img2img.errors import DataError

TYPES = {0x08: "u1", 0x0D: ">f4", 0x0E: ">f8"}  # of those that idx knows, what images are made of
UNPACKED = 2**28  # bytes that a packed file may hold, or as many times its own size
TIMES = 100
PART = 2**24  # bytes read at once


def is_idx(path: Path) -> bool:
    """By the name, as there is no other sign: train-images-idx3-ubyte, with or without .gz."""
    return path.is_file() and "idx" in path.name.lower()


def read_idx(path: Path) -> Array:
    """The array in an idx file: images (N, H, W), or labels (N,).

    Raises:
        DataError: if it is damaged, cut, or not an idx file.
    """
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            zero, kind, axes = np.frombuffer(file.read(4), np.dtype([("", ">u2"), ("", "u1"), ("", "u1")]))[0].item()
            shape = tuple(np.frombuffer(file.read(4 * axes), ">u4").tolist())
            if zero or kind not in TYPES or len(shape) != axes or not 1 <= axes <= 4:
                raise DataError(f"{quote(path)} is not an idx file of bytes or floats.")
            dtype = np.dtype(TYPES[kind])
            size, there = int(np.prod(shape, dtype=object)) * dtype.itemsize, path.stat().st_size
            if packed and size > max(UNPACKED, TIMES * there):
                raise DataError(
                    f"{quote(path)} says that it holds {size / 2**20:.0f} MiB, over {TIMES} times its own size; "
                    "unpack it first, if that is right."
                )
            if not packed and size != (count := there - 4 - 4 * axes):
                raise DataError(_damaged(path, count, size))
            array = np.empty(size, np.uint8)  # takes memory as it is filled
            count = 0
            while count < size and (n := file.readinto(array.data[count : count + PART])):
                count += n
            more = file.read(1)  # to its end, where gzip checks it
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(f"{quote(path)} cannot be read as an idx file: {error or 'it is cut off'}.") from error
    if count != size or more:
        raise DataError(_damaged(path, count + len(more), size))
    return array.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _damaged(path: Path, there: int, size: int) -> str:
    return f"{quote(path)} is damaged: {'more than' if there > size else f'{there} of'} {size} bytes are there."
