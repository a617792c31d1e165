"""The networks of BEGAN (Berthelot et al. 2017, figure 1): pairs of 3x3 convolutions with ELU at each size from 8x8."""

from torch import Tensor, nn

from img2img.errors import ConfigError
from img2img.networks.dcgan import SIZES
from img2img.networks.layers import Conv2d

SMALLEST = 8  # side of the maps next to the code


def _levels(size: int) -> int:
    """Return the number of sizes from `SMALLEST` to `size`.

    Raises:
        ConfigError: if the networks do not support the size.
    """
    if size not in SIZES:
        raise ConfigError(f"began networks do not support --size {size}; use one of {', '.join(map(str, SIZES))}.")
    return (size // SMALLEST).bit_length()


def _pair(c_in: int, c: int) -> list[nn.Module]:
    return [Conv2d(c_in, c, 3, padding=1), nn.ELU(), Conv2d(c, c, 3, padding=1), nn.ELU()]


class BEGANGenerator(nn.Module):
    """A generator, or decoder, from noise or codes (N, in_channels) to images (N, out_channels, size, size).

    Every map has `width` channels, and nearest neighbours double its side. The output is not bounded.

    Args:
        in_channels: length of the noise.
        out_channels: channels of the images.
        size: side of the images in pixels, a power of two from 16 to 256.
        width: channels of all maps, the paper's n.
    """

    multiple = 1

    def __init__(self, in_channels: int, out_channels: int, size: int, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(in_channels, width * SMALLEST * SMALLEST)
        stack = _pair(width, width)
        for _ in range(_levels(size) - 1):
            stack += [nn.Upsample(scale_factor=2), *_pair(width, width)]
        self.layers = nn.Sequential(*stack, Conv2d(width, out_channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(self.first(z.flatten(1)).reshape(-1, self.width, SMALLEST, SMALLEST))
        return x


class BEGANEncoder(nn.Module):
    """An encoder from images (N, in_channels, size, size) to codes, or logits, (N, outputs).

    A stride of 2 halves each size, and the k-th has k * `width` channels.

    Args:
        in_channels: channels of the images.
        size: side of the images in pixels.
        width: channels of the first maps, the paper's n.
        outputs: length of the code.
    """

    def __init__(self, in_channels: int, size: int, width: int = 128, outputs: int = 1) -> None:
        super().__init__()
        levels = _levels(size)
        stack: list[nn.Module] = [Conv2d(in_channels, width, 3, padding=1), nn.ELU(), *_pair(width, width)]
        for k in range(1, levels):
            stack += [Conv2d(k * width, (k + 1) * width, 3, stride=2, padding=1), nn.ELU()]
            stack += _pair((k + 1) * width, (k + 1) * width)
        self.layers = nn.Sequential(*stack, nn.Flatten(), nn.Linear(levels * width * SMALLEST**2, outputs))

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.layers(x)
        return code
