"""Evaluation on held-out images during a run, which decides on the best model and on when to stop."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from img2img.core.method import Image, Label, Method, Noise, Use, Vector
from img2img.data.domain import Domain
from img2img.data.picture import Array
from img2img.data.samples import HeldOut, cut
from img2img.errors import ConfigError, choose
from img2img.metrics.options import MetricOptions
from img2img.metrics.scorer import Scorer
from img2img.metrics.table import METRICS, base_name, is_better, names_of
from img2img.runtime.device import Runtime
from img2img.training.config import TrainConfig
from img2img.training.ema import Ema

IMAGES = 200  # of each side, evenly chosen; the same ones every time
BATCH = 4
QUICK = {
    "pairs": ("l1", "psnr", "ssim"),
    "unpaired": ("drift", "structure", "cycle", "identity"),
    "drawn": ("kid", "precision", "recall", "drift"),
}


class Validation:
    """An evaluation of the first use of a method on held-out images: its translations, or what it generates.

    Attributes:
        select: the metric that decides which model is the best; "" where nothing decides.

    Raises:
        ConfigError: if a metric does not exist or does not suit the images.
        DataError: if there are too few images for a metric.
    """

    def __init__(
        self, method: Method, heldout: HeldOut, config: TrainConfig, options: MetricOptions, runtime: Runtime
    ) -> None:
        self.use, *others = method.uses.values()
        self.source, self.target = self.use.source, self.use.output
        self.paired = method.needs.paired
        kind = "drawn" if not self.source else "pairs" if self.paired else "unpaired"
        names = list(QUICK[kind] if config.metrics == "auto" else names_of(config.metrics))
        if not names:
            raise ConfigError("--metrics names none; leave it out, or choose from " + ", ".join(METRICS) + ".")
        self.select = config.select
        if self.select == "auto":
            self.select = names[0] if self.paired else ""
        if self.select and self.select not in names:
            names.append(self.select)
        back = next((use for use in others if (use.source, use.output) == (self.target, self.source)), None)
        channels = method.facts.channels
        impossible = {} if back else {"cycle": "needs a method of both directions"}
        if channels.get(self.source) != channels[self.target] or self.use.labelled:
            impossible["identity"] = "needs two domains with the same channels"
        if not self.source:
            impossible |= {
                name: "is for translations" for name in METRICS if not {"real", "fake"} >= {*METRICS[name].on}
            }
        for name in names:
            if choose("metric", name, METRICS).paired and not self.paired:
                raise ConfigError(f"--metrics {name} compares with true answers, and this method learns without pairs.")
        asked = {self.select} if config.metrics == "auto" else set(names)
        if wrong := [name for name in names if name in asked and name in impossible]:
            raise ConfigError(f"{wrong[0]} {impossible[wrong[0]]}.")
        names = [name for name in names if name not in impossible]
        if config.patience and not self.select:
            raise ConfigError("--patience waits for a metric to improve; say which: --select METRIC.")
        self.back = back if "cycle" in names else None
        self.identity = "identity" in names
        self.method, self.runtime, self.scales = method, runtime, heldout.scales
        self.images = {domain: _some(heldout, images) for domain, images in heldout.domains.items()}
        conditions = heldout.domains[self.target].evenly(IMAGES)
        self.labels, self.vectors = conditions.labels, conditions.vectors
        self.scorer = Scorer(names, options, channels[self.target], runtime.device)
        self.scorer.prepare(lambda: self._batches(self.target))
        first = next(self._batches(self.target))  # images too small for a metric are refused now
        self.scorer.row().add(**dict.fromkeys({kind for name in names for kind in METRICS[name].on}, first))

    @torch.no_grad()
    def __call__(self, ema: Ema) -> dict[str, float]:
        """Return the scores of the networks as they would be saved now."""
        row = self.scorer.row()
        self.method.eval()
        with ema.applied():
            answers = self._batches(self.target) if self.paired else None
            for i, source in enumerate(self._batches(self.source or self.target)):
                images = {"fake": self._run(self.use, source, BATCH * i)}
                if self.source:
                    images["source"] = source
                if answers is not None:
                    images["real"] = next(answers)
                if self.back is not None:
                    images["cycled"] = self._run(self.back, images["fake"], BATCH * i)
                row.add(**images)
            for real in self._batches(self.target) if self.identity else ():
                row.add(real=real, identity=self._run(self.use, real, 0))
            measured = self._measured()
        self.method.train()
        return {name: score.value for name, score in row.scores().items()} | measured

    def _measured(self) -> dict[str, float]:
        """Return what the method itself measures on held-out samples, with a label if it has labels, on average."""
        values = defaultdict[str, list[float]](list)
        for i, images in enumerate(self._batches(self.target)):
            batch = {self.target: images}
            if self.labels:
                label = torch.tensor(self.labels[BATCH * i : BATCH * (i + 1)], device=images.device)
                batch = {self.target: images[label >= 0], "label": label[label >= 0]}
            if count := len(batch[self.target]):
                for name, x in self.method.measure(batch).items():
                    values[name] += [float(x)] * count
        return {name: fmean(x) for name, x in values.items()}

    def _run(self, use: Use, images: Tensor, number: int) -> Tensor:
        """Return a use's output for images, the first of which has a `number`: classes and vectors in turn, noise by
        number.
        """
        n, device, given = len(images), images.device, list[Tensor]()
        for x in use.inputs:
            if isinstance(x, Image):
                given.append(images)
            elif isinstance(x, Noise):
                given.append(x.draw(n, generator=torch.Generator().manual_seed(number)).to(device))
            elif isinstance(x, Vector) and self.vectors is not None:
                given.append(
                    torch.from_numpy(self.vectors[np.arange(number, number + n) % len(self.vectors)]).to(device)
                )
            elif isinstance(x, Label):
                given.append(torch.arange(number, number + n, device=device) % x.classes)
        out: Tensor = use.network(*given)
        return out

    def better(self, scores: dict[str, float], best: float | None) -> float | None:
        """Return the deciding score if it is better than the best so far."""
        if not self.select:
            return None
        score = next(value for name, value in scores.items() if base_name(name) == self.select)
        if math.isnan(score):
            return None
        return score if best is None or is_better(self.select, score, best) else None

    def _batches(self, domain: str) -> Iterator[Tensor]:
        images = self.images[domain]
        for i in range(0, len(images), BATCH):
            batch = self.scales[domain].encode_all(images[i : i + BATCH])
            yield self.runtime.to_device({domain: batch})[domain]


def _some(heldout: HeldOut, domain: Domain) -> Array:
    """Return held-out images, (N, size, size, C), decoded once for all evaluations."""
    chosen = domain.evenly(IMAGES)
    return np.stack([cut(chosen.load(i), heldout.config) for i in range(len(chosen))])


def kept_steps(steps: int, keep: int) -> Sequence[int]:
    """Return the steps whose models are kept, evenly spaced, without the last step."""
    return sorted({round(k * steps / (keep + 1)) for k in range(1, keep + 1)} - {0, steps})
