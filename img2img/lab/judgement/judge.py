"""The judgement: are an equalizer's results fit for measuring, and do they remove the batch? Gates first, then rank.

No single number can be trusted: a constant image has no batch, and a sharp copy of the input has all its biology. A
method must pass every gate on structure and effect; those that pass are compared by what carries over between batches.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from html import escape
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from img2img.data.picture import Array
from img2img.errors import choose
from img2img.lab.checks import threads
from img2img.lab.curves.found import Found
from img2img.lab.judgement import pictures, probes, report, verdict
from img2img.lab.judgement.case import STEPS_OF_MEASURING, Case, batch_left, measure
from img2img.lab.judgement.channels import interval, measure_channels, worst
from img2img.lab.judgement.findings import Findings
from img2img.lab.judgement.gates import GATES, gates_of
from img2img.lab.judgement.normalised import measure_normalised_features, measure_zscored_features
from img2img.lab.judgement.scores import FEATURES_ONLY, IDENTITY, Scores
from img2img.lab.judgement.verdict import Advice, Outcome
from img2img.runtime.files import write_text
from img2img.runtime.markup import in_cell, table

if TYPE_CHECKING:
    import pandas as pd

CONFOUNDED = 0.3  # Cramér's V of batch and label above which one stands for the other


class Evaluation(Findings):
    """Findings with their verdict, as text, JSON and a page. `Findings` lists the attributes."""

    @property
    def verdict(self) -> str:
        """The verdict on the judged method, in one sentence."""
        return verdict.judgement(self).sentence

    @property
    def advice(self) -> Advice:
        """The verdict in short: "use it", "no better", "worse than nothing" or "cannot be told"."""
        return verdict.judgement(self).advice

    @property
    def outcome(self) -> Outcome:
        """The colour of the verdict: "pass" is green, "warn" amber, "fail" red."""
        return verdict.judgement(self).outcome

    def __repr__(self) -> str:
        return f"Evaluation({self.judged}: {self.verdict})"

    def _repr_html_(self) -> str:
        head, *rows = verdict.compact(self)
        lines = [[f"<strong>{escape(name)}</strong>" if name == self.judged else escape(name), *map(escape, cells)]
                 for name, *cells in rows]  # fmt: skip
        remarks = "".join(f'<p class="faint">{escape(note)}</p>' for note in (*self.notes, verdict.BANNER))
        scores = f'<div class="numbers">{table(lines, head, "Scores")}</div>'
        return in_cell(self.verdict, scores, remarks)

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the pictures, for JSON."""
        names = (
            "judged",
            "reference",
            "cramers_v",
            "confounded",
            "counts",
            "gates",
            "gate_texts",
            "rows",
            "channels",
            "places",
            "settings",
        )
        return {
            "verdict": self.verdict,
            "advice": self.advice,
            "outcome": self.outcome,
            "banner": verdict.BANNER,
            **{name: getattr(self, name) for name in names},
            "corrections": [asdict(found) for found in self.corrections],
            "passed": {method: self.passed(method) for method in self.rows},
            "ranking": self.ranking,
            "notes": list(self.notes),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))

    def to_html(self, path: str | Path, quality: "pd.DataFrame | None" = None) -> None:
        """Write a self-contained page, with the quality table of the single images if it is given."""
        write_text(Path(path), report.report(self, quality))

    def to_text(self) -> str:
        """Return a compact table for the terminal, and the verdict."""
        return verdict.text(self)


def evaluate(
    outputs: Mapping[str, Sequence[Array]],
    case: Case,
    *,
    judged: str,
    sham: float | None = None,
    corrections: Iterable[Found] = (),
    notes: Iterable[str] = (),
    fit: tuple[Sequence[Array], Sequence[str], Sequence[Array] | None] | None = None,
    fitted_on_controls: bool | None = None,
    n_jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure several methods on the same images and pass judgement on one of them.

    Args:
        outputs: the images of each method. Doing nothing is added if it is missing.
        case: the images to judge on, and what is known of them.
        judged: the method, in `outputs`, that the verdict is on.
        sham: mean change of the judged method, in units of the range, on the halves of one batch split at random.
        corrections: what the fit of the judged method found and corrected, for the report.
        notes: remarks for the report.
        fit: images, batches and masks (or None) of the fit set, by which the row for normalising features instead of
            images is normalised; by default by the controls of the case itself, without the image's own group.
        fitted_on_controls: whether the methods have seen only controls; by default, whether the case names controls.
        n_jobs: threads, each of which measures one method at a time; -1 is one for each core.
        progress: called with the number of steps done and the total.

    Raises:
        ConfigError: if `judged` is not in `outputs`.
        InputError: if the images of a method differ from the input in number or shape.
    """
    choose("method", judged, outputs)
    methods = ({} if IDENTITY in outputs else {IDENTITY: case.before}) | dict(outputs)
    done, lock, total = count(), Lock(), len(methods) * STEPS_OF_MEASURING

    def step() -> None:
        with lock:
            progress(next(done), total)

    def judge(images: Sequence[Array]) -> tuple[Scores, dict[str, Scores]]:
        return measure(case, images, step), measure_channels(case, images)

    step()
    _ = case.found, case.means, case.features  # all threads need them
    with ThreadPoolExecutor(threads(n_jobs)) as pool:
        judged_methods = dict(zip(methods, pool.map(judge, methods.values()), strict=True))
    rows, channels, places = {}, {}, {}
    for name, (row, channels[name]) in judged_methods.items():
        scores, places[name] = worst(channels[name])
        rows[name] = row | scores | interval(row["shift_control"], channels[name])
    rows[judged]["sham"] = sham
    masked = case.masks is not None
    gates = {name: gates_of(row, rows[IDENTITY], masked) for name, row in rows.items()}
    normalised = measure_zscored_features(case) if fit is None else measure_normalised_features(case, *fit)
    if normalised is not None:
        rows[FEATURES_ONLY] = normalised
        gates[FEATURES_ONLY] = dict.fromkeys(gates[IDENTITY])
    for row in rows.values():
        row |= batch_left(row, rows[IDENTITY])
    v = None if case.label is None else probes.cramers_v(case.batch, case.label)
    controls = case.control is not None if fitted_on_controls is None else fitted_on_controls
    return Evaluation(
        rows=rows,
        gates=gates,
        gate_texts={name: gate.text for name, gate in GATES.items() if name in gates[IDENTITY]},
        judged=judged,
        reference=case.reference,
        counts=_counts(case),
        cramers_v=v,
        confounded=v is not None and v > CONFOUNDED and not controls,
        notes=(*notes, *case.problems),
        settings={name: getattr(case, name) for name in ("reference", "nuclei", "dark", "seed")}
        | {
            "channels": None if case.channels is None else list(case.channels),
            "scale": case.scale.tolist(),
            "objects": "masks" if masked else "segmented in the input",
        },
        channels=channels,
        places=places[judged],
        corrections=tuple(corrections),
        histograms={n: pictures.histograms(methods[n], case.batch, case.scale) for n in (IDENTITY, judged)},
        pictures=pictures.examples(case, methods[judged]),
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
