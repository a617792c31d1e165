"""The idx format of MNIST: a header, then all images or labels as plain bytes; often gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from img2img.data.picture import Array
from img2img.errors import DataError, quote

TYPES = {0x08: "u1", 0x0D: ">f4", 0x0E: ">f8"}  # the idx types that images and labels are stored in
UNPACKED = 2**28  # bytes that a packed file may always unpack to
FACTOR = 100  # and how many times its own size, if that is more
CHUNK = 2**24  # bytes read at once


def is_idx(path: Path) -> bool:
    """Tell an idx file by its name, e.g. train-images-idx3-ubyte.gz; there is no other sign."""
    return path.is_file() and "idx" in path.name.lower()


def read_idx(path: Path) -> Array:
    """Return the array in an idx file: images (N, H, W) or (N, H, W, C), or labels (N,).

    Raises:
        DataError: if it is damaged, truncated, or not an idx file.
    """
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            zero, kind, axes = np.frombuffer(file.read(4), np.dtype([("", ">u2"), ("", "u1"), ("", "u1")]))[0].item()
            shape = tuple(np.frombuffer(file.read(4 * axes), ">u4").tolist())
            if zero or kind not in TYPES or len(shape) != axes or not 1 <= axes <= 4:
                raise DataError(f"{quote(path)} is not an idx file of bytes or floats.")
            dtype = np.dtype(TYPES[kind])
            size, file_size = int(np.prod(shape, dtype=object)) * dtype.itemsize, path.stat().st_size
            if packed and size > max(UNPACKED, FACTOR * file_size):
                raise DataError(
                    f"{quote(path)} claims to hold {size / 2**20:.0f} MiB, over {FACTOR} times its own size; "
                    "unpack it first, if that is right."
                )
            if not packed and size != (count := file_size - 4 - 4 * axes):
                raise DataError(_damaged(path, count, size))
            array = np.empty(size, np.uint8)  # takes memory only as it is filled
            count = 0
            while count < size and (n := file.readinto(array.data[count : count + CHUNK])):
                count += n
            more = file.read(1)  # gzip checks its checksum when it reads to the end
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(f"{quote(path)} cannot be read as an idx file: {error or 'it is truncated'}.") from error
    if count != size or more:
        raise DataError(_damaged(path, count + len(more), size))
    return array.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _damaged(path: Path, found: int, expected: int) -> str:
    amount = "more than" if found > expected else f"{found} of"
    return f"{quote(path)} is damaged: {amount} {expected} bytes are there."
