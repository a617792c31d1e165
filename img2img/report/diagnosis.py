"""Recognising failures of adversarial games in the records of a run.

Signs are taken over the last `WINDOW` records, so that one odd record raises no alarm; the thresholds are those that
separate games made to fail (`benchmarks/modes.py`) from games that learn (`benchmarks/healthy.py`; docs/gan.md).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from img2img.runs.facts import MEANINGS as MEANINGS, Failure, Finding as Finding
from img2img.runs.record import kinds_of_old

WINDOW = 5  # records
SWING = 2 * WINDOW  # records within which an oscillation has to turn twice
EARLY = 5  # first records, whose largest gradient is the reference for later ones
SURE = 0.99  # accuracy from which a discriminator knows everything
VANISHED = 0.2  # of the generator's early gradient: little of it is left
SATURATED = 0.005  # of the early gradient of the discriminator: it has stopped learning as well
COLLAPSED = 0.3  # of the data's variety
SETTLED = (
    0.1,
    500,
    0.5,
)  # share of the run, but at least so many steps and at most this share: images are alike before
SWINGING = 0.2  # lead in accuracy of one side over the other before the lead changes

Scalars = Mapping[str, float]


class Watched(NamedTuple):
    """The scalars of a game that its signs are read from.

    Attributes:
        real: names of the accuracies on real images.
        fake: names of the accuracies on generated images.
        variety: names of the variety of generated images, relative to the data.
        g_norm: name of the norm of the generators' gradient.
        d_norm: name of the norm of the discriminators' gradient.
    """

    real: tuple[str, ...]
    fake: tuple[str, ...]
    variety: tuple[str, ...]
    g_norm: str
    d_norm: str

    @classmethod
    def of(cls, kinds: Mapping[str, str], generator: str, discriminator: str) -> "Watched":
        """Choose them by kind; a "share" is named after the images it is of, a "norm" after its player."""
        shares, varieties = ([name for name, kind in kinds.items() if kind == k] for k in ("share", "variety"))
        real, fake = (tuple(name for name in shares if name.endswith(images)) for images in ("_real", "_fake"))
        return cls(real, fake, tuple(varieties), f"grad_{generator}", f"grad_{discriminator}")

    def accuracies(self, row: Scalars) -> tuple[list[float], list[float]]:
        """Return the accuracies of the discriminators, on real and on generated images."""
        real, fake = ([row[name] for name in names if name in row] for names in (self.real, self.fake))
        return real, fake


class Signs(NamedTuple):
    """The records that signs of failure are read from.

    Attributes:
        rows: the last records.
        early: scalar -> its largest value in the first records.
        settled: whether the run is long enough that images should differ.
        watched: the scalars that count.
    """

    rows: Sequence[Scalars]
    early: Scalars
    settled: bool
    watched: Watched

    def is_sure(self) -> bool:
        """Tell whether every discriminator has judged nearly everything right."""
        pairs = [self.watched.accuracies(row) for row in self.rows[-WINDOW:]]
        least = [min([*real, *fake]) for real, fake in pairs if real and fake]
        return len(least) == len(pairs) and fmean(least) >= SURE

    def left(self, norm: str) -> float:
        """Return a gradient norm as a share of its early value."""
        first = self.early.get(norm, 0)
        return fmean(row.get(norm, first) for row in self.rows[-WINDOW:]) / first if first else 1.0


def is_winning(signs: Signs) -> bool:
    return signs.is_sure() and signs.left(signs.watched.g_norm) < VANISHED


def is_saturated(signs: Signs) -> bool:
    return signs.is_sure() and signs.left(signs.watched.d_norm) < SATURATED


def has_collapsed(signs: Signs) -> bool:
    varieties = [row.get(name, 1.0) for name in signs.watched.variety for row in signs.rows[-WINDOW:]]
    return signs.settled and bool(varieties) and fmean(varieties) < COLLAPSED


def oscillates(signs: Signs) -> bool:
    leads = [fmean(real) - fmean(fake) for real, fake in map(signs.watched.accuracies, signs.rows) if real and fake]
    ahead = [lead > 0 for lead in leads if abs(lead) > SWINGING]
    return sum(one != other for one, other in pairwise(ahead)) >= 2  # back and forth; a game that starts turns once


SIGNS: dict[Failure, Callable[[Signs], bool]] = {
    "discriminator winning": is_winning,
    "saturation": is_saturated,
    "mode collapse": has_collapsed,
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
        watched = Watched.of(self.kinds or kinds_of_old({**self._first[0], **row}), *self.players)
        early = {name: max(r.get(name, 0.0) for r in self._first) for name in (watched.g_norm, watched.d_norm)}
        share, least, most = SETTLED
        settled = step >= min(max(share * self.steps, least), most * self.steps)
        signs = Signs(list(self._last), early, settled, watched)
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
