"""Metrics by name. To add one: its function, and one entry here."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from img2img.metrics.paired import l1, psnr, ssim


class Metric(NamedTuple):
    """`fn(real, fake)` of images (N, C, H, W) in [-1, 1]; `higher_is_better` says which way is up."""

    fn: Callable[[Tensor, Tensor], float]
    higher_is_better: bool


PAIRED_METRICS = {
    "l1": Metric(l1, higher_is_better=False),
    "psnr": Metric(psnr, higher_is_better=True),
    "ssim": Metric(ssim, higher_is_better=True),
}
