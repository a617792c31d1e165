"""Tables of images made from folders: their subfolders are the batches, or the names of the files tell everything."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from img2img.data.folders import find_images
from img2img.data.ome_zarr import images_of, is_plate
from img2img.data.regions import SLIDES
from img2img.errors import ConfigError, DataError, quote
from img2img.lab.tables.rows import BATCHES, first_of, rows_of

STORE = ".zarr"  # the end of the name of a folder of chunks
FILE, FOLDER, METADATA = "FileName_", "PathName_", "Metadata_"
RESULTS = "equalized.csv"


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


def plates_in(folder: Path) -> list[Path]:
    """Return the OME-Zarr plates that a folder is or, one or two levels down, holds under names ending in .zarr.

    Raises:
        DataError: if the metadata of one are damaged.
    """
    if is_plate(folder):
        return [folder]
    stores = [path for level in ("*", "*/*") for path in folder.glob(level + STORE)]
    return sorted(path for path in stores if is_plate(path))


def table_of_plates(root: Path, plates: Sequence[Path]) -> Any:
    """Return a DataFrame of the images of OME-Zarr plates below `root`.

    Its columns are FileName_Image, and Metadata_Plate, Metadata_Well and Metadata_Site: the name of the plate's folder
    without .zarr, a well such as A01, and the path of the image in it.

    Raises:
        DataError: if the metadata of a plate are missing or damaged.
    """
    rows = []
    for plate in plates:
        place = plate.relative_to(root).as_posix()
        name = re.sub(r"(\.ome)?\.zarr$", "", place, flags=re.IGNORECASE)
        rows += [(f"{place}/{path}", name, well, site) for path, well, site in images_of(plate)]
    columns = [f"{FILE}Image", BATCHES[1], f"{METADATA}Well", f"{METADATA}Site"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


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
    by_channel = "channel" in expression.groupindex
    keys, files = rows_of(
        (
            (
                tuple(parts[group] for group in groups) + (() if by_channel else (name,)),
                parts.get("channel", "Image"),
                name,
            )
            for name, parts in matches.items()
        ),
        f"by the pattern {pattern!r}; give it a group that tells them apart",
        f" below {quote(root)}",
    )
    columns = {f"{FILE}{channel}": names for channel, names in files.items()}
    titles = [f"{METADATA}{group[:1].upper()}{group[1:]}" for group in groups]
    return pd.DataFrame(columns | {title: [key[i] for key in keys] for i, title in enumerate(titles)}, dtype=object)


def _names_below(root: Path) -> list[str]:
    paths = find_images(root, SLIDES)
    results = {folder for path in paths for folder in path.parents if folder.is_relative_to(root) and folder != root}
    results = {folder for folder in results if (folder / RESULTS).is_file()}
    names = [path.relative_to(root).as_posix() for path in paths if results.isdisjoint(path.parents)]
    if not names:
        raise DataError(f"{quote(root)} only holds the results of an equalization; give the originals.")
    return names
