"""The list of the results in a folder, equalized.csv, to which several processes may add at the same time."""

import errno
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from img2img.data.remote import Remote
from img2img.data.shards import WHOLE, Shard
from img2img.errors import ConfigError, DataError, quote
from img2img.lab.tables.destination import Destination
from img2img.lab.tables.folders import FILE, RESULTS
from img2img.model.record import RECORD
from img2img.runtime.files import atomic, json_object, write_json

LOCK = ".equalized.lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # of a disk without locks
LISTS = re.compile(r"equalized(\.\d+-of-\d+)?\.csv")
MAX_LIST = 2**31  # bytes
PATIENCE = 120  # seconds to wait for another process that is writing the list
SAVE_EVERY = 30  # seconds, so that a killed run loses few notes
MAKER, SOURCE, STATUS, ERROR = "equalizer", "source", "status", "error"

Row = dict[str, Any]


class Listing:
    """The results of one table in the list of a folder; those of its other parts, or of other tables, stay in the list.

    Args:
        destination: the table and the folder.
        makers: the equalizer of each row: a checksum of what all rows share, "-", and one of what the batch has of its
            own. None if it is not known.

    Attributes:
        notes: notes on the processed rows, by their numbers; at first those of an earlier run.
    """

    def __init__(self, destination: Destination, makers: Sequence[str] | None = None) -> None:
        manifest, self.folder = destination.manifest, destination.folder
        self.destination, self.saved = destination, time.monotonic()
        self.path = self.folder / list_name(destination.place or self.folder, manifest.shard)
        self.maker = None if not makers else makers[0].partition("-")[0]
        self.names = [FILE + column for column in manifest.columns]
        self.columns = [*manifest.kept, *self.names, *([] if makers is None else [MAKER])]
        self.rows: list[Row] = manifest.frame[manifest.kept].to_dict("records")
        for i, (row, targets) in enumerate(zip(self.rows, destination.targets, strict=True)):
            row |= {n: path.relative_to(self.folder).as_posix() for n, path in zip(self.names, targets, strict=True)}
            row |= {} if makers is None else {MAKER: makers[i]}
        self.numbers = {self._files(row): i for i, row in enumerate(self.rows)}
        self.notes: dict[int, Row] = {}
        self.replaced: set[tuple[Any, ...]] = set()  # files of earlier results by another equalizer

    def _files(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self.names)

    def begin(self, overwrite: bool) -> None:
        """Take over the notes of an earlier run, and record in the folder which equalizer its results are of.

        Raises:
            ConfigError: if there are results of another equalizer that are not to be replaced, or nothing can be
                written.
        """
        with self._locked():
            listed = self._all_listed()
            if self.maker is not None:
                self._refuse_others(listed, overwrite)
                write_json(self.folder / RECORD, {MAKER: self.maker})
                self._send(self.folder / RECORD)
        fixed = {*self.columns, MAKER}
        for row in listed:
            files = self._files(row)
            if files in self.numbers and files not in self.replaced:
                notes = {name: text for name, text in row.items() if name not in fixed and text != ""}
                states = {name: notes.pop(name, "") for name in (SOURCE, STATUS, ERROR) if name in row}
                self.notes[self.numbers[files]] = {name: _value(text) for name, text in notes.items()} | states
        self.save()

    def _refuse_others(self, listed: list[Row], overwrite: bool) -> None:
        """Refuse results of other equalizers, except those of this table's rows if they are to be overwritten."""
        for row in listed:
            files, maker = self._files(row), row.get(MAKER, "")
            number = self.numbers.get(files)
            same = maker.partition("-")[0] == self.maker if number is None else maker == self.rows[number][MAKER]
            if same or row[STATUS] == "failed":
                continue
            if number is None or not overwrite:
                whole = " with the whole table" * (number is None)
                raise ConfigError(
                    f"{quote(str(files[0]))} in {quote(self.folder)} is a result of "
                    f"{f'equalizer {maker}' if maker else 'an unknown equalizer'}, not of this one; give another "
                    f"folder, or replace what is there (--overwrite{whole})."
                )
            self.replaced.add(files)
        signed = self._signed()
        if signed not in (None, self.maker) and not overwrite:
            raise ConfigError(
                f"{quote(self.folder)} is for the results of {f'equalizer {signed}' if signed else 'another command'}; "
                "give another folder, or replace what is there (--overwrite)."
            )

    def _signed(self) -> str | None:
        """Return the equalizer that the folder's record names; "" if it names none, None if there is no record."""
        path = self.folder / RECORD
        self._fetch(path)
        return str(json_object(path.read_bytes()).get(MAKER, "")) if path.is_file() else None

    @property
    def exists(self) -> bool:
        """Tell whether there is a list already, of this part of the table or another."""
        return bool(self._lists())

    def _lists(self) -> list[Path]:
        """Return the lists in the folder. Processes that write to a store at the same time have one each."""
        if self.destination.place is None:
            return [self.path] if self.path.exists() else []
        return [self.folder / name for name in self.destination.place.names() if LISTS.fullmatch(name)]

    def _all_listed(self) -> list[Row]:
        paths = sorted(self._lists(), key=lambda path: path == self.path)  # its own, which is the last word, at the end
        for path in paths:
            self._fetch(path)
        return [row for path in paths for row in self._listed(path)]

    def _fetch(self, path: Path) -> None:
        if (place := self.destination.place) is not None:
            path.unlink(missing_ok=True)
            if (content := place.read(path.name, end=MAX_LIST)) is not None:
                path.write_bytes(content)

    def _send(self, path: Path) -> None:
        if self.destination.place is not None:
            self.destination.place.send(path, path.name)

    def _listed(self, path: Path) -> list[Row]:
        """Return the rows of a list, as texts."""
        if not path.is_file():
            return []
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise DataError(f"{quote(path)}, from an earlier run, cannot be read; delete it.") from error
        if not {STATUS, ERROR} <= set(frame.columns):
            raise ConfigError(f"{quote(path)} was not written by img2img; move it, or give another folder.")
        rows: list[Row] = frame.to_dict("records")
        return rows

    def save_regularly(self) -> None:
        """Save if the last time is more than `SAVE_EVERY` seconds ago."""
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> Any:
        """Write the notes into the list, and return the rows of this table.

        Raises:
            ConfigError: if it cannot be written, or another equalizer has taken the folder over.
        """
        own = {self._files(self.rows[i]): self.notes[i] | self.rows[i] for i in sorted(self.notes)}
        with self._locked():
            if self.maker is not None and self._signed() != self.maker:
                raise ConfigError(
                    f"The results in {quote(self.folder)} are being replaced by another equalizer; give another folder."
                )
            known = own.keys() | self.replaced
            self._fetch(self.path)
            others = [row for row in self._listed(self.path) if self._files(row) not in known]
            with atomic(self.path) as temporary:
                self._frame([*others, *own.values()]).to_csv(temporary, index=False)
            self._send(self.path)
        self.saved = time.monotonic()
        return self._frame(list(own.values()))

    def _frame(self, rows: list[Row]) -> Any:
        names = dict.fromkeys([*self.columns, *(name for row in rows for name in row)])
        return pd.DataFrame(rows, columns=[*(name for name in names if name not in (STATUS, ERROR)), STATUS, ERROR])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from the list; without a lock, where the disk has none."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / LOCK, timeout=PATIENCE)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield
        except Timeout as error:
            raise ConfigError(f"Another process holds {quote(self.folder / LOCK)}; end it, or wait for it.") from error
        except OSError as error:
            raise ConfigError(f"{quote(self.path)} cannot be written: {error.strerror}.") from error
        finally:
            lock.release()


def list_name(place: Path | Remote, shard: Shard) -> str:
    """Return the name of the list: on a disk, one for all parts of a table; in a store, one for each."""
    if isinstance(place, Path) or shard == WHOLE:
        return RESULTS
    return RESULTS.replace(".", f".{shard.number}-of-{shard.count}.")


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
