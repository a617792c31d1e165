"""Losses that compare images by features: those of the discriminators, or of a classifier of ImageNet."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.errors import ConfigError, choose
from img2img.networks.vgg import open_lpips_weights, open_vgg16

Distance = Callable[[Tensor, Tensor], Tensor]  # of images (N, C, H, W) in [-1, 1], as a mean over them


def match_pairs(d: Any, real: Tensor, fake: Tensor) -> Tensor:
    """Return the distance of D's maps of each image from those of its own target (Wang et al. 2018, eq. 4).

    sum_l |D_l(real) - D_l(fake)|_1 / N_l
    """
    return torch.stack([F.l1_loss(f, r) for r, f in _maps(d, real, fake)]).sum()


def match_means(d: Any, real: Tensor, fake: Tensor) -> Tensor:
    """Return the distance of the mean features of real images from those of others (Salimans et al. 2016, section 3.1).

    sum_l |E[D_l(real)] - E[D_l(fake)]|^2 / C_l, the means over images and places
    """
    return torch.stack([F.mse_loss(f.mean((0, 2, 3)), r.mean((0, 2, 3))) for r, f in _maps(d, real, fake)]).sum()


def _maps(d: Any, real: Tensor, fake: Tensor) -> list[tuple[Tensor, Tensor]]:
    if not hasattr(d, "encode"):
        raise ConfigError(
            "This discriminator has no method encode(x), which returns a list of maps inside it; --lambda-feature "
            "compares those."
        )
    with torch.no_grad():
        targets = d.encode(real)
    return list(zip(targets, d.encode(fake), strict=True))


def content(weights: str | None) -> Distance:
    """Return the feature reconstruction loss of Johnson et al. 2016 (eq. 2) at relu3_3: |phi(x) - phi(y)|^2 / CHW."""
    network = open_vgg16(weights, "--perceptual-weights", "relu3_3")

    def distance(x: Tensor, y: Tensor) -> Tensor:
        phi = network.to(x.device)
        return F.mse_loss(phi(x)["relu3_3"], phi(y)["relu3_3"])

    return distance


def lpips(weights: str | None) -> Distance:
    """Return LPIPS 0.1 (Zhang et al. 2018, eq. 1) with VGG16: sum_l mean_hw |w_l (x_l / |x_l| - y_l / |y_l|)|^2."""
    network, channels = open_vgg16(weights, "--perceptual-weights"), open_lpips_weights()

    def distance(x: Tensor, y: Tensor) -> Tensor:
        phi = network.to(x.device)
        pairs = zip(phi(x).values(), phi(y).values(), channels, strict=True)
        parts = [(w.to(a) * (F.normalize(a) - F.normalize(b)).square()).sum(1).mean() for a, b, w in pairs]
        return torch.stack(parts).sum()

    return distance


DISTANCES: dict[str, Callable[[str | None], Distance]] = {"vgg16": content, "lpips": lpips}


def perceptual(config: Any, *channels: int) -> Distance:
    """Return the distance that `config` names, for images of so many channels.

    Raises:
        ConfigError: if images are neither RGB nor grey.
        ModelFileError: if its weights are not on this machine.
    """
    if not config.lambda_perceptual:
        return lambda x, y: x.new_zeros(())
    if strange := [n for n in channels if n not in (1, 3)]:
        raise ConfigError(
            f"--lambda-perceptual is defined for RGB and grey images, not for {strange[0]} channels; leave it out."
        )
    return choose("--perceptual", config.perceptual, DISTANCES)(config.perceptual_weights)
