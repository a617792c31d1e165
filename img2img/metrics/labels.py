"""Label maps: a colour per class. A pixel belongs to the nearest colour of the palette."""

import math
from pathlib import Path

import torch
from torch import Tensor

from img2img.errors import ConfigError, DataError
from img2img.metrics.score import Score

MOST_COLOURS = 64
PIXELS_AT_ONCE = 2**16


def read_palette(path: Path, channels: int) -> Tensor:
    """Read colours (K, C) in [-1, 1] from a text file with one per line, "r g b" from 0 to 255 or "#rrggbb".

    Raises:
        ConfigError: if the file is missing, or a line is repeated or is not a colour of `channels` numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--palette: {path} cannot be read as text.") from error
    colours = [_colour(line, f"{path}, line {i}", channels) for i, line in enumerate(lines, 1) if line.strip()]
    if not colours:
        raise ConfigError(f"--palette: {path} holds no colours. Write one per line: 'r g b' or '#rrggbb'.")
    for i, colour in enumerate(colours):
        if colour in colours[:i]:
            raise ConfigError(f"--palette: {path} holds the colour {' '.join(f'{x:g}' for x in colour)} twice.")
    return torch.tensor(colours, dtype=torch.float64) / 127.5 - 1


def _colour(line: str, where: str, channels: int) -> tuple[float, ...]:
    text = line.strip()
    try:
        if text.startswith("#"):
            colour = tuple(float(x) for x in bytes.fromhex(text[1:]))
        else:
            colour = tuple(float(x) for x in text.replace(",", " ").split())
    except ValueError:
        colour = ()
    if not colour or not all(0 <= x <= 255 for x in colour):
        raise ConfigError(f"{where}: '{text}' is not a colour. Write 'r g b', each from 0 to 255, or '#rrggbb'.")
    if len(colour) != channels:
        raise ConfigError(f"{where}: '{text}' has {len(colour)} numbers, the images have {channels} channels.")
    return colour


class Palette:
    """Collects the distinct colours of images.

    Raises:
        DataError: by `add`, when there are more than `MOST_COLOURS`.
    """

    def __init__(self, channels: int) -> None:
        self.colours = torch.zeros(0, channels)

    def add(self, images: Tensor) -> None:
        for image in images.cpu():
            found = torch.unique(image.flatten(1).T, dim=0)
            self.colours = torch.unique(torch.cat([self.colours, found]), dim=0)
            if len(self.colours) > MOST_COLOURS:
                raise DataError(
                    f"The real images hold more than {MOST_COLOURS} distinct colours, so they are not label "
                    "maps. Give the colours of the classes with --palette FILE."
                )


def classes(images: Tensor, palette: Tensor) -> Tensor:
    """Map (N, C, H, W) to the index of the nearest colour, (N, H, W): argmin |x - c|² = argmax x·c - |c|²/2."""
    pixels = images.cpu().double().movedim(1, -1)
    c = palette.double()
    indices = [(x @ c.T - c.square().sum(1) / 2).argmax(1) for x in torch.split(pixels.flatten(0, 2), PIXELS_AT_ONCE)]
    return torch.cat(indices).reshape(pixels.shape[:-1])


def confusion(real: Tensor, fake: Tensor, palette: Tensor) -> Tensor:
    """Return the confusion matrix (K, K): pixels of class `row` in `real` and of class `column` in `fake`."""
    k = len(palette)
    pairs = classes(real, palette) * k + classes(fake, palette)
    return torch.bincount(pairs.flatten(), minlength=k * k).reshape(k, k)


def pixel_accuracy(counts: Tensor) -> dict[str, Score]:
    """Return the share of pixels of the right class, from a confusion matrix."""
    return {"pixel_accuracy": Score(float(counts.trace() / counts.sum()))}


def mean_iou(counts: Tensor) -> dict[str, Score]:
    """Return the intersection over union of each class, iou[k] = n_kk / (Σ_j n_kj + Σ_i n_ik - n_kk), and their mean.

    Pixels are counted over the whole set, as in Long et al. 2015. A class absent from both sets has no value and is not
    part of the mean.
    """
    right = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - right
    iou = {k: float(right[k] / union[k]) for k in range(len(counts)) if union[k] > 0}
    return {"mean_iou": Score(math.fsum(iou.values()) / len(iou)), **{f"iou[{k}]": Score(x) for k, x in iou.items()}}
