"""Classes of generated images, by a small classifier trained on real ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.data.picture import Array
from img2img.data.scale import Scale
from img2img.errors import DataError

BATCH, LEARNING_RATE = 128, 1e-3


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
        held_out: share of the images of each class on which `accuracy` is measured.
        seed: the seed of weights and order.

    Attributes:
        accuracy: the accuracy on these, in [0, 1].
        tested: their number.
    """

    def __init__(
        self, images: Array, labels: Sequence[int] | Array, epochs: int = 3, held_out: float = 0.1, seed: int = 0
    ) -> None:
        labels = np.asarray(labels)
        if len(images) != len(labels) or len(images) < 10:
            raise DataError(
                f"A classifier needs at least 10 images and a label for each, not {len(images)} and {len(labels)}."
            )
        self.scale = Scale.of(images, str(images.dtype))
        x, y = self._encode(images), torch.from_numpy(labels.astype(np.int64))
        order = np.random.default_rng(seed).permutation(len(x))
        by_class = [order[labels[order] == k] for k in np.unique(labels)]
        test = np.concatenate([rows[: max(1, round(len(rows) * held_out))] for rows in by_class])
        train = torch.from_numpy(order[~np.isin(order, test)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network(x.shape[1], int(y.max()) + 1)
            self._train(x, y, train, epochs)
        self.tested = len(test)
        self.accuracy = float((self.probabilities(x[test]).argmax(1) == y[test]).float().mean())

    def _encode(self, images: Array) -> Tensor:
        return torch.stack([self.scale.encode(x if x.ndim == 3 else x[..., None]) for x in np.asarray(images)])

    def _train(self, x: Tensor, y: Tensor, rows: Tensor, epochs: int) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
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
