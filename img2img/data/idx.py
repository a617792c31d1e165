"""The idx format of MNIST: a header, then all images as plain bytes; often gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from img2img.data.picture import Array, shown
from img2img.errors import DataError

TYPES = {0x08: "u1", 0x0D: ">f4", 0x0E: ">f8"}  # of those that idx knows, what images are made of
MOST_BYTES = 2**33  # unpacked: a header can promise more than any memory holds


def is_idx(path: Path) -> bool:
    """By the name, as there is no other sign: train-images-idx3-ubyte, with or without .gz."""
    return path.is_file() and "idx" in path.name.lower()


def read_idx(path: Path) -> Array:
    """The array in an idx file: images (N, H, W), or labels (N,).

    Raises:
        DataError: if it is damaged, cut, or not an idx file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zero, kind, axes = np.frombuffer(file.read(4), np.dtype([("", ">u2"), ("", "u1"), ("", "u1")]))[0].item()
            shape = tuple(np.frombuffer(file.read(4 * axes), ">u4").tolist())
            if zero or kind not in TYPES or len(shape) != axes or not 1 <= axes <= 4:
                raise DataError(f"{shown(path)} is not an idx file of bytes or floats.")
            dtype = np.dtype(TYPES[kind])
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if size > MOST_BYTES:
                raise DataError(f"{shown(path)} says that it holds {size / 2**30:.0f} GiB, more than are read.")
            content = file.read(size + 1)  # to its end, where gzip checks it
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(f"{shown(path)} cannot be read as an idx file: {error or 'it is cut off'}.") from error
    if len(content) != size:
        there = "more than" if len(content) > size else f"{len(content)} of"
        raise DataError(f"{shown(path)} is damaged: {there} {size} bytes are there.")
    return np.frombuffer(content, dtype).astype(dtype.newbyteorder("=")).reshape(shape)
