"""Distances between sets of features, and the spread of predicted classes, by torchmetrics.

Fréchet inception distance: Heusel et al. 2017. Kernel inception distance: Bińkowski et al. 2018. Inception score:
Salimans et al. 2016. All take precomputed features or logits.
"""

import contextlib
import warnings
from collections.abc import Iterator

from torch import Tensor, nn

from img2img.errors import DataError
from img2img.metrics.options import MetricOptions
from img2img.metrics.resampling import canonical, own_randomness
from img2img.metrics.score import Score

SPLITS = 10
USUAL = 5000


def fid(real: Tensor, fake: Tensor) -> Score:
    """Return |μ_r - μ_f|² + tr(Σ_r + Σ_f - 2 (Σ_r Σ_f)^½) of features (N, D), each set taken as Gaussian, in float64.

    Raises:
        DataError: if a set has fewer than 2 images.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _refuse_single("fid", real, fake)
    identity = nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return Score(float(metric.compute()))


def fid_too_few(n: int, dims: int, options: MetricOptions) -> str:
    """Return a caution if the covariance of `n` images has a rank below `dims`, or ""."""
    return f"{n} images are fewer than the {dims} features; biased upwards, compare only at equal n" if n < dims else ""


def kid(real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000) -> Score:
    """Return the unbiased squared MMD of features under k(x, y) = (x·y / D + 1)³, mean and deviation over subsets.

    The features are (N, D). Sets from the same distribution give values around 0, also negative ones. A subset holds at
    most all images; if that leaves a single subset, the deviation is None.

    Raises:
        DataError: if a set has fewer than 2 images.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    _refuse_single("kid", real, fake)
    size = min(subset_size, len(real), len(fake))
    single = len(real) == len(fake) == size
    with _quiet():
        metric = KernelInceptionDistance(nn.Identity(), subsets=1 if single else subsets, subset_size=size)
    metric.update(canonical(real), real=True)
    metric.update(canonical(fake), real=False)
    with own_randomness():
        mean, std = metric.compute()
    return Score(float(mean), None if single else float(std))


def kid_too_few(n: int, dims: int, options: MetricOptions) -> str:
    """Return a caution if `n` images make the subsets smaller than asked for, or ""."""
    size = options.subset_size
    return f"subsets of {n} images, which is all, instead of {size}" if n < size else ""


def inception_score(logits: Tensor) -> Score:
    """Return exp E_x KL(p(y|x) ‖ p(y)) of logits (N, classes): mean and deviation over `SPLITS` parts of the images.

    It is 1 where the classifier predicts the same for all images, and at most the number of classes.

    Raises:
        DataError: if there are fewer than 2 images for each part.
    """
    from torchmetrics.image.inception import InceptionScore

    n = len(logits)
    if n < 2 * SPLITS:
        raise DataError(f"inception_score needs at least {2 * SPLITS} images to form {SPLITS} parts, not {n}.")
    with _quiet():
        metric = InceptionScore(nn.Identity(), splits=SPLITS)
    metric.update(canonical(logits))
    with own_randomness():
        mean, std = metric.compute()
    return Score(float(mean), float(std))


def inception_score_too_few(n: int, dims: int, options: MetricOptions) -> str:
    """Return a caution if p(y) of each part is estimated from few images, or ""."""
    text = f"{SPLITS} parts of about {n // SPLITS} images; biased downwards, compare only at equal n"
    return text if n < USUAL else ""


def _refuse_single(name: str, real: Tensor, fake: Tensor) -> None:
    if min(len(real), len(fake)) < 2:
        raise DataError(f"{name} needs at least 2 real and 2 generated images, not {len(real)} and {len(fake)}.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torchmetrics, which warns that it keeps all features."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Metric `.*` will save", category=UserWarning)
        yield
