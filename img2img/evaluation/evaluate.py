"""`evaluate` a model, a run or two folders, and `rank` the checkpoints of a run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from img2img.data.axes import arrays_of
from img2img.data.scale import Scale
from img2img.errors import ConfigError
from img2img.evaluation.evaluator import Evaluator, Progress
from img2img.evaluation.options import EvaluateOptions
from img2img.evaluation.part import keep_features
from img2img.evaluation.pictures import best_and_worst
from img2img.evaluation.scores import Evaluation, described, saved_rows
from img2img.evaluation.sides import Sides, open_two
from img2img.methods import METHODS
from img2img.metrics.options import MetricOptions
from img2img.metrics.score import Score
from img2img.metrics.table import best_of, names_of
from img2img.model.file import read_card
from img2img.model.model import model_file
from img2img.model.options import LoadOptions
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, pick, split
from img2img.options.docstrings import documented
from img2img.report.result import checkpoints_table
from img2img.report.run import rewrite_report
from img2img.runs.folder import RunFolder
from img2img.runs.results import RankingRecord
from img2img.runtime.device import pick_device
from img2img.runtime.files import atomic, write_text
from img2img.runtime.markup import in_cell
from img2img.runtime.progress import shown_in_notebook

ARRAYS = ("a", "b", "real", "fake")  # options that may be arrays in Python


class Request(NamedTuple):
    """The keywords of a call, sorted into what each part of an evaluation needs.

    Attributes:
        names: the metrics; none for those that suit the images.
        images: the held-out images, and how they are cut and judged.
        given: images that were given as arrays, or lists of files, by option.
        channel_axis: the axis of the channels in arrays.
        metrics: the options of the metrics.
        loading: the options of loading models.
    """

    names: tuple[str, ...]
    images: EvaluateOptions
    given: dict[str, Any]
    channel_axis: int | None
    metrics: MetricOptions
    loading: dict[str, Any]

    @classmethod
    def of(cls, what: str, metrics: str | Sequence[str], options: Any, channel_axis: int | None) -> "Request":
        """Sort the keywords of a call.

        Raises:
            ConfigError: if an option or a metric does not exist, or a value does not fit.
        """
        check_names(what, options, EvaluateOptions, MetricOptions, LoadOptions)
        given = {k: options.pop(k) for k in ARRAYS if not isinstance(options.get(k, ""), str | Path | None)}
        images, of_metrics = split(options, EvaluateOptions, MetricOptions)
        return cls(names_of(metrics), images, given, channel_axis, of_metrics, pick(options, LoadOptions))

    def arrays(self, pages: str | None) -> dict[str, Any]:
        """Return the images that were given as arrays, or lists of files whose pages are those of `PAGES`, by option.

        Raises:
            ConfigError: if `channel_axis` is given without arrays.
            DataError: if they are not images.
        """
        return arrays_of(self.given, self.channel_axis, pages or "images")

    def own_run(self, path: str | Path) -> Path | None:
        """Return the run whose own held-out images are meant: `path`, if it is a folder and no others are named."""
        named = self.images.a or self.images.b or self.images.ab or self.given
        return Path(path) if Path(path).is_dir() and not named else None

    def evaluator(self, model: Translator, run: Path | None) -> Evaluator:
        """Open the held-out images of `run`, or without one those that are named, for models like `model`."""
        if self.images.shard is not None:
            raise ConfigError(
                "--shard takes a part of two folders: give --real DIR and --fake DIR, and no model. Evaluations of a "
                "model share features through --cache alone."
            )
        images = replace(self.images, pages=self.images.pages or model.card.pages)
        arrays = self.arrays(images.pages)
        if run is not None:
            sides = Sides.of_run(run, self.images)
        else:
            sides = Sides.of_folders(images, METHODS[model.card.method].Config.needs.paired, arrays)
        return Evaluator.for_model(model, sides, self.names, options=self.metrics, **images.judging)


@documented(EvaluateOptions, MetricOptions, LoadOptions)
@shown_in_notebook("evaluating")
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
        **options: see Options below. `a` and `b`, and `real` and `fake`, may also be arrays, as in `train`. With
            `shard`, features are kept and nothing is scored: the result has no rows.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    request = Request.of("evaluating", metrics, options, channel_axis)
    chosen = request.images
    if model is None:
        _refuse(chosen, ("a", "b", "ab"), "need a model; without one, give --real DIR and --fake DIR.")
        real, fake = open_two(chosen, request.arrays(chosen.pages))
        scale = Scale.of(real, real.domain.dtype)
        device = pick_device(request.loading.get("device", "auto"))
        if chosen.shard is not None:
            return keep_features(fake, real, scale, chosen, request.names, request.metrics, device, progress)
        sides = fake, real, chosen.paired, (scale, scale), chosen.cut_in_words
        evaluator = Evaluator(*sides, request.names, request.metrics, device=device, **chosen.judging)
        return evaluator.of_folder(progress)
    _refuse(chosen, ("real", "fake"), "judge images without a model; with one, give --a DIR --b DIR or --ab DIR.")
    loaded = _load(model, request.loading)
    run = None if isinstance(model, Translator) else request.own_run(model)
    evaluator = request.evaluator(loaded, run)
    result = evaluator.of_model(loaded, progress)
    if run is not None:
        with _noting(run, result.protocol):
            keep(run, evaluator, loaded, result)
    return result


def keep(run: Path, evaluator: Evaluator, model: Translator, result: Evaluation) -> None:
    """Write a result into the folder of its run, with the best and worst images, and into the report."""
    files = RunFolder(run)
    with atomic(files.evaluation_picture) as temporary:
        best_and_worst(evaluator, model, result).save(temporary, format="png")
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

    def __repr__(self) -> str:
        step, scores = self.scores[self.best]
        value = f"{self.metric} {scores[self.metric].value:.4g}"
        return f"Ranking({len(self.scores)} checkpoints, best at step {step}: {value}, {self.best})"

    def _repr_html_(self) -> str:
        saved = saved_rows({name: scores for name, (_, scores) in self.scores.items()})
        scores = {name: {"step": step} | saved[name] for name, (step, _) in self.scores.items()}
        title = f"Checkpoints, the best by {self.metric} marked"
        return in_cell(title, checkpoints_table(RankingRecord(self.metric, self.best, scores)))

    def to_json(self) -> dict[str, Any]:
        """Return the content of checkpoints.json."""
        scores = _plain({name: scores for name, (_, scores) in self.scores.items()})
        return {
            "metric": self.metric,
            "better": described(self.metric).better,
            "best": self.best,
            "scores": {name: {"step": step} | scores[name] for name, (step, _) in self.scores.items()},
            "rows": _plain(self.rows),
            "protocol": self.protocol,
        }


@documented(EvaluateOptions, MetricOptions, LoadOptions)
@shown_in_notebook("ranking", "models")
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
    request = Request.of("evaluating", metrics, options, channel_axis)
    folder = Path(run)
    if not folder.is_dir():
        raise ConfigError(f"--all takes the folder of a run; {run} is not a folder.")
    newest, files = model_file(folder), RunFolder(folder)
    steps = {path: read_card(path).step for path in files.kept_models()}
    names = {path: path.relative_to(folder).as_posix() for path in sorted(steps, key=lambda x: (steps[x], x.name))}
    own = request.own_run(folder)
    evaluator = request.evaluator(_load(newest, request.loading), own)
    models = ((name, _load(path, request.loading)) for path, name in names.items())
    rows, protocol = evaluator.of_models(models, len(names), progress)
    metric = next(name for row in rows.values() for name in row)
    best = best_of(metric, {name: row[metric].value for name, row in rows.items()}) or newest.name
    scores = {name: (steps[path], rows[name]) for path, name in names.items()}
    ranking = Ranking(metric, best, scores, evaluator.baselines, protocol)
    if own is not None:
        with _noting(folder, protocol):
            write_text(files.ranking, json.dumps(ranking.to_json(), indent=1, allow_nan=False) + "\n")
            rewrite_report(folder)
    return ranking


@contextmanager
def _noting(run: Path, protocol: dict[str, Any]) -> Iterator[None]:
    """Turn failure to write into the folder of a run into a note: the scores matter more than the file."""
    try:
        yield
    except OSError as error:
        protocol["notes"].append(f"not written into {run}: {error.strerror or error}")


def _plain(rows: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, Any]]:
    return {row: {name: asdict(score) for name, score in scores.items()} for row, scores in saved_rows(rows).items()}


def _load(model: str | Path | Translator, loading: dict[str, Any]) -> Translator:
    if not isinstance(model, Translator):
        return Translator(model, **loading)
    if other := {k: v for k, v in loading.items() if k != "direction"}:
        raise ConfigError(f"{', '.join(other)}: choose this when loading the model; this one is loaded already.")
    return model.towards(loading["direction"]) if loading.get("direction") else model


def _refuse(options: EvaluateOptions, names: tuple[str, ...], why: str) -> None:
    if stray := [f"--{name}" for name in names if getattr(options, name)]:
        raise ConfigError(f"{', '.join(stray)} {why}")
