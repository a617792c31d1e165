"""Requests that wait for a worker, in the order in which they came."""

import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from img2img.errors import quote
from img2img.serve.asked import Drawing, Translation

BATCH = 16  # images given to the engine at once


@dataclass(frozen=True)
class Result:
    """The file that a task made, and what its client should know about it."""

    path: Path
    outside: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Task:
    """A request that is to be computed.

    Attributes:
        asked: what is asked for.
        source: the uploaded file, under a name of ours; None for images from noise.
        name: the name that its client gave it, which is used in sentences only.
        alone: whether it shares no batch.
        future: what came of it.
        wanted: whether its client still waits.
    """

    asked: Translation | Drawing
    source: Path | None = None
    name: str = ""
    alone: bool = False
    future: "Future[Result]" = field(default_factory=Future)
    wanted: bool = True
    begun: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, result: Result) -> None:
        """Hand over the result, or remove it if nobody waits for it."""
        with self._lock:
            if self.wanted:
                self.future.set_result(result)
            else:
                remove_file(result.path)
        self.clean()

    def fail(self, error: Exception) -> None:
        """Hand over an error."""
        with self._lock:
            if self.wanted and not self.future.done():
                self.future.set_exception(error)
        self.clean()

    def leave(self) -> None:
        """Note that nobody waits for the result."""
        with self._lock:
            self.wanted = False
            if self.future.done() and self.future.exception() is None:
                remove_file(self.future.result().path)

    def clean(self) -> None:
        """Remove the uploaded file."""
        if self.source is not None:
            remove_file(self.source)

    def words(self, text: str) -> str:
        """Return a sentence about the uploaded file with its own name in place of ours, and no path of the server."""
        if self.source is None:
            return text
        text = text.replace(quote(self.source), quote(self.name))
        return text.replace(f"{self.source.parent}/", "").replace(self.source.stem, quote(Path(self.name).stem))


class Line:
    """Tasks that wait, for any number of workers."""

    def __init__(self) -> None:
        self._waiting: deque[Task] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, task: Task) -> None:
        """Add a task at the end."""
        with self._changed:
            self._waiting.append(task)
            self._changed.notify()

    def take(self) -> list[Task]:
        """Wait for the first task, and return it with those that may share its batch; nothing once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            batch = [first]
            if not first.alone:
                alike = (x for x in self._waiting if x.asked == first.asked and not x.alone)
                batch += [task for task, _ in zip(alike, range(BATCH - 1), strict=False)]
                for task in batch[1:]:
                    self._waiting.remove(task)
            return batch

    def drop(self, task: Task) -> None:
        """Stop a task: take it out of the line, or let its worker know that nobody waits."""
        task.leave()
        with self._changed, suppress(ValueError):
            self._waiting.remove(task)
            task.clean()

    def close(self) -> None:
        """Let the workers end once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def remove_file(path: Path) -> None:
    """Remove a file, if it is there."""
    with suppress(OSError):
        path.unlink()
