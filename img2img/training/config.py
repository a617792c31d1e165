"""The options of training that all methods share, all options of one method, and the schedule that follows; imports
nothing heavy, for fast help.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from img2img.data.options import data_options
from img2img.metrics.options import MetricOptions
from img2img.model.options import DEVICES, PRECISIONS
from img2img.options.declared import SEEDS, Choice, Options, Within
from img2img.translation.options import GENERATORS, Dropout, Width

METRICS = "img2img.metrics.table.METRICS"
TRACKERS = "img2img.training.trackers.TRACKERS"
STEPS = Within(1, 10**12)
HEADINGS = ("Data", "Length", "Networks", "Adversarial game", "Run", "Evaluation")
UNDER = {
    "Length": "steps epochs batch_size accumulate lr d_lr beta1 beta2 decay clip ema",
    "Networks": "generator discriminator network latent noise width d_width depth norm d_norm code levels coarse_width "
    "area padding dropout upsample",
    "Evaluation": "validate_every metrics select patience",
}


@dataclass(frozen=True)
class TrainConfig(Options):
    """The options of training that all methods share."""

    steps: Annotated[int, "Length of the run in steps.", Within(1, 10**12, special=(0, "by --epochs"))] = 0
    epochs: Annotated[int, "Length of the run in passes over the larger domain.", Within(1, 10**6)] = 200
    batch_size: Annotated[
        int, "Images per domain in a batch, per process.", Within(1, 2**16, special=(0, "the method's own number"))
    ] = 0
    accumulate: Annotated[int, "Batches whose gradients are averaged into one optimizer step.", Within(1, 10**6)] = 1
    clip: Annotated[float, "Maximum gradient norm of each player.", Within(0, 10**9, special=(0, "no clipping"))] = 0.0
    ema: Annotated[
        float,
        "Decay of an exponential moving average of the generators' weights, e.g. 0.999.",
        Within(0, 1, below=True, special=(0, "none")),
    ] = 0.0
    seed: Annotated[int, "Random seed.", Within(0, SEEDS)] = 0
    deterministic: Annotated[bool, "Make runs bit-reproducible on CUDA as well, at some cost in speed."] = False
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps.", DEVICES] = "auto"
    precision: Annotated[
        str, f"{PRECISIONS}; auto is bf16 for 8-bit images where the hardware multiplies it.", PRECISIONS
    ] = "auto"
    compile: Annotated[str, "Compile the networks: on or off.", Choice(("on", "off"), former=(("auto", "off"),))] = (
        "off"
    )
    checkpoint_activations: Annotated[
        bool, "Recompute the generators' activations in the backward pass: less memory, about 25% more time."
    ] = False
    workers: Annotated[
        int,
        "Worker processes that load images; automatic: 0 on a CPU, up to 4 with a GPU.",
        Within(0, max(16, 4 * (os.cpu_count() or 1)), special=(-1, "automatic")),
    ] = -1
    log_every: Annotated[int, "Steps between lines of log.jsonl, each holding the means over these steps.", STEPS] = 10
    sample_every: Annotated[int, "Steps between sample grids.", STEPS] = 500
    validate_every: Annotated[int, "Steps between evaluations on held-out images.", STEPS] = 1000
    metrics: Annotated[
        str,
        "Metrics to compute on them, comma-separated; auto: a fast set that suits the method.",
        Choice(("auto",), METRICS, complete=False),
    ] = "auto"
    select: Annotated[
        str,
        "Metric that selects best.safetensors; auto: the first one for pairs, none otherwise.",
        Choice(("auto",), METRICS, complete=False),
    ] = "auto"
    patience: Annotated[
        int,
        "Stop after this many evaluations without improvement.",
        Within(1, 10**9, special=(0, "never")),
    ] = 0
    keep: Annotated[
        int,
        "Number of evenly spaced models to keep in models/, to choose from later.",
        Within(0, 10**6),
    ] = 4
    save_every: Annotated[int, "Steps between checkpoints; one is also written every ten minutes.", STEPS] = 1000
    track: Annotated[
        str,
        "Trackers of experiments to report to as well, comma-separated: tensorboard, wandb, mlflow, trackio.",
        Choice(("none",), TRACKERS, complete=False),
    ] = "none"
    tensorboard: Annotated[bool, "Short for --track tensorboard."] = False


@dataclass(frozen=True)
class StartConfig(TrainConfig):
    """The options of training a method: those of all training, and the weights that it starts from."""

    init: Annotated[
        str | None,
        "Weights to start from: the folder of a run, a model file, hf://user/name on a hub, or a generator of the "
        "published code (.pth).",
    ] = None
    init_only: Annotated[
        str | None,
        "What to take of them: generator; by default also discriminators, optimizers and pools, from a run of the same "
        "method.",
        Choice(("generator",)),
    ] = None

    def idle(self) -> Iterator[tuple[str, str]]:
        if self.init is None:
            yield "init_only", "runs with --init"


@dataclass(frozen=True)
class DistillConfig(Options):
    """What to distill, and into what; the student's other options are those of pix2pix."""

    images: Annotated[str | None, "Folder of images to imitate the model on; by default those of its run."] = None
    direction: Annotated[str | None, "Direction to imitate; by default the model's first."] = None
    pairs: Annotated[int, "Pairs to make of these images, cut and augmented as in the run.", Within(2, 10**9)] = 2000


