"""The columns of a table: files and their channels, wells, controls, and the rows that are selected."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.inbox import exists
from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError, choose, quote
from img2img.lab.checks import check_batch, check_mask
from img2img.lab.tables.expressions import missing_entries, select, truths
from img2img.lab.tables.folders import FILE, FOLDER
from img2img.lab.tables.paths import Places, joined_names, slashed
from img2img.lab.tables.rows import BATCHES, first_of

ILLUMINATION = r"Illum(?![a-z])"  # illumination functions of CellProfiler, such as IllumDNA
ORIGINAL = "Orig"  # before the channels of JUMP


def channels_of(frame: Any) -> tuple[list[str], list[str]]:
    """Return the channels that the FileName_ columns name, and notes on columns that are not taken for channels.

    Raises:
        ConfigError: if there is none, or two names differ only in their case.
    """
    named = [name.removeprefix(FILE) for name in frame.columns if name.startswith(FILE)]
    if not named or "" in named:
        raise ConfigError(
            f"A table of images needs a column {FILE}<Channel> for every channel, or the column of the files named by "
            f"file_column; it has {', '.join(frame.columns)}."
        )
    first: dict[str, str] = {}
    for name in named:
        other = first.setdefault(name.lower(), name)
        if other != name:
            raise ConfigError(f"{FILE}{other} and {FILE}{name} differ only in their case; make them one column.")
    illumination = [name for name in named if re.match(ILLUMINATION, name)]
    channels = [name for name in named if name not in illumination] or named
    notes = []
    if len(channels) < len(named):
        notes.append(f"{_columns(illumination)} taken for illumination functions and not for channels.")
    near = [name for name in frame.columns if re.match(r"file[ _-]?name", name, re.IGNORECASE)]
    for name in [name for name in near if not name.startswith(FILE)]:
        notes.append(
            f"The column {name} is not read, since its name does not begin with {FILE}; rename it if it should."
        )
    return channels, notes


def _columns(channels: Sequence[str]) -> str:
    return ", ".join(FILE + name for name in channels) + (" is" if len(channels) == 1 else " are")


def given_names(channels: Sequence[str] | str) -> list[str]:
    """Return the names of channels that a caller has given: a list, or text with commas."""
    return [name.strip() for name in channels.split(",")] if isinstance(channels, str) else [str(c) for c in channels]


def chosen_channels(known: Sequence[str], channels: Sequence[str] | str) -> list[str]:
    """Return the columns of the channels that a caller has named: a list, or text with commas.

    JUMP's OrigDNA is also known as DNA.

    Raises:
        ConfigError: if one is unknown or named twice.
    """
    names = given_names(channels)
    table = {name.removeprefix(ORIGINAL): name for name in known} | {name: name for name in known}
    chosen = [choose("channel", name, table) for name in names]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"channels names {', '.join(names) or 'none'}; name each channel once.")
    return chosen


def names_in(frame: Any, column: str) -> list[str]:
    """Return the files of one channel, slashed, with their folders; "" where a name is missing."""
    names = _slashed(frame[FILE + column])
    if FOLDER + column not in frame:
        return names
    folders = _slashed(frame[FOLDER + column])
    return [name and joined_names(folder, name) for folder, name in zip(folders, names, strict=True)]


def _slashed(series: Any) -> list[str]:
    gaps = missing_entries(series)
    return ["" if gap else slashed(entry) for entry, gap in zip(series, gaps, strict=True)]


def files_of(frame: Any, columns: list[str], places: Places) -> list[tuple[Path, ...]]:
    """Return the files of every row, in the order of `columns`."""
    names = {c: names_in(frame, c) for c in columns}
    if lacking := [f"{FILE}{c} in row {i}" for c in columns for i, name in enumerate(names[c]) if not name]:
        raise DataError(f"File names are missing from the table: {first_of(lacking)}; fill them in.")
    return list(zip(*([places(name) for name in names[c]] for c in columns), strict=True))


def labels_of(frame: Any, column: str, places: Places) -> list[Path]:
    """Return the label image of every row, from a column of their names.

    Raises:
        ConfigError: if there is no such column.
        DataError: if a row has none.
    """
    names = frame[choose("column", column, {name: name for name in frame.columns})]
    if (lacking := missing_entries(names)).any():
        rows = first_of([f"row {i}" for i in np.flatnonzero(lacking)])
        raise DataError(f"{column} names no label image in {rows}; fill it in, or leave these rows out with where=.")
    return [places(name) for name in names]


def present(files: list[tuple[Path, ...]], control: Array | None) -> tuple[Array, list[str]]:
    """Return which rows have all their files (n,), and a note that counts the others.

    Raises:
        DataError: if no row has, or no control.
    """
    absent = [next((path for path in row if not exists(path)), None) for row in files]
    lost = [quote(path) for path in absent if path is not None]
    here = np.array([path is None for path in absent])
    if not here.any() or (control is not None and not control[here].any()):
        kind = "rows" if not here.any() else "controls"
        raise DataError(f"The files of all {kind} of the table are missing, such as {lost[0]}; correct its root.")
    note = f"{len(lost)} of {len(files)} rows are left out, since their files are missing: {first_of(lost)}."
    return here, [note] if lost else []


def batches_of(frame: Any, batch: str | None) -> tuple[str, list[str], list[str]]:
    """Return the column of the batches, the batch of every row, and notes on the choice of the column.

    Raises:
        ConfigError: if the column does not exist.
        DataError: if entries are missing.
    """
    known = {name: name for name in frame.columns}
    present = [name for name in BATCHES if name in known]
    if batch is None and not present:
        raise ConfigError(
            f"The table has neither {BATCHES[0]} nor {BATCHES[1]}; name the column of the batches, one of "
            f"{', '.join(known)}."
        )
    column = choose("column", batch, known) if batch else present[0]
    batches = check_batch(frame[column].tolist(), len(frame), column)
    if batch or len(present) < 2 or frame[present[0]].astype(str).tolist() == frame[present[1]].astype(str).tolist():
        return column, batches, []
    counts = [f"{name} ({frame[name].nunique()})" for name in present]
    return column, batches, [f"The batches are those of {counts[0]}, not of {counts[1]}; batch names another column."]


def groups_of(
    frame: Any, group: str | None, batches: list[str], files: list[tuple[Path, ...]]
) -> tuple[list[str], list[str]]:
    """Return the group of every row, and a note if a column of wells makes those of several plates one group.

    By default the groups are plate and well, or without wells the first file.
    """
    plates = batches
    if "Metadata_Plate" in frame:
        plates = check_batch(frame["Metadata_Plate"].tolist(), len(frame), "Metadata_Plate")
    if group is not None:
        groups = check_batch(frame[group].tolist(), len(frame), "group")
        pairs = set(zip(groups, plates, strict=True))
        twice = sorted(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        if not twice or "well" not in group.lower():
            return groups, []
        one, other = sorted(plate for name, plate in pairs if name == twice[0])[:2]
        return groups, [
            f"The column {group} makes {twice[0]} of {one} and {twice[0]} of {other} one well; unless they are, leave "
            "--group (group=) out, or name a column of plate and well together."
        ]
    if "Metadata_Well" not in frame:
        return [str(row[0]) for row in files], []
    wells = check_batch(frame["Metadata_Well"].tolist(), len(frame), "Metadata_Well")
    return [f"{plate}/{well}" for plate, well in zip(plates, wells, strict=True)], []


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
