"""The differences between batches and their uncertainty: a linear mixed model, and the shrinkage of what is in doubt.

Images of one group (a source, a well, a patient) resemble each other. A group with images in several batches shows
their difference directly; if every group lies in one batch, only the means over groups do, and they are uncertain. The
mixed model weighs both optimally (Laird and Ware 1982).
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

from img2img.data.picture import Array

RATIOS = np.concatenate([[0.0], np.logspace(-2, 3, 41)])  # variance between groups over variance within them
DOUBT = 1.5  # standard errors up to which a difference is not corrected
SURE = 3.0  # standard errors that should mean the same confidence, however few the degrees of freedom


def batch_levels(y: Array, batch: Array, group: Sequence[object], batches: int) -> tuple[Array, Array]:
    """Estimate the levels of the batches in y = level[batch] + random effect of the group + residual, by REML.

    Args:
        y: measurements of n images, (n, k); every column is a separate model.
        batch: numbers of their batches, (n,).
        group: their groups, n.
        batches: the number of batches; each has an image.

    Returns:
        The levels (batches, k), and their covariances (k, batches, batches).
    """
    n, columns = y.shape
    x = np.eye(batches)[batch]
    members = np.unique(np.asarray([str(g) for g in group]), return_inverse=True)[1]
    sizes = np.bincount(members)
    sum_x = np.zeros((len(sizes), batches))
    sum_y = np.zeros((len(sizes), columns))
    np.add.at(sum_x, members, x)
    np.add.at(sum_y, members, y)

    best = np.full(columns, np.inf)
    levels, covariances = np.zeros((batches, columns)), np.zeros((columns, batches, batches))
    # With one group per image, or a single group, the two variances cannot be told apart.
    for ratio in RATIOS if batches < len(sizes) < n else (0.0,):
        weight = ratio / (1 + ratio * sizes)  # (I + ratio 11')^-1 = I - weight 11' for each group
        information = x.T @ x - (sum_x * weight[:, None]).T @ sum_x
        inverse = np.linalg.pinv(information)
        beta = inverse @ (x.T @ y - (sum_x * weight[:, None]).T @ sum_y)
        rest = y - x @ beta
        sum_rest = sum_y - sum_x @ beta
        freedom = max(n - batches, 1)
        variance = ((rest**2).sum(0) - (weight[:, None] * sum_rest**2).sum(0)) / freedom
        deviance = (
            freedom * np.log(np.maximum(variance, 1e-300))
            + np.log1p(ratio * sizes).sum()
            + np.linalg.slogdet(information)[1]
        )
        better = deviance < best
        best = np.where(better, deviance, best)
        levels[:, better] = beta[:, better]
        covariances[better] = inverse * np.maximum(variance, 1e-300)[better, None, None]
    return levels, covariances


def freedom(batch: Array, group: Sequence[object], batches: int) -> int:
    """Return the degrees of freedom of the differences between batches; the arguments are those of `batch_levels`."""
    groups = len({str(g) for g in group})
    homes = len({(str(g), int(b)) for g, b in zip(group, batch, strict=True)})
    between = groups - batches if groups > batches else len(batch) - batches
    # Groups that span batches show differences within themselves; others contribute only by their number.
    return max(between, len(batch) - groups - batches + 1 if homes > groups else 0)


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
