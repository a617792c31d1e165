"""The networks that StackGAN adds (Zhang et al. 2017): a code drawn around a class, and small images made large."""

import torch
from torch import Tensor, nn

from img2img.networks.conditional import ClassTable
from img2img.networks.layers import Conv2d
from img2img.networks.norms import RunningBatchNorm


class Augmentation(nn.Module):
    """Conditioning augmentation: c = mu(y) + sigma(y) e, for a condition y and normal noise e (N, length).

    Args:
        classes: number of classes, where y is a label (N,); length of the vector, where y is one (N, classes).
        length: of c.
        vectors: whether y is a vector.
    """

    def __init__(self, classes: int, length: int, vectors: bool = False) -> None:
        super().__init__()
        self.table = nn.Linear(classes, 2 * length) if vectors else ClassTable(classes, 2 * length)

    def moments(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, (N, length) each."""
        mu, log_variance = self.table(label).chunk(2, 1)
        return mu, log_variance

    def forward(self, label: Tensor, e: Tensor) -> Tensor:
        mu, log_variance = self.moments(label)
        return mu + (log_variance / 2).exp() * e


class FirstStage(nn.Module):
    """Small images (N, C, size, size) from noise (N, latent + length), the second part of which augments the class.

    Args:
        g: a generator that takes noise of latent + length.
        code: what makes the condition a code.
        length: of the code.
    """

    multiple = 1

    def __init__(self, g: nn.Module, code: Augmentation, length: int) -> None:
        super().__init__()
        self.g, self.code, self.length = g, code, length

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        x: Tensor = self.g(torch.cat([z[:, : -self.length], self.code(label, z[:, -self.length :])], 1))
        return x


class SecondStage(nn.Module):
    """Images (N, C, 2H, 2W) from small ones (N, C, H, W) and a class, with noise e (N, length) that augments it.

    Args:
        channels: of the images.
        code: what makes the condition a code.
        length: of the code.
        width: channels of the largest map; inner ones have twice as many.
        blocks: number of residual blocks.
    """

    multiple = 1

    def __init__(self, channels: int, code: Augmentation, length: int, width: int, blocks: int) -> None:
        super().__init__()
        w = 2 * width
        self.code, self.head = code, nn.Sequential(Conv2d(channels, w, 3, padding=1), nn.ReLU())
        self.join = _layer(w + length, w)
        self.blocks = nn.ModuleList(nn.Sequential(*_layer(w, w), *_layer(w, w)[:2]) for _ in range(blocks))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), *_layer(w, width))
        self.last = nn.Sequential(Conv2d(width, channels, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor, label: Tensor, e: Tensor) -> Tensor:
        code = self.code(label, e)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        y = self.join(torch.cat([self.head(x), code], 1))
        for block in self.blocks:
            y = torch.relu(y + block(y))
        out: Tensor = self.last(self.up(y))
        return out


def _layer(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(Conv2d(c_in, c_out, 3, padding=1, bias=False), RunningBatchNorm(c_out), nn.ReLU())


class Stacked(nn.Module):
    """Both stages: images from noise (N, latent + 2 * length) and the class."""

    multiple = 1

    def __init__(self, first: FirstStage, second: SecondStage) -> None:
        super().__init__()
        self.first, self.second, self.length = first, second, first.length

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        small = self.first(z[:, : -self.length], label)
        x: Tensor = self.second(small, label, z[:, -self.length :])
        return x
