"""Kernel inception distance (Bińkowski et al. 2018), by torchmetrics, of precomputed features."""

import warnings

from torch import Tensor, nn

from img2img.errors import DataError
from img2img.metrics.options import MetricOptions
from img2img.metrics.resampling import canonical, own_randomness
from img2img.metrics.score import Score


def kid(real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000) -> Score:
    """Return the unbiased squared MMD of features under k(x, y) = (x·y / D + 1)³, mean and deviation over subsets.

    The features are (N, D). Sets from the same distribution give values around 0, also negative ones. A subset holds at
    most all images; if that leaves a single subset, the deviation is None.

    Raises:
        DataError: if a set has fewer than 2 images.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    n = min(len(real), len(fake))
    if n < 2:
        raise DataError(f"kid needs at least 2 real and 2 generated images, not {len(real)} and {len(fake)}.")
    size = min(subset_size, n)
    single = len(real) == len(fake) == size
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save", category=UserWarning)
        metric = KernelInceptionDistance(nn.Identity(), subsets=1 if single else subsets, subset_size=size)
    metric.update(canonical(real), real=True)
    metric.update(canonical(fake), real=False)
    with own_randomness():
        mean, std = metric.compute()
    return Score(float(mean), None if single else float(std))


def too_few(n: int, dims: int, options: MetricOptions) -> str:
    """Return a caution if `n` images make the subsets smaller than asked for, or ""."""
    size = options.subset_size
    return f"subsets of {n} images, which is all, instead of {size}" if n < size else ""
