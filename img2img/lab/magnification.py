"""The size of objects in each batch, which shows whether all images have one magnification."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from img2img.data.picture import Array
from img2img.lab.checks import threads
from img2img.lab.design import members_of
from img2img.lab.judgement.objects import segment

IMAGES, EDGE = 8, 512  # images of a batch that are measured, and pixels of their middle
FEWEST = 3  # objects of an image, and images of a batch, that give a size
CLEAR = 3.0  # times the spread of the background that objects must stand out
RATIO, ERRORS = 1.5, 3.0  # of areas that is worth a note, and the standard errors that it must exceed


def sizes(
    images: Sequence[Array], batch: Sequence[str], signs: Array, n_jobs: int = 1
) -> dict[str, tuple[Array, Array]]:
    """Return the log area of the objects of each batch, (C,), and its standard error between images.

    Of each image the median counts; NaN where few objects are seen. `signs` is 1 for channels with bright objects, -1
    for dark ones, (C,). A few images of each batch are measured.
    """

    def one(i: int) -> list[float]:
        return [_size(middle(x, EDGE), int(s)) for x, s in zip(images[i], signs, strict=True)]

    found = {}
    for name, rows in members_of(batch).items():
        chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).astype(int)]
        with ThreadPoolExecutor(threads(n_jobs)) as pool:
            logs = np.array(list(pool.map(one, chosen)))
        count = np.isfinite(logs).sum(0)
        logs[:, count < FEWEST] = 0
        mean, sd = np.nanmean(logs, 0), np.nanstd(logs, 0, ddof=1)
        found[name] = (np.where(count < FEWEST, np.nan, mean), sd / np.sqrt(np.maximum(count, 1)))
    return found


def middle(image: Array, edge: int) -> Array:
    """Return the middle of an image (..., H, W), at most `edge` pixels high and wide."""
    top, left = (max(n - edge, 0) // 2 for n in image.shape[-2:])
    return image[..., top : top + edge, left : left + edge]


def _size(plane: Array, sign: int) -> float:
    """Return the log of the median area of objects that stand out from their background; NaN if there are few."""
    labels = segment(plane, dark=sign < 0)
    if labels.max() < FEWEST or labels.all():
        return float("nan")
    outside = plane[labels == 0].astype(np.float64)
    level = np.median(outside)
    spread = 1.4826 * np.median(np.abs(outside - level))
    clear = sign * (plane[labels > 0].mean(dtype=np.float64) - level) > CLEAR * spread
    return float(np.log(np.median(np.bincount(labels.ravel())[1:]))) if clear else float("nan")


def magnified(images: Sequence[Array], batch: Sequence[str], signs: Array, n_jobs: int = 1) -> Iterator[str]:
    """Yield a sentence for each batch whose objects are clearly larger or smaller than those of a typical batch.

    The typical batch is the middle one by size; sizes are compared channel by channel, and the middle ratio counts, so
    that one channel with another stain does not.
    """
    found = sizes(images, batch, signs, n_jobs)
    seen = [name for name, (logs, _) in found.items() if np.isfinite(logs).any()]
    ordered = sorted(seen, key=lambda name: float(np.nanmedian(found[name][0])))
    typical = ordered[(len(ordered) - 1) // 2] if ordered else ""
    for name in seen:
        (logs, errors), (others, doubts) = found[name], found[typical]
        both = np.isfinite(logs + others)
        if not both.any():
            continue
        rise, error = float(np.median((logs - others)[both])), float(np.median(np.hypot(errors, doubts)[both]))
        if abs(rise) > max(np.log(RATIO), ERRORS * error):
            yield (
                f"The objects of {name} cover {np.exp(rise):.2g} times the area of those of {typical}: if its "
                "magnification or binning differs, bring all images to one pixel size first; no curve does that."
            )
