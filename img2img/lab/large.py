"""Images (C, H, W) too large to be held: they are read region by region.

What is asked of all their pixels is a `Reduction`. Several are gathered in one pass, and remembered.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np

from img2img.data.picture import Array
from img2img.data.regions import Span

EDGE, MOST = 1024, 2**26  # pixels and bytes: the edge of the blocks of a pass, and the most that one takes
REMEMBERED = 2**24  # bytes of a channel that are remembered, at most

Read = Callable[[Span, Span], Array]  # of rows and columns, (C, h, w)
Add = Callable[[Span, Span, Array], None]


class Reduction(Protocol):
    """What is gathered of all pixels; equal ones are gathered once."""

    def begin(self, image: "LargeImage") -> tuple[Add, Callable[[], Any]]:
        """Return what takes each block (C, h, w) of the image, and what gives the result."""

    def __hash__(self) -> int: ...


class LargeImage(Sequence["LargePlane"]):
    """An image of which no more than a region is held.

    Args:
        shape: channels, height and width.
        dtype: type of the values.
        tile: height and width of the tiles that it is stored in.
        opened: opens the image, and gives what reads regions of it.
        sample: gives so many regions (rows, columns) with an edge of so many pixels, spread evenly over the tissue.

    Attributes:
        known: what has been gathered.
    """

    ndim = 3

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: Any,
        tile: tuple[int, int],
        opened: Callable[[], AbstractContextManager[Read]],
        sample: Callable[[int, int], list[tuple[Span, Span]]],
    ) -> None:
        self.shape, self.dtype, self.tile, self.opened, self.sample = shape, np.dtype(dtype), tile, opened, sample
        self.known: dict[Reduction, Any] = {}

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes that are taken by what is remembered of it, at most."""
        return min(self.size * 8, self.shape[0] * REMEMBERED)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Return a channel; or a region, given as (channels, rows, columns) in slices without a step."""
        if not isinstance(index, tuple):
            return LargePlane(self, range(len(self))[index])
        channels, *spans = index
        rows, columns = ((0, n) if part is None else part.indices(n)[:2] for part, n in zip(
            [*spans, None, None], self.shape[1:], strict=False))  # fmt: skip
        with self.opened() as read:
            return read(rows, columns)[channels]

    def blocks(self) -> Iterator[tuple[Span, Span, Array]]:
        """Yield rows, columns and pixels (C, h, w) of blocks of whole tiles."""
        edge = EDGE
        while edge > 256 and edge * edge * self.shape[0] * self.dtype.itemsize > MOST:
            edge //= 2
        high, wide = (n * max(1, round(edge / n)) for n in self.tile)
        height, width = self.shape[1:]
        with self.opened() as read:
            for top in range(0, height, high):
                for left in range(0, width, wide):
                    rows, columns = (top, min(top + high, height)), (left, min(left + wide, width))
                    yield rows, columns, read(rows, columns)

    def gather(self, *reductions: Reduction) -> list[Any]:
        """Return what is asked for; all that is not known yet is gathered in one pass."""
        new = {reduction: reduction.begin(self) for reduction in reductions if reduction not in self.known}
        if new:
            for rows, columns, block in self.blocks():
                for add, _ in new.values():
                    add(rows, columns, block)
        self.known |= {reduction: end() for reduction, (_, end) in new.items()}
        return [self.known[reduction] for reduction in reductions]

    def mapped(self, function: Callable[[Array, tuple[int, int]], Array], channels: int, dtype: Any) -> "LargeImage":
        """Return the image that `function` makes of each region and the place of its first pixel."""

        @contextmanager
        def opened() -> Iterator[Read]:
            with self.opened() as read:
                yield lambda rows, columns: function(read(rows, columns), (rows[0], columns[0]))

        return LargeImage((channels, *self.shape[1:]), dtype, self.tile, opened, self.sample)


class LargePlane:
    """A channel of a large image."""

    def __init__(self, image: LargeImage, channel: int) -> None:
        self.image, self.channel = image, channel
        self.shape, self.dtype = image.shape[1:], image.dtype

    def __getitem__(self, index: Any) -> Array:
        """Return a region, as `LargeImage` does; (..., rows, columns) is one, too."""
        region: Array = self.image[(slice(None), *index[-2:])][self.channel]
        return region
