"""Tables in, folders out: the result of every row, and the table that lists them."""

import errno
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import local
from typing import Any

from img2img.data.domain import fingerprint
from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError, TrainingError, quote
from img2img.lab.checks import threads
from img2img.lab.tables.destination import Destination
from img2img.lab.tables.images import joined
from img2img.lab.tables.listing import ERROR, SOURCE, STATUS, Listing, Row
from img2img.lab.tables.manifest import Manifest

AHEAD = 1024  # rows handed to the threads at once, so that memory does not grow with the table

Function = Callable[[int, Array], tuple[Array, dict[str, Any]]]
Notes = dict[int, Row]


class Rows:
    """The rows of a table whose results are made, in any process.

    Args:
        manifest: the table.
        destination: where the results go.
        function: as in `transform`.
        overwrite: whether results that exist are made again.
        signed: whether notes tell which originals results are of.
    """

    def __init__(
        self, manifest: Manifest, destination: Destination, function: Function, overwrite: bool, signed: bool
    ) -> None:
        self.manifest, self.destination, self.function = manifest, destination, function
        self.overwrite, self.signed, self.mine = overwrite, signed, local()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"mine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"mine": local()})

    def make(self, i: int, note: Row) -> Row:
        """Write the result of row `i` unless it is there, and return the note on it; `note` is that of an earlier run.

        Raises:
            TrainingError: if the disk is full.
        """
        files = self.manifest.files[i]
        source = _source(files) if self.signed else ""
        finished = note.get(STATUS) in ("done", "kept") and self.destination.holds(i)
        if finished and not self.overwrite and (not source or note.get(SOURCE) == source):
            return note | {STATUS: "kept", ERROR: ""}
        try:
            pictures = self.manifest.pictures(i)
            # new memory costs more than copying into it
            self.mine.image = joined(pictures, getattr(self.mine, "image", None))
            image, note = self.function(i, self.mine.image)
            self.destination.write(i, image, pictures)
            lost = dict.fromkeys(what for picture in pictures for what in picture.source.stated.lost)
            note |= {"not_kept": "; ".join(lost)} if lost else {}
            note |= {SOURCE: source} if source else {}
            return note | {STATUS: "done", ERROR: ""}
        except (ConfigError, DataError, TrainingError) as error:
            reason = str(error)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise TrainingError(
                    f"The disk of {quote(self.destination.folder)} is full; free some space and run the same command "
                    "again."
                ) from error
            reason = f"its result cannot be written: {error.strerror or error}."
        return failed(files, reason)


Engine = Callable[[Rows, Notes], Generator[int, None, None]]  # updates the notes on rows; yields the number done


def transform(
    manifest: Manifest,
    function: Function,
    out_dir: str | Path,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    n_jobs: int = 1,
    makers: Sequence[str] | None = None,
    engine: Engine | None = None,
) -> Any:
    """Write the result of every row below `out_dir`, under the names of its files.

    A row that fails is noted, and the others are still processed. Rows whose results all exist, and are listed in an
    earlier `equalized.csv`, are kept with that entry unless their originals have changed, so a stopped run can be
    resumed; a killed run may repeat what it had not listed yet. Several processes may write parts of a table into one
    folder at the same time.

    Args:
        manifest: the table.
        function: called with the number of a row and its image (C, H, W), from each of the `n_jobs` threads; returns
            the result, of the same shape, and the notes on it. The image's memory is that thread's next one's as well.
        out_dir: the folder of results.
        overwrite: replace existing results; if that fails, the earlier result is kept.
        progress: called with the number of rows done and the total.
        n_jobs: threads, each with one row in memory; -1 is one for each core.
        makers: the equalizer of each row, see `Listing`; results of another are refused, or replaced by `overwrite`.
        engine: what works on the rows in place of threads.

    Returns:
        A DataFrame with one row for each of the manifest's: its columns, the names of the results below `out_dir`, the
        notes, `status` (done, kept or failed) and `error`. It is also written to `equalized.csv`, which is a table too.

    Raises:
        ConfigError: if results would overwrite originals, are those of another equalizer, or cannot be written there.
        DataError: if results would be lossy, have the same name, or would lie elsewhere.
        TrainingError: if the disk is full.
    """
    out_dir = Path(out_dir)
    engine = engine or partial(by_threads, threads=threads(n_jobs))
    destination = Destination(manifest, out_dir)
    listing = Listing(destination, makers)
    if not overwrite and not listing.path.exists():
        destination.refuse_foreign()
    destination.remove_stale()
    listing.begin(overwrite)  # to fail before anything is computed
    rows = Rows(manifest, destination, function, overwrite, signed=makers is not None)
    try:
        with closing(engine(rows, listing.notes)) as steps:
            for done in steps:
                listing.save_regularly()
                if progress:
                    progress(done, len(manifest))
    finally:
        frame = listing.save()
    return frame


def by_threads(rows: Rows, notes: Notes, threads: int) -> Generator[int, None, None]:
    """Work on rows in threads of this process; see `Engine`."""
    earlier = dict(notes)

    def work(i: int) -> None:
        notes[i] = rows.make(i, earlier.get(i, {}))

    yield from _each(work, len(rows.manifest), threads)


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


def _source(files: Sequence[Path]) -> str:
    """Return a checksum of the files' sizes and last bytes; "" if one cannot be read."""
    try:
        parts = [part for path in files for part in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return f"{zlib.crc32(repr([fingerprint(part) for part in parts if not part.is_dir()]).encode()):08x}"
    except OSError:
        return ""


def failed(files: Sequence[Path], reason: str) -> Row:
    """Return the note on a row that failed, with a reason in one line that names a file of the row."""
    named = any(quote(path) in reason for path in files)
    text = reason if named else f"{quote(files[0])}: {reason}"
    return {STATUS: "failed", ERROR: text.replace("\n", "\\n")}
