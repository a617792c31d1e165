"""The context aggregation network of Chen, Xu, Koltun, "Fast Image Processing with Fully-Convolutional Networks",
ICCV 2017, arXiv:1709.00643.
"""

import torch
from torch import Tensor, nn


class AdaptiveNorm(nn.Module):
    """lambda x + mu N(x), where training chooses how much is normalised (section 3); N is an instance norm here."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels, channels)
        self.of_x, self.of_norm = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.of_x + self.norm(x) * self.of_norm


class ContextNetwork(nn.Module):
    """Convolutions 3x3 with dilations 1, 2, 4, 8, 16 and 1, all at full resolution, so that no size needs padding.

    Args:
        in_channels: channels of the input image.
        out_channels: channels of the output image.
        width: channels of the maps between; the paper has 24 or 32.

    Maps (N, in_channels, H, W) in [-1, 1] to (N, out_channels, H, W) in [-1, 1], of any H and W. The paper's network
    ends without the tanh.
    """

    multiple = 1

    def __init__(self, in_channels: int, out_channels: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for dilation in (1, 2, 4, 8, 16, 1):
            layers += [
                nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False),
                AdaptiveNorm(width),
                nn.LeakyReLU(0.2),
            ]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, out_channels, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out
