"""Regions of OME-Zarr: only the chunks that a region touches are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from img2img.data.ome_metadata import inside
from img2img.data.ome_zarr import opened
from img2img.data.picture import Array
from img2img.data.regions import Level, Regions, Span
from img2img.errors import DataError, quote


@contextmanager
def open_zarr_regions(folder: Path) -> Iterator[Regions]:
    """Open an image of OME-Zarr; levels that cannot be read, or are of other channels, are left out.

    Raises:
        DataError: if it cannot be read, or has several planes or time points.
    """
    try:
        image = opened(folder)
    except DataError:
        raise
    except Exception as error:  # damaged metadata raise anything
        raise DataError(f"{quote(folder)} is damaged: its header cannot be decoded (OME-Zarr).") from error
    from img2img.data.zarr import ZarrArray  # after `opened` has told whether the package is there

    if image.stated.axes:
        paging = ", ".join(f"{n} {axis}" for axis, n in image.stated.axes)
        raise DataError(f"{quote(folder)} has {paging}; regions can be read of single images.")
    arrays, levels = [image.array], [Level(image.sizes["y"], image.sizes["x"], 1.0)]
    for path in image.paths[1:]:
        try:
            array = ZarrArray.open(inside(folder, path))
            fits = array.shape[:-2] == image.array.shape[:-2] and array.dtype == image.array.dtype
        except Exception:  # damaged metadata raise anything
            continue
        height, width = array.shape[-2:]
        if fits and height < levels[-1].height and width <= levels[-1].width:
            arrays.append(array)
            levels.append(Level(height, width, image.sizes["y"] / height))

    def fetch(level: int, rows: Span, columns: Span) -> Array:
        array = arrays[level]
        place = [*(slice(0, n) for n in array.shape[:-2]), slice(*rows), slice(*columns)]
        values = array.part(place).reshape(-1, rows[1] - rows[0], columns[1] - columns[0])
        return np.ascontiguousarray(values.transpose(1, 2, 0))

    yield Regions(
        path=folder,
        levels=tuple(levels),
        channels=image.sizes["c"],
        dtype=image.array.dtype,
        stated=image.stated,
        tile=(image.array.chunks[-2], image.array.chunks[-1]),
        compression="",
        layout=None,
        fetch=fetch,
    )
