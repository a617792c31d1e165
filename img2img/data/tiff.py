"""TIFF by tifffile: any number of channels, pages and series, including OME and ImageJ.

Axes named C or S are channels. Every other axis except Y and X (Z, T, pages of unknown meaning, series of equal shape)
gives separate images, in file order. A picture that still has the channels and the type of its file is written page by
page like the original, with the description verbatim; any other gets a plain description of its axes.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.descriptions import claimed_pages, imagej_names, imagej_pixel_size, ome_names, ome_of, ome_pixel_size
from img2img.data.levels import Size, whole_factors
from img2img.data.picture import (
    MAX_TILE,
    Array,
    Header,
    Picture,
    Source,
    Stated,
    as_type,
    full_scale,
    known_dtype,
    unpremultiply,
    upright,
)
from img2img.data.tiff_write import LOSSLESS, Details, Tag, storage_of
from img2img.errors import DataError, quote

MINISWHITE, MINISBLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
PHOTOMETRICS = (MINISWHITE, MINISBLACK, RGB, PALETTE, CMYK, YCBCR)
JPEG = (6, 7)  # compressions that tifffile decodes to RGB
IMAGEJ_TAGS = (50838, 50839)
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, INK_SET, ICC = 274, 282, 283, 296, 332, 34675
KEPT_TAGS = (
    *(270, 271, 272, 285, 305, 306, 315, 316, 33432),  # texts: maker, model, page, software, date, artist, ...
    *(700, 33723),  # XMP and IPTC
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),  # georeference: GeoTIFF and GDAL
    *IMAGEJ_TAGS,
)

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # or its remarks on odd files go to stderr


@contextmanager
def open_tiff(path: Path) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open a TIFF; yield its header, and a function that reads the rest."""
    import tifffile

    with tifffile.TiffFile(path, _multifile=False) as tiff:
        root = ome_of(tiff.ome_metadata)
        # tifffile would build a list of all pages that the file claims; none is smaller than a byte.
        if root is not None and not claimed_pages(root) <= 2 * tiff.filehandle.size:
            raise _lacks(quote(path), "pages")
        file = _File(path, tiff, root)
        yield file.header(), file.picture


def _lacks(name: str, parts: str) -> DataError:
    return DataError(f"{name} lacks some of the {parts} it declares; save it again completely.")


