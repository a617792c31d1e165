"""Tables of images, in the format of CellProfiler's LoadData and pycytominer.

One row is one image: `FileName_<Channel>` for each of its files, `PathName_<Channel>` if a file does not lie in the
root, `Metadata_<Name>` for what is known of it. A table is a file (CSV, Parquet, Excel, SQLite; see `formats`), a
DataFrame or AnnData, or a folder with one subfolder per batch. A CSV file is read as text, so that plate 007 stays 007.

**Control wells** are a true/false column, or a comparison such as "Metadata_Treatment == 'DMSO'" (see `expressions`).
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from img2img.data.inbox import brought, stored
from img2img.data.options import MAX_PIXELS
from img2img.data.picture import Array, Picture
from img2img.data.shards import WHOLE, Shard
from img2img.errors import ConfigError, DataError, choose, is_url, listed, quote
from img2img.lab import options as o
from img2img.lab.checks import check_batch, check_type
from img2img.lab.large import LargeImage
from img2img.lab.lazy import LazyImages
from img2img.lab.tables.agreement import Agreement
from img2img.lab.tables.columns import (
    batches_of,
    channels_of,
    chosen_channels,
    control_of,
    files_of,
    given_names,
    groups_of,
    labels_of,
    names_in,
    names_of,
    present,
    selected,
)
from img2img.lab.tables.folders import FILE, METADATA
from img2img.lab.tables.images import Contents, TableImages, joined, read_labels, read_row, row_headers
from img2img.lab.tables.paths import Places, local, moves_of, places_of
from img2img.lab.tables.sources import opened


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
        agreement: what the files must have in common.
        batch_column: the column of the batches.
        places: where the files of the table are.
        notes: what a user should know about how the table was read.
        tables: the files of the table; none if it is a folder of images, or in memory.
        max_pixels: the largest image that is held whole.
        shard: the part of the table that its rows are.
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
    agreement: Agreement
    batch_column: str
    places: Places
    notes: list[str]
    tables: list[Path] = field(default_factory=list)
    max_pixels: int = MAX_PIXELS
    shard: Shard = WHOLE

    @classmethod
    def open(
        cls,
        table: Any,
        root: str | Path | None = None,
        batch: str | None = None,
        control: str | Sequence[bool] | Array | None = None,
        group: str | None = None,
        label: str | None = None,
        channels: Sequence[str] | str | None = None,
        where: str | None = None,
        pages: o.Pages = "error",
        metadata: o.Metadata = "error",
        map: Sequence[str] | Mapping[str, Any] | str | None = None,
        file_column: str | None = None,
        channel_column: str | None = None,
        missing: o.Missing = "error",
        shard: str | None = None,
        max_megapixels: o.MaxMegapixels = o.MAX_MEGAPIXELS,
    ) -> "Manifest":
        """Open a table; no image is read yet, and nothing in the table is executed.

        Args:
            table: a DataFrame or AnnData; the path of a file, or its URL in a store; table.sqlite::Image or
                table.xlsx::Sheet for one of its tables; a folder with one subfolder of images per batch; or a table in
                several files, such as a Parquet folder, or a pattern like "*/load_data.csv".
            root: folder that file names are relative to, or its URL in a store, by default that of the table; given, a
                folder also stands for absolute folders of the table that do not exist here.
            batch: column of the batches; by default Metadata_Batch, or else Metadata_Plate.
            control: a true/false column, a comparison such as "Metadata_treatment == 'DMSO'", or a mask of the rows.
            group: column of the groups; by default the wells of each plate (Metadata_Plate, or else the batch, with
                Metadata_Well); without wells each row is its own group.
            label: column of what must be kept, such as a treatment.
            channels: the channels to read, in this order, such as DNA,ER; by default every FileName_ column except
                FileName_Illum<Channel>, the illumination functions of CellProfiler.
            where: a comparison, as for controls; only rows for which it is true are used, and counted from 0.
            pages: files with several images, such as planes of Z or series: "error", or "channels" to make each one.
            metadata: files that state other channels or another size of pixels: "error", or "ignore" what they state.
            map: OLD=NEW, where the folder OLD of the table is on this machine; can be repeated.
            file_column: column of the files, if its name does not begin with FileName_.
            channel_column: column of the channels, for a table with one row per file instead of one per image.
            missing: rows with a file that is not there: "error" when it is read, or "skip" to leave them out and count
                them.
            shard: process only one of several parts of the rows, e.g. 2/8; which, follows from file names alone, so
                machines can share a table.
            max_megapixels: images above this are not held, but read and written by region, which TIFF and OME-Zarr
                allow; slides always are.

        Raises:
            ConfigError: if a column does not exist, or no row is a control or selected.
            DataError: if the table cannot be read, has no rows, or lacks entries.
        """
        table, root = local(table), local(root)
        source = opened(table, file_column, channel_column, root is not None)
        frame, base = source.frame, Path(root or source.root)
        if is_url(base):
            stored(base)  # refuses one that cannot be opened
        elif not base.is_dir():
            raise DataError(f"The folder of the table's files, {quote(base)}, does not exist.")
        known, more = (source.channels, []) if source.channels else channels_of(frame)
        names = list(dict.fromkeys(name for c in _all_channels(frame) for name in names_in(frame, c) if name))
        in_files = known == ["Image"]  # whose names are known once a file is read
        columns = known if channels is None or in_files else chosen_channels(_all_channels(frame), channels)
        if not len(frame):
            raise DataError("The table has no rows; give a row for each image.")
        places, moved = places_of(names, base, moves_of(map), root is not None)
        if where is not None:
            frame, control = selected(frame, where, control)
        files = files_of(frame, columns, places)
        column, batches, choice = batches_of(frame, batch)
        used = [choose("column", name, list(frame.columns)) for name in (column, group, label) if name]
        groups, same = groups_of(frame, group, batches, files)
        manifest = cls(
            frame=frame,
            root=base,
            columns=columns,
            files=files,
            originals=[places.path(name) for name in names],
            batch=batches,
            control=control_of(frame, control),
            group=groups,
            label=check_batch(frame[label].tolist(), len(frame), label) if label else None,
            agreement=Agreement(metadata, pages),
            kept=[name for name in frame.columns if name.startswith(METADATA) or name in used],
            batch_column=column,
            places=places,
            notes=[*source.notes, *(more if channels is None else []), *moved, *choice, *same],
            tables=source.files,
            max_pixels=int(max_megapixels * 1e6),
        )
        if choose("value of missing,", missing, ("error", "skip")) == "skip":
            manifest = manifest.of_present_files()
        if shard is not None:
            manifest = manifest.of_shard(Shard.parse(shard))
        return manifest.with_channels(channels) if in_files else manifest

    def __len__(self) -> int:
        return len(self.files)

    def with_channels(self, channels: Sequence[str] | str | None) -> "Manifest":
        """Return the manifest with these channels alone, in this order; unchanged if None.

        Raises:
            ConfigError: if one is unknown.
        """
        if channels is None:
            return self
        if self.columns == ["Image"]:
            if given_names(channels) in (self.columns, self.channels):
                return self
            raise ConfigError(
                f"channels chooses among the columns {FILE}<Channel>, but the only one is {FILE}Image, whose files "
                f"have the channels {', '.join(self.channels)}; leave channels out."
            )
        columns = chosen_channels(_all_channels(self.frame), channels)
        if columns == self.columns:
            return self
        fresh = Agreement(self.agreement.metadata, self.agreement.pages)  # it counts the channels that are read
        return replace(self, columns=columns, files=files_of(self.frame, columns, self.places), agreement=fresh)

    def of_batch(self, name: str) -> "Manifest":
        """Return the manifest with only the controls of one batch, or all its images if no controls are named.

        A table with a single batch is that batch, whatever its name.

        Raises:
            DataError: if there are several batches and none has that name, or it has no controls.
        """
        batches = sorted(set(self.batch))
        if name not in batches and len(batches) > 1:
            raise DataError(f"The table has the batches {listed(batches)} and no {name}; name one of these.")
        mask = np.array([b == name or len(batches) == 1 for b in self.batch])
        if self.control is not None:
            mask &= self.control
        if not mask.any():
            raise DataError(f"Batch {name} has no controls in the table; name those it has.")
        return self.with_rows(mask)

    def of_present_files(self) -> "Manifest":
        """Return the manifest without the rows that have a file that is not there, and a note that counts them.

        Raises:
            DataError: if no row is left, or no control.
        """
        here, notes = present(self.files, self.control)
        return replace(self.with_rows(here), notes=[*self.notes, *notes]) if notes else self

    def of_shard(self, shard: Shard) -> "Manifest":
        """Return the manifest with only the rows of one part, of which there may be none.

        Raises:
            DataError: if two rows share a file, whose result two parts would write.
        """
        counts = Counter(path for row in self.files for path in row)
        if twice := next((path for path, count in counts.items() if count > 1), None):
            raise DataError(f"{quote(twice)} is in several rows, which parts of the table cannot share.")
        names = (Path(os.path.relpath(row[0], self.root)) for row in self.files)
        return replace(self.with_rows(np.array([shard.holds(name) for name in names], bool)), shard=shard)

    def with_rows(self, mask: Array) -> "Manifest":
        """Return the manifest with only the rows (n,) for which the mask is true."""
        rows = np.flatnonzero(mask).tolist()

        def part(values: Any) -> Any:
            return None if values is None else [values[i] for i in rows]

        return replace(
            self,
            frame=self.frame.iloc[rows].reset_index(drop=True),
            files=part(self.files),
            batch=part(self.batch),
            control=None if self.control is None else self.control[rows],
            group=part(self.group),
            label=part(self.label),
        )

    @property
    def images(self) -> TableImages:
        """The images (C, H, W), each read when it is asked for."""
        return TableImages(self)

    @cached_property
    def _first(self) -> Contents:
        """The contents of the first row that can be read; the others must have the same."""
        failed: DataError | None = None
        for row in self.files:
            try:
                with brought(row) as here:
                    headers = row_headers(here, self.max_pixels)
                counts = [header.channels for header in headers]
                self.agreement.check(row, [header.stated for header in headers], counts)
            except DataError as error:
                failed = failed or error
            else:
                check_type(headers[0].dtype, quote(row[0]), of_file=True)
                return Contents(row, counts, headers[0].dtype)
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
        counts = self._first.channels
        return names_of(self.columns, counts, self.agreement.names(sum(counts)))

    def contents(self, i: int, here: Sequence[Path] | None = None) -> list[Picture] | LargeImage:
        """Read the files of row `i`; those above `max_pixels`, and slides, become an image that is read by region.

        `here` are the files on this disk, if they lie in stores and have been brought already.

        Raises:
            DataError: if one cannot be read, or its type, size, channels or size of pixels differ from the others.
        """
        row = self.files[i]
        if here is None:
            with brought(row) as here:
                return self.contents(i, here)
        found, shapes, stated = read_row(here, self.max_pixels)
        if isinstance(found, LargeImage) and any(map(is_url, row)):
            raise DataError(f"{quote(row[0])} has to be read by region, which files on a disk allow; copy it to one.")
        self.agreement.check(row, stated, [shape[2] for shape, _ in shapes])
        self._first.check(row, shapes)
        return found

    def read(self, i: int) -> Array:
        """Read image `i` (C, H, W), in the files' own type; a `LargeImage` if it is read by region.

        Raises:
            DataError: as `contents` does.
        """
        found = self.contents(i)
        return cast(Array, found) if isinstance(found, LargeImage) else joined(found)

    def masks(self, column: str) -> Sequence[Array]:
        """Return the label images (H, W) of the rows, each read when it is asked for.

        Args:
            column: column of their file names, relative to the root.

        Raises:
            ConfigError: if there is no such column.
            DataError: if a row has none; and on reading, if one does not hold one channel of integers, or its size
                differs from its image's.
        """
        paths = labels_of(self.frame, column, self.places)

        def read(i: int) -> Array:
            with brought((paths[i], self.files[i][0])) as here:
                return read_labels(*here)

        return LazyImages(len(paths), read)


def _all_channels(frame: Any) -> list[str]:
    return [name.removeprefix(FILE) for name in frame.columns if name.startswith(FILE)]
