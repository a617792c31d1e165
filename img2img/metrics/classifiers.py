"""Any ImageNet classifier of torchvision as a network of features, from weights on this machine."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.errors import ConfigError
from img2img.metrics.network import Extract
from img2img.runtime.weights import find_weights, misfit, read_weights

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNLIKE = {"inception_v3", "googlenet"}  # normalised in another way; FID's Inception is neither


def classifier_names() -> list[str]:
    """Return their names in torchvision."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if name not in UNLIKE]


def open_classifier(name: str, weights: str | None, channels: int, device: torch.device) -> tuple[Extract, Path]:
    """Return a function that gives the input of the last layer (N, D), and logits; and the file of its weights.

    A map is averaged over the image. The whole image is resized to 224 × 224, bilinear with antialiasing, and
    normalised as for ImageNet.

    Raises:
        ConfigError: if the images are not RGB.
        ModelFileError: if the weights are not on this machine, or belong to another network.
    """
    if channels != 3:
        raise ConfigError(f"{name} takes RGB images, and these have {channels} channels: use --features encoder.")
    from torchvision import models

    url = models.get_model_weights(name).DEFAULT.url
    path = find_weights(name, weights, url, "--features-weights", ", or use --features encoder, which needs none")
    state = read_weights(path)
    if name.startswith("densenet"):  # torchvision's files use former names, norm.1 for norm1
        state = {re.sub(r"\.(norm|relu|conv)\.(\d)\.", r".\1\2.", key): x for key, x in state.items()}
    with torch.device("meta"):  # allocates no memory: the weights of the file replace it
        network = models.get_model(name, weights=None)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise misfit(path, f"torchvision's {name}") from error
    network.requires_grad_(False).eval().to(device)
    inputs: list[Tensor] = []  # of the last layer
    _last_layer(network).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    mean, std = (torch.tensor(x, device=device).reshape(1, 3, 1, 1) for x in (MEAN, STD))

    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        small = F.interpolate((images + 1) / 2, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        logits = network((small - mean) / std)
        features = inputs.pop()
        return features.flatten(2).mean(2) if features.ndim == 4 else features, logits

    return extract, path


def _last_layer(network: nn.Module) -> nn.Module:
    """Return the layer that computes the logits: the last linear one, or without one the last convolution."""
    linear: list[nn.Module] = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return (linear or [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)])[-1]
