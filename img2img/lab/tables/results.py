"""Tables in, folders out: the result of every row, and the table that lists them."""

import errno
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from threading import Event, local
from typing import Any, Protocol, cast

from img2img.data.domain import TAIL_BYTES, fingerprint
from img2img.data.images import not_kept
from img2img.data.inbox import brought, fingerprint_of
from img2img.data.outbox import standing_for
from img2img.data.picture import Array
from img2img.data.remote import Remote
from img2img.errors import ConfigError, DataError, StoreError, TrainingError, is_url, quote
from img2img.lab.checks import threads
from img2img.lab.large import LargeImage
from img2img.lab.tables import blockwise
from img2img.lab.tables.blockwise import write_by_region
from img2img.lab.tables.destination import Destination
from img2img.lab.tables.images import joined
from img2img.lab.tables.listing import ERROR, SOURCE, STATUS, Listing, Row
from img2img.lab.tables.manifest import Manifest

AHEAD = 1024  # rows handed to the threads at once, so that memory does not grow with the table

Function = Callable[[int, Array], tuple[Array, dict[str, Any]]]
Notes = dict[int, Row]


class RegionFunction(Protocol):
    """A `Function` that also takes images too large to be held."""

    def large(self, i: int, image: LargeImage) -> tuple[blockwise.Function, str | None, Row]:
        """Return what makes the result of a block, the type of results or None for that of the image, and notes."""


class Rows:
    """The rows of a table whose results are made, in any process.

    Args:
        manifest: the table.
        destination: where the results go.
        function: as in `transform`.
        overwrite: whether results that exist are made again.
        makers: the equalizer of the rows of each batch; notes then tell which originals results are of. None if it is
            not known.
        threads: that share the blocks of a row that is too large to be held.
    """

    def __init__(
        self,
        manifest: Manifest,
        destination: Destination,
        function: Function,
        overwrite: bool,
        makers: Mapping[str, str] | None,
        threads: int,
    ) -> None:
        self.manifest, self.destination, self.function = manifest, destination, function
        self.overwrite, self.makers, self.threads, self.mine, self.stop = overwrite, makers, threads, local(), Event()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"mine": None, "stop": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"mine": local(), "stop": Event()})

    def make(self, i: int, note: Row) -> Row:
        """Write the result of row `i` unless it is there, and return the note on it; `note` is that of an earlier run.

        Raises:
            TrainingError: if the disk is full.
        """
        files = self.manifest.files[i]
        try:
            if not self.overwrite and note.get(STATUS) in ("done", "kept") and self.destination.holds(i):
                source = self._source(files)
                if not source or note.get(SOURCE) == source:
                    return note | {STATUS: "kept", ERROR: ""}
            with brought(files) as here:
                return self._made(i, here)
        except (ConfigError, DataError, TrainingError) as error:
            reason = str(error)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise TrainingError(
                    f"The disk of {quote(self.destination.folder)} is full; free some space and run the same command "
                    "again."
                ) from error
            reason = f"its result cannot be written: {error.strerror or error}."
        return failed(files, self.destination.retold(reason))

    def _made(self, i: int, here: Sequence[Path]) -> Row:
        """Write the result of row `i`, whose files are `here` on this disk, and return the note on it."""
        source = self._source(here)
        pictures = self.manifest.contents(i, here)
        if isinstance(pictures, LargeImage):
            note, lost = self._by_region(i, pictures, source)
        else:
            # new memory costs more than copying into it
            self.mine.image = joined(pictures, getattr(self.mine, "image", None))
            image, note = self.function(i, self.mine.image)
            self.destination.write(i, image, pictures)
            pairs = zip(pictures, self.destination.targets[i], strict=True)
            lost = tuple(what for picture, target in pairs for what in not_kept(picture, target))
        note |= {"not_kept": "; ".join(dict.fromkeys(lost))} if lost else {}
        note |= {SOURCE: source} if source else {}
        return note | {STATUS: "done", ERROR: ""}

    def _source(self, files: Sequence[Path]) -> str:
        return _source(files) if self.makers is not None else ""

    def _by_region(self, i: int, image: LargeImage, source: str) -> tuple[Row, tuple[str, ...]]:
        """Write the result of a row that is too large to be held; return the notes on it, and what it does not keep."""
        function, files = cast(RegionFunction, self.function), self.manifest.files[i]
        if self.destination.place is not None:
            raise DataError(
                "it has to be written by region, which a disk allows; give a folder on one for the results."
            )
        record = {"equalizer": (self.makers or {}).get(self.manifest.batch[i]), "source": source or _source(files)}
        block, dtype, note = function.large(i, image)
        targets, stopped = self.destination.targets[i], self.stop.is_set
        self.destination.copy_groups(i)
        return note, write_by_region(files, targets, block, dtype, record, stopped, self.threads)


