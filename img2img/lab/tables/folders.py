"""Sources of tables of images: a CSV file, the folders that files lie in, or their names."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from img2img.data.folders import find_images
from img2img.errors import ConfigError, DataError, quote

FILE, FOLDER, METADATA = "FileName_", "PathName_", "Metadata_"
BATCHES = ("Metadata_Batch", "Metadata_Plate")
RESULTS = "equalized.csv"


def read_table(path: Path) -> Any:
    """Read a CSV file, or a tab-separated .tsv file, as a DataFrame of strings.

    Raises:
        DataError: if it is not a table, or two columns have the same name.
    """
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    options = {"header": None, "dtype": str, "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
    try:
        raw = pd.read_csv(path, sep=separator, **options)
    except OSError as error:
        raise DataError(f"{quote(path)} cannot be read: {error.strerror}.") from error
    except (ValueError, pd.errors.ParserError) as error:  # an empty file, a row that is too long, another encoding
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(f"{quote(path)} is not a comma-separated table in UTF-8: {reason}.") from error
    frame = raw[1:].set_axis(raw.iloc[0].fillna(""), axis=1)
    return tidy(frame.loc[:, frame.columns != ""], quote(path))


def tidy(frame: Any, what: str) -> Any:
    """Return the frame with rows counted from 0 and unique names of columns as strings."""
    frame = frame.reset_index(drop=True)
    frame.columns = pd.Index([str(name) for name in frame.columns], dtype=object)
    if frame.columns.has_duplicates:
        name = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"{what} has two columns called {name}; give each a unique name.")
    return frame


def table_of_folder(root: Path) -> Any:
    """Return a DataFrame of the images below `root`, with one subfolder per batch: FileName_Image and Metadata_Batch.

    Folders with an `equalized.csv` hold results and are left out.

    Raises:
        DataError: if there is no image, or one that is in no subfolder.
    """
    names = _names_below(root)
    if loose := [name for name in names if "/" not in name]:
        raise DataError(
            f"{loose[0]} lies directly in {quote(root)}, which should hold a subfolder per batch; move it into one, or "
            "give a table."
        )
    return pd.DataFrame({f"{FILE}Image": names, BATCHES[0]: [name.split("/")[0] for name in names]}, dtype=object)


def table_of_names(root: Path, pattern: str) -> Any:
    r"""Return a DataFrame of the images below `root`, parsed from their names. Files called `_thumb` are left out.

    The regular expression is searched for in the path below `root`, with forward slashes. The group `channel` gives the
    FileName_ column of a file; other groups become columns: `(?P<well>...)` is Metadata_Well. Files that agree in all
    other groups are the channels of one row. Without a group `channel`, each file is a row.

        r"(?P<row>r\d+)(?P<col>c\d+)(?P<site>f\d+)p\d+-ch(?P<channel>\d+)"       Phenix: r02c03f04p01-ch1sk1fk1fl1.tiff
        r"(?P<plate>[^/]+)/.*_(?P<well>[A-P]\d\d)_s(?P<site>\d+)_w(?P<channel>\d)"    ImageXpress: p1/x_B02_s1_w1.tif

    Raises:
        ConfigError: if it is not a regular expression.
        DataError: if a name does not match, two files are one channel of a row, or a row lacks a channel.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is not a regular expression: {error}.") from error
    names = [name for name in _names_below(root) if "_thumb" not in name.rpartition("/")[2]]
    matches = {name: match.groupdict() for name in names if (match := expression.search(name))}
    if unmatched := [name for name in names if None in matches.get(name, {"": None}).values()]:
        raise DataError(
            f"Files below {quote(root)} do not match {pattern!r} in every group: {first_of(unmatched)}; correct the "
            "pattern, or move them away."
        )
    groups = [name for name in expression.groupindex if name != "channel"]
    rows: dict[tuple[Any, ...], dict[str, str]] = {}
    for name, parts in matches.items():
        key = tuple(parts[group] for group in groups) + (() if "channel" in parts else (name,))
        first = rows.setdefault(key, {}).setdefault(str(parts.get("channel", "Image")), name)
        if first != name:
            raise DataError(
                f"{first} and {name} are the same channel of one image by the pattern {pattern!r}; "
                "give it a group that tells them apart."
            )
    channels = sorted(
        {c for files in rows.values() for c in files}, key=lambda c: (not c.isdigit(), len(c) if c.isdigit() else 0, c)
    )
    if lacking := [(next(iter(files.values())), c) for files in rows.values() for c in channels if c not in files]:
        listed = first_of([f"channel {channel} beside {name}" for name, channel in lacking])
        raise DataError(f"Files are missing below {quote(root)}: {listed}; add them.")
    titles = [f"{METADATA}{group[:1].upper()}{group[1:]}" for group in groups]
    return pd.DataFrame(
        [
            {f"{FILE}{c}": files[c] for c in channels} | dict(zip(titles, key, strict=False))
            for key, files in rows.items()
        ],
        dtype=object,
    )


def first_of(names: list[str]) -> str:
    """Return the first three names, and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _names_below(root: Path) -> list[str]:
    paths = find_images(root)
    results = {folder for path in paths for folder in path.parents if folder.is_relative_to(root) and folder != root}
    results = {folder for folder in results if (folder / RESULTS).is_file()}
    names = [path.relative_to(root).as_posix() for path in paths if results.isdisjoint(path.parents)]
    if not names:
        raise DataError(f"{quote(root)} only holds the results of an equalization; give the originals.")
    return names
