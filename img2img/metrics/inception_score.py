"""Inception score (Salimans et al. 2016), by torchmetrics, of precomputed logits."""

import warnings

from torch import Tensor, nn

from img2img.errors import DataError
from img2img.metrics.options import MetricOptions
from img2img.metrics.resampling import canonical, own_randomness
from img2img.metrics.score import Score

SPLITS = 10
USUAL = 5000


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `InceptionScore` will save", category=UserWarning)
        metric = InceptionScore(nn.Identity(), splits=SPLITS)
    metric.update(canonical(logits))
    with own_randomness():
        mean, std = metric.compute()
    return Score(float(mean), float(std))


def too_few(n: int, dims: int, options: MetricOptions) -> str:
    """Return a caution if p(y) of each part is estimated from few images, or ""."""
    text = f"{SPLITS} parts of about {n // SPLITS} images; biased downwards, compare only at equal n"
    return text if n < USUAL else ""
