"""A table in several files: those in a folder, such as a Parquet data set in parts, or those that match a pattern."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd

from img2img.data.images import SUFFIXES as IMAGES
from img2img.data.ome_zarr import is_plate
from img2img.errors import ConfigError, DataError, listed, quote
from img2img.lab.tables.formats import refuse_cells

SUFFIXES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
WILDCARDS = re.compile(r"[*?]|\[.+\]")
PARTITION = re.compile(r"([^=]+)=(.*)")  # a folder whose name holds a column and its value, as Hive writes them
MISSING = "__HIVE_DEFAULT_PARTITION__"
MOST = 10_000  # files of a table


def tables_in(folder: Path) -> list[Path]:
    """Return the files of the table in a folder, at any depth, sorted; none if it holds no table, or images.

    Files whose names begin with a dot or an underscore are left out, as every reader of Parquet does.

    Raises:
        ConfigError: if they are of several kinds, or too many.
    """
    found = []
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGES:
            return []
        if _kind(path) and path.name[0] not in "._" and path.is_file():
            found.append(path)
    if len(kinds := Counter(map(_kind, found))) > 1:
        counts = " and ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        raise ConfigError(
            f"{quote(folder)} holds {counts}; say which are the table with a pattern in quotes, such as "
            f"'{folder.as_posix()}/**/*{min(kinds)}'."
        )
    return _few(found, folder)


def matching(pattern: Path) -> tuple[list[Path], Path]:
    """Return the files, or OME-Zarr plates, that match a pattern, sorted, and the folder before its first wildcard.

    Raises:
        ConfigError: if they are too many, or both.
        DataError: if there is none.
    """
    plain = next(i for i, part in enumerate(pattern.parts) if WILDCARDS.search(part))
    base = Path(*pattern.parts[:plain])
    try:
        found = islice(base.glob("/".join(pattern.parts[plain:])), MOST + 1)
        tables = [path for path in found if path.is_file() or is_plate(path)]
    except ValueError as error:  # of ** that is not alone
        raise DataError(f"{quote(pattern)} is not a pattern of files: {str(error).rstrip('.')}.") from error
    if not tables:
        raise DataError(f"No table matches {quote(pattern)}; correct the pattern.")
    if len({path.is_file() for path in tables}) > 1:
        raise ConfigError(f"{quote(pattern)} matches both tables and OME-Zarr plates; give a pattern of one kind.")
    return _few(tables, pattern), base


def _few(found: list[Path], where: Path) -> list[Path]:
    if len(found) > MOST:
        raise ConfigError(f"{quote(where)} has over {MOST} tables; give fewer, or write them as one.")
    return sorted(found)


def _kind(path: Path) -> str:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def with_partition(frame: Any, path: Path, base: Path) -> Any:
    """Return the frame of one file, with the columns that folders called NAME=VALUE between `base` and it state.

    Raises:
        DataError: if the file itself has other values there.
    """
    for match in filter(None, map(PARTITION.fullmatch, path.relative_to(base).parts[:-1])):
        name, value = match[1], None if match[2] == MISSING else unquote(match[2])
        if name in frame and (frame[name].astype(str) != str(value)).any():
            raise DataError(f"{quote(path)} lies in {quote(match[0])}, but has other values of {name}; correct one.")
        frame = frame.assign(**{name: pd.Series([value] * len(frame), frame.index, dtype=object)})
    return frame


def joined(paths: Sequence[Path], read: Callable[[Path], Any]) -> Any:
    """Return the rows of all files as one frame.

    Raises:
        DataError: if a file has other columns than the first, or they are too large together.
    """
    frames: list[Any] = []
    rows = 0
    for path in paths:
        frame = read(path)
        rows += len(frame)
        refuse_cells(path.parent, rows, len(frame.columns))
        columns = list(frames[0].columns) if frames else list(frame.columns)
        more = [name for name in frame.columns if name not in columns]
        fewer = [name for name in columns if name not in frame.columns]
        if more or fewer:
            parts = [f"{verb} {listed(names)}" for verb, names in (("has", more), ("lacks", fewer)) if names]
            raise DataError(
                f"{quote(path)} {' and '.join(parts)}, unlike {quote(paths[0])}; a table in several files has the same "
                "columns in all of them."
            )
        frames.append(frame[columns].astype(object))
    return pd.concat(frames, ignore_index=True)