Engine = Callable[[Rows, Notes], Generator[int, None, None]]  # updates the notes on rows; yields the number done


def transform(
    manifest: Manifest,
    function: Function,
    out_dir: str | Path | Remote,
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
            For images too large to be held it is a `RegionFunction`.
        out_dir: the folder of results, or a place in a store.
        overwrite: replace existing results; if that fails, the earlier result is kept.
        progress: called with the number of rows done and the total.
        n_jobs: threads, each with one row in memory; -1 is one for each core. Those without one share the blocks of
            large images.
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
    with ExitStack() as stack:
        place = out_dir if isinstance(out_dir, Remote) else None
        folder = Path(str(out_dir)) if place is None else stack.enter_context(standing_for(place))
        destination = Destination(manifest, folder, place)
        return _transform(destination, function, overwrite, progress, n_jobs, makers, engine)


def _transform(
    destination: Destination,
    function: Function,
    overwrite: bool,
    progress: Callable[[int, int], None] | None,
    n_jobs: int,
    makers: Sequence[str] | None,
    engine: Engine | None,
) -> Any:
    manifest, workers = destination.manifest, 1 if engine else threads(n_jobs)
    engine = engine or partial(by_threads, threads=workers)
    listing = Listing(destination, makers)
    if not overwrite and not listing.exists:
        destination.refuse_foreign()
    destination.remove_stale()
    listing.begin(overwrite)  # to fail before anything is computed
    of_batch = None if makers is None else dict(zip(manifest.batch, makers, strict=True))
    rows = Rows(manifest, destination, function, overwrite, of_batch, max(1, workers // max(len(manifest), 1)))
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

    yield from _each(work, len(rows.manifest), threads, rows.stop)


def _each(work: Callable[[int], None], count: int, threads: int, stop: Event) -> Generator[int, None, None]:
    """Work on 0 to count - 1; yield the number that are done. At the end, or at an exception, `stop` is set."""
    pool = ThreadPoolExecutor(threads)
    try:
        for first in range(0, count, AHEAD):
            rows = range(first, min(first + AHEAD, count))
            steps = pool.map(work, rows) if threads > 1 else map(work, rows)
            yield from (done for done, _ in enumerate(steps, first + 1))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _source(files: Sequence[Path]) -> str:
    """Return a checksum of the files' sizes and last bytes; "" if one cannot be read."""
    try:
        parts = [part for path in files for part in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        found = [
            fingerprint_of(part, TAIL_BYTES) if is_url(part) else fingerprint(part)
            for part in parts
            if not part.is_dir()
        ]
        return f"{zlib.crc32(repr(found).encode()):08x}"
    except (OSError, StoreError):
        return ""


def failed(files: Sequence[Path], reason: str) -> Row:
    """Return the note on a row that failed, with a reason in one line that names a file of the row."""
    named = any(quote(path) in reason for path in files)
    text = reason if named else f"{quote(files[0])}: {reason}"
    return {STATUS: "failed", ERROR: text.replace("\n", "\\n")}
