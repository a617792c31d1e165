"""Tables of images, in the format of CellProfiler's LoadData and pycytominer.

One row is one image: `FileName_<Channel>` for each of its files, `PathName_<Channel>` if a file does not lie in the
root, `Metadata_<Name>` for what is known of it. A table is a CSV file (or .tsv), a DataFrame, or a folder with one
subfolder per batch. A CSV file is read as text, so that plate 007 stays plate 007.

**Control wells** are a true/false column, or a comparison such as "Metadata_Treatment == 'DMSO'" (see `expressions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from img2img.data.images import read_header, read_image
from img2img.data.picture import Array, Picture
from img2img.errors import ConfigError, DataError, choose, quote
from img2img.lab.checks import check_batch, check_type
from img2img.lab.lazy import LazyImages
from img2img.lab.tables.columns import (
    control_of,
    file_columns,
    files_of,
    names_of,
    paths_of,
    selected,
    slashed,
    wells_of,
)
from img2img.lab.tables.expressions import missing_entries
from img2img.lab.tables.folders import BATCHES, METADATA, first_of, read_table, table_of_folder, tidy


@dataclass(eq=False)
class Manifest:
    """An opened table of images: the files of every row, and what is known of it.

    Attributes:
        frame: the selected rows of the table.
        root: the folder that file names are relative to.
        columns: the names of the FileName_ columns, without that prefix.
        files: the files of every row, in the order of `columns`.
        originals: every file that the table names, including rows and columns that were not selected.
        batch: the batch of every row.
        control: whether each row is a control (n,), or None.
        group: what must not be split (wells), for every row.
        label: the label of every row, or None.
        kept: the columns that are repeated in the table of results.
        table: the file of the table, or None.
    """

    frame: Any
    root: Path
    columns: list[str]
    files: list[tuple[Path, ...]]
    originals: list[Path]
    batch: list[str]
    control: Array | None
    group: list[str]
    label: list[str] | None
    kept: list[str]
    table: Path | None = None

    @classmethod
    def open(
        cls,
        table: Any,
        root: str | Path | None = None,
        batch: str | None = None,
        control: str | Sequence[bool] | Array | None = None,
        group: str | None = None,
        label: str | None = None,
        channels: Sequence[str] | None = None,
        where: str | None = None,
    ) -> "Manifest":
        """Open a table; no image is read yet, and nothing in the table is executed.

        Args:
            table: a DataFrame, the path of a CSV file, or a folder with one subfolder per batch.
            root: folder that file names are relative to; by default that of the CSV file.
            batch: column of the batches; by default Metadata_Batch, or else Metadata_Plate.
            control: a true/false column, a comparison such as "Metadata_treatment == 'DMSO'", or a mask of the rows.
            group: column of the groups; by default the wells of each plate (Metadata_Plate, or else the batch, with
                Metadata_Well); without wells each row is its own group.
            label: column of what must be kept, such as a treatment.
            channels: the channels to read, in this order; by default every FileName_ column.
            where: a comparison, as for controls; only rows for which it is true are used, and counted from 0.

        Raises:
            ConfigError: if a column does not exist, or no row is a control or selected.
            DataError: if the table cannot be read, has no rows, or lacks entries.
        """
        path = Path(table) if isinstance(table, str | Path) else None
        if path is not None and path.is_dir():
            root = root or path
            table, path = table_of_folder(path), None
        elif path is not None:
            table = read_table(path)
        elif not isinstance(table, pd.DataFrame):
            raise ConfigError(
                f"A table must be a DataFrame, or the path of a CSV file or folder, not {type(table).__name__}."
            )
        frame = tidy(table, "The table" if path is None else quote(path))
        root = Path(root or (path.parent if path else "."))
        if not root.is_dir():
            raise DataError(f"The folder of the table's files, {quote(root)}, does not exist.")
        columns = file_columns(frame, channels)
        originals = [paths_of(frame, column, root) for column in file_columns(frame, None)]
        if where is not None:
            frame, control = selected(frame, where, control)
        files = files_of(frame, columns, root)
        known = {name: name for name in frame.columns}
        batch = choose("column", batch, known) if batch else next((name for name in BATCHES if name in known), None)
        if batch is None:
            raise ConfigError(
                f"The table has neither {BATCHES[0]} nor {BATCHES[1]}; name the column of the batches, one of "
                f"{', '.join(known)}."
            )
        batches = check_batch(frame[batch].tolist(), len(frame), batch)
        used = [choose("column", name, known) for name in (batch, group, label) if name]
        return cls(
            frame=frame,
            root=root,
            columns=columns,
            files=files,
            originals=[path for column in originals for path in column],
            batch=batches,
            control=control_of(frame, control),
            group=check_batch(frame[group].tolist(), len(frame), "group") if group else wells_of(frame, batches, files),
            label=check_batch(frame[label].tolist(), len(frame), label) if label else None,
            kept=[name for name in known if name.startswith(METADATA) or name in used],
            table=path,
        )

    def __len__(self) -> int:
        return len(self.files)

    @property
    def images(self) -> "_Images":
        """The images (C, H, W), each read when it is asked for."""
        return _Images(self)

    @cached_property
    def _first(self) -> "_Contents":
        """The contents of the first row that can be read; the others must have the same."""
        failed: DataError | None = None
        for row in self.files:
            try:
                headers = [read_header(path, pages="channels") for path in row]
            except DataError as error:
                failed = failed or error
            else:
                check_type(headers[0].dtype, quote(row[0]))
                return _Contents(row, [header.channels for header in headers], headers[0].dtype)
        assert failed is not None
        raise DataError(f"None of the {len(self)} rows can be read; the first error: {failed}") from failed

    @property
    def readable(self) -> bool:
        """Tell whether any row can be read."""
        try:
            return bool(self._first.files)
        except DataError:
            return False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the images."""
        return np.dtype(self._first.dtype)

    @cached_property
    def channels(self) -> list[str]:
        """The names of the channels; see `columns.names_of`."""
        return names_of(self.columns, self._first.channels, self._first.files[0])

    def pictures(self, i: int) -> list[Picture]:
        """Read the files of row `i`.

        Raises:
            DataError: if one cannot be read, or its type, size or number of channels differs from the others.
        """
        row = self.files[i]
        pictures = [read_image(path, pages="channels") for path in row]
        first = self._first
        height, width = pictures[0].array.shape[:2]
        for path, picture, expected, other in zip(row, pictures, first.channels, first.files, strict=True):
            (h, w, count), dtype = picture.array.shape, str(picture.array.dtype)
            if dtype != first.dtype:
                raise DataError(
                    f"{quote(path)} holds {dtype} values, but {quote(first.files[0])} holds {first.dtype}; "
                    "give all images as they came from the camera."
                )
            if count != expected:
                raise DataError(
                    f"{quote(path)} has {count} channels, but {quote(other)} has {expected}; give every row the same."
                )
            if (h, w) != (height, width):
                raise DataError(
                    f"{quote(path)} is {w}x{h}, but {quote(row[0])} is {width}x{height}; the files of a row are the "
                    "channels of one image, so give them one size."
                )
        return pictures

    def read(self, i: int) -> Array:
        """Read image `i` (C, H, W), in the files' own type; raises the errors of `pictures`."""
        return joined(self.pictures(i))

    def masks(self, column: str) -> Sequence[Array]:
        """Return the label images (H, W) of the rows, each read when it is asked for.

        Args:
            column: column of their file names, relative to the root.

        Raises:
            ConfigError: if there is no such column.
            DataError: if a row has none; and on reading, if one does not hold one channel of integers, or its size
                differs from its image's.
        """
        names = self.frame[choose("column", column, {name: name for name in self.frame.columns})]
        if (lacking := missing_entries(names)).any():
            rows = first_of([f"row {i}" for i in np.flatnonzero(lacking)])
            raise DataError(
                f"{column} names no label image in {rows}; fill it in, or leave these rows out with where=."
            )
        paths = [self.root / slashed(name) for name in names]
        return LazyImages(len(paths), lambda i: _read_mask(paths[i], self.files[i][0]))


@dataclass(frozen=True)
class _Contents:
    """Files, their numbers of channels, and their type."""

    files: tuple[Path, ...]
    channels: list[int]
    dtype: str


class _Images(LazyImages):
    """The images of a manifest; errors name their files."""

    what = "The table"

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(len(manifest), manifest.read)
        self.manifest = manifest

    @property
    def names(self) -> list[str]:
        return self.manifest.channels

    @property
    def channels(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.manifest.dtype

    def called(self, i: int) -> str:
        """Return what errors call image `i`."""
        return quote(self.manifest.files[i][0])


def joined(pictures: list[Picture], into: Array | None = None) -> Array:
    """Return the files of one row as one image (C, H, W); in the array `into`, if it has the shape and the type."""
    planes = [picture.array.transpose(2, 0, 1) for picture in pictures]
    shape = (sum(map(len, planes)), *planes[0].shape[1:])
    fits = into is not None and (into.shape, into.dtype) == (shape, planes[0].dtype)
    return np.concatenate(planes, out=into if fits else None)


def _read_mask(path: Path, image: Path) -> Array:
    """Read the labels (H, W) of an image."""
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
