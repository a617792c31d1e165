"""The gates: bounds on structure and effect that a method must keep to be fit for measuring."""

from collections.abc import Callable
from typing import NamedTuple

from img2img.lab.judgement.scores import Scores


class Gate(NamedTuple):
    """A bound that a method must keep.

    Attributes:
        score: the name of the bounded score.
        bound: the largest value that passes, or the smallest for a score of which more is better.
        text: the bound in words.
        masked: True if the gate applies with true masks, False if it applies without, None if it applies to both.
        more_is_better: whether the score must be at least `bound`.
        can_fail: whether these images could fail any method; if not, a value within the bound proves nothing.
    """

    score: str
    bound: float
    text: str
    masked: bool | None = None
    more_is_better: bool = False
    can_fail: Callable[[Scores], bool] = lambda scores: True

    def passes(self, value: float) -> bool:
        """Return whether a value keeps the bound."""
        return value >= self.bound if self.more_is_better else value <= self.bound


SHAM = "sham unchanged"

# Without masks the input's own segmentation is the yardstick. An equalizer may improve on it, so the bounds are wider,
# but a constant image (no objects) and a different image (dice about what chance gives) stay far outside. The gates on
# noise and controls are on the worst batch and channel, so that no good channel makes up for a bad one.
GATES: dict[str, Gate] = {
    "effect kept": Gate(
        "retention_off",
        1 / 0.9,
        "treated / control intensity within batches stays, on average, within a factor of 0.9, up or down",
        can_fail=lambda scores: (scores["effect"] or 1) > 1 / 0.9,
    ),
    "objects found": Gate("f1_drop", 0.02, "object F1 drops by at most 0.02", True),
    "objects counted": Gate("count_excess", 0.01, "count error at most 0.01 above doing nothing", True),
    "same objects": Gate("f1_drop", 0.1, "object F1 with the input's segmentation at least 0.9", False),
    "same outline": Gate("dice", 0.9, "dice with the input's segmentation at least 0.9", False, more_is_better=True),
    "same count": Gate("count_excess", 0.1, "object count within 10 % of the input's", False),
    "nothing moved": Gate("px_shift", 0.1, "content moves by at most 0.1 pixel"),
    SHAM: Gate("sham", 0.01, "one batch split in two changes by at most 1 % of the range"),
    "noise kept": Gate(
        "noise_worst", 3.0, "no channel's noise rises above 3 times that of the reference or of its own input"
    ),
    "controls kept": Gate(
        "shift_worst", 0.1, "no channel's controls end farther from the reference than before, by more than 0.1"
    ),
}  # fmt: skip


def gates_of(scores: Scores, identity: Scores, masked: bool) -> dict[str, bool | None]:
    """Return for each gate whether a method passes it, or None where that was not measured.

    A score that can be measured after doing nothing must stay measurable.
    """
    passed: dict[str, bool | None] = {}
    for name, gate in GATES.items():
        if gate.masked in (None, masked):
            value = scores.get(gate.score)
            if value is None:
                passed[name] = None if identity.get(gate.score) is None else False
            else:
                passed[name] = False if not gate.passes(value) else gate.can_fail(scores) or None
    return passed
