"""The options of a run's data, each declared once; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.needs import Needs
from img2img.data.augment import PRESETS
from img2img.options.declared import Choice, Options, Within

DIRECTIONS = Choice(("a2b", "b2a"))

SIDES = Within(1, 2**16)
Size = Annotated[int, "Side of the training images in pixels.", SIDES]
Augmentation = Annotated[
    str, "; ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items()) + ".", Choice(tuple(PRESETS))
]
ValFraction = Annotated[
    float,
    "Share of the images held out, where the data have no held-out part of their own.",
    Within(0, 1, below=True),
]
CacheMB = Annotated[int, "Decoded images are kept in memory when they fit into this many megabytes.", Within(0, 10**9)]


@dataclass(frozen=True)
class DataConfig(Options):
    """Which pairs of images to train on, and how they are cut."""

    a: Annotated[str | None, "Folder of domain A."] = None
    b: Annotated[str | None, "Folder of domain B; for pairs, partners have the names of those in A."] = None
    ab: Annotated[str | None, "Folder of side-by-side pairs: left half A, right half B."] = None
    data: Annotated[
        str | None, "One root: trainA trainB (and testA testB), or train (and val) of side-by-side pairs."
    ] = None
    direction: Annotated[str, "For pairs: a2b, or b2a to learn the other way round.", DIRECTIONS] = "a2b"
    size: Annotated[int, "Side of the square the networks are trained on, in pixels.", Within(16, 2**16)] = 256
    augment: Augmentation = "standard"
    val_fraction: ValFraction = 0.0
    cache_mb: CacheMB = 4096


@dataclass(frozen=True)
class UnpairedConfig(DataConfig):
    """Which images of two domains to train on, and how they are cut. Keeps every field, so that old runs compare."""

    unused: ClassVar[tuple[str, ...]] = ("ab", "direction")

    b: Annotated[str | None, "Folder of domain B."] = None
    data: Annotated[str | None, "One root: trainA trainB (and testA testB)."] = None


@dataclass(frozen=True)
class ImagesConfig(Options):
    """Which images to train on, and how they are cut."""

    data: Annotated[
        str | None,
        "Folder of images, or train (and val or test) in it; or an idx file of them as MNIST's, with or without .gz.",
    ] = None
    size: Annotated[int, "Side of the images in pixels, generated ones too.", Within(1, 2**16)] = 64
    augment: Augmentation = "none"
    val_fraction: ValFraction = 0.0
    cache_mb: CacheMB = 4096


@dataclass(frozen=True)
class LabelledConfig(ImagesConfig):
    """Which images to train on, what classes they have, and how they are cut."""

    data: Annotated[
        str | None,
        "Folder with one sub-folder of images per class, or with train (and val or test) of such; or an idx file.",
    ] = None
    labels: Annotated[
        str | None,
        "Classes of the images: a CSV with the columns file and label, or an idx file. By default the sub-folders of "
        "--data, or the idx file of labels beside it.",
    ] = None


CONFIGS: dict[str, type[Options]] = {"pairs": DataConfig, "unpaired": DataConfig, "images": ImagesConfig}


def data_options(needs: Needs) -> type[Options]:
    """Return the dataclass of the options that say which images a method is trained on."""
    if needs.domains == ("a", "b"):
        return DataConfig if needs.paired else UnpairedConfig
    return LabelledConfig if needs.labels else ImagesConfig
