"""Scores of models, and of what they have to beat, on the same held-out images."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from img2img.data.folders import Domain, passed_beside
from img2img.data.grid import draw_grid
from img2img.data.images import Array, write_text
from img2img.data.scale import Scale
from img2img.errors import ConfigError, DataError, install_hint
from img2img.evaluation.baselines import HistogramMatching
from img2img.evaluation.judge import Judge
from img2img.evaluation.sides import Side, Sides
from img2img.metrics.features import ENCODER
from img2img.metrics.scorer import MetricOptions, Row, Scorer
from img2img.metrics.structure import structure
from img2img.metrics.table import METRICS, Score, base_name
from img2img.model.translator import Translator
from img2img.report.remarks import MATCHED, MODEL, NOTHING
from img2img.report.result import ranked_by, scores_table
from img2img.runtime.device import environment

if TYPE_CHECKING:
    import pandas as pd

KEPT = "class_kept"  # by the judge, beside the metrics of `METRICS`
FAKE = "fake"  # name of a row, beside those of `training.remarks`
OF_PAIRS = ("l1", "psnr", "ssim", "drift")
OF_DOMAINS = ("kid", "drift", "structure", "cycle", "identity")
OF_FOLDERS = ("kid", "precision", "recall", "density", "coverage", "drift")
UNLABELLED = (
    "whether results keep the class of their input was not asked: put the inputs into a folder per class, named like "
    "those of the judge, or give --labels"
)
UNRELATED = 100  # pairs of images that do not belong together
RELATIVE = "It compares results on these real images, and has no absolute meaning."
CHUNK, CHUNK_VALUES = 16, 3 * 2**22  # images, and values of them, in memory at once; one image at least
SHOWN, SHOWN_EDGE = 3, 256  # best and worst images of the picture, and the largest edge they are shown with
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


@dataclass
class Evaluation:
    """The scores, and all that is needed to understand them.

    Attributes:
        protocol: what was compared, and how; json-serialisable.
        rows: row -> metric -> its score. The first row is the model's, or that of the folder; the others are what a
            model has to beat.
        per_image: metric -> name of the image -> its score, of the first row.
    """

    protocol: dict[str, Any]
    rows: dict[str, dict[str, Score]]
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """The values of the first row."""
        return {name: score.value for name, score in next(iter(self.rows.values())).items()}

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        return f"Evaluation({self.protocol.get('images', '?')} images, {next(iter(self.rows))}: {scores})"

    def _repr_html_(self) -> str:
        known = self.to_json()
        return scores_table(known["rows"], known["metrics"])

    def to_frame(self) -> "pd.DataFrame":
        """Return a row for the model and for each baseline, a column for each metric, and one for its deviation."""
        return rows_to_frame(self.rows)

    def to_json(self) -> dict[str, Any]:
        names = dict.fromkeys(name for row in self.rows.values() for name in row)
        return {
            "protocol": self.protocol,
            "metrics": {name: described(name) for name in names},
            "rows": rows_to_json(self.rows),
            "per_image": {k: {name: finite(x) for name, x in some.items()} for k, some in self.per_image.items()},
        }

    def save(self, path: Path) -> None:
        """Writes all of it as json, whole or not at all."""
        write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def rows_to_frame(rows: dict[str, dict[str, Score]]) -> "pd.DataFrame":
    """Return the values, and as METRIC_std the deviations of the metrics that have one, in a line for each row.

    Raises:
        ConfigError: if pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ConfigError(install_hint("to_frame", "pandas", "lab")) from error
    cells: dict[str, dict[str, float]] = {row: {} for row in rows}
    for row, scores in rows.items():
        for name, score in scores.items():
            cells[row] |= {name: score.value} | ({} if score.std is None else {f"{name}_std": score.std})
    return pd.DataFrame.from_dict(cells, orient="index").astype(float).rename_axis("row")


