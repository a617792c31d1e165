"""The residual generator of Johnson et al. 2016, as CycleGAN uses it."""

from torch import Tensor, nn

from img2img.errors import choose
from img2img.networks.layers import PADDINGS, UPSAMPLINGS, Conv2d, ReflectPad, maps_at
from img2img.networks.norms import norm_layer


class ResidualBlock(nn.Module):
    """x + F(x), with two 3x3 convolutions and no activation after the sum."""

    def __init__(self, channels: int, norm: str, padding: str, dropout: float) -> None:
        super().__init__()
        normalise, bias = norm_layer(norm)
        pad = choose("--padding", padding, PADDINGS)
        self.body = nn.Sequential(
            pad(1), nn.Conv2d(channels, channels, 3, bias=bias), normalise(channels), nn.ReLU(),
            nn.Dropout(dropout),
            pad(1), nn.Conv2d(channels, channels, 3, bias=bias), normalise(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class ResNet(nn.Module):
    """c7s1-64, d128, d256, R256 x blocks, u128, u64, c7s1-out, in the notation of CycleGAN's appendix 7.2.

    Args:
        in_channels: channels of the input image.
        out_channels: channels of the output image.
        blocks: number of residual blocks; the paper uses 6 for 128 px and 9 from 256 px.
        width: channels of the first layer.
        norm: "instance", "batch" or "none".
        padding: padding of the residual blocks: "reflect" (the meaning of "auto" here), "replicate" or "zero". The two
            outer convolutions always reflect, as in the authors' code.
        dropout: dropout rate inside each residual block.
        upsample: "deconv" or "resize".

    Maps (N, in_channels, H, W) to (N, out_channels, H, W) in [-1, 1]; H and W must be multiples of `multiple`.
    """

    multiple = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int = 9,
        width: int = 64,
        norm: str = "instance",
        padding: str = "auto",
        dropout: float = 0.0,
        upsample: str = "deconv",
    ) -> None:
        super().__init__()
        normalise, bias = norm_layer(norm)
        padding = "reflect" if padding == "auto" else padding
        up = choose("--upsample", upsample, UPSAMPLINGS)
        w = width
        self.encoded = (0, 4, 7, 10, 9 + min(blocks, 5))
        self.layers = nn.Sequential(
            ReflectPad(3), nn.Conv2d(in_channels, w, 7, bias=bias), normalise(w), nn.ReLU(),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1, bias=bias), normalise(2 * w), nn.ReLU(),
            nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1, bias=bias), normalise(4 * w), nn.ReLU(),
            *(ResidualBlock(4 * w, norm, padding, dropout) for _ in range(blocks)),
            up(4 * w, 2 * w, 3, bias), normalise(2 * w), nn.ReLU(),
            up(2 * w, w, 3, bias), normalise(w), nn.ReLU(),
            ReflectPad(3), Conv2d(w, out_channels, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the padded image, both its halvings, and the maps of the first and the fifth (or last) block."""
        return maps_at(self.layers, x, self.encoded)
