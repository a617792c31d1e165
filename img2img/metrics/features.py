"""Networks whose features FID, KID and the like compare: functions of images (N, C, H, W) in [-1, 1]."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from img2img.errors import choose
from img2img.metrics.options import MetricOptions

ENCODER = "encoder"
Run = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class Network(NamedTuple):
    """A network of features.

    Attributes:
        suffix: of the names of the metrics: "" of Inception, which they are named after, else "[name]".
        run: gives features (N, D), and logits (N, classes) or None of a network without classes.
        classes: whether it has classes.
        note: what to know of all that is measured with it.
    """

    suffix: str
    run: Run
    classes: bool = False
    note: str = ""


def open_network(options: MetricOptions, channels: int, device: torch.device) -> Network:
    """The network `options.features`, from files on this machine; the encoder is not one of them: it is fitted.

    Raises:
        ConfigError: if there is no such network, it cannot see this many channels, or its library is not installed.
        ModelFileError: if its file is missing, damaged, or another one's.
    """
    from img2img.metrics.classifiers import classifier_names, open_classifier
    from img2img.metrics.inception import NETWORKS, open_inception
    from img2img.metrics.programs import PROGRAMS, open_program

    name = options.features
    if Path(name).suffix in PROGRAMS:
        return Network(f"[{Path(name).stem}]", open_program(Path(name), device))
    names = classifier_names()
    choose("network of features", name, dict.fromkeys([*NETWORKS, ENCODER, *names]))
    if name in NETWORKS:
        suffix, resized, note = NETWORKS[name]
        run = open_inception(options.features_weights, channels, device, resized)
        return Network(suffix, run, classes=True, note=note)
    return Network(f"[{name}]", open_classifier(name, options.features_weights, channels, device), classes=True)
