"""The scores of an evaluation, in memory and as they are saved."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img2img.errors import ConfigError, install_hint
from img2img.metrics.network import ENCODER
from img2img.metrics.score import Score
from img2img.metrics.table import METRICS, base_name
from img2img.report.result import BOLD, protocol, scores_table
from img2img.runs.results import JudgeRecord, MetricText, Protocol, Result, SavedScore
from img2img.runtime.files import write_text
from img2img.runtime.markup import in_cell, listing

if TYPE_CHECKING:
    import pandas as pd

KEPT = "class_kept"  # a score by the judge, beside those of `METRICS`
RELATIVE = "Comparable only on these real images; has no absolute meaning."


@dataclass
class Evaluation:
    """The scores, and everything needed to understand them.

    Attributes:
        protocol: what was compared, and how; JSON-serialisable.
        rows: row -> metric -> score. The first row is that of the model or the folder; the others are baselines.
            There are none where features were only kept.
        per_image: metric -> name of the image -> its score in the first row.
    """

    protocol: dict[str, Any]
    rows: dict[str, dict[str, Score]]
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """The values of the first row."""
        return {name: score.value for name, score in next(iter(self.rows.values()), {}).items()}

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        return f"Evaluation({self.protocol.get('images', '?')} images, {next(iter(self.rows), 'no scores')}: {scores})"

    def _repr_html_(self) -> str:
        result = self.record
        if not result.rows:
            return in_cell("Evaluation without scores", listing(result.protocol.notes))
        words = f'<p class="faint">{BOLD} {escape(protocol(result))}</p>'
        return in_cell("Evaluation", scores_table(result.rows, result.metrics), words)

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with a line for each row: the values, and as METRIC_std the deviations if there are any.

        Raises:
            ConfigError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ConfigError(install_hint("to_frame", "pandas", "lab")) from error
        cells: dict[str, dict[str, float]] = {row: {} for row in self.rows}
        for row, scores in self.rows.items():
            for name, score in scores.items():
                cells[row] |= {name: score.value} | ({} if score.std is None else {f"{name}_std": score.std})
        return pd.DataFrame.from_dict(cells, orient="index").astype(float).rename_axis("row")

    @property
    def record(self) -> Result:
        """The evaluation as a report reads it."""
        known = {entry.name: self.protocol[entry.name] for entry in fields(Protocol) if entry.name in self.protocol}
        if judge := known.get("judge"):
            known["judge"] = JudgeRecord(judge["accuracy"], judge["tested"])
        per_image = {k: {name: finite(x) for name, x in values.items()} for k, values in self.per_image.items()}
        return Result(Protocol(**known), texts_of(self.rows), saved_rows(self.rows), per_image)

    def to_json(self) -> dict[str, Any]:
        """Return the content of evaluation.json."""
        return asdict(self.record) | {"protocol": self.protocol}

    def save(self, path: Path) -> None:
        """Write the evaluation as JSON, completely or not at all."""
        write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def saved_rows(rows: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, SavedScore]]:
    """Return row -> metric -> score, as it is saved."""
    return {
        row: {name: SavedScore(finite(score.value), finite(score.std)) for name, score in scores.items()}
        for row, scores in rows.items()
    }


def finite(x: float | None) -> float | None:
    """Return a number as JSON can hold it, None for infinities and NaN."""
    return x if x is not None and math.isfinite(x) else None


def texts_of(rows: Mapping[str, Mapping[str, Score]]) -> dict[str, MetricText]:
    """Return the descriptions of all metrics in `rows`."""
    return {name: described(name) for row in rows.values() for name in row}


def described(name: str) -> MetricText:
    """Return direction, range and meaning of a metric in words."""
    if name.startswith("judge["):
        return MetricText("", "0 to 1", "Share of images that the judge assigns to this class.")
    if name == KEPT:
        text = "Share of images that the judge assigns to the class of their input; limited by its own accuracy."
        return MetricText("higher", "0 to 1", text)
    metric = METRICS[base_name(name)]
    text = f"Intersection over union of label {name[4:-1]}." if name.startswith("iou[") else metric.text
    relative = name.endswith(f"[{ENCODER}]")
    span = f"{metric.range}, relative" if relative else metric.range
    return MetricText(metric.better or "", span, f"{text} {RELATIVE}" if relative else text)
