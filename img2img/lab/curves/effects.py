"""The differences between batches, how sure they are, and how much of each is corrected.

Images of one group (a source, a well, a patient) resemble each other. A group with images in several batches shows
their difference directly; if every group lies in one batch, only the means over groups do, and they are uncertain. A
linear mixed model weighs both (Laird and Ware 1982). With few groups the spread between them is hardly known; its
posterior, under a half-Cauchy prior of its ratio to the spread within (Gelman 2006), says how hardly.

A difference is corrected by its posterior mean under the horseshoe prior (Carvalho, Polson and Scott 2010): one that
could be chance is reduced, a clear one hardly. The scale that the batches share is learned from all of them, as in
ComBat (Johnson, Li and Rabinovic 2007); a scale of its own lets one batch lie far from the others.
`benchmarks/equalize_designs.py` compares the risk with doing nothing and with plain scaling.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import chi2, norm

from img2img.data.picture import Array

ROOTS = np.concatenate([[0.0], np.logspace(-2, 1.5, 29)])  # standard deviation between groups over that within them
MIDDLES = (np.arange(9) + 0.5) / 9  # of nine equally probable intervals
CAUCHY = np.tan((np.arange(24) + 0.5) / 24 * np.pi / 2)  # equally probable values of the half-Cauchy distribution
EXPECTED = 2.0  # deviation of a batch that is expected, over the standard deviation of the images within a batch
MAD_TO_SD = 1.4826  # of a normal distribution
LEAST = 1e-6  # standard deviation below which measurements count as equal
OUTLYING = 3.5  # standard deviations from the median of its batch; an image beyond counts as one there


@dataclass(frozen=True)
class Levels:
    """The levels of B batches in k measurements.

    Attributes:
        values: (B, k).
        covariance: of the values, (k, B, B); the geometric mean of what is possible.
        spread: equally probable multiples of that covariance, (k, len(MIDDLES)).
        within: standard deviation of the images of a batch, (k,).
    """

    values: Array
    covariance: Array
    spread: Array
    within: Array


@dataclass(frozen=True)
class Moves:
    """The way from B batches to the target in k measurements.

    Attributes:
        found: the target's level minus that of each batch, (B, k).
        error: its standard error, (B, k): 1.645 of it to both sides hold the truth with 90 % probability.
        applied: the part of it that is corrected, (B, k).
        left: standard deviation of what may be left after the correction, (B, k).
    """

    found: Array
    error: Array
    applied: Array
    left: Array

    def of_batch(self, number: int) -> "Moves":
        """Return the way of one batch, as the only one."""
        return Moves(*(getattr(self, f.name)[number : number + 1] for f in fields(self)))


def batch_levels(y: Array, batch: Array, group: Sequence[object], batches: int) -> Levels:
    """Estimate the levels of the batches in y = level[batch] + random effect of the group + residual.

    Args:
        y: measurements of n images, (n, k); every column is a separate model.
        batch: numbers of their batches, (n,).
        group: their groups, n.
        batches: the number of batches; each has an image.
    """
    n = len(y)
    y = _winsorized(y, batch, batches)
    x = np.eye(batches)[batch]
    members = np.unique(np.asarray([str(g) for g in group]), return_inverse=True)[1]
    sizes = np.bincount(members)
    sum_x, sum_y = np.zeros((len(sizes), batches)), np.zeros((len(sizes), y.shape[1]))
    np.add.at(sum_x, members, x)
    np.add.at(sum_y, members, y)

    freedom = max(n - batches, 1)
    roots = ROOTS if len(sizes) < n else ROOTS[:1]  # with one image of each group there is one spread
    inverses, means, squares, likelihoods = [], [], [], []
    for root in roots:
        weight = root**2 / (1 + root**2 * sizes)  # (I + r^2 11')^-1 = I - weight 11' for each group
        information = x.T @ x - (sum_x * weight[:, None]).T @ sum_x
        inverse = np.linalg.pinv(information)
        mean = inverse @ (x.T @ y - (sum_x * weight[:, None]).T @ sum_y)
        square = ((y - x @ mean) ** 2).sum(0) - (weight[:, None] * (sum_y - sum_x @ mean) ** 2).sum(0)
        square = np.maximum(square, freedom * LEAST**2)
        penalty = np.log1p(root**2 * sizes).sum() + np.linalg.slogdet(information)[1]
        likelihoods.append(-(penalty + freedom * np.log(square)) / 2)  # restricted; the variance is integrated out
        inverses.append(inverse)
        means.append(mean)
        squares.append(square)
    share = np.exp(np.array(likelihoods) - np.max(likelihoods, 0)) * _prior(roots)[:, None]
    share /= share.sum(0)  # of each root in the posterior, (roots, k)

    values = np.einsum("rk,rbk->bk", share, means)
    within = np.sqrt(((y - values[batch]) ** 2).mean(0).clip(LEAST**2))
    size = np.trace(np.array(inverses), axis1=1, axis2=2) / batches
    variances = np.array(squares)[:, :, None] / chi2.ppf(1 - MIDDLES, freedom) * size[:, None, None]
    possible = np.array([_quantiles(v, s) for v, s in zip(variances.swapaxes(0, 1), share.T, strict=True)])
    typical = np.exp(np.log(possible).mean(1, keepdims=True))
    shape = np.einsum("rk,rab->kab", share / size[:, None], np.array(inverses))
    return Levels(values, shape * typical[:, :, None], possible / typical, within)


def _winsorized(y: Array, batch: Array, batches: int) -> Array:
    """Return the measurements with outliers, of empty or overgrown images or debris, moved to `OUTLYING`."""
    middle = np.stack([np.median(y[batch == b], 0) for b in range(batches)])[batch]
    limit = OUTLYING * MAD_TO_SD * np.median(np.abs(y - middle), 0)
    return np.where(limit > 0, np.clip(y, middle - limit, middle + limit), y)


def _prior(roots: Array) -> Array:
    """Return the half-Cauchy probabilities around values that rise by one factor from the second on."""
    if len(roots) == 1:
        return np.ones(1)
    return np.concatenate([[roots[1]], roots[1:] / (1 + roots[1:] ** 2) * np.log(roots[2] / roots[1])])


def _widest(spread: Array) -> float:
    """Return the 95 % point of a normal distribution whose variance has equally probable values, over that of one."""
    grid = np.linspace(0, 40, 4001)
    return float(np.interp(0.95, norm.cdf(grid[:, None] / np.sqrt(spread)).mean(1), grid) / norm.ppf(0.95))


def _quantiles(values: Array, share: Array) -> Array:
    """Return the values at `MIDDLES` of a distribution: `share` (n,) of it in each row of `values` (n, m)."""
    order = np.argsort(values, None)
    weights = np.repeat(share / values.shape[1], values.shape[1])[order]
    rising: Array = np.exp(np.interp(MIDDLES, weights.cumsum() - weights / 2, np.log(values.ravel()[order])))
    return rising


def moves(levels: Levels, target: Array, most: float = np.inf) -> Moves:
    """Return the way from each batch to the target, a weighted mean of the batches with the weights `target` (B,).

    No deviation larger than `most` is expected beforehand.
    """
    expected = np.minimum(EXPECTED * levels.within, most)
    parts = zip(levels.values.T, levels.covariance, levels.spread, expected, strict=True)
    each = [_moves(*part, target) for part in parts]
    return Moves(*np.stack(each, 2))


def _moves(level: Array, covariance: Array, spread: Array, expected: float, target: Array) -> Array:
    """Return `Moves` of one measurement, (4, B), from its part of `Levels`."""
    count = len(level)
    centre, towards = np.eye(count) - 1 / count, target - np.eye(count)
    deviation, doubt = centre @ level, centre @ covariance @ centre.T
    noise = np.diag(doubt).clip(LEAST**2)[:, None, None, None] * spread  # (B, 1, 1, middles)
    scales = expected * np.outer(CAUCHY, CAUCHY)  # of a deviation: shared times its own
    signal = (scales**2)[:, :, None]  # (shared, own, 1)
    total = signal + noise  # (B, shared, own, middles)
    squared = deviation[:, None, None, None] ** 2
    logarithm = -(squared / total + np.log(total)) / 2
    density = np.exp(logarithm - logarithm.max((1, 2, 3), keepdims=True))
    evidence = density.mean((2, 3)).clip(1e-300)  # (B, shared)
    mean = (density * signal / total).mean((2, 3)) / evidence * deviation[:, None]
    square = (density * (signal / total) * (signal / total * squared + noise)).mean((2, 3)) / evidence
    # The deviations from the mean are count - 1 independent ones.
    shared = np.log(evidence).sum(0) * (count - 1) / count
    posterior = np.exp(shared - shared.max())
    posterior /= posterior.sum()
    kept = mean @ posterior
    sure = np.sqrt((square @ posterior - kept**2).clip(0))
    correlation = doubt / np.sqrt(np.outer(np.diag(doubt), np.diag(doubt)).clip(LEAST**4))
    left = correlation * np.outer(sure, sure)
    error, rest = (np.sqrt(np.einsum("ba,ac,bc->b", towards, m, towards).clip(0)) for m in (covariance, left))
    error *= _widest(spread)
    return np.stack([towards @ level, error, towards @ kept, rest])
