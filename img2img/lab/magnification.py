"""The size of objects in each batch, which shows whether all images have one magnification."""

from collections.abc import Iterator, Sequence

import numpy as np

from img2img.data.picture import Array
from img2img.lab.design import members_of
from img2img.lab.judgement.objects import segment

IMAGES, EDGE = 6, 512  # images of a batch that are measured, and pixels of their middle
FEWEST = 10  # objects of a batch and channel that give a size
CLEAR = 3.0  # times the spread of the background that objects must stand out
RATIO = 1.5  # of areas that is worth a note


def sizes(images: Sequence[Array], batch: Sequence[str], signs: Array) -> dict[str, Array]:
    """Return the median area of the objects of each batch, in pixels, (C,); NaN where few objects are seen.

    `signs` is 1 for channels with bright objects, -1 for dark ones, (C,). A few images of each batch are measured.
    """
    found = {}
    for name, rows in members_of(batch).items():
        areas: list[list[int]] = [[] for _ in signs]
        for i in np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).astype(int):
            for c, plane in enumerate(images[rows[i]]):
                areas[c] += _areas(middle(plane, EDGE), int(signs[c]))
        found[name] = np.array([np.median(a) if len(a) >= FEWEST else np.nan for a in areas])
    return found


def middle(image: Array, edge: int) -> Array:
    """Return the middle of an image (..., H, W), at most `edge` pixels high and wide."""
    top, left = (max(n - edge, 0) // 2 for n in image.shape[-2:])
    return image[..., top : top + edge, left : left + edge]


def _areas(plane: Array, sign: int) -> list[int]:
    """Return the areas of objects that stand out from their background."""
    labels = segment(plane, dark=sign < 0)
    outside = plane[labels == 0].astype(np.float64)
    if not labels.any() or not outside.size:
        return []
    level = np.median(outside)
    spread = 1.4826 * np.median(np.abs(outside - level))
    clear = sign * (plane[labels > 0].mean(dtype=np.float64) - level) > CLEAR * spread
    return [int(n) for n in np.bincount(labels.ravel())[1:]] if clear else []


def magnified(images: Sequence[Array], batch: Sequence[str], signs: Array) -> Iterator[str]:
    """Yield a sentence for each batch whose objects are clearly larger or smaller than those of a typical batch.

    The typical batch is the middle one by size; sizes are compared channel by channel, and the middle ratio counts, so
    that one channel with another stain does not.
    """
    logs = {name: np.log(area) for name, area in sizes(images, batch, signs).items()}
    ordered = sorted((name for name in logs if np.isfinite(logs[name]).any()), key=lambda n: np.nanmedian(logs[n]))
    typical = ordered[(len(ordered) - 1) // 2] if ordered else ""
    for name in sorted(ordered):
        both = (logs[name] - logs[typical])[np.isfinite(logs[name] + logs[typical])]
        ratio = float(np.exp(np.median(both))) if both.size else 1.0
        if max(ratio, 1 / ratio) > RATIO:
            yield (
                f"The objects of {name} cover {ratio:.2g} times the area of those of {typical}: if its magnification "
                "or binning differs, bring all images to one pixel size first; no curve does that."
            )
