"""Levels of a pyramid, rebuilt from the image: each is the mean over the pixels of the one before it, rounded."""

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


def reduced(array: Array, factor: int, size: Size) -> Array:
    """Return an image (H, W, C) reduced to `size`; a pixel at the border is the mean of those that there are."""
    reducer = Reducer(factor, size)
    parts = [*reducer.feed(array), *reducer.end()]
    return np.concatenate(parts)


class Reducer:
    """The reduction of an image that comes strip by strip, from the top."""

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
        pixels = pixels[: (self.size[0] - self.rows) * self.factor, : self.size[1] * self.factor]
        if not len(pixels):
            return
        kind: type = np.float64 if pixels.dtype.kind == "f" else np.int64
        starts = [np.arange(0, n, self.factor) for n in pixels.shape[:2]]
        counts = [np.diff(np.append(start, n)) for start, n in zip(starts, pixels.shape[:2], strict=True)]
        sums = np.add.reduceat(np.add.reduceat(pixels, starts[0], 0, dtype=kind), starts[1], 1, dtype=kind)
        self.rows += len(sums)
        yield as_type(sums / np.outer(*counts)[..., None], pixels.dtype)
