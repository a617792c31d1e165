"""Networks conditioned on a class label by concatenation: to the noise, and as planes to the image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelledGenerator(nn.Module):
    """A generator from noise, conditioned by concatenating the one-hot label (N, classes) to the noise (N, length).

    Args:
        g: a generator that takes noise of length + classes.
        classes: number of classes.
    """

    multiple = 1

    def __init__(self, g: nn.Module, classes: int) -> None:
        super().__init__()
        self.g, self.classes = g, classes

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        x: Tensor = self.g(torch.cat([z.flatten(1), F.one_hot(label, self.classes).to(z)], 1))
        return x


class LabelledDiscriminator(nn.Module):
    """A discriminator, conditioned by concatenating one-hot planes (N, classes, H, W) to the image (N, C, H, W).

    Labels may be (N, m), those of m images in a pack; they make m times as many planes.

    Args:
        d: a discriminator that takes images of C + m classes channels.
        classes: number of classes.
    """

    def __init__(self, d: nn.Module, classes: int) -> None:
        super().__init__()
        self.d, self.classes = d, classes

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        planes = F.one_hot(label, self.classes).to(x).flatten(1)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        logits: Tensor = self.d(torch.cat([x, planes], 1))
        return logits


class NoisyGenerator(nn.Module):
    """A generator from images (N, C, H, W), conditioned by concatenating the noise (N, length) to them as planes.

    Args:
        g: a generator that takes images of C + length channels.
        in_channels: C.
    """

    def __init__(self, g: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.g, self.in_channels, self.multiple = g, in_channels, g.multiple

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        planes = z.to(x)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        out: Tensor = self.g(torch.cat([x, planes], 1))
        return out
