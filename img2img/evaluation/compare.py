"""Several runs side by side: the same held-out images, their metrics, and the settings that differ."""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from img2img.data.grid import draw_grid
from img2img.errors import ConfigError, ModelFileError
from img2img.evaluation.evaluate import sides_of
from img2img.evaluation.evaluator import Evaluator, Progress, shrunk
from img2img.evaluation.options import EvaluateOptions, Show
from img2img.evaluation.scores import Evaluation
from img2img.evaluation.sides import arrays_in
from img2img.metrics.options import MetricOptions
from img2img.metrics.score import Score
from img2img.metrics.table import names_of
from img2img.model.options import LoadOptions
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, option, pick, split
from img2img.options.docstrings import documented
from img2img.report.page import captioned, is_page, lightened, page, table
from img2img.report.result import BOLD, meanings, protocol, scores_table
from img2img.runs.folder import RunFolder
from img2img.runs.record import OPERATIONAL, RunRecord
from img2img.runtime.files import refuse_unwritable, write_text
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

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        known = self.evaluation.to_json()
        return {name: known[name] for name in ("protocol", "metrics", "rows")} | {"settings": self.settings}


@documented(EvaluateOptions, MetricOptions, LoadOptions)
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
        runs: folders of runs, or model files, that translate in the same direction. The held-out images are those of
            the first, unless `options` name others.
        metrics: their names; by default those that suit the images.
        out: the HTML page to write, if any.
        show: the number of images on the page.
        progress: called with the number of models done, and of all.
        channel_axis: the axis of channels in arrays; by default last, and third from last in tensors.
        **options: see Options below.

    Raises:
        ConfigError: if there are fewer than two, or they translate in different directions.
    """
    check_names("comparing", options, EvaluateOptions, MetricOptions, LoadOptions)
    arrays = arrays_in(options, channel_axis)
    chosen, of_metrics = split(options, EvaluateOptions, MetricOptions)
    loading = pick(options, LoadOptions)
    show = option("show", Show).convert(show)
    if len(runs) < 2 or len({Path(run).resolve() for run in runs}) < len(runs):
        raise ConfigError("Comparing takes at least two different runs.")
    if out is not None:
        refuse_unwritable(Path(out), is_page)
    models = [Translator(Path(run), **loading) for run in runs]
    titles = _titles([Path(run) for run in runs])
    directions = {title: model.direction for title, model in zip(titles, models, strict=True)}
    if len(set(directions.values())) > 1:
        raise ConfigError(f"The runs translate in different directions: {directions}. Compare runs of one direction.")
    first = Path(runs[0])
    own = first.is_dir() and not (chosen.a or chosen.b or chosen.ab or arrays)
    sides = sides_of(models[0], first if own else None, chosen, arrays)
    evaluator = Evaluator.for_model(models[0], sides, names_of(metrics), options=of_metrics, **chosen.judging)
    rows, protocol = {}, {}
    for done, (title, model) in enumerate(zip(titles, models, strict=True), 1):
        if model.spec() != models[0].spec():
            raise ConfigError(f"{title} and {titles[0]} work on different kinds of images; they cannot be compared.")
        result = evaluator.of_model(model)
        name, *_ = result.rows
        rows[title], protocol = result.rows[name], result.protocol
        progress(done, len(models))
    protocol = {k: v for k, v in protocol.items() if k not in ("model", "step", "seconds")}
    protocol["notes"] += _cautions(titles, models, own)
    comparison = Comparison(rows | evaluator.baselines(), _differing(titles, models), protocol)
    if out is None:
        return comparison
    page = _page(comparison, _sheet(evaluator, titles, models, show))
    try:
        write_text(Path(out), page)
    except OSError as error:  # the scores matter more than the page
        return replace(comparison, unwritten=f"{out} cannot be written: {error.strerror or error}")
    return comparison


def _titles(paths: Sequence[Path]) -> list[str]:
    """Return short names that distinguish the runs."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _differing(titles: Sequence[str], models: Sequence[Translator]) -> dict[str, dict[str, Any]]:
    """Return the settings in which the runs differ: of the whole run if its folder is known, else of the model."""
    settings = [
        {"method": model.card.method, "step": model.card.step, **(_options_of(model) or model.card.config)}
        for model in models
    ]
    names = [n for n in dict.fromkeys(name for values in settings for name in values) if n not in OPERATIONAL]
    table = {n: {t: values.get(n) for t, values in zip(titles, settings, strict=True)} for n in names}
    return {n: values for n, values in table.items() if len({json.dumps(v) for v in values.values()}) > 1}


def _options_of(model: Translator) -> dict[str, Any]:
    """Return the options of the run whose folder, or models/, holds the model file; empty if there is none."""
    for folder in list(model.path.parents)[:2]:
        with contextlib.suppress(ModelFileError):
            config = RunFolder(folder).config
            return dict(from_json(RunRecord, read_text(config), str(config)).options)
    return {}


def _cautions(titles: Sequence[str], models: Sequence[Translator], own: bool) -> list[str]:
    """Return notes on whatever treats the runs unequally."""
    notes, size = [], models[0].card.size
    for title, model in zip(titles[1:], models[1:], strict=True):
        if own and model.card.size and model.card.size != size:
            notes.append(
                f"{title} was trained at {model.card.size} px and is judged at {size}, the size of {titles[0]}"
            )
    known = {title: _options_of(model) for title, model in zip(titles, models, strict=True)}
    data = {
        title: [options.get(name) for name in ("a", "b", "ab", "data", "val_fraction")]
        for title, options in known.items()
    }
    if any(where != data[titles[0]] for where in data.values()):
        notes.append("the runs were not trained on the same data: make sure that none was trained on these images")
    return notes


def _sheet(evaluator: Evaluator, titles: Sequence[str], models: Sequence[Translator], show: int) -> bytes:
    numbers = sorted({round(i) for i in np.linspace(0, len(evaluator.source) - 1, max(1, show))})
    sources = [evaluator.source[i] for i in numbers]
    columns: dict[str, Any] = {"input": [shrunk(evaluator.scale_in.encode(x)) for x in sources]}
    for title, model in zip(titles, models, strict=True):
        columns[title] = [shrunk(evaluator.scale.encode(x)) for x in model(sources)]
    if evaluator.paired:
        columns["truth"] = [shrunk(evaluator.scale.encode(evaluator.real[i])) for i in numbers]
    buffer = io.BytesIO()
    draw_grid(columns).save(buffer, format="png")
    return buffer.getvalue()


def _page(comparison: Comparison, sheet: bytes) -> str:
    result = comparison.evaluation.record
    runs = list(next(iter(comparison.settings.values()), {}))
    lines = [[escape(name), *(escape(str(v)) for v in values.values())] for name, values in comparison.settings.items()]
    parts = [
        captioned(lightened(sheet), "The same held-out images.", "Inputs, and the results of each run"),
        "<h2>Scores</h2>",
        scores_table(result.rows, result.metrics),
        f"<p>{BOLD} {escape(protocol(result))}</p>",
        meanings(result.metrics),
        "<h2>Settings that differ</h2>",
        table(lines, ["option", *map(escape, runs)], "Settings that differ") if lines else "<p>None.</p>",
    ]
    return page("img2img: runs compared", "\n".join(parts))
