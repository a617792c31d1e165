"""Distances between an image and its known counterpart.

Each takes two batches (N, C, H, W) in [-1, 1] and returns one value per image, (N,), so a mean over images depends
neither on the batches nor on their order. Pixels are rescaled to [0, 1].
"""

from typing import Any

import torch
from torch import Tensor

from img2img.errors import DataError

SSIM_LEAST = 6  # the mirrored border of the 11 px window is 5 px
MS_SSIM_LEAST = 176  # the window of 11 px must fit 16 times (torchmetrics' bound)


def unit(x: Tensor) -> Tensor:
    """Map [-1, 1] to [0, 1]."""
    return (x.float() + 1) / 2


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Return mean |x - y|, in [0, 1]; lower is better."""
    return (unit(x) - unit(y)).abs().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio, -10 log10 mean (x - y)² dB for a peak of 1; infinite for equal images."""
    return -10 * torch.log10((unit(x) - unit(y)).square().flatten(1).mean(1))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004, equation 13), at most 1, by torchmetrics.

    The Gaussian window has sigma 1.5 and 11 px, and is mirrored at the border (the authors' code uses only windows that
    lie inside the image).

    Raises:
        DataError: if a side is shorter than `SSIM_LEAST`.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as measure

    refuse_smaller("ssim", x, SSIM_LEAST, "Use l1 or psnr.")
    return _per_image(measure(unit(x), unit(y), data_range=1.0, reduction="none"))


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the multi-scale structural similarity (Wang et al. 2003, equation 7), in [0, 1], by torchmetrics.

    Each of the five scales is half the previous one; negative terms count as 0.

    Raises:
        DataError: if a side is shorter than `MS_SSIM_LEAST`.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    refuse_smaller("ms_ssim", x, MS_SSIM_LEAST, "Use ssim.")
    return _per_image(measure(unit(x), unit(y), data_range=1.0, reduction="none", normalize="relu"))


def _per_image(values: Any) -> Tensor:
    result: Tensor = values
    return result.reshape(-1)  # torchmetrics returns a scalar for a single image


def refuse_smaller(name: str, x: Tensor, least: int, instead: str) -> None:
    """Raise DataError if a side of the images (N, C, H, W) is shorter than `least` pixels."""
    height, width = x.shape[-2:]
    if min(height, width) < least:
        raise DataError(f"{name} needs images of at least {least}×{least} px, not {width}×{height}. {instead}")
