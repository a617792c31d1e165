"""The options of a run's data, each declared once; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from typing import Annotated

from img2img.data.augment import PRESETS
from img2img.options.declared import Choice, Options, Within

DIRECTIONS = Choice(("a2b", "b2a"))

SIDES = Within(1, 2**16)
Size = Annotated[int, "Side of the training images in pixels.", SIDES]
Augmentation = Annotated[
    str, "; ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items()) + ".", Choice(tuple(PRESETS))
]
CacheMB = Annotated[int, "Decoded images are kept in memory when they fit into this many megabytes.", Within(0, 10**9)]


@dataclass(frozen=True)
class DataConfig(Options):
    """Which images to train on, and how they are cut."""

    a: Annotated[str | None, "Folder of domain A."] = None
    b: Annotated[str | None, "Folder of domain B; for pairs, partners have the names of those in A."] = None
    ab: Annotated[str | None, "Folder of side-by-side pairs: left half A, right half B."] = None
    data: Annotated[
        str | None, "One root: trainA trainB (and testA testB), or train (and val) of side-by-side pairs."
    ] = None
    direction: Annotated[str, "For pairs: a2b, or b2a to learn the other way round.", DIRECTIONS] = "a2b"
    size: Annotated[int, "Side of the square the networks are trained on, in pixels.", Within(16, 2**16)] = 256
    augment: Augmentation = "standard"
    val_fraction: Annotated[
        float,
        "Share of the images held out, where the data have no held-out part of their own.",
        Within(0, 1, below=True),
    ] = 0.0
    cache_mb: CacheMB = 4096


@dataclass(frozen=True)
class ImagesConfig(Options):
    """Which images to train on, and how they are cut."""

    data: Annotated[str | None, "Folder of images, or an idx file of them as MNIST's, with or without .gz."] = None
    size: Annotated[int, "Side of the images in pixels, generated ones too.", Within(1, 2**16)] = 64
    augment: Augmentation = "none"
    cache_mb: CacheMB = 4096


CONFIGS: dict[str, type[Options]] = {"pairs": DataConfig, "unpaired": DataConfig, "images": ImagesConfig}
