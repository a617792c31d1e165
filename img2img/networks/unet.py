"""The U-Net generator of pix2pix (Isola et al. 2017, appendix 6.1.1; after Ronneberger et al. 2015)."""

from itertools import accumulate

import torch
from torch import Tensor, nn

from img2img.errors import ConfigError, choose
from img2img.networks.layers import UPSAMPLINGS, Conv2d
from img2img.networks.norms import norm_layer


class UNet(nn.Module):
    """An encoder down to 1x1 and a decoder back up, with a skip connection at every resolution.

    The encoder is C64-C128-C256-C512-...-C512, the decoder its mirror with concatenated skips, all 4x4 with stride 2.
    The first and the innermost encoder layer have no norm (a norm over one pixel would erase it; the paper's erratum).

    Args:
        in_channels: channels of the input image.
        out_channels: channels of the output image.
        depth: number of halvings; the innermost map is 1x1 for an image of 2^depth pixels.
        width: channels of the first layer.
        norm: "batch", "instance" or "none".
        padding: "zero", the meaning of "auto" here; a U-Net has no other padding.
        dropout: dropout rate in the three decoder layers of full width that follow the innermost one (fewer in networks
            of depth below 8), in training only.
        upsample: "deconv" or "resize".

    Maps (N, in_channels, H, W) to (N, out_channels, H, W) in [-1, 1]; H and W must be multiples of 2^depth, which is
    `multiple`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int = 8,
        width: int = 64,
        norm: str = "batch",
        padding: str = "auto",
        dropout: float = 0.5,
        upsample: str = "deconv",
    ) -> None:
        super().__init__()
        if padding not in ("auto", "zero"):
            raise ConfigError(f"A U-Net pads with zeros; --padding {padding} is for the resnet generators.")
        self.multiple = 2**depth
        normalise, bias = norm_layer(norm)
        up = choose("--upsample", upsample, UPSAMPLINGS)
        channels = [min(2**level, 8) * width for level in range(depth)]
        last = depth - 1

        self.down = nn.ModuleList()
        for level, c in enumerate(channels):
            layers: list[nn.Module] = [] if level == 0 else [nn.LeakyReLU(0.2)]
            c_in = in_channels if level == 0 else channels[level - 1]
            layers.append(Conv2d(c_in, c, 4, stride=2, padding=1, bias=bias))
            if 0 < level < last:
                layers.append(normalise(c))
            self.down.append(nn.Sequential(*layers))

        self.up = nn.ModuleList()  # up[level] inverts down[level]; applied from the innermost outwards
        for level, c in enumerate(channels):
            c_in = c if level == last else 2 * c
            if level == 0:
                layers = [nn.ReLU(), up(c_in, out_channels, 4, True), nn.Tanh()]
            else:
                c_out = channels[level - 1]
                layers = [nn.ReLU(), up(c_in, c_out, 4, bias), normalise(c_out)]
                if 4 <= level < last:
                    layers.append(nn.Dropout(dropout))
            self.up.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = self.up[-1](skips.pop())
        for up in reversed(self.up[:-1]):
            x = up(torch.cat([skips.pop(), x], dim=1))
        return x

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the image and its first four halvings, without the innermost."""
        return list(accumulate(self.down[:-1][:4], lambda y, down: down(y), initial=x))
