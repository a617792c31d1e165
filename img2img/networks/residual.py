"""Residual networks with class-conditional batch norm, self-attention and a projection of the class (Miyato and Koyama
2018; Zhang et al. 2019; Brock et al. 2019).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.errors import ConfigError
from img2img.networks.conditional import ClassTable
from img2img.networks.layers import Conv2d
from img2img.networks.norms import RunningBatchNorm

SIZES = (8, 16, 32, 64, 128, 256)
MAX_FACTOR = 16  # of `width`
BOTTLENECK = 4  # channels of a block for one of its inner maps, in BigGAN-deep
Table = Callable[[int], nn.Module]  # channels -> a map from the condition to so many numbers


def widths(size: int, width: int) -> list[int]:
    """Return the channels of the maps from the largest, of the whole image, down to 8x8.

    Raises:
        ConfigError: if the networks do not support the size.
    """
    if size not in SIZES:
        raise ConfigError(f"residual networks do not support --size {size}; use one of {', '.join(map(str, SIZES))}.")
    return [width * min(2**k, MAX_FACTOR) for k in range((size // 4).bit_length() - 1)]


class ConditionalBatchNorm(RunningBatchNorm):
    """Batch norm whose gain and shift depend on a condition c: (1 + gain(c)) x + shift(c)  (de Vries et al. 2017)."""

    def __init__(self, channels: int, table: Table) -> None:
        super().__init__(channels)
        del self.weight, self.bias  # gain 1 and shift 0
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.gain, self.shift = table(channels), table(channels)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]
        gain, shift = (y[:, :, None, None] for y in (self.gain(c), self.shift(c)))
        return torch.addcmul(shift, super().forward(x), 1 + gain)


class Attention(nn.Module):
    """o = x + gamma W_o(sum_i softmax_i(theta(x)_j phi(x)_i) h(x)_i): Zhang et al. 2019, as in the authors' code, whose
    phi and h are pooled. gamma is 0 at first.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        eighth, half = max(channels // 8, 1), max(channels // 2, 1)
        self.theta, self.phi = (Conv2d(channels, eighth, 1, bias=False) for _ in range(2))
        self.h, self.out = Conv2d(channels, half, 1, bias=False), Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def weights(self, x: Tensor) -> Tensor:
        """Return how much each of HW places takes from each of HW / 4, (N, HW, HW / 4); rows sum to 1."""
        theta, phi = self.theta(x).flatten(2), F.max_pool2d(self.phi(x), 2).flatten(2)
        return torch.softmax(theta.transpose(1, 2) @ phi, -1)

    def forward(self, x: Tensor) -> Tensor:
        taken = F.max_pool2d(self.h(x), 2).flatten(2) @ self.weights(x).transpose(1, 2)  # (N, C / 2, HW)
        out: Tensor = self.out(taken.reshape(x.shape[0], -1, *x.shape[2:]))
        return x + self.gamma * out


class UpBlock(nn.Module):
    """A residual block that doubles height and width, under a condition."""

    def __init__(self, c_in: int, c_out: int, table: Table) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalBatchNorm(c_in, table), ConditionalBatchNorm(c_out, table)
        self.conv1, self.conv2 = Conv2d(c_in, c_out, 3, padding=1), Conv2d(c_out, c_out, 3, padding=1)
        self.skip = Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y = self.conv1(_double(F.relu(self.norm1(x, c))))
        out: Tensor = self.conv2(F.relu(self.norm2(y, c))) + self.skip(_double(x))
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


class DownBlock(nn.Module):
    """A residual block without norm that halves height and width, unless it is the last; the first has no ReLU before
    its convolutions.
    """

    def __init__(self, c_in: int, c_out: int, first: bool = False, last: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv2d(c_in, c_out, 3, padding=1), Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Identity() if last else Conv2d(c_in, c_out, 1)
        self.before: nn.Module = nn.Identity() if first else nn.ReLU()
        self.pool: nn.Module = nn.Identity() if last else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(self.before(x))))
        out: Tensor = self.pool(y + self.skip(x))
        return out


