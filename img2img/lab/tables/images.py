"""The images and label images of a table, each read when it is asked for."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.images import read_header, read_image
from img2img.data.picture import Array, Header, Picture, Stated
from img2img.data.regions import SLIDES, Regions, Span, open_regions
from img2img.data.tissue import sample_of
from img2img.errors import DataError, TooLargeError, quote
from img2img.lab.large import LargeImage, Read
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

    def check(self, files: Sequence[Path], found: Sequence[tuple[tuple[int, ...], str]]) -> None:
        """Raise DataError if the files of another row, each a shape (H, W, C) and type, differ, or in size."""
        height, width = found[0][0][:2]
        for path, ((h, w, count), dtype), expected, other in zip(files, found, self.channels, self.files, strict=True):
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


def row_headers(files: Sequence[Path], max_pixels: int) -> list[Header]:
    """Read the headers of the files of a row, as `read_row` reads their pixels."""
    if not any(map(_is_slide, files)):
        with suppress(TooLargeError):
            return [read_header(path, pages="channels", max_pixels=max_pixels) for path in files]
    return [_region_header(path) for path in files]


def read_row(
    files: Sequence[Path], max_pixels: int
) -> tuple[list[Picture] | LargeImage, list[tuple[tuple[int, ...], str]], list[Stated]]:
    """Read the files of a row; slides, and files of more than `max_pixels`, become an image that is read by region.

    Returns:
        The pictures, or that image; the shape (H, W, C) and the type of each file, and what it states.

    Raises:
        DataError: if one cannot be read.
    """
    if not any(map(_is_slide, files)):
        with suppress(TooLargeError):
            pictures = [read_image(path, pages="channels", max_pixels=max_pixels) for path in files]
            shapes = [(picture.array.shape, str(picture.array.dtype)) for picture in pictures]
            return pictures, shapes, [picture.source.stated for picture in pictures]
    headers = [_region_header(path) for path in files]
    kinds: list[tuple[tuple[int, ...], str]] = [
        ((header.height, header.width, header.channels), header.dtype) for header in headers
    ]
    return large_image(files, headers), kinds, [header.stated for header in headers]


def _is_slide(path: Path) -> bool:
    return path.suffix.lower() in SLIDES


def _region_header(path: Path) -> Header:
    with open_regions(path) as image:
        return Header(path, image.width, image.height, image.channels, image.dtype, 1, image.stated)


def large_image(files: Sequence[Path], headers: Sequence[Header]) -> LargeImage:
    """Return the image (C, H, W) of a row whose files, with these headers, are read by region."""

    @contextmanager
    def opened() -> Iterator[Read]:
        with ExitStack() as stack:
            images = [stack.enter_context(open_regions(path)) for path in files]
            yield lambda rows, columns: region_of(images, rows, columns)

    def sample(count: int, edge: int) -> list[tuple[Span, Span]]:
        with open_regions(files[0]) as image:
            return sample_of(image, count, edge)

    with open_regions(files[0]) as image:
        tile = image.tile
    shape = sum(header.channels for header in headers), headers[0].height, headers[0].width
    return LargeImage(shape, headers[0].dtype, tile, opened, sample)


def region_of(images: Sequence[Regions], rows: Span, columns: Span) -> Array:
    """Return a region (C, h, w) of the files of one row."""
    return np.concatenate([image.read(rows, columns).transpose(2, 0, 1) for image in images])


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
