"""The results of a run, as they stand in evaluation.json and checkpoints.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from img2img.errors import ModelFileError
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
    """A metric in words.

    Attributes:
        better: "higher", "lower", or "" where neither is better.
        range: the range of its values.
        text: its meaning.
    """

    better: str = ""
    range: str = ""
    text: str = ""


@dataclass(frozen=True)
class JudgeRecord:
    """The judge of an evaluation: its accuracy, in [0, 1], on as many real images."""

    accuracy: float | None = None
    tested: int = 0


@dataclass(frozen=True)
class Protocol:
    """The parts of an evaluation's protocol that a report shows.

    Attributes:
        images: the number of images that were judged.
        direction: of the model.
        model: the name of its file.
        step: its training step.
        paired: whether each image has a true answer.
        size: how images were cut, in words.
        features: the network of features.
        judge: the judge, if there was one.
        structure_by_chance: `structure` of inputs and unrelated images of the target side.
        notes: sentences for the reader.
    """

    images: int | None = None
    direction: str = ""
    model: str = ""
    step: int | None = None
    paired: bool | None = None
    size: str = "as they are"
    features: str = ""
    judge: JudgeRecord | None = None
    structure_by_chance: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """The content of evaluation.json.

    Attributes:
        protocol: what was compared, and how.
        metrics: metric -> its meaning.
        rows: model or baseline -> metric -> score.
        per_image: metric -> image -> value.
    """

    protocol: Protocol = field(default_factory=Protocol)
    metrics: dict[str, MetricText] = field(default_factory=dict)
    rows: dict[str, dict[str, SavedScore]] = field(default_factory=dict)
    per_image: dict[str, dict[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A model that was scored: its training step, and its scores by metric."""

    step: int
    scores: dict[str, SavedScore]


@dataclass(frozen=True)
class RankingRecord:
    """The content of checkpoints.json.

    Attributes:
        metric: the metric that ranks.
        best: the file that is best by it.
        checkpoints: file, relative to the run -> its scores.
    """

    metric: str = ""
    best: str = ""
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)


def read_result(path: Path) -> Result:
    """Return the content of evaluation.json.

    Raises:
        ModelFileError: if it cannot be read, or is something else.
    """
    return from_json(Result, read_text(path), str(path))


def read_ranking(path: Path) -> RankingRecord:
    """Return the content of checkpoints.json, whose entries hold the step beside the scores.

    Raises:
        ModelFileError: if it cannot be read, or is something else.
    """
    flat = from_json(_FlatRanking, read_text(path), str(path))
    checkpoints = {}
    for name, entry in flat.scores.items():
        step = entry.get("step")
        if not isinstance(step, int):
            raise ModelFileError(f"{path} is damaged, or was not written by img2img: {name!a} has no step.")
        checkpoints[name] = Checkpoint(step, {k: x for k, x in entry.items() if isinstance(x, SavedScore)})
    return RankingRecord(flat.metric, flat.best, checkpoints)


@dataclass(frozen=True)
class _FlatRanking:
    metric: str = ""
    best: str = ""
    scores: dict[str, dict[str, int | SavedScore]] = field(default_factory=dict)
