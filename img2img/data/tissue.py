"""Where on a slide there is tissue, and where nothing but glass.

A pixel is glass if it is bright and grey: each of red, green and blue is at least `BRIGHT`, and they differ by at most
`GREY`; or if it is black, as where a scanner did not look. A region is empty if all of its pixels are glass, on the
smallest level that is at most `COARSE` times smaller than the image. Only slides of 8-bit colours are judged.
"""

import itertools
from collections.abc import Callable

import numpy as np

from img2img.data.picture import Array
from img2img.data.regions import Regions, Span

BRIGHT, GREY = 200, 24  # of 255
COARSE = 32

IsEmpty = Callable[[Span, Span], bool]


def is_glass(pixels: Array) -> bool:
    """Return whether all pixels (H, W, 3) of 8 bits are glass."""
    low, high = pixels.min(-1).astype(np.int16), pixels.max(-1).astype(np.int16)
    return bool(np.all(((low >= BRIGHT) & (high - low <= GREY)) | (high == 0)))


def has_glass(slide: Regions) -> bool:
    """Return whether a slide is of the kind whose glass is recognised: of 8-bit colours."""
    return (slide.channels, slide.dtype) == (3, "uint8")


def empty_regions(slide: Regions) -> IsEmpty:
    """Return a function that tells whether a region (rows, columns) of the image is empty."""
    number = max(i for i, level in enumerate(slide.levels) if level.downsample <= COARSE)
    level = slide.levels[number]

    def scaled(span: Span, size: int, whole: int) -> Span:
        first = min(span[0] * size // whole, size - 1)
        return first, min(max(-(-span[1] * size // whole), first + 1), size)

    def is_empty(rows: Span, columns: Span) -> bool:
        region = scaled(rows, level.height, slide.height), scaled(columns, level.width, slide.width)
        return is_glass(slide.read(*region, number))

    return is_empty


def sample_of(slide: Regions, count: int, edge: int) -> list[tuple[Span, Span]]:
    """Return regions (rows, columns) of `edge` pixels that are spread evenly over the tissue of a slide.

    The slide is divided into a grid. Of the squares that are not empty, `count` are taken at equal distances along a
    curve that visits neighbours together (Morton 1966); all, if there are no more. Where glass is not recognised, or
    there is nothing else, every square counts as tissue.
    """
    rows, columns = (
        [(first, min(first + edge, n)) for first in range(0, n, edge)] for n in (slide.height, slide.width)
    )
    squares = sorted(itertools.product(range(len(rows)), range(len(columns))), key=lambda place: morton(*place))
    regions = [(rows[y], columns[x]) for y, x in squares]
    if has_glass(slide):
        is_empty = empty_regions(slide)
        regions = [region for region in regions if not is_empty(*region)] or regions
    if count >= len(regions):
        return regions
    return [regions[(2 * i + 1) * len(regions) // (2 * count)] for i in range(count)]


def morton(y: int, x: int) -> int:
    """Return the place of a square along the curve: the bits of both numbers, in turn."""
    return sum((y >> bit & 1) << 2 * bit + 1 | (x >> bit & 1) << 2 * bit for bit in range(32))
