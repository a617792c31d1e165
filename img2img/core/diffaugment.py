"""DiffAugment: Zhao, Liu, Lin, Zhu, Han, "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020,
arXiv:2006.10738. The discriminator sees real and generated images through the same random, differentiable transforms,
so that it cannot memorise a small data set, and the generator does not learn the transforms.

Images are (N, C, H, W) in [-1, 1], with any number of channels; each image gets its own draw.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from img2img.errors import choose


def _draw(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(low, high)


def color(x: Tensor) -> Tensor:
    """Shift brightness by up to 1/2, scale saturation by 0 to 2 and contrast by 1/2 to 3/2 (their appendix)."""
    x = x + _draw(x, -0.5, 0.5)
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, _draw(x, 0, 2))
    middle = x.mean((1, 2, 3), keepdim=True)
    return torch.lerp(middle, x, _draw(x, 0.5, 1.5))


def translation(x: Tensor, share: float = 1 / 8) -> Tensor:
    """Move images by up to `share` of their side; pixels that enter are 0."""
    n, _, height, width = x.shape
    rows, columns = (_moved(n, side, share, x.device) for side in (height, width))
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None]
    image = torch.arange(n, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
    return moved.permute(0, 3, 1, 2) * inside


def _moved(n: int, side: int, share: float, device: torch.device) -> Tensor:
    """Return the source row of each row of the result, (N, side)."""
    most = round(side * share)
    return torch.arange(side, device=device) + torch.randint(-most, most + 1, (n, 1), device=device)


def cutout(x: Tensor, share: float = 1 / 2) -> Tensor:
    """Set a square of `share` of the side to 0, centred anywhere in the image."""
    n, _, height, width = x.shape
    holes = [_hole(n, side, share, x.device) for side in (height, width)]
    return x * ~(holes[0][:, None, :, None] & holes[1][:, None, None, :])


def _hole(n: int, side: int, share: float, device: torch.device) -> Tensor:
    size = round(side * share)
    start = torch.randint(0, side, (n, 1), device=device) - size // 2
    position = torch.arange(side, device=device)
    return (position >= start) & (position < start + size)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"color": color, "translation": translation, "cutout": cutout}


def policy(text: str) -> Sequence[Callable[[Tensor], Tensor]]:
    """Return the transforms that `text` names, e.g. "color,translation", in order; none for "none".

    Raises:
        ConfigError: if there is no such transform.
    """
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    return [choose("--diffaugment", name, TRANSFORMS) for name in names]
