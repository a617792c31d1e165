"""Shift of brightness and contrast of a set of images, for any number of channels."""

import torch
from torch import Tensor


class Moments:
    """Accumulates count, sums and sums of squares of the pixels of each channel, scaled to [0, 1], in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, images: Tensor) -> None:
        """Add images (N, C, H, W) in [-1, 1]."""
        n = images.numel() // images.shape[1]
        x = images.sum((0, 2, 3), dtype=torch.float64).cpu()
        square = torch.linalg.vector_norm(images, dim=(0, 2, 3), dtype=torch.float64).square().cpu()
        self.count += n
        self.sums += torch.stack([(x + n) / 2, (square + 2 * x + n) / 4])  # of (x + 1) / 2 and of its square

    def mean_and_std(self) -> Tensor:
        """Return mean and standard deviation of each channel, (2, C)."""
        mean, square = self.sums / self.count
        return torch.stack([mean, (square - mean.square()).clamp_min(0).sqrt()])


def drift(real: Moments, fake: Moments) -> float:
    """Return the mean over channels of sqrt((μ_real - μ_fake)² + (σ_real - σ_fake)²), a share of the range in [0, 1].

    μ and σ are the mean and standard deviation of all pixels of a channel of the set. For one channel this is the
    Fréchet distance (not squared) of its values taken as Gaussian: FID, computed on intensities instead of features.
    """
    return float((real.mean_and_std() - fake.mean_and_std()).norm(dim=0).mean())
