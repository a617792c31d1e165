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
from typing import Any

from filelock import FileLock, Timeout

from img2img.data.levels import Size
from img2img.data.picture import Array
from img2img.data.regions import Span
from img2img.data.slide_write import Form, assemble, write_block
from img2img.errors import DataError, Img2ImgError, TrainingError, quote
from img2img.runtime.files import json_object, remove_stale, write_json

RECORD, LOCK = "record.json", "lock"

Place = tuple[int, int]  # row and column of a block, in blocks


@dataclass(frozen=True)
class Blocks:
    """The blocks of one result.

    Attributes:
        source, target: the image and its result.
        form: how the result is stored.
        size: height and width of a block, which are multiples of those of a tile.
    """

    source: Path
    target: Path
    form: Form
    size: Size

    @property
    def folder(self) -> Path:
        """The folder of the finished blocks."""
        return self.target.parent / f".{self.target.name}.img2img-blocks"

    @property
    def places(self) -> list[Place]:
        """The blocks, row by row."""
        down, across = (range(-(-n // b)) for n, b in zip(self.form.size, self.size, strict=True))
        return list(product(down, across))

    def spans(self, place: Place) -> tuple[Span, Span]:
        """Return the rows and columns of a block."""
        ends = zip(place, self.size, self.form.size, strict=True)
        rows, columns = ((i * b, min((i + 1) * b, n)) for i, b, n in ends)
        return rows, columns

    def holds(self, place: Place) -> bool:
        """Return whether a block is finished."""
        return self._path(*place).exists()

    def write(self, place: Place, array: Array) -> None:
        """Write a block (H, W, C), whole or not at all."""
        write_block(self._path(*place), array, self.form)

    def _path(self, row: int, column: int) -> Path:
        return self.folder / f"{row}-{column}.tif"

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
            if not any(self.folder.glob("*-*.tif")):
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
                old.unlink()
        write_json(path, record)
        remove_stale(self.folder)
        return mixed

    def _refuse_full_disk(self) -> None:
        free = shutil.disk_usage(self.target.parent).free
        if self.form.page["compression"] is None and free < 2 * self.form.nbytes:
            raise TrainingError(
                f"{quote(self.target)} and its blocks take {2 * self.form.nbytes / 1e9:.1f} GB, and {free / 1e9:.1f} "
                "GB are free; make room, or choose another --out."
            )

    def assemble(self) -> None:
        """Write the result of which all blocks are finished; it appears whole or not at all."""
        assemble(self.target, self.form, self.size, self._path, lambda number: self.folder / f"level-{number}")

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)
