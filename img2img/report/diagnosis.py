"""Recognising failures of adversarial games in the records of a run.

Signs are taken over the last `WINDOW` records, so that one odd record raises no alarm; the thresholds are those that
separate games made to fail (`benchmarks/modes.py`) from games that learn (`benchmarks/healthy.py`; docs/gan.md).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from img2img.runs.facts import Failure, Finding
from img2img.runs.record import kinds_of_old

WINDOW = 5  # records
SWING = 2 * WINDOW  # records within which an oscillation has to turn twice
EARLY = 5  # first records, whose largest gradient is the reference for later ones
SURE = 0.99  # accuracy from which a discriminator knows everything
VANISHED = 0.2  # of the generator's early gradient: little of it is left
SATURATED = 0.005  # of the early gradient of the discriminator: it has stopped learning as well
COLLAPSED = 0.3  # of the data's variety
SETTLED = (0.1, 500, 0.5)  # share of the run, at least so many steps, at most this share: images are alike before
SWINGING = 0.2  # lead in accuracy of one side over the other before the lead changes

Scalars = Mapping[str, float]


class Signs(NamedTuple):
    """The scalars that signs of failure are read from.

    Attributes:
        accuracies: of all discriminators on real and on generated images, in each of the last `SWING` records.
        varieties: of generated images, relative to the data, in the last `WINDOW` records.
        g_left: the gradient norm of the generators in these records, as a share of its largest early value.
        d_left: that of the discriminators.
        settled: whether the run is long enough that images should differ.
    """

    accuracies: Sequence[tuple[list[float], list[float]]]
    varieties: Sequence[float]
    g_left: float
    d_left: float
    settled: bool


def is_sure(signs: Signs) -> bool:
    """Tell whether every discriminator has judged nearly everything right."""
    last = signs.accuracies[-WINDOW:]
    least = [min([*real, *fake]) for real, fake in last if real and fake]
    return len(least) == len(last) and fmean(least) >= SURE


def oscillates(signs: Signs) -> bool:
    leads = [fmean(real) - fmean(fake) for real, fake in signs.accuracies if real and fake]
    ahead = [lead > 0 for lead in leads if abs(lead) > SWINGING]
    return sum(one != other for one, other in pairwise(ahead)) >= 2  # back and forth; a game that starts turns once


SIGNS: dict[Failure, Callable[[Signs], bool]] = {
    "discriminator winning": lambda signs: is_sure(signs) and signs.g_left < VANISHED,
    "saturation": lambda signs: is_sure(signs) and signs.d_left < SATURATED,
    "mode collapse": lambda signs: signs.settled and bool(signs.varieties) and fmean(signs.varieties) < COLLAPSED,
    "oscillation": oscillates,
}


class Diagnosis:
    """Watches the records of a run.

    Args:
        steps: the length of the run.
        advise: returns what may help against a kind of failure, in words.
        kinds: scalar -> kind, see `runs.facts.Facts`; None to derive them from the names.
        generator: the player that owns the generators.
        discriminator: the player that owns the discriminators.

    Attributes:
        findings: all so far, in the order in which they were seen.
    """

    def __init__(
        self,
        steps: int,
        advise: Callable[[str], str] = lambda kind: "",
        kinds: Mapping[str, str] | None = None,
        generator: str = "G",
        discriminator: str = "D",
    ) -> None:
        self.steps, self.advise, self.kinds = steps, advise, kinds
        self.players = generator, discriminator
        self.findings: list[Finding] = []
        self._first: list[Scalars] = []
        self._last: deque[Scalars] = deque(maxlen=SWING)

    def see(self, step: int, row: Scalars) -> list[Finding]:
        """Take in the scalars of one record, and return the findings that are new."""
        if len(self._first) < EARLY:
            self._first.append(row)
        self._last.append(row)
        if len(self._last) < WINDOW:
            return []
        signs = self._signs(step, self.kinds or kinds_of_old({**self._first[0], **row}))
        lasting = {finding.kind: finding for finding in self.findings if finding.end is None}
        new = []
        for kind, is_seen in SIGNS.items():
            seen = is_seen(signs)
            if seen and kind not in lasting:
                new.append(Finding(kind, step, ways=self.advise(kind)))
            elif not seen and kind in lasting:
                lasting[kind].end = step
        self.findings += new
        return new

    def _signs(self, step: int, kinds: Mapping[str, str]) -> Signs:
        """Choose scalars by kind; a "share" is named after the images it is of, a "norm" after its player."""
        shares, varieties = ([name for name, kind in kinds.items() if kind == k] for k in ("share", "variety"))
        real, fake = ([name for name in shares if name.endswith(images)] for images in ("_real", "_fake"))
        rows = list(self._last)
        g_left, d_left = (self._left(f"grad_{player}") for player in self.players)
        share, least, most = SETTLED
        return Signs(
            [([row[name] for name in real if name in row], [row[n] for n in fake if n in row]) for row in rows],
            [row.get(name, 1.0) for name in varieties for row in rows[-WINDOW:]],
            g_left,
            d_left,
            step >= min(max(share * self.steps, least), most * self.steps),
        )

    def _left(self, norm: str) -> float:
        first = max(row.get(norm, 0.0) for row in self._first)
        return fmean(row.get(norm, first) for row in list(self._last)[-WINDOW:]) / first if first else 1.0
