"""The sham: what a correction does to one batch that is split at random in two, where there is nothing to correct."""

from collections.abc import Sequence

import numpy as np

from img2img.data.picture import Array
from img2img.errors import InputError
from img2img.lab.curves.correction import Correction
from img2img.lab.curves.found import Found
from img2img.lab.curves.place import Place, Well
from img2img.lab.curves.stain import StainCorrection

SPLITS, GROUPS, IMAGES = 5, 4, 12  # random splits; the fewest groups; the most images of a half that are looked at
BANDS, BAND = 8, 32  # number and height of the bands of rows, in pixels, on which the change is measured


def fit_correction(
    images: Sequence[Array],
    number: Array,
    group: Sequence[str],
    target: int | None,
    with_field: bool,
    with_stains: bool,
    n_jobs: int,
    wells: Array | None = None,
) -> tuple[Correction | StainCorrection, list[Found]]:
    """Return the correction of the batches of images that are numbered from 0, and what was found: `Correction.fit`."""
    if not with_stains:
        return Correction.fit(images, number, group, target, with_field, n_jobs, wells)
    assert target is not None  # there is no mean of stains
    return StainCorrection.fit(images, number, group, target), []


def spans(batch: Sequence[str], group: Sequence[str]) -> bool:
    """Return whether groups have images in several batches, and so show the differences directly."""
    return len(set(zip(batch, group, strict=True))) > len(set(group))


def sham(
    images: Sequence[Array],
    group: Sequence[str],
    scale: Array,
    with_field: bool,
    seed: int,
    n_jobs: int,
    with_stains: bool = False,
    wells: Array | None = None,
) -> float | None:
    """Measure the change when one batch is split at random into two, by groups, and equalized; it should be 0.

    Images that are `Remembered` are measured once for all splits.

    Returns:
        The mean absolute change, as a share of the range, over a few splits; None if there are too few groups, or too
        little tissue.
    """
    names = sorted(set(group))
    if len(names) < GROUPS:
        return None
    rng = np.random.default_rng(seed)
    span = (scale[:, 1] - scale[:, 0])[:, None, None]
    changes = []
    for _ in range(SPLITS):
        side = {str(name): i % 2 for i, name in enumerate(rng.permutation(names))}
        number = np.array([side[g] for g in group])
        try:
            correction, _ = fit_correction(images, number, group, 0, with_field, with_stains, n_jobs, wells)
        except InputError:  # half of the batch shows too little tissue
            return None
        moved = np.flatnonzero(number == 1)[:IMAGES].tolist()
        at = np.zeros((len(images), 2)) if wells is None else wells
        changes.append(np.mean([_change(correction, images[i], span, tuple(at[i].tolist())) for i in moved]))
    return float(np.mean(changes))


def _change(correction: Correction | StainCorrection, image: Array, span: Array, well: Well) -> float:
    """Return the mean absolute change of an image of batch 1 from `well`, in units of `span`, on bands of its rows."""
    height = image.shape[1]
    tops = np.linspace(0, height - BAND, BANDS).astype(int).tolist() if height > BANDS * BAND else [0]
    rows = BAND if len(tops) > 1 else height
    bands = [(top, image[:, top : top + rows]) for top in tops]
    changes = [(correction(band, 1, Place((top, 0), well)) - band) / span for top, band in bands]
    return float(np.mean([np.abs(change).mean() for change in changes]))
