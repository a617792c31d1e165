"""Fréchet inception distance (Heusel et al. 2017), by torchmetrics, of precomputed features."""

from torch import Tensor, nn

from img2img.errors import DataError
from img2img.metrics.options import MetricOptions
from img2img.metrics.score import Score


def fid(real: Tensor, fake: Tensor) -> Score:
    """Return |μ_r - μ_f|² + tr(Σ_r + Σ_f - 2 (Σ_r Σ_f)^½) of features (N, D), each set taken as Gaussian, in float64.

    Raises:
        DataError: if a set has fewer than 2 images.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(fake)) < 2:
        raise DataError(f"fid needs at least 2 real and 2 generated images, not {len(real)} and {len(fake)}.")
    identity = nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return Score(float(metric.compute()))


def too_few(n: int, dims: int, options: MetricOptions) -> str:
    """Return a caution if the covariance of `n` images has a rank below `dims`, or ""."""
    return f"{n} images are fewer than the {dims} features; biased upwards, compare only at equal n" if n < dims else ""