@dataclass(frozen=True)
class StudentTrainConfig(TrainConfig):
    """The options of training a student."""

    epochs: Annotated[int, "Length of the run in passes over the pairs.", Within(1, 10**6)] = 20


@dataclass(frozen=True)
class Schedule:
    """The length of a run, and the learning rate along it."""

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

    @property
    def first_decay(self) -> int:
        """The first step whose learning rate is below the full one; 0 if there is none."""
        n = self.steps // self.steps_per_epoch if self.by_epoch else self.steps
        whole = n - round(n * self.decay)
        return 0 if whole == n else whole * (self.steps_per_epoch if self.by_epoch else 1) + 1

    def epoch(self, step: int) -> int:
        return (step - 1) // self.steps_per_epoch + 1

    def lr_factor(self, step: int) -> float:
        """Return 1, then a line that would reach 0 one unit after the end; units are epochs, or steps if the length was
        given in steps. Steps count from 1.
        """
        e, n = (self.epoch(step), self.steps // self.steps_per_epoch) if self.by_epoch else (step, self.steps)
        n_decay = round(n * self.decay)
        return 1 - max(0, e - (n - n_decay)) / (n_decay + 1)


def flat(*configs: Any) -> dict[str, Any]:
    """Return all options of several configs in one dict."""
    return {name: value for config in configs for name, value in asdict(config).items()}


def groups_of(config: Any) -> tuple[type, ...]:
    """Return the dataclasses of all options of training a method, given its own: data, training, own, metrics."""
    return data_options(config.needs), StartConfig, config, MetricOptions


def groups_of_student(config: Any) -> tuple[type, ...]:
    """Return the dataclasses of all options of `distill`, given that of pix2pix: as `groups_of`."""

    @dataclass(frozen=True)
    class StudentConfig(config):  # type: ignore[misc]
        """The options of the student and of its game."""

        generator: Annotated[str, "Network of the student; auto is the teacher's.", GENERATORS] = "auto"
        width: Width = 16
        dropout: Dropout = 0.0

    return DistillConfig, StudentTrainConfig, StudentConfig, MetricOptions


def headings_of(*groups: type) -> dict[str, str]:
    """Return the heading of each option in the help, in its order, of the options of data or of distilling, of all
    training, of a method, and of metrics.
    """
    own = {name: heading for heading, names in UNDER.items() for name in names.split()}
    titled = dict(zip(("Data", "Run", "Adversarial game", "Evaluation"), groups, strict=True))
    found = {field.name: own.get(field.name, heading) for heading, group in titled.items() for field in fields(group)}
    return dict(sorted(found.items(), key=lambda entry: HEADINGS.index(entry[1])))
