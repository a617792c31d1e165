"""A judge: a small classifier of real images that tells what results look like."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from img2img.data.domain import Domain
from img2img.data.folders import scan
from img2img.data.images import resize
from img2img.data.picture import Array
from img2img.errors import DataError
from img2img.evaluation.classes import Classifier
from img2img.evaluation.sides import Side

EDGE = 64  # pixels that images are resized to
EPOCHS = 8
LEAST = 10  # images of a class


class Judge:
    """Classifies images.

    Args:
        folder: a folder with a sub-folder of real images per class.

    Attributes:
        classes: their names.
        accuracy: the accuracy on unseen real images, a tenth of each class, in [0, 1].
        tested: the number of these images.

    Raises:
        DataError: if there are too few classes or images, or the images are of different kinds.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder} for --judge.")
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if len(self.classes) < 2:
            raise DataError(f"--judge needs a sub-folder per class, at least two; {folder} holds {len(self.classes)}.")
        counts = {name: len(scan(folder / name)) for name in self.classes}
        if few := [f"{name} has {count}" for name, count in counts.items() if count < LEAST]:
            raise DataError(f"--judge needs at least {LEAST} images of each class; in {folder} {', '.join(few)}.")
        headers = [(header, k) for k, name in enumerate(self.classes) for header in scan(folder / name)]
        self.domain = Domain.of("of the judge", [header for header, _ in headers])
        images = np.stack([resize(self.domain.load(i), EDGE, EDGE) for i in range(len(self.domain))])
        self.classifier = Classifier(images, [k for _, k in headers], epochs=EPOCHS)
        self.accuracy, self.tested = self.classifier.accuracy, self.classifier.tested

    def classify(self, images: Sequence[Array]) -> Array:
        """Return the class of each image (H, W, C), as its index in `classes`, (n,)."""
        return self.classifier.classify(np.stack([resize(image, EDGE, EDGE) for image in images]))

    def labels_of(self, side: Side, table: Path | None) -> Array:
        """Return the known class of each image of a side, as its index in `classes`, (n,); -1 where it is unknown.

        It comes from the `table`, or else from the name of a folder above the image, below the folder of all. That
        takes at least two classes: if all inputs are horses, their class is not meant to be kept in zebras.

        Raises:
            DataError: if the table cannot be read, or does not have a class of the judge for every image.
        """
        index = {name: k for k, name in enumerate(self.classes)}
        if table is None:
            folders = [Path(name).parts[-2::-1] for name in side.names]
            labels = np.array([next((index[part] for part in parts if part in index), -1) for parts in folders])
            return labels if len(set(labels[labels >= 0])) > 1 else np.full(len(labels), -1)
        known = _read_labels(table)
        classes = [known.get(Path(name).as_posix(), known.get(Path(name).name)) for name in side.names]
        if missing := [name for name, label in zip(side.names, classes, strict=True) if label is None]:
            raise DataError(f"{table} has no label for {len(missing)} of {len(classes)} images, e.g. {missing[0]}.")
        if odd := [label for label in classes if label not in index]:
            raise DataError(f"{table} has the label '{odd[0]}'; the judge's classes are {', '.join(self.classes)}.")
        return np.array([index[str(label)] for label in classes])


def _read_labels(table: Path) -> dict[str, str]:
    """Read a CSV file with the columns file and label into a mapping of file to label."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {row["file"]: row["label"].strip() for row in rows}
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}.") from None
    except (KeyError, AttributeError, ValueError, csv.Error):
        raise DataError(f"--labels takes a CSV file with the columns file and label; {table} is not one.") from None
