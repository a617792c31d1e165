"""`evaluate` a model, a run or two folders, and `rank` the checkpoints of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from img2img.data.images import atomic
from img2img.data.scale import Scale
from img2img.errors import ConfigError
from img2img.evaluation.evaluator import (
    OF_FOLDERS,
    OF_PAIRS,
    Evaluator,
    Progress,
    computable,
)
from img2img.evaluation.options import EvaluateOptions
from img2img.evaluation.scores import Evaluation, described, saved_rows
from img2img.evaluation.sides import Sides, arrays_in, learns_from_pairs, open_two, size_in_words
from img2img.metrics.scorer import MetricOptions
from img2img.metrics.table import Score, best_of, names_of
from img2img.model.file import read_card
from img2img.model.model import model_file
from img2img.model.options import LoadOptions
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, pick, split
from img2img.options.docstrings import documented
from img2img.report.run import rewrite_report
from img2img.runs.folder import RunFolder
from img2img.runs.results import MODEL


@documented(EvaluateOptions, MetricOptions, LoadOptions)
def evaluate(
    model: str | Path | Translator | None = None,
    *,
    metrics: str | Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    channel_axis: int | None = None,
    **options: Unpack[keywords.Evaluating],
) -> Evaluation:
    """Score a model on held-out images, beside the unchanged input and histogram matching; or a folder by another.

    Args:
        model: a model, or its path. For the folder of a run, without other images, its own held-out images are used,
            cut as in training, and the result is written into the folder and its report.html. With None, `real` and
            `fake` name two folders.
        metrics: their names; by default those that suit the images and need no downloaded weights.
        progress: called with the number of images done, and of all.
        channel_axis: the axis of channels in arrays; by default last, and third from last in tensors.
        **options: see Options below. `a` and `b`, and `real` and `fake`, may also be arrays, as in `train`.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    check_names("evaluating", options, EvaluateOptions, MetricOptions, LoadOptions)
    arrays = arrays_in(options, channel_axis)
    chosen, of_metrics = split(options, EvaluateOptions, MetricOptions)
    loading = pick(options, LoadOptions)
    names = names_of(metrics)
    choices: dict[str, Any] = {"options": of_metrics, **chosen.judging}
    if model is None:
        _refuse(chosen, ("a", "b", "ab"), "need a model; without one, give --real DIR and --fake DIR.")
        real, fake = open_two(chosen, arrays)
        scale = Scale.of(real, real.domain.dtype)
        if not names:
            defaults = OF_PAIRS if chosen.paired else OF_FOLDERS
            names = tuple(computable(defaults, min(len(real), len(fake)), of_metrics))
        judged = Evaluator(fake, real, chosen.paired, (scale, scale), size_in_words(chosen), names, **choices)
        return judged.of_folder(progress)
    _refuse(chosen, ("real", "fake"), "judge images without a model; with one, give --a DIR --b DIR or --ab DIR.")
    loaded = _load(model, loading)
    run = Path(model) if isinstance(model, str | Path) and Path(model).is_dir() else None
    own = run is not None and not (chosen.a or chosen.b or chosen.ab or arrays)
    evaluator = Evaluator.for_model(loaded, sides_of(loaded, run if own else None, chosen, arrays), names, **choices)
    result = evaluator.of_model(loaded, progress)
    if own and run is not None:
        try:
            keep(run, evaluator, loaded, result)
        except OSError as error:  # the scores matter more than the file
            result.protocol["notes"].append(f"not written into {run}: {error.strerror or error}")
    return result


def keep(run: Path, evaluator: Evaluator, model: Translator, result: Evaluation) -> None:
    """Write a result into the folder of its run, with the best and worst images, and into the report."""
    files = RunFolder(run)
    with atomic(files.evaluation_picture) as temporary:
        evaluator.picture(model, result).save(temporary, format="png")
    result.save(files.evaluation)
    rewrite_report(run)


