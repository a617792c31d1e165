"""A network from images to vectors: 4x4 convolutions with stride 2 down to at most 4x4, and a linear layer."""

from torch import Tensor, nn

from img2img.errors import choose
from img2img.networks.layers import Conv2d
from img2img.networks.norms import NORMS, RunningBatchNorm

SMALLEST = 4  # side of the last map
MAX_FACTOR = 8  # of `width`


class Encoder(nn.Module):
    """An encoder from images (N, in_channels, size, size) to vectors (N, outputs).

    Args:
        in_channels: channels of the images.
        outputs: length of the vectors.
        size: side of the images in pixels.
        width: channels of the first map; they double with every halving, up to eight times as many.
        norm: "instance", "batch" (with running averages for inference) or "none"; the first layer has no norm.
    """

    def __init__(self, in_channels: int, outputs: int, size: int, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        normalise = choose("--norm", norm, NORMS | {"batch": RunningBatchNorm})
        stack: list[nn.Module] = [Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        side, c = size // 2, width
        while side > SMALLEST:
            c_in, c, side = c, min(2 * c, MAX_FACTOR * width), side // 2
            stack += [Conv2d(c_in, c, 4, stride=2, padding=1), normalise(c), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*stack, nn.Flatten(), nn.Linear(c * side * side, outputs))

    def forward(self, x: Tensor) -> Tensor:
        vector: Tensor = self.layers(x)
        return vector
