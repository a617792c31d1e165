"""The measurements of images, from which those of their batches follow, and the way from each batch to the target."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from img2img.data.picture import Array
from img2img.lab.checks import threads
from img2img.lab.curves import effects, field, tone, trend
from img2img.lab.curves.effects import Levels, Moves
from img2img.lab.curves.tone import CONTRASTS, MODES

FEWEST = 2  # images with foreground that a batch needs before its contrast is compared
FARTHEST = np.log(4)  # of a log gain; beyond it the stain has failed, or the channel is another
EXPECTED = 0.25  # log gain; plates differ by about as much, and hardly more because their wells do
UNKNOWN = 1e6  # variance of the contrast of a batch without foreground


@dataclass(frozen=True)
class Measured:
    """The measurements of B batches with C channels.

    Attributes:
        levels: (B, C, 1 + K), background and log contrasts, as `tone.measure` returns them.
        backgrounds: of each channel, with one measurement.
        contrasts: of each channel, the weights of `tone.MODES` of the batches whose contrast can be compared.
        seen: number of images with foreground, (B, C).
        images: number of images of each batch, (B,).
        groups: number of groups of each batch, (B,).
        trends: (B, C, 2, 2), as `Correction` has them.
    """

    levels: Array
    backgrounds: list[Levels]
    contrasts: list[Levels | None]
    seen: Array
    images: Array
    groups: Array
    trends: Array

    @property
    def comparable(self) -> Array:
        """Tell whether a batch has foreground enough in a channel, (B, C)."""
        return self.seen >= FEWEST

    def moves(self, weights: Array) -> Moves:
        """Return the way from each batch to the target, a weighted mean of the batches with these weights (B,).

        Every array is (B, C, 1 + K): the background, and the weights of `tone.MODES`, whose first is the log gain; NaN
        and not corrected where the batch or the target shows no foreground. A channel whose contrast is more than
        `FARTHEST` away is not corrected at all.
        """
        out = np.full((4, *self.levels.shape), np.nan)
        out[2] = 0
        for c, (background, contrasts) in enumerate(zip(self.backgrounds, self.contrasts, strict=True)):
            out[:, :, c, :1] = _stacked(effects.moves(background, weights))
            enough = self.comparable[:, c]
            if contrasts is not None and weights[enough].sum() > 0:
                part = weights[enough] / weights[enough].sum()
                out[:, enough, c, 1:] = _stacked(effects.moves(contrasts, part, EXPECTED))
        found, error, applied, left = out
        applied[np.abs(found[..., 1]) > FARTHEST] = 0
        return Moves(found, error, applied, left)

    def target(self, weights: Array) -> tuple[Array, Array]:
        """Return the level of the target (C, 1 + K), and its covariance (C, 1 + K, 1 + K)."""
        level = np.einsum("b,bck->ck", weights, self.levels)
        covariance = np.zeros((*level.shape, level.shape[1]))
        for c, (background, contrasts) in enumerate(zip(self.backgrounds, self.contrasts, strict=True)):
            covariance[c, :1, :1] = weights @ background.covariance @ weights
            enough = self.comparable[:, c]
            variance = np.full(len(MODES), UNKNOWN)
            if contrasts is not None and weights[enough].sum() > 0:
                part = weights[enough] / weights[enough].sum()
                variance = np.einsum("a,kab,b->k", part, contrasts.covariance, part)
            covariance[c, 1:, 1:] = (CONTRASTS * variance) @ CONTRASTS.T
        return level, covariance

    def beside(self, level: Array, covariance: Array) -> "Measured":
        """Return the measurements of a target, as `target` returned it, and of this one batch."""
        known = np.diagonal(covariance[:, 1:, 1:], 0, 1, 2).max(1) < UNKNOWN
        modes = np.einsum("kj,cjl,kl->ck", MODES, covariance[:, 1:, 1:], MODES)
        return replace(
            self,
            levels=np.concatenate([level[None], self.levels]),
            backgrounds=[
                _beside(own, level[c, :1], covariance[c, :1, :1].diagonal(), self.images[0])
                for c, own in enumerate(self.backgrounds)
            ],
            contrasts=[
                None if own is None or not known[c] else _beside(own, MODES @ level[c, 1:], modes[c], self.images[0])
                for c, own in enumerate(self.contrasts)
            ],
            seen=np.concatenate([np.where(known, FEWEST, 0)[None], self.seen]),
        )


def _stacked(moves: Moves) -> Array:
    return np.stack([moves.found, moves.error, moves.applied, moves.left])


def _beside(own: Levels, level: Array, variance: Array, images: int) -> Levels:
    """Return the levels of a target whose level and variances (k,) are known, and of the one batch of `own`.

    The images of the target are supposed to be as many, `images`, so that their spread follows from the variance.
    """
    covariance = np.zeros((len(level), 2, 2))
    covariance[:, 0, 0], covariance[:, 1, 1] = variance, own.covariance[:, 0, 0]
    within = np.maximum(own.within, np.sqrt(variance * images))
    return replace(own, values=np.stack([level, own.values[0]]), covariance=covariance, within=within)


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
        wells: row and column of the image's well, from -1 to 1, (n, 2); None if trends along the plate are not looked
            for.
    """

    images: Sequence[Array]
    batch: Array
    group: Sequence[str]
    count: int
    signs: Array
    n_jobs: int
    wells: Array | None = None

    def _each(self, function: Callable[[Array, int], Any]) -> list[list[Any]]:
        """Return `function(plane, sign)` of every channel of every image."""

        def one(i: int) -> list[Any]:
            found: list[Any] = remembered(self.images, i, _by_channel, function, tuple(self.signs.tolist()))
            return found

        with ThreadPoolExecutor(threads(self.n_jobs)) as pool:
            return list(pool.map(one, range(len(self.images))))

    def measured(self, even: Callable[[int], Array | None] = lambda i: None) -> Measured:
        """Return the measurements of the batches; those of `even(i)` instead of image `i` unless that is None."""

        def one(i: int) -> Array:
            image = even(i)
            return levels_of(*((self.images, i) if image is None else ([image], 0)), self.signs)

        with ThreadPoolExecutor(threads(self.n_jobs)) as pool:
            levels = np.array(list(pool.map(one, range(len(self.images)))))
        return measured_of(levels, self.batch, self.group, self.count, self.wells)

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


