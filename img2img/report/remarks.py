"""What a run has to be warned of, in words: how its game went, and what its evaluation says of the result."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from img2img.metrics.table import METRICS
from img2img.report.curves import NOT_CURVES
from img2img.report.diagnosis import Finding

DRIFTED = 0.05  # of the range from black to white: grey values have moved as a whole
# Correlation of the edges of inputs and results. CycleGAN of MNIST to USPS that kept 6 % of the digits had 0.16, one
# that kept 51 % had 0.53; USPS digits taken at random have 0.17. Photographs of facades have 0.16 with their label maps
# and 0.02 with others: where the true answers have other edges, chance is what to be above.
COLLAPSED, ABOVE_CHANCE = 0.3, 0.1
OF_SETS = ("kid", "fid", "precision", "recall", "density", "coverage")
FALLEN_BEHIND = 0.05  # share of the best score by which the last one may be worse without a word
MODEL, NOTHING, MATCHED = "model", "do nothing", "histogram matching"  # names of rows of an evaluation

UNLEARNED = (
    "What to do: look at the samples and the losses below; train longer, on more images, or with a larger --width. "
    "Where both domains look nearly alike, doing nothing is hard to beat."
)
UNEVEN = (
    "What to do: look whether what the model changes is worth that; give more weight to the loss that holds on to the "
    "images, such as --lambda-cycle, --lambda-identity or --lambda-l1."
)
LOST = (
    "What to do: look at the samples, input beside result, and ask with --judge whether the class is kept; give "
    "--lambda-identity or --lambda-cycle more weight."
)
MOVED = (
    "What to do: measure no intensities in its results; give both domains the same exposure, or try a larger "
    "--lambda-identity or --lambda-cycle. Where intensities are what matters, see img2img equalize."
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Remark:
    """One warning.

    Attributes:
        kind: "wrong" asks for action, "note" is to be known, "over" was so once.
        text: what is the matter.
        ways: what to do about it.
        when: from which step to which.
    """

    kind: Literal["wrong", "note", "over"]
    text: str
    ways: str = ""
    when: str = ""


def number(value: Any) -> float | None:
    """A value of a json file as a number; None for what is missing or is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def shown(value: Any) -> str:
    """The same for people."""
    x = number(value)
    if x is None:
        return "–"
    text = "∞" if math.isinf(x) else f"{abs(x):.4g}"
    return f"−{text}" if x < 0 else text


def ahead(name: str, metrics: Mapping[str, Row] | None = None) -> int:
    """1 where more is better in a metric, -1 where less is, 0 where nobody says."""
    said = (metrics or {}).get(name, {}).get("better")
    if said in ("higher", "lower"):
        return 1 if said == "higher" else -1
    metric = METRICS.get(name.partition("[")[0])  # kid[encoder] is kid
    return 0 if metric is None or metric.higher_is_better is None else 1 if metric.higher_is_better else -1


def of_the_input(name: str) -> bool:
    """Whether a metric asks how much of the input is kept, which doing nothing does best by definition."""
    metric = METRICS.get(name.partition("[")[0])
    return metric is not None and bool({"source", "identity"} & set(metric.on))


def given(name: str, row: str) -> bool:
    """Whether a way is best at a metric by definition, which is no merit."""
    return (row == NOTHING and of_the_input(name)) or (row == MATCHED and name == "drift")


def of_findings(findings: Sequence[Finding]) -> list[Remark]:
    """What the diagnosis has found, what goes on first."""
    remarks = []
    for finding in findings:
        kind: Literal["wrong", "over"] = "over" if finding.end is not None else "wrong"
        remarks.append(Remark(kind, finding.meaning, finding.to_try, finding.when))
    return sorted(remarks, key=lambda remark: remark.kind == "over")


def of_evaluation(evaluation: Row) -> list[Remark]:
    """Whether the model has learned more than its baselines know, and whether it moves grey values."""
    rows, metrics = evaluation.get("rows", {}), evaluation.get("metrics", {})
    model = rows.get(MODEL, {})
    remarks = []
    for other, scores in rows.items():
        if other == MODEL:
            continue
        fair = [name for name in model if ahead(name, metrics) and not of_the_input(name) and not given(name, other)]
        compared = [name for name in fair if None not in _two(model, scores, name)]
        lost = [name for name in compared if not _beats(model, scores, name, metrics)]
        if not lost:
            continue
        at = ", ".join(f"{n} ({shown(_value(model, n))} against {shown(_value(scores, n))})" for n in lost)
        every = len(lost) == len(compared)
        if other == NOTHING and every:
            text = f"nothing learned: the model does not beat doing nothing at {at}."
            remarks.append(Remark("wrong", text, UNLEARNED))
        elif other == NOTHING:
            remarks.append(Remark("note", f"the model does not beat doing nothing at {at}.", UNEVEN))
        elif every:
            text = f"the model does not beat the simpler way “{other}” at {at}."
            remarks.append(Remark("note", text, "What to do: prefer the simpler way, or train longer."))
    remarks += of_structure(evaluation)
    for name in model:
        value = number(_value(model, name))
        if "drift" in name and value is not None and abs(value) > DRIFTED:
            text = "intensity drift: the model moves grey values as a whole"
            by = f"{name} {shown(value)}, more than {DRIFTED:g} of the range"
            remarks.append(Remark("wrong", f"{text} ({by}).", MOVED))
    return remarks