def rows_to_json(rows: dict[str, dict[str, Score]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Row -> metric -> value and deviation."""
    return {
        row: {name: {k: finite(x) for k, x in score._asdict().items()} for name, score in scores.items()}
        for row, scores in rows.items()
    }


def finite(x: float | None) -> float | None:
    """A number as json can hold it: None for infinity and for what is no number."""
    return x if x is not None and math.isfinite(x) else None


def described(name: str) -> dict[str, str]:
    """Direction, range and meaning of a metric, in words."""
    if name.startswith("judge["):
        return {"better": "", "range": "0 to 1", "text": "share of the images that the judge gives to this class"}
    if name == KEPT:
        text = "share of the images that the judge gives to the class of their input; not much above its own accuracy"
        return {"better": "higher", "range": "0 to 1", "text": text}
    metric = METRICS[base_name(name)]
    better = {True: "higher", False: "lower", None: ""}[metric.higher_is_better]
    text = f"The same of label {name[4:-1]} alone." if name.startswith("iou[") else metric.text
    if name.endswith(f"[{ENCODER}]"):
        return {"better": better, "range": f"{metric.range}, relative", "text": f"{text} {RELATIVE}"}
    return {"better": better, "range": metric.range, "text": text}


class Evaluator:
    """Held-out images on which any number of models is scored alike.

    Args:
        source: the images to translate; or in `of_folder` those to judge.
        real: the images of the target side; the true answers, if `paired`.
        scales: how the pixel values of both map to [-1, 1].
        size: how the images were cut, in words.
        names: of the metrics.
        options: of the metrics.
        judge: a folder of classes, to also let a judge name the results.
        labels: a file of the classes of the inputs, for the judge to find again.
        device: where feature networks run.

    Raises:
        ConfigError: if a metric does not exist, or makes no sense for such images.
        DataError: if images do not go together.
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
                f"{', '.join(wrong)} compares each result with its true answer, and these images are not pairs. "
                f"If they are, say --paired; else choose from {others}."
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
        """For models like this one, and its direction.

        Args:
            names: of the metrics; by default those that suit the images and the model.
            **choices: `options`, `judge`, `labels`.

        Raises:
            ConfigError: if a metric that is named cannot be measured of such a model.
            DataError: if the images are not of the kind that the model takes and gives.
        """
        spec = model.spec()
        source = sides.sides[model.direction[0]].with_channels(spec.in_channels)
        real = sides.sides[model.direction[-1]].with_channels(spec.out_channels)
        for side, wanted in (
            (source, f"{spec.in_channels} channels of {spec.scale_in.dtype}"),
            (real, f"{spec.out_channels} channels of {spec.scale_out.dtype}"),
        ):
            if _kind(side.domain) != wanted:
                title = side.domain.title
                raise DataError(f"The images of {title} have {_kind(side.domain)}; the model's have {wanted}.")
        impossible = {}
        if _turned(model.direction) not in model.directions:
            impossible["cycle"] = f"needs a model of both directions, and this one has {', '.join(model.directions)}"
        if _kind(source.domain) != _kind(real.domain):
            impossible["identity"] = "translates images of the target side, which this model does not take"
        if wrong := [name for name in names if name in impossible]:
            raise ConfigError(f"{wrong[0]} {impossible[wrong[0]]}.")
        if not names:
            defaults = OF_PAIRS if sides.paired else OF_DOMAINS
            fewest = min(len(source), len(real))
            names = [name for name in computable(defaults, fewest, choices.get("options")) if name not in impossible]
        scales = (spec.scale_in, spec.scale_out)
        return cls(source, real, sides.paired, scales, sides.size, names, device=model.runtime.device, **choices)

    def of_model(self, model: Translator, progress: Progress = _silent) -> Evaluation:
        """The scores of a model beside those of the baselines."""
        begin, direction = time.perf_counter(), model.direction
        back = model.towards(_turned(direction)) if "cycle" in self.names else None
        through = "identity" in self.names
        count = len(self.source)
        total = count + len(self.real) * through
        row = self.scorer.row()
        judged = self._translate(row, model, back, lambda done: progress(done, total))
        if through:
            done = count
            for reals in _chunks(self.real):
                taken = reals if self.scale_in == self.scale else [self._as_input(x) for x in reals]
                for some in _by_shape(real=self._encode(reals), identity=self._encode(model(taken))):
                    row.add(**some)
                progress(done := done + len(reals), total)
        per_image = self._per_image(row)
        protocol = {"direction": direction, "model": model.path.name, "step": model.card.step}
        rows = {MODEL: row.scores() | judged, **self.baselines()}
        return Evaluation(self._protocol(begin, **protocol), rows, per_image)

    def of_folder(self, progress: Progress = _silent) -> Evaluation:
        """The scores of the source images themselves."""
        begin, row = time.perf_counter(), self.scorer.row()
        if odd := [n for n in self.names if set(METRICS[n].on) - {"real", "fake"}]:
            raise ConfigError(f"{', '.join(odd)} needs a model and what goes into it; two folders have neither.")
        judged = self._translate(row, lambda images: images, None, lambda done: progress(done, len(self.source)))
        rows = {FAKE: row.scores() | judged}
        return Evaluation(self._protocol(begin), rows, self._per_image(row))

    def baselines(self) -> dict[str, dict[str, Score]]:
        """The scores of doing nothing and of matching histograms; none where the sides are of different kinds."""
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
                self.scorer.notes.append(f"nothing to beat: the input has {a}, the result {b}, so neither can stand in")
        return self._rows

    def picture(self, model: Translator, evaluation: Evaluation) -> Image.Image:
        """The best and the worst translations by the first metric of single results; without one, the first ones."""
        which = ranked_by(evaluation.per_image)
        order = list(range(len(self.source)))
        count = max(1, min(SHOWN, len(order) // 2))
        groups = {"": order[: 2 * count]}
        if which:
            values = list(evaluation.per_image[which].values())
            order.sort(key=values.__getitem__, reverse=bool(METRICS[base_name(which)].higher_is_better))
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
        """`structure` of inputs and unrelated images of the other side, which is that of a model blind to its input.

        None if it is not asked for, or no two images are of one shape.
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

    def _per_image(self, row: Row) -> dict[str, dict[str, float]]:
        """The values of single results, by the name of what they were made of."""
        of_results = {k: v for k, v in row.per_image.items() if "identity" not in METRICS[base_name(k)].on}
        return {k: dict(zip(self.source.names, values, strict=True)) for k, values in of_results.items()}

    def _as_input(self, real: Array) -> Array:
        """An image of the target side as the generator of the other direction gives it: on the scale of its input."""
        return self.scale_in.decode(self.scale.encode(real))

    def _encode(self, images: Iterable[Array]) -> list[Tensor]:
        return [self.scale.encode(x) for x in images]

    def _translate(
        self,
        row: Row,
        translate: Callable[[list[Array]], list[Array]],
        back: Translator | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> dict[str, Score]:
        """Adds the translations of all source images to `row`; returns what the judge says of them."""
        named: list[Array] = []  # the class that the judge gives to each
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
            for some in _by_shape(**sets):
                row.add(**some)
            if self.judge:
                named.append(self.judge.classify(fakes))
            progress(done := done + len(sources))
        return self._judged(np.concatenate(named)) if self.judge else {}

    def _judged(self, named: Array) -> dict[str, Score]:
        """The share of each class, and of the labelled inputs those whose class was kept."""
        assert self.judge is not None
        known = self.labels >= 0
        kept = {KEPT: Score(float((named == self.labels)[known].mean()))} if known.any() else {}
        classes = self.judge.classes
        return kept | {f"judge[{name}]": Score(float((named == k).mean())) for k, name in enumerate(classes)}

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
            known["notes"].append(f"structure of inputs and unrelated images of the other side: {chance:.2g}")
        return (
            known | of_model | {"img2img": environment()["img2img"], "seconds": round(time.perf_counter() - begin, 2)}
        )


def computable(names: Sequence[str], n: int, options: MetricOptions | None = None) -> list[str]:
    """Those of `names` for which n images of each side are enough."""
    least = {"kid": 2, "fid": 2} | dict.fromkeys(
        ("precision", "recall", "density", "coverage"), (options or MetricOptions()).neighbours + 1
    )
    return [name for name in names if n >= least.get(name, 1)]


def _kind(domain: Domain) -> str:
    return f"{domain.channels} channels of {domain.dtype}"


def _turned(direction: str) -> str:
    return f"{direction[-1]}2{direction[0]}"


def _chunks(images: Iterable[Array]) -> Iterator[list[Array]]:
    """Images in their order, in lists that are small enough for the memory."""
    chunk: list[Array] = []
    for image in images:
        if chunk and (len(chunk) == CHUNK or (len(chunk) + 1) * max(image.size, chunk[0].size) > CHUNK_VALUES):
            yield chunk
            chunk = []
        chunk.append(image)
    if chunk:
        yield chunk


def _stacks(images: Iterable[Array], encode: Callable[[Array], Tensor]) -> Iterator[Tensor]:
    """Encoded images in their order, in batches of neighbours of one shape."""
    for chunk in _chunks(images):
        for some in _by_shape(images=[encode(image) for image in chunk]):
            yield some["images"]


def _by_shape(**sets: list[Tensor]) -> Iterator[dict[str, Tensor]]:
    """The same of several sets that go together, image by image."""
    together = list(zip(*sets.values(), strict=True))
    for _, same in groupby(together, lambda images: [x.shape for x in images]):
        yield {name: torch.stack(x) for name, x in zip(sets, zip(*same, strict=True), strict=True)}


def shrunk(image: Tensor) -> Tensor:
    """`image` for a picture: at most `SHOWN_EDGE` wide and high."""
    factor = SHOWN_EDGE / max(image.shape[1:])
    if factor >= 1:
        return image
    return F.interpolate(image[None], scale_factor=factor, mode="bilinear", antialias=True)[0]