class DeepUpBlock(nn.Module):
    """A block of BigGAN-deep's G: four convolutions around a bottleneck, under a condition. The shortcut has no
    convolution: it drops channels (Brock et al. 2019, appendix B).
    """

    def __init__(self, c_in: int, c_out: int, table: Table, up: bool) -> None:
        super().__init__()
        c, self.c_out, self.up = max(c_in // BOTTLENECK, 1), c_out, up
        self.norms = nn.ModuleList(ConditionalBatchNorm(channels, table) for channels in (c_in, c, c, c))
        self.convs = nn.ModuleList(_bottleneck(c_in, c, c_out))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y = x
        for k, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            y = F.relu(norm(y, c))
            y = conv(_double(y) if self.up and k == 1 else y)
        kept = x[:, : self.c_out]
        out: Tensor = y + (_double(kept) if self.up else kept)
        return out


class DeepDownBlock(nn.Module):
    """A block of BigGAN-deep's D, as in its G but without norm; its shortcut appends channels, from a convolution."""

    def __init__(self, c_in: int, c_out: int, down: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_bottleneck(c_in, max(c_out // BOTTLENECK, 1), c_out))
        self.more = Conv2d(c_in, c_out - c_in, 1) if c_out > c_in else None
        self.pool: nn.Module = nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = self.convs
        y = x
        for conv in convs:
            y = conv(F.relu(y))
        y, x = last(self.pool(F.relu(y))), self.pool(x)
        out: Tensor = y + (x if self.more is None else torch.cat([x, self.more(x)], 1))
        return out


def _bottleneck(c_in: int, c: int, c_out: int) -> list[nn.Module]:
    return [Conv2d(c_in, c, 1), *(Conv2d(c, c, 3, padding=1) for _ in range(2)), Conv2d(c, c_out, 1)]


class Chain(nn.Sequential):
    """Blocks under the same condition."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]
        for block in self:
            x = block(x, c)
        return x


class ResidualGenerator(nn.Module):
    """A generator from noise (N, length) and the class to images (N, out_channels, size, size) in [-1, 1].

    Args:
        length: of the noise.
        classes: number of classes.
        out_channels: channels of the images.
        size: side of the images in pixels, a power of two from 8 to 256.
        width: channels of the last map; they double with every halving of the size.
        attention: largest side of the map after which there is attention; 0 for none.
        embedding: length of a vector of the class that all norms share. With it, the noise is split into equal parts:
            one for the first layer, and one for each block, where it stands beside the vector (Brock et al. 2019).
            With 0, each norm has a gain and a shift for each class.
        deep: two blocks of BigGAN-deep for each size; the vector and all of the noise enter every layer.
    """

    multiple = 1

    def __init__(
        self, length: int, classes: int, out_channels: int, size: int, width: int, attention: int, embedding: int = 0,
        deep: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.deep, up = deep, widths(size, width)[::-1]
        self.parts = 1 + len(up) if embedding and not deep else 1
        if length % self.parts:
            raise ConfigError(f"--latent {length} is not divisible by {self.parts}, the parts for --size {size}.")
        part = length // self.parts
        self.embedding = ClassTable(classes, embedding) if embedding else nn.Identity()

        def table(channels: int) -> nn.Module:
            if embedding:
                return nn.Linear(embedding + part, channels, bias=False)
            return _zero(ClassTable(classes, channels))

        def block(a: int, b: int) -> nn.Module:
            if deep:
                return Chain(DeepUpBlock(a, a, table, up=False), DeepUpBlock(a, b, table, up=True))
            return UpBlock(a, b, table)

        self.first = nn.Linear(part + embedding * deep, up[0] * 16)
        self.blocks = nn.ModuleList(block(a, b) for a, b in pairwise([up[0], *up]))
        place = attended(size, attention)
        self.attention = nn.ModuleList(_attention(c, 8 * 2**k == place) for k, c in enumerate(up))
        self.norm, self.last = RunningBatchNorm(up[-1]), Conv2d(up[-1], out_channels, 3, padding=1)
        orthogonal_init(self)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        first, *others = z.flatten(1).chunk(self.parts, 1)
        c = self.embedding(label)
        if self.deep:
            c = first = torch.cat([c, first], 1)
        x = self.first(first).reshape(z.shape[0], -1, 4, 4)
        for k, (block, attention) in enumerate(zip(self.blocks, self.attention, strict=True)):
            x = attention(block(x, torch.cat([c, others[k]], 1) if others else c))
        return torch.tanh(self.last(F.relu(self.norm(x))))


class ProjectionDiscriminator(nn.Module):
    """Logits (N, 1) of images (N, in_channels, size, size) under a class y: w phi(x) + e_y phi(x) (Miyato and Koyama
    2018, eq. 3), with phi the sum of the last map over its pixels.

    Args:
        in_channels: channels of the images.
        classes: number of classes.
        size: side of the images in pixels.
        width: channels of the first map; they double with every halving of the size.
        attention: largest side of the map after which there is attention; 0 for none.
        deep: two blocks of BigGAN-deep for each size.
    """

    def __init__(
        self, in_channels: int, classes: int, size: int, width: int, attention: int, deep: bool = False
    ) -> None:
        super().__init__()
        down = widths(size, width)
        place = attended(size, attention)
        stack: list[nn.Module] = [Conv2d(in_channels, down[0], 3, padding=1)] if deep else []
        for k, (a, b) in enumerate(pairwise([*down, down[-1]] if deep else [in_channels, *down])):
            if deep:
                stack += [DeepDownBlock(a, b, down=True), DeepDownBlock(b, b, down=False)]
            else:
                stack.append(DownBlock(a, b, first=k == 0))
            stack.append(_attention(b, size // 2 ** (k + 1) == place))
        last = [] if deep else [DownBlock(down[-1], down[-1], last=True)]
        self.phi = nn.Sequential(*stack, *last, nn.ReLU())
        self.w, self.e, self.classes = nn.Linear(down[-1], 1), nn.Linear(classes, down[-1], bias=False), classes
        orthogonal_init(self)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        phi = self.phi(x).sum((2, 3))
        e = self.e(F.one_hot(label, self.classes).to(phi))
        logits: Tensor = self.w(phi) + (e * phi).sum(1, keepdim=True)
        return logits


def attended(size: int, most: int) -> int:
    """Return the side of the map that has attention: the largest of at most `most` and half the image; 0 for none."""
    return next((side for side in SIZES[::-1] if side <= min(most, size // 2)), 0)


def _attention(channels: int, wanted: bool) -> nn.Module:
    return Attention(channels) if wanted else nn.Identity()


def _zero(layer: nn.Embedding) -> nn.Embedding:
    nn.init.zeros_(layer.weight)
    return layer


def orthogonal_init(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers as orthogonal matrices (Saxe et al. 2014); biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
