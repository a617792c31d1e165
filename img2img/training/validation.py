"""Scores on held-out images during a run, and what is decided by them: the best model, and when to stop."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from img2img.core.method import Method
from img2img.data.folders import Domain
from img2img.data.images import Array
from img2img.data.layouts import HeldOut, cut
from img2img.errors import ConfigError, choose
from img2img.metrics.scorer import MetricOptions, Scorer
from img2img.metrics.table import METRICS, base_name, is_better, names_of
from img2img.runtime.device import Runtime
from img2img.training.config import TrainConfig
from img2img.training.ema import Ema

IMAGES = 200  # of each side, evenly chosen; the same ones every time
BATCH = 4
QUICK = {True: ("l1", "psnr", "ssim"), False: ("drift", "structure", "cycle", "identity")}  # of pairs, and without


class Validation:
    """Scores the first direction of a method on held-out images.

    Attributes:
        select: the metric that decides which model is the best; "" where nothing decides.

    Raises:
        ConfigError: if a metric does not exist or does not suit the images.
        DataError: if there are too few images for a metric.
    """

    def __init__(
        self, method: Method, heldout: HeldOut, config: TrainConfig, options: MetricOptions, runtime: Runtime
    ) -> None:
        paired = method.layout == "pairs"
        names = list(QUICK[paired] if config.metrics == "auto" else names_of(config.metrics))
        if not names:
            raise ConfigError("--metrics names none; leave it out, or choose from " + ", ".join(METRICS) + ".")
        self.select = names[0] * paired if config.select == "auto" else config.select
        if self.select and self.select not in names:
            names.append(self.select)
        (self.source, self.target, attribute), *others = method.generators.values()
        self.generator = getattr(method, attribute)
        back = next((other for source, _, other in others if source == self.target), None)
        impossible = {} if back else {"cycle": "needs a method of both directions"}
        if method.channels[self.source] != method.channels[self.target]:
            impossible["identity"] = "needs domains with the same channels"
        for name in names:
            if choose("metric", name, METRICS).paired and not paired:
                raise ConfigError(f"--metrics {name} compares with true answers, and this method learns without pairs.")
        asked = {self.select} if config.metrics == "auto" else set(names)
        if wrong := [name for name in names if name in asked and name in impossible]:
            raise ConfigError(f"{wrong[0]} {impossible[wrong[0]]}.")
        names = [name for name in names if name not in impossible]
        if config.patience and not self.select:
            raise ConfigError("--patience waits for a metric to improve; say which: --select METRIC.")
        self.back = getattr(method, back) if back and "cycle" in names else None
        self.identity = "identity" in names
        self.method, self.paired, self.runtime = method, paired, runtime
        self.scales, self.images = heldout.scales, {"a": _some(heldout, heldout.a), "b": _some(heldout, heldout.b)}
        self.scorer = Scorer(names, options, method.channels[self.target], runtime.device)
        self.scorer.prepare(lambda: self._batches(self.target))
        first = next(self._batches(self.target))  # images too small for a metric are refused now
        self.scorer.row().add(**dict.fromkeys({kind for name in names for kind in METRICS[name].on}, first))

    @torch.no_grad()
    def __call__(self, ema: Ema) -> dict[str, float]:
        """The scores of the generators as they would be saved now."""
        row = self.scorer.row()
        self.method.eval()
        with ema.applied():
            answers = self._batches(self.target) if self.paired else None
            for source in self._batches(self.source):
                images = {"source": source, "fake": self.generator(source)}
                if answers is not None:
                    images["real"] = next(answers)
                if self.back is not None:
                    images["cycled"] = self.back(images["fake"])
                row.add(**images)
            for real in self._batches(self.target) if self.identity else ():
                row.add(real=real, identity=self.generator(real))
        self.method.train()
        return {name: score.value for name, score in row.scores().items()}

    def better(self, scores: dict[str, float], best: float | None) -> float | None:
        """The deciding score, if it is better than the best so far."""
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
    """Held-out images, (N, size, size, C): decoded once, as they come again and again."""
    chosen = domain.evenly(IMAGES)
    return np.stack([cut(chosen.load(i), heldout.config) for i in range(len(chosen))])


def kept_steps(steps: int, keep: int) -> Sequence[int]:
    """The steps whose models stay, evenly spaced; the last model of all is not one of them."""
    return sorted({round(k * steps / (keep + 1)) for k in range(1, keep + 1)} - {0, steps})
