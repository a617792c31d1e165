"""What a table can be given as, and the frame that it becomes: one row for each image, columns with plain names.

A file, a folder, a DataFrame, an AnnData (its `obs`), or anything with `to_pandas()`. Levels of an index that have a
name become columns, and dates become text as in a CSV file.
"""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from img2img.data.inbox import brought
from img2img.errors import ConfigError, DataError, choose, is_url, quote
from img2img.lab.tables.columns import names_in
from img2img.lab.tables.expressions import missing_entries
from img2img.lab.tables.folders import FILE, FOLDER, METADATA, plates_in, table_of_folder, table_of_plates
from img2img.lab.tables.formats import AMONG, KNOWN, read_file
from img2img.lab.tables.parts import WILDCARDS, joined, matching, tables_in, with_partition
from img2img.lab.tables.paths import joined_names, slashed
from img2img.lab.tables.rows import rows_of

ADDRESS = "URL_"
EXPORTED = "Image_"  # before every column in CellProfiler's exports
NUMBER, OBJECT = "ImageNumber", r"(.*_)?ObjectNumber"  # of CellProfiler's images and objects


def read_table(path: Path) -> Any:
    """Read the table in a file; see `formats.read_file`."""
    return tidy(read_file(path)[0], quote(path))


@dataclass(frozen=True)
class Source:
    """A table as a frame with one row for each image, and where it is from.

    Attributes:
        frame: its rows, with a FileName_ column for each channel.
        channels: the channels that an argument names; none if the FileName_ columns are to be looked at.
        root: the folder that its file names are relative to, unless another is given.
        files: the files of the table; none if it was made from a folder of images, or is in memory.
        notes: what a user should know about how it was read.
    """

    frame: Any
    channels: list[str]
    root: Path
    files: list[Path]
    notes: list[str]


def opened(table: Any, file_column: str | None, channel_column: str | None, has_root: bool) -> Source:
    """Open a table; see `with_files` for the columns.

    Args:
        table: a file; table.sqlite::Name; a folder of images, of OME-Zarr plates or of tables; a pattern such as
            "*/load_data.csv" or "*.zarr"; or a frame.
        file_column: the column of the files.
        channel_column: the column of their channels.
        has_root: whether the caller says what file names are relative to. If not, those in files that match a pattern
            are relative to the folder of each.

    Raises:
        ConfigError: if it is none, or holds several.
        DataError: if it cannot be read, two columns have the same name, or files of one table differ in columns.
    """
    notes: list[str] = []
    named: list[str] = []

    def prepared(frame: Any, what: str) -> Any:
        frame, channels = with_files(_per_image(tidy(frame, what), what, notes), file_column, channel_column)
        named[:] = channels or []
        return frame

    def read(part: Path) -> Any:
        frame, more = read_file(part, sheet)
        notes.extend(more)
        return prepared(frame, quote(part))

    def read_part(part: Path) -> Any:
        frame = with_partition(read(part), part, root)
        return frame if has_root or path.is_dir() else _placed(frame, part.parent.relative_to(root))

    if not isinstance(table, str | Path):
        return Source(prepared(_frame_of(table), "The table"), named, Path(), [], notes)
    if is_url(Path(table)):
        return _from_store(Path(table), file_column, channel_column, has_root)
    text, _, name = str(table).rpartition(AMONG)
    path = Path(text if text and not Path(table).exists() else table)
    sheet = name if path != Path(table) else None
    root, plates, files = _contents(path)
    if sheet is not None and not files:
        raise ConfigError(f"{quote(path)} is not a file; leave out {AMONG}{sheet}.")
    if plates:
        frame = prepared(table_of_plates(root, plates), quote(path))
    elif not files:
        frame = prepared(table_of_folder(root), quote(root))
    else:
        frame = read(path) if files == [path] else joined(files, read_part)
    return Source(frame, named, root, files, notes)


def _from_store(table: Path, file_column: str | None, channel_column: str | None, has_root: bool) -> Source:
    """Open a table that is a file in a store; names in it are relative to its folder there."""
    file = Path(str(table).partition(AMONG)[0])
    with brought([file]) as (here,):
        chosen = str(here) + str(table)[len(str(file)) :]
        return replace(opened(chosen, file_column, channel_column, has_root), root=file.parent, files=[file])


def _contents(path: Path) -> tuple[Path, list[Path], list[Path]]:
    """Return what is at a path: its root, OME-Zarr plates, and files of a table; with neither, a folder of images."""
    if path.is_dir():
        plates = plates_in(path)
        files = [] if plates else tables_in(path)  # a plate has very many files
        return (path.parent if files or plates == [path] else path), plates, files
    if path.exists() or not WILDCARDS.search(str(path)):
        return path.parent, [], [path]
    found, root = matching(path)
    return (root, found, []) if found[0].is_dir() else (root, [], found)


def _frame_of(table: Any) -> Any:
    frame = next((x for x in (table, getattr(table, "obs", None)) if isinstance(x, pd.DataFrame)), None)
    if frame is None and hasattr(table, "to_pandas"):
        frame = table.to_pandas()
    if not isinstance(frame, pd.DataFrame):
        raise ConfigError(f"A table must be a DataFrame, or the path of a file or folder, not {type(table).__name__}.")
    return frame


def _per_image(frame: Any, what: str, notes: list[str]) -> Any:
    """Return a tidy table of CellProfiler's objects as one of their images, which is noted; others as they are."""
    if NUMBER not in frame or not any(re.fullmatch(OBJECT, name) for name in frame.columns):
        return frame
    images = frame[[name for name in frame.columns if name == NUMBER or re.match(KNOWN, name)]]
    images = images.drop_duplicates(ignore_index=True)
    if len(images) < len(frame):
        notes.append(
            f"{what} has a row for each of {len(frame)} objects, which are on {len(images)} images; images without "
            "objects are not in it."
        )
    return images


