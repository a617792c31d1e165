"""Benchmarks of mode collapse with known modes: mixtures of Gaussians on a line or in the plane, and stacked digits.

Points are images of one pixel with a channel per coordinate, e.g. (n, 1, 1, 2) in the plane, so that any method from
noise can learn them:

    data = img2img.modes.ring()
    model = img2img.train("wgan_gp", data=data.sample(50_000), network="mlp", width=128, d_width=128, size=1, ...)
    print(data.score(model(2_500)))
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from img2img.data.picture import Array

NEAR = 3.0  # standard deviations from its mode within which a sample is of high quality


class Scores(NamedTuple):
    """Coverage of modes by samples.

    Attributes:
        modes: number of modes with a sample of high quality.
        of: number of all modes.
        high_quality: share of the samples that are of high quality, in [0, 1].
        kl: Kullback-Leibler divergence, in nats, of the distribution of samples over their nearest modes from the
            uniform one; 0 is uniform, log(of) is a single mode.
    """

    modes: int
    of: int
    high_quality: float
    kl: float


def covered(counts: Array, good: Array) -> Scores:
    """Return the scores for the number of samples of each mode, and of those of high quality, both (modes,)."""
    share = counts / max(counts.sum(), 1)
    present = share > 0
    kl = float((share[present] * np.log(share[present] * len(share))).sum()) if present.any() else float("nan")
    return Scores(int((good > 0).sum()), len(counts), float(good.sum() / max(counts.sum(), 1)), kl)


@dataclass(frozen=True)
class Mixture:
    """Equal, round Gaussians in d dimensions: on a line or in the plane.

    Attributes:
        centres: the means, (modes, d).
        std: the standard deviation of each in every direction.
    """

    centres: Array
    std: float

    def sample(self, n: int, seed: int = 0) -> Array:
        """Draw points (n, 1, 1, d), float32."""
        rng = np.random.default_rng(seed)
        which = rng.integers(len(self.centres), size=n)
        points = self.centres[which] + rng.normal(0, self.std, (n, self.centres.shape[1]))
        return points.astype(np.float32).reshape(n, 1, 1, -1)

    def density(self, points: Array) -> Array:
        """Return the probability density at points (n, ..., d), as (n,)."""
        bells = np.exp(-(self._distance(points) ** 2) / (2 * self.std**2))
        density: Array = bells.mean(1) / (2 * np.pi * self.std**2) ** (self.centres.shape[1] / 2)
        return density

    def score(self, points: Array) -> Scores:
        """Score how well points (n, ..., d) cover the modes.

        A point belongs to the nearest mode, and is of high quality within three standard deviations of it (Srivastava
        et al. 2017, VEEGAN).
        """
        distance = self._distance(points)
        nearest, good = distance.argmin(1), distance.min(1) <= NEAR * self.std
        modes = len(self.centres)
        return covered(np.bincount(nearest, minlength=modes), np.bincount(nearest[good], minlength=modes))

    def _distance(self, points: Array) -> Array:
        """Return the distance of each point from each mode, (n, modes)."""
        flat = np.asarray(points, np.float64).reshape(-1, self.centres.shape[1])
        distance: Array = np.linalg.norm(flat[:, None] - self.centres[None], axis=2)
        return distance


def line(modes: int = 1, spacing: float = 1.0, std: float = 0.1) -> Mixture:
    """Return Gaussians on a line, `spacing` apart and around 0: the one-dimensional example of the GAN paper."""
    return Mixture(spacing * (np.arange(modes) - (modes - 1) / 2)[:, None], std)


def ring(modes: int = 8, radius: float = 1.0, std: float = 0.02) -> Mixture:
    """Return Gaussians on a circle."""
    angle = 2 * np.pi * np.arange(modes) / modes
    return Mixture(radius * np.stack([np.cos(angle), np.sin(angle)], 1), std)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> Mixture:
    """Return `side` times `side` Gaussians on a square lattice around 0."""
    line = spacing * (np.arange(side) - (side - 1) / 2)
    return Mixture(np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2), std)


def stacked(digits: Array, n: int, seed: int = 0) -> Array:
    """Stack three random digits as the colours of one image: 1,000 modes (Metz et al. 2017).

    Args:
        digits: grey images (m, H, W), such as MNIST's.
        n: number of images.
        seed: the seed of the choice of digits.

    Returns:
        Images (n, H, W, 3) of the type of the digits.
    """
    which = np.random.default_rng(seed).integers(len(digits), size=(n, 3))
    return np.ascontiguousarray(digits[which].transpose(0, 2, 3, 1))
