"""DiffAugment: Zhao, Liu, Lin, Zhu, Han, "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020,
arXiv:2006.10738. Real and generated images are shown to the discriminator through the same random transforms, which
gradients pass, so that it cannot learn a small data set by heart and the generator does not learn the transforms.

Images are (N, C, H, W) in [-1, 1], of any number of channels; every image gets its own draw.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from img2img.errors import choose


def _draw(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(low, high)


def color(x: Tensor) -> Tensor:
    """Brightness shifted by up to 1/2, saturation scaled by 0 to 2, contrast by 1/2 to 3/2 (their appendix)."""
    x = x + _draw(x, -0.5, 0.5)
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, _draw(x, 0, 2))
    middle = x.mean((1, 2, 3), keepdim=True)
    return torch.lerp(middle, x, _draw(x, 0.5, 1.5))


def translation(x: Tensor, share: float = 1 / 8) -> Tensor:
    """Moved by up to `share` of the side; what comes in is 0."""
    n, _, height, width = x.shape
    rows, columns = (_moved(n, side, share, x.device) for side in (height, width))
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None]
    image = torch.arange(n, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
    return moved.permute(0, 3, 1, 2) * inside


def _moved(n: int, side: int, share: float, device: torch.device) -> Tensor:
    """Which row each row of the result is taken from, (N, side)."""
    most = round(side * share)
    return torch.arange(side, device=device) + torch.randint(-most, most + 1, (n, 1), device=device)


def cutout(x: Tensor, share: float = 1 / 2) -> Tensor:
    """A square of `share` of the side set to 0, whose middle lies anywhere in the image."""
    n, _, height, width = x.shape
    holes = [_hole(n, side, share, x.device) for side in (height, width)]
    return x * ~(holes[0][:, None, :, None] & holes[1][:, None, None, :])


def _hole(n: int, side: int, share: float, device: torch.device) -> Tensor:
    size = round(side * share)
    start = torch.randint(0, side, (n, 1), device=device) - size // 2
    at = torch.arange(side, device=device)
    return (at >= start) & (at < start + size)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"color": color, "translation": translation, "cutout": cutout}


def policy(text: str) -> Sequence[Callable[[Tensor], Tensor]]:
    """The transforms of "color,translation", in order; of "none", none.

    Raises:
        ConfigError: if there is no such transform.
    """
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    return [choose("--diffaugment", name, TRANSFORMS) for name in names]