def of_structure(evaluation: Row) -> list[Remark]:
    """Whether results of unpaired domains look like the other domain while they no longer show their inputs."""
    rows, metrics = evaluation.get("rows", {}), evaluation.get("metrics", {})
    model, nothing = rows.get(MODEL, {}), rows.get(NOTHING, {})
    kept, whole = _two(model, nothing, "structure")
    if evaluation.get("protocol", {}).get("paired") or kept is None or whole is None:
        return []
    better = [
        name
        for name in model
        if name.partition("[")[0] in OF_SETS
        and None not in _two(model, nothing, name)
        and _beats(model, nothing, name, metrics)
    ]
    by_chance = number(evaluation.get("protocol", {}).get("structure_by_chance"))
    if not better or kept >= min(COLLAPSED, whole / 2, 1 if by_chance is None else by_chance + ABOVE_CHANCE):
        return []
    chance = "" if by_chance is None else f" and {shown(by_chance)} for images of the other domain taken at random"
    looks = ", ".join(f"{n} ({shown(_value(model, n))} against {shown(_value(nothing, n))})" for n in better)
    text = (
        f"the results no longer show what the inputs show: structure {shown(kept)}, against {shown(whole)} for doing "
        f"nothing{chance}, while they look more like the other domain by {looks}."
    )
    return [Remark("wrong", text, LOST)]


def of_checkpoints(checkpoints: Row, outdated: bool = False) -> list[Remark]:
    """Whether another checkpoint than the newest is the best of those that were scored."""
    scores, metric = checkpoints.get("scores", {}), checkpoints.get("metric", "")
    if outdated:
        text = "the checkpoints were scored before the run went on, and these scores say nothing of the newer ones."
        return [Remark("note", text, "What to do: score them again with img2img evaluate --all.")]
    best = checkpoints.get("best")
    if best not in scores:
        return []
    last = max(scores, key=lambda name: scores[name].get("step", 0))
    if scores[last].get("step", 0) == scores[best].get("step", 0):
        return []
    values = [f"{shown(_value(scores[n], metric))} at step {scores[n].get('step', 0):,}" for n in (best, last)]
    text = f"the best checkpoint is not the last one (best at step {scores[best].get('step', 0):,})"
    return [Remark("note", f"{text}: {metric} {values[0]}, {values[1]}.", f"What to do: use {best}.")]


def best_of(name: str, scores: Sequence[Row]) -> Row | None:
    """The record with the best score; None where the metric has no direction or no record a number."""
    sign, known = ahead(name), [row for row in scores if number(row.get(name)) is not None]
    return max(known, key=lambda row: sign * row[name]) if sign and known else None


def of_scores(scores: Sequence[Row], metric: str, model: str) -> list[Remark]:
    """Whether the held-out score that chooses the file `model` has become worse again."""
    best = best_of(metric, scores)
    last = number(scores[-1].get(metric)) if scores else None
    if best is None or last is None or ahead(metric) * (best[metric] - last) <= FALLEN_BEHIND * abs(best[metric]):
        return []
    then = f"the best checkpoint is not the last one (best at step {best['step']:,})"
    text = f"{then}: held-out {metric} {shown(best[metric])} then, {shown(last)} at the end."
    ways = (
        "The model learns its training images by heart, or the game has gone astray. "
        f"What to do: use {model}; or train on more images, with --augment, a larger --lambda-l1, or fewer steps."
    )
    return [Remark("note", text, ways)]


def metrics_of(scores: Sequence[Row]) -> list[str]:
    """The names of the metrics in records of validation."""
    return list(dict.fromkeys(name for row in scores for name in row if name not in NOT_CURVES))


def best_rows(name: str, rows: Mapping[str, Row], metrics: Mapping[str, Row]) -> set[str]:
    """The rows of an evaluation that have the best value of a metric, where that is a merit."""
    sign = ahead(name, metrics)
    known = {row: number(_value(scores, name)) for row, scores in rows.items()}
    values = {r: x for r, x in known.items() if x is not None and not given(name, r)}
    top = max((sign * x for x in values.values()), default=None)
    return {row for row, x in values.items() if sign and sign * x == top}


def _value(scores: Row, name: str) -> Any:
    entry = scores.get(name)
    return entry.get("value") if isinstance(entry, Mapping) else entry


def _two(model: Row, other: Row, name: str) -> tuple[float | None, float | None]:
    return number(_value(model, name)), number(_value(other, name))


def _beats(model: Row, other: Row, name: str, metrics: Mapping[str, Row]) -> bool:
    ours, theirs = _two(model, other, name)
    assert ours is not None and theirs is not None
    return ahead(name, metrics) * ours > ahead(name, metrics) * theirs
