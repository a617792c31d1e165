"""The pictures of a judgement: examples before and after, and histograms of the batches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from img2img.data.picture import Array
from img2img.lab.judgement.case import Case
from img2img.lab.judgement.features import block_means, in_range

BINS, LOWEST, HIGHEST = 60, -0.1, 1.3  # of the histograms; bounds in units of the range
SIDE, PER_BATCH, MOST = 240, 2, 12  # pixels of a thumbnail, fields of each batch, fields in all
FULL_CHANGE = 0.25  # of the range, which is full colour in a map of change
BRIGHTER, DARKER = np.array([178, 24, 43]), np.array([33, 102, 172])  # colours (RGB) of change


class Example(NamedTuple):
    """One channel, or the three of RGB, of a field: images (h, w) or (h, w, 3) of uint8 at one stretch.

    `images` are "before", "after", "reference", a field of the reference batch that is as full, and "change".
    """

    batch: str
    name: str
    reference: str
    channel: str
    stretch: tuple[float, float]
    images: dict[str, Array]


def histograms(images: Sequence[Array], batch: Array, scale: Array) -> dict[str, Array]:
    """Return each batch's share of pixels in BINS bins from LOWEST to HIGHEST of the range, (C, BINS)."""
    counts = {str(name): np.zeros((len(scale), BINS)) for name in np.unique(batch)}
    for image, name in zip(images, batch, strict=True):
        places = (in_range(image, scale) - LOWEST) / (HIGHEST - LOWEST) * BINS
        for row, plane in zip(counts[str(name)], places, strict=True):
            row += np.bincount(plane.clip(0, BINS - 1).astype(np.int64).ravel(), minlength=BINS)
    return {name: count / count.sum(1, keepdims=True) for name, count in counts.items()}


def examples(case: Case, after: Sequence[Array]) -> list[Example]:
    """Return every channel of a few fields with cells of each batch but the reference, from different groups."""
    covered = np.array([float((labels > 0).mean()) for labels in case.objects])
    count = min(PER_BATCH, max(1, MOST // max(len(case.batches) - 1, 1)))
    shown = []
    for batch in case.batches[1:]:
        for i in _typical(covered, np.flatnonzero(case.batch == batch), case.group, count):
            alike = [case.batch == case.reference, case.controls == case.controls[i]]
            references = np.flatnonzero(np.all(alike, 0) if np.all(alike, 0).any() else alike[0])
            near = int(references[np.argmin(np.abs(covered[references] - covered[i]))])
            here, there = (f"image {k}" if case.names is None else case.names[k] for k in (i, near))
            shown += _example((batch, here, there), case, case.before[i], after[i], case.before[near])
    return shown[: MOST * len(case.scale)]


def _typical(covered: Array, rows: Array, group: Array, count: int) -> list[int]:
    """Return the rows whose share of foreground is nearest to the median of those with any, one of each group."""
    middle = np.median(covered[rows][covered[rows] > 0]) if covered[rows].any() else 0.0
    nearest: dict[str, int] = {}
    for i in rows[np.argsort(np.abs(covered[rows] - middle), kind="stable")]:
        nearest.setdefault(str(group[i]), int(i))
    return list(nearest.values())[:count]


def _example(names: tuple[str, str, str], case: Case, before: Array, after: Array, reference: Array) -> list[Example]:
    colour = len(before) == 3 and before.dtype == np.uint8
    white = min(float(case.scale[:, 1].max()), 255.0)
    scale = np.array([[0.0, white]] * 3) if colour else case.scale
    planes = {key: _reduced(in_range(image, scale)) for key, image in
              {"before": before, "after": after, "reference": reference}.items()}  # fmt: skip
    change = _reduced(in_range(after, scale) - in_range(before, scale))
    if colour:
        images = {key: _grey(x).transpose(1, 2, 0) for key, x in planes.items()} | {"change": _change(change.mean(0))}
        return [Example(*names, "RGB", (0.0, white), images)]
    shown = []
    for c, channel in enumerate(case.channels or map(str, range(len(before)))):
        images = {key: _grey(x[c]) for key, x in planes.items()} | {"change": _change(change[c])}
        shown.append(Example(*names, channel, (float(scale[c, 0]), float(scale[c, 1])), images))
    return shown


def _reduced(planes: Array) -> Array:
    factor = -(-max(planes.shape[1:]) // SIDE)
    return block_means(planes, *(np.arange(0, n, factor) for n in planes.shape[1:]))


def _grey(planes: Array) -> Array:
    return np.asarray(np.rint(planes.clip(0, 1) * 255).astype(np.uint8))


def _change(plane: Array) -> Array:
    """Return a signed change (h, w), in units of the range, as colours: white is none."""
    share = (np.abs(plane) / FULL_CHANGE).clip(0, 1)[..., None]
    full = np.where(plane[..., None] > 0, BRIGHTER, DARKER)
    return np.asarray(np.rint(255 + share * (full - 255)).astype(np.uint8))