def _placed(frame: Any, folder: Path) -> Any:
    """Return a table with its file names relative to the folder that `folder` is relative to."""
    inside = "" if folder == Path() else folder.as_posix()
    channels = [name.removeprefix(FILE) for name in frame.columns if name.startswith(FILE)]
    names = {FILE + c: [name and joined_names(inside, name) for name in names_in(frame, c)] for c in channels}
    return frame.drop(columns=[FOLDER + c for c in channels], errors="ignore").assign(**names)


def tidy(frame: Any, what: str) -> Any:
    """Return the frame with rows counted from 0, plain columns with unique names, and dates as text.

    The prefix Image_ of an exported column is left out.
    """
    names = [
        "_".join(str(part) for part in name if part != "") if isinstance(name, tuple) else str(name)
        for name in frame.columns
    ]
    index = {str(name): frame.index.get_level_values(i) for i, name in enumerate(frame.index.names) if name is not None}
    frame = frame.reset_index(drop=True).set_axis(pd.Index(names, dtype=object), axis=1)
    levels = pd.DataFrame({name: list(values) for name, values in index.items() if name not in names})
    frame = pd.concat([levels.astype(object), frame], axis=1) if len(levels.columns) else frame
    shorter = {
        name: name.removeprefix(EXPORTED)
        for name in frame.columns
        if name.startswith(tuple(EXPORTED + prefix for prefix in (FILE, FOLDER, ADDRESS, METADATA)))
    }
    frame.columns = pd.Index(
        [name if shorter.get(name, name) in names else shorter.get(name, name) for name in frame.columns], dtype=object
    )
    if frame.columns.has_duplicates:
        name = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"{what} has two columns called {name}; give each a unique name.")
    return frame.assign(**{name: texts for name in frame if (texts := _dates(frame[name])) is not None})


def _dates(series: Any) -> Any:
    """Return a column of dates as text: days alone if no entry has a time; None if it holds something else."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    entries = series.dropna()
    is_date = pd.api.types.is_datetime64_any_dtype(series.dtype)
    if not is_date and (series.dtype != object or not len(entries) or not isinstance(entries.iloc[0], datetime.date)):
        return None
    times = [pd.Timestamp(entry) for entry in entries]
    days = all(time == time.normalize() for time in times)
    texts = pd.Series([str(time.date() if days else time) for time in times], entries.index, dtype=object)
    return texts.reindex(series.index)


def with_files(frame: Any, file_column: str | None, channel_column: str | None) -> tuple[Any, list[str] | None]:
    """Return the frame with a FileName_ column for each channel, and the channels if they were named by an argument.

    Args:
        frame: a tidy table.
        file_column: the column of the files; by default every FileName_ column, or URL_ column, is a channel.
        channel_column: for a table with one row per file, the column of their channels.

    Raises:
        ConfigError: if a column does not exist.
        DataError: if two files are one channel of an image, or one lacks.
    """
    for name in [name for name in frame.columns if name.startswith(ADDRESS)]:
        channel = name.removeprefix(ADDRESS)
        if FILE + channel not in frame or FOLDER + channel not in frame:
            frame = frame.assign(**{FILE + channel: frame[name]})
    known = {name: name for name in frame.columns}
    if channel_column is not None:
        choose("column", channel_column, known)
        if file_column is None:
            single = [name for name in known if name.startswith(FILE)]
            if len(single) != 1:
                raise ConfigError(
                    f"channel_column={channel_column!r} needs the column of the files: give file_column, one of "
                    f"{', '.join(known)}."
                )
            file_column = single[0]
        return _widened(frame, choose("column", file_column, known), channel_column)
    if file_column is None:
        return frame, None
    column = choose("column", file_column, known)
    channel = column.removeprefix(FILE) if column.startswith(FILE) else "Image"
    return frame.assign(**{FILE + channel: frame[column]}), [channel]


def _widened(frame: Any, file: str, channel: str) -> tuple[Any, list[str]]:
    """Return a table with one row per file as one with a row per image, a column for each channel; and the channels.

    An image is known by the Metadata_ columns and ImageNumber, or else by all columns but the folder of the file. Other
    columns are kept where all files of each image agree.
    """
    folder = FOLDER + file.removeprefix(FILE)
    frame = frame.astype({name: object for name in (file, channel, folder) if name in frame})
    for column in (file, channel):
        if (gaps := missing_entries(frame[column])).any():
            raise DataError(f"{column} has no entry in row {int(gaps.argmax())}; fill it in.")
    others = [name for name in frame.columns if name not in (file, channel, folder)]
    key = [name for name in others if name.startswith(METADATA) or name == "ImageNumber"] or others
    names = [slashed(name) for name in frame[file]]
    if folder in frame:
        names = [joined_names(slashed(f), name) for f, name in zip(frame[folder].fillna(""), names, strict=True)]
    texts = {name: np.array([str(entry) for entry in frame[name]], dtype=object) for name in others}
    keys = list(zip(*(texts[name] for name in key), strict=True)) or [()] * len(frame)
    images, files = rows_of(
        zip(keys, [str(c) for c in frame[channel]], names, strict=True),
        f"by {channel} and {', '.join(key) or 'nothing else'}; add a column that tells them apart, e.g. Metadata_Site",
    )
    first: dict[Sequence[Any], int] = {}
    for i, image in enumerate(keys):
        first.setdefault(image, i)
    number = [first[image] for image in keys]
    kept = [name for name in others if name in key or (texts[name][number] == texts[name]).all()]
    wide = frame.iloc[[first[image] for image in images]][kept].reset_index(drop=True)
    return wide.assign(**{FILE + c: names for c, names in files.items()}), list(files)
