"""Files of tables, recognized by their content: delimited text as spreadsheets write it, Parquet, Excel and SQLite.

Text is read as text, so that plate 007 stays plate 007. Nothing in a file is executed, and all have limits.
"""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import sqlite3
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from img2img.errors import ConfigError, DataError, choose, install_hint, listed, quote

MAX_BYTES = 2 * 2**30  # of a table, unpacked
MAX_CELLS = 10**8
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
SAMPLE = 200  # rows that tell the separator
AMONG = "::"  # table.sqlite::Image


def read_file(path: Path, name: str | None = None) -> tuple[Any, list[str]]:
    """Read the table in a file, or the one called `name` of several, and notes on how it was read.

    Raises:
        ConfigError: if a package is missing, or the file has several tables and none is chosen.
        DataError: if it is not a table, or too large.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"{quote(path)} cannot be read: {error.strerror}.") from error
    read = next((known for mark, known in READERS.items() if start.startswith(mark)), None)
    if read is not None:
        frame = read(path, name)
        notes: list[str] = []
    else:
        if name is not None:
            raise ConfigError(f"{quote(path)} holds a single table; leave out {AMONG}{name}.")
        frame, notes = _text(path, start)
    refuse_cells(path, *frame.shape)
    return frame, notes


def refuse_cells(path: Path, rows: int, columns: int) -> None:
    """Raise DataError if a table is too large."""
    if rows * columns > MAX_CELLS:
        raise DataError(f"{quote(path)} has {rows} rows of {columns} columns, too many for a table of images.")


# Text


def _text(path: Path, start: bytes) -> tuple[Any, list[str]]:
    text, notes = _decoded(path, _unpacked(path, start))
    text = text if "\n" in text else text.replace("\r", "\n")  # lines of an old Macintosh
    separator = None
    if named := re.match(r"sep=(.)\r?\n", text, re.IGNORECASE):  # the first line that Excel understands
        separator, text = named[1], text[named.end() :]
    separator = separator or _separator(path, text)
    options = {"header": None, "dtype": str, "keep_default_na": False, "na_values": [""]}
    try:
        spaced = all(name.startswith(" ") for name in next(csv.reader(io.StringIO(text), delimiter=separator))[1:])
        raw = pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=spaced, **options)
    except StopIteration:
        raise DataError(f"{quote(path)} is not a table: it is empty.") from None
    except (ValueError, csv.Error, pd.errors.ParserError) as error:  # a row that is too long, for example
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        kind = SEPARATORS.get(separator, repr(separator))
        raise DataError(f"{quote(path)} is not a {kind}-separated table: {reason}.") from error
    return _headed(raw), notes


def _headed(raw: Any) -> Any:
    """Return the frame whose first row holds the names, without columns that have none and rows that are empty.

    Where CellProfiler combines the measurements of several objects, the first row says whose a measurement is, Image or
    an object, and the second has its name: "Image" and "FileName_DNA" is FileName_DNA, "Nuclei" and "AreaShape_Area" is
    Nuclei_AreaShape_Area.
    """
    names, below = (
        ["" if pd.isna(name) else str(name).strip() for name in row]
        for row in (raw.iloc[0], raw.iloc[min(1, len(raw) - 1)])
    )
    first = 1
    if any(name == IMAGE and re.match(KNOWN, other) for name, other in zip(names, below, strict=True)):
        names = [other if name == IMAGE else f"{name}_{other}" for name, other in zip(names, below, strict=True)]
        first = 2
    frame = raw[first:].set_axis(pd.Index(names, dtype=object), axis=1)
    return frame.loc[:, [name != "" for name in names]].dropna(how="all")


def _unpacked(path: Path, start: bytes) -> bytes:
    unpack = next((known for mark, known in PACKED.items() if start.startswith(mark)), open)
    try:
        with unpack(path, "rb") as file:
            content: bytes = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{quote(path)} cannot be unpacked: {error}.") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{quote(path)} is larger than {MAX_BYTES // 2**30} GiB, too large for a table of images.")
    return content


def _decoded(path: Path, content: bytes) -> tuple[str, list[str]]:
    """Return the text of a file in UTF-8, UTF-16 or, which is noted, Windows-1252."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:  # UTF-16 without a mark
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise UnicodeError
        return text, []
    except UnicodeError:
        pass
    try:
        text = content.decode("cp1252")
        if encoding != "utf-8" or re.search(r"[\0-\x08\x0e-\x1f]", text):
            raise UnicodeError
    except UnicodeError:
        raise DataError(
            f"{quote(path)} is not a text table in UTF-8, UTF-16 or Windows-1252, nor Parquet, Excel or SQLite; save "
            "it as CSV in UTF-8."
        ) from None
    letters = "".join(sorted({letter for letter in text if letter > "\x7f"}))
    return text, [f"{quote(path)} is not in UTF-8 and was read as Windows-1252: check the letters {letters[:20]}."]


