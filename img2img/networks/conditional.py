"""Networks conditioned on a class label by concatenation: to the noise, and as planes to the image.

Generators take classes as indices (N,), or as weights (N, classes): those of a mixture, such as the way between two.
"""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn


@torch.fx.wrap  # one step of a trace, which could not follow the choice
def rows_of(label: Tensor, classes: int) -> Tensor:
    """Return classes (N,) as one-hot rows (N, classes); rows of weights, or of any condition, stay as they are."""
    return label if label.is_floating_point() else F.one_hot(label, classes)


class ClassTable(nn.Embedding):
    """A vector for each class (N,); for weights (N, classes) the sum of the vectors with these weights."""

    def forward(self, label: Tensor) -> Tensor:
        return label.to(self.weight) @ self.weight if label.is_floating_point() else super().forward(label)


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
        x: Tensor = self.g(torch.cat([z.flatten(1), rows_of(label, self.classes).to(z)], 1))
        return x


class LabelledDiscriminator(nn.Module):
    """A discriminator, conditioned by concatenating one-hot planes (N, classes, H, W) to the image (N, C, H, W).

    Labels may be (N, m), those of m images in a pack; they make m times as many planes. With a `code`, the condition is
    a vector (N, classes) in place of a label, and a linear layer makes it that many planes.

    Args:
        d: a discriminator that takes images of C + m classes channels, or of C + code.
        classes: number of classes, or length of the vector.
        code: number of planes of a vector; 0 for labels.
    """

    def __init__(self, d: nn.Module, classes: int, code: int = 0) -> None:
        super().__init__()
        self.d, self.classes = d, classes
        self.code = nn.Linear(classes, code) if code else nn.Identity()

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        rows = self.code(rows_of(label, self.classes).to(x).flatten(1))
        logits: Tensor = self.d(torch.cat([x, rows[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1))
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
