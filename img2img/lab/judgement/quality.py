"""The quality of each equalized image: how far to trust it."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.covariance import LedoitWolf

from img2img.data.picture import Array
from img2img.errors import ConfigError
from img2img.lab.checks import is_flat, saturated
from img2img.lab.judgement.features import FINE, PAIRED, SIDE, feature_names, image_features, quick_features
from img2img.lab.large import LargeImage

BINS = 256  # of the fit of intensity alone
SATURATED = 0.01  # share of pixels at the top of the range above which an image is flagged
BEYOND = 1.5  # times the distance of the farthest fitted image; beyond it an image is unfamiliar
LEAST = 1e-3  # spread of a feature; what varies less than this, such as the darkest of whole numbers, counts as equal
FOLDS = 5  # a fitted image is judged without its fold, or a small fit would find all others unfamiliar


@dataclass(frozen=True)
class Familiarity:
    """The distance of an image from the fitted images of its batch: the Mahalanobis distance of its features.

    The covariance is that within batches, shrunk (Ledoit and Wolf 2004). It has one block for all features; beyond
    `PAIRED` channels it has one for each channel, so that time and memory grow with the number of channels only.

    Attributes:
        centres: (B, f), the batches' medians.
        precision: (f, m), of features in units of `spread`: f / m blocks (m, m), one below the other; see `_blocks`.
        spread: (f,).
        limit: `BEYOND` times the distance of the farthest fitted image from the other folds.
    """

    centres: Array
    precision: Array
    spread: Array
    limit: Array

    @classmethod
    def of(cls, features: Array, batch: Array, channels: int) -> Self:
        """Fit to features (n, f) of images with so many channels and batch numbers (n,), at least two of each batch."""
        blocks = 1 if channels <= PAIRED else channels
        fold = np.zeros(len(batch), int)
        for b in np.unique(batch):
            fold[batch == b] = np.arange((batch == b).sum()) % FOLDS
        farthest = 1e-9
        for k in np.unique(fold):
            others = cls._of(features[fold != k], batch[fold != k], blocks)
            judged = zip(features[fold == k], batch[fold == k], strict=True)
            farthest = max(farthest, *(others.distance(x, int(b)) for x, b in judged))
        return replace(cls._of(features, batch, blocks), limit=np.array(BEYOND * farthest))

    @classmethod
    def _of(cls, features: Array, batch: Array, blocks: int) -> Self:
        centres = np.stack([np.median(features[batch == b], 0) for b in range(int(batch.max()) + 1)])
        rest = features - centres[batch]
        spread = np.maximum(rest.std(0), LEAST)
        parts = _blocks(rest / spread, blocks)
        precision = [LedoitWolf(assume_centered=True).fit(part).precision_ for part in parts]
        return cls(centres, np.concatenate(precision), spread, np.array(np.inf))

    def features(self, image: Array | LargeImage, scale: Array) -> Array:
        """Return the features (f,) of an image (C, H, W), as they were fitted.

        Up to version 0.1 those were `image_features`.
        """
        if len(self.spread) != len(feature_names(len(image))):
            return quick_features(image, scale)
        if isinstance(image, LargeImage):
            raise ConfigError(
                "An equalizer of version 0.1 measures the quality of whole images; leave that out (--no-quality), or "
                "fit again."
            )
        return image_features(image, scale)

    def distance(self, features: Array, batch: int) -> float:
        """Return the distance of one image's features (f,) from its batch."""
        size = self.precision.shape[1]
        precision = self.precision.reshape(-1, size, size)
        rest = _blocks((features - self.centres[batch])[None] / self.spread, len(precision))
        return float(np.sqrt(max(np.einsum("kni,kij,knj->", rest, precision, rest), 0)))

    def with_batch(self, features: Array) -> Self:
        """Return the state with the centre of one more batch, whose features are (n, f)."""
        centres = np.concatenate([self.centres, np.median(features, 0)[None]])
        return replace(self, centres=centres)


