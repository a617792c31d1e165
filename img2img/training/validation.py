"""Scores on held-out images during a run, and what is decided by them: the best model, and when to stop."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from img2img.core.game import Method
from img2img.data.layouts import HeldOut
from img2img.errors import ConfigError, choose
from img2img.metrics.scorer import MetricOptions, Scorer
from img2img.metrics.table import METRICS
from img2img.runtime import Runtime
from img2img.training.config import TrainConfig
from img2img.training.ema import Ema

IMAGES = 200  # of each side; the same ones every time
BATCH = 4
OF_PAIRS, OF_DOMAINS = ("l1", "psnr", "ssim"), ("drift", "structure", "cycle", "identity")


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
        names = [name.strip() for name in config.metrics.split(",") if name.strip()]
        names = names if names != ["auto"] else list(OF_PAIRS if paired else OF_DOMAINS)
        self.select = names[0] * paired if config.select == "auto" else config.select
        if self.select and self.select not in names:
            names.append(self.select)
        for name in names:
            if choose("metric", name, METRICS).paired and not paired:
                raise ConfigError(f"--metrics {name} compares with true answers, and this method learns without pairs.")
        if config.patience and not self.select:
            raise ConfigError("--patience waits for a metric to improve; say which: --select METRIC.")
        (self.source, self.target, attribute), *others = method.generators.values()
        self.generator = getattr(method, attribute)
        back = [other for source, _, other in others if source == self.target]
        self.back = getattr(method, back[0]) if back and "cycle" in names else None
        self.identity = "identity" in names and method.channels[self.source] == method.channels[self.target]
        self.method, self.heldout, self.paired, self.runtime = method, heldout, paired, runtime
        self.scorer = Scorer(names, options, method.channels[self.target], runtime.device)
        self.scorer.prepare(lambda: (batch[self.target] for batch in self._batches()))

    @torch.no_grad()
    def __call__(self, ema: Ema) -> dict[str, float]:
        """The scores of the generators as they would be saved now."""
        row = self.scorer.row()
        self.method.eval()
        with ema.applied():
            for batch in self._batches():
                source, real = batch[self.source], batch[self.target]
                images = {"source": source, "fake": self.generator(source)}
                if self.paired:
                    images["real"] = real
                if self.back is not None:
                    images["cycled"] = self.back(images["fake"])
                row.add(**images)
                if self.identity:
                    row.add(real=real, identity=self.generator(real))
        self.method.train()
        return {name: score.value for name, score in row.scores().items()}

    def better(self, scores: dict[str, float], best: float | None) -> float | None:
        """The deciding score, if it is better than the best so far."""
        if not self.select:
            return None
        score = next(value for name, value in scores.items() if name.partition("[")[0] == self.select)
        if math.isnan(score):
            return None
        higher = METRICS[self.select].higher_is_better
        return score if best is None or (score > best if higher else score < best) else None

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        count = min(len(self.heldout), IMAGES)
        for i in range(0, count, BATCH):
            samples = [self.heldout[k] for k in range(i, min(i + BATCH, count))]
            yield self.runtime.to_device({name: torch.stack([s[name] for s in samples]) for name in samples[0]})


def kept_steps(steps: int, keep: int) -> Sequence[int]:
    """The steps whose models stay, evenly spaced; the last model of all is not one of them."""
    return sorted({round(k * steps / (keep + 1)) for k in range(1, keep + 1)} - {0, steps})
