"""The verdict: one of four pieces of advice on the judged method, in one sentence with the two numbers that decide."""

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple

from img2img.lab.judgement.findings import Findings
from img2img.lab.judgement.gates import GATES, SHAM
from img2img.lab.judgement.scores import FEATURES_ONLY, IDENTITY, SHORT, Scores, number

BANNER = "Pixel values are model output; do not use for clinical reading; keep the originals."
PER_IMAGE = "per-image"  # how the names of methods begin that look at one image at a time

Advice = Literal["use it", "no better", "worse than nothing", "cannot be told"]
Outcome = Literal["pass", "warn", "fail"]
OUTCOMES: dict[Advice, Outcome] = {
    "use it": "pass",
    "no better": "warn",
    "cannot be told": "warn",
    "worse than nothing": "fail",
}
COLOURS = {"pass": "green", "warn": "yellow", "fail": "red"}  # in a terminal

# What decides between two methods, first things first: score, its interval, 1 if more is better or -1.
COMPARED: dict[str, tuple[str, str, int]] = {
    "Phenotype accuracy": ("phenotype_accuracy", "phenotype", 1),
    "Batch predictability": ("batch_linear", "batch_linear", -1),
    "Control shift": ("shift_control", "shift_control", -1),
}


class Verdict(NamedTuple):
    """A piece of advice, and the sentence that says it."""

    advice: Advice
    sentence: str

    @property
    def outcome(self) -> Outcome:
        """The kind of advice, as a colour: "pass" is green, "warn" amber, "fail" red."""
        return OUTCOMES[self.advice]


def judgement(findings: Findings) -> Verdict:
    """Return the verdict on the judged method.

    A method that fails a gate is worse than nothing, but for that on the sham, which is measured on half of the groups
    of one batch and says that they are few. Otherwise it is compared with doing nothing, then with the simpler
    methods that pass, by the first score in `COMPARED` in which the two clearly differ: by more than half the width of
    the 95 % interval.
    """
    name, rows = findings.judged, findings.rows
    if failed := [gate for gate, passed in findings.gates[name].items() if passed is False]:
        reason = " and ".join(_bound(findings, gate) for gate in failed)
        if failed == [SHAM]:
            few = "images change where there is nothing to correct, as there are few control groups to learn from"
            return Verdict("cannot be told", f"Cannot be told: {few}. “{name}” fails {reason}.")
        return Verdict("worse than nothing", f"Worse than nothing: do not use it. “{name}” fails {reason}.")
    if findings.confounded:
        reason = f"batch and label are confounded (Cramér's V {findings.cramers_v:.2f}, above 0.3), and the fit was not"
        return Verdict("cannot be told", f"Cannot be told: {reason} on controls alone, so it may have removed biology.")
    found = _compared(rows, name, IDENTITY)
    if found is None or not findings.passed(name):
        lacking = "no gate" if found else "nothing to compare with doing nothing"
        return Verdict("cannot be told", f"Cannot be told: {lacking} could be measured on these images.")
    better, numbers = found
    if better < 0:
        return Verdict("worse than nothing", f"Worse than nothing: do not use it. {numbers}.")
    if better == 0:
        hidden = "; the batch cannot be told without correction either" if _is_hidden(rows[IDENTITY]) else ""
        return Verdict("no better", f"No better than doing nothing (simpler). {numbers}{hidden}.")
    for other in _rivals(findings):
        side, against = _compared(rows, name, other) or (1, "")
        if side <= 0:
            return Verdict("no better", f"No better than “{other}” (simpler). {numbers}; {_continued(against)}.")
    features = _compared(rows, name, FEATURES_ONLY, ("Phenotype accuracy",)) or (0, "")
    only = f"; if features are enough, normalise them: {_continued(features[1])}" if features[0] < 0 else ""
    return Verdict("use it", f"Use it. {numbers}{only}.")


def _continued(sentence: str) -> str:
    """Return a sentence as it stands after a semicolon or a colon."""
    return sentence[:1].lower() + sentence[1:]


def _bound(findings: Findings, name: str) -> str:
    """Return a gate, the batch and channel that it fails in, the value and the bound."""
    gate = GATES[name]
    value, place = findings.rows[findings.judged].get(gate.score), findings.places.get(gate.score)
    where, least = f" in {place}" if place else "", "at least" if gate.more_is_better else "at most"
    found = "nothing is left to measure" if value is None else number(value)
    return f"“{name}”{where} ({found}, {least} {gate.bound:.3g} allowed)"


def _compared(rows: dict[str, Scores], name: str, other: str, titles: Sequence[str] = ()) -> tuple[int, str] | None:
    """Compare two methods, by all scores in `COMPARED` or by those with these titles.

    Returns:
        1, 0 or -1 if the first method is better, as good or worse; and the two numbers, of the score that decides or
        else of the first that both have. None if they share no score.
    """
    even: tuple[int, str] | None = None
    row, rival = rows[name], rows.get(other, {})
    for title in titles or COMPARED:
        score, interval, sign = COMPARED[title]
        mine, theirs = row.get(score), rival.get(score)
        if mine is None or theirs is None:
            continue
        numbers = f"{title} is {mine:.2f} with “{name}”, {theirs:.2f} with “{other}”"
        floor = (row.get("batch_chance") or 0.0) if score == "batch_linear" else -inf  # below chance is luck
        gain = sign * (max(mine, floor) - max(theirs, floor))
        if abs(gain) > max(_half(row, interval), _half(rival, interval)):
            return (1 if gain > 0 else -1), numbers
        even = even or (0, numbers)
    return even


def _half(row: Scores, name: str) -> float:
    """Return half the width of a score's interval; without one, no difference is clear."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return inf if low is None or high is None else (high - low) / 2


def _rivals(findings: Findings) -> list[str]:
    """Return the other methods that pass: all of them are simpler. Those that work on single images come last, and only
    if they are seen to keep effects, which they are made to erase.
    """
    kept = (m for m, gates in findings.gates.items() if not m.startswith(PER_IMAGE) or gates.get("effect kept") is True)
    others = (m for m in kept if m not in (findings.judged, IDENTITY) and findings.passed(m))
    return sorted(others, key=lambda method: method.startswith(PER_IMAGE))


def _is_hidden(nothing: Scores) -> bool:
    """Return whether the batch cannot be predicted in the input, where there is nothing to gain."""
    accuracy, chance = nothing.get("batch_linear"), nothing.get("batch_chance")
    return accuracy is not None and chance is not None and accuracy <= max(chance, nothing.get("batch_null_high") or 0)


def compact(findings: Findings) -> list[list[str]]:
    """Return a table of gates and main scores: a head, the judged method, doing nothing, the others, best first."""
    names = [name for name in SHORT if any(row.get(name) is not None for row in findings.rows.values())]
    table = [["method", "gates", *names]]
    for method in dict.fromkeys([findings.judged, IDENTITY, *findings.ranking, *findings.rows]):
        failed = sum(value is False for value in findings.gates[method].values())
        gates = "pass" if findings.passed(method) else f"{failed} failed" if failed else "–"
        table.append([method, gates, *(number(findings.rows[method].get(name)) for name in names)])
    return table


def text(findings: Findings) -> str:
    """Return the compact table, in which the judged method is marked, and the verdict, for the terminal."""
    head, *rows = compact(findings)
    table = [head, *([f"{'*' if row[0] == findings.judged else ' '} {row[0]}", *row[1:]] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, "", judgement(findings).sentence, *(f"Note: {note}" for note in findings.notes), BANNER])
