"""The baseline that gives each image the brightness and colours of the other side."""

import numpy as np

from img2img.data.picture import Array
from img2img.evaluation.sides import Side

PIXELS = 2**21  # drawn at random from all images of a side for its histogram
LEVELS = np.linspace(0, 1, 1025)


class HistogramMatching:
    """Maps each channel of an image to the pooled values of the target side, rank by rank.

    Args:
        real: the images of the target side.
    """

    def __init__(self, real: Side) -> None:
        rng, each = np.random.default_rng(0), max(1, PIXELS // len(real))
        pixels = (x.reshape(-1, x.shape[2]) for x in real)
        picked = [x if len(x) <= each else x[rng.integers(len(x), size=each)] for x in pixels]
        self.quantiles = np.quantile(np.concatenate(picked).astype(np.float64), LEVELS, axis=0)  # (1025, C)

    def __call__(self, image: Array) -> Array:
        """Map an image (H, W, C) to one of the same shape and type."""
        out = np.empty(image.shape, np.float64)
        for c in range(image.shape[2]):
            _, where, counts = np.unique(image[..., c], return_inverse=True, return_counts=True)
            rank = (np.cumsum(counts) - counts / 2) / counts.sum()  # the middle of each value's ranks
            out[..., c] = np.interp(rank, LEVELS, self.quantiles[:, c])[where].reshape(image.shape[:2])
        if image.dtype.kind in "ui":
            out = np.rint(out)
        return out.astype(image.dtype)
