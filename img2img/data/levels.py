"""Levels of a pyramid, rebuilt from the image: each is the mean over blocks of the one before it, in its own type."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from img2img.data.picture import Array, as_type

ROWS = 64  # reduced at once

Size = tuple[int, int]  # height and width


def whole_factors(sizes: Sequence[Size]) -> list[tuple[Size, int]]:
    """Return the levels that can be rebuilt, each with the factor from the one before it.

    Each side must be that of the level before, divided by the same whole number and rounded up or down. Levels that
    are not are left out.

    Args:
        sizes: of the image and its levels, from the largest.
    """
    found: list[tuple[Size, int]] = []
    before = sizes[0]
    for size in sizes[1:]:
        factor = round(max(n / k for n, k in zip(before, size, strict=True)))
        if factor > 1 and all(abs(n / factor - k) < 1 for n, k in zip(before, size, strict=True)):
            found.append((size, factor))
            before = size
    return found


def blocks(n: int, m: int) -> Array:
    """Return where `m` blocks of `n` pixels begin, and where the last one ends: of equal length if possible.

    Of equal blocks, the last one may be shorter, or pixels after it may belong to none.
    """
    factor = max(1, round(n / m))
    if m in (n // factor, -(-n // factor)):
        return of_length(factor, n, m)
    return np.arange(m + 1) * n // m


def of_length(factor: int, n: int, m: int) -> Array:
    """Return where `m` blocks of `factor` of `n` pixels begin, and where the last one ends."""
    return np.minimum(np.arange(m + 1) * factor, n)


def means(values: Array, edges: Sequence[Array]) -> Array:
    """Return the means over blocks of an array, rounded to its own type.

    Args:
        edges: where the blocks along each axis begin, and where the last one ends.
    """
    lengths = [np.diff(edge) for edge in edges]
    lead = next((i for i, length in enumerate(lengths) if (length != 1).any()), values.ndim)
    if lead == values.ndim:
        return values[tuple(slice(edge[0], edge[-1]) for edge in edges)]
    counts = math.prod(n.reshape([-1] + [1] * (values.ndim - i - 1)) for i, n in enumerate(lengths) if i >= lead)
    out = np.empty([len(length) for length in lengths], values.dtype)
    for place in np.ndindex(*out.shape[:lead]):
        sums = values[tuple(edge[i] for edge, i in zip(edges, place, strict=False))].astype(np.float64)
        for axis, edge in enumerate(edges[lead:]):
            sums = _sums(sums, axis, edge)
        out[place] = as_type(sums / counts, values.dtype)
    return out


def _sums(values: Array, axis: int, edge: Array) -> Array:
    """Return the sums over blocks along an axis."""
    lengths, values = np.diff(edge), np.moveaxis(values, axis, 0)[: edge[-1]]
    factor = int(lengths[0])
    if (lengths[:-1] != factor).any() or lengths[-1] > factor:
        return np.moveaxis(np.add.reduceat(values, edge[:-1], 0), 0, axis)
    sums = values[edge[0] :: factor].copy()
    for i in range(1, factor):
        part = values[edge[0] + i :: factor]  # the last block may have fewer
        sums[: len(part)] += part
    return np.moveaxis(sums, 0, axis)


def smaller(values: Array, shape: Sequence[int]) -> Array:
    """Return the means over blocks of an array, as many as `shape` says, in its own type."""
    if values.shape == tuple(shape):
        return values
    return means(values, [blocks(n, m) for n, m in zip(values.shape, shape, strict=True)])


def reduced(array: Array, factor: int, size: Size) -> Array:
    """Return an image (H, W, C) reduced to `size`; a pixel at the border is the mean of those that there are."""
    reducer = Reducer(factor, size)
    return np.concatenate([*reducer.feed(array), *reducer.end()])


class Reducer:
    """The reduction of an image that comes strip by strip, from the top, by a factor to a size."""

    def __init__(self, factor: int, size: Size) -> None:
        self.factor, self.size = factor, size
        self.rows = 0  # that were given out
        self.rest: Array | None = None

    def feed(self, strip: Array) -> Iterator[Array]:
        """Take a strip (N, W, C), and yield the rows that are complete."""
        pixels = strip if self.rest is None else np.concatenate([self.rest, strip])
        step = self.factor * math.ceil(ROWS / self.factor)
        whole = len(pixels) // self.factor * self.factor
        for top in range(0, whole, step):
            yield from self._mean(pixels[top : min(top + step, whole)])
        self.rest = pixels[whole:].copy()

    def end(self) -> Iterator[Array]:
        """Yield the last row, if it is the mean of fewer rows."""
        if self.rest is not None and len(self.rest):
            yield from self._mean(self.rest)

    def _mean(self, pixels: Array) -> Iterator[Array]:
        rows = min(-(-len(pixels) // self.factor), self.size[0] - self.rows)
        if rows:
            self.rows += rows
            down = of_length(self.factor, len(pixels), rows)
            across = of_length(self.factor, pixels.shape[1], self.size[1])
            yield means(pixels, [down, across, np.arange(pixels.shape[2] + 1)])
