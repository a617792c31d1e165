"""Progress of a job: a live bar in a terminal, one output that updates in a notebook, otherwise an occasional line."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from img2img.errors import counted
from img2img.runtime.output import stderr_console

PLAIN_SECONDS = 20.0  # between plain lines
LIVE_SECONDS = 0.1  # between updates of a live bar
CELL_SECONDS = 1.0  # between updates of a notebook's output
MEMORY_SECONDS = 300.0  # window over which the rate is measured
WARM_SECONDS = 2.0  # of measured work, after which the slow first piece no longer counts
CELL_BAR = 30  # characters

Function = TypeVar("Function", bound=Callable[..., Any])
Advance = Callable[[int, int], None]  # (done, total)


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds, "0:03:09", and from one day as "1 d 3 h"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def rough_duration(seconds: float) -> str:
    """Format seconds as a rough duration, e.g. "40 minutes", "5 hours" or "3 days"."""
    units = (("day", 86400), ("hour", 3600), ("minute", 60))
    unit, length = next(((u, s) for u, s in units if seconds >= 1.5 * s), units[-1])
    count = max(1, round(seconds / length))
    return counted(count, unit, f"{unit}s")


def rate(per_second: float) -> str:
    """Format a rate with two or three digits."""
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


class Pace:
    """The speed of a job of `total` pieces over the last minutes, measured from when pieces were completed.

    Args:
        total: pieces in the whole job, 0 if not yet known.
        done: pieces completed before.
        unit: the unit that the rate counts.
        clock: returns the time in seconds.

    Attributes:
        warm: whether the rate excludes the first piece, during which models load, compile and choose kernels.
    """

    def __init__(
        self, total: int, done: int = 0, unit: str = "img", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done, self.work, self.unit, self.clock = total, done, 0.0, unit, clock
        self.now, self.warm = self.clock(), False
        self.marks = deque([(self.now, self.done, self.work)])

    def mark(self, done: int, work: float = 1.0) -> None:
        """Record that `done` pieces are complete, with `work` units since the last call."""
        self.now, self.done, self.work = self.clock(), done, self.work + work
        first_piece = len(self.marks) == 1 and not self.warm
        if first_piece or self.now - self.marks[-1][0] >= 1:
            self.marks.append((self.now, self.done, self.work))
        warmed = not self.warm and self.now - self.marks[1][0] >= WARM_SECONDS
        if warmed or (len(self.marks) > 2 and self.now - self.marks[1][0] > MEMORY_SECONDS):
            self.marks.popleft()
            self.warm = True

    @property
    def seconds(self) -> float | None:
        """Seconds per piece; None while unknown."""
        then, done, _ = self.marks[0]
        return (self.now - then) / (self.done - done) if self.done > done else None

    @property
    def text(self) -> str:
        """The state in one line, e.g. "7 % 140/2000 9.8 img/s 0:03:09 left"."""
        then, _, work = self.marks[0]
        share = f"{self.done / self.total if self.total else 1:.0%}".replace("%", " %")
        if self.seconds is None or self.now <= then:
            return f"{share} {self.done}/{self.total} starting"
        speed = rate((self.work - work) / (self.now - then))
        if not self.total:
            return f"{self.done} {speed} {self.unit}/s"
        left = duration((self.total - self.done) * self.seconds)
        return f"{share} {self.done}/{self.total} {speed} {self.unit}/s {left} left"


class _TwoLines(Progress):
    """A bar with a line below it, truncated to the width of the terminal."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")


class Meter:
    """A display of a job's progress on a console.

    Args:
        console: the console; a quiet one shows nothing.
        title: one word for the job.
        total: pieces in the whole job, 0 if not yet known.
        done: pieces completed before.
        print_line: prints a plain line; by default on the console.
        unit: the unit that the rate counts.
        first: seconds before the first plain line.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        total: int = 0,
        done: int = 0,
        print_line: Callable[[str], object] | None = None,
        unit: str = "img",
        first: float = PLAIN_SECONDS,
    ) -> None:
        self.console, self.title, self.below = console, title, ""
        self.print_line = print_line or (lambda text: console.print(text, markup=False, soft_wrap=True))
        self.pace = Pace(total, done, unit)
        self.due = self.pace.now + (0.0 if console.is_terminal or console.is_jupyter else first)
        self.last_line = ""
        self.cell: Any = None
        self.bar: _TwoLines | None = None
        self.task = TaskID(0)
        if console.is_terminal and not console.quiet:
            columns = (TextColumn(title), BarColumn(None), TextColumn("{task.description}"))
            self.bar = _TwoLines(*columns, console=console, transient=True, expand=True)
            self.task = self.bar.add_task(self.pace.text, total=total or None, completed=done)
            self.bar.start()

    def advance(self, done: int, total: int | None = None, work: float | None = None) -> None:
        """Show that `done` pieces of `total` are complete, with `work` units since the last call."""
        if total is not None:
            self.pace.total = total
        self.pace.mark(done, done - self.pace.done if work is None else work)
        is_last = done == self.pace.total and (self.console.is_terminal or self.last_line)  # a quick job needs no line
        if self.pace.now >= self.due or is_last:
            self.show()

    def show(self) -> None:
        """Update the display now."""
        if self.console.quiet:
            return
        text, share = self.pace.text, self.pace.done / self.pace.total if self.pace.total else 0.0
        if self.bar is not None:
            self.bar.below = self.below
            self.bar.update(self.task, completed=self.pace.done, total=self.pace.total or None, description=text)
            pause = LIVE_SECONDS
        elif self.console.is_jupyter:
            bar = "━" * round(share * CELL_BAR)
            self.last_line = f"{self.title} {bar:─<{CELL_BAR}} {text}\n{self.below}".rstrip()
            self._show_cell(self.last_line)
            pause = CELL_SECONDS
        else:
            line = f"{self.title} {text}" + (f" | {self.below}" if self.below else "")
            if line != self.last_line:
                self.print_line(line)
            self.last_line, pause = line, PLAIN_SECONDS
        self.due = self.pace.now + pause

    def _show_cell(self, text: str) -> None:
        """Replace one output of the notebook; IPython itself can do this, without widgets."""
        display = import_module("IPython.display").display
        if self.cell is None:
            self.cell = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.cell.update({"text/plain": text}, raw=True)

    def close(self) -> None:
        """Remove the live bar."""
        if self.bar is not None:
            self.bar.stop()


def shown_in_notebook(
    title: str, unit: str = "img", adapt: Callable[[Advance], Callable[..., None]] = lambda advance: advance
) -> Callable[[Function], Function]:
    """Let a function show its progress in a notebook, where it was not given a `progress` of the caller's own.

    Elsewhere it shows nothing, and a quick job shows nothing anywhere.

    Args:
        title: one word for the job.
        unit: the unit that the rate counts.
        adapt: makes the function's `progress` of one that takes the number of pieces done, and of all.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def shown(*given: Any, progress: Callable[..., None] | None = None, **options: Any) -> Any:
            if progress is not None:
                return function(*given, progress=progress, **options)
            console = stderr_console()
            if not console.is_jupyter:
                return function(*given, **options)
            meter = Meter(console, title, unit=unit)
            meter.due += CELL_SECONDS
            return function(*given, progress=adapt(meter.advance), **options)

        return shown  # type: ignore[return-value]

    return decorate
