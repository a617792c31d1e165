"""Scores of models and of baselines on the same held-out images."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from img2img.data.domain import Domain, passed_beside
from img2img.data.grid import draw_grid
from img2img.data.picture import Array
from img2img.data.scale import Scale
from img2img.errors import ConfigError, DataError
from img2img.evaluation.baselines import HistogramMatching
from img2img.evaluation.judge import Judge
from img2img.evaluation.scores import KEPT, Evaluation
from img2img.evaluation.sides import Side, Sides, back_of, domains_of
from img2img.metrics.scorer import MetricOptions, Scorer, ScoreRow
from img2img.metrics.structure import structure
from img2img.metrics.table import METRICS, Score, base_name, sign_of
from img2img.model.translator import Translator
from img2img.report.result import ranked_by
from img2img.runs.results import MATCHED, MODEL, NOTHING
from img2img.runtime.device import environment

if TYPE_CHECKING:
    pass

FAKE = "fake"  # the row of a folder, beside those of `runs.results`
OF_PAIRS = ("l1", "psnr", "ssim", "drift")
OF_DOMAINS = ("kid", "drift", "structure", "cycle", "identity")
OF_FOLDERS = ("kid", "precision", "recall", "density", "coverage", "drift")
UNLABELLED = (
    "whether results keep the class of their input was not measured: put the inputs into a sub-folder per class, named "
    "like those of the judge, or give --labels"
)
UNRELATED = 100  # pairs of images that do not belong together
CHUNK, CHUNK_VALUES = 16, 3 * 2**22  # images, and their values, in memory at once; at least one image
SHOWN, SHOWN_EDGE = 3, 256  # best and worst images of the picture, and their largest edge
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


class Evaluator:
    """Held-out images on which any number of models is scored in the same way.

    Args:
        source: the images to translate; for `of_folder` those to judge.
        real: the images of the target side; if `paired`, the true answers.
        scales: how the pixel values of both map to [-1, 1].
        size: how the images were cut, in words.
        names: the metrics.
        options: their options.
        judge: a folder with a sub-folder per class, to also classify the results.
        labels: a file with the classes of the inputs, which the results should keep.
        device: where feature networks run.

    Raises:
        ConfigError: if a metric does not exist, or does not suit the images.
        DataError: if images do not match.
    """

    def __init__(
        self,
        source: Side,
        real: Side,
        paired: bool,
        scales: tuple[Scale, Scale],
        size: str,
        names: Sequence[str],
        options: MetricOptions | None = None,
        judge: Path | None = None,
        labels: Path | None = None,
        device: torch.device | None = None,
    ) -> None:
        if not paired and (wrong := [n for n in names if n in METRICS and METRICS[n].paired]):
            others = ", ".join(name for name, metric in METRICS.items() if not metric.paired)
            raise ConfigError(
                f"{', '.join(wrong)} compares each result with its true answer, and these images are not paired. "
                f"If they are, add --paired; otherwise choose from {others}."
            )
        self.source, self.real, self.paired, self.size = source, real, paired, size
        self.scale_in, self.scale = scales
        self.names, self.options = tuple(names), options or MetricOptions()
        self.scorer = Scorer(self.names, self.options, real.domain.channels, device or torch.device("cpu"))
        self.scorer.notes += passed_beside(source.domain, real.domain)
        self.judge = Judge(judge) if judge else None
        if self.judge and _kind(self.judge.domain) != _kind(real.domain):
            raise DataError(f"The judge's images have {_kind(self.judge.domain)}, the results {_kind(real.domain)}.")
        self.labels = self.judge.labels_of(source, labels) if self.judge else np.empty(0)
        if self.judge and not (self.labels >= 0).any():
            self.scorer.notes.append(UNLABELLED)
        self.scorer.prepare(lambda: _stacks(self.real, self.scale.encode))
        self._rows: dict[str, dict[str, Score]] | None = None

    @classmethod
    def for_model(cls, model: Translator, sides: Sides, names: Sequence[str] = (), **choices: Any) -> "Evaluator":
        """Build an evaluator for models like `model`, in its direction.

        Args:
            model: the model.
            sides: the held-out images.
            names: the metrics; by default those that suit the images and the model.
            **choices: `options`, `judge`, `labels`.

        Raises:
            ConfigError: if a named metric cannot be measured for such a model.
            DataError: if the images are not of the kind that the model takes and returns.
        """
        spec = model.spec()
        domain, target = domains_of(model.direction)
        source = sides.sides[domain].with_channels(spec.in_channels)
        real = sides.sides[target].with_channels(spec.out_channels)
        for side, wanted in (
            (source, f"{spec.in_channels} channels of {spec.scale_in.dtype}"),
            (real, f"{spec.out_channels} channels of {spec.scale_out.dtype}"),
        ):
            if _kind(side.domain) != wanted:
                title = side.domain.title
                raise DataError(f"The images of {title} have {_kind(side.domain)}; the model's have {wanted}.")
        impossible = {}
        if back_of(model.direction, model.directions) is None:
            impossible["cycle"] = f"needs a model with both directions, and this one has {', '.join(model.directions)}"
        if _kind(source.domain) != _kind(real.domain):
            impossible["identity"] = "translates images of the target side, which this model does not accept"
        if wrong := [name for name in names if name in impossible]:
            raise ConfigError(f"{wrong[0]} {impossible[wrong[0]]}.")
        if not names:
            defaults = OF_PAIRS if sides.paired else OF_DOMAINS
            fewest = min(len(source), len(real))
            names = [name for name in computable(defaults, fewest, choices.get("options")) if name not in impossible]
        scales = (spec.scale_in, spec.scale_out)
        return cls(source, real, sides.paired, scales, sides.size, names, device=model.runtime.device, **choices)

    def of_model(self, model: Translator, progress: Progress = _silent) -> Evaluation:
        """Score a model, beside the baselines."""
        begin, direction = time.perf_counter(), model.direction
        back = back_of(direction, model.directions)
        returning = model.towards(back) if back and "cycle" in self.names else None
        through = "identity" in self.names
        count = len(self.source)
        total = count + len(self.real) * through
        row = self.scorer.row()
        judged = self._translate(row, model, returning, lambda done: progress(done, total))
        if through:
            done = count
            for reals in _chunks(self.real):
                taken = reals if self.scale_in == self.scale else [self._as_input(x) for x in reals]
                for batches in _by_shape(real=self._encode(reals), identity=self._encode(model(taken))):
                    row.add(**batches)
                progress(done := done + len(reals), total)
        per_image = self._per_image(row)
        protocol = {"direction": direction, "model": model.path.name, "step": model.card.step}
        rows = {MODEL: row.scores() | judged, **self.baselines()}
        return Evaluation(self._protocol(begin, **protocol), rows, per_image)

    def of_folder(self, progress: Progress = _silent) -> Evaluation:
        """Score the source images themselves."""
        begin, row = time.perf_counter(), self.scorer.row()
        if odd := [n for n in self.names if set(METRICS[n].on) - {"real", "fake"}]:
            raise ConfigError(f"{', '.join(odd)} needs a model and its inputs; two folders have neither.")
        judged = self._translate(row, lambda images: images, None, lambda done: progress(done, len(self.source)))
        rows = {FAKE: row.scores() | judged}
        return Evaluation(self._protocol(begin), rows, self._per_image(row))

    def baselines(self) -> dict[str, dict[str, Score]]:
        """Score the unchanged input and histogram matching; empty where the sides are of different kinds."""
        if self._rows is None:
            self._rows = {}
            if self._same_kind:
                matched = HistogramMatching(self.real)
                ways: dict[str, Callable[[list[Array]], list[Array]]] = {
                    NOTHING: lambda images: images,
                    MATCHED: lambda images: [matched(x) for x in images],
                }
                for name, way in ways.items():
                    row = self.scorer.row()
                    judged = self._translate(row, way)
                    self._rows[name] = row.scores() | judged
            else:
                a, b = _kind(self.source.domain), _kind(self.real.domain)
                self.scorer.notes.append(f"no baselines: the input has {a}, the result {b}, so the input is no result")
        return self._rows

    def picture(self, model: Translator, evaluation: Evaluation) -> Image.Image:
        """Draw the best and worst translations by the first per-image metric; without one, the first translations."""
        which = ranked_by(evaluation.per_image)
        order = list(range(len(self.source)))
        count = max(1, min(SHOWN, len(order) // 2))
        groups = {"": order[: 2 * count]}
        if which:
            values = list(evaluation.per_image[which].values())
            order.sort(key=lambda i: -sign_of(which) * values[i])
            groups = {"best ": order[:count], "worst ": order[-count:]}
        columns: dict[str, Any] = {}
        for title, numbers in groups.items():
            sources = [self.source[i] for i in numbers]
            columns[f"{title}input"] = [shrunk(self.scale_in.encode(x)) for x in sources]
            columns[f"{title}output"] = [shrunk(x) for x in self._encode(model(sources))]
            if self.paired:
                columns[f"{title}truth"] = [shrunk(self.scale.encode(self.real[i])) for i in numbers]
        return draw_grid(columns)

    @cached_property
    def structure_by_chance(self) -> float | None:
        """Return the `structure` of inputs and unrelated images of the target side, as if the model ignored its input.

        None if it is not measured, or no two images have the same shape.
        """
        if "structure" not in self.names or self.paired:
            return None
        others = np.random.default_rng(0).permutation(len(self.real))[:UNRELATED]
        pairs = [
            (self.scale_in.encode(self.source[i])[None], self.scale.encode(self.real[j])[None])
            for i, j in zip(np.linspace(0, len(self.source) - 1, len(others)).astype(int), others, strict=True)
        ]
        values = [float(structure(x, y)) for x, y in pairs if x.shape[-2:] == y.shape[-2:]]
        return sum(values) / len(values) if values else None

    @property
    def _same_kind(self) -> bool:
        return _kind(self.source.domain) == _kind(self.real.domain)

    def _per_image(self, row: ScoreRow) -> dict[str, dict[str, float]]:
        """Return the values of single results, by the name of their input."""
        of_results = {k: v for k, v in row.per_image.items() if "identity" not in METRICS[base_name(k)].on}
        return {k: dict(zip(self.source.names, values, strict=True)) for k, values in of_results.items()}

    def _as_input(self, real: Array) -> Array:
        """Convert an image of the target side to the scale of the input, as the generator back would return it."""
        return self.scale_in.decode(self.scale.encode(real))

    def _encode(self, images: Iterable[Array]) -> list[Tensor]:
        return [self.scale.encode(x) for x in images]

    def _translate(
        self,
        row: ScoreRow,
        translate: Callable[[list[Array]], list[Array]],
        back: Translator | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> dict[str, Score]:
        """Add the translations of all source images to `row`; return the scores of the judge."""
        classes: list[Array] = []  # that the judge assigns to each
        done = 0
        answers = iter(self.real) if self.paired else None
        for sources in _chunks(self.source):
            fakes = translate(sources)
            sets = {"source": [self.scale_in.encode(x) for x in sources], "fake": self._encode(fakes)}
            if answers is not None:
                reals = list(islice(answers, len(sources)))
                self._refuse_other_shape(fakes, reals, done)
                sets["real"] = self._encode(reals)
            if back is not None:
                sets["cycled"] = [self.scale_in.encode(x) for x in back(fakes)]
            for batches in _by_shape(**sets):
                row.add(**batches)
            if self.judge:
                classes.append(self.judge.classify(fakes))
            progress(done := done + len(sources))
        return self._judged(np.concatenate(classes)) if self.judge else {}

    def _judged(self, classes: Array) -> dict[str, Score]:
        """Return the share of each class, and the share of labelled inputs whose class was kept."""
        assert self.judge is not None
        known = self.labels >= 0
        kept = {KEPT: Score(float((classes == self.labels)[known].mean()))} if known.any() else {}
        return kept | {
            f"judge[{name}]": Score(float((classes == k).mean())) for k, name in enumerate(self.judge.classes)
        }

    def _refuse_other_shape(self, fakes: Sequence[Array], reals: Sequence[Array], first: int) -> None:
        for i, (fake, real) in enumerate(zip(fakes, reals, strict=True), first):
            if fake.shape != real.shape:
                sizes = [f"{x.shape[1]}x{x.shape[0]} with {x.shape[2]} channels" for x in (fake, real)]
                raise DataError(f"The result for {self.source.domain.name(i)} is {sizes[0]}, the true one {sizes[1]}.")

    def _protocol(self, begin: float, **of_model: Any) -> dict[str, Any]:
        known: dict[str, Any] = {
            "images": len(self.source),
            "real_images": len(self.real),
            "paired": self.paired,
            "size": self.size,
        }
        if self.judge:
            of_judge = {"accuracy": self.judge.accuracy, "tested": self.judge.tested}
            known["judge"] = {"classes": self.judge.classes, **of_judge, "labelled": int((self.labels >= 0).sum())}
        if any(METRICS[name].kind in ("features", "logits") for name in self.names):
            known["features"] = self.options.features
        known |= {"source": self.source.folder, "real": self.real.folder, "options": asdict(self.options)}
        known["notes"] = list(dict.fromkeys(self.scorer.notes))
        if (chance := self.structure_by_chance) is not None:
            known["structure_by_chance"] = chance
            known["notes"].append(f"structure of inputs and unrelated images of the target side: {chance:.2g}")
        return (
            known | of_model | {"img2img": environment()["img2img"], "seconds": round(time.perf_counter() - begin, 2)}
        )


def computable(names: Sequence[str], n: int, options: MetricOptions | None = None) -> list[str]:
    """Return those of `names` for which n images of each side are enough."""
    least = {"kid": 2, "fid": 2} | dict.fromkeys(
        ("precision", "recall", "density", "coverage"), (options or MetricOptions()).neighbours + 1
    )
    return [name for name in names if n >= least.get(name, 1)]


def _kind(domain: Domain) -> str:
    return f"{domain.channels} channels of {domain.dtype}"


def _chunks(images: Iterable[Array]) -> Iterator[list[Array]]:
    """Yield images in order, in lists small enough for memory."""
    chunk: list[Array] = []
    for image in images:
        if chunk and (len(chunk) == CHUNK or (len(chunk) + 1) * max(image.size, chunk[0].size) > CHUNK_VALUES):
            yield chunk
            chunk = []
        chunk.append(image)
    if chunk:
        yield chunk


def _stacks(images: Iterable[Array], encode: Callable[[Array], Tensor]) -> Iterator[Tensor]:
    """Yield encoded images in order, in batches of consecutive images of the same shape."""
    for chunk in _chunks(images):
        for batches in _by_shape(images=[encode(image) for image in chunk]):
            yield batches["images"]


def _by_shape(**sets: list[Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield batches of consecutive images of the same shape from several sets that correspond image by image."""
    together = list(zip(*sets.values(), strict=True))
    for _, same in groupby(together, lambda images: [x.shape for x in images]):
        yield {name: torch.stack(x) for name, x in zip(sets, zip(*same, strict=True), strict=True)}


def shrunk(image: Tensor) -> Tensor:
    """Shrink an image for a picture to at most `SHOWN_EDGE` on each side."""
    factor = SHOWN_EDGE / max(image.shape[1:])
    if factor >= 1:
        return image
    return F.interpolate(image[None], scale_factor=factor, mode="bilinear", antialias=True)[0]
