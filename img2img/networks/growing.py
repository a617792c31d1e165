"""Networks with a level for each side from 4x4 to the image's, which they begin to use one after another (Karras et al.
2018).
"""

from itertools import pairwise
from math import sqrt
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from img2img.errors import ConfigError
from img2img.networks.layers import Conv2d

SIZES = tuple(2**k for k in range(2, 11))
LEVEL = 10**6  # growth is counted in millionths of a level: whole numbers, which no moving average changes
GROUP = 4  # images over which a deviation is taken, as in the authors' code
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def widths(size: int, area: int, most: int) -> list[int]:
    """Return the channels of the maps from 4x4 to the whole image: `area` / side, but at most `most`.

    Raises:
        ConfigError: if the networks do not support the size.
    """
    if size not in SIZES:
        raise ConfigError(f"growing networks do not support --size {size}; use one of {', '.join(map(str, SIZES))}.")
    return [max(1, min(area // side, most)) for side in SIZES if side <= size]


class Scaled(nn.Module):
    """A weight c w, of which w is trained."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = c

    def forward(self, w: Tensor) -> Tensor:
        return self.c * w


def equalized(layer: Layer, gain: float = sqrt(2)) -> Layer:
    """Return a layer whose weights, drawn from N(0, 1), are scaled by He's constant gain / sqrt(fan in) at run time, so
    that Adam changes all layers at the same relative rate (section 4.1).
    """
    if layer.bias is not None and not layer.weight.is_meta:
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    register_parametrization(layer, "weight", Scaled(gain / sqrt(layer.weight[0].numel())))
    return layer


class PixelNorm(nn.Module):
    """x / sqrt(mean of x^2 over the channels + 1e-8), at each place of (N, C, ...) (section 4.2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-8)


class MinibatchDeviation(nn.Module):
    """One more channel, which holds the standard deviation over a group of images, averaged over channels and places
    (section 3).
    """

    def forward(self, x: Tensor) -> Tensor:
        n = next(n for n in range(GROUP, 0, -1) if len(x) % n == 0)
        deviation = (x.view(n, -1, *x.shape[1:]).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        return torch.cat([x, deviation.repeat(n)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


class Growing(nn.Module):
    """A network that has grown to a level, of images with 4 * 2^level pixels a side, or to a share of the next.

    Attributes:
        growth: level + alpha, in millionths. Alpha is the share that the next level already has in the result.
    """

    growth = 0

    @property
    def stage(self) -> tuple[int, float]:
        """The level, and alpha in [0, 1)."""
        level, part = divmod(self.growth, LEVEL)
        return level, part / LEVEL

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.growth)

    def set_extra_state(self, state: Tensor) -> None:
        self.growth = int(state)


class GrowingGenerator(Growing):
    """A generator from noise (N, length) to images (N, out_channels, size, size), which are not bounded.

    In training they are as small as its level.

    Args:
        length: of the noise, which is normalised first.
        out_channels: channels of the images.
        size: side of the images in pixels, a power of two from 4 to 1024.
        area: channels of a map times its side.
        most: channels of a map at most.
    """

    multiple = 1

    def __init__(self, length: int, out_channels: int, size: int, area: int, most: int) -> None:
        super().__init__()
        self.size = size
        up = widths(size, area, most)
        self.width = up[0]
        self.first = nn.Sequential(PixelNorm(), equalized(nn.Linear(length, up[0] * 16), sqrt(2) / 4))
        blocks = [nn.Sequential(nn.LeakyReLU(0.2), PixelNorm(), *_conv(up[0], up[0]), PixelNorm())]
        for a, b in pairwise(up):
            convs = *_conv(a, b), PixelNorm(), *_conv(b, b), PixelNorm()
            blocks.append(nn.Sequential(nn.Upsample(scale_factor=2), *convs))
        self.blocks = nn.ModuleList(blocks)
        self.rgb = nn.ModuleList(equalized(Conv2d(c, out_channels, 1), 1) for c in up)

    def faded(self, x: Tensor) -> Tensor:
        """Return real images (N, C, size, size) at the size of generated ones, with as much detail."""
        level, alpha = self.stage
        x = F.avg_pool2d(x, self.size // SIZES[level + (alpha > 0)])
        return fade(_double(_halve(x)), x, alpha) if alpha else x

    def forward(self, z: Tensor) -> Tensor:
        level, alpha = self.stage
        x = self.first(z.flatten(1)).reshape(-1, self.width, 4, 4)
        for block in self.blocks[: level + 1]:
            x = block(x)
        image: Tensor = self.rgb[level](x)
        if alpha:
            image = fade(_double(image), self.rgb[level + 1](self.blocks[level + 1](x)), alpha)
        factor = 1 if self.training else self.size // SIZES[level + (alpha > 0)]
        return image if factor == 1 else F.interpolate(image, scale_factor=factor)


class GrowingDiscriminator(Growing):
    """A discriminator from images as small as its level to logits (N, 1), which mirrors the generator.

    Args:
        in_channels: channels of the images.
        size: side of the images in pixels.
        area: channels of a map times its side.
        most: channels of a map at most.
    """

    def __init__(self, in_channels: int, size: int, area: int, most: int) -> None:
        super().__init__()
        down = widths(size, area, most)
        c = down[0]
        dense = equalized(nn.Linear(c * 16, c)), nn.LeakyReLU(0.2), equalized(nn.Linear(c, 1), 1)
        blocks = [nn.Sequential(MinibatchDeviation(), *_conv(c + 1, c), nn.Flatten(), *dense)]
        blocks += [nn.Sequential(*_conv(b, b), *_conv(b, a), nn.AvgPool2d(2)) for a, b in pairwise(down)]
        self.blocks = nn.ModuleList(blocks)
        self.rgb = nn.ModuleList(nn.Sequential(*_conv(in_channels, c, 1)) for c in down)

    def forward(self, x: Tensor) -> Tensor:
        level, alpha = self.stage
        y: Tensor = self.rgb[level](_halve(x) if alpha else x)
        if alpha:
            y = fade(y, self.blocks[level + 1](self.rgb[level + 1](x)), alpha)
        for block in self.blocks[level::-1]:
            y = block(y)
        return y


def fade(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) a + alpha b, of a's type; autocast may have given them different ones."""
    return torch.lerp(a, b.to(a.dtype), alpha)


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


def _conv(c_in: int, c_out: int, kernel: int = 3) -> tuple[nn.Module, nn.Module]:
    return equalized(Conv2d(c_in, c_out, kernel, padding=kernel // 2)), nn.LeakyReLU(0.2)
