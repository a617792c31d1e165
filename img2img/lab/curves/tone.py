"""`tone`: one monotone curve per batch and channel, from a background anchor and the contrast of the foreground.

The measurements do not depend on how much foreground an image has: the level of the background, and quantiles of the
foreground's distance to it, image by image. Differences between batches are estimated, and corrected, one by one: the
background, the contrast as a whole (a gain), its trend along the quantiles (a gamma), and finer bends of the curve.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from img2img.data.picture import Array, as_type
from img2img.lab.curves.effects import MAD_TO_SD
from img2img.lab.large import LargePlane
from img2img.lab.reductions import Means

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the foreground's contrast, in one image
EDGE = 512  # pixels; larger images are averaged over blocks before measuring
HALO = 4  # pixels around the foreground that count as neither foreground nor background
CLEARLY = 3.0  # times the noise that half of the foreground must stand out from the background
CLEAR = 0.01  # share of the pixels that must be background without the halo, or the halo is background too

# Log contrasts at QUANTILES, (K,), are a sum of K modes, polynomials of their position: MODES @ contrasts are the
# weights, CONTRASTS @ weights the contrasts. The first weight is the mean, the log gain.
_basis = np.linalg.qr(np.vander(np.linspace(-1, 1, len(QUANTILES)), increasing=True))[0]
_basis *= np.sign(_basis[-1]) * np.sqrt(len(QUANTILES))
MODES, CONTRASTS = _basis.T / len(QUANTILES), _basis


def factor_of(shape: tuple[int, ...]) -> int:
    """Return the edge of the blocks that a plane (H, W) is averaged over."""
    return max(1, min(shape) // EDGE)


def binned(plane: Array | LargePlane) -> Array:
    """Average a plane (H, W) over square blocks, so that its shorter side is at most about `EDGE`; float64."""
    factor = factor_of(plane.shape)
    if isinstance(plane, LargePlane):
        means: Array = plane.image.gather(Means(factor))[0][plane.channel]
        return means.copy()
    height, width = (n // factor * factor for n in plane.shape)
    if factor == 1:
        return plane.astype(np.float64)
    rows: Array = plane[:height, :width].reshape(height // factor, factor, width).sum(1, dtype=np.float64)
    return np.asarray(sum((rows[:, i::factor] for i in range(1, factor)), rows[:, ::factor]) / factor**2)


def foreground(plane: Array, sign: int) -> tuple[Array, Array]:
    """Return masks of foreground and background of a plane (H, W), by Otsu's threshold; pixels between are in neither.

    `sign` is 1 if the foreground is bright, -1 if it is dark.
    """
    smooth = ndimage.uniform_filter(sign * plane, 3)
    smooth = smooth.clip(None, np.quantile(smooth, 0.999))
    if smooth.min() == smooth.max():
        return np.zeros(plane.shape, bool), np.ones(plane.shape, bool)
    inside = smooth > threshold_otsu(smooth)  # type: ignore[no-untyped-call]
    outside = ~_grown(inside, HALO)
    return inside, outside if outside.mean() > CLEAR else ~inside


def _grown(mask: Array, steps: int) -> Array:
    """Return a mask (H, W) with the pixels up to `steps` away along rows and columns, 8 times as fast as scipy does."""
    for _ in range(steps):
        near = mask.copy()
        near[1:] |= mask[:-1]
        near[:-1] |= mask[1:]
        near[:, 1:] |= mask[:, :-1]
        near[:, :-1] |= mask[:, 1:]
        mask = near
    return mask


def signs(shares: Array) -> Array:
    """Return for each channel 1 for bright foreground, -1 for dark, (C,): it is the smaller of Otsu's two classes.

    The images vote; `shares` (n, C) is the share of the pixels that are foreground if it is bright, as `look` returns.
    """
    return np.where(np.sign(0.5 - shares).sum(0) < 0, -1, 1)


def measure(plane: Array, sign: int) -> Array:
    """Return the background level and the log contrast of the foreground at `QUANTILES`, of one plane (H, W).

    Returns:
        (1 + len(QUANTILES),); NaN if no foreground stands out from the background.
    """
    return look(plane, sign)[0]


def look(plane: Array, sign: int) -> tuple[Array, float]:
    """Return what `measure` returns of a plane (H, W), and the share of its pixels that are foreground."""
    plane = binned(plane)
    inside, outside = foreground(plane, sign)
    around = plane[outside]
    background = np.median(around)
    noise = MAD_TO_SD * np.median(np.abs(around - background))
    contrast = np.quantile(sign * (plane[inside] - background), QUANTILES) if inside.any() else np.zeros(1)
    stands_out = contrast[0] > max(noise, 1e-9) and contrast[2] > CLEARLY * noise
    found = np.log(contrast) if stands_out else np.full(len(QUANTILES), np.nan)
    return np.array([background, *found]), float(inside.mean())


@dataclass(frozen=True)
class Curve:
    """A piecewise linear, increasing map of pixel values through the points (x, y)."""

    x: Array
    y: Array

    @property
    def is_identity(self) -> bool:
        return bool(np.array_equal(self.x, self.y))

    def __call__(self, values: Array) -> Array:
        """Map pixel values of any shape, float32 as float32, others as float64; the end pieces extend outwards.

        y = y_0 + s_0 (x - x_0) + sum over inner points of (s_k - s_(k-1)) max(x - x_k, 0), with the pieces' slopes s.
        """
        values = values.astype(np.float32 if values.dtype == np.float32 else np.float64)
        if self.is_identity:
            return values
        x, first = np.unique(self.x, return_index=True)
        y = self.y[first]
        slopes = np.diff(y) / np.diff(x)
        mapped: Array = (values - x[0]) * slopes[0] + y[0]
        for knot, bend in zip(x[1:-1], np.diff(slopes), strict=True):
            if bend:
                mapped += bend * np.maximum(values - knot, 0)
        return mapped.astype(values.dtype, copy=False)

    def table(self, dtype: np.dtype) -> Array:
        """Return the curve at every value of an integer type, rounded and clipped to it."""
        values = np.arange(np.iinfo(dtype).max + 1)
        return values.astype(dtype) if self.is_identity else as_type(self(values), dtype)


def curve(level: Array, move: Array, sign: int) -> Curve:
    """Return the curve that moves a batch.

    `level` is the batch's, as `measure` returns it, (1 + K,); `move` is added to it: to the background, and to the
    weights of `MODES`, (1 + K,); `sign` is 1 for bright foreground, -1 for dark.
    """
    contrast = np.exp(level[1:])
    wanted = np.maximum.accumulate(contrast * np.exp(CONTRASTS @ move[1:]))  # increasing
    ends = contrast[-1] * 4, wanted[-1] * 4  # beyond the brightest knot the curve is straight, with its ratio
    x = level[0] + sign * np.array([-contrast[0], 0, *contrast, ends[0]])
    y = level[0] + move[0] + sign * np.array([-wanted[0], 0, *wanted, ends[1]])
    return Curve(x[::sign], y[::sign])
