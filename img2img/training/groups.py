"""The dataclasses that hold the options of training a method; imports nothing heavy, for fast help."""

from dataclasses import fields
from typing import Any

from img2img.data.options import data_options
from img2img.metrics.options import MetricOptions
from img2img.training.config import TrainConfig


def groups_of(config: Any) -> tuple[type, ...]:
    """Return them, given a method's own: of its data, of training, its own, and of the metrics."""
    return data_options(config.needs), TrainConfig, config, MetricOptions


HEADINGS = ("Data", "Length", "Networks", "Adversarial game", "Run", "Evaluation")
UNDER = {
    "Length": "steps epochs batch_size accumulate lr d_lr beta1 beta2 decay clip ema",
    "Networks": "generator discriminator network latent noise width d_width depth norm d_norm padding dropout upsample",
    "Evaluation": "validate_every metrics select patience",
}


def headings_of(config: Any) -> dict[str, str]:
    """Return the heading of each option of a method in its help, in the order of the help."""
    own = {name: heading for heading, names in UNDER.items() for name in names.split()}
    groups = dict(zip(("Data", "Run", "Adversarial game", "Evaluation"), groups_of(config), strict=True))
    found = {field.name: own.get(field.name, heading) for heading, group in groups.items() for field in fields(group)}
    return dict(sorted(found.items(), key=lambda entry: HEADINGS.index(entry[1])))
