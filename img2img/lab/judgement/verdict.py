"""The verdict: one sentence on the judged method, and a table for the terminal."""

from collections.abc import Callable, Sequence
from typing import Literal

from img2img.lab.judgement.findings import Findings
from img2img.lab.judgement.scores import IDENTITY, SHORT, Scores, number

BANNER = "Pixel values are model output; do not use for clinical reading; keep the originals."
# The methods that a model must beat, besides doing nothing.
SIMPLE = (
    *("batch moments", "batch percentiles", "batch quantiles", "per-batch Reinhard", "BaSiCPy and percentiles"),
    *("per-image z-score", "per-image match_histograms"),
    *("per-image torchstain Reinhard", "per-image torchstain Macenko"),
)


def _half(row: Scores, name: str) -> float:
    return ((row.get(f"{name}_high") or 0) - (row.get(f"{name}_low") or 0)) / 2


# The comparisons of the judged method: score, 1 if more is better or -1, and the margin that counts.
COMPARED: dict[str, tuple[str, int, Callable[[Scores], float]]] = {
    "phenotype accuracy": ("phenotype_accuracy", 1, lambda row: _half(row, "phenotype")),
    "batch predictability": ("batch_linear", -1, lambda row: _half(row, "batch_linear")),
    "control shift": ("shift_control", -1, lambda row: 0.02),
}

Outcome = Literal["pass", "warn", "fail"]


def judgement(findings: Findings) -> tuple[Outcome, str]:
    """Return the kind of verdict, and the verdict in one sentence.

    A method that passes its gates is compared with doing nothing first, then with the simple methods that pass. Better
    means by more than half the width of the 95 % interval (for the control shift, by more than 0.02).
    """
    name, gates = findings.judged, findings.gates[findings.judged]
    row, nothing = findings.rows[name], findings.rows[IDENTITY]
    failed, missing = ([gate for gate, value in gates.items() if value is wanted] for wanted in (False, None))
    warning = ""
    if findings.confounded:
        warning = (
            f"CONFOUNDED: batch and label are associated (Cramér's V {findings.cramers_v:.2f}) and the fit was not on "
            "controls alone, so what was removed may be biology; "
        )
    if failed:
        return "fail", f"{warning}“{name}” fails {_list(failed)}: do not measure on its images."
    sides = _sides(row, nothing)
    if name != IDENTITY and sides["worse"] and not sides["better"]:
        worse = f"{warning}Do not use it: “{name}” is worse than doing nothing in {_list(sides['worse'])}"
        return "fail", f"{worse}{_no_effect(nothing)}."
    if not findings.passed(name):
        return "warn", f"{warning}“{name}” could not be judged, because no gate could be measured on these images."
    unmeasured = f" ({_list(missing)} not measured)" if missing else ""
    passes = f"“{name}” passes every gate that could be measured{unmeasured}"
    compared = []
    is_better = name == IDENTITY or bool(sides["better"] and not sides["worse"])
    if not is_better and sides["worse"]:
        passes = (
            f"Use “{name}” only for what it improves: compared with doing nothing it is better in "
            f"{_list(sides['better'])}, but worse in {_list(sides['worse'])}"
        )
    elif not is_better and sides["even"]:
        no_better = f"“{name}” is no better than doing nothing in {_list(sides['even'], 'or')}"
        passes = f"Leave the images as they are: {no_better}{_no_effect(nothing)}"
    elif not is_better:
        compared.append("whether it is better than doing nothing could not be measured")
    others = [m for m in SIMPLE if m in findings.rows and m != name and _is_choice(findings, m)]
    comparisons = [_comparison(row, findings.rows[other], other) for other in others]
    is_preferred = is_better and not any("prefer" in words for words in comparisons)
    compared += comparisons or ["no simpler method passes, so there is none to compare it with"]
    touched = row.get("reference_change") or 0
    if touched:
        compared.append(f"it also changes the reference batch, by {touched:.2%} of the range")
    outcome: Outcome = "pass" if is_preferred and not warning else "warn"
    return outcome, f"{warning}{passes}; {'; '.join(compared)}."


def _is_choice(findings: Findings, method: str) -> bool:
    """Return whether a simple method may be advised; per-image methods erase effects, so theirs must have survived."""
    kept = not method.startswith("per-image") or findings.gates[method].get("effect kept") is True
    return kept and findings.passed(method)


def _no_effect(nothing: Scores) -> str:
    """Return a remark if the batch cannot be predicted in the input, where there is nothing to gain."""
    accuracy, chance = nothing.get("batch_linear"), nothing.get("batch_chance")
    if accuracy is None or chance is None or accuracy > max(chance, nothing.get("batch_null_high") or 0):
        return ""
    return f"; the batch cannot be predicted without correction either ({accuracy:.2f}, by chance {chance:.2f})"


def _sides(row: Scores, other: Scores) -> dict[str, list[str]]:
    """Return the comparisons that a method wins, loses and draws, with the numbers."""
    sides: dict[str, list[str]] = {"better": [], "worse": [], "even": []}
    for title, (metric, sign, margin) in COMPARED.items():
        mine, theirs = row.get(metric), other.get(metric)
        if mine is not None and theirs is not None:
            if metric == "batch_linear":  # what lies below chance is luck
                mine, theirs = (max(s, r.get("batch_chance") or 0) for s, r in ((mine, row), (theirs, other)))
            gain, least = sign * (mine - theirs), max(margin(row), margin(other))
            side = "better" if gain > least else "worse" if gain < -least else "even"
            sides[side].append(f"{title} ({row[metric]:.2f} vs. {other[metric]:.2f})")
    return sides


def _comparison(row: Scores, other: Scores, name: str) -> str:
    sides = _sides(row, other)
    if not sides["better"]:
        measured = _list(sides["worse"] + sides["even"], "or") or "anything, since nothing could be compared"
        return f"it does not beat “{name}” in {measured}, so prefer that simpler method"
    worse = f", is worse in {_list(sides['worse'])}" if sides["worse"] else ""
    even = f", and is no better in {_list(sides['even'])}" if sides["even"] else ""
    return f"it beats “{name}” in {_list(sides['better'])}{worse}{even}"


def _list(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def text(findings: Findings) -> str:
    """Return a table for the terminal: the methods that pass come first, best first; the judged one is marked."""
    names = [name for name in SHORT if any(row.get(name) is not None for row in findings.rows.values())]
    order = [*findings.ranking, *(m for m in findings.rows if m not in findings.ranking)]
    table = [["method", "gates", *names]]
    for method in order:
        failed = sum(value is False for value in findings.gates[method].values())
        gates = "pass" if findings.passed(method) else f"{failed} failed" if failed else "–"
        mark = "*" if method == findings.judged else " "
        table.append([f"{mark} {method}", gates, *(number(findings.rows[method].get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, "", judgement(findings)[1], *(f"Note: {note}" for note in findings.notes), BANNER])
