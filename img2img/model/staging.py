"""Translation from a store, or into one: files are brought, translated on this disk, and their results sent."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from img2img.data.folders import skipped_note
from img2img.data.remote import Remote
from img2img.errors import ConfigError, DataError, Img2ImgError, StoreError, TrainingError
from img2img.model.folder import Job
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.model.record import RECORD, mark_finished, refuse_taken
from img2img.model.staged import COPY, LANES, Item, StagedPlan
from img2img.model.summary import Outcome, Status
from img2img.model.translator import Translator

LIVE = 256  # files on this disk at a time: on their way, being translated, or waiting to be sent
LIVE_BYTES = 2**31  # of the originals of those, if they are large
CHUNK = 64  # files that are translated in one go
LOOK_SECONDS = 1.0  # for which a record that was read holds
TRIES = 10  # to write the first record of a place that others write into


class StagedJob(Job):
    """A job whose files come from a store, or whose results go to one; a place of the other kind is a folder.

    Files are brought and results sent while others are translated, as in a job on this disk, and byte for byte like
    it. A bounded number of files lies in a temporary folder of this machine, and no more names are held.

    Raises:
        ConfigError, DataError: as of a `Job`, and if a store cannot be read or written.
    """

    def __init__(
        self,
        translator: Translator,
        source: Path | Remote,
        out: Path | Remote,
        options: TranslateOptions,
        files: FolderOptions,
    ) -> None:
        if files.statistics:
            raise ConfigError(f"--statistics works on files of this machine alone; {COPY}.")
        self.staged = plan = StagedPlan(source, out, files)
        try:
            with self._retold():
                for _ in range(TRIES):
                    before = plan.read_record()
                    super().__init__(translator, plan.base, plan.out, options, files, plan)
                    if plan.write_record(before):
                        break
                else:
                    raise ConfigError(f"{plan.place.show(RECORD)} comes and goes; end the other commands that use it.")
        except BaseException:
            plan.close()
            raise
        self.items, self.ended = plan.items(), 0
        self.next = next(self.items, None)
        self.ahead: deque[tuple[Item, Future[bool]]] = deque()
        self.sending: deque[tuple[Item, Outcome, Future[None]]] = deque()
        self.lanes = [ThreadPoolExecutor(LANES), ThreadPoolExecutor(LANES)]  # to here, and from here
        self.looked, self.lock = time.monotonic(), threading.Lock()

    def run(self) -> Iterator[Outcome]:
        """Yield the outcome of each file as soon as it is known; the number of all of them is not known.

        Raises:
            TrainingError: if a disk is full, or a store does not answer any more.
        """
        try:
            with self._retold():
                yield from self._run()
                before = (self.plan.out / RECORD).read_bytes()
                mark_finished(self.plan.out)
                self.staged.write_record(before)
        finally:
            for pool in self.lanes:
                pool.shutdown(cancel_futures=True)
            self.staged.close()
        self.translator.notes += skipped_note(self.staged.passed_meanwhile)

    def _run(self) -> Iterator[Outcome]:
        todo: deque[Path] = deque()
        self._fill()
        while self.ahead:
            while self.ahead and len(todo) < CHUNK and (not todo or self.ahead[0][1].done()):
                item, future = self.ahead.popleft()
                if outcome := self._arrived(item, future):
                    yield outcome
                else:
                    todo.append(item.source)
                self._fill()
            for outcome in self.translate(todo) if todo else ():
                yield from self._translated(outcome)
                yield from self._sent(LIVE // 2)
                self._fill()
        yield from self._sent(0)

    def _fill(self) -> None:
        """Begin to bring as many of the next files as there is room for: one at least."""
        live = self.staged.live
        while item := self.next:
            held = sum(other.size for other in live.values())
            if live and (len(live) >= LIVE or held + item.size > LIVE_BYTES):
                break
            live[item.number] = item
            self.ahead.append((item, self.lanes[0].submit(self._bring, item)))
            self.next = next(self.items, None)

    def _bring(self, item: Item) -> bool:
        """Bring a file; return False if its result exists already."""
        if item.fault:
            raise DataError(item.fault)
        if not self.files.overwrite and self.staged.place.size(item.result) is not None:
            return False
        item.source.parent.mkdir()
        self.staged.source.bring(item.name, item.source)
        return True

    def _arrived(self, item: Item, future: Future[bool]) -> Outcome | None:
        """Return the outcome of a file that is not to be translated; None if it is."""
        try:
            return None if future.result() else self._ended(item, "skipped")
        except StoreError as error:
            self._refuse_silent(error)
            return self._ended(item, "failed", str(error))
        except DataError as error:
            return self._ended(item, "failed", f"{self.staged.source.show(item.name)}: {error}")

    def _translated(self, outcome: Outcome) -> Iterator[Outcome]:
        """Send a result; yield the outcome of a file that has none."""
        item = self.staged.live[int(Path(outcome.target).parent.name)]
        notes = self.translator.notes
        notes[:] = [self.staged.retell(note) for note in notes]
        if outcome.status == "translated":
            self.sending.append((item, outcome, self.lanes[1].submit(self._send, item)))
        else:
            yield self._ended(item, outcome.status, self.staged.retell(outcome.reason))

    def _send(self, item: Item) -> None:
        with self.lock:
            self._refuse_taken()
        self.staged.send(item)

    def _sent(self, most: int) -> Iterator[Outcome]:
        """Wait until at most `most` results are on their way; yield the outcomes of those that have been sent."""
        while self.sending and (len(self.sending) > most or self.sending[0][2].done()):
            item, outcome, future = self.sending.popleft()
            try:
                future.result()
            except StoreError as error:
                self._refuse_silent(error)
                yield self._ended(item, "failed", f"{self.staged.source.show(item.name)}: {error}")
            else:
                yield self._ended(item, "translated", outside=outcome.outside)

    def _ended(self, item: Item, status: Status, reason: str = "", outside: float = 0.0) -> Outcome:
        self.staged.release(item)
        self.ended += 1
        paths = self.staged.path(item), self.staged.path(item, is_result=True)
        return Outcome(*paths, status, reason.replace("\n", "\\n"), outside, self.ended)

    def _refuse_silent(self, error: StoreError) -> None:
        """Raise TrainingError if a store does not answer, rather than let every file fail by itself."""
        if error.absent:
            return
        try:
            self.staged.source.check()
            self.staged.place.check()
        except StoreError as silence:
            raise TrainingError(f"{silence} Start the same command again to translate what is missing.") from error

    def _refuse_taken(self) -> None:
        """Raise ConfigError if another command has begun to write other results to the same place."""
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self.staged.read_record()
            self.looked = time.monotonic()
        refuse_taken(self.plan.out, self.record)

    @contextmanager
    def _retold(self) -> Iterator[None]:
        """Let what is raised name the files where they are, and not where they lie meanwhile."""
        try:
            yield
        except Img2ImgError as error:
            error.args = (self.staged.retell(str(error)),)
            raise
