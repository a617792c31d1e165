"""Fidelity and variety, measured separately on features (N, D): each image has a ball out to its k-th neighbour.

Precision and recall: Kynkäänniemi et al. 2019. Density and coverage: Naeem et al. 2020, who showed that an outlier with
its large ball distorts the former. B(x) below is the closed ball around x, as in the former paper.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from img2img.errors import ConfigError, DataError
from img2img.metrics.score import Score

DISTANCES_AT_ONCE = 2**23


def precision(real: Tensor, fake: Tensor, neighbours: int = 5) -> Score:
    """Return the share of generated images inside the ball of any real one: do they look like real images?"""
    inside = _inside("precision", fake, real, neighbours)
    return Score(float(torch.cat([x.any(1) for x in inside]).double().mean()))


def recall(real: Tensor, fake: Tensor, neighbours: int = 5) -> Score:
    """Return the share of real images inside the ball of any generated one: are all kinds of real images generated?"""
    inside = _inside("recall", real, fake, neighbours)
    return Score(float(torch.cat([x.any(1) for x in inside]).double().mean()))


def density(real: Tensor, fake: Tensor, neighbours: int = 5) -> Score:
    """Return the number of balls of real images that hold a generated one, averaged over those and divided by k."""
    inside = _inside("density", fake, real, neighbours)
    return Score(float(torch.cat([x.sum(1) for x in inside]).double().mean() / neighbours))


def coverage(real: Tensor, fake: Tensor, neighbours: int = 5) -> Score:
    """Return the share of real images whose ball holds a generated one."""
    inside = _inside("coverage", fake, real, neighbours)
    return Score(float(torch.stack([x.any(0) for x in inside]).any(0).double().mean()))


def _inside(name: str, points: Tensor, centres: Tensor, k: int) -> Iterator[Tensor]:
    """Yield whether each point lies in B(centre), (points, centres), a few rows at a time."""
    if k < 1:
        raise ConfigError(f"--neighbours must be at least 1, not {k}.")
    if len(centres) <= k or len(points) == 0:
        n = min(len(centres), len(points))
        raise DataError(f"{name} needs more than --neighbours {k} images of each kind, not {n}.")
    centres = centres.double()
    # An image is its own nearest neighbour: the k-th other one is the (k + 1)-th.
    radii = torch.cat([d.kthvalue(k + 1, dim=1).values for d in _distances(centres, centres)])
    return (d <= radii for d in _distances(points.double(), centres))


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    return (torch.cdist(rows, y) for rows in torch.split(x, max(1, DISTANCES_AT_ONCE // len(y))))
