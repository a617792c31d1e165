"""The discriminators of pix2pix and CycleGAN: a logit for each overlapping patch (Isola et al. 2017, section 3.2.2)."""

from torch import Tensor, nn

from img2img.errors import ConfigError
from img2img.networks.layers import Conv2d, maps_at
from img2img.networks.norms import norm_layer


class PatchGAN(nn.Module):
    """C64-C128-C256-C512 and a final convolution to one channel, all 4x4, the last two with stride 1.

    Args:
        in_channels: channels of the judged image, plus those of the condition if there is one.
        layers: number of layers with stride 2. The receptive field is 16, 34, 70, 142, 286 px for 1, 2, 3, 4, 5.
        width: channels of the first layer.
        norm: "instance", "batch" or "none"; the first layer has no norm.

    Maps (N, in_channels, H, W) to logits (N, 1, h, w), without a sigmoid.
    """

    def __init__(self, in_channels: int, layers: int = 3, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        self.min_size = 3 * 2**layers
        normalise, bias = norm_layer(norm)
        stack: list[nn.Module] = [Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        c = width
        for k in range(1, layers + 1):
            c_in, c = c, width * min(2**k, 8)
            stride = 2 if k < layers else 1
            stack += [Conv2d(c_in, c, 4, stride, padding=1, bias=bias), normalise(c), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*stack, Conv2d(c, 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self.min_size:
            raise ConfigError(
                f"This discriminator needs images of at least {self.min_size} px, not {x.shape[3]}x{x.shape[2]}. "
                "Use a larger --size or a --discriminator with a smaller receptive field."
            )
        logits: Tensor = self.layers(x)
        return logits

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the map after each activation."""
        return maps_at(self.layers, x, _activations(self.layers))


class PixelGAN(nn.Module):
    """The 1x1 PatchGAN, which judges each pixel separately (C64-C128 with 1x1 kernels)."""

    def __init__(self, in_channels: int, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        normalise, bias = norm_layer(norm)
        self.layers = nn.Sequential(
            Conv2d(in_channels, width, 1), nn.LeakyReLU(0.2),
            Conv2d(width, 2 * width, 1, bias=bias), normalise(2 * width), nn.LeakyReLU(0.2),
            Conv2d(2 * width, 1, 1, bias=bias),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the map after each activation."""
        return maps_at(self.layers, x, _activations(self.layers))


def _activations(layers: nn.Sequential) -> list[int]:
    return [i for i, layer in enumerate(layers) if isinstance(layer, nn.LeakyReLU)]