class _File:
    """An open TIFF, whose series are arrays of (pages, H, W, C, S)."""

    def __init__(self, path: Path, tiff: Any, ome: Any) -> None:
        self.path, self.tiff, self.ome, self.name = path, tiff, ome, quote(path)
        self.series = [s for s in tiff.series if not s.keyframe.is_reduced] or tiff.series[:1]
        first = self.first = self.series[0]
        self.page = first.keyframe
        self.shape, self.axes = tuple(first.shape), str(first.axes)
        self._refuse_odd_series()
        self._refuse_missing()
        self.photometric = int(self.page.photometric)
        self.extras = tuple(map(int, self.page.extrasamples))
        self._refuse_odd_colours()
        index = {axis: self.axes.index(axis) for axis in self.axes}
        self.leading = [i for axis, i in index.items() if axis not in "CSYX"]
        self.order = [*self.leading, index["Y"], index["X"], *(index[axis] for axis in "CS" if axis in index)]
        sizes = dict(zip(self.axes, self.shape, strict=True))
        self.height, self.width = sizes["Y"], sizes["X"]
        self.c, self.s = sizes.get("C", 1), sizes.get("S", 1)
        self.pages = len(self.series) * int(np.prod([self.shape[i] for i in self.leading]))
        self.bits = self.page.bitspersample if isinstance(self.page.bitspersample, int) else 8
        opaque = [i for i, extra in enumerate(self.extras) if extra in (1, 2)]
        self.alpha = self.s - len(self.extras) + opaque[0] if opaque and self.c == 1 else None
        self.premultiplied = self.alpha is not None and self.extras[opaque[0]] == 1
        colours = self.s - (self.alpha is not None)
        self.channels = self.c * {PALETTE: 3, CMYK: colours - 1}.get(self.photometric, colours)
        orientation = self.page.tags.valueof(ORIENTATION, 1)
        self.orientation = orientation if orientation in range(1, 9) else 1

    def _refuse_odd_series(self) -> None:
        kinds = {(s.shape, s.axes, str(s.dtype)) for s in self.series}
        if len(kinds) > 1:
            listed = ", ".join(f"{axes} {shape} {dtype}" for shape, axes, dtype in sorted(kinds)[:5])
            raise DataError(f"{self.name} holds images of different kinds ({listed}); save them as separate files.")
        if sorted(axis for axis in self.axes if axis in "YX") != ["X", "Y"] or len(set(self.axes)) < len(self.axes):
            raise DataError(
                f"{self.name} has the axes {self.axes}; img2img needs one Y, one X, and no other axis more than once."
            )

    def _refuse_missing(self) -> None:
        size, page = self.tiff.filehandle.size, self.page
        if (count := math.prod(page.chunks)) > max(MAX_TILE, math.prod(page.shape)):
            raise DataError(f"{self.name} has tiles of {count} values, more than the whole image; save it again.")
        for series in self.series:
            for page in series.pages:
                if page is None:
                    raise _lacks(self.name, "pages")
                if math.prod(page.chunked) > len(page.dataoffsets):
                    raise _lacks(self.name, "tiles or strips")
                if any(a + n > size for a, n in zip(page.dataoffsets, page.databytecounts, strict=True)):
                    raise DataError(f"{self.name} is truncated.")

    def _refuse_odd_colours(self) -> None:
        inks = self.page.samplesperpixel - len(self.extras)
        if (
            self.photometric not in PHOTOMETRICS
            or (self.photometric == YCBCR and self.page.compression not in JPEG)
            or (self.photometric == CMYK and (inks != 4 or self.page.tags.valueof(INK_SET, 1) != 1))
        ):
            name = getattr(self.page.photometric, "name", self.photometric)
            raise DataError(
                f"{self.name} uses the colour space {name}, which img2img does not read; save it as grey or RGB."
            )

    def header(self) -> Header:
        """Return the header of the file."""
        is_uint8 = self.photometric == PALETTE or self.bits < 8
        dtype = "uint8" if is_uint8 else known_dtype(self.path, self.first.dtype)
        size = (self.width, self.height) if self.orientation < 5 else (self.height, self.width)
        return Header(self.path, *size, self.channels, dtype, self.pages, self.stated)

    def picture(self) -> Picture:
        """Decode the file."""
        shape = (-1, self.height, self.width, self.c, self.s)
        stacks = [s.asarray().transpose(self.order).reshape(shape) for s in self.series]
        stack = stacks[0] if len(stacks) == 1 else np.concatenate(stacks)
        stack = stack.astype(stack.dtype.newbyteorder("="), copy=False)
        alpha = None
        if self.alpha is not None:
            alpha = self._eight_bits(stack[..., self.alpha : self.alpha + 1])
            stack = np.delete(stack, self.alpha, axis=-1)
        stack = self._colours(stack)
        if alpha is not None and self.premultiplied:
            stack = unpremultiply(stack, alpha)
        array = self._finished(stack)
        details = self._details(array)
        source = Source("tiff", self.page.tags.valueof(ICC), self._dpi(), details=details, stated=self.stated)
        return Picture(array, None if alpha is None else self._finished(alpha), source)

    def _finished(self, stack: Array) -> Array:
        array = upright(stack.reshape(*stack.shape[:3], -1), self.orientation)
        return array[0] if len(array) == 1 else array

    def _eight_bits(self, stack: Array) -> Array:
        if self.bits >= 8:
            return stack
        eight: Array = (stack.astype(np.uint16) * 255 // (2**self.bits - 1)).astype(np.uint8)
        return eight

    def _colours(self, stack: Array) -> Array:
        if self.photometric == PALETTE:  # a table of (3, colours), 16 bits each
            table = (self.page.colormap.T >> 8).astype(np.uint8)
            return np.asarray(table[stack[..., 0]])
        stack = self._eight_bits(stack)
        if self.photometric == MINISWHITE and stack.dtype.kind == "u":
            return np.asarray(full_scale(stack.dtype) - stack)
        if self.photometric == CMYK:
            white = full_scale(stack.dtype)
            light = (white - stack[..., :4].astype(np.float64)) / white
            rgb = as_type(light[..., :3] * light[..., 3:] * white, stack.dtype)
            return np.concatenate([rgb, stack[..., 4:]], axis=-1)
        return stack

    # Metadata

    @cached_property
    def stated(self) -> Stated:
        """The statements of the file about its pixels."""
        axes = [(self.axes[i], self.shape[i]) for i in self.leading if self.shape[i] > 1]
        axes += [("series", len(self.series))] if len(self.series) > 1 else []
        names, size = ome_names(self.ome, self.channels), ome_pixel_size(self.ome)
        if imagej := self.tiff.imagej_metadata:
            names = imagej_names(imagej, self.channels)
            size = imagej_pixel_size(imagej, self._resolution()[0])
        elif size and self.orientation >= 5:
            size = size[::-1]
        lost = []
        others = sum(s.keyframe.is_reduced for s in self.tiff.series if s not in self.series)
        if others or len(self.first.levels) > 1 + len(self.levels):
            lost.append("smaller copies of the image that are not levels of a whole factor")
        if (compression := self.page.compression) not in LOSSLESS:
            lost.append(f"{getattr(compression, 'name', compression)} compression, which becomes deflate")
        return Stated(names, size, tuple(axes), tuple(lost))

    @cached_property
    def levels(self) -> tuple[tuple[Size, int], ...]:
        """The size of each smaller copy that can be made again, and its factor from the one before."""
        sizes = [(int(s.keyframe.imagelength), int(s.keyframe.imagewidth)) for s in self.first.levels]
        alone = len(self.series) == 1 and self.orientation == 1
        return tuple(whole_factors(sizes)) if alone and (self.pages == 1 or self.page.subifds) else ()

    def _resolution(self) -> tuple[Any, int]:
        (x, y), unit = resolution_of(self.page)
        return ((x, y) if self.orientation < 5 else (y, x)), unit

    def _dpi(self) -> tuple[float, float] | None:
        resolution, unit = self._resolution()
        per_inch = {2: 1.0, 3: 2.54}.get(unit)
        if per_inch is None:
            return None
        x, y = (n / d * per_inch for n, d in resolution)
        return x, y

    def _details(self, array: Array) -> Details:
        page, pages = self.page, [p for s in self.series for p in s.pages]
        indices = [p.index for p in pages]
        complete = all(isinstance(i, int) for i in indices) and sorted(indices) == list(range(len(indices)))
        pagewise = self.pages * self.c * self.s * self.height * self.width == len(pages) * int(np.prod(page.shape))
        trailing = tuple(n for n in page.shape if n > 1) == tuple(
            n for n in self.shape[len(self.shape) - len(page.shape) :] if n > 1
        )
        unchanged = self.photometric in (MINISBLACK, RGB) and self.bits >= 8 and not self.premultiplied
        verbatim = complete and pagewise and trailing and unchanged and page.axes in ("YX", "YXS", "SYX")
        resolution, unit = self._resolution()
        extras = [2 if extra == 1 else extra for extra in self.extras]
        letters, lengths = "".join(self.axes[i] for i in self.leading), tuple(self.shape[i] for i in self.leading)
        if len(self.series) > 1:
            letters = next(x for x in "IQPRA" if x not in letters) + letters
            lengths = (len(self.series), *lengths)
        plane = {"YXS": "contig", "SYX": "separate"}.get(page.axes)
        return Details(
            axes=self.axes,
            order=tuple(self.order),
            series=len(self.series),
            letters=letters,
            pages=lengths,
            c_and_s=tuple(n for axis, n in (("C", self.c), ("S", self.s)) if axis in self.axes),
            channels=array.shape[-1],
            dtype=str(array.dtype),
            page_axes=page.axes,
            page_order=tuple(indices) if verbatim else (),
            alpha=self.alpha,
            tags={p.index: kept_tags(p) for p in pages if not p.is_frame} or {0: kept_tags(page)},
            structure="ome" if self.first.kind == "ome" else "imagej" if self.tiff.is_imagej else "",
            described=self.tiff.is_ome or self.tiff.is_imagej or self.tiff.is_shaped,
            colours={"photometric": self.photometric, "planarconfig": plane, "extrasamples": extras or None},
            resolution={"resolution": resolution, "resolutionunit": unit},
            storage=storage_of(page),
            byteorder=self.tiff.byteorder,
            big=bool(self.tiff.is_bigtiff),
            levels=self.levels,
            nested=self.page.subifds is not None,
        )


def resolution_of(page: Any) -> tuple[Any, int]:
    """Return the pixels per unit as fractions, and the unit; 1 and no unit if the file's values are invalid."""
    tags = page.tags
    x, y = (_fraction(tags.valueof(tag, (1, 1))) for tag in (X_RESOLUTION, Y_RESOLUTION))
    unit = tags.valueof(RESOLUTION_UNIT, 1 if X_RESOLUTION not in tags else 2)
    if x is None or y is None or unit not in (1, 2, 3):
        return ((1, 1), (1, 1)), 1
    return (x, y), int(unit)


def kept_tags(page: Any) -> list[Tag]:
    """Return the tags of a page that go unchanged into a file of the same kind."""
    handle = page.parent.filehandle
    tags = []
    for code in KEPT_TAGS:
        for tag in page.tags.getall(code, ()):
            handle.seek(tag.valueoffset)
            tags.append((code, int(tag.dtype), tag.count, handle.read(tag.valuebytecount)))
    return tags


def _fraction(value: Any) -> tuple[int, int] | None:
    """Return a resolution as a fraction, whatever type its tag has; None unless it is a positive number."""
    try:
        n, d = value if isinstance(value, tuple) else Fraction(value).limit_denominator(10**6).as_integer_ratio()
        return (int(n), int(d)) if n > 0 < d else None
    except (TypeError, ValueError, OverflowError):
        return None
