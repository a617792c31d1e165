"""The judgement: is what an equalizer gives fit for measuring, and does it remove the batch? Gates first, then rank.

No single number can be trusted: a constant image has no batch, and a sharp copy of the input has all its biology. A
method has to pass every gate on structure and effect; those that pass are compared by what carries over between
batches.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from img2img.data.images import write_text
from img2img.data.picture import Array
from img2img.errors import choose
from img2img.lab import probes, report, verdict
from img2img.lab.measures import IDENTITY, Case, Row, batch_left, features_only, measure_case, prepare
from img2img.lab.verdict import Outcome

if TYPE_CHECKING:
    import pandas as pd

FEATURES_ONLY = "feature z-score per batch"
CONFOUNDED = 0.3  # Cramér's V of batch and label above which the one stands for the other


class Gate(NamedTuple):
    """A bound that a method has to keep.

    Attributes:
        metric: what is bounded.
        test: whether a value passes.
        text: the bound in words.
        masked: the gate is for judging with true masks (True), without (False), or either (None).
        visible: whether these images could fail a method at all; if not, a value within the bound says nothing.
    """

    metric: str
    test: Callable[[float], bool]
    text: str
    masked: bool | None = None
    visible: Callable[[Row], bool] = lambda row: True


# Without masks the input's own segmentation is the measure. An equalizer may improve it, so the bounds are wider, but a
# constant image (no objects) and another image (dice about what chance gives) stay far outside.
GATES: dict[str, Gate] = {
    "effect kept": Gate(
        "retention_off",
        lambda v: v <= 1 / 0.9,
        "treated / control intensity within batches stays, on average, within a factor of 0.9, up or down",
        visible=lambda row: (row["effect"] or 1) > 1 / 0.9,
    ),
    "objects found": Gate("f1_drop", lambda v: v <= 0.02, "object F1 drops by 0.02 at most", True),
    "objects counted": Gate("count_excess", lambda v: v <= 0.01, "count error at most 0.01 above doing nothing", True),
    "same objects": Gate("f1_drop", lambda v: v <= 0.1, "object F1 with the input's segmentation at least 0.9", False),
    "same outline": Gate("dice", lambda v: v >= 0.9, "dice with the input's segmentation at least 0.9", False),
    "same count": Gate("count_excess", lambda v: v <= 0.1, "object count within 10 % of the input's", False),
    "nothing moved": Gate("px_shift", lambda v: v <= 0.1, "content moves by 0.1 pixel at most"),
    "sham unchanged": Gate("sham", lambda v: v <= 0.01, "one batch split in two changes by 1 % of the range at most"),
}


def gates_of(row: Row, identity: Row, masked: bool) -> dict[str, bool | None]:
    """Whether a method passes each gate; None: not measured. What doing nothing leaves measurable has to stay so."""
    result: dict[str, bool | None] = {}
    for name, gate in GATES.items():
        if gate.masked in (None, masked):
            value = row.get(gate.metric)
            if value is None:
                result[name] = None if identity.get(gate.metric) is None else False
            else:
                result[name] = False if not gate.test(value) else gate.visible(row) or None
    return result


@dataclass(frozen=True)
class Evaluation:
    """Several methods judged on the same images.

    Attributes:
        rows: metrics of each method; `verdict.COLUMNS` has a sentence for each. None: not measured.
        gates: whether each method passes each gate; None: not measured.
        gate_texts: the gates in words.
        judged: the method that the verdict is on.
        reference: the batch that the others were to look like.
        counts: how many images, groups, objects and so on there were.
        cramers_v: association of batch and label.
        confounded: batch and label go together, and the methods were fitted on more than controls.
        notes: what else is to be known.
        settings: what it was measured with.
        histograms: for the judged method and doing nothing, the share of pixels of each batch (C, `report.BINS`).
        pictures: thumbnails of a few images of each batch, in all methods.
    """

    rows: dict[str, Row]
    gates: dict[str, dict[str, bool | None]]
    gate_texts: dict[str, str]
    judged: str
    reference: str
    counts: dict[str, int]
    cramers_v: float | None
    confounded: bool
    notes: tuple[str, ...]
    settings: dict[str, Any]
    histograms: dict[str, dict[str, Array]] = field(repr=False)
    pictures: list[report.Shown] = field(repr=False)

    def passed(self, method: str) -> bool:
        """Whether it fails no gate and passes at least one; gates that were not measured do not count."""
        values = choose("method", method, self.gates).values()
        return False not in values and True in values

    @property
    def ranking(self) -> list[str]:
        """The methods that pass, by phenotype accuracy, then by how little the linear probe can tell the batch."""
        key = {
            m: (-(r.get("phenotype_accuracy") or 0), 1 if r.get("batch_linear") is None else r["batch_linear"])
            for m, r in self.rows.items()
        }
        return sorted((m for m in self.rows if self.passed(m)), key=key.__getitem__)

    @property
    def verdict(self) -> str:
        """One sentence on the judged method."""
        return verdict.judgement(self)[1]

    @property
    def outcome(self) -> Outcome:
        """Whether the verdict is good news: "pass", "warn" or "fail"."""
        return verdict.judgement(self)[0]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        names = ("judged", "reference", "cramers_v", "confounded", "counts", "gates", "gate_texts", "rows", "settings")
        return {
            "verdict": self.verdict,
            "outcome": self.outcome,
            "banner": verdict.BANNER,
            **{name: getattr(self, name) for name in names},
            "passed": {method: self.passed(method) for method in self.rows},
            "ranking": self.ranking,
            "notes": list(self.notes),
        }

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict`."""
        _write(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))

    def to_html(self, path: str | Path, quality: "pd.DataFrame | None" = None) -> None:
        """Writes a page that needs no other file, with the table of the single images' quality if it is given."""
        _write(path, report.report(self, quality))

    def to_text(self) -> str:
        """A compact table for the terminal, and the verdict."""
        return verdict.text(self)

    def to_frame(self) -> "pd.DataFrame":
        """One row per method: `passed`, then the metrics."""
        import pandas as pd

        frame = pd.DataFrame.from_dict(self.rows, orient="index").astype(float)
        frame.insert(0, "passed", [self.passed(method) for method in frame.index])
        return frame.rename_axis("method")


