"""A small classifier of real images, and the judge of what results look like that it makes."""

import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core.optimizers import Adam
from img2img.data.domain import Domain
from img2img.data.folders import scan
from img2img.data.images import resize
from img2img.data.labels import Table
from img2img.data.picture import Array
from img2img.data.scale import Scale
from img2img.errors import DataError
from img2img.evaluation.sides import Side

BATCH, LEARNING_RATE = 128, 1e-3
HELD_OUT, SEED = 0.1, 0
EDGE = 64  # pixels that images are resized to
EPOCHS = 8
LEAST = 10  # images of a class


class Coverage(NamedTuple):
    """Class coverage of generated images.

    Attributes:
        shares: the share of images in each class, (classes,).
        confident: the share of images classified with a confidence above 0.9, in [0, 1].
        accuracy: the accuracy of the classifier on unseen real images, in [0, 1].
    """

    shares: Array
    confident: float
    accuracy: float

    @property
    def present(self) -> int:
        """Number of classes with at least one image."""
        return int((self.shares > 0).sum())


class Classifier:
    """Two convolutions and two linear layers; classifies simple images such as digits.

    Args:
        images: real images (n, H, W) or (n, H, W, C).
        labels: the class of each image, integers from 0.
        epochs: passes over the images.

    Attributes:
        accuracy: the accuracy on `HELD_OUT` of the images of each class, which it does not see, in [0, 1].
        tested: their number.
    """

    def __init__(self, images: Array, labels: Sequence[int] | Array, epochs: int = 3) -> None:
        labels = np.asarray(labels)
        if len(images) != len(labels) or len(images) < 10:
            raise DataError(
                f"A classifier needs at least 10 images and a label for each, not {len(images)} and {len(labels)}."
            )
        self.scale = Scale.of(images, str(images.dtype))
        x, y = self._encode(images), torch.from_numpy(labels.astype(np.int64))
        order = np.random.default_rng(SEED).permutation(len(x))
        by_class = [order[labels[order] == k] for k in np.unique(labels)]
        test = np.concatenate([rows[: max(1, round(len(rows) * HELD_OUT))] for rows in by_class])
        train = torch.from_numpy(order[~np.isin(order, test)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.network = _network(x.shape[1], int(y.max()) + 1)
            self._train(x, y, train, epochs)
        self.tested = len(test)
        self.accuracy = float((self.probabilities(x[test]).argmax(1) == y[test]).float().mean())

    def _encode(self, images: Array) -> Tensor:
        return torch.stack([self.scale.encode(x if x.ndim == 3 else x[..., None]) for x in np.asarray(images)])

    def _train(self, x: Tensor, y: Tensor, rows: Tensor, epochs: int) -> None:
        optimizer = Adam(self.network.parameters(), lr=LEARNING_RATE)
        for _ in range(epochs):
            for batch in torch.split(rows[torch.randperm(len(rows))], BATCH):
                loss = F.cross_entropy(self.network(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.network.eval()

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities (n, classes) for encoded images (n, C, H, W)."""
        return torch.cat([self.network(batch).softmax(1) for batch in torch.split(x, 1024)])

    def classify(self, images: Array) -> Array:
        """Return the class of each image, (n,); images of the kind that it was trained on."""
        return np.asarray(self.probabilities(self._encode(images)).argmax(1))

    def coverage(self, images: Array) -> Coverage:
        """Return the class coverage of generated images of the kind that it was trained on."""
        probabilities = self.probabilities(self._encode(images))
        confidence, classes = probabilities.max(1)
        shares = torch.bincount(classes, minlength=probabilities.shape[1]) / len(images)
        return Coverage(shares.numpy(), float((confidence > 0.9).float().mean()), self.accuracy)


def _network(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(7),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


class Judge:
    """Classifies images.

    Args:
        folder: a folder with a sub-folder of real images per class.
        pages: what the pages of a file are, see `data.folders.readable`.

    Attributes:
        classes: their names.
        kind: the channels and the type of the images, in words.
        accuracy: the accuracy on unseen real images, a tenth of each class, in [0, 1].
        tested: the number of these images.

    Raises:
        DataError: if there are too few classes or images, or the images are of different kinds.
    """

    def __init__(self, folder: Path, pages: str = "images") -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder} for --judge.")
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if len(self.classes) < 2:
            raise DataError(f"--judge needs a sub-folder per class, at least two; {folder} holds {len(self.classes)}.")
        found = [scan(folder / name, pages) for name in self.classes]
        counts = {name: len(headers) for name, headers in zip(self.classes, found, strict=True)}
        if few := [f"{name} has {count}" for name, count in counts.items() if count < LEAST]:
            raise DataError(f"--judge needs at least {LEAST} images of each class; in {folder} {', '.join(few)}.")
        side = Side(Domain.of("of the judge", list(chain.from_iterable(found))), lambda x: resize(x, EDGE, EDGE))
        self.kind = side.kind
        labels = np.repeat(np.arange(len(found)), list(counts.values()))
        self.classifier = Classifier(np.stack(list(side)), labels, epochs=EPOCHS)
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
        known = Table(table).labels
        files = [Path(unicodedata.normalize("NFC", name)) for name in side.names]
        classes = [known.get(file.as_posix(), known.get(file.name)) for file in files]
        if missing := [name for name, label in zip(side.names, classes, strict=True) if label is None]:
            raise DataError(f"{table} has no label for {len(missing)} of {len(classes)} images, e.g. {missing[0]}.")
        if odd := [label for label in classes if label not in index]:
            raise DataError(f"{table} has the label '{odd[0]}'; the judge's classes are {', '.join(self.classes)}.")
        return np.array([index[str(label)] for label in classes])
