"""Opening the network whose features FID, KID and similar metrics compare."""

from pathlib import Path

import torch

from img2img.errors import choose
from img2img.metrics.classifiers import classifier_names, open_classifier
from img2img.metrics.inception import NETWORKS, open_inception
from img2img.metrics.network import ENCODER, Network
from img2img.metrics.options import MetricOptions
from img2img.metrics.programs import PROGRAMS, open_program


def open_network(options: MetricOptions, channels: int, device: torch.device) -> Network:
    """Open the network `options.features` from files on this machine; not the encoder, which is fitted.

    Raises:
        ConfigError: if there is no such network, it cannot take this many channels, or its library is not installed.
        ModelFileError: if its file is missing, damaged, or belongs to another network.
    """
    name = options.features
    if Path(name).suffix in PROGRAMS:
        return Network(f"[{Path(name).stem}]", open_program(Path(name), device), file=Path(name))
    names = classifier_names()
    choose("network of features", name, [*NETWORKS, ENCODER, *names])
    if name in NETWORKS:
        suffix, resize, note = NETWORKS[name]
        extract, file = open_inception(options.features_weights, channels, device, resize)
        return Network(suffix, extract, classes=True, note=note, file=file)
    extract, file = open_classifier(name, options.features_weights, channels, device)
    return Network(f"[{name}]", extract, classes=True, file=file)
