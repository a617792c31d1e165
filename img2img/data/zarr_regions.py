"""Regions of OME-Zarr: only the chunks that a region touches are read, and the last ones that were are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from img2img.data.kept import Kept
from img2img.data.ome_metadata import inside
from img2img.data.ome_zarr import LEVELS, MAX_LEVELS, opened
from img2img.data.picture import Array
from img2img.data.regions import Level, Regions, Span
from img2img.errors import DataError, quote


@contextmanager
def open_zarr_regions(folder: Path, pages: bool = False) -> Iterator[Regions]:
    """Open an image of OME-Zarr; levels that cannot be read, or are of other channels, are left out.

    Args:
        folder: of the image.
        pages: whether it may have several planes or time points, in the order in which they are read whole.

    Raises:
        DataError: if it cannot be read, or has several planes or time points and may not.
    """
    try:
        image = opened(folder, by_region=True)
    except DataError:
        raise
    except Exception as error:  # damaged metadata raise anything
        raise DataError(f"{quote(folder)} is damaged: its header cannot be decoded (OME-Zarr).") from error
    from img2img.data.zarr import ZarrArray  # after `opened` has told whether the package is there

    if image.stated.axes and not pages:
        paging = ", ".join(f"{n} {axis}" for axis, n in image.stated.axes)
        raise DataError(f"{quote(folder)} has {paging}; regions can be read of single images.")
    if image.array.is_empty():
        raise DataError(f"{quote(folder)} holds none of its chunks; it may not have been copied completely.")
    arrays, levels = [image.array], [Level(image.sizes["y"], image.sizes["x"], 1.0)]
    for path in image.paths[1:MAX_LEVELS]:
        try:
            array = ZarrArray.open(inside(folder, path), by_region=True)
            fits = array.shape[:-2] == image.array.shape[:-2] and array.dtype == image.array.dtype
        except Exception:  # damaged metadata raise anything
            continue
        height, width = array.shape[-2:]
        if fits and height < levels[-1].height and width <= levels[-1].width:
            arrays.append(array)
            levels.append(Level(height, width, image.sizes["y"] / height))
    kept = Kept()

    def fetch(page: tuple[int, int], level: int, rows: Span, columns: Span) -> Array:
        axes = {axis: slice(i, i + 1) for axis, i in zip("tz", page, strict=True)} | {"c": slice(0, image.sizes["c"])}
        place = [*(axes[axis] for axis in image.letters[:-2]), slice(*rows), slice(*columns)]
        values = arrays[level].part(place, kept).reshape(-1, rows[1] - rows[0], columns[1] - columns[0])
        return np.ascontiguousarray(values.transpose(1, 2, 0))

    lost = tuple(what for what in image.stated.lost if what != LEVELS or len(levels) < len(set(image.paths)))
    fetches = [partial(fetch, page) for page in product(range(image.sizes["t"]), range(image.sizes["z"]))]
    yield Regions(
        path=folder,
        levels=tuple(levels),
        channels=image.sizes["c"],
        dtype=image.array.dtype,
        stated=replace(image.stated, lost=lost),
        tile=(image.array.pieces[-2], image.array.pieces[-1]),
        compression="",
        layout=image,
        fetch=fetches[0],
        pages=tuple(fetches) if len(fetches) > 1 else (),
    )
