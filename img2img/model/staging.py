"""Translation from a store, or into one: files are brought, translated on this disk, and their results sent."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img2img.data.folders import skipped_note
from img2img.data.outbox import LANES
from img2img.data.remote import Remote
from img2img.errors import ConfigError, DataError, Img2ImgError, StoreError, TrainingError, quote
from img2img.model.folder import Job
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.model.record import RECORD, join_record, mark_finished, refuse_taken, unseen
from img2img.model.staged import COPY, Item, StagedPlan
from img2img.model.summary import Fields, Outcome, Status
from img2img.model.translator import Translator

LIVE = 256  # files on this disk at a time: on their way, being translated, or waiting to be sent
LIVE_BYTES = 2**31  # of the originals of those, if they are large
CHUNK = 64  # files that are translated in one go
LOOK_SECONDS = 1.0  # for which a record that was read holds
TRIES = 10  # to write the first record of a place that others write into


@dataclass
class _Flow:
    """Files that are being processed: those to come, and those that are on their way to this disk and from it."""

    items: Iterator[Item]
    ahead: deque[tuple[Item, Future[bool]]] = field(default_factory=deque)
    sending: deque[tuple[Item, Outcome, Future[None]]] = field(default_factory=deque)
    bringing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(LANES))
    away: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(LANES))
    next: Item | None = None

    def advance(self) -> None:
        self.next = next(self.items, None)


class StagedJob(Job):
    """A job whose files come from a store, or whose results go to one; a place of the other kind is a folder.

    Files are brought and results sent while others are translated, as in a job on this disk, and byte for byte like
    it. A bounded number of files lies in a temporary folder of this machine, and no more names are held.

    Raises:
        ConfigError, DataError: as of a `Job`, and if a store cannot be read or written.
    """

    plan: StagedPlan

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
        self.plan = plan = StagedPlan(source, out, files)
        try:
            with self.retold():
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
        self.ended = 0
        self._start()

    def _start(self) -> None:
        self.looked, self.lock = time.monotonic(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"lock": None, "flow": None}

    def run(self) -> Iterator[Outcome]:
        """Yield the outcome of each file as soon as it is known; the number of all of them is not known.

        Raises:
            TrainingError: if a disk is full, or a store does not answer any more.
        """
        with self.whole():
            for item, outcome in self.process(self.plan.items()):
                yield self.ended_with(item, outcome)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Record at the end of the block that the job is done, and remove what lies on this disk."""
        try:
            with self.retold():
                yield
                before = (self.plan.out / RECORD).read_bytes()
                mark_finished(self.plan.out)
                self.plan.write_record(before)
        finally:
            self.plan.close()
        self.translator.notes += skipped_note(self.plan.passed_meanwhile)

    def ended_with(self, item: Item, fields: Fields) -> Outcome:
        """Return what became of a file as an outcome of the job."""
        self.ended += 1
        status, reason, outside = fields
        paths = self.plan.path(item), self.plan.path(item, is_result=True)
        return Outcome(*paths, status, reason, outside, self.ended)

    def join(self) -> None:
        """Set a copy in another process up to compute as the others do.

        Raises:
            ConfigError: if the machine rounds differently, or does not see the places of the job.
        """
        with self.settled(), self.retold():
            for place, is_local in zip((self.plan.source, self.plan.place), self.plan.are_local, strict=True):
                if is_local and not Path(place.root).exists():
                    raise unseen(quote(place.shown))
            self.translator = join_record(self.translator, self.plan.out, self.record)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Give a copy in another process a temporary folder of its own, with the record as it is now."""
        self.plan.settle()
        try:
            self.plan.read_record()
            self._start()
            yield
        finally:
            self.plan.close()

    def process(self, items: Iterator[Item]) -> Iterator[tuple[Item, Fields]]:
        """Translate files that are brought, and send their results; yield what became of each once it is known."""
        flow = self.flow = _Flow(items)
        flow.advance()
        try:
            yield from self._process(flow)
        finally:
            for pool in (flow.bringing, flow.away):
                pool.shutdown(cancel_futures=True)

    def _process(self, flow: _Flow) -> Iterator[tuple[Item, Fields]]:
        todo: deque[Path] = deque()
        self._fill()
        while flow.ahead:
            while flow.ahead and len(todo) < CHUNK and (not todo or flow.ahead[0][1].done()):
                item, future = flow.ahead.popleft()
                if ended := self._arrived(item, future):
                    yield ended
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
        live, flow = self.plan.live, self.flow
        while item := flow.next:
            held = sum(other.size for other in live.values())
            if live and (len(live) >= LIVE or held + item.size > LIVE_BYTES):
                break
            live[item.number] = item
            flow.ahead.append((item, flow.bringing.submit(self._bring, item)))
            flow.advance()

    def _bring(self, item: Item) -> bool:
        """Bring a file; return False if its result exists already."""
        if item.fault:
            raise DataError(item.fault)
        if not self.files.overwrite and self.plan.place.size(item.result) is not None:
            return False
        item.source.parent.mkdir()
        self.plan.source.bring(item.name, item.source)
        return True

    def _arrived(self, item: Item, future: Future[bool]) -> tuple[Item, Fields] | None:
        """Return the outcome of a file that is not to be translated; None if it is."""
        try:
            return None if future.result() else self._ended(item, "skipped")
        except StoreError as error:
            self._refuse_silent(error)
            return self._ended(item, "failed", str(error))
        except DataError as error:
            return self._ended(item, *self.failed(item, str(error)))

    def _translated(self, outcome: Outcome) -> Iterator[tuple[Item, Fields]]:
        """Send a result; yield the outcome of a file that has none."""
        item = self.plan.live[int(Path(outcome.target).parent.name)]
        notes = self.translator.notes
        notes[:] = [self.plan.retell(note) for note in notes]
        if outcome.status == "translated":
            self.flow.sending.append((item, outcome, self.flow.away.submit(self._send, item)))
        else:
            yield self._ended(item, outcome.status, self.plan.retell(outcome.reason))

    def _send(self, item: Item) -> None:
        with self.lock:
            self._refuse_taken()
        self.plan.send(item)

    def _sent(self, most: int) -> Iterator[tuple[Item, Fields]]:
        """Wait until at most `most` results are on their way; yield the outcomes of those that have been sent."""
        sending = self.flow.sending
        while sending and (len(sending) > most or sending[0][2].done()):
            item, outcome, future = sending.popleft()
            try:
                future.result()
            except StoreError as error:
                self._refuse_silent(error)
                yield self._ended(item, *self.failed(item, str(error)))
            else:
                yield self._ended(item, "translated", outside=outcome.outside)

    def failed(self, item: Item, reason: str = "") -> Fields:
        """Return what becomes of a file that has a fault, or fails for another reason."""
        return "failed", f"{self.plan.source.show(item.name)}: {reason or item.fault}".replace("\n", "\\n"), 0.0

    def _ended(self, item: Item, status: Status, reason: str = "", outside: float = 0.0) -> tuple[Item, Fields]:
        self.plan.release(item)
        return item, (status, reason.replace("\n", "\\n"), outside)

    def _refuse_silent(self, error: StoreError) -> None:
        """Raise TrainingError if a store does not answer, rather than let every file fail by itself."""
        if error.absent:
            return
        try:
            self.plan.source.check()
            self.plan.place.check()
        except StoreError as silence:
            raise TrainingError(f"{silence} Start the same command again to translate what is missing.") from error

    def _refuse_taken(self) -> None:
        """Raise ConfigError if another command has begun to write other results to the same place."""
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self.plan.read_record()
            self.looked = time.monotonic()
        refuse_taken(self.plan.out, self.record)

    @contextmanager
    def retold(self) -> Iterator[None]:
        """Let what is raised name the files where they are, and not where they lie meanwhile."""
        try:
            yield
        except Img2ImgError as error:
            error.args = (self.plan.retell(str(error)),)
            raise
