"""What an image file says and holds, and the few rules that every format shares."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img2img.errors import DataError, quote as quote

Array = NDArray[Any]

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
PROFILES = {1: b"GRAY", 3: b"RGB "}  # bytes 16 to 20 of an ICC profile, by the channels it is for


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are read.

    Attributes:
        path: the file.
        width: columns, once the image is upright.
        height: rows, once the image is upright.
        channels: channels of each page, without alpha.
        dtype: type of the pixels once read.
        pages: images in the file.
    """

    path: Path
    width: int
    height: int
    channels: int
    dtype: str
    pages: int = 1


@dataclass(frozen=True)
class Source:
    """What a picture's file was, for writing another of its kind.

    Attributes:
        kind: "png", "jpeg", "webp", "bmp", "tiff", "npy" or "npz".
        icc: the colour profile.
        dpi: pixels per inch, across and down.
        exif: the EXIF data, saying upright.
        options: what the writer of the same kind is to be told.
        details: what only that writer understands.
        merged: how many pages were read as channels; 0 where none were.
    """

    kind: str
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    exif: bytes | None = None
    options: dict[str, Any] = field(default_factory=dict)
    details: Any = None
    merged: int = 0


@dataclass(frozen=True)
class Picture:
    """The pixels of one file.

    Attributes:
        array: (H, W, C), or (P, H, W, C) for a file with several pages.
        alpha: the opacity, of the same shape but for its one channel; None where the file has none.
        source: what the file was; `write_image` gives back what of it still fits. Opaque, and not needed.
    """

    array: Array
    alpha: Array | None = None
    source: Any = None


def is_text(path: Path) -> bool:
    """Return whether the name is UTF-8, as it must be for libraries that are not written in Python."""
    return str(path).encode(errors="surrogatepass").decode(errors="replace") == str(path)


def known_dtype(path: Path, dtype: Any) -> str:
    """The name of `dtype`.

    Raises:
        DataError: if it is none of `DTYPES`.
    """
    name = str(np.dtype(dtype).name)
    if name not in DTYPES:
        raise DataError(f"{quote(path)} holds {name} values; img2img takes {', '.join(DTYPES)}.")
    return name


def check_size(header: Header, max_pixels: int) -> None:
    """Refuses what would need too much memory: the pixels of all pages are counted, and those beyond 4 channels more.

    Raises:
        DataError: if there are more than `max_pixels`, or none.
    """
    pixels = header.width * header.height * header.pages
    size = f"{header.width}x{header.height}" + f" in {header.pages} pages" * (header.pages > 1)
    if not pixels * header.channels:
        raise DataError(f"{quote(header.path)} has no pixels: it is {size} with {header.channels} channels.")
    if pixels * max(header.channels, 4) > 4 * max_pixels:
        raise DataError(
            f"{quote(header.path)} is {size} with {header.channels} channels, more than the limit of {max_pixels} "
            "pixels; cut it into parts, or raise the limit."
        )


def upright(array: Array, orientation: int) -> Array:
    """The array (..., H, W, C) turned and mirrored as the EXIF standard has it (tag 274)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(-3, -2)
    down, across = (-1 if orientation in turned else 1 for turned in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(array[..., ::down, ::across, :])


def full(dtype: Any) -> int:
    """The value that stands for opaque, and for white: the largest integer, or 1."""
    return int(np.iinfo(dtype).max) if np.dtype(dtype).kind in "iu" else 1


def straight(colours: Array, alpha: Array) -> Array:
    """The colours that were multiplied by the opacity before they were stored."""
    share = alpha / full(alpha.dtype)
    out = np.divide(colours, share, out=np.zeros(colours.shape), where=share > 0)
    return as_type(out, colours.dtype)


def as_type(values: Array, dtype: Any) -> Array:
    """Numbers rounded and cut to an integer type, or made a float type."""
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


def with_alpha(picture: Picture) -> Array:
    """Colours and opacity in one array; the opacity takes the type of the colours."""
    array, alpha = picture.array, picture.alpha
    if alpha is None:
        return array
    if alpha.dtype != array.dtype:
        alpha = as_type(alpha.astype(np.float64) * (full(array.dtype) / full(alpha.dtype)), array.dtype)
    return np.concatenate([array, alpha], axis=-1)


def fitting_profile(picture: Picture) -> bytes | None:
    """The colour profile of the source, if it is one for this number of channels."""
    icc = picture.source.icc if picture.source else None
    return icc if icc and icc[16:20] == PROFILES.get(picture.array.shape[-1]) else None


def merge(picture: Picture, path: Path) -> Picture:
    """The pages of a picture as the channels of one: page p's channel c becomes channel p * C + c.

    Raises:
        DataError: if the pages have alpha.
    """
    if picture.array.ndim == 3:
        return picture
    if picture.alpha is not None:
        raise DataError(f"{quote(path)} has pages with alpha, which cannot be channels; read them as images.")
    pages, height, width, _ = picture.array.shape
    array = picture.array.transpose(1, 2, 0, 3).reshape(height, width, -1)
    return Picture(array, None, replace(picture.source, merged=pages))


def unmerge(picture: Picture) -> Picture:
    """The inverse of `merge`; where the channels are no longer those of the pages, the picture stays one image."""
    merged = picture.source.merged if picture.source else 0
    if not merged or picture.array.shape[-1] % merged:
        return picture
    height, width, _ = picture.array.shape
    array = picture.array.reshape(height, width, merged, -1).transpose(2, 0, 1, 3)
    return Picture(array, None, replace(picture.source, merged=0))
