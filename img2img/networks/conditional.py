"""Networks with a class label, by concatenation: beside the noise, and as planes beside the image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelledGenerator(nn.Module):
    """Any generator of noise, given the one-hot label (N, classes) beside the noise (N, length).

    Args:
        g: takes noise of length + classes.
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
    """Any discriminator, given the one-hot label as planes (N, classes, H, W) beside the image (N, C, H, W).

    Args:
        d: takes images of C + classes channels.
        classes: number of classes.
    """

    def __init__(self, d: nn.Module, classes: int) -> None:
        super().__init__()
        self.d, self.classes = d, classes

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        planes = F.one_hot(label, self.classes).to(x)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        logits: Tensor = self.d(torch.cat([x, planes], 1))
        return logits
