"""NaN and infinities in images: where they are, and how they are filled and put back."""

import numpy as np

from img2img.data.picture import Array
from img2img.errors import DataError, counted


def holes_of(array: Array) -> Array | None:
    """Return which values of an array are NaN or infinite, as a mask of its shape; None if none is."""
    if array.dtype.kind != "f" or (finite := np.isfinite(array)).all():
        return None
    return ~finite


def in_words(array: Array, holes: Array) -> str:
    """Return the kind and the place of the first hole of an array (..., H, W, C), and the number of holes."""
    place = np.argwhere(holes)[0]
    kind = "NaN" if np.isnan(array[tuple(place)]) else "infinity"
    row, column, channel = (int(i) for i in place[-3:])
    count = counted(int(holes.sum()), "such value", "such values")
    return f"{kind} in row {row}, column {column}, channel {channel} ({count} in all)"


def fill(array: Array, holes: Array) -> Array:
    """Return an array (H, W, C) whose holes hold the median of the other values of their channel, or 0 without any."""
    filled = array.copy()
    for c in range(array.shape[-1]):
        hole = holes[..., c]
        filled[..., c][hole] = 0 if hole.all() else np.median(array[..., c][~hole])
    return filled


def put_back(result: Array, array: Array, holes: Array) -> Array:
    """Put the holes of an image (H, W, C) into its result; a result with other channels gets NaN in all of them.

    Raises:
        DataError: if the result's type has no NaN.
    """
    if result.dtype.kind != "f":
        raise DataError(f"Its NaN and infinities cannot be put back into {result.dtype} results; repair it instead.")
    if result.shape == array.shape:
        return np.where(holes, array, result)
    return np.where(holes.any(-1, keepdims=True), np.asarray(np.nan, result.dtype), result)