def _write(path: str | Path, text: str) -> None:
    write_text(Path(path), text)


def evaluate(
    outputs: Mapping[str, Sequence[Array]],
    *,
    before: Sequence[Array],
    batch: Sequence[str],
    reference: str,
    scale: Array,
    judged: str,
    sham: float | None = None,
    notes: Iterable[str] = (),
    fit: tuple[Sequence[Array], Sequence[str], Sequence[Array] | None] | None = None,
    fitted_on_controls: bool | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **case: Any,
) -> Evaluation:
    """Measures several methods on the same images and passes judgement on one of them.

    Args:
        outputs: the images of each method. Doing nothing is added if it is missing.
        before: the input.
        batch: of each image.
        reference: the batch that the others are to look like.
        scale: low and high value of each channel (C, 2).
        judged: the method, in `outputs`, that the verdict is on.
        sham: mean change of the judged method, in units of the range, on the halves of one batch split at random.
        notes: sentences for the report.
        fit: images, batches and masks (or None) of the fit set; adds a row for normalising features instead of images.
        fitted_on_controls: whether the methods have seen controls only; by default, whether `control` is given.
        progress: called with the methods measured, and all there are.
        **case: `group`, `control`, `label`, `masks`, `truth`, `nuclei`, `dark` and `seed`, as for `measure`.

    Raises:
        ConfigError: if `judged` is not in `outputs`.
        InputError: as `measure`.
    """
    choose("method", judged, outputs)
    subject = prepare(before, batch=batch, reference=reference, scale=scale, **case)
    methods = ({} if IDENTITY in outputs else {IDENTITY: before}) | dict(outputs)
    progress(0, len(methods))
    rows = {}
    for done, (name, images) in enumerate(methods.items(), 1):
        rows[name] = measure_case(subject, images)
        progress(done, len(methods))
    rows[judged]["sham"] = sham
    masked = subject.masks is not None
    gates = {name: gates_of(row, rows[IDENTITY], masked) for name, row in rows.items()}
    if fit is not None:
        rows[FEATURES_ONLY] = features_only(subject, *fit)
        gates[FEATURES_ONLY] = dict.fromkeys(gates[IDENTITY])
    for row in rows.values():
        row |= batch_left(row, rows[IDENTITY])
    v = None if subject.label is None else probes.cramers_v(subject.batch, subject.label)
    controls = subject.control is not None if fitted_on_controls is None else fitted_on_controls
    return Evaluation(
        rows=rows,
        gates=gates,
        gate_texts={name: gate.text for name, gate in GATES.items() if name in gates[IDENTITY]},
        judged=judged,
        reference=reference,
        counts=_counts(subject),
        cramers_v=v,
        confounded=v is not None and v > CONFOUNDED and not controls,
        notes=(*notes, *subject.problems),
        settings={name: getattr(subject, name) for name in ("reference", "nuclei", "dark", "seed")}
        | {"scale": subject.scale.tolist(), "objects": "masks" if masked else "segmented in the input"},
        histograms={n: report.histograms(methods[n], subject.batch, subject.scale) for n in (IDENTITY, judged)},
        pictures=report.shown(methods, subject.batch, subject.scale, subject.nuclei),
    )


def _counts(case: Case) -> dict[str, int]:
    names = [] if case.label is None else [str(name) for name in np.unique(case.label)]
    return {
        "images": len(case.before),
        "groups": len(np.unique(case.group)),
        "objects": sum(len(np.unique(labels[labels > 0])) for labels in case.objects),
        **({} if case.control is None else {"controls": int(np.count_nonzero(case.control))}),
        **{f"batch {name}": int(np.count_nonzero(case.batch == name)) for name in case.batches},
        **{f"label {name}": int(np.count_nonzero(case.label == name)) for name in names},
    }
