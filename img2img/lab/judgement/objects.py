"""Objects (nuclei, cells): segmenting and comparing them, measuring inside them, and detecting what moved or appeared.

The segmentation is deliberately the plainest that works: applied to the input and the output, it shows whether a method
changed what a lab's own segmentation would see. It is invariant to affine changes of the intensities.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.registration import phase_cross_correlation
from skimage.segmentation import watershed

from img2img.data.picture import Array
from img2img.lab.judgement.features import in_range

SMOOTH = 1.0  # standard deviation in pixels, before the threshold
SEED_SMOOTH, SEED_DISTANCE = 1.0, 5  # pixels: of the distance map, and between the centres of two objects
SMALLEST = 30  # pixels; smaller objects are dust
OVERLAP = 0.5  # intersection over union above which two objects match
STRONG = 0.9  # quantile of the gradient above which an edge is strong
WINDOW = 7  # pixels across, of the local regression
UPSAMPLE = 50  # shifts are resolved to 1/50 pixel
SIGNAL = 0.005  # of the range; a channel whose objects are no brighter than this above background has no signal
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
FEATURE_NAMES = ("mean", "sd", *(f"quantile {level:g}" for level in LEVELS), "texture")


def segment(plane: Array, dark: bool = False) -> Array:
    """Label the objects of an image: Otsu's threshold on the smoothed image, holes filled, touching objects split.

    The threshold ignores the extreme 0.1 % of the pixels. Objects are split by a watershed of the distance to their
    border. Only a constant image counts as empty: noise alone is cut into meaningless objects.

    Returns:
        Labels (H, W), int32; 0 is background.
    """
    x = plane.astype(np.float64) * (-1 if dark else 1)
    low, high = np.quantile(x, (0.001, 0.999))
    nothing = np.zeros(plane.shape, np.int32)
    if high <= low:
        return nothing
    x = ndimage.gaussian_filter((x.clip(low, high) - low) / (high - low), SMOOTH)
    mask = ndimage.binary_fill_holes(x > threshold_otsu(x))  # type: ignore[no-untyped-call]
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), SEED_SMOOTH)
    centres = peak_local_max(  # type: ignore[no-untyped-call]
        distance, min_distance=SEED_DISTANCE, labels=mask.astype(np.int32), exclude_border=False
    )
    seeds = nothing.copy()
    seeds[tuple(centres.T)] = np.arange(1, len(centres) + 1)
    labels = watershed(-distance, seeds, mask=mask)  # type: ignore[no-untyped-call]
    sizes = np.bincount(labels.ravel())
    keep = sizes >= SMALLEST
    keep[0] = False
    return np.asarray(np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels])


def compare(reference: Array, labels: Array) -> dict[str, float]:
    """Compare two labellings (H, W) of one image; labels need not be consecutive.

    Returns:
        `reference_objects` and `objects`: their numbers; `dice`: of the covered area; `f1`: of the objects, where a
        match has an intersection over union above 0.5. Two empty labellings agree: 1.
    """
    before, after = reference > 0, labels > 0
    a_ids, a = np.unique(reference[before], return_counts=True)
    b_ids, b = np.unique(labels[after], return_counts=True)
    both = before & after
    pairs, common = np.unique(np.stack([reference[both], labels[both]], 1), axis=0, return_counts=True)
    union = a[np.searchsorted(a_ids, pairs[:, 0])] + b[np.searchsorted(b_ids, pairs[:, 1])] - common
    matches = int((common > OVERLAP * union).sum())  # above one half no object can match twice
    return {
        "reference_objects": float(len(a_ids)),
        "objects": float(len(b_ids)),
        "dice": _dice(int(both.sum()), int(before.sum()), int(after.sum())),
        "f1": _dice(matches, len(a_ids), len(b_ids)),
    }


def _dice(common: int, a: int, b: int) -> float:
    return 2 * common / (a + b) if a + b else 1.0


def structure(reference: Sequence[Array], before: Sequence[Array], after: Sequence[Array]) -> dict[str, float]:
    """Score the objects of several images: labels of the reference, those found in the input, and in the output.

    Returns:
        `f1` and `dice` of the output, means over images; `f1_drop` from the input; `count_error`, surplus and missing
        objects summed over images, as a share of all; `count_excess` over the input's. NaN if there are no objects.
    """
    pairs = [(r, b, a) for r, b, a in zip(reference, before, after, strict=True) if r.any()]
    if not pairs:
        return dict.fromkeys(("f1", "f1_drop", "dice", "count_error", "count_excess"), float("nan"))

    def scores(side: int) -> dict[str, float]:
        found = [compare(pair[0], pair[side]) for pair in pairs]
        wrong = sum(abs(a["objects"] - a["reference_objects"]) for a in found)
        means = {name: float(np.mean([a[name] for a in found])) for name in ("f1", "dice")}
        return means | {"count_error": wrong / sum(a["reference_objects"] for a in found)}

    was, now = scores(1), scores(2)
    losses = {"f1_drop": was["f1"] - now["f1"], "count_excess": now["count_error"] - was["count_error"]}
    return now | losses


def object_means(image: Array, labels: Array) -> Array:
    """Return each channel's mean inside the objects minus the median outside, (C,), in pixel values; NaN without
    objects.
    """
    inside = labels > 0
    if not inside.any() or inside.all():
        return np.full(len(image), np.nan)
    return np.asarray(image[:, inside].mean(1, dtype=np.float64) - np.median(image[:, ~inside], axis=1))


def control_shift(
    was: Array, now: Array, batch: Array, reference: str, control: Array, truth: Array | None = None
) -> float:
    """Return how much the controls of batches differ in brightness: mean over batches and channels of |log ratio|.

    The ratio is that of a batch's mean to the reference's mean; where the truth is known, it is divided by the same
    ratio in the truth, since the controls of two batches are not the same cells. Means are over images, of the objects'
    intensity above background. Channels without signal in the input do not count; NaN if there is no other, or if one
    lost its signal.

    `was`, `now` and `truth` are `object_means` of the input, the output and the images without batch effect, in units
    of the range, (n, C); only images of the mask `control` count.
    """
    names = [reference, *(name for name in np.unique(batch) if name != reference)]
    before, after, true = (
        np.stack([_log_mean(m, control & (batch == name)) for name in names])
        for m in (was, now, np.ones_like(was) if truth is None else truth)
    )
    seen = (before > np.log(SIGNAL)).all(0)
    after = after - true
    return float(np.abs(after[1:, seen] - after[0, seen]).mean()) if seen.any() else float("nan")


def effect_retention(
    was: Array, now: Array, batch: Array, reference: str, treated: Array, control: Array
) -> dict[str, float]:
    """Return how much of the treatment's effect on brightness is kept within each batch except the reference.

    The effect is the ratio of the treated to the control images' mean; its retention is the ratio after over the ratio
    before: 1 if it is kept, 1 / effect if it is erased. The mean over channels is weighted by the log of their effect,
    so that channels without effect cannot dilute the others; channels without signal do not count.

    Returns:
        `retention`, the mean over batches; `retention_off`, the average factor, at least 1, by which a batch deviates
        up or down; `retention_worst_batch` and `retention_worst_channel`, the farthest from 1; `effect`, in the input,
        of the channel where it is largest, above 1 by convention. NaN if a channel lost its signal. Empty if no batch
        has both kinds of image.
    """
    rows = [batch == name for name in np.unique(batch) if name != reference]
    rows = [here for here in rows if (here & treated).any() and (here & control).any()]
    if not rows:
        return {}
    before, after = (
        np.stack([[_log_mean(m, here & k) for k in (treated, control)] for here in rows]) for m in (was, now)
    )
    seen = (before > np.log(SIGNAL)).all(1)  # (batches, C)
    effect = np.where(seen, before[:, 0] - before[:, 1], 0)
    kept = np.where(seen, np.exp(after[:, 0] - after[:, 1] - effect), 1)
    weight = np.abs(effect) + 1e-12
    by_batch, by_channel = (np.average(kept, axis=axis, weights=weight) for axis in (1, 0))
    return {
        "retention": float(by_batch.mean()),
        "retention_off": float(np.exp(np.abs(np.log(by_batch)).mean())),
        "retention_worst_batch": _farthest(by_batch),
        "retention_worst_channel": _farthest(by_channel),
        "effect": float(np.exp(weight.mean(0).max())),
    }


def _log_mean(means: Array, rows: Array) -> Array:
    """Return the log of the mean over the images with objects, (C,); NaN where the mean is not positive."""
    chosen = means[rows & np.isfinite(means).all(1)]
    mean = chosen.mean(0) if len(chosen) else np.full(means.shape[1], np.nan)
    return np.asarray(np.log(mean, out=np.full_like(mean, np.nan), where=mean > 0))


def _farthest(ratios: Array) -> float:
    return float(ratios[np.argmax(np.abs(np.log(ratios)))])


def object_features(image: Array, labels: Array, scale: Array) -> Array:
    """Return features of the pixels inside the objects, for phenotypes: (C * len(FEATURE_NAMES),), float64.

    They are in units of the fitted range, without background subtraction; texture is the standard deviation of the
    pixels minus their 3×3 mean. Shape is left out: it is the same for every method. Zeros without objects.
    """
    inside = labels > 0
    if not inside.any():
        return np.zeros(len(image) * len(FEATURE_NAMES))
    values = []
    for plane in in_range(image, scale):
        pixels = plane[inside]
        texture = (plane - ndimage.uniform_filter(plane, 3))[inside]
        values += [pixels.mean(), pixels.std(), *np.quantile(pixels, LEVELS), texture.std()]
    return np.array(values, np.float64)


def shift(before: Array, after: Array) -> float:
    """Return how far the content moved, in pixels, by cross-correlation of the images (H, W) without coarse trends.

    NaN if either image is constant, since there is nothing to follow.
    """
    if np.array_equal(before, after):
        return 0.0
    planes = [_detail(p.astype(np.float64)) for p in (before, after)]
    if min(np.ptp(p) for p in planes) == 0:
        return float("nan")
    moved = phase_cross_correlation(  # type: ignore[no-untyped-call]
        *planes, upsample_factor=UPSAMPLE, normalization=None
    )[0]
    return float(np.hypot(*moved))


def _detail(plane: Array) -> Array:
    """Return a band of medium detail: illumination is meant to change, and noise has no position to follow."""
    return np.asarray(ndimage.gaussian_filter(plane, 1) - ndimage.gaussian_filter(plane, 4))


def edge_agreement(before: Array, after: Array) -> float:
    """Return the mean cosine between the gradients of two images (H, W), on the first one's strongest tenth of edges.

    1: every edge still faces the same way; 0: unrelated, or no edge left; -1: inverted. NaN if the first is constant.
    """
    was, now = (np.stack([ndimage.gaussian_filter(p.astype(np.float64), 1, o) for o in ((1, 0), (0, 1))])
                for p in (before, after))  # fmt: skip
    size = np.hypot(*was)
    strong = size >= max(np.quantile(size, STRONG), np.finfo(float).tiny)
    if not strong.any():
        return float("nan")
    product = (was * now).sum(0)[strong]
    norm = (size * np.hypot(*now))[strong]
    return float(np.divide(product, norm, out=np.zeros_like(product), where=norm > 0).mean())


def novel_structure(before: Array, after: Array, span: float = 1.0) -> float:
    """Return the root mean square, over `span`, of what no local linear fit of the input explains in the output.

    In every 7×7 window the output (H, W) is regressed on the input; the residual loses its own 7×7 mean. A tone curve
    or an illumination leaves little, blurring or deblurring some, invented or erased objects much. Erasing everything
    leaves nothing, so this score cannot stand alone. `span` is the fitted range of the channel, in pixel values.
    """
    x, y = (p.astype(np.float64) / span for p in (before, after))
    x, y = x - x.mean(), y - y.mean()
    mean_x, mean_y = ndimage.uniform_filter(x, WINDOW), ndimage.uniform_filter(y, WINDOW)
    variance = ndimage.uniform_filter(x * x, WINDOW) - mean_x**2
    covariance = ndimage.uniform_filter(x * y, WINDOW) - mean_x * mean_y
    slope = np.divide(covariance, variance, out=np.zeros_like(x), where=variance > 1e-12)
    residual = y - mean_y - slope * (x - mean_x)
    return float(np.sqrt(np.mean((residual - ndimage.uniform_filter(residual, WINDOW)) ** 2)))
