"""The quality of each equalized image: how far to trust it."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.covariance import LedoitWolf

from img2img.data.picture import Array
from img2img.lab.checks import is_flat, saturated
from img2img.lab.judgement.features import image_features

BINS = 256  # of the fit of intensity alone
SATURATED = 0.01  # share of pixels at the top of the range above which an image is flagged
BEYOND = 1.5  # times the distance of the farthest fitted image; beyond it an image is unfamiliar
FOLDS = 5  # a fitted image is judged without its fold, or a small fit would find all others unfamiliar


@dataclass(frozen=True)
class Familiarity:
    """The distance of an image from the fitted images of its batch: the Mahalanobis distance of its features.

    The covariance is that within batches, shrunk (Ledoit and Wolf 2004).

    Attributes:
        centres: (B, f), the batches' medians.
        precision: (f, f), of features in units of `spread`.
        spread: (f,).
        limit: `BEYOND` times the distance of the farthest fitted image from the other folds.
    """

    centres: Array
    precision: Array
    spread: Array
    limit: Array

    @classmethod
    def of(cls, features: Array, batch: Array) -> Self:
        """Fit to features (n, f) and batch numbers (n,), at least two of each batch."""
        fold = np.zeros(len(batch), int)
        for b in np.unique(batch):
            fold[batch == b] = np.arange((batch == b).sum()) % FOLDS
        farthest = 1e-9
        for k in np.unique(fold):
            others = cls._of(features[fold != k], batch[fold != k])
            judged = zip(features[fold == k], batch[fold == k], strict=True)
            farthest = max(farthest, *(others.distance(x, int(b)) for x, b in judged))
        return replace(cls._of(features, batch), limit=np.array(BEYOND * farthest))

    @classmethod
    def _of(cls, features: Array, batch: Array) -> Self:
        centres = np.stack([np.median(features[batch == b], 0) for b in range(int(batch.max()) + 1)])
        rest = features - centres[batch]
        spread = rest.std(0)
        spread[spread == 0] = 1
        precision = LedoitWolf(assume_centered=True).fit(rest / spread).precision_
        return cls(centres, precision, spread, np.array(np.inf))

    def distance(self, features: Array, batch: int) -> float:
        """Return the distance of one image's features (f,) from its batch."""
        rest = (features - self.centres[batch]) / self.spread
        return float(np.sqrt(max(rest @ self.precision @ rest, 0)))

    def with_batch(self, features: Array) -> Self:
        """Return the state with the centre of one more batch, whose features are (n, f)."""
        centres = np.concatenate([self.centres, np.median(features, 0)[None]])
        return replace(self, centres=centres)


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


def quality_of(
    before: Array, after: Array, scale: Array, familiarity: Familiarity, batch: int | None
) -> dict[str, Any]:
    """Return the row of one image in the quality table.

    Args:
        before: the image (C, H, W).
        after: the equalized image, neither rounded nor clipped, in pixel values.
        scale: low and high value of each channel (C, 2).
        familiarity: of the fitted images.
        batch: the number of its batch; None if that was not fitted.

    Returns:
        "clipped": share of the pixels that the type could not hold; "saturated": share at the top of the camera's
        range; "unfamiliar": distance from the batch's fit, over the limit; "change": 99.9th percentile of
        `change_map`, of the range, in the worst channel; "flags": what is unusual, in words.
    """
    row: dict[str, Any] = {"clipped": 0.0}
    if not before.size:
        return row | {"saturated": 0.0, "unfamiliar": float("nan"), "change": 0.0, "flags": "empty"}
    if before.dtype.kind == "u":
        top = np.iinfo(before.dtype).max
        row["clipped"] = float(((after < -0.5) | (after > top + 0.5)).mean())
    row["saturated"] = float(saturated(before).max())
    row["unfamiliar"] = float("nan")
    if batch is not None:
        row["unfamiliar"] = familiarity.distance(image_features(before, scale), batch) / float(familiarity.limit)
    span = scale[:, 1] - scale[:, 0]
    changes = [np.quantile(np.abs(change_map(b, a)), 0.999) for b, a in zip(before, after, strict=True)]
    row["change"] = float((np.array(changes) / span).max())
    flags = {
        "empty": is_flat(before),
        "clipped": row["clipped"] > 0,
        "saturated": row["saturated"] > SATURATED,
        "unfamiliar": row["unfamiliar"] > 1,
        "unknown batch": batch is None,
    }
    row["flags"] = ", ".join(name for name, raised in flags.items() if raised)
    return row
