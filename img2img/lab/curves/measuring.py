"""The measurements of images, from which those of their batches follow, and how certain these are."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from img2img.data.picture import Array
from img2img.lab.checks import threads
from img2img.lab.curves import field, tone
from img2img.lab.curves.effects import batch_levels, freedom, widening

FEWEST = 2  # images with foreground that a batch needs before its contrast is compared


@dataclass(frozen=True)
class Measured:
    """The measurements of B batches with C channels, and their uncertainty.

    Attributes:
        levels: (B, C, 1 + K), background and log contrasts, as `tone.measure` returns them.
        covariances: of the levels, (C, 1 + K, B, B) between batches.
        correlations: (C, 1 + K, 1 + K) between the columns of one batch.
    """

    levels: Array
    covariances: Array
    correlations: Array

    def along(self, weights: Array) -> tuple[Array, Array]:
        """Return the weighted sum of the batches (C, 1 + K), and its covariance (C, 1 + K, 1 + K)."""
        deviation = np.sqrt(np.maximum(np.einsum("a,ckab,b->ck", weights, self.covariances, weights), 0))
        return (
            np.einsum("b,bck->ck", weights, self.levels),
            deviation[:, :, None] * deviation[:, None] * self.correlations,
        )


@dataclass(frozen=True)
class Sample:
    """Images (C, H, W) of several batches, measured one at a time.

    Attributes:
        images: the images; at most one per thread is in memory.
        batch: the batches of the images, numbered from 0, (n,).
        group: the groups of the images.
        count: number of batches.
        signs: (C,), 1 where the foreground is bright, -1 where it is dark.
        n_jobs: threads; -1 is one for each core.
    """

    images: Sequence[Array]
    batch: Array
    group: Sequence[str]
    count: int
    signs: Array
    n_jobs: int

    def _each(self, function: Callable[[Array, int], Any]) -> list[list[Any]]:
        """Return `function(plane, sign)` of every channel of every image."""

        def one(i: int) -> list[Any]:
            found: list[Any] = remembered(self.images, i, _by_channel, function, tuple(self.signs.tolist()))
            return found

        with ThreadPoolExecutor(threads(self.n_jobs)) as pool:
            return list(pool.map(one, range(len(self.images))))

    def measured(self) -> Measured:
        """Return the levels of the batches."""
        y, batch, count = np.array(self._each(tone.measure)), self.batch, self.count  # (n, C, 1 + K)
        _, channels, columns = y.shape
        levels, covariances = np.zeros((count, channels, columns)), np.zeros((channels, columns, count, count))
        correlations = np.tile(np.eye(columns), (channels, 1, 1))
        names = np.asarray(self.group)
        for c in range(channels):
            levels[:, c, :1], covariances[c, :1] = batch_levels(y[:, c, :1], batch, self.group, count)
            seen = ~np.isnan(y[:, c, 1])
            enough = np.bincount(batch[seen], minlength=count) >= FEWEST
            # A batch without visible foreground has no contrast to correct: it gets the others' mean, in full doubt.
            covariances[c, 1:][:, ~enough, ~enough] = 1e6
            if not enough.any():
                continue
            seen &= enough[batch]
            numbers = np.cumsum(enough) - 1
            found, sure = batch_levels(y[seen, c, 1:], numbers[batch[seen]], names[seen].tolist(), int(enough.sum()))
            levels[enough, c, 1:], levels[~enough, c, 1:] = found, found.mean(0)
            for k, block in enumerate(sure, start=1):
                covariances[c, k][np.ix_(enough, enough)] = block
            rest = y[seen, c] - levels[batch[seen], c]
            if (rest.std(0) > 0).all():
                correlations[c] = np.corrcoef(rest.T)
        return Measured(levels, covariances * widening(freedom(batch, self.group, count)), correlations)

    def fields(self) -> tuple[Array, Array]:
        """Return light and background of each batch (B, C, 2, 5), and their covariances (B, C, 2, 5, 5)."""
        systems = self._each(field.equations)
        coefficients = np.zeros((self.count, len(self.signs), 2, field.TERMS))
        covariances = np.zeros((*coefficients.shape, field.TERMS))
        names = np.asarray(self.group)
        for b, c, j in np.ndindex(coefficients.shape[:3]):
            members = np.flatnonzero(self.batch == b)
            parts = [systems[i][c][j] for i in members]
            coefficients[b, c, j], covariances[b, c, j] = field.fit(parts, names[members].tolist())
        return coefficients, covariances


def _by_channel(image: Array, function: Callable[[Array, int], Any], signs: tuple[int, ...]) -> list[Any]:
    return [function(plane, sign) for plane, sign in zip(image, signs, strict=True)]


def _vote(image: Array) -> Array:
    return tone.signs([image], len(image))


class Remembered(Sequence[Array]):
    """Images with what was measured of each, so that no fit to some of them measures one twice."""

    def __init__(self, images: Sequence[Array], members: Sequence[int] | None = None) -> None:
        self.images, self.members = images, range(len(images)) if members is None else members
        self.known: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i: Any) -> Any:
        return self.images[self.members[i]]

    def part(self, members: Sequence[int]) -> "Remembered":
        """Return some of the images, with the same memory."""
        some = Remembered(self.images, [self.members[i] for i in members])
        some.known = self.known
        return some


def remembered(images: Sequence[Array], i: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(images[i], *arguments)`, computed only once if the images are `Remembered`."""
    if not isinstance(images, Remembered):
        return function(images[i], *arguments)
    key = function, images.members[i], arguments
    if key not in images.known:
        images.known[key] = function(images[i], *arguments)
    return images.known[key]


def signs(images: Sequence[Array], most: int) -> Array:
    """Return `tone.signs` of all images, on which at most `most` of them vote."""
    voters = np.linspace(0, len(images) - 1, min(most, len(images))).astype(int).tolist()
    return np.where(np.sum([remembered(images, i, _vote) for i in voters], 0) < 0, -1, 1)
