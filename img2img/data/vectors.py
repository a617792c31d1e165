"""A vector for each image, such as the embedding of a text: from an .npy, a CSV, or an array."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from img2img.data.labels import file_name, files_in
from img2img.data.picture import Array, Header
from img2img.errors import ConfigError, DataError, quote

LONGEST = 2**16  # numbers of a vector


def vectors_of(source: Any, length: int = 0) -> Array:
    """Return the vectors in a file or an array, (rows, length) float32.

    Args:
        source: an .npy or an array with a row for each, or a CSV with a row for each and a column for each number; a
            column `file` is passed over.
        length: that they must have; 0 for any.

    Raises:
        DataError: if they are no such numbers, or of another length.
    """
    if isinstance(source, str | Path):
        return _checked(_read(Path(source))[1], quote(Path(source)), length)
    return _checked(np.asarray(source), "vectors", length)


def vectors_for(source: Any, root: Path, parts: Sequence[Sequence[Header | Array]]) -> list[Array]:
    """Return the vectors of the images of each part of a data set.

    A CSV names the files, relative to the folder `root`. Other rows are in the order of the images, which in a folder
    is that of their sorted names, those of the training part first.

    Raises:
        ConfigError: if a CSV is given for images that are no files.
        DataError: if images have no row, or there are not as many rows as images.
    """
    if not isinstance(source, str | Path) or Path(source).suffix.lower() != ".csv":
        array = vectors_of(source)
        if len(array) != (total := sum(map(len, parts))):
            raise DataError(f"There are {len(array)} vectors and {total} images; there has to be one for each image.")
        return np.split(array, np.cumsum([len(part) for part in parts])[:-1])
    path = Path(source)
    headers = [[x for x in part if isinstance(x, Header)] for part in parts]
    if not headers[0]:
        raise ConfigError("A CSV of vectors names files in a folder; for other images give an .npy.")
    files, array = _read(path)
    rows = {file: i for i, file in enumerate(files)}
    if len(rows) < len(array):
        raise DataError(f"{quote(path)} has to name another file in every row, in a column called file.")
    array = _checked(array, quote(path))
    return [array[[rows[file] for file in files_in(rows, path, root, part)]] for part in headers]


def _read(path: Path) -> tuple[list[str], Array]:
    """Return the files that the rows name, if they do, and the numbers in the rows."""
    try:
        if path.suffix.lower() != ".csv":
            return [], npy_format.open_memmap(path, mode="r")  # no pickles, and no memory for what is not there
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = filter(None, csv.reader(file, strict=True))
        header = [name.strip().lower() for name in header]
        columns = [i for i, name in enumerate(header) if name != "file"]
        if any(len(row) != len(header) for row in rows):
            raise ValueError("rows are of different lengths")
        files = [file_name(row[header.index("file")].strip()) for row in rows] if len(columns) < len(header) else []
        return files, np.array([[float(row[i]) for i in columns] for row in rows])
    except FileNotFoundError:
        raise DataError(f"There is no file of vectors {quote(path)}.") from None
    except (OSError, ValueError, IndexError, EOFError, csv.Error) as error:
        raise DataError(f"{quote(path)} cannot be read as an .npy or a CSV of vectors: {error}.") from error


def _checked(array: Array, name: str, length: int = 0) -> Array:
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not (len(array) and 1 <= array.shape[1] <= LONGEST):
        raise DataError(f"{name} holds {array.dtype} of shape {array.shape}; vectors are numbers, (images, length).")
    if length and array.shape[1] != length:
        raise DataError(f"{name} holds vectors of {array.shape[1]} numbers; this model takes {length}.")
    with np.errstate(over="ignore"):
        array = np.array(array, np.float32)
    if not (finite := np.isfinite(array).all(1)).all():
        raise DataError(f"Row {int(finite.argmin()) + 1} of {name} has numbers that are infinite or none.")
    return array