def _separator(path: Path, text: str) -> str:
    """Return the character that separates the columns: the one that divides all rows alike, into most columns."""
    usual = "\t" if ".tsv" in path.suffixes or ".tab" in path.suffixes else ","
    columns: dict[str, int] = {}
    even: list[str] = []
    for separator in SEPARATORS:
        try:
            rows = list(islice(csv.reader(io.StringIO(text), delimiter=separator), SAMPLE))
        except csv.Error:
            continue
        counts = [len(row) for row in rows if row]
        if counts and counts[0] > 1:
            columns[separator] = sum(bool(re.match(KNOWN, name.strip())) for name in rows[0]) * 1000 + counts[0]
            even += [separator] if len(set(counts)) == 1 else []
    likely = {separator: columns[separator] for separator in even} or columns
    best = [separator for separator, n in likely.items() if n == max(likely.values())]
    if len(best) > 1:
        raise DataError(
            f"{quote(path)} could be separated by {' or by '.join(SEPARATORS[s] for s in best)}; make its first line "
            f"sep={best[0]}, or save it with commas."
        )
    return best[0] if best else usual


KNOWN = r"(?i)(Image_)?(FileName|PathName|URL|Metadata)_"
IMAGE = "Image"  # whose measurements the first of two rows of names says are of the image


# Other formats


def _parquet(path: Path, name: str | None) -> Any:
    """Read a Parquet file; what pandas has noted about it, such as its index, is ignored."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(install_hint("Reading Parquet", "pyarrow", "lab")) from error
    if name is not None:
        raise ConfigError(f"{quote(path)} holds a single table; leave out {AMONG}{name}.")
    try:
        with parquet.ParquetFile(path) as file:
            refuse_cells(path, file.metadata.num_rows, file.metadata.num_columns)
            return file.read().to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{quote(path)} cannot be read as Parquet; it may be damaged.") from error


def _excel(path: Path, name: str | None) -> Any:
    """Read the values in a sheet of an Excel workbook: the one called `name`, or the only one that is not empty."""
    try:
        import openpyxl
    except ImportError as error:
        raise ConfigError(install_hint("Reading Excel workbooks", "openpyxl", "lab")) from error
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES // 4:
                raise DataError(f"{quote(path)} is too large for a table of images; save it as CSV.")
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of styles and the like
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = {sheet.title: _cells(path, sheet) for sheet in book.worksheets}
    except (zipfile.BadZipFile, zlib.error, LookupError, ValueError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{quote(path)} cannot be read as an Excel workbook (.xlsx); save it as CSV.") from error
    rows = _chosen(path, name, {title: rows for title, rows in sheets.items() if rows}, "sheet")
    return _headed(pd.DataFrame(rows, dtype=object).replace("", None))


def _cells(path: Path, sheet: Any) -> list[Any]:
    """Return the rows of a sheet that are not empty."""
    sheet.reset_dimensions()  # what the file states may be wrong
    rows: list[Any] = []
    width = 0
    for row in sheet.iter_rows(values_only=True):
        if any(cell not in (None, "") for cell in row):
            rows.append(row)
            width = max(width, len(row))
            refuse_cells(path, len(rows), width)
    return rows


def _sqlite(path: Path, name: str | None) -> Any:
    """Read a table of an SQLite database, which is opened read-only; views, which are code, are not offered."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            images = [t for t in tables if t.lower() == "image"] or [t for t in tables if t.endswith("Per_Image")]
            known = {t: t for t in tables if not t.startswith("sqlite_")}
            chosen = _chosen(path, name, known if name or len(images) != 1 else {images[0]: images[0]}, "table")
            cursor = database.execute('SELECT * FROM "{}"'.format(chosen.replace('"', '""')))
            columns = [column[0] for column in cursor.description]
            rows = cursor.fetchmany(MAX_CELLS // max(len(columns), 1) + 1)
    except sqlite3.Error as error:
        raise DataError(f"{quote(path)} cannot be read as SQLite: {error}.") from error
    return pd.DataFrame(rows, columns=pd.Index(columns, dtype=object), dtype=object)


def _chosen(path: Path, name: str | None, known: dict[str, Any], kind: str) -> Any:
    if name is not None:
        return choose(f"{kind} of {quote(path)}", name, known)
    if len(known) == 1:
        return next(iter(known.values()))
    if not known:
        raise DataError(f"{quote(path)} holds no {kind} with columns.")
    raise ConfigError(
        f"{quote(path)} has {len(known)} {kind}s ({listed(known)}); name one, as in "
        f"{quote(path.name)}{AMONG}{next(iter(known))}."
    )


def _old_excel(path: Path, name: str | None) -> Any:
    raise DataError(f"{quote(path)} is a workbook of an old Excel (.xls); save it as .xlsx or CSV.")


READERS: dict[bytes, Callable[[Path, str | None], Any]] = {
    b"PAR1": _parquet,
    b"PK\x03\x04": _excel,
    b"SQLite format 3\0": _sqlite,
    b"\xd0\xcf\x11\xe0": _old_excel,
}
