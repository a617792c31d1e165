"""Scores of models and of baselines on the same held-out images."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from img2img.data.domain import passed_beside
from img2img.data.picture import Array
from img2img.data.scale import Scale
from img2img.errors import ConfigError, DataError
from img2img.evaluation.baselines import HistogramMatching
from img2img.evaluation.judge import Judge
from img2img.evaluation.scores import KEPT, Evaluation
from img2img.evaluation.sides import Side, Sides, back_of, batches_of, chunks, domains_of
from img2img.metrics.options import MetricOptions
from img2img.metrics.score import Score
from img2img.metrics.scorer import CPU, FEATURES, Scorer, ScoreRow
from img2img.metrics.structure import structure
from img2img.metrics.table import METRICS, base_name
from img2img.model.translator import Translator
from img2img.runs.results import MATCHED, MODEL, NOTHING
from img2img.runtime.device import environment

FAKE = "fake"  # the row of a folder, beside those of `runs.results`
OF_PAIRS = ("l1", "psnr", "ssim", "drift")
OF_DOMAINS = ("kid", "drift", "structure", "cycle", "identity")
OF_FOLDERS = ("kid", "precision", "recall", "density", "coverage", "drift")
UNLABELLED = (
    "whether results keep the class of their input was not measured: put the inputs into a sub-folder per class, named "
    "like those of the judge, or give --labels"
)
UNRELATED = 100  # pairs of images that do not belong together
Progress = Callable[[int, int], None]
Translate = Callable[[list[Array]], list[Array]]


class Evaluator:
    """Held-out images on which any number of models is scored in the same way.

    Args:
        source: the images to translate; for `of_folder` those to judge.
        real: the images of the target side; if `paired`, the true answers.
        scales: how the pixel values of both map to [-1, 1].
        size: how the images were cut, in words.
        names: the metrics; by default those that suit the images.
        options: their options.
        defaults: the metrics that suit unpaired images.
        judge: a folder with a sub-folder per class, to also classify the results.
        labels: a file with the classes of the inputs, which the results should keep.
        device: where feature networks run.
        pages: what the pages of the judge's files are.
        cache: a folder that keeps the features of all images.

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
        defaults: Sequence[str] = OF_FOLDERS,
        judge: Path | None = None,
        labels: Path | None = None,
        device: torch.device = CPU,
        pages: str = "images",
        cache: Path | None = None,
    ) -> None:
        self.options = options or MetricOptions()
        if not names:
            fewest, near = min(len(source), len(real)), self.options.neighbours + 1
            least = {"kid": 2, "precision": near, "recall": near, "density": near, "coverage": near}  # images
            names = [name for name in (OF_PAIRS if paired else defaults) if fewest >= least.get(name, 1)]
        self.names = tuple(names)
        if not paired and (wrong := [n for n in names if n in METRICS and METRICS[n].paired]):
            others = ", ".join(name for name, metric in METRICS.items() if not metric.paired)
            raise ConfigError(
                f"{', '.join(wrong)} compares each result with its true answer, and these images are not paired. "
                f"If they are, add --paired; otherwise choose from {others}."
            )
        self.source, self.real, self.paired, self.size = source, real, paired, size
        self.scale_in, self.scale = scales
        self.scorer = Scorer(self.names, self.options, real.domain.channels, device, cache)
        self.scorer.notes += passed_beside(source.domain, real.domain)
        self.judge = Judge(judge, pages) if judge else None
        if self.judge and self.judge.kind != real.kind:
            raise DataError(f"The judge's images have {self.judge.kind}, the results {real.kind}.")
        self.labels = self.judge.labels_of(source, labels) if self.judge else np.empty(0)
        if self.judge and not (self.labels >= 0).any():
            self.scorer.notes.append(UNLABELLED)
        self.scorer.prepare(self._batches_of_real)

    @classmethod
    def for_model(cls, model: Translator, sides: Sides, names: Sequence[str] = (), **choices: Any) -> "Evaluator":
        """Build an evaluator for models like `model`, in its direction.

        Args:
            model: the model.
            sides: the held-out images.
            names: the metrics; by default those that suit the images and the model.
            **choices: `options`, `judge`, `labels`, `cache`.

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
            if side.kind != wanted:
                raise DataError(f"The images of {side.domain.title} have {side.kind}; the model's have {wanted}.")
        impossible = {}
        if back_of(model.direction, model.directions) is None:
            impossible["cycle"] = f"needs a model with both directions, and this one has {', '.join(model.directions)}"
        if source.kind != real.kind:
            impossible["identity"] = "translates images of the target side, which this model does not accept"
        if wrong := [name for name in names if name in impossible]:
            raise ConfigError(f"{wrong[0]} {impossible[wrong[0]]}.")
        choices["defaults"] = [name for name in OF_DOMAINS if name not in impossible]
        scales = (spec.scale_in, spec.scale_out)
        return cls(source, real, sides.paired, scales, sides.size, names, device=model.runtime.device, **choices)

    def of_model(self, model: Translator, progress: Progress = lambda done, total: None) -> Evaluation:
        """Score a model, beside the baselines."""
        begin, direction = time.perf_counter(), model.direction
        back = back_of(direction, model.directions)
        returning = model.towards(back) if back and "cycle" in self.names else None
        done = len(self.source)
        total = done + len(self.real) * ("identity" in self.names)
        row, judged = self._translate(model, returning, lambda done: progress(done, total))
        if "identity" in self.names:
            for reals in chunks(self.real):
                encoded = self._encode(reals)
                # as the generator back would return it
                taken = reals if self.scale_in == self.scale else [self.scale_in.decode(x) for x in encoded]
                for batches in batches_of(real=encoded, identity=self._encode(model(taken))):
                    row.add(**batches)
                progress(done := done + len(reals), total)
        rows = {MODEL: row.scores() | judged, **self.baselines}
        protocol = {"direction": direction, "model": model.path.name, "step": model.card.step}
        return Evaluation(self._protocol(begin, **protocol), rows, self._per_image(row))

    def of_models(
        self, models: Iterable[tuple[str, Translator]], total: int, progress: Progress
    ) -> tuple[dict[str, dict[str, Score]], dict[str, Any]]:
        """Score several models; return the scores of each by its name, and the protocol that they share."""
        rows, protocol = {}, {}
        for done, (name, model) in enumerate(models, 1):
            result = self.of_model(model)
            rows[name], protocol = result.rows[MODEL], result.protocol
            progress(done, total)
        return rows, {k: v for k, v in protocol.items() if k not in ("model", "step", "seconds")}

    def of_folder(self, progress: Progress) -> Evaluation:
        """Score the source images themselves."""
        begin = time.perf_counter()
        if odd := [n for n in self.names if set(METRICS[n].on) - {"real", "fake"}]:
            raise ConfigError(f"{', '.join(odd)} needs a model and its inputs; two folders have neither.")
        row, judged = self._translate(lambda images: images, None, lambda done: progress(done, len(self.source)))
        rows = {FAKE: row.scores() | judged}
        return Evaluation(self._protocol(begin), rows, self._per_image(row))

    @cached_property
    def baselines(self) -> dict[str, dict[str, Score]]:
        """The scores of the unchanged input and of histogram matching; empty where the sides are of different kinds."""
        a, b = self.source.kind, self.real.kind
        if a != b:
            self.scorer.notes.append(f"no baselines: the input has {a}, the result {b}, so the input is no result")
            return {}
        matched = HistogramMatching(self.real)
        ways: dict[str, Translate] = {
            NOTHING: lambda images: images,
            MATCHED: lambda images: [matched(x) for x in images],
        }
        results = {name: self._translate(way) for name, way in ways.items()}
        return {name: row.scores() | judged for name, (row, judged) in results.items()}

    @cached_property
    def structure_by_chance(self) -> float | None:
        """The `structure` of inputs and unrelated images of the target side, as if the model ignored its input.

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

    def _batches_of_real(self) -> Iterator[Tensor]:
        for images in chunks(self.real):
            for batches in batches_of(real=self._encode(images)):
                yield batches["real"]

    def _per_image(self, row: ScoreRow) -> dict[str, dict[str, float]]:
        """Return the values of single results, by the name of their input."""
        of_results = {k: v for k, v in row.per_image.items() if "identity" not in METRICS[base_name(k)].on}
        return {k: dict(zip(self.source.names, values, strict=True)) for k, values in of_results.items()}

    def _encode(self, images: Iterable[Array]) -> list[Tensor]:
        return [self.scale.encode(x) for x in images]

    def _translate(
        self,
        translate: Translate,
        back: Translator | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[ScoreRow, dict[str, Score]]:
        """Translate all source images; return a row of their scores, and those of the judge."""
        row, classes = self.scorer.row(), list[Array]()  # that the judge assigns to each
        done = 0
        answers = iter(self.real) if self.paired else None
        for sources in chunks(self.source):
            fakes = translate(sources)
            sets = {"source": [self.scale_in.encode(x) for x in sources], "fake": self._encode(fakes)}
            if answers is not None:
                reals = list(islice(answers, len(sources)))
                self._refuse_other_shape(fakes, reals, done)
                sets["real"] = self._encode(reals)
            if back is not None:
                sets["cycled"] = [self.scale_in.encode(x) for x in back(fakes)]
            for batches in batches_of(**sets):
                row.add(**batches)
            if self.judge:
                classes.append(self.judge.classify(fakes))
            progress(done := done + len(sources))
        return row, self._judged(np.concatenate(classes)) if self.judge else {}

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
        judge, notes, chance = self.judge, list(dict.fromkeys(self.scorer.notes)), self.structure_by_chance
        known: dict[str, Any] = {
            "images": len(self.source),
            "real_images": len(self.real),
            "paired": self.paired,
            "size": self.size,
        }
        if judge:
            known["judge"] = {
                "classes": judge.classes,
                "accuracy": judge.accuracy,
                "tested": judge.tested,
                "labelled": int((self.labels >= 0).sum()),
            }
        if self.scorer.kinds & FEATURES:
            known["features"] = self.options.features
        known |= {"source": self.source.folder, "real": self.real.folder, "options": asdict(self.options)}
        known["notes"] = notes
        if chance is not None:
            known["structure_by_chance"] = chance
            notes.append(f"structure of inputs and unrelated images of the target side: {chance:.2g}")
        seconds = round(time.perf_counter() - begin, 2)
        return known | of_model | {"img2img": environment()["img2img"], "seconds": seconds}
