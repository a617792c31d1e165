"""Large images, such as whole slides, cut into squares of equal size, each of which is an image to train on.

The squares stand on a grid without gaps, of which the last ones in a row and a column reach the border. Those that
show no tissue, by the rule of `tissue`, are left out.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.folders import Found, images_at
from img2img.data.picture import Array, Header
from img2img.data.regions import SLIDES, Regions, open_regions
from img2img.data.tissue import empty_regions, has_glass, morton
from img2img.errors import DataError, listed, quote

MAX_OPEN = 4  # files of one thread
_kept = threading.local()

Place = tuple[int, int]  # the first row and column of a square


@dataclass(frozen=True)
class Patch(Header):
    """A square of a large image; width and height are its own."""

    top: int = 0
    left: int = 0

    @property
    def place(self) -> str:
        """The place of the square in its file, in words."""
        return f" at row {self.top}, column {self.left}"


def scan_large(folder: Path) -> Found[Header]:
    """Read the headers of all images below `folder`, slides included; unreadable files are reported together.

    Raises:
        DataError: if a file cannot be read by region.
    """

    def header(path: Path) -> Header | DataError:
        try:
            with open_regions(path) as image:
                return Header(path, image.width, image.height, image.channels, image.dtype, 1, image.stated)
        except DataError as error:
            return error

    _, paths = images_at(folder, SLIDES)
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(header, paths))
    if bad := [str(h) for h in headers if isinstance(h, DataError)]:
        raise DataError(f"{len(bad)} of the images in {quote(folder)} cannot be used: {listed(bad)}")
    return Found((h for h in headers if isinstance(h, Header)), paths.passed)


def patches_of(headers: Sequence[Header], side: int) -> list[list[Header]]:
    """Return the squares of each image that show tissue.

    Raises:
        DataError: if an image is smaller than a square, or shows no tissue.
    """
    with ThreadPoolExecutor() as pool:
        places = list(pool.map(lambda header: _places(header, side), headers))
    if empty := [quote(header.path) for header, found in zip(headers, places, strict=True) if not found]:
        raise DataError(f"{listed(empty)}: no region of {side} pixels shows tissue; remove what has none.")
    return [_patches(header, found, side) for header, found in zip(headers, places, strict=True)]


def pairs_of(a: Sequence[Header], b: Sequence[Header], side: int) -> tuple[list[Header], list[Header]]:
    """Return the squares of images of equal size that show tissue in the first of each pair, and the same of the other.

    Raises:
        DataError: as `patches_of` does.
    """
    first = patches_of(a, side)
    second = [
        _patches(header, [(patch.top, patch.left) for patch in found if isinstance(patch, Patch)], side)
        for header, found in zip(b, first, strict=True)
    ]
    return list(chain(*first)), list(chain(*second))


def spread(patches: Sequence[Header | Array], count: int, seed: int) -> list[int]:
    """Return the indices of at most `count` squares, spread evenly over the images and over the tissue of each.

    All images give the same number of squares, or all of theirs if they have fewer, and the larger ones give what is
    then missing. Those of an image stand at equal distances along a curve that visits neighbours together (Morton
    1966); where it begins, and which of equal images give one more, is drawn by the seed.
    """
    images: dict[Path, list[tuple[int, int]]] = defaultdict(list)  # of each, the places along the curve, and indices
    for i, patch in enumerate(patches):
        if isinstance(patch, Patch):
            row, column = (-(-first // side) for first, side in ((patch.top, patch.height), (patch.left, patch.width)))
            images[patch.path].append((morton(row, column), i))
    rng, chosen = np.random.default_rng((seed, len(patches))), list[int]()
    squares = [sorted(found) for found in images.values()]
    order = sorted(rng.permutation(len(squares)).tolist(), key=lambda k: len(squares[k]))
    for turn, k in enumerate(order):
        share = min(len(squares[k]), (count - len(chosen)) // (len(order) - turn))
        start = int(rng.integers(len(squares[k])))
        chosen += [squares[k][(j * len(squares[k]) + start) // share][1] for j in range(share)]
    return sorted(chosen)


def _patches(header: Header, places: Iterable[Place], side: int) -> list[Header]:
    known = {field.name: getattr(header, field.name) for field in fields(Header)} | {"width": side, "height": side}
    return [Patch(**known, top=top, left=left) for top, left in places]


def _places(header: Header, side: int) -> list[Place]:
    if min(header.height, header.width) < side:
        raise DataError(
            f"{quote(header.path)} is {header.width}x{header.height}, smaller than a region of {side} pixels; use a "
            "smaller --region-size, or remove it."
        )
    with open_regions(header.path) as image:
        rows, columns = ([*range(0, n - side, side), n - side] for n in (image.height, image.width))
        places = [(top, left) for top in rows for left in columns]
        if not has_glass(image):
            return places
        is_empty = empty_regions(image)
        return [(top, left) for top, left in places if not is_empty((top, top + side), (left, left + side))]


def read_patch(patch: Patch) -> Array:
    """Read the pixels (H, W, C) of a square.

    Raises:
        DataError: if they cannot be read.
    """
    rows, columns = (patch.top, patch.top + patch.height), (patch.left, patch.left + patch.width)
    return _open_here(patch.path).read(rows, columns)


def _open_here(path: Path) -> Regions:
    """Return an open file of this thread, of which a few are kept, since opening one takes longer than reading."""
    if getattr(_kept, "process", None) != os.getpid():  # a fork shares positions in files with its parent
        _kept.process, _kept.files = os.getpid(), {}
    files: dict[Path, tuple[Any, Regions]] = _kept.files
    if path in files:
        files[path] = files.pop(path)  # the last is the one that was used last
    else:
        while len(files) >= MAX_OPEN:
            files.pop(next(iter(files)))[0].__exit__(None, None, None)
        manager = open_regions(path)
        files[path] = manager, manager.__enter__()
    return files[path][1]
