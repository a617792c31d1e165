"""The networks of the first GAN: fully connected, for images of any size and number of channels."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn


def hidden(in_features: int, width: int, depth: int, activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """Return `depth` fully connected layers of `width` units, each followed by an activation."""
    features = [in_features] + [width] * depth
    return [x for i, o in pairwise(features) for x in (nn.Linear(i, o), activation())]


class MLPGenerator(nn.Module):
    """A generator from noise (N, in_channels, 1, 1) to images (N, out_channels, size, size) in [-1, 1].

    Args:
        in_channels: length of the noise.
        out_channels: channels of the images.
        size: side of the images in pixels.
        width: units in each hidden layer.
        depth: number of hidden layers, 2 in the paper.
    """

    multiple = 1

    def __init__(self, in_channels: int, out_channels: int, size: int, width: int = 1200, depth: int = 2) -> None:
        super().__init__()
        self.shape = (out_channels, size, size)
        self.layers = nn.Sequential(
            *hidden(in_channels, width, depth, nn.ReLU), nn.Linear(width, out_channels * size * size), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(z.flatten(1))
        return x.reshape(-1, *self.shape)


class MLPDiscriminator(nn.Module):
    """A discriminator from images (N, in_channels, size, size) to logits (N, outputs).

    LeakyReLU replaces the paper's maxout and dropout, which would be noise to gradient penalties.
    """

    def __init__(self, in_channels: int, size: int, width: int = 1200, depth: int = 2, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *hidden(in_channels * size * size, width, depth, lambda: nn.LeakyReLU(0.2)), nn.Linear(width, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x.flatten(1))
        return logits
