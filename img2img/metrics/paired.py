"""Distances between a translation and its known target.

All take real and generated images (N, C, H, W) in [-1, 1], measure each image by itself on a scale of [0, 1], and
return the mean over images, so the value does not depend on how images were batched.
"""

import torch
from torch import Tensor


def _unit(x: Tensor) -> Tensor:
    return (x.float() + 1) / 2


def l1(real: Tensor, fake: Tensor) -> float:
    """Mean absolute difference, in [0, 1]; lower is better."""
    return float((_unit(real) - _unit(fake)).abs().mean())


def psnr(real: Tensor, fake: Tensor) -> float:
    """Peak signal-to-noise ratio in dB against a peak of 1; higher is better; identical images give infinity."""
    error = (_unit(real) - _unit(fake)).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())


def ssim(real: Tensor, fake: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), by torchmetrics, Gaussian window of sigma 1.5; at most 1, the best."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    per_image = structural_similarity_index_measure(_unit(fake), _unit(real), data_range=1.0, reduction="none")
    return float(per_image.mean())  # type: ignore[union-attr]
