"""The images and label images of a table, each read when it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.images import read_header, read_image
from img2img.data.picture import Array, Picture
from img2img.errors import DataError, quote
from img2img.lab.lazy import LazyImages


class TableImages(LazyImages):
    """The images of a manifest; errors name their files."""

    what = "The table"

    def __init__(self, manifest: Any) -> None:
        super().__init__(len(manifest), manifest.read)
        self.manifest = manifest

    @property
    def names(self) -> list[str]:
        names: list[str] = self.manifest.channels
        return names

    @property
    def channels(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.manifest.dtype
        return dtype

    def called(self, i: int) -> str:
        """Return what errors call image `i`."""
        return quote(self.manifest.files[i][0])


@dataclass(frozen=True)
class Contents:
    """The files of a row, their numbers of channels, and their type, which all rows share."""

    files: tuple[Path, ...]
    channels: list[int]
    dtype: str

    def check(self, files: Sequence[Path], pictures: Sequence[Picture]) -> None:
        """Raise DataError if the files of another row differ in them, or from each other in size."""
        height, width = pictures[0].array.shape[:2]
        for path, picture, expected, other in zip(files, pictures, self.channels, self.files, strict=True):
            (h, w, count), dtype = picture.array.shape, str(picture.array.dtype)
            if dtype != self.dtype:
                raise DataError(
                    f"{quote(path)} holds {dtype} values, but {quote(self.files[0])} holds {self.dtype}; "
                    "give all images as they came from the camera."
                )
            if count != expected:
                raise DataError(
                    f"{quote(path)} has {count} channels, but {quote(other)} has {expected}; give every row the same."
                )
            if (h, w) != (height, width):
                raise DataError(
                    f"{quote(path)} is {w}x{h}, but {quote(files[0])} is {width}x{height}; the files of a row are the "
                    "channels of one image, so give them one size."
                )


def joined(pictures: list[Picture], into: Array | None = None) -> Array:
    """Return the files of one row as one image (C, H, W); in the array `into`, if it has the shape and the type."""
    planes = [picture.array.transpose(2, 0, 1) for picture in pictures]
    shape = (sum(map(len, planes)), *planes[0].shape[1:])
    fits = into is not None and (into.shape, into.dtype) == (shape, planes[0].dtype)
    return np.concatenate(planes, out=into if fits else None)


def read_labels(path: Path, image: Path) -> Array:
    """Read the labels (H, W) of an image.

    Raises:
        DataError: unless they are one channel of integers, of the image's size.
    """
    array = read_image(path, pages="channels").array
    height, width, channels = array.shape
    if channels != 1 or array.dtype.kind not in "ui":
        fault = f"has {channels} channels" if channels != 1 else f"holds {array.dtype} values"
        raise DataError(f"{quote(path)} {fault}; a label image has one channel of integers, 0 for background.")
    header = read_header(image, pages="channels")
    if (height, width) != (header.height, header.width):
        raise DataError(
            f"{quote(path)} is {width}x{height}, but its image {quote(image)} is {header.width}x{header.height}; "
            "give labels of the image's size."
        )
    return array[..., 0]
