"""Writing the result of a slide: finished blocks as small TIFFs, and all of them as one TIFF with its levels.

A block is stored in the tiles, and with the compression, that the result is to have, so the tiles go into the result
as they are. While they do, they are decoded once, for the first level, whose rows wait in a file for the second.
"""

import copy
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from img2img.data.levels import Reducer, Size, whole_factors
from img2img.data.picture import PROFILES, Array
from img2img.data.regions import Regions
from img2img.data.slide_tiff import Layout
from img2img.data.tiff import ICC, JPEG, YCBCR, kept_tags, resolution_of
from img2img.data.tiff_write import CLASSIC_BYTES, DESCRIPTION, LOSSLESS, RESERVED, shape_tags, storage_of
from img2img.errors import DataError, quote
from img2img.runtime.files import atomic

TILE = 512  # of a result whose original has no tiles
UNIT = 16  # that the sides of tiles in a TIFF are multiples of
SUBSAMPLINGS = ((1, 1), (2, 1), (2, 2), (4, 1))  # of the chroma in JPEG, that the writer knows
APERIO = "Aperio"


@dataclass(frozen=True)
class Form:
    """How a result is stored.

    Attributes:
        size: height and width.
        channels, dtype: of the pixels.
        tile: height and width of a tile.
        levels: height and width of each level, and its factor from the one before.
        planes: number of planes that the channels are stored in; 1 if pixels hold all their channels.
        page: options of the writer for every page.
        first: options for the first page, such as its description.
        writer: options for the file.
        nested: whether the levels are in SubIFDs.
        aperio: whether the levels come after a thumbnail, as in the files of Aperio.
        lost: what the result does not keep of the slide.
    """

    size: Size
    channels: int
    dtype: str
    tile: Size
    levels: list[tuple[Size, int]] = field(default_factory=list)
    planes: int = 1
    page: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)
    writer: dict[str, Any] = field(default_factory=dict)
    nested: bool = True
    aperio: bool = False
    lost: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the image without compression."""
        return math.prod(self.size) * self.channels * np.dtype(self.dtype).itemsize

    @property
    def space(self) -> int:
        """Bytes that the result and its blocks need at least; 0 if they are not known, because they are compressed."""
        return 2 * self.nbytes if self.page["compression"] is None else 0

    def stored(self, size: Size) -> tuple[int, ...]:
        """Return the shape of a page, or of the pages, of a size."""
        if self.planes > 1:
            return self.channels, *size
        return (*size, self.channels) if self.channels > 1 else size

    def options(self) -> dict[str, Any]:
        """Return options for a page, which the writer may change."""
        return {"software": False, "contiguous": False, **copy.deepcopy(self.page)}


def form_of(slide: Regions, channels: int, dtype: str, quality: int | None) -> Form:
    """Return the form of a result of a slide, as much like the slide as the pixels allow.

    Tiles, levels, pixel size, descriptions and lossless compression are those of the slide. JPEG stays JPEG, of
    `quality`, if the result has 8 bits and one or three channels; any other compression becomes deflate. Without a
    `quality`, JPEG does too.
    """
    layout = slide.layout if isinstance(slide.layout, Layout) else None
    page = layout.page if layout else None
    same = (channels, dtype) == (slide.channels, slide.dtype)
    tiled = page is not None and page.is_tiled and not any(n % UNIT for n in slide.tile)
    tile = slide.tile if tiled else (TILE, TILE)
    options: dict[str, Any] = {"compression": "deflate", "predictor": True} if page is None else storage_of(page)
    options |= {"tile": tile, "rowsperstrip": None}
    options |= _arrangement(layout if same else None, channels)
    planes = channels if options["planarconfig"] == "separate" or options["photometric"] == "minisblack" else 1
    lossy = int(page.compression) in JPEG if page else slide.compression == "JPEG"
    if lossy and quality is not None and dtype == "uint8" and planes == 1:
        chroma = tuple(page.subsampling or ()) if page and int(page.photometric) == YCBCR else ()
        fits = chroma in SUBSAMPLINGS and not any(n % (8 * max(chroma)) for n in tile)
        options |= {"compression": "jpeg", "compressionargs": {"level": quality}, "predictor": None}
        options |= {"subsampling": chroma if fits else (1, 1)} if channels == 3 else {}
    levels = whole_factors([(level.height, level.width) for level in slide.levels])
    lost = list(slide.stated.lost)
    if (odd := len(slide.levels) - 1 - len(levels)) > 0:
        lost.append(f"{odd} of its levels, which are not smaller by a whole number")
    if slide.compression and page and int(page.compression) not in LOSSLESS and options["compression"] != "jpeg":
        lost.append(f"{slide.compression} compression, which becomes deflate")
    size, nbytes = (slide.height, slide.width), slide.nbytes // slide.channels * channels
    first, ome = _description(slide, layout, channels, same)
    big = nbytes > CLASSIC_BYTES * 2 // 3 or bool(layout and layout.tiff.is_bigtiff)
    return Form(
        size=size,
        channels=channels,
        dtype=dtype,
        tile=tile,
        levels=levels,
        planes=planes,
        page=options,
        first=first,
        writer={"bigtiff": big, "ome": ome, "byteorder": layout.tiff.byteorder if layout else None},
        nested=layout is None or layout.subifds or ome,
        aperio=layout is not None and str(layout.page.description).startswith(APERIO),
        lost=tuple(lost),
    )


def block_size(form: Form, edge: int) -> Size:
    """Return height and width of blocks of whole tiles, of about `edge` pixels."""
    height, width = (tile * max(1, round(edge / tile)) for tile in form.tile)
    return height, width


def _arrangement(layout: Layout | None, channels: int) -> dict[str, Any]:
    """Return how channels are stored: like those of the slide, or as RGB if there are three, or as a page each."""
    axes = layout.axes if layout else "YXS" if channels == 3 else "CYX"
    if "SYX" in axes:
        return {"photometric": "rgb" if channels == 3 else "minisblack", "planarconfig": "separate"}
    return {"photometric": "rgb" if channels == 3 and "C" not in axes else "minisblack", "planarconfig": None}


def _description(slide: Regions, layout: Layout | None, channels: int, same: bool) -> tuple[dict[str, Any], bool]:
    """Return the options that describe the image, and whether the writer is to make a description of OME."""
    width, height = slide.stated.pixel_size or (0, 0)
    if layout is None and slide.layout is not None:  # of OME-Zarr
        return {"metadata": _ome(slide, channels, "YXS" if channels == 3 else "CYX")}, True
    if layout is None:
        known = {"resolution": (1e4 / width, 1e4 / height), "resolutionunit": 3} if width else {}
        return {"metadata": None, **known}, False
    resolution, unit = resolution_of(layout.page)
    icc = layout.page.tags.valueof(ICC)
    options: dict[str, Any] = {"resolution": resolution, "resolutionunit": unit}
    options["iccprofile"] = icc if icc and icc[16:20] == PROFILES.get(channels) else None
    whole = same and len(layout.tiff.series) == 1
    tags, made = kept_tags(layout.page), layout.tiff.is_ome and not whole
    if made or (not same and (layout.tiff.is_imagej or layout.tiff.is_shaped)):
        tags = [tag for tag in tags if tag[0] not in (DESCRIPTION, *RESERVED)]
    options |= {"extratags": [(*tag, True) for tag in tags], "metadata": None}
    if made:
        options["metadata"] = _ome(slide, channels, "YXS" if channels == 3 and "C" not in layout.axes else "CYX")
    return options, made


def _ome(slide: Regions, channels: int, axes: str) -> dict[str, Any]:
    """Return what a description of OME says."""
    names, (width, height) = slide.stated.channels, slide.stated.pixel_size or (0, 0)
    return {
        "axes": axes if channels > 1 else "YX",
        **({"PhysicalSizeX": width, "PhysicalSizeXUnit": "µm"} if width else {}),
        **({"PhysicalSizeY": height, "PhysicalSizeYUnit": "µm"} if width else {}),
        **({"Channel": {"Name": list(names)}} if len(names) == channels else {}),
    }


def planar(array: Array, form: Form) -> Array:
    """Return an array (H, W, C) with its axes in the order in which they are stored."""
    if form.planes > 1:
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array if form.channels > 1 else array[..., 0]


def write_block(path: Path, array: Array, form: Form) -> None:
    """Write a block (H, W, C), whole or not at all."""
    of_block: dict[str, Any] = {"byteorder": form.writer["byteorder"]}
    with atomic(path, durable=True) as temporary, tifffile.TiffWriter(temporary, **of_block) as writer:
        writer.write(planar(array, form), metadata=None, **form.options())


def assemble(path: Path, form: Form, block: Size, at: Callable[[int, int], Path], spool: Callable[[int], Path]) -> None:
    """Write the result of which all blocks are finished; it appears whole or not at all.

    Args:
        path: of the result.
        form: how it is stored.
        block: height and width of a block, which are multiples of those of a tile.
        at: gives the path of a block by its row and column.
        spool: gives the path of a file for the rows of a level.
    """
    kind: dict[str, Any] = {} if form.aperio else {"subfiletype": 1}
    inside: dict[str, Any] = {"subifds": len(form.levels)} if form.nested and form.levels else {}
    with atomic(path, durable=True) as temporary, tifffile.TiffWriter(temporary, **form.writer) as writer:
        tiles = _tiles_of_blocks(form, block, at, spool(0))
        writer.write(tiles, shape=form.stored(form.size), dtype=form.dtype, **inside, **form.first, **form.options())
        tiles.close()
        for number in range(1, len(form.levels)):
            _reduce(form, number, spool)
        if form.aperio and form.levels:
            last = np.fromfile(spool(len(form.levels) - 1), form.dtype)
            thumbnail = form.options() | {"tile": None}
            writer.write(last.reshape(form.stored(form.levels[-1][0])), metadata=None, **thumbnail)
        for number, (size, _) in enumerate(form.levels):
            rows = _tiles_of_level(form, size, spool(number))
            tags = shape_tags(form.first.get("extratags", ()), form.stored(size))
            known: dict[str, Any] = {
                "shape": form.stored(size),
                "dtype": form.dtype,
                "metadata": None,
                "extratags": tags,
            }
            writer.write(rows, **known, **kind, **form.options())
            spool(number).unlink()


def _tiles_of_blocks(
    form: Form, block: Size, at: Callable[[int, int], Path], spool: Path
) -> Generator[Any, None, None]:
    """Yield the tiles of the image, compressed as they are in their blocks; write the first level's rows to `spool`."""
    (height, width), high = form.size, form.tile[0]
    compressed = form.page["compression"] is not None
    with spool.open("wb") as file:
        for plane in range(form.planes):
            reducer = Reducer(form.levels[0][1], form.levels[0][0]) if form.levels else None
            for top in range(0, height, block[0]):
                with ExitStack() as stack:
                    paths = (at(top // block[0], column) for column in range(-(-width // block[1])))
                    pages = [stack.enter_context(_block(path, plane)) for path in paths]
                    for down in range(-(-min(block[0], height - top) // high)):
                        row = [tile for page, first in pages for tile in _row(page, first, down)]
                        if reducer:
                            _append(file, reducer.feed(np.concatenate([pixels for _, pixels in row], axis=1)))
                            _append(file, reducer.end() if top + (down + 1) * high >= height else ())
                        yield from (raw if compressed else pixels for raw, pixels in row)


@contextmanager
def _block(path: Path, plane: int) -> Iterator[tuple[Any, int]]:
    """Open a block; yield the page that holds a plane, and the number of the plane's first tile."""
    with _whole(path):
        tiff = tifffile.TiffFile(path)
    with tiff:
        with _whole(path):
            page: Any = tiff.pages.first
            first = 0
            if int(page.planarconfig) == 2:
                first = plane * math.prod(page.chunked[1:])
            elif plane:
                page = tiff.pages[plane]
        yield page, first


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Raise a DataError where a block turns out to be damaged."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # decoders raise anything on damaged input
        raise DataError(f"{quote(path)} is damaged; delete it, and start the same command again.") from error


def _row(page: Any, first: int, down: int) -> Iterator[tuple[bytes, Array]]:
    """Yield the tiles of one row: their bytes, and their pixels (H, W, S) inside the block."""
    key, file = page.keyframe, page.parent.filehandle
    across = -(-key.imagewidth // key.tilewidth)
    rows = key.imagelength - down * key.tilelength
    for number in range(first + down * across, first + (down + 1) * across):
        file.seek(page.dataoffsets[number])
        raw = file.read(page.databytecounts[number])
        left = (number - first) % across * key.tilewidth
        with _whole(Path(file.path)):
            pixels: Array = key.decode(raw, number)[0][0][:rows, : key.imagewidth - left]
        yield raw, pixels


def _append(file: Any, rows: Iterable[Array]) -> None:
    for part in rows:
        file.write(np.ascontiguousarray(part).tobytes())


def _reduce(form: Form, number: int, spool: Callable[[int], Path]) -> None:
    """Write the rows of a level from those of the one before."""
    (before, _), (size, factor) = form.levels[number - 1], form.levels[number]
    with spool(number).open("wb") as file:
        for plane in range(form.planes):
            reducer = Reducer(factor, size)
            for strip in _strips(form, before, spool(number - 1), plane):
                _append(file, reducer.feed(strip))
            _append(file, reducer.end())


def _strips(form: Form, size: Size, spool: Path, plane: int) -> Iterator[Array]:
    """Yield the rows (N, W, S) of a plane of a level, as many as a tile has."""
    samples = form.channels // form.planes
    values = size[1] * samples
    with spool.open("rb") as file:
        file.seek(plane * size[0] * values * np.dtype(form.dtype).itemsize)
        for top in range(0, size[0], form.tile[0]):
            rows = min(form.tile[0], size[0] - top)
            yield np.fromfile(file, form.dtype, rows * values).reshape(rows, size[1], samples)


def _tiles_of_level(form: Form, size: Size, spool: Path) -> Iterator[Array]:
    """Yield the tiles of a level."""
    wide = form.tile[1]
    for plane in range(form.planes):
        for strip in _strips(form, size, spool, plane):
            for left in range(0, size[1], wide):
                yield np.ascontiguousarray(strip[:, left : left + wide])
