"""The header and the content of an image file, and the few rules that all formats share."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img2img.errors import DataError, TooLargeError, quote

Array = NDArray[Any]

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
UNKNOWN_AXES = "IQ"  # of pages whose meaning a TIFF does not state
MAX_LAST = 8  # channels that the last axis of an array holds without a doubt
MAX_TILE = 2**24  # values that any tile or strip of a file may have
PROFILES = {1: b"GRAY", 3: b"RGB "}  # bytes 16 to 20 of an ICC profile, by the number of channels it is for


@dataclass(frozen=True)
class Stated:
    """What a file says of its pixels, which their values do not show."""

    channels: tuple[str, ...] = ()  # names of the channels of each page; empty unless it names them all
    pixel_size: tuple[float, float] | None = None  # width and height of a pixel in micrometres
    axes: tuple[tuple[str, int], ...] = ()  # of the pages: "Z", "T", "series", ... and its length, if more than 1
    lost: tuple[str, ...] = ()  # what `write_image` does not keep of it


@dataclass(frozen=True)
class Header:
    """The properties of a file that are known before its pixels are read."""

    path: Path
    width: int  # number of columns once the image is upright
    height: int  # number of rows once the image is upright
    channels: int  # number of channels of each page, without alpha
    dtype: str  # type of the pixels as read
    pages: int = 1  # number of images in the file
    stated: Stated = Stated()

    @property
    def place(self) -> str:
        """The place of the image in its file, in words; "" for all of it."""
        return ""


@dataclass(frozen=True)
class Source:
    """The properties of the file that a picture was read from, for writing another of the same kind."""

    kind: str  # "png", "jpeg", "webp", "bmp", "tiff", "npy", "npz" or "zarr"
    icc: bytes | None = None  # the colour profile
    dpi: tuple[float, float] | None = None  # horizontal and vertical pixels per inch
    exif: bytes | None = None  # the EXIF data, with the orientation set to upright
    options: dict[str, Any] = field(default_factory=dict)  # options for the writer of the same kind
    details: Any = None  # data that only that writer understands
    merged: int = 0  # number of pages that were read as channels; 0 if none were
    stated: Stated = Stated()


@dataclass(frozen=True)
class Picture:
    """The pixels of one file.

    Attributes:
        array: (H, W, C), or (P, H, W, C) for a file with several pages.
        alpha: the opacity, of the same shape except for its single channel; None if the file has none.
        source: the properties of the file, of which `write_image` keeps what still fits. Opaque, and optional.
    """

    array: Array
    alpha: Array | None = None
    source: Any = None


def known_dtype(path: Path, dtype: Any) -> str:
    """Return the name of `dtype`.

    Raises:
        DataError: if it is not one of `DTYPES`.
    """
    name = str(np.dtype(dtype).name)
    if name not in DTYPES:
        raise DataError(f"{quote(path)} holds {name} values; img2img supports {', '.join(DTYPES)}.")
    return name


def check_size(header: Header, max_pixels: int) -> None:
    """Refuse a file that would need too much memory, counting the pixels of all pages; channels beyond 4 count extra.

    Raises:
        DataError: if there are more than `max_pixels`, or none.
    """
    pixels = header.width * header.height * header.pages
    size = f"{header.width}x{header.height}"
    if header.pages > 1:
        size += f" in {header.pages} pages"
    if not pixels * header.channels:
        raise DataError(f"{quote(header.path)} has no pixels: it is {size} with {header.channels} channels.")
    if pixels * max(header.channels, 4) > 4 * max_pixels:
        raise TooLargeError(
            f"{quote(header.path)} is {size} with {header.channels} channels, which exceeds the limit of {max_pixels} "
            "pixels; split it into parts, or raise the limit.",
            pixels * header.channels,
        )


def upright(array: Array, orientation: int) -> Array:
    """Rotate and mirror an array (..., H, W, C) by an EXIF orientation (tag 274)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(-3, -2)
    y_step, x_step = (-1 if orientation in flipped else 1 for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(array[..., ::y_step, ::x_step, :])


def full_scale(dtype: Any) -> int:
    """Return the value that stands for opaque, and for white: the largest integer, or 1."""
    return int(np.iinfo(dtype).max) if np.dtype(dtype).kind in "iu" else 1


def unpremultiply(colours: Array, alpha: Array) -> Array:
    """Divide out the opacity that the colours were multiplied by before they were stored."""
    opacity = alpha / full_scale(alpha.dtype)
    out = np.divide(colours, opacity, out=np.zeros(colours.shape), where=opacity > 0)
    return as_type(out, colours.dtype)


def as_type(values: Array, dtype: Any) -> Array:
    """Convert numbers to a type; to an integer type by rounding and clipping."""
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


def with_alpha(picture: Picture) -> Array:
    """Return colours and opacity in one array; the opacity takes the type of the colours."""
    array, alpha = picture.array, picture.alpha
    if alpha is None:
        return array
    if alpha.dtype != array.dtype:
        alpha = as_type(alpha.astype(np.float64) * (full_scale(array.dtype) / full_scale(alpha.dtype)), array.dtype)
    return np.concatenate([array, alpha], axis=-1)


def fitting_profile(picture: Picture) -> bytes | None:
    """Return the colour profile of the source, if it suits this number of channels."""
    icc = picture.source.icc if picture.source else None
    return icc if icc and icc[16:20] == PROFILES.get(picture.array.shape[-1]) else None


def merge(picture: Picture, path: Path) -> Picture:
    """Merge the pages of a picture into the channels of a single image: channel c of page p becomes channel p * C + c.

    Raises:
        DataError: if the pages have alpha.
    """
    if picture.array.ndim == 3:
        return picture
    if picture.alpha is not None:
        raise DataError(
            f"{quote(path)} has pages with alpha, which cannot be read as channels; read them as images instead."
        )
    pages, height, width, _ = picture.array.shape
    array = picture.array.transpose(1, 2, 0, 3).reshape(height, width, -1)
    return Picture(array, None, replace(picture.source, merged=pages))


def unmerge(picture: Picture) -> Picture:
    """Invert `merge`; if the channels no longer correspond to the pages, the picture stays a single image."""
    merged = picture.source.merged if picture.source else 0
    if not merged or picture.array.shape[-1] % merged:
        return picture
    height, width, _ = picture.array.shape
    array = picture.array.reshape(height, width, merged, -1).transpose(2, 0, 1, 3)
    return Picture(array, None, replace(picture.source, merged=0))
