"""The networks of DCGAN (Radford et al. 2016): 4x4 convolutions with stride 2 from 1x1 to the image, and back."""

from itertools import pairwise

from torch import Tensor, nn

from img2img.errors import ConfigError, choose
from img2img.networks.layers import Conv2d, ConvTranspose2d
from img2img.networks.norms import NORMS, RunningBatchNorm

SIZES = (8, 16, 32, 64, 128, 256)
MAX_FACTOR = 16  # of `width`: the paper's 1024 channels for its first map, and no more for larger images


def widths(size: int, width: int) -> list[int]:
    """Return the channels of the maps from the largest, size / 2, down to 4x4.

    Raises:
        ConfigError: if the networks do not support the size.
    """
    if size not in SIZES:
        raise ConfigError(f"dcgan networks do not support --size {size}; use one of {', '.join(map(str, SIZES))}.")
    return [width * min(2**k, MAX_FACTOR) for k in range((size // 4).bit_length() - 1)]


class DCGANGenerator(nn.Module):
    """A generator from noise (N, in_channels, 1, 1) to images (N, out_channels, size, size) in [-1, 1].

    Args:
        in_channels: length of the noise.
        out_channels: channels of the images.
        size: side of the images in pixels, a power of two from 8 to 256.
        width: channels of the last map before the image; they double with every halving of the size.
        norm: "batch", with running averages for inference, or "none"; the last layer has no norm.
    """

    multiple = 1

    def __init__(self, in_channels: int, out_channels: int, size: int, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        up = widths(size, width)[::-1]
        normalise = choose("--norm", norm, {"batch": RunningBatchNorm, "none": NORMS["none"]})
        stack: list[nn.Module] = [ConvTranspose2d(in_channels, up[0], 4, bias=False), normalise(up[0]), nn.ReLU()]
        for c_in, c in pairwise(up):
            stack += [ConvTranspose2d(c_in, c, 4, stride=2, padding=1, bias=False), normalise(c), nn.ReLU()]
        self.layers = nn.Sequential(*stack, ConvTranspose2d(up[-1], out_channels, 4, stride=2, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(z.flatten(1).unsqueeze(-1).unsqueeze(-1))
        return x


class DCGANDiscriminator(nn.Module):
    """A discriminator from images (N, in_channels, size, size) to logits (N, outputs); the first layer has no norm.

    Args:
        in_channels: channels of the images.
        size: side of the images in pixels.
        width: channels of the first map; they double with every halving of the size.
        norm: "batch", "instance" or "none".
        outputs: numbers that it returns for each image.
    """

    def __init__(self, in_channels: int, size: int, width: int = 64, norm: str = "batch", outputs: int = 1) -> None:
        super().__init__()
        down, normalise = widths(size, width), choose("--d-norm", norm, NORMS)
        stack: list[nn.Module] = [Conv2d(in_channels, down[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for c_in, c in pairwise(down):
            stack += [Conv2d(c_in, c, 4, stride=2, padding=1, bias=norm != "batch"), normalise(c), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*stack, Conv2d(down[-1], outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits.flatten(1)
