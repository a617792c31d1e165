"""The options of a run's data, each declared once, and defaults of files; imports nothing heavy, so help is quick."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.needs import Needs
from img2img.data.augment import PRESETS
from img2img.options.declared import Choice, Options, Within

MAX_PIXELS = 2**28  # of a file, all pages together: 16384x16384
JPEG_QUALITY = 95  # of JPEG and lossy WebP
PAGES = {
    "images": "each page of a stack is an image",
    "channels": "all pages of a file, such as planes of Z or series, are the channels of one image",
}
TRAINED_PAGES = PAGES | {"images": "a file is one image, and one with several pages is refused"}
DIRECTIONS = Choice(("a2b", "b2a"))
SIDES = Within(1, 2**16)
Size = Annotated[int, "Side of the training images, in pixels.", SIDES]
Augmentation = Annotated[
    str, "; ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items()) + ".", Choice(tuple(PRESETS))
]
ValFraction = Annotated[
    float,
    "Share of the images to hold out if the data set has no held-out part.",
    Within(0, 1, below=True),
]
RegionSize = Annotated[
    int,
    "Cut images that are too large to be held, such as whole slides, into squares of this many pixels a side, and "
    "train on those that show tissue.",
    Within(16, 2**14, special=(0, "whole images")),
]
RegionCount = Annotated[
    int,
    "Train on this many of the squares of each domain, spread evenly over its images and their tissue.",
    Within(2, 10**9, special=(0, "all")),
]
Pages = Annotated[str, "; ".join(f"{name}: {text}" for name, text in TRAINED_PAGES.items()) + ".", Choice(tuple(PAGES))]
CacheMB = Annotated[int, "Keep decoded images in memory if they fit into this many megabytes.", Within(0, 10**9)]


@dataclass(frozen=True)
class DataConfig(Options):
    """Which pairs of images to train on, and how they are cut."""

    a: Annotated[str | None, "Folder of domain A."] = None
    b: Annotated[str | None, "Folder of domain B; pairs are matched by file name."] = None
    ab: Annotated[str | None, "Folder of side-by-side pairs: left half A, right half B."] = None
    data: Annotated[
        str | None,
        "Root folder of trainA and trainB (and testA and testB), or of train (and val) with side-by-side pairs.",
    ] = None
    direction: Annotated[str, "For pairs: a2b, or b2a to learn the reverse direction.", DIRECTIONS] = "a2b"
    size: Annotated[int, "Side of the square training images, in pixels.", Within(16, 2**16)] = 256
    augment: Augmentation = "standard"
    val_fraction: ValFraction = 0.0
    cache_mb: CacheMB = 4096
    pages: Pages = "images"
    region_size: RegionSize = 0
    regions: RegionCount = 0


@dataclass(frozen=True)
class UnpairedConfig(DataConfig):
    """Which images of two domains to train on, and how they are cut. Keeps every field, so that old runs compare."""

    unused: ClassVar[tuple[str, ...]] = ("ab", "direction")

    b: Annotated[str | None, "Folder of domain B."] = None
    data: Annotated[str | None, "Root folder of trainA and trainB (and testA and testB)."] = None


@dataclass(frozen=True)
class ImagesConfig(Options):
    """Which images to train on, and how they are cut."""

    data: Annotated[
        str | None,
        "Folder of images, or of train and val (or test) with images; or an idx file such as MNIST's, also as .gz.",
    ] = None
    size: Annotated[int, "Side of the training and the generated images, in pixels.", Within(1, 2**16)] = 64
    augment: Augmentation = "none"
    val_fraction: ValFraction = 0.0
    cache_mb: CacheMB = 4096
    pages: Pages = "images"
    region_size: RegionSize = 0
    regions: RegionCount = 0


@dataclass(frozen=True)
class LabelledConfig(ImagesConfig):
    """Which images to train on, what classes they have, and how they are cut."""

    data: Annotated[
        str | None,
        "Folder with one sub-folder per class, or of train and val (or test) with such sub-folders; or an idx file.",
    ] = None
    labels: Annotated[
        str | None,
        "Classes of the images: a CSV with the columns file and label, or an idx file; by default the sub-folders of "
        "--data, or the idx file of labels beside it.",
    ] = None


@dataclass(frozen=True)
class ConditionedConfig(LabelledConfig):
    """Which images to train on, what classes or vectors they have, and how they are cut."""

    vectors: Annotated[
        str | None,
        "A vector per image in place of classes, e.g. the embedding of a text: an .npy with a row for each image, by "
        "sorted name, or a CSV with the column file and one for each number.",
    ] = None


@dataclass(frozen=True)
class PartlyLabelledConfig(LabelledConfig):
    """Which images to train on, what classes some of them have, and how they are cut."""

    labelled: Annotated[
        int,
        "Images of each class whose label is used, drawn at random; the other labels are left out.",
        Within(1, 10**9, special=(0, "all")),
    ] = 0


def data_options(needs: Needs) -> type[Options]:
    """Return the dataclass of the options that say which images a method is trained on."""
    if needs.domains == ("a", "b"):
        return DataConfig if needs.paired else UnpairedConfig
    if needs.unlabelled:
        return PartlyLabelledConfig
    if needs.vectors:
        return ConditionedConfig
    return LabelledConfig if needs.labels else ImagesConfig
