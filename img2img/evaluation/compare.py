"""Several runs side by side: the same held-out images, their metrics, and the settings that differ."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from img2img.errors import ConfigError, ModelFileError
from img2img.evaluation.evaluate import Request
from img2img.evaluation.evaluator import Progress
from img2img.evaluation.options import EvaluateOptions, Show
from img2img.evaluation.pictures import side_by_side
from img2img.evaluation.scores import Evaluation
from img2img.metrics.options import MetricOptions
from img2img.metrics.score import Score
from img2img.model.hub import short_name
from img2img.model.options import LoadOptions
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import option
from img2img.options.docstrings import documented
from img2img.report.page import captioned, is_page, lightened, page
from img2img.report.result import BOLD, meanings, protocol, scores_table
from img2img.runs.folder import RunFolder
from img2img.runs.record import OPERATIONAL, RunRecord
from img2img.runtime.files import refuse_unwritable, write_text
from img2img.runtime.markup import in_cell, table
from img2img.runtime.progress import shown_in_notebook
from img2img.runtime.records import from_json, read_text


@dataclass(frozen=True)
class Comparison:
    """The scores of several runs.

    Attributes:
        rows: run -> metric -> score; the baselines come last.
        settings: option -> run -> its value, for the options in which the runs differ.
        protocol: what was compared, and how.
        unwritten: why the page could not be written; "" if it was, or was not asked for.
    """

    rows: dict[str, dict[str, Score]]
    settings: dict[str, dict[str, Any]]
    protocol: dict[str, Any]
    unwritten: str = ""

    @property
    def evaluation(self) -> Evaluation:
        """The scores as an evaluation with a row for each run."""
        return Evaluation(self.protocol, self.rows)

    def __repr__(self) -> str:
        rows = (
            f"{row} {name} {score.value:.4g}" for row, scores in self.rows.items() for name, score in scores.items()
        )
        return f"Comparison({', '.join(rows)})"

    def _repr_html_(self) -> str:
        result = self.evaluation.record
        words = f'<p class="faint">{BOLD} {escape(protocol(result))}</p>'
        return in_cell("Comparison", scores_table(result.rows, result.metrics), words, _settings(self))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        known = self.evaluation.to_json()
        return {name: known[name] for name in ("protocol", "metrics", "rows")} | {"settings": self.settings}


@documented(EvaluateOptions, MetricOptions, LoadOptions)
@shown_in_notebook("comparing", "models")
def compare(
    runs: Sequence[str | Path],
    *,
    metrics: str | Sequence[str] = (),
    out: str | Path | None = None,
    show: int = 6,
    progress: Progress = lambda done, total: None,
    channel_axis: int | None = None,
    **options: Unpack[keywords.Evaluating],
) -> Comparison:
    """Score several models on the same held-out images, and show their translations side by side.

    Args:
        runs: folders of runs, or model files, here or on a hub, that translate in the same direction. The held-out
            images are those of the first, unless `options` name others.
        metrics: their names; by default those that suit the images.
        out: the HTML page to write, if any.
        show: the number of images on the page.
        progress: called with the number of models done, and of all.
        channel_axis: the axis of channels in arrays; by default last, and third from last in tensors.
        **options: see Options below.

    Raises:
        ConfigError: if there are fewer than two, or they translate in different directions.
    """
    request = Request.of("comparing", metrics, options, channel_axis)
    show = option("show", Show).convert(show)
    if len(runs) < 2 or len({Path(run).resolve() for run in runs}) < len(runs):
        raise ConfigError("Comparing takes at least two different runs.")
    if out is not None:
        refuse_unwritable(Path(out), is_page)
    titles = _titles(runs)
    models = {title: Translator(run, **request.loading) for title, run in zip(titles, runs, strict=True)}
    directions = {title: model.direction for title, model in models.items()}
    if len(set(directions.values())) > 1:
        raise ConfigError(f"The runs translate in different directions: {directions}. Compare runs of one direction.")
    first, own = models[titles[0]], request.own_run(runs[0])
    evaluator = request.evaluator(first, own)
    if odd := [title for title, model in models.items() if model.spec() != first.spec()]:
        raise ConfigError(f"{odd[0]} and {titles[0]} work on different kinds of images; they cannot be compared.")
    rows, protocol = evaluator.of_models(models.items(), len(models), progress)
    protocol["notes"] += _cautions(models, own is not None)
    comparison = Comparison(rows | evaluator.baselines, _differing(models), protocol)
    if out is None:
        return comparison
    numbers = sorted({round(i) for i in np.linspace(0, len(evaluator.source) - 1, max(1, show))})
    sheet = io.BytesIO()
    side_by_side(evaluator, models, numbers).save(sheet, format="png")
    try:
        write_text(Path(out), _page(comparison, sheet.getvalue()))
    except OSError as error:  # the scores matter more than the page
        return replace(comparison, unwritten=f"{out} cannot be written: {error.strerror or error}")
    return comparison


def _titles(paths: Sequence[str | Path]) -> list[str]:
    """Return short names that distinguish the runs."""
    names = list(map(short_name, paths))
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _differing(models: Mapping[str, Translator]) -> dict[str, dict[str, Any]]:
    """Return the settings in which the runs differ: of the whole run if its folder is known, else of the model."""
    settings = {
        title: {"method": model.card.method, "step": model.card.step, **(_options_of(model) or model.card.config)}
        for title, model in models.items()
    }
    names = [n for n in dict.fromkeys(name for values in settings.values() for name in values) if n not in OPERATIONAL]
    table = {n: {title: values.get(n) for title, values in settings.items()} for n in names}
    return {n: values for n, values in table.items() if len({json.dumps(v) for v in values.values()}) > 1}


def _options_of(model: Translator) -> dict[str, Any]:
    """Return the options of the run whose folder, or models/, holds the model file; empty if there is none."""
    for folder in list(model.path.parents)[:2]:
        with contextlib.suppress(ModelFileError):
            config = RunFolder(folder).config
            return dict(from_json(RunRecord, read_text(config), str(config)).options)
    return {}


def _cautions(models: Mapping[str, Translator], own: bool) -> list[str]:
    """Return notes on whatever treats the runs unequally."""
    first, *others = models
    size = models[first].card.size
    notes = [
        f"{title} was trained at {models[title].card.size} px and is judged at {size}, the size of {first}"
        for title in others
        if own and models[title].card.size not in (0, size)
    ]
    known = [_options_of(model) for model in models.values()]
    data = [[options.get(name) for name in ("a", "b", "ab", "data", "val_fraction")] for options in known]
    if any(where != data[0] for where in data):
        notes.append("the runs were not trained on the same data: make sure that none was trained on these images")
    return notes


def _settings(comparison: Comparison) -> str:
    """Return the table of the settings that differ, empty if none does."""
    runs = list(next(iter(comparison.settings.values()), {}))
    lines = [[escape(name), *(escape(str(v)) for v in values.values())] for name, values in comparison.settings.items()]
    return table(lines, ["option", *map(escape, runs)], "Settings that differ") if lines else ""


def _page(comparison: Comparison, sheet: bytes) -> str:
    result = comparison.evaluation.record
    parts = [
        captioned(lightened(sheet), "The same held-out images.", "Inputs, and the results of each run"),
        "<h2>Scores</h2>",
        scores_table(result.rows, result.metrics),
        f"<p>{BOLD} {escape(protocol(result))}</p>",
        meanings(result.metrics),
        "<h2>Settings that differ</h2>",
        _settings(comparison) or "<p>None.</p>",
    ]
    return page("img2img: runs compared", "\n".join(parts))
