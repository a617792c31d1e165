"""Regions of TIFF: each tile or strip is located by its directory, and decoded when a region touches it."""

import itertools
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from img2img.data.descriptions import (
    claimed_pages,
    imagej_names,
    imagej_pixel_size,
    ome_names,
    ome_of,
    ome_pixel_size,
    size_of,
)
from img2img.data.kept import Kept
from img2img.data.picture import MAX_TILE, Array, Stated, known_dtype
from img2img.data.regions import Level, Regions, Span
from img2img.data.tiff import JPEG, MINISBLACK, ORIENTATION, RGB, YCBCR, resolution_of
from img2img.errors import DataError, listed, quote

CENTIMETRE = 3  # the unit of a resolution
APERIO_YCBCR = 33003  # JPEG 2000 whose colours tifffile leaves as they are stored
MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")  # micrometres per pixel in the description of Aperio


@dataclass(frozen=True)
class Layout:
    """The TIFF that a slide was read from, for writing another."""

    tiff: Any
    page: Any  # of the largest level
    axes: str
    subifds: bool  # whether the levels are in SubIFDs of the largest one, rather than beside it


@contextmanager
def open_tiff_regions(path: Path) -> Iterator[Regions]:
    """Open a TIFF: its largest image, with its levels.

    Raises:
        DataError: if it is damaged, or of a kind whose regions cannot be read.
    """
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        root = ome_of(tiff.ome_metadata)
        if root is not None and not claimed_pages(root) <= 2 * tiff.filehandle.size:
            raise DataError(f"{quote(path)} lacks some of the pages it declares; save it again completely.")
        if int(tiff.pages.first.compression) == APERIO_YCBCR:
            from img2img.data.slide_other import open_slide

            with open_slide(path) as regions:
                yield regions
            return
        yield _regions(path, tiff, root)


def _regions(path: Path, tiff: Any, root: Any) -> Regions:
    name, series = quote(path), _largest(quote(path), tiff)
    page, axes = series.keyframe, str(series.axes)
    sizes = dict(zip(axes, series.shape, strict=True))
    paging = [f"{n} {axis}" for axis, n in sizes.items() if axis not in "CSYX" and n > 1]
    if paging or not {"Y", "X"} <= set(axes):
        raise DataError(
            f"{name} has the axes {axes} of shape {tuple(series.shape)}; regions can be read of single images, so save "
            "each page as a file."
        )
    _refuse_colours(name, page)
    levels = [_planes(name, tiff, level, sizes.get("C", 1)) for level in series.levels]
    channels = sizes.get("C", 1) * sizes.get("S", 1)
    known = tuple(Level(*_size(planes[0]), _size(levels[0][0])[0] / _size(planes[0])[0]) for planes in levels)
    for planes in levels:
        for plane in planes:
            _refuse_plane(name, plane, tiff.filehandle.size)
    stated = Stated(*_named(tiff, root, page, channels), lost=_lost(tiff, series))
    tiles = _Tiles(tiff.filehandle)

    def fetch(level: int, rows: Span, columns: Span) -> Array:
        parts = [tiles.read(plane, rows, columns) for plane in levels[level]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    return Regions(
        path=path,
        levels=known,
        channels=channels,
        dtype=known_dtype(path, series.dtype),
        stated=stated,
        tile=_chunk(page),
        compression=getattr(page.compression, "name", str(page.compression)),
        layout=Layout(tiff, page, axes, page.subifds is not None),
        fetch=fetch,
    )


def _largest(name: str, tiff: Any) -> Any:
    """Return the series of the largest image, besides which there may be a label and an overview."""
    series = sorted(tiff.series, key=lambda s: -math.prod(s.shape))
    if not series:
        raise DataError(f"{name} holds no image.")
    if len(series) > 1 and series[1].shape == series[0].shape:
        raise DataError(f"{name} holds several images of {series[0].shape}; save them as separate files.")
    return series[0]


def _planes(name: str, tiff: Any, level: Any, count: int) -> list[Any]:
    """Return the pages that hold the channels of a level."""
    pages = [page for page in level.pages if page is not None]
    if len(pages) != count or len(level.pages) != count:
        raise DataError(f"{name} has {len(pages)} pages for {count} channels; save it again as an OME-TIFF.")
    return pages


def _size(page: Any) -> tuple[int, int]:
    return int(page.keyframe.imagelength), int(page.keyframe.imagewidth)


def _chunk(page: Any) -> tuple[int, int]:
    """Return the height and width of a page's tiles or strips."""
    page, (height, width) = page.keyframe, _size(page)
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), height), width


