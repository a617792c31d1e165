"""The result of a large image as OME-Zarr, written block by block into the store that it becomes.

A block consists of whole chunks, or shards, along Z and T too, so that none is written twice. Beside the store lies a
mark for each block that is finished. When all are, each level is made from the one before it, region by region, and the
store becomes the result.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from img2img.data import levels
from img2img.data.blocks import Blocks, Place
from img2img.data.levels import Size
from img2img.data.ome_metadata import AXES
from img2img.data.ome_zarr import LEVELS, Opened, layout_of
from img2img.data.picture import Array
from img2img.data.regions import Regions, Span
from img2img.data.zarr import ZarrArray, array_like, create_array
from img2img.data.zarr_layout import Layout, document, group_of, like
from img2img.errors import DataError, first_line, quote
from img2img.runtime.files import atomic, move_folder, sync

HELD = 2**27  # values that a block may hold
REDUCED = 2**20  # values of a level that are made at once


@dataclass(frozen=True)
class ZarrForm:
    """How a result is stored.

    Attributes:
        layout: of an image like it.
        sizes: length of each of t, c, z, y and x.
        dtype: of the values.
        lost: what the result does not keep of the original.
    """

    layout: Layout
    sizes: dict[str, int]
    dtype: str
    lost: tuple[str, ...]

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.sizes["y"], self.sizes["x"]

    @property
    def nbytes(self) -> int:
        """Bytes of the image and its levels without compression."""
        return sum(map(math.prod, self.layout.shapes_of(self.sizes).values())) * np.dtype(self.dtype).itemsize

    @cached_property
    def documents(self) -> dict[str, dict[str, Any]]:
        """The metadata of each level, by its path."""
        shapes = self.layout.shapes_of(self.sizes)
        return {path: document(self.layout.levels[path], shape, self.dtype) for path, shape in shapes.items()}

    @cached_property
    def units(self) -> dict[str, int]:
        """Length along each axis of what is written at once: a chunk, or a shard."""
        path, known = next(iter(self.documents.items()))
        unit = unit_of(array_like(Path(path), known))
        return dict.fromkeys("tz", 1) | dict(zip(self.layout.letters, unit, strict=True))

    @property
    def space(self) -> int:
        """Bytes that are needed at least; 0 if they are not known, because chunks are compressed."""
        known = next(iter(self.documents.values()))
        names = {codec["name"] for codec in known.get("codecs", ())}
        packed = known["compressor"] if "compressor" in known else names - {"bytes", "transpose", "crc32c"}
        return 0 if packed else self.nbytes


@dataclass(frozen=True)
class ZarrBlocks(Blocks):
    """The blocks of a result that is OME-Zarr."""

    form: ZarrForm  # type: ignore[assignment]
    suffix: ClassVar[str] = ".done"

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The pages of each block at a place: those that share chunks."""
        spans = [_spans(self.form.sizes[axis], self.form.units[axis]) for axis in "tz"]
        return [
            tuple(t * self.form.sizes["z"] + z for t in range(*times) for z in range(*planes))
            for times, planes in product(*spans)
        ]

    @property
    def store(self) -> Path:
        """The folder that becomes the result."""
        return self.folder / "store"

    def write(self, place: Place, array: Array) -> None:
        """Write a block (H, W, C), or (P, H, W, C) of all its pages; it counts when it is complete."""
        pages, sizes = self.pages(place), self.form.sizes
        first, last = divmod(pages[0], sizes["z"]), divmod(pages[-1], sizes["z"])
        spans = {axis: (a, b + 1) for axis, a, b in zip("tz", first, last, strict=True)} | {"c": (0, sizes["c"])}
        spans |= zip("yx", self.spans(place), strict=True)
        values = array.reshape(*(b - a for a, b in (spans[axis] for axis in "tzyxc"))).transpose(0, 4, 1, 2, 3)
        where = [slice(*spans[axis]) for axis in AXES if axis in self.form.layout.letters]
        path, known = next(iter(self.form.documents.items()))
        with fitting(self.target):
            put(self.store / path, create_array(self.store / path, known), where, values)
        with atomic(self.path(place), durable=True):
            pass

    def assemble(self) -> None:
        """Make the levels and the metadata of the image of which all blocks are finished, and let it appear."""
        for before, path in pairwise(self.form.documents):
            with fitting(self.target):
                self._reduce(before, path)
        for name, content in group_of(self.form.layout, self.form.sizes["c"], self.form.dtype, self._limits).items():
            (self.store / name).write_text(json.dumps(content, indent=4), encoding="utf-8")
        for leftover in self.store.rglob("*.partial"):  # of a process that was killed while zarr wrote
            leftover.unlink()
        move_folder(self.store, self.target)

    def _reduce(self, before: str, path: str) -> None:
        """Make a level from the one before it."""
        source, target = ZarrArray.open(self.store / before, by_region=True), self.store / path
        array = create_array(target, self.form.documents[path])
        edges = [levels.blocks(n, m) for n, m in zip(source.shape, array.shape, strict=True)]
        unit = unit_of(array)
        for where in product(*map(_spans, array.shape, _several(unit, REDUCED // math.prod(unit[:-2])))):
            cuts = [edge[a : b + 1] for edge, (a, b) in zip(edges, where, strict=True)]
            values = source.part([slice(int(cut[0]), int(cut[-1])) for cut in cuts])
            part = levels.means(values, [cut - cut[0] for cut in cuts])
            put(target, array, [slice(*span) for span in where], part)

    def _limits(self) -> tuple[float, float]:
        """Return the smallest and the largest value."""
        array = ZarrArray.open(self.store / next(iter(self.form.documents)), by_region=True)
        spans = map(_spans, array.shape, _several(array.chunks, REDUCED // math.prod(array.chunks[:-2])))
        parts = (array.part([slice(*span) for span in where]) for where in product(*spans))
        found = [(part.min(), part.max()) for part in parts]
        return float(min(low for low, _ in found)), float(max(high for _, high in found))


def zarr_blocks(slide: Regions, source: Path, target: Path, channels: int, dtype: str, edge: int) -> ZarrBlocks:
    """Return the blocks of the result of an image: like it if it is OME-Zarr, or else a new image of 0.4.

    Raises:
        DataError: if a result like the original cannot be written, or its chunks are too large.
    """
    given = layout_of(source, slide.layout, by_region=True) if isinstance(slide.layout, Opened) else None
    axes = {axis.lower(): n for axis, n in slide.stated.axes}
    sizes = dict.fromkeys(AXES, 1) | axes | {"c": channels, "y": slide.height, "x": slide.width}
    layout = like(given, sizes, slide.stated)
    lost = [what for what in slide.stated.lost if what != LEVELS]
    if given and not (layout is given and given.complete):
        lost.append(LEVELS)
    form = ZarrForm(layout, sizes, dtype, tuple(lost))
    with fitting(target):
        depth = form.units["t"] * form.units["z"] * channels
        edge = min(edge, math.isqrt(HELD // depth))
        size = _several((form.units["y"], form.units["x"]), edge * edge)
        group_of(layout, channels, dtype, lambda: (0, 1))
    if math.prod(size) * depth > 2 * HELD:
        raise DataError(
            f"{quote(source)} has chunks of {tuple(form.units.values())}, too large to write a part of; write it again "
            "in chunks of e.g. 1024x1024."
        )
    return ZarrBlocks(source, target, form, (size[0], size[1]))


@contextmanager
def fitting(target: Path) -> Iterator[None]:
    """Raise a DataError where the metadata of an original, which may be of any kind, do not fit its result."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{quote(target)} cannot be written: the metadata of its original does not fit ({first_line(error)}); "
            "write another format."
        ) from error


def put(folder: Path, array: Any, where: Sequence[slice], values: Array) -> None:
    """Write a part of an array in `folder`, down to the disk."""
    array[tuple(where)] = values.reshape([s.stop - s.start for s in where])
    spans = (range(s.start // n, -(-s.stop // n)) for s, n in zip(where, unit_of(array), strict=True))
    for number in product(*spans):
        sync(folder / array.metadata.encode_chunk_key(number))


def unit_of(array: Any) -> tuple[int, ...]:
    """Return the shape of what is written at once: a shard, or a chunk."""
    return tuple(array.shards or array.chunks)


def _several(unit: Sequence[int], pixels: int) -> list[int]:
    """Return the shape of several units whose height and width are about those of a square of `pixels`."""
    edge = math.isqrt(max(pixels, 1))
    return [*unit[:-2], *(n * max(1, round(edge / n)) for n in unit[-2:])]


def _spans(length: int, step: int) -> list[Span]:
    return [(i, min(i + step, length)) for i in range(0, length, step)]
