"""The warnings of a report: on the course of the game, and on the results of its evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from img2img.metrics.table import METRICS, SIGNS, base_name, best_of, sign_of
from img2img.runs.facts import Finding
from img2img.runs.record import LogRow
from img2img.runs.results import MATCHED, MODEL, NOTHING, MetricText, RankingRecord, Result, SavedScore, Scores

DRIFTED = 0.05  # of the range from black to white: intensities have moved as a whole
# Correlation of the edges of inputs and results. CycleGAN of MNIST to USPS that kept 6 % of the digits had 0.16, one
# that kept 51 % had 0.53; USPS digits taken at random have 0.17. Photographs of facades have 0.16 with their label maps
# and 0.02 with others: where the true answers have other edges, the level to exceed is that of chance.
COLLAPSED, ABOVE_CHANCE = 0.3, 0.1
OF_SETS = ("kid", "fid", "precision", "recall", "density", "coverage")
FALLEN_BEHIND = 0.05  # share of the best score by which the last one may be worse without a remark

UNLEARNED = (
    "What to do: look at the samples and the losses below; train longer, on more images, or with a larger --width. "
    "Where both domains look nearly alike, the unchanged input is hard to beat."
)
UNEVEN = (
    "What to do: check whether what the model changes is worth that; give more weight to the loss that preserves the "
    "images, e.g. --lambda-cycle, --lambda-identity or --lambda-l1."
)
LOST = (
    "What to do: look at the samples, input beside result, and check with --judge whether the class is kept; give "
    "--lambda-identity or --lambda-cycle more weight."
)
MOVED = (
    "What to do: do not measure intensities in its results; give both domains the same exposure, or try a larger "
    "--lambda-identity or --lambda-cycle. If intensities are what matters, see img2img equalize."
)

Texts = Mapping[str, MetricText]  # by metric


@dataclass(frozen=True)
class Remark:
    """One warning.

    Attributes:
        kind: "wrong" asks for action, "note" is worth knowing, "over" is past.
        text: what is the matter.
        ways: what to do about it.
        when: from which step to which.
    """

    kind: Literal["wrong", "note", "over"]
    text: str
    ways: str = ""
    when: str = ""


def number(value: float | None) -> float | None:
    """Return a value that may be missing; None also if it is not a number."""
    return None if value is None or math.isnan(value) else float(value)


def shown(value: float | None) -> str:
    """Format a number for display."""
    x = number(value)
    if x is None:
        return "–"
    text = "∞" if math.isinf(x) else f"{abs(x):.4g}"
    return f"−{text}" if x < 0 else text


def sign_in(name: str, metrics: Texts) -> int:
    """Return 1 if higher is better, -1 if lower is, 0 for neither: as recorded, else as in the table of metrics."""
    text = metrics.get(name)
    return SIGNS.get(text.better if text else "", sign_of(name))


def compares_with_input(name: str) -> bool:
    """Tell whether a metric measures how much of the input is kept, at which the unchanged input is best."""
    metric = METRICS.get(base_name(name))
    return metric is not None and bool({"source", "identity"} & set(metric.on))


def is_best_by_definition(name: str, row: str) -> bool:
    """Tell whether a baseline is best at a metric by definition, which is no merit."""
    return (row == NOTHING and compares_with_input(name)) or (row == MATCHED and name == "drift")


def of_findings(findings: Sequence[Finding]) -> list[Remark]:
    """Return the findings of the diagnosis as remarks, lasting ones first."""
    lasting_first = sorted(findings, key=lambda finding: finding.end is not None)
    return [Remark("wrong" if x.end is None else "over", x.meaning, x.to_try, x.when) for x in lasting_first]


def of_evaluation(result: Result) -> list[Remark]:
    """Return remarks on a model that is no better than its baselines, loses its inputs, or shifts intensities."""
    remarks = [remark for other in result.rows if other != MODEL for remark in _of_baseline(result, other)]
    remarks += of_structure(result)
    for name, score in result.rows.get(MODEL, {}).items():
        value = number(score.value)
        if "drift" in name and value is not None and abs(value) > DRIFTED:
            text = "intensity drift: the model shifts intensities as a whole"
            reason = f"{name} {shown(value)}, more than {DRIFTED:g} of the range"
            remarks.append(Remark("wrong", f"{text} ({reason}).", MOVED))
    return remarks


def _of_baseline(result: Result, other: str) -> list[Remark]:
    won = {
        name: is_better
        for name, is_better in _won(result, other).items()
        if not compares_with_input(name) and not is_best_by_definition(name, other)
    }
    lost = [name for name, is_better in won.items() if not is_better]
    if not lost:
        return []
    values, everywhere = _against(result, other, lost), len(lost) == len(won)
    if other == NOTHING and everywhere:
        text = f"nothing learned: the model is no better than the unchanged input: {values}."
        return [Remark("wrong", text, UNLEARNED)]
    if other == NOTHING:
        return [Remark("note", f"the model is no better than the unchanged input at {values}.", UNEVEN)]
    if everywhere:
        text = f"the model is no better than the baseline “{other}”: {values}."
        return [Remark("note", text, "What to do: prefer the baseline, or train longer.")]
    return []


def of_structure(result: Result) -> list[Remark]:
    """Return a remark if unpaired results look like the other domain but no longer show their inputs."""
    kept, whole = (_value(result.rows.get(row, {}), "structure") for row in (MODEL, NOTHING))
    if result.protocol.paired or kept is None or whole is None:
        return []
    better = [name for name, won in _won(result, NOTHING).items() if won and base_name(name) in OF_SETS]
    by_chance = number(result.protocol.structure_by_chance)
    if not better or kept >= min(COLLAPSED, whole / 2, 1 if by_chance is None else by_chance + ABOVE_CHANCE):
        return []
    chance = "" if by_chance is None else f" and {shown(by_chance)} for random images of the other domain"
    text = (
        f"the results no longer show what the inputs show: structure {shown(kept)}, against {shown(whole)} for the "
        f"unchanged input{chance}, while they look more like the other domain by {_against(result, NOTHING, better)}."
    )
    return [Remark("wrong", text, LOST)]


def of_checkpoints(ranking: RankingRecord, outdated: bool = False) -> list[Remark]:
    """Return a remark if the newest of the scored checkpoints is not the best."""
    if outdated:
        text = "the checkpoints were scored before the run was resumed; these scores do not cover the newer ones."
        return [Remark("note", text, "What to do: score them again with img2img evaluate --all.")]
    best = ranking.checkpoints.get(ranking.best)
    if best is None:
        return []
    last = max(ranking.checkpoints.values(), key=lambda checkpoint: checkpoint.step)
    if last.step == best.step:
        return []
    values = [f"{shown(_value(c.scores, ranking.metric))} at step {c.step:,}" for c in (best, last)]
    text = f"the best checkpoint is not the last one (best at step {best.step:,})"
    return [Remark("note", f"{text}: {ranking.metric} {values[0]}, {values[1]}.", f"What to do: use {ranking.best}.")]


def best_row(name: str, rows: Sequence[LogRow]) -> LogRow | None:
    """Return the first record with the best score; None where neither direction is better or no record has a number."""
    best = best_of(name, {i: row.values.get(name) for i, row in enumerate(rows)})
    return None if best is None else rows[best]


def of_scores(rows: Sequence[LogRow], metric: str, model: str) -> list[Remark]:
    """Return a remark if the held-out score that chooses the file `model` has become worse again."""
    best = best_row(metric, rows)
    last = number(rows[-1].values.get(metric)) if rows else None
    if best is None or last is None:
        return []
    top = best.values[metric]
    if sign_of(metric) * (top - last) <= FALLEN_BEHIND * abs(top):
        return []
    text = f"the best checkpoint is not the last one (best at step {best.step:,})"
    ways = (
        "The model overfits its training images, or the game has diverged. "
        f"What to do: use {model}; or train on more images, with --augment, a larger --lambda-l1, or fewer steps."
    )
    return [Remark("note", f"{text}: held-out {metric} {shown(top)} then, {shown(last)} at the end.", ways)]


def best_rows(name: str, rows: Mapping[str, Scores], metrics: Texts) -> set[str]:
    """Return the rows of an evaluation that have the best value of a metric, where that is a merit."""
    sign = sign_in(name, metrics)
    values = {row: _value(scores, name) for row, scores in rows.items() if not is_best_by_definition(name, row)}
    top = max((sign * x for x in values.values() if x is not None), default=None)
    return {row for row, x in values.items() if sign and x is not None and sign * x == top}


def _value(scores: Scores, name: str) -> float | None:
    return number(scores.get(name, SavedScore()).value)


def _won(result: Result, other: str) -> dict[str, bool]:
    """Return for each metric that compares them whether the model is better than the row `other`."""
    won = {}
    for name, score in result.rows.get(MODEL, {}).items():
        sign, ours, theirs = sign_in(name, result.metrics), number(score.value), _value(result.rows[other], name)
        if sign and ours is not None and theirs is not None:
            won[name] = sign * ours > sign * theirs
    return won


def _against(result: Result, other: str, names: Sequence[str]) -> str:
    values = [[shown(_value(result.rows[row], name)) for row in (MODEL, other)] for name in names]
    return ", ".join(f"{name} ({ours} against {theirs})" for name, (ours, theirs) in zip(names, values, strict=True))
