"""The columns of a table: files and their channels, wells, controls, and the rows that are selected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError, choose
from img2img.lab.checks import check_batch, check_mask
from img2img.lab.tables.expressions import missing_entries, select, truths
from img2img.lab.tables.folders import FILE, FOLDER, first_of


def file_columns(frame: Any, channels: Sequence[str] | None) -> list[str]:
    """Return the names of the channels, those of the FileName_ columns; or `channels`, checked against them."""
    columns = [name.removeprefix(FILE) for name in frame.columns if name.startswith(FILE)]
    if not columns or "" in columns:
        raise ConfigError(
            f"A table of images needs a column {FILE}<Channel> for every channel; it has {', '.join(frame.columns)}."
        )
    if not len(frame):
        raise DataError("The table has no rows; give a row for each image.")
    return columns if channels is None else [choose("channel", c, {name: name for name in columns}) for c in channels]


def files_of(frame: Any, columns: list[str], root: Path) -> list[tuple[Path, ...]]:
    """Return the files of every row, in the order of `columns`."""
    lacking = [(i, c) for c in columns for i in np.flatnonzero(missing_entries(frame[FILE + c]))]
    if lacking:
        listed = first_of([f"{FILE}{c} in row {i}" for i, c in lacking])
        raise DataError(f"File names are missing from the table: {listed}; fill them in.")
    return list(zip(*(paths_of(frame, c, root) for c in columns), strict=True))


def paths_of(frame: Any, column: str, root: Path) -> list[Path]:
    """Return the files of one channel; where a name is missing, a file that does not exist."""
    names = [slashed(name) for name in frame[FILE + column]]
    folders = [""] * len(frame)
    if FOLDER + column in frame:
        entries = frame[FOLDER + column]
        gaps = missing_entries(entries)
        folders = ["" if gap else slashed(folder) for folder, gap in zip(entries, gaps, strict=True)]
    return [root / folder / name for folder, name in zip(folders, names, strict=True)]


def slashed(name: Any) -> str:
    """Convert the backslashes of a path written on Windows."""
    return str(name).replace("\\", "/")


def wells_of(frame: Any, batches: list[str], files: list[tuple[Path, ...]]) -> list[str]:
    """Return plate and well of every row; without wells its first file."""
    if "Metadata_Well" not in frame:
        return [str(row[0]) for row in files]
    wells = check_batch(frame["Metadata_Well"].tolist(), len(frame), "Metadata_Well")
    plates = batches
    if "Metadata_Plate" in frame:
        plates = check_batch(frame["Metadata_Plate"].tolist(), len(frame), "Metadata_Plate")
    return [f"{plate}/{well}" for plate, well in zip(plates, wells, strict=True)]


def control_of(frame: Any, control: Any) -> Array | None:
    """Return whether each row is a control, from a column, a comparison or a mask."""
    if control is None:
        return None
    if not isinstance(control, str):
        return check_mask(control, len(frame))
    mask = truths(frame[control], control) if control in frame else select(frame, control)
    if not mask.any():
        raise ConfigError(f"No row of the table is a control; {control!r} is true for none of them.")
    return mask


def selected(frame: Any, where: str, control: Any) -> tuple[Any, Any]:
    """Return the rows for which the comparison is true, and their part of a mask of controls."""
    rows = select(frame, where)
    if not rows.any():
        raise ConfigError(f"No row of the table is selected; {where!r} is true for none of them.")
    if control is not None and not isinstance(control, str):
        control = check_mask(control, len(frame))[rows]
    return frame[rows].reset_index(drop=True), control


def names_of(columns: list[str], counts: list[int], stated: Sequence[str]) -> list[str]:
    """Return the names of the channels: those of the columns, numbered if a file has several.

    The channels of a single column Image have the names that the files state, one for each or "", or are numbered.
    """
    if columns == ["Image"] and counts[0] > 1:
        return list(stated) if all(stated) else [str(c) for c in range(counts[0])]
    each = zip(columns, counts, strict=True)
    return [column if count == 1 else f"{column}_{c}" for column, count in each for c in range(count)]
