"""Baselines: what a lab would do instead of training a model, and two cheats that a judgement must see through.

Every baseline takes (images, batch, statistics of the fit set) and returns new images of the same type, integers
rounded and clipped. Per-batch baselines return the reference batch unchanged; per-image baselines, as labs use them,
treat it like any other.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import match_histograms

from img2img.data.picture import Array, as_type
from img2img.errors import InputError, UnknownBatchError
from img2img.lab.checks import threads
from img2img.lab.curves.stain import is_rgb, thinned
from img2img.lab.large import LargeImage, Reduction
from img2img.lab.reductions import Counts, Every, Moments

LEVELS = np.linspace(0, 1, 257)
PERCENTILES = (0.01, 0.99)
SAMPLES = 4096  # pixels per channel of a float image, on a regular grid, that its quantiles are taken from


@dataclass(frozen=True)
class Statistics:
    """Statistics of the batches of the fit set, per channel.

    Attributes:
        names: the batches, sorted; B of them.
        reference: the batch that the others are moved to.
        example: an image (C, H, W) of the reference batch.
        mean: (B, C), over all pixels, in pixel values.
        sd: (B, C).
        quantiles: (B, C, 257), at `LEVELS`; exact for integers.
        colour: means and standard deviations (B, 2, 3) in CIELAB, of images with 3 channels of uint8; else None.
    """

    names: tuple[str, ...]
    reference: str
    example: Array
    mean: Array
    sd: Array
    quantiles: Array
    colour: Array | None = None

    @classmethod
    def of(
        cls, images: Sequence[Array], batch: Sequence[str], *, reference: str, example: Array, n_jobs: int = 1
    ) -> Self:
        """Read every image once, in so many threads; keep a histogram (integers) or a few samples (floats)."""
        names = tuple(sorted(set(batch)))
        _known(reference, names)
        members = {name: [i for i, b in enumerate(batch) if b == name] for name in names}
        with ThreadPoolExecutor(threads(n_jobs)) as pool:
            parts = [_of_batch(pool.map(lambda i: _of_image(images[i]), rows)) for rows in members.values()]
        mean, sd, quantiles = (np.stack(values) for values in list(zip(*parts, strict=True))[:3])
        colour = np.stack([part[3] for part in parts if part[3] is not None]) if is_rgb(example) else None
        return cls(names, reference, example, mean, sd, quantiles, colour)

    def index(self, name: str) -> int:
        """Return the index of a batch in the arrays."""
        return _known(name, self.names)

    def with_batch(self, name: str, images: Sequence[Array]) -> Self:
        """Return the statistics with those of one more batch at the end."""
        new = type(self).of(images, [name] * len(images), reference=name, example=images[0])
        return replace(
            self,
            names=(*self.names, name),
            mean=np.concatenate([self.mean, new.mean]),
            sd=np.concatenate([self.sd, new.sd]),
            quantiles=np.concatenate([self.quantiles, new.quantiles]),
            colour=None if self.colour is None else np.concatenate([self.colour, new.colour]),
        )


def _of_image(image: Array | LargeImage) -> tuple[Array, Array | None, Array]:
    """Return `_moments` of an image (C, H, W), those of its colours if it is RGB, and how often each value occurs.

    The last, (C, values), are samples of the pixels, (C, n), if they are floats.
    """
    lab = _moments(_to_lab(thinned(image))) if is_rgb(image) else None
    if isinstance(image, LargeImage):
        found = image.gather(*reductions(image))
        return (found[0] if len(found) > 1 else _moments_of(found[0])), lab, found[-1]
    if image.dtype.kind != "u" or image.dtype.itemsize > 2:
        flat = image.reshape(len(image), -1)
        return _moments(image), lab, flat[:, :: -(-flat.shape[1] // SAMPLES)].copy()
    values = 2 ** (8 * image.dtype.itemsize)
    counts = np.stack([np.bincount(plane.ravel(), minlength=values) for plane in image])
    return _moments_of(counts), lab, counts


def reductions(image: LargeImage) -> list[Reduction]:
    """Return what the statistics need of a large image: its moments and values; those of integers are their counts."""
    pixels = image.shape[1] * image.shape[2]
    counted = image.dtype.kind == "u" and image.dtype.itemsize <= 2
    return [Counts()] if counted else [Moments(), Every(-(-pixels // SAMPLES))]


def _moments_of(counts: Array) -> Array:
    """Return `_moments` of an image from how often each value occurs, (C, values)."""
    values, pixels = np.arange(counts.shape[1]), counts.sum(1)
    mean = counts @ values / pixels
    variance = np.einsum("cv,cv->c", counts, (values - mean[:, None]) ** 2) / pixels
    return np.stack([pixels, mean, variance])


def _of_batch(images: Iterable[tuple[Array, Array | None, Array]]) -> tuple[Array, Array, Array, Array | None]:
    """Return mean, sd (C,), quantiles (C, 257) and, of RGB images, colour (2, 3) of the pixels of one batch.

    `images` holds what `_of_image` returns of each.
    """
    moments, lab, samples = [], [], []
    counts: Any = 0
    for own, colour, values in images:
        moments.append(own)
        if colour is not None:
            lab.append(colour)
        if values.dtype.kind == "f":
            samples.append(values)
        else:
            counts = counts + values
    if samples:
        quantiles = np.quantile(np.concatenate(samples, 1).astype(np.float64), LEVELS, axis=1).T
    else:
        below = counts.cumsum(1)
        rank = LEVELS * (below[0, -1] - 1)  # interpolated between ranks
        low, high = (np.stack([np.searchsorted(b, r(rank), "right") for b in below]) for r in (np.floor, np.ceil))
        quantiles = low + (high - low) * (rank % 1)
    return *_pooled(moments), quantiles, _pooled(lab) if lab else None


def _known(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise UnknownBatchError(f"Batch '{name}' was not in the fit set, which has {', '.join(names)}.")
    return names.index(name)


def _moments(image: Array) -> Array:
    """Return the number of pixels, their mean and variance, (3, C)."""
    flat = image.reshape(len(image), -1)
    return np.stack(
        [np.full(len(flat), flat.shape[1], np.float64), flat.mean(1, dtype=np.float64), flat.var(1, dtype=np.float64)]
    )


def _pooled(moments: Sequence[Array]) -> Array:
    """Return mean and standard deviation (2, C) of all pixels of several images, by the law of total variance."""
    count, mean, variance = np.stack(moments, 1)
    share = count / count.sum(0)
    centre = (share * mean).sum(0)
    return np.stack([centre, np.sqrt((share * (variance + (mean - centre) ** 2)).sum(0))])


Transform = Callable[[Array, int, Statistics], Array]  # (image, index of its batch, statistics) -> pixel values
Baseline = Callable[[Sequence[Array], Sequence[str], Statistics], list[Array]]


def _per_batch(transform: Transform) -> Baseline:
    def baseline(images: Sequence[Array], batch: Sequence[str], context: Statistics) -> list[Array]:
        return [
            image if name == context.reference else as_type(transform(image, context.index(name), context), image.dtype)
            for image, name in zip(images, batch, strict=True)
        ]

    return baseline


def _per_image(transform: Callable[[Array, Statistics], Array]) -> Baseline:
    def baseline(images: Sequence[Array], batch: Sequence[str], context: Statistics) -> list[Array]:
        return [as_type(transform(image, context), image.dtype) for image in images]

    return baseline


def _do_nothing(images: Sequence[Array], batch: Sequence[str], context: Statistics) -> list[Array]:
    return list(images)


def _affine(image: Array, source: Array, target: Array) -> Array:
    """Move mean and standard deviation (2, C) of each channel; a constant channel is only shifted."""
    slope = np.divide(target[1], source[1], out=np.ones_like(target[1]), where=source[1] > 0)
    return np.asarray((image - source[0][:, None, None]) * slope[:, None, None] + target[0][:, None, None])


def _goal(context: Statistics) -> Array:
    here = _here(context)
    return np.stack([context.mean[here], context.sd[here]])


def _here(context: Statistics) -> int:
    return context.index(context.reference)


def _image_moments(image: Array, context: Statistics) -> Array:
    return _affine(image, _pooled([_moments(image)]), _goal(context))


def _image_histogram(image: Array, context: Statistics) -> Array:
    matched: Array = match_histograms(image, context.example, channel_axis=0)
    return matched


def _batch_moments(image: Array, index: int, context: Statistics) -> Array:
    return _affine(image, np.stack([context.mean[index], context.sd[index]]), _goal(context))


def _batch_percentiles(image: Array, index: int, context: Statistics) -> Array:
    """Move the 1st and the 99th percentile of each channel by a straight line; of one that has one value, the 1st."""
    ends = [[np.interp(PERCENTILES, LEVELS, q) for q in context.quantiles[i]] for i in (index, _here(context))]
    source, target = (np.stack(pair).T for pair in ends)
    return _affine(image, *(np.stack([low, high - low]) for low, high in (source, target)))


def _batch_quantiles(image: Array, index: int, context: Statistics) -> Array:
    """Map quantiles piecewise linearly; beyond them, continue with the ratio of standard deviations."""
    here = context.index(context.reference)
    planes = []
    for c, plane in enumerate(image.astype(np.float64)):
        x, ties = np.unique(context.quantiles[index, c], return_inverse=True)
        y = np.bincount(ties, context.quantiles[here, c]) / np.bincount(ties)
        slope = context.sd[here, c] / context.sd[index, c] if context.sd[index, c] > 0 else 1.0
        beyond = plane - plane.clip(x[0], x[-1])
        planes.append(np.interp(plane, x, y) + slope * beyond)
    return np.stack(planes)


def _to_lab(image: Array) -> Array:
    lab: Array = rgb2lab(image, channel_axis=0)
    return lab


def _batch_reinhard(image: Array, index: int, context: Statistics) -> Array:
    """Transfer colour as Reinhard et al. 2001, with the moments of batches in CIELAB; clipped to sRGB."""
    if context.colour is None:
        raise InputError("Reinhard's colour transfer needs images of 3 channels of uint8 (RGB).")
    moved = _affine(_to_lab(image), context.colour[index], context.colour[context.index(context.reference)])
    moved[0] = moved[0].clip(0, 100)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*negative Z values")  # outside sRGB, clipped on purpose
        return np.asarray(lab2rgb(moved, channel_axis=0) * 255)


def _constant(image: Array, context: Statistics) -> Array:
    return np.broadcast_to(_goal(context)[0][:, None, None], image.shape)


def _random_reference(images: Sequence[Array], batch: Sequence[str], context: Statistics) -> list[Array]:
    """Return another image of the reference batch for each, repeated or cropped to its size; seed 0."""
    rng = np.random.default_rng(0)
    pool = [i for i, name in enumerate(batch) if name == context.reference]
    outputs = []
    for i, image in enumerate(images):
        others = [j for j in pool if j != i]
        pick = images[rng.choice(others)] if others else context.example
        rows, columns = (np.arange(n) % m for n, m in zip(image.shape[1:], pick.shape[1:], strict=True))
        outputs.append(pick[:, rows[:, None], columns])
    return outputs


BASELINES: dict[str, Baseline] = {
    "do nothing": _do_nothing,
    "per-image z-score": _per_image(_image_moments),
    "per-image match_histograms": _per_image(_image_histogram),
    "batch moments": _per_batch(_batch_moments),
    "batch percentiles": _per_batch(_batch_percentiles),
    "batch quantiles": _per_batch(_batch_quantiles),
}
RGB_BASELINES: dict[str, Baseline] = {"per-batch Reinhard": _per_batch(_batch_reinhard)}
CHEATS: dict[str, Baseline] = {
    "cheat: constant image": _per_image(_constant),
    "cheat: random reference image": _random_reference,
}


def applicable(context: Statistics) -> dict[str, Baseline]:
    """Return the baselines that apply to these images: `BASELINES`, and those for colour if they are RGB of uint8."""
    return BASELINES | (RGB_BASELINES if context.colour is not None else {})


def zscore_features(features: Array, batch: Sequence[str], fit_features: Array, fit_batch: Sequence[str]) -> Array:
    """Normalise features (n, f) by a z-score per batch, as is done where features are enough and no images are needed.

    Mean and standard deviation are those of the same batch in `fit_features` (m, f); a feature that is constant there
    is only centred.
    """
    result = np.empty_like(features, dtype=np.float64)
    known, here = np.asarray(fit_batch), np.asarray(batch)
    for name in sorted(set(batch)):
        _known(name, sorted(set(fit_batch)))
        rows = fit_features[known == name]
        sd = rows.std(0)
        result[here == name] = (features[here == name] - rows.mean(0)) / np.where(sd > 0, sd, 1)
    return result
