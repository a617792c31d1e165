"""What is gathered of the pixels of large images, in one pass over their blocks.

Counts, extremes and sums of integers are those of the whole image to the bit; sums of floats, to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from img2img.data.picture import Array
from img2img.data.regions import Span
from img2img.lab.large import Add, LargeImage


@dataclass(frozen=True)
class Extent:
    """The range of each channel: `low`, `high`, the number of finite values, and of those that are `high`, (C,) each.

    `broken` is the channel, row and column of a value that is not finite, or None.
    """

    low: Array
    high: Array
    finite: Array
    at_high: Array
    broken: tuple[int, int, int] | None


@dataclass(frozen=True)
class Extremes:
    """The `Extent` of an image."""

    def begin(self, image: LargeImage) -> tuple[Add, Callable[[], Extent]]:
        low, high = np.full(len(image), np.inf), np.full(len(image), -np.inf)
        finite, at_high = np.zeros(len(image), np.int64), np.zeros(len(image), np.int64)
        broken: list[tuple[int, int, int]] = []

        def add(rows: Span, columns: Span, block: Array) -> None:
            for c, plane in enumerate(block):
                values = plane
                if plane.dtype.kind == "f" and not (mask := np.isfinite(plane)).all():
                    row, column = np.argwhere(~mask)[0].tolist()
                    broken.append((c, rows[0] + row, columns[0] + column))
                    values = plane[mask]
                if not values.size:
                    continue
                top = values.max()
                if top > high[c]:
                    high[c], at_high[c] = top, 0
                if top == high[c]:
                    at_high[c] += np.count_nonzero(values == top)
                low[c] = min(low[c], values.min())
                finite[c] += values.size

        return add, lambda: Extent(low, high, finite, at_high, min(broken, default=None))


@dataclass(frozen=True)
class Counts:
    """How often each value of an unsigned integer type occurs in each channel, (C, values)."""

    def begin(self, image: LargeImage) -> tuple[Add, Callable[[], Array]]:
        counts = np.zeros((len(image), int(np.iinfo(image.dtype).max) + 1), np.int64)

        def add(rows: Span, columns: Span, block: Array) -> None:
            for own, plane in zip(counts, block, strict=True):
                own += np.bincount(plane.ravel(), minlength=len(own))

        return add, lambda: counts


@dataclass(frozen=True)
class Moments:
    """The number of values, their mean and variance in each channel, (3, C)."""

    def begin(self, image: LargeImage) -> tuple[Add, Callable[[], Array]]:
        found = np.zeros((3, len(image)))  # the number, the mean, and the sum of squares about it

        def add(rows: Span, columns: Span, block: Array) -> None:
            flat = block.reshape(len(block), -1)
            count, mean = flat.shape[1], flat.mean(1, dtype=np.float64)
            before, apart = found[0].copy(), mean - found[1]
            found[0] += count
            found[1] += apart * count / found[0]
            found[2] += flat.var(1, dtype=np.float64) * count + apart**2 * before * count / found[0]

        return add, lambda: np.stack([found[0], found[1], found[2] / found[0].clip(1)])


@dataclass(frozen=True)
class Means:
    """The means over squares of `step` pixels, float64 (C, h, w); rows and columns that fill none are left out."""

    step: int

    def begin(self, image: LargeImage) -> tuple[Add, Callable[[], Array]]:
        height, width = (n // self.step for n in image.shape[1:])
        sums = np.zeros((len(image), height, width))

        def add(rows: Span, columns: Span, block: Array) -> None:
            block = block[:, : max(height * self.step - rows[0], 0), : max(width * self.step - columns[0], 0)]
            if not block.size:
                return
            (top, down), (left, across) = (
                _starts(first, n, self.step) for first, n in zip((rows[0], columns[0]), block.shape[1:], strict=True)
            )
            part = np.add.reduceat(np.add.reduceat(block, down, 1, dtype=np.float64), across, 2)
            sums[:, top : top + len(down), left : left + len(across)] += part

        return add, lambda: sums / self.step**2


def _starts(first: int, count: int, step: int) -> tuple[int, Array]:
    """Return the number of the mean that the first of some pixels belongs to, and where each mean's pixels begin."""
    places = np.arange(first // step * step, first + count, step) - first
    return first // step, places.clip(0)


@dataclass(frozen=True)
class Every:
    """Every `step`th pixel, row by row, (C, n): image.reshape(C, -1)[:, ::step]."""

    step: int

    def begin(self, image: LargeImage) -> tuple[Add, Callable[[], Array]]:
        channels, height, width = image.shape
        out = np.empty((channels, -(-height * width // self.step)), image.dtype)

        def add(rows: Span, columns: Span, block: Array) -> None:
            for row in range(*rows):
                place = row * width + columns[0]
                part = block[:, row - rows[0], -place % self.step :: self.step]
                begin = -(-place // self.step)
                out[:, begin : begin + part.shape[1]] = part

        return add, lambda: out


@dataclass(frozen=True)
class Picked:
    """The pixels at some rows and columns, given as (start, stop, step), (C, h, w)."""

    rows: tuple[int, int, int]
    columns: tuple[int, int, int]

    def begin(self, image: LargeImage) -> tuple[Add, Callable[[], Array]]:
        out = np.empty((len(image), len(range(*self.rows)), len(range(*self.columns))), image.dtype)

        def add(rows: Span, columns: Span, block: Array) -> None:
            (y, at_y), (x, at_x) = (_inside(*pair) for pair in ((self.rows, rows), (self.columns, columns)))
            out[:, at_y, at_x] = block[:, y, x]

        return add, lambda: out


def _inside(wanted: tuple[int, int, int], span: Span) -> tuple[slice, slice]:
    """Return where the wanted rows or columns that lie in a block are in it, and where in the result."""
    start, stop, step = wanted
    first = max(-(-(span[0] - start) // step), 0)
    end = max(-(-(min(span[1], stop) - start) // step), first)
    begin = start + first * step - span[0]
    return slice(begin, begin + (end - first) * step if end > first else begin, step), slice(first, end)
