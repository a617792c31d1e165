"""How games fail: what is seen in the records of a run, said in words.

Signs are taken over the last `WINDOW` records, so that one odd record is no alarm; thresholds are those that tell
games which were made to fail (`benchmarks/modes.py`) from games that learn (`benchmarks/healthy.py`; docs/gan.md).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

WINDOW = 5  # records
SWING = 2 * WINDOW  # records in which a swing has to turn twice
EARLY = 5  # first records, whose largest gradient is the measure for later ones
SURE = 0.99  # share that a discriminator judges right, from which it knows everything
VANISHED = 0.2  # of the generator's early gradient: little of it is left
SATURATED = 0.005  # of the early gradient of the discriminator: it has stopped as well
COLLAPSED = 0.3  # of the data's variety
SETTLED = (0.1, 500, 0.5)  # share of the run, at least so many steps, at most this share: generators are alike before
SWINGING = 0.2  # by how much more one side is judged right than the other, before the other one is

Row = Mapping[str, Any]


@dataclass
class Finding:
    """A failure that is going on, or is over.

    Attributes:
        kind: its name, one of `SIGNS`, or "not finite".
        start: the step at which it was seen first.
        end: the step at which it was not seen any more; None while it goes on.
        ways: options that may help this run.
    """

    kind: str
    start: int
    end: int | None = None
    ways: str = ""

    @property
    def meaning(self) -> str:
        return f"{self.kind}: {MEANINGS[self.kind]}"

    @property
    def to_try(self) -> str:
        return f"To try: {self.ways}." if self.ways else ""

    def __post_init__(self) -> None:
        if self.kind not in MEANINGS:
            raise ValueError(f"no such finding: {self.kind!r}")

    @property
    def text(self) -> str:
        """What it means, and what to try."""
        return f"{self.meaning} {self.to_try}".rstrip()

    @property
    def when(self) -> str:
        return f"from step {self.start}" + (" on" if self.end is None else f" to {self.end}")


MEANINGS = {
    "discriminator winning": "the discriminator judges everything right, and the generator's gradient has vanished.",
    "saturation": "the discriminator is so sure that its own loss is flat, and neither side learns.",
    "mode collapse": "generated images resemble each other far more than the data do.",
    "oscillation": "generator and discriminator take turns at being right, and run in circles.",
    "not finite": "a loss or a weight is no longer a finite number.",
}


def accuracies(row: Row) -> tuple[list[float], list[float]]:
    """The shares that the discriminators judge right, of real and of generated images."""
    real, fake = ([v for k, v in row.items() if k.endswith(side)] for side in ("_real", "_fake"))
    return real, fake


def _sure(rows: Sequence[Row]) -> bool:
    right = [min([*real, *fake]) for real, fake in map(accuracies, rows) if real and fake]
    return len(right) == len(rows) and fmean(right) >= SURE


def _left(rows: Sequence[Row], early: Row, name: str) -> float:
    """A gradient norm, as a share of what it was at first."""
    first: float = early.get(name, 0)
    return fmean(row[name] for row in rows) / first if first else 1.0


def winning(rows: Sequence[Row], early: Row, settled: bool) -> bool:
    rows = rows[-WINDOW:]
    return _sure(rows) and _left(rows, early, "grad_G") < VANISHED


def saturation(rows: Sequence[Row], early: Row, settled: bool) -> bool:
    rows = rows[-WINDOW:]
    return _sure(rows) and _left(rows, early, "grad_D") < SATURATED


def collapse(rows: Sequence[Row], early: Row, settled: bool) -> bool:
    return settled and fmean(row.get("diversity", 1.0) for row in rows[-WINDOW:]) < COLLAPSED


def oscillation(rows: Sequence[Row], early: Row, settled: bool) -> bool:
    leads = [fmean(real) - fmean(fake) for real, fake in map(accuracies, rows) if real and fake]
    ahead = [lead > 0 for lead in leads if abs(lead) > SWINGING]
    return sum(one != other for one, other in pairwise(ahead)) >= 2  # there and back again; a game that starts is once


SIGNS: dict[str, Callable[[Sequence[Row], Row, bool], bool]] = {
    "discriminator winning": winning,
    "saturation": saturation,
    "mode collapse": collapse,
    "oscillation": oscillation,
}


class Diagnosis:
    """Watches the records of a run of `steps` steps.

    Args:
        steps: of the whole run.
        advise: what may help against a kind of failure, in words.

    Attributes:
        findings: all so far, in the order in which they were seen.
    """

    def __init__(self, steps: int, advise: Callable[[str], str] = lambda kind: "") -> None:
        self.steps, self.advise = steps, advise
        self.findings: list[Finding] = []
        self._first: list[Row] = []
        self._last: deque[Row] = deque(maxlen=SWING)

    def see(self, step: int, row: Row) -> list[Finding]:
        """Takes one record; returns what it shows that was not there before."""
        if len(self._first) < EARLY:
            self._first.append(row)
        self._last.append(row)
        if len(self._last) < WINDOW:
            return []
        names = self._first[0]
        early = {k: max(r[k] for r in self._first) for k in names if k.startswith("grad_")}
        open_ = {finding.kind: finding for finding in self.findings if finding.end is None}
        share, least, most = SETTLED
        settled = step >= min(max(share * self.steps, least), most * self.steps)
        new = []
        for kind, seen in SIGNS.items():
            there = seen(list(self._last), early, settled)
            if there and kind not in open_:
                new.append(Finding(kind, step, ways=self.advise(kind)))
            elif not there and kind in open_:
                open_[kind].end = step
        self.findings += new
        return new
