"""Tables in, folders out: the result of every row, and the table that lists them."""

import errno
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import local
from typing import Any

import pandas as pd

from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError, TrainingError, quote
from img2img.lab.checks import threads
from img2img.lab.tables.destination import Destination
from img2img.lab.tables.folders import FILE, RESULTS
from img2img.lab.tables.manifest import Manifest, joined
from img2img.runtime.files import atomic

AHEAD = 1024  # rows handed to the threads at once, so that memory does not grow with the table
SAVE_EVERY = 30  # seconds, so that a killed run loses few notes

Function = Callable[[int, Array], tuple[Array, dict[str, Any]]]


def transform(
    manifest: Manifest,
    function: Function,
    out_dir: str | Path,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    n_jobs: int = 1,
) -> Any:
    """Write the result of every row below `out_dir`, under the names of its files.

    A row that fails is noted, and the others are still processed. Rows whose results all exist, and are listed in an
    earlier `equalized.csv`, are kept with that entry, so a stopped run can be resumed; a killed run may repeat what it
    had not listed yet. This function cannot know whether the earlier results came from the same `function`.

    Args:
        manifest: the table.
        function: called with the number of a row and its image (C, H, W), from each of the `n_jobs` threads; returns
            the result, of the same shape, and the notes on it. The image's memory is that thread's next one's as well.
        out_dir: the folder of results.
        overwrite: replace existing results; if that fails, the earlier result is kept.
        progress: called with the number of rows done and the total.
        n_jobs: threads, each with one row in memory; -1 is one for each core.

    Returns:
        A DataFrame with one row for each of the manifest's: its columns, the names of the results below `out_dir`, the
        notes, `status` (done, kept or failed) and `error`. It is also written to `equalized.csv`, which is a table too.

    Raises:
        ConfigError: if results would overwrite originals, or cannot be written there.
        DataError: if results would be lossy, have the same name, or would lie elsewhere.
        TrainingError: if the disk is full.
    """
    out_dir = Path(out_dir)
    workers = threads(n_jobs)
    destination = Destination(manifest, out_dir)
    record = _Record(destination)
    earlier = dict(record.notes)
    if not overwrite and not record.path.exists():
        destination.refuse_foreign()
    destination.remove_stale()
    record.save()  # to fail before anything is computed
    mine = local()

    def one(i: int) -> None:
        if not overwrite and destination.holds(i) and earlier.get(i, {}).get("status") in ("done", "kept"):
            record.notes[i] = earlier[i] | {"status": "kept", "error": ""}
            return
        try:
            pictures = manifest.pictures(i)
            mine.image = joined(pictures, getattr(mine, "image", None))  # new memory costs more than copying into it
            image, note = function(i, mine.image)
            destination.write(i, image, pictures)
            record.notes[i] = note | {"status": "done", "error": ""}
            return
        except (ConfigError, DataError, TrainingError) as error:
            reason = str(error)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise TrainingError(
                    f"The disk of {quote(out_dir)} is full; free some space and run the same command again."
                ) from error
            reason = f"its result cannot be written: {error.strerror or error}."
        record.notes[i] = {"status": "failed", "error": _with_name(manifest.files[i], reason)}

    try:
        with closing(_each(one, len(manifest), workers)) as steps:
            for done in steps:
                record.save_regularly()
                if progress:
                    progress(done, len(manifest))
    finally:
        frame = record.save()
    return frame


def _each(work: Callable[[int], None], count: int, threads: int) -> Generator[int, None, None]:
    """Work on 0 to count - 1; yield the number that are done."""
    pool = ThreadPoolExecutor(threads)
    try:
        for first in range(0, count, AHEAD):
            rows = range(first, min(first + AHEAD, count))
            steps = pool.map(work, rows) if threads > 1 else map(work, rows)
            yield from (done for done, _ in enumerate(steps, first + 1))
    finally:
        pool.shutdown(cancel_futures=True)


class _Record:
    """The notes on every row, and the file that holds them.

    Attributes:
        notes: notes on the processed rows; at first those of an earlier run.
    """

    def __init__(self, destination: Destination) -> None:
        manifest, folder = destination.manifest, destination.folder
        self.path, self.saved = folder / RESULTS, time.monotonic()
        names = [FILE + column for column in manifest.columns]
        known = manifest.frame[manifest.kept].to_dict("records")
        self.columns = [*manifest.kept, *names]
        self.rows = [
            row | {name: target.relative_to(folder).as_posix() for name, target in zip(names, targets, strict=True)}
            for row, targets in zip(known, destination.targets, strict=True)
        ]
        self.notes: dict[int, dict[str, Any]] = {}
        rows = {tuple(row[name] for name in names): i for i, row in enumerate(self.rows)}
        for note in self._earlier():
            files = tuple(note.get(name) for name in names)
            if files in rows:
                self.notes[rows[files]] = {name: value for name, value in note.items() if name not in self.columns}
            elif note.get("status") != "failed":
                other = quote(Path(str(files[0])))
                raise ConfigError(
                    f"{quote(self.path)} lists results of another table, such as {other}; give each table its own "
                    "folder."
                )

    def _earlier(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        try:
            frame = pd.read_csv(self.path, dtype=dict.fromkeys([*self.columns, "status", "error"], str))
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise DataError(f"{quote(self.path)}, from an earlier run, cannot be read; delete it.") from error
        if not {"status", "error"} <= set(frame.columns):
            raise ConfigError(f"{quote(self.path)} was not written by img2img; move it, or give another folder.")
        frame["error"] = frame["error"].fillna("")
        records: list[dict[str, Any]] = frame.to_dict("records")
        return records

    def save_regularly(self) -> None:
        """Save if the last time is more than `SAVE_EVERY` seconds ago."""
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> Any:
        """Write the table of results, and return it."""
        notes = dict(self.notes)
        listed = {*self.columns, "status", "error"}
        found = dict.fromkeys(name for note in notes.values() for name in note if name not in listed)
        rows = [notes[i] | self.rows[i] for i in sorted(notes)]
        frame = pd.DataFrame(rows, columns=[*self.columns, *found, "status", "error"])
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(self.path) as temporary:
                frame.to_csv(temporary, index=False)
        except OSError as error:
            raise ConfigError(f"{quote(self.path)} cannot be written: {error.strerror}.") from error
        self.saved = time.monotonic()
        return frame


def _with_name(files: tuple[Path, ...], reason: str) -> str:
    """Return a reason in one line that names a file of the row."""
    named = any(quote(path) in reason for path in files)
    return (reason if named else f"{quote(files[0])}: {reason}").replace("\n", "\\n")