@dataclass(frozen=True)
class Ranking:
    """The checkpoints of a run, ranked by one metric.

    Attributes:
        metric: its name.
        best: the file that is best by it.
        scores: file, relative to the run folder -> its step and scores, in order of steps.
        rows: the baselines.
        protocol: what was compared, and how.
    """

    metric: str
    best: str
    scores: dict[str, tuple[int, dict[str, Score]]]
    rows: dict[str, dict[str, Score]]
    protocol: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the content of checkpoints.json."""
        saved = saved_rows({name: scores for name, (_, scores) in self.scores.items()})
        return {
            "metric": self.metric,
            "better": described(self.metric).better,
            "best": self.best,
            "scores": {name: {"step": step} | _plain(saved[name]) for name, (step, _) in self.scores.items()},
            "rows": {name: _plain(scores) for name, scores in saved_rows(self.rows).items()},
            "protocol": self.protocol,
        }


@documented(EvaluateOptions, MetricOptions, LoadOptions)
def rank(
    run: str | Path,
    *,
    metrics: str | Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    channel_axis: int | None = None,
    **options: Unpack[keywords.Evaluating],
) -> Ranking:
    """Score every checkpoint that a run has kept on its held-out images, or on those that `options` name.

    The first metric decides which one is best. Scores on its own images are written into the run's folder and report.

    Args:
        run: the folder of a run.
        metrics: their names; by default those that suit the images.
        progress: called with the number of checkpoints done, and of all.
        channel_axis: the axis of channels in arrays; by default last, and third from last in tensors.
        **options: see Options below.
    """
    check_names("evaluating", options, EvaluateOptions, MetricOptions, LoadOptions)
    arrays = arrays_in(options, channel_axis)
    chosen, of_metrics = split(options, EvaluateOptions, MetricOptions)
    loading = pick(options, LoadOptions)
    folder = Path(run)
    if not folder.is_dir():
        raise ConfigError(f"--all takes the folder of a run; {folder} is not a folder.")
    newest = model_file(folder)
    run_folder = RunFolder(folder)
    files = sorted(run_folder.kept_models(), key=lambda path: (read_card(path).step, path.name))
    own = not (chosen.a or chosen.b or chosen.ab or arrays)
    first = _load(newest, loading)
    sides = sides_of(first, folder if own else None, chosen, arrays)
    evaluator = Evaluator.for_model(first, sides, names_of(metrics), options=of_metrics, **chosen.judging)
    scores: dict[str, tuple[int, dict[str, Score]]] = {}
    for done, path in enumerate(files, 1):
        result = evaluator.of_model(_load(path, loading))
        scores[path.relative_to(folder).as_posix()] = (result.protocol["step"], next(iter(result.rows.values())))
        progress(done, len(files))
    metric = next(iter(result.rows[MODEL]))
    best = best_of(metric, {name: row[metric].value for name, (_, row) in scores.items()}) or newest.name
    protocol = {k: v for k, v in result.protocol.items() if k not in ("model", "step", "seconds")}
    ranking = Ranking(metric, best, scores, evaluator.baselines(), protocol)
    if own:
        try:
            with atomic(run_folder.ranking) as temporary:
                temporary.write_text(json.dumps(ranking.to_json(), indent=1, allow_nan=False) + "\n")
            rewrite_report(folder)
        except OSError as error:
            protocol["notes"].append(f"not written into {folder}: {error.strerror or error}")
    return ranking


def _plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(score) for name, score in scores.items()}


def _load(model: str | Path | Translator, loading: dict[str, Any]) -> Translator:
    if not isinstance(model, Translator):
        return Translator(model, **loading)
    if other := {k: v for k, v in loading.items() if k != "direction"}:
        raise ConfigError(f"{', '.join(other)}: choose this when loading the model; this one is loaded already.")
    return model.towards(loading["direction"]) if loading.get("direction") else model


def sides_of(
    model: Translator, run: Path | None, options: EvaluateOptions, arrays: Mapping[str, Any] | None = None
) -> Sides:
    """Open the held-out images of `run`; without one, those that `options` name, or `arrays`."""
    if run is not None:
        return Sides.of_run(run, options)
    return Sides.of_folders(options, learns_from_pairs(model.card.method), arrays)


def _refuse(options: EvaluateOptions, names: tuple[str, ...], why: str) -> None:
    if stray := [f"--{name}" for name in names if getattr(options, name)]:
        raise ConfigError(f"{', '.join(stray)} {why}")
