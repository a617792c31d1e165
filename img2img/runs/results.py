"""The results of a run, as they stand in evaluation.json and checkpoints.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

from img2img.runtime.records import from_json, read_text

MODEL, NOTHING, MATCHED = "model", "do nothing", "histogram matching"  # rows of an evaluation


@dataclass(frozen=True)
class SavedScore:
    """A score; None where the value is not finite, and where a metric has no deviation."""

    value: float | None = None
    std: float | None = None


Scores = Mapping[str, SavedScore]  # by metric


@dataclass(frozen=True)
class MetricText:
    """A metric in words."""

    better: str = ""  # "higher", "lower", or "" where neither is better
    range: str = ""  # the range of its values
    text: str = ""  # its meaning


@dataclass(frozen=True)
class JudgeRecord:
    """The judge of an evaluation: its accuracy, in [0, 1], on as many real images."""

    accuracy: float | None = None
    tested: int = 0


@dataclass(frozen=True)
class Protocol:
    """The parts of an evaluation's protocol that a report shows."""

    images: int | None = None  # the number of images that were judged
    direction: str = ""  # of the model
    model: str = ""  # the name of its file
    step: int | None = None  # its training step
    paired: bool | None = None  # whether each image has a true answer
    size: str = "as they are"  # how images were cut, in words
    features: str = ""  # the network of features
    judge: JudgeRecord | None = None  # the judge, if there was one
    structure_by_chance: float | None = None  # `structure` of inputs and unrelated images of the target side
    notes: list[str] = field(default_factory=list)  # sentences for the reader


@dataclass(frozen=True)
class Result:
    """The content of evaluation.json."""

    protocol: Protocol = field(default_factory=Protocol)  # what was compared, and how
    metrics: dict[str, MetricText] = field(default_factory=dict)  # metric -> its meaning
    rows: dict[str, dict[str, SavedScore]] = field(default_factory=dict)  # model or baseline -> metric -> score
    per_image: dict[str, dict[str, float | None]] = field(default_factory=dict)  # metric -> image -> value


@dataclass(frozen=True)
class Checkpoint:
    """A model that was scored: its training step, and its scores by metric."""

    step: int
    scores: dict[str, SavedScore]


@dataclass(frozen=True)
class RankingRecord:
    """The content of checkpoints.json."""

    metric: str = ""  # the metric that ranks
    best: str = ""  # the file that is best by it
    scores: dict[str, dict[str, int | SavedScore]] = field(default_factory=dict)  # file -> its "step" beside its scores
    rows: dict[str, dict[str, SavedScore]] = field(default_factory=dict)  # baseline -> metric -> score
    protocol: Protocol = field(default_factory=Protocol)  # what was compared, and how

    def __post_init__(self) -> None:
        for name, entry in self.scores.items():
            if not isinstance(entry.get("step"), int):
                raise ValueError(f"{name!a} has no step")

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The models by their files, relative to the run."""
        found = {}
        for name, entry in self.scores.items():
            scores = {metric: x for metric, x in entry.items() if isinstance(x, SavedScore)}
            found[name] = Checkpoint(cast(int, entry["step"]), scores)
        return found


def read_result(path: Path) -> Result:
    """Return the content of evaluation.json.

    Raises:
        ModelFileError: if it cannot be read, or is something else.
    """
    return from_json(Result, read_text(path), str(path))


def read_ranking(path: Path) -> RankingRecord:
    """Return the content of checkpoints.json; the errors are those of `read_result`."""
    return from_json(RankingRecord, read_text(path), str(path))
