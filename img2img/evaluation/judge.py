"""A judge: a small classifier of real images that says what results look like."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from img2img.classes import Classifier
from img2img.data.folders import Domain, scan
from img2img.data.images import Array, resize
from img2img.errors import DataError

EDGE = 64  # pixels that images are shrunk to
EPOCHS = 8
LEAST = 10  # images of a class


class Judge:
    """Names the class of an image.

    Args:
        folder: with a folder of real images per class.

    Attributes:
        classes: their names.
        accuracy: of the judge on real images that it has not seen, a tenth of each class, in [0, 1].
        tested: how many these were.

    Raises:
        DataError: if there are too few classes or images, or the images do not go together.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder} for --judge.")
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if len(self.classes) < 2:
            raise DataError(f"--judge needs a folder per class, at least two; {folder} holds {len(self.classes)}.")
        counts = {name: len(scan(folder / name)) for name in self.classes}
        if few := [f"{name} has {count}" for name, count in counts.items() if count < LEAST]:
            raise DataError(f"--judge needs at least {LEAST} images of each class; in {folder} {', '.join(few)}.")
        headers = [(header, k) for k, name in enumerate(self.classes) for header in scan(folder / name)]
        self.domain = Domain.of("of the judge", [header for header, _ in headers])
        images = np.stack([resize(self.domain.load(i), EDGE, EDGE) for i in range(len(self.domain))])
        self.classifier = Classifier(images, [k for _, k in headers], epochs=EPOCHS)
        self.accuracy, self.tested = self.classifier.accuracy, self.classifier.tested

    def counts(self, images: Sequence[Array]) -> Array:
        """How many of some images (H, W, C) it gives to each class, (classes,)."""
        small = np.stack([resize(image, EDGE, EDGE) for image in images])
        shares = self.classifier.coverage(small).shares
        return np.asarray(shares) * len(images)
