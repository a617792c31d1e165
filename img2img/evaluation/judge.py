"""A judge: a small classifier of real images that says what results look like."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from img2img.data.folders import Domain, scan
from img2img.data.images import Array, resize
from img2img.errors import DataError
from img2img.evaluation.classes import Classifier
from img2img.evaluation.sides import Side

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

    def classify(self, images: Sequence[Array]) -> Array:
        """The class that it gives to each of some images (H, W, C), as its number in `classes`, (n,)."""
        return self.classifier.classify(np.stack([resize(image, EDGE, EDGE) for image in images]))

    def labels_of(self, side: Side, table: Path | None) -> Array:
        """The class of each image of a side, as its number in `classes`, (n,); -1 where it is not known.

        It is that in the `table`; without one, that whose name a folder has that the image lies in, below the folder of
        all: at least two classes, for if all inputs are horses, what the judge sees in zebras was not to be kept.

        Raises:
            DataError: if the table cannot be read, or does not have a class of the judge for every image.
        """
        numbers = {name: k for k, name in enumerate(self.classes)}
        if table is None:
            folders = [Path(name).parts[-2::-1] for name in side.names]
            found = np.array([next((numbers[part] for part in parts if part in numbers), -1) for parts in folders])
            return found if len(set(found[found >= 0])) > 1 else np.full(len(found), -1)
        known = _read_labels(table)
        labels = [known.get(Path(name).as_posix(), known.get(Path(name).name)) for name in side.names]
        if missing := [name for name, label in zip(side.names, labels, strict=True) if label is None]:
            raise DataError(f"{table} has no label for {len(missing)} of {len(labels)} images, as {missing[0]}.")
        if odd := [label for label in labels if label not in numbers]:
            raise DataError(f"{table} has the label '{odd[0]}'; the judge's classes are {', '.join(self.classes)}.")
        return np.array([numbers[str(label)] for label in labels])


def _read_labels(table: Path) -> dict[str, str]:
    """File to label, of a CSV file with the columns file and label."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {row["file"]: row["label"].strip() for row in rows}
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}.") from None
    except (KeyError, AttributeError, ValueError, csv.Error):
        raise DataError(f"--labels takes a CSV file with the columns file and label, and {table} is none.") from None
