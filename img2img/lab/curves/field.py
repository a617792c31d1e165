"""`+field`: a smooth illumination field per batch and channel, relative to the target's, in camera coordinates.

A batch's image is light * signal + background, where light and background are low-order polynomials of the position.
Both are fitted to the deviations from each image's own level, so that the content of single images does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from img2img.data.picture import Array
from img2img.lab.curves.tone import binned, foreground

GRID = 16  # cells along each side of the camera; their means are fitted
# Legendre polynomials of the position up to second order, without the constant; each order is shrunk as a whole.
ORDERS = (slice(0, 2), slice(2, 5))
DOUBT = 1.5  # standard errors up to which a difference is not corrected
SURE = 3.0  # standard errors that should mean the same confidence, however few the degrees of freedom


def basis(y: Array, x: Array) -> Array:
    """Return the polynomials at positions from -1 to 1, (5, ...)."""
    return np.stack([y, x, (3 * y**2 - 1) / 2, (3 * x**2 - 1) / 2, y * x])


TERMS = len(basis(np.zeros(1), np.zeros(1)))


@dataclass(frozen=True)
class Equations:
    """Normal equations of a weighted regression on `basis`, of one image: matrix (5, 5) and right-hand side (5,)."""

    matrix: Array
    right: Array

    @classmethod
    def of(cls, values: Array, weights: Array) -> "Equations":
        """Set up the equations from the means `values` (GRID, GRID) of cells and their weights; the level is free."""
        centres = np.linspace(-1, 1, 2 * GRID + 1)[1::2]
        terms = basis(*np.meshgrid(centres, centres, indexing="ij")).reshape(TERMS, -1)
        w, v = weights.ravel(), values.ravel()
        total = w.sum()
        if not total:
            return cls(np.zeros((TERMS, TERMS)), np.zeros(TERMS))
        terms = terms - (terms @ w / total)[:, None]
        return cls((terms * w) @ terms.T, (terms * w) @ (v - v @ w / total))


def equations(plane: Array, sign: int) -> tuple[Equations, Equations]:
    """Return the equations of the light (log contrast of the foreground) and of the background of one plane."""
    plane = binned(plane)
    inside, outside = foreground(plane, sign)
    background = np.median(plane[outside])
    contrast = sign * (plane - background)
    noise = 1.4826 * np.median(np.abs(contrast[outside]))
    inside &= contrast > max(noise, 1e-9)
    rows, columns = (np.arange(n) * GRID // n for n in plane.shape)
    cells = (rows[:, None] * GRID + columns[None]).ravel()
    light = _means(np.log(np.where(inside, contrast, 1)), inside, cells)
    return Equations.of(*light), Equations.of(*_means(plane - background, outside, cells))


def _means(values: Array, mask: Array, cells: Array) -> tuple[Array, Array]:
    """Return the mean and the number of the masked values in each cell, both (GRID, GRID)."""
    count = np.bincount(cells, mask.ravel(), GRID**2)
    total = np.bincount(cells, (values * mask).ravel(), GRID**2)
    means = np.divide(total, count, out=np.zeros(GRID**2), where=count > 0)
    return means.reshape(GRID, GRID), count.reshape(GRID, GRID)


def fit(images: Sequence[Equations], group: Sequence[object]) -> tuple[Array, Array]:
    """Fit the coefficients (5,) to all images, and their covariance (5, 5), robust to what images of a group share.

    The covariance is cluster-robust (Liang and Zeger 1986).
    """
    inverse = np.linalg.pinv(sum((e.matrix for e in images), np.zeros((TERMS, TERMS))))
    beta = inverse @ sum((e.right for e in images), np.zeros(TERMS))
    scores: dict[object, Array] = {}
    single = len(set(group)) == 1  # then only the spread over images tells the uncertainty
    for e, g in zip(images, range(len(images)) if single else group, strict=True):
        scores[g] = scores.get(g, np.zeros(TERMS)) + e.right - e.matrix @ beta
    stacked = np.stack(list(scores.values()))
    few = len(scores) / max(len(scores) - 1, 1) * widening(len(scores) - 1)
    return beta, few * inverse @ stacked.T @ stacked @ inverse


def surface(coefficients: Array, shape: tuple[int, int], camera: tuple[int, int], origin: tuple[int, int]) -> Array:
    """Return the sum of `basis` with weights `coefficients` (5,) over a window of the camera, float32 (H, W).

    `shape` is that of the window and `camera` that of the whole image, both height and width in pixels; `origin` is
    the row and column of the window's first pixel in the whole image.
    """
    y, x = (
        (2 * (o + np.arange(n, dtype=np.float32)) + 1) / whole - 1
        for o, n, whole in zip(origin, shape, camera, strict=True)
    )
    a, b, c, d, e = coefficients.astype(np.float32)
    down, across = a * y + c * (3 * y**2 - 1) / 2, b * x + d * (3 * x**2 - 1) / 2
    both: Array = down[:, None] + across[None] + e * y[:, None] * x[None]
    return both


def widening(freedom: float) -> float:
    """Return the factor on a variance estimated with few degrees of freedom, so that `SURE` standard errors mean the
    same confidence as with many (Student's t).
    """
    return float((t.ppf(norm.cdf(SURE), max(freedom, 1)) / SURE) ** 2)


def certain(difference: Array, covariance: Array) -> Array:
    """Shrink a difference (k,) as a whole: a doubtful one to zero, a clear one hardly.

    The factor is the non-negative garrote (Breiman 1995), 1 - (DOUBT / distance)^2, of its distance from zero in
    standard errors, which is about 1 by chance alone. Too strong a correction does more harm than too weak a one, above
    all where a dark batch is made brighter.
    """
    squared = float(abs(difference @ np.linalg.pinv(covariance) @ difference) / len(difference))
    return difference * max(1 - DOUBT**2 / squared, 0.0) if squared else difference