def measured_of(y: Array, batch: Array, group: Sequence[str], count: int, wells: Array | None = None) -> Measured:
    """Return the measurements of `count` batches from those of their images, `tone.measure` of each (n, C, 1 + K).

    With the places of their `wells` (n, 2), the levels are those of the middle of the plate.
    """
    _, channels, columns = y.shape
    trends = np.zeros((count, channels, 2, 2))
    if wells is not None:
        trends = trend.fit(y, batch, group, count, wells)
        rise = np.einsum("ncjt,nt->ncj", trends[batch], wells)
        y = y - rise[:, :, [0] + [1] * (columns - 1)]
    levels, names = np.zeros((count, channels, columns)), np.asarray(group)
    backgrounds: list[Levels] = []
    contrasts: list[Levels | None] = []
    visible = ~np.isnan(y[:, :, 1])
    seen = np.stack([np.bincount(batch[v], minlength=count) for v in visible.T], 1)
    for c in range(channels):
        backgrounds.append(effects.batch_levels(y[:, c, :1], batch, group, count))
        levels[:, c, :1] = backgrounds[-1].values
        enough = seen[:, c] >= FEWEST
        used = visible[:, c] & enough[batch]
        found = None
        if enough.any():
            number = enough.cumsum()[batch[used]] - 1
            found = effects.batch_levels(y[used, c, 1:] @ MODES.T, number, names[used].tolist(), int(enough.sum()))
            levels[enough, c, 1:] = found.values @ CONTRASTS.T
            levels[~enough, c, 1:] = levels[enough, c, 1:].mean(0)
        contrasts.append(found)
    groups = np.array([len(set(names[batch == b].tolist())) for b in range(count)])
    return Measured(levels, backgrounds, contrasts, seen, np.bincount(batch, minlength=count), groups, trends)


def log_contrasts(images: Sequence[Array], signs: Array) -> Array:
    """Return the mean log contrast of each image's foreground, (n, C); NaN where there is none."""
    return np.array([levels_of(images, i, signs)[:, 1:].mean(1) for i in range(len(images))])


def levels_of(images: Sequence[Array], i: int, signs: Array) -> Array:
    """Return `tone.measure` of each channel of image `i`, (C, 1 + K)."""
    return np.array([levels for levels, _ in remembered(images, i, _by_channel, tone.look, tuple(signs.tolist()))])


def _by_channel(image: Array, function: Callable[[Array, int], Any], signs: tuple[int, ...]) -> list[Any]:
    return [function(plane, sign) for plane, sign in zip(image, signs, strict=True)]


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


def signs(images: Sequence[Array], most: int, n_jobs: int = 1) -> Array:
    """Return `tone.signs` of all images, on which at most `most` of them vote."""
    voters = np.linspace(0, len(images) - 1, min(most, len(images))).astype(int).tolist()
    bright = (1,) * len(images[0])  # if that is so, the votes are not counted in vain

    def share(i: int) -> list[float]:
        return [share for _, share in remembered(images, i, _by_channel, tone.look, bright)]

    with ThreadPoolExecutor(threads(n_jobs)) as pool:
        return tone.signs(np.array(list(pool.map(share, voters))))
