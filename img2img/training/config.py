"""The options of a run that all methods share, and what follows from them: its length and learning rate."""

import os
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from img2img.options.declared import SEEDS, Choice, Options, Within

COMPILE = {"auto": None, "on": True, "off": False}
PRECISIONS = Choice(table="img2img.runtime.device.PRECISIONS")
DEVICES = Choice(("auto", "cpu", "cuda", "mps"), complete=False)
METRICS = "img2img.metrics.table.METRICS"
STEPS = Within(1, 10**12)


@dataclass(frozen=True)
class TrainConfig(Options):
    """How long and how to train; the same for every method."""

    steps: Annotated[int, "Length of the run in steps.", Within(1, 10**12, special=(0, "by --epochs"))] = 0
    epochs: Annotated[int, "Length of the run in passes over the larger domain.", Within(1, 10**6)] = 200
    batch_size: Annotated[
        int, "Images of each domain in a batch, per process.", Within(1, 2**16, special=(0, "the method's own number"))
    ] = 0
    accumulate: Annotated[int, "Batches whose gradients are averaged into one step.", Within(1, 10**6)] = 1
    clip: Annotated[float, "Largest gradient norm of a player.", Within(0, 10**9, special=(0, "no clipping"))] = 0.0
    ema: Annotated[
        float,
        "Decay of a moving average of the generators' weights, e.g. 0.999.",
        Within(0, 1, below=True, special=(0, "none")),
    ] = 0.0
    seed: Annotated[int, "Seed of everything random.", Within(0, SEEDS)] = 0
    deterministic: Annotated[bool, "Bit-equal runs on CUDA as well, at some cost in speed."] = False
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps.", DEVICES] = "auto"
    precision: Annotated[
        str, f"{PRECISIONS}; auto is bf16 for 8-bit images where the hardware multiplies it.", PRECISIONS
    ] = "auto"
    compile: Annotated[
        str,
        "Compile the networks: auto (long runs try it, and keep it if faster), on or off.",
        Choice(tuple(COMPILE)),
    ] = "auto"
    checkpoint_activations: Annotated[
        bool, "Generators: compute activations again on the way back. Less memory, about a quarter more time."
    ] = False
    workers: Annotated[
        int,
        "Processes that prepare images; automatic is 0 on a CPU, and up to 4 beside a GPU.",
        Within(0, max(16, 4 * (os.cpu_count() or 1)), special=(-1, "automatic")),
    ] = -1
    log_every: Annotated[int, "Steps between lines of log.jsonl, which hold the means over these steps.", STEPS] = 10
    sample_every: Annotated[int, "Steps between sample grids.", STEPS] = 500
    validate_every: Annotated[int, "Steps between scores on held-out images.", STEPS] = 1000
    metrics: Annotated[
        str,
        "What is measured on them, with commas; auto: what suits the method and is quick.",
        Choice(("auto",), METRICS, complete=False),
    ] = "auto"
    select: Annotated[
        str,
        "The metric that decides what best.safetensors is; auto: for pairs the first one.",
        Choice(("auto",), METRICS, complete=False),
    ] = "auto"
    patience: Annotated[
        int,
        "Stop when it has not improved in so many scores in a row.",
        Within(1, 10**9, special=(0, "never")),
    ] = 0
    keep: Annotated[
        int,
        "Models that are kept in models/ along the run, evenly spaced, to choose from later.",
        Within(0, 10**6),
    ] = 4
    save_every: Annotated[int, "Steps between checkpoints, which are written every ten minutes anyway.", STEPS] = 1000
    tensorboard: Annotated[bool, "Write TensorBoard files as well."] = False


@dataclass(frozen=True)
class Schedule:
    """Length of a run, and the learning rate along it."""

    steps: int
    steps_per_epoch: int
    by_epoch: bool
    decay: float

    @classmethod
    def of(cls, config: TrainConfig, decay: float, samples: int, world_size: int) -> "Schedule":
        per_step = config.batch_size * config.accumulate * world_size
        steps_per_epoch = -(-samples // per_step)
        by_epoch = config.steps == 0
        return cls(config.epochs * steps_per_epoch if by_epoch else config.steps, steps_per_epoch, by_epoch, decay)

    def epoch(self, step: int) -> int:
        return (step - 1) // self.steps_per_epoch + 1

    def lr_factor(self, step: int) -> float:
        """1, then a straight line that would reach 0 one unit after the end; units are epochs, or steps where
        the run is that long. Steps count from 1.
        """
        e, n = (self.epoch(step), self.steps // self.steps_per_epoch) if self.by_epoch else (step, self.steps)
        n_decay = round(n * self.decay)
        return 1 - max(0, e - (n - n_decay)) / (n_decay + 1)


def flat(*configs: Any) -> dict[str, Any]:
    """All options of several configs in one dict."""
    return {name: value for config in configs for name, value in asdict(config).items()}
