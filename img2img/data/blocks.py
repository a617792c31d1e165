"""Finished blocks of the result of a large image, which wait in a hidden folder beside it until all are there.

A job that was killed continues with the missing blocks. The folder is bound to a record of all that the pixels depend
on, and only one process works in it.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from img2img.data.levels import Size
from img2img.data.picture import Array
from img2img.data.regions import WRITTEN, Regions, Span
from img2img.data.slide_write import Form, assemble, block_size, form_of, write_block
from img2img.errors import DataError, Img2ImgError, TrainingError, install_hint, quote
from img2img.runtime.files import json_object, remove, remove_stale, write_json

RECORD, LOCK = "record.json", "lock"
TIFFS = (".tif", ".tiff")

Place = tuple[int, ...]  # row and column of a block, in blocks; before them, the number of its group of pages


@dataclass(frozen=True)
class Blocks:
    """The blocks of a result that is a TIFF; `ZarrBlocks` are those of OME-Zarr.

    Attributes:
        source, target: the image and its result.
        form: how the result is stored.
        size: height and width of a block, which are multiples of those of a tile.
    """

    source: Path
    target: Path
    form: Form
    size: Size
    suffix: ClassVar[str] = ".tif"  # of the files that stand for finished blocks

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The pages of each block at a place."""
        return [(0,)]

    @property
    def folder(self) -> Path:
        """The folder of the finished blocks."""
        return self.target.parent / f".{self.target.name}.img2img-blocks"

    @property
    def places(self) -> list[Place]:
        """The blocks, row by row."""
        grid = [range(-(-n // b)) for n, b in zip(self.form.size, self.size, strict=True)]
        several = [range(count)] if (count := len(self.groups)) > 1 else []
        return list(product(*several, *grid))

    def pages(self, place: Place) -> tuple[int, ...]:
        """Return the pages of a block."""
        return self.groups[place[0] if len(place) > 2 else 0]

    def spans(self, place: Place) -> tuple[Span, Span]:
        """Return the rows and columns of a block."""
        ends = zip(place[-2:], self.size, self.form.size, strict=True)
        rows, columns = ((i * b, min((i + 1) * b, n)) for i, b, n in ends)
        return rows, columns

    def holds(self, place: Place) -> bool:
        """Return whether a block is finished."""
        return self.path(place).exists()

    def write(self, place: Place, array: Array) -> None:
        """Write a block (H, W, C), whole or not at all."""
        write_block(self.path(place), array, self.form)

    def path(self, place: Place) -> Path:
        """Return the path of the file that there is when a block is finished."""
        return self.folder / ("-".join(map(str, place)) + self.suffix)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it; without a block, it does not stay.

        Raises:
            DataError: if another process works in it.
            TrainingError: if the disk has too little space for a result that is not compressed.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if not self.folder.exists():
            self._refuse_full_disk()
        self.folder.mkdir(exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                yield
        except Timeout as error:
            raise DataError(f"{quote(self.source)} is being worked on by another process.") from error
        except (Img2ImgError, OSError):
            if not any(self.folder.glob(f"[0-9]*-*{self.suffix}")):
                self.remove()
            raise

    def bind(self, record: Mapping[str, Any]) -> bool:
        """Bind the folder to a record of what the pixels depend on; return whether blocks of another were removed."""
        path, record = self.folder / RECORD, {**record, "block": list(self.size)}
        known = json_object(path.read_bytes()) if path.is_file() else {}
        others = [old for old in self.folder.iterdir() if old.name not in (LOCK, RECORD)]
        mixed = known != record and bool(others)
        if mixed:
            for old in others:
                remove(old)
        write_json(path, record)
        remove_stale(self.folder)
        return mixed

    def _refuse_full_disk(self) -> None:
        free = shutil.disk_usage(self.target.parent).free
        if free < self.form.space:
            raise TrainingError(
                f"{quote(self.target)} and its blocks take {self.form.space / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
                "free; make room, or choose another --out."
            )

    def assemble(self) -> None:
        """Write the result of which all blocks are finished; it appears whole or not at all."""
        at = (lambda row, column: self.path((row, column))), (lambda number: self.folder / f"level-{number}")
        assemble(self.target, self.form, self.size, *at)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def blocks_of(
    slide: Regions, source: Path, target: Path, channels: int, dtype: str, quality: int | None, edge: int
) -> Blocks:
    """Return the blocks of the result of a large image, of about `edge` pixels.

    The result is a TIFF if it is named like one, or like a slide, and the original is not a folder; otherwise OME-Zarr.

    Raises:
        DataError: if it cannot be written.
    """
    if target.suffix.lower() not in (*TIFFS, *WRITTEN):
        try:
            from img2img.data.zarr_blocks import zarr_blocks  # imported late: it needs the extra [zarr]
        except ModuleNotFoundError as error:
            raise DataError(install_hint("Writing OME-Zarr", "zarr", "zarr")) from error
        return zarr_blocks(slide, source, target, channels, dtype, edge)
    if slide.pages:
        raise DataError(f"{quote(source)} has several pages, and is written as OME-Zarr alone; leave out --format.")
    form = form_of(slide, channels, dtype, quality)
    return Blocks(source, target, form, block_size(form, edge))
