"""Augmentation presets, by albumentations."""

import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from img2img.errors import choose

if TYPE_CHECKING:
    from img2img.data.picture import Array

ALONE = threading.Lock()  # a pipeline holds the state of its random numbers


@dataclass(frozen=True)
class Preset:
    """One augmentation."""

    resize: float | None  # side of the image before the crop, in units of the crop; None keeps the image's own pixels
    transforms: Callable[[Any, int], list[Any]]  # builds them from the albumentations module and the size of the crop
    text: str  # its description


PRESETS = {
    "none": Preset(1.0, lambda A, n: [], "resize"),
    "flip": Preset(1.0, lambda A, n: [A.HorizontalFlip()], "resize, mirror"),
    "standard": Preset(
        286 / 256,  # appendix 6.2 of pix2pix
        lambda A, n: [A.RandomCrop(n, n), A.HorizontalFlip()],
        "resize to 286/256 of --size, crop, mirror (the papers')",
    ),
    "dihedral": Preset(
        None,
        lambda A, n: [A.RandomCrop(n, n), A.D4(p=1)],
        "crop at the images' own scale, quarter turns and mirrors (microscopy, aerial)",
    ),
    "strong": Preset(
        1.25,
        lambda A, n: [
            A.Affine(scale=(0.85, 1.2), rotate=(-15, 15), shear=(-5, 5), border_mode=4, p=0.8),
            A.RandomCrop(n, n),
            A.HorizontalFlip(),
        ],
        "resize, rotate, scale, shear, crop, mirror (small data sets)",
    ),
}


class Augment:
    """Random transforms of images. Each worker builds its own."""

    def __init__(self, preset: str, size: int) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or the import checks for updates online
        with warnings.catch_warnings():  # it imports the hub's client, whose progress bars ask notebooks for ipywidgets
            warnings.filterwarnings("ignore", "IProgress not found")
            import albumentations

        transforms = choose("--augment", preset, PRESETS).transforms(albumentations, size)
        self.pipeline = albumentations.Compose(transforms)

    def __call__(self, seed: int, image: "Array") -> "Array":
        """Transform `image` (H, W, C); equal seeds do the same to all images of one size."""
        with ALONE:
            self.pipeline.set_random_seed(seed)
            transformed: Array = self.pipeline(image=image)["image"]
        return transformed
