"""Parts of a job: of a folder by the names in it, or of numbered images; and lists of files in place of a folder.

Which part a file is in follows from its name alone, so machines can divide a folder without speaking to each other, and
the division does not move when files are added.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from img2img.errors import ConfigError, DataError, install_hint, listed, quote

MAX_SHARDS = 10**6
COLUMN = "file"


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """Return the part that `text` names, such as 2/8; the whole for None.

        Raises:
            ConfigError: if it names none.
        """
        if text is None:
            return WHOLE
        found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text.strip())
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count <= MAX_SHARDS:
            raise ConfigError(
                f"--shard takes a part and the number of parts, from 1/8 to 8/8, not '{text[:60]}'; parts are numbered "
                f"from 1, and there are at most {MAX_SHARDS}."
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, path: PurePath) -> bool:
        """Return whether a file is in this part, by its path relative to the folder, without the suffix.

        Files that differ in their suffix alone are in the same part: their results may have the same name.
        """
        if self.count == 1:
            return True
        name = path.with_suffix("").as_posix().encode(errors="surrogatepass")
        return int.from_bytes(hashlib.sha256(name).digest()[:8]) % self.count == self.number - 1

    def holds_number(self, number: int) -> bool:
        """Return whether a number is in this part: every `count`-th is."""
        return number % self.count == self.number - 1


WHOLE = Shard()


def read_list(path: Path) -> list[str]:
    """Return the names of files in a list, each once: a line each, or the column `file` of a CSV or a Parquet file.

    Raises:
        ConfigError: if it is a Parquet file, and no package that reads them is installed.
        DataError: if it cannot be read, or names no file.
    """
    reader = {".csv": _from_csv, ".parquet": _from_parquet}.get(path.suffix.lower(), _from_text)
    try:
        names = list(dict.fromkeys(filter(None, reader(path))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"The list {quote(path)} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    if not names:
        raise DataError(f"The list {quote(path)} names no files.")
    return names


def _from_text(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


def _from_csv(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        column = next((name for name in rows.fieldnames or () if name.strip().lower() == COLUMN), None)
        if column is None:
            raise _no_column(path, rows.fieldnames or ())
        return [row[column] or "" for row in rows]


def _from_parquet(path: Path) -> list[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise ConfigError(install_hint(f"Reading {quote(path)}", "pyarrow", "lab")) from error
    try:
        with parquet.ParquetFile(path) as file:
            if COLUMN not in file.schema_arrow.names:
                raise _no_column(path, file.schema_arrow.names)
            column = file.read([COLUMN]).column(0)
    except ArrowException as error:
        raise DataError(f"The list {quote(path)} is not a Parquet file.") from error
    return [str(name) for name in column.to_pylist() if name is not None]


def _no_column(path: Path, names: Iterable[str]) -> DataError:
    return DataError(f"The list {quote(path)} has no column {COLUMN}; its columns are {listed(names)[:200]}.")


def files_below(folder: Path, names: list[str]) -> list[Path]:
    """Return the files that a list names, relative to `folder`, or absolute and below it; they need not exist.

    Raises:
        DataError: if the folder does not exist, or a file would lie elsewhere.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {quote(folder)}, which the names of the list would be relative to.")
    base = os.path.normpath(folder.absolute())
    paths = [Path(os.path.normpath(Path(base, name))) for name in names]
    if outside := [quote(path) for path in paths if not path.is_relative_to(base)]:
        raise DataError(f"The list names files that are not below {quote(folder)}: {listed(outside)}.")
    return [folder / path.relative_to(base) for path in dict.fromkeys(paths)]