def _refuse_colours(name: str, page: Any) -> None:
    photometric, compression = int(page.photometric), int(page.compression)
    decoded = photometric in (MINISBLACK, RGB) or (photometric == YCBCR and compression in JPEG)
    if not decoded or page.extrasamples or int(page.bitspersample if isinstance(page.bitspersample, int) else 8) < 8:
        colours = getattr(page.photometric, "name", photometric)
        alpha = " with alpha" if page.extrasamples else ""
        raise DataError(
            f"{name} holds {colours}{alpha} of {page.bitspersample} bits, of which regions cannot be read; save it as "
            "grey or RGB of at least 8 bits."
        )
    if page.tags.valueof(ORIENTATION, 1) != 1:
        raise DataError(f"{name} is stored rotated or mirrored; save it upright to read regions of it.")


def _refuse_plane(name: str, page: Any, size: int) -> None:
    """Refuse a page whose tiles are too large, or are not in the file of `size` bytes."""
    chunk = _chunk(page)
    if math.prod(chunk) > MAX_TILE:
        kind = "tiles" if page.keyframe.is_tiled else "strips"
        raise DataError(
            f"{name} is stored in {kind} of {chunk[1]}x{chunk[0]} pixels, too large to read a region of; save it in "
            "tiles of e.g. 512 pixels."
        )
    if page.keyframe.imagedepth != 1:
        raise DataError(f"{name} is stored in volumes, of which regions cannot be read; save each page as a file.")
    if math.prod(page.chunked) > len(page.dataoffsets):
        raise DataError(f"{name} lacks some of the tiles or strips it declares; save it again completely.")
    if any(a + n > size for a, n in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise DataError(f"{name} is truncated.")


def _named(tiff: Any, root: Any, page: Any, channels: int) -> tuple[tuple[str, ...], tuple[float, float] | None]:
    """Return the names of the channels, and the size of a pixel."""
    if imagej := tiff.imagej_metadata:
        return imagej_names(imagej, channels), imagej_pixel_size(imagej, resolution_of(page)[0])
    if root is not None:
        return ome_names(root, channels), ome_pixel_size(root)
    if found := MPP.search(str(page.description)):
        return (), size_of([float(found[1])])
    resolution, unit = resolution_of(page)
    return (), size_of([1e4 * d / n for n, d in resolution]) if unit == CENTIMETRE else None


def _lost(tiff: Any, series: Any) -> tuple[str, ...]:
    """Return what is not kept: the pictures beside the slide, but for a thumbnail, which is made again."""
    names = [quote(str(other.name)).lower() or "unnamed" for other in tiff.series if other is not series]
    others = [name for name in names if name != "thumbnail"]
    return (f"the pictures beside the slide ({listed(others)})",) if others else ()


class _Tiles:
    """The tiles of a file; those decoded last are kept."""

    def __init__(self, file: Any) -> None:
        self.file, self.lock, self.kept = file, threading.Lock(), Kept()

    def read(self, page: Any, rows: Span, columns: Span) -> Array:
        """Return a region (H, W, S) of a page."""
        key, (high, wide), (height, width) = page.keyframe, _chunk(page), _size(page)
        planes = key.samplesperpixel if int(key.planarconfig) == 2 else 1
        across, down = -(-width // wide), -(-height // high)
        shape = (rows[1] - rows[0], columns[1] - columns[0], key.samplesperpixel)
        out = np.empty(shape, key.dtype.newbyteorder("="))
        grid = (range(rows[0] // high, -(-rows[1] // high)), range(columns[0] // wide, -(-columns[1] // wide)))
        for plane, y, x in itertools.product(range(planes), *grid):
            number = (plane * down + y) * across + x
            tile = self.kept.get((page.offset, number), partial(self._decoded, page, number))
            top, left = y * high, x * wide
            part = tile[max(rows[0] - top, 0) : rows[1] - top, max(columns[0] - left, 0) : columns[1] - left]
            row, column = max(top - rows[0], 0), max(left - columns[0], 0)
            samples = slice(plane, plane + 1) if planes > 1 else slice(None)
            out[row : row + part.shape[0], column : column + part.shape[1], samples] = part
        return out

    def _decoded(self, page: Any, number: int) -> Array:
        with self.lock:
            offset, count = page.dataoffsets[number], page.databytecounts[number]
            self.file.seek(offset)
            data = self.file.read(count) if count else None
        tables = {}
        if int(page.keyframe.compression) in JPEG:
            tables = {"jpegtables": _tables(page), "jpegheader": page.keyframe.jpegheader}
        decoded, _, shape = page.keyframe.decode(data, number, **tables)
        tile = np.full(shape[1:], page.keyframe.nodata, page.keyframe.dtype) if decoded is None else decoded[0]
        return np.asarray(tile)


def _tables(page: Any) -> bytes | None:
    """Return the JPEG tables of a page, or of the page that states what is common to several."""
    tables: bytes | None = getattr(page, "jpegtables", None) or page.keyframe.jpegtables
    return tables
