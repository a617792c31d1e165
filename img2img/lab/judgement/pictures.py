"""The pictures of a judgement: thumbnails of images under all methods, and histograms of the batches."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from img2img.data.picture import Array
from img2img.lab.judgement.features import block_means, in_range

BINS, LOWEST, HIGHEST = 60, -0.1, 1.3  # of the histograms; bounds in units of the range
SIDE, PER_BATCH = 160, 2  # pixels of a thumbnail, images of each batch


class Thumbnails(NamedTuple):
    """One image under all methods, (h, w) or (h, w, 3), uint8, all displayed over the fitted range."""

    batch: str
    number: int
    images: dict[str, Array]


def histograms(images: Sequence[Array], batch: Array, scale: Array) -> dict[str, Array]:
    """Return each batch's share of pixels in BINS bins from LOWEST to HIGHEST of the range, (C, BINS)."""
    counts = {str(name): np.zeros((len(scale), BINS)) for name in np.unique(batch)}
    for image, name in zip(images, batch, strict=True):
        places = (in_range(image, scale) - LOWEST) / (HIGHEST - LOWEST) * BINS
        for row, plane in zip(counts[str(name)], places, strict=True):
            row += np.bincount(plane.clip(0, BINS - 1).astype(np.int64).ravel(), minlength=BINS)
    return {name: count / count.sum(1, keepdims=True) for name, count in counts.items()}


def thumbnails(methods: Mapping[str, Sequence[Array]], batch: Array, scale: Array, channel: int) -> list[Thumbnails]:
    """Return the first and the middle image of each batch; RGB of uint8 in colour, others by their `channel`."""
    chosen = []
    for name in np.unique(batch):
        rows = np.flatnonzero(batch == name)
        for i in sorted({int(rows[k * len(rows) // PER_BATCH]) for k in range(PER_BATCH)}):
            images = {method: _thumbnail(images[i], scale, channel) for method, images in methods.items()}
            chosen.append(Thumbnails(str(name), i, images))
    return chosen


def _thumbnail(image: Array, scale: Array, channel: int) -> Array:
    colour = len(image) == 3 and image.dtype == np.uint8
    planes = image / np.float32(255) if colour else in_range(image, scale)[channel][None]
    factor = -(-max(image.shape[1:]) // SIDE)
    planes = block_means(planes, *(np.arange(0, n, factor) for n in image.shape[1:]))
    pixels = np.rint(planes.clip(0, 1) * 255).astype(np.uint8)
    return np.asarray(pixels.transpose(1, 2, 0) if colour else pixels[0])
