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


class Judge:
    """Names the class of an image.

    Args:
        folder: with a folder of real images per class.

    Attributes:
        classes: their names.
        accuracy: of the judge on real images that it has not seen, in [0, 1].

    Raises:
        DataError: if there are fewer than two classes, or the images do not go together.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder} for --judge.")
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if len(self.classes) < 2:
            raise DataError(f"--judge needs a folder per class, at least two; {folder} holds {len(self.classes)}.")
        headers = [(header, k) for k, name in enumerate(self.classes) for header in scan(folder / name)]
        self.domain = Domain.of("of the judge", [header for header, _ in headers])
        images = np.stack([resize(self.domain.load(i), EDGE, EDGE) for i in range(len(self.domain))])
        self.classifier = Classifier(images, [k for _, k in headers], epochs=EPOCHS)
        self.accuracy = self.classifier.accuracy

    def counts(self, images: Sequence[Array]) -> Array:
        """How many of some images (H, W, C) it gives to each class, (classes,)."""
        for image in images[:1]:
            if (image.shape[2], str(image.dtype)) != (self.domain.channels, self.domain.dtype):
                raise DataError(
                    f"The judge's images have {self.domain.channels} channels of {self.domain.dtype}, the results "
                    f"{image.shape[2]} of {image.dtype}."
                )
        small = np.stack([resize(image, EDGE, EDGE) for image in images])
        shares = self.classifier.coverage(small).shares
        return np.asarray(shares) * len(images)
