"""Trends of background and contrast along a plate: a plane through the wells of each batch.

A trend is corrected by its posterior mean, as the differences between batches are: under a half-Cauchy prior of its
scale, one that could be chance is reduced, and a clear one hardly.
"""

from collections.abc import Sequence

import numpy as np

from img2img.data.picture import Array
from img2img.lab.curves.effects import CAUCHY, EXPECTED, LEAST

FEWEST = 6  # wells of a batch from which a trend can be told


def with_few_wells(batch: Sequence[str], group: Sequence[str]) -> list[str]:
    """Return the batches with fewer than `FEWEST` wells."""
    wells = {name: {g for g, b in zip(group, batch, strict=True) if b == name} for name in sorted(set(batch))}
    return [name for name, of_batch in wells.items() if len(of_batch) < FEWEST]


def fit(y: Array, batch: Array, group: Sequence[str], count: int, wells: Array) -> Array:
    """Return what background and log contrast gain from the middle of the plate to its last row and last column.

    Args:
        y: background and log contrasts of n images, (n, C, 1 + K), NaN without foreground.
        batch: the batches of the images, numbered from 0, (n,).
        group: the wells of the images.
        count: number of batches.
        wells: row and column of each image's well, from -1 to 1, (n, 2).

    Returns:
        (count, C, 2, 2): of background and log contrast, along rows and columns; zeros where a batch has fewer than
        `FEWEST` wells with foreground.
    """
    values = np.stack([y[..., 0], y[..., 1:].mean(2)], 2)
    out = np.zeros((count, *values.shape[1:], 2))
    names = np.asarray(group)
    for b, c, j in np.ndindex(out.shape[:3]):
        used = (batch == b) & ~np.isnan(values[:, c, j])
        members, number = np.unique(names[used], return_inverse=True)
        if len(members) >= FEWEST:
            share = (number[:, None] == np.arange(len(members))) / np.bincount(number)
            out[b, c, j] = _plane(share.T @ wells[used], share.T @ values[used, c, j])
    return out


def _plane(places: Array, levels: Array) -> Array:
    """Return the posterior mean of the slopes (2,) of the levels (m,) of wells at `places` (m, 2)."""
    x = np.column_stack([np.ones(len(places)), places])
    inverse = np.linalg.pinv(x.T @ x)  # wells in one row or column show no trend across it
    plane = inverse @ x.T @ levels
    freedom = len(x) - int(np.linalg.matrix_rank(x))
    variance = max(((levels - x @ plane) ** 2).sum() / freedom, LEAST**2)
    doubt = variance * freedom / (freedom - 2) * inverse[1:, 1:]  # of Student's t
    likelihoods, means = [], []
    for scale in EXPECTED * np.sqrt(variance) * CAUCHY:
        total = doubt + scale**2 * np.eye(2)
        part = np.linalg.solve(total, plane[1:])
        likelihoods.append(-(plane[1:] @ part + np.linalg.slogdet(total)[1]) / 2)
        means.append(scale**2 * part)
    share = np.exp(np.array(likelihoods) - np.max(likelihoods))
    slopes: Array = share @ np.array(means) / share.sum()
    return slopes
