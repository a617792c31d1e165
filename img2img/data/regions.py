"""Regions of images that are too large to be held: whole slides, OME-Zarr, and any TIFF in tiles.

Only the tiles or strips that a region touches are read and decoded, and the last ones that were are kept.
TIFF is read by tifffile, which knows those of Aperio, Hamamatsu, Leica, Ventana and OME. Other formats
of slides are read by OpenSlide, which is the extra `[slides]`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.ome_metadata import is_zarr
from img2img.data.picture import Array, Stated
from img2img.errors import DataError, InputError, quote

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SLIDES = (".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu", ".svslide", ".dcm")  # suffixes besides TIFF's
WRITTEN = (".svs",)  # those that results keep; the result of any other slide is a .tif

Span = tuple[int, int]  # first and one past the last row or column
Fetch = Callable[[int, Span, Span], Array]


@dataclass(frozen=True)
class Level:
    """One of the sizes in which a slide is stored."""

    height: int
    width: int
    downsample: float  # rows of the largest level for each row of this one


@dataclass(frozen=True)
class Regions:
    """An open image.

    Attributes:
        path: of its file.
        levels: from the largest, which is the image, to the smallest.
        channels: of each pixel.
        dtype: type of the values.
        stated: names of the channels, the width and height of a pixel in micrometres, and what results do not keep.
        tile: height and width of the tiles or strips of the largest level.
        compression: the name of the TIFF compression of the largest level, such as "JPEG"; "" in other formats.
        layout: what `slide_write` needs to know to write another file of this kind.
        fetch: reads a region, inside the level.
        pages: the same for each of several planes or time points, all of which are images.
    """

    path: Path
    levels: tuple[Level, ...]
    channels: int
    dtype: str
    stated: Stated
    tile: tuple[int, int]
    compression: str
    layout: Any
    fetch: Fetch
    pages: tuple[Fetch, ...] = ()

    def page(self, number: int) -> "Regions":
        """Return one of its images."""
        return replace(self, fetch=self.pages[number]) if self.pages else self

    @property
    def height(self) -> int:
        """Rows of the image."""
        return self.levels[0].height

    @property
    def width(self) -> int:
        """Columns of the image."""
        return self.levels[0].width

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded image."""
        return self.height * self.width * self.channels * np.dtype(self.dtype).itemsize

    def read(self, rows: Span, columns: Span, level: int = 0) -> Array:
        """Return a region (H, W, C) of a level, in the level's own rows and columns.

        Raises:
            InputError: if the region is empty or not inside the level, or there is no such level.
            DataError: if a tile of it is damaged or missing.
        """
        if not 0 <= level < len(self.levels):
            raise InputError(f"{quote(self.path)} has the levels 0 to {len(self.levels) - 1}, not {level}.")
        size = self.levels[level]
        if not (0 <= rows[0] < rows[1] <= size.height and 0 <= columns[0] < columns[1] <= size.width):
            raise InputError(
                f"The region of rows {rows[0]} to {rows[1]} and columns {columns[0]} to {columns[1]} is not inside "
                f"level {level} of {quote(self.path)}, which is {size.width}x{size.height}."
            )
        try:
            return self.fetch(level, rows, columns)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # decoders raise anything on damaged input
            place = f"near row {rows[0]}, column {columns[0]}" + (f" of level {level}" if level else "")
            if isinstance(error, OSError) and error.strerror:
                raise DataError(f"{quote(self.path)} cannot be read {place}: {error.strerror}.") from error
            raise DataError(f"{quote(self.path)} is damaged: it cannot be decoded {place}.") from error


@contextmanager
def open_regions(path: Path, pages: bool = False) -> Iterator[Regions]:
    """Open an image whose regions can be read; it is closed at the end of the block.

    Args:
        path: a file, or the folder of an image of OME-Zarr.
        pages: whether it may hold several images; a TIFF may not.

    Raises:
        DataError: if the file cannot be read by region, is damaged, or needs a package that is not installed.
    """
    opener = _opener(path, pages)
    stack = opener(path)
    try:
        image = stack.__enter__()
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{quote(path)} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        raise DataError(f"{quote(path)} is damaged: its header cannot be decoded.") from error
    try:
        yield image
    finally:
        stack.__exit__(None, None, None)


def _opener(path: Path, pages: bool) -> Callable[[Path], AbstractContextManager[Regions]]:
    if path.is_dir() and is_zarr(path):
        from img2img.data.zarr_regions import open_zarr_regions

        return partial(open_zarr_regions, pages=pages)
    if not path.is_file():
        raise DataError(
            f"{quote(path)} is not a regular file." if path.exists() else f"There is no file {quote(path)}."
        )
    with path.open("rb") as file:
        start = file.read(4)
    if start in TIFF:
        from img2img.data.slide_tiff import open_tiff_regions

        return open_tiff_regions
    if path.suffix.lower() in SLIDES:
        from img2img.data.slide_other import open_slide

        return open_slide
    raise DataError(
        f"{quote(path)} cannot be read by region: it is neither a TIFF nor a slide ({', '.join(SLIDES)}). Save it as a "
        "TIFF in tiles."
    )
