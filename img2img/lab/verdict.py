"""How a judgement reads: what each number means, one sentence, and a table for the terminal."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from img2img.lab.evaluation import Evaluation
    from img2img.lab.measures import Row

BANNER = "Pixel values are model output; do not use for clinical reading; keep the originals."
IDENTITY = "do nothing"
# What a model has to be better than, besides doing nothing.
SIMPLE = (
    "batch moments",
    "batch quantiles",
    "per-batch Reinhard",
    "per-image z-score",
    "per-image match_histograms",
)

COLUMNS: dict[str, tuple[str, str]] = {
    "phenotype_accuracy": (
        "Phenotype accuracy",
        "A classifier trained on the reference batch, tested on other groups in the other batches: mean of nearest "
        "neighbours and a linear one; balanced, on the pixels inside objects. Higher is better.",
    ),
    "phenotype_knn": ("– nearest neighbours", "Of these, the nearest neighbours alone."),
    "phenotype_linear": ("– linear", "Of these, the linear classifier alone."),
    "batch_linear": (
        "Batch told, linear",
        "How often a linear probe tells the batch of an image of a group it has not seen; balanced. Lower is better, "
        "down to chance.",
    ),
    "batch_forest": ("Batch told, forest", "The same for a random forest, which sees more."),
    "batch_null": ("– by luck", "The linear probe after the batches were shuffled; its 95 % quantile in brackets."),
    "batch_left": (
        "Batch left",
        "The linear probe's success above chance, as a share of what it is without correction.",
    ),
    "control_batch_linear": (
        "Batch told, controls only",
        "The linear probe on controls, where biology cannot help it.",
    ),
    "control_batch_forest": ("– forest", "The random forest on controls."),
    "control_batch_null": ("– by luck", "The linear probe on controls after their batches were shuffled."),
    "control_batch_left": ("– left", "On controls, the share of the linear probe's success that is left."),
    "shift_control": (
        "Control shift",
        "Mean |log ratio| of the controls' brightness inside objects between a batch and the reference (all images "
        "count if no controls were named). 0 is none; 0.1 is about 10 %.",
    ),
    "retention": (
        "Effect kept",
        "Treated / control brightness inside objects, after over before, within each batch but the reference; the mean "
        "over batches, with channels weighted by their effect. 1 is all.",
    ),
    "retention_off": ("– off by", "How far it is from 1 in a batch on average, up or down, as a factor."),
    "retention_worst_batch": ("– worst batch", "The batch farthest from 1."),
    "retention_worst_channel": ("– worst channel", "The channel farthest from 1."),
    "effect": (
        "Effect to keep",
        "The largest channel's treated / control ratio in the input; erased, 1 / this is kept.",
    ),
    "f1": ("Object F1", "Objects of the output's segmentation that overlap a true one by more than half."),
    "f1_drop": ("F1 drop", "What the method costs against the segmentation of the input."),
    "dice": ("Dice", "Agreement of the area covered by objects."),
    "count_error": ("Count error", "Objects too many or too few per image, as a share of all."),
    "count_excess": ("– above input", "The same, minus that of the input."),
    "px_shift": ("Shift in pixels", "How far content moved: 95th percentile over images and channels."),
    "edge_agreement": (
        "Edge agreement",
        "Mean cosine between gradients before and after on strong edges; 1 is the same.",
    ),
    "novel_structure": (
        "Novel structure",
        "What no local straight line of the input explains in the output (high-pass, share of the range). Invented "
        "detail shows here; so does removing blur.",
    ),
    "change": ("Change", "Mean absolute change outside the reference batch, as a share of the range."),
    "reference_change": (
        "Change of the reference",
        "The same in the reference batch: 0 for a method that leaves it alone.",
    ),
    "sham": ("Sham change", "Change where one batch was split in two at random and nothing was to be done."),
    "w1_background": (
        "Distance, background",
        "Wasserstein-1 distance to the reference batch's pixels outside objects.",
    ),
    "w1_foreground": ("Distance, objects", "The same inside objects, so that cell density does not count."),
    "psnr": (
        "PSNR",
        "dB against the known truth, with the fitted range as data range; only for made-up batch effects.",
    ),
    "ssim": ("SSIM", "Structural similarity with the truth; reported, never a gate: doing nothing scores high."),
}
SHORT = (
    "phenotype_accuracy",
    "batch_linear",
    "shift_control",
    "retention",
    "f1_drop",
    "dice",
    "px_shift",
    "change",
    "psnr",
)


def _half(row: "Row", name: str) -> float:
    return ((row.get(f"{name}_high") or 0) - (row.get(f"{name}_low") or 0)) / 2


def _told(row: "Row") -> float | None:
    """How well the batch is told, from chance upwards: below it, nothing is told, and the rest is luck."""
    told = row.get("batch_linear")
    return told if told is None else max(told, row.get("batch_chance") or 0)


def _plain(name: str) -> Callable[["Row"], float | None]:
    return lambda row: row.get(name)


# What the judged method is compared in: metric, its value, whether more is better, by how much to count.
COMPARED: dict[str, tuple[str, Callable[["Row"], float | None], int, Callable[["Row"], float]]] = {
    "phenotype accuracy": (
        "phenotype_accuracy", _plain("phenotype_accuracy"), 1, lambda row: _half(row, "phenotype")
    ),
    "batch predictability": ("batch_linear", _told, -1, lambda row: _half(row, "batch_linear")),
    "control shift": ("shift_control", _plain("shift_control"), -1, lambda row: 0.02),
}  # fmt: skip

Outcome = Literal["pass", "warn", "fail"]
PASS: Outcome = "pass"


def judgement(evaluation: "Evaluation") -> tuple[Outcome, str]:
    """One sentence, and whether it is good news.

    A method that passes its gates is compared with doing nothing first, then with the simple ones that pass. Better
    means by more than half the width of the 95 % interval (shift: by more than 0.02).
    """
    name, gates = evaluation.judged, evaluation.gates[evaluation.judged]
    row, nothing = evaluation.rows[name], evaluation.rows[IDENTITY]
    failed, missing = ([gate for gate, value in gates.items() if value is wanted] for wanted in (False, None))
    warning, outcome = "", PASS
    if evaluation.confounded:
        outcome = "warn"
        warning = (
            f"CONFOUNDED: batch and label go together (Cramér's V {evaluation.cramers_v:.2f}) and the fit was not on "
            "controls alone, so what was removed may be biology; "
        )
    if failed:
        return "fail", f"{warning}“{name}” fails {_list(failed)}: do not measure on its images."
    sides = _sides(row, nothing)
    if name != IDENTITY and sides["worse"] and not sides["better"]:
        worse = f"{warning}Do not use it: “{name}” is worse than doing nothing in {_list(sides['worse'])}"
        return "fail", f"{worse}{_no_effect(nothing)}."
    if not evaluation.passed(name):
        return "warn", f"{warning}“{name}” could not be judged, because no gate could be measured on these images."
    unmeasured = f" ({_list(missing)} not measured)" if missing else ""
    passes = f"“{name}” passes every gate that could be measured{unmeasured}"
    compared = []
    if name == IDENTITY:
        pass
    elif sides["worse"]:
        outcome = "warn"
        passes = (
            f"Use “{name}” for what it is better at alone: against doing nothing it is better in "
            f"{_list(sides['better'])}, but worse in {_list(sides['worse'])}"
        )
    elif sides["even"] and not sides["better"]:
        outcome = "warn"
        passes = (
            f"Leave the images as they are: “{name}” is no better than doing nothing in {_list(sides['even'], 'or')}"
        )
        passes += _no_effect(nothing)
    elif not sides["better"]:
        outcome = "warn"
        compared.append("whether it is better than doing nothing could not be measured")
    others = [m for m in SIMPLE if m in evaluation.rows and m != name and _is_choice(evaluation, m)]
    comparisons = [_comparison(row, evaluation.rows[other], other) for other in others]
    if any("prefer" in words for words in comparisons):
        outcome = "warn"
    compared += comparisons or ["there was no simpler method that passes to compare it with"]
    touched = row.get("reference_change") or 0
    if touched:
        compared.append(f"it also changes the reference batch, by {touched:.2%} of the range")
    return outcome, f"{warning}{passes}; {'; '.join(compared)}."


def _is_choice(evaluation: "Evaluation", method: str) -> bool:
    """Whether a simple method may be advised: those per image erase effects, so these must have been seen to stay."""
    kept = not method.startswith("per-image") or evaluation.gates[method].get("effect kept") is True
    return kept and evaluation.passed(method)


def _no_effect(nothing: "Row") -> str:
    """Where the batch cannot be told to begin with, that is why nothing is to be won."""
    told, chance = nothing.get("batch_linear"), nothing.get("batch_chance")
    if told is None or chance is None or told > max(chance, nothing.get("batch_null_high") or 0):
        return ""
    return f"; without any correction the batch cannot be told either ({told:.2f}, by luck {chance:.2f})"


def _sides(row: "Row", other: "Row") -> dict[str, list[str]]:
    """What a method is better, worse and even in, with the numbers."""
    sides: dict[str, list[str]] = {"better": [], "worse": [], "even": []}
    for title, (metric, value, sign, margin) in COMPARED.items():
        mine, theirs = value(row), value(other)
        if mine is not None and theirs is not None:
            gain, least = sign * (mine - theirs), max(margin(row), margin(other))
            side = "better" if gain > least else "worse" if gain < -least else "even"
            sides[side].append(f"{title} ({row[metric]:.2f} against {other[metric]:.2f})")
    return sides


def _comparison(row: "Row", other: "Row", name: str) -> str:
    sides = _sides(row, other)
    if not sides["better"]:
        measured = _list(sides["worse"] + sides["even"], "or") or "anything, for nothing could be compared"
        return f"it does not beat “{name}” in {measured}, so prefer that simpler method"
    worse = f", is worse in {_list(sides['worse'])}" if sides["worse"] else ""
    even = f", and is no better in {_list(sides['even'])}" if sides["even"] else ""
    return f"it beats “{name}” in {_list(sides['better'])}{worse}{even}"


def _list(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def text(evaluation: "Evaluation") -> str:
    """A table for the terminal: methods that pass first, best first; the judged one is marked."""
    names = [name for name in SHORT if any(row.get(name) is not None for row in evaluation.rows.values())]
    order = [*evaluation.ranking, *(m for m in evaluation.rows if m not in evaluation.ranking)]
    table = [["method", "gates", *names]]
    for method in order:
        failed = sum(value is False for value in evaluation.gates[method].values())
        gates = "pass" if evaluation.passed(method) else f"{failed} failed" if failed else "–"
        mark = "*" if method == evaluation.judged else " "
        table.append([f"{mark} {method}", gates, *(number(evaluation.rows[method].get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, "", evaluation.verdict, *(f"Note: {note}" for note in evaluation.notes), BANNER])


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