def _blocks(features: Array, blocks: int) -> Array:
    """Return features (n, f) in blocks (blocks, n, m): all together, or those of each channel, the fine ones last."""
    if blocks == 1:
        return features[None]
    cut = features.shape[1] - FINE * blocks
    parts = (part.reshape(len(features), blocks, -1) for part in (features[:, :cut], features[:, cut:]))
    return np.concatenate(list(parts), 2).swapaxes(0, 1)


def change_map(before: Array, after: Array) -> Array:
    """Return what no intensity curve explains: `after` minus the best function of `before` alone, float64 (H, W)."""
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, before.ravel(), "right")
    count = np.bincount(bins)
    # Within a bin the best curve still rises: a straight line through the bin, not its mean.
    x, y = before.ravel().astype(np.float64), after.ravel().astype(np.float64)
    present = np.maximum(count, 1)
    mean_x, mean_y = np.bincount(bins, x) / present, np.bincount(bins, y) / present
    dx = x - mean_x[bins]
    variance = np.bincount(bins, dx * dx)
    slope = np.divide(np.bincount(bins, dx * y), variance, out=np.zeros_like(variance), where=variance > 0)
    rest: Array = y - mean_y[bins] - slope[bins] * dx
    return rest.reshape(before.shape)


def change_step(shape: tuple[int, ...]) -> int:
    """Return the step of the grid on which the change of an image (C, H, W) is measured."""
    return max(1, min(shape[1:]) // SIDE)


def largest_change(before: Array, after: Array, scale: Array, step: int | None = None) -> float:
    """Return the 99.9th percentile of `change_map`, of the range, in the worst channel of an image (C, H, W).

    Of large images a regular grid of about `SIDE` pixels a side is used, unless `step` says which.
    """
    step = step or change_step(before.shape)
    pairs = zip(before[:, ::step, ::step], after[:, ::step, ::step], scale[:, 1] - scale[:, 0], strict=True)
    return max(float(np.quantile(np.abs(change_map(was, now)), 0.999) / span) for was, now, span in pairs)


def lost(values: Array, dtype: Any) -> Array:
    """Return which values (...,) an integer type cannot hold, even rounded."""
    limits = np.iinfo(dtype)
    return np.asarray((values < limits.min - 0.5) | (values > limits.max + 0.5))


def quality_of(
    image: Array | LargeImage, scale: Array, familiarity: Familiarity, batch: int | None, clipped: float, change: float
) -> dict[str, Any]:
    """Return the row of one image in the quality table.

    Args:
        image: the image (C, H, W), before.
        scale: low and high value of each channel (C, 2).
        familiarity: of the fitted images.
        batch: the number of its batch; None if that was not fitted.
        clipped: share of the result's pixels that are `lost`.
        change: of the result, see `largest_change`; 0 if it is a curve of the image.

    Returns:
        "clipped"; "saturated": share at the top of the camera's range; "unfamiliar": distance from the batch's fit,
        over the limit; "change"; "flags": what is unusual, in words.
    """
    row: dict[str, Any] = {"clipped": clipped}
    if not image.size:
        return row | {"saturated": 0.0, "unfamiliar": float("nan"), "change": 0.0, "flags": "empty"}
    row["saturated"] = float(saturated(image).max())
    row["unfamiliar"] = float("nan")
    if batch is not None:
        row["unfamiliar"] = familiarity.distance(familiarity.features(image, scale), batch) / float(familiarity.limit)
    row["change"] = change
    flags = {
        "empty": is_flat(image),
        "clipped": row["clipped"] > 0,
        "saturated": row["saturated"] > SATURATED,
        "unfamiliar": row["unfamiliar"] > 1,
        "unknown batch": batch is None,
    }
    row["flags"] = ", ".join(name for name, raised in flags.items() if raised)
    return row
