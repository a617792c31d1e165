"""The networks of LAPGAN (Denton et al. 2015): one generator for each level of a Laplacian pyramid, and their chain."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks.layers import Conv2d


def shrink(x: Tensor) -> Tensor:
    """Halve the sides of images (N, C, H, W), by the mean of 2x2 pixels."""
    return F.avg_pool2d(x, 2)


def enlarge(x: Tensor) -> Tensor:
    """Double the sides of images (N, C, H, W), by linear interpolation."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def laplacian(x: Tensor, levels: int) -> list[tuple[Tensor, Tensor | None]]:
    """Return the images of all levels from coarse to fine, each with the coarser one enlarged (None for the first)."""
    images = [x]
    for _ in range(levels - 1):
        images.append(shrink(images[-1]))
    coarsest, *_ = images = images[::-1]
    return [(coarsest, None), *((fine, enlarge(coarse)) for coarse, fine in pairwise(images))]


def generate(g: nn.Module, z: Tensor, enlarged: Tensor | None) -> Tensor:
    """Return images from noise alone, or enlarged ones with details from noise."""
    image: Tensor = g(z) if enlarged is None else enlarged + g(z, enlarged)
    return image


class DetailGenerator(nn.Module):
    """A generator from noise (N, H * W) and enlarged images (N, C, H, W) to the details that these lack, (N, C, H, W).

    The noise is one more channel of the images.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv2d(channels + 1, width, 7, padding=3), nn.ReLU(), Conv2d(width, width, 7, padding=3), nn.ReLU(),
            Conv2d(width, channels, 5, padding=2),
        )  # fmt: skip

    def forward(self, z: Tensor, enlarged: Tensor) -> Tensor:
        details: Tensor = self.layers(torch.cat([enlarged, z.reshape(-1, 1, *enlarged.shape[2:])], 1))
        return details


class DetailDiscriminator(nn.Module):
    """A discriminator from images (N, C, size, size) of an even size to logits (N, 1), with a stride of 2 only once."""

    def __init__(self, channels: int, size: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv2d(channels, width, 5, padding=2), nn.LeakyReLU(0.2),
            Conv2d(width, width, 5, stride=2, padding=2), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(width * (size // 2) ** 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class Pyramid(nn.Module):
    """A generator from the noise of all levels, (N, sum of `lengths`), to images: the coarsest, enlarged and detailed.

    Args:
        levels: a generator from noise alone, then those of details, from coarse to fine.
        lengths: of the noise of each level.
    """

    multiple = 1
    levels: nn.ModuleList
    lengths: list[int]

    def __init__(self, levels: Sequence[nn.Module], lengths: Sequence[int]) -> None:
        super().__init__()
        self.levels, self.lengths = nn.ModuleList(levels), list(lengths)

    def forward(self, z: Tensor) -> Tensor:
        first, *finer = zip(self.levels, torch.split(z, self.lengths, 1), strict=True)
        x = generate(*first, None)
        for g, noise in finer:
            x = generate(g, noise, enlarge(x))
        return x
