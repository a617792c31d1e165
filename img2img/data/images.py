"""Reading and writing image files, each written back as the kind of file that was read.

**Reading.** PNG, JPEG, WebP, BMP, TIFF, npy, npz, CZI and ND2, recognised by content, become an array (H, W, C) of the
file's own type, with alpha separate. The orientation is applied; palettes are expanded to colours; 1, 2 and 4 bits
become 8-bit grey; white-is-zero becomes black-is-zero; CMYK becomes RGB by the simple formula; premultiplied alpha is
divided out. Other colour spaces, animations and damaged files are refused.

A folder is an OME-Zarr image if its metadata say so; its largest level is read.

**Several pages.** Axes named C or S are channels. Every other axis (Z, T, pages of unknown meaning, several series of
equal shape, the first axis of a (P, H, W, C) array) gives separate images, in file order: the array is (P, H, W, C),
and is written back with the same axes. With `pages="channels"` all of them, Z and T included, become the channels of a
single image instead, and are written back as pages.

**Writing.** The suffix decides the format, whatever the content of the original was; only an image of OME-Zarr, whose
name needs no suffix, is written as OME-Zarr under any other name. The orientation is upright.
EXIF data (among PNG, JPEG and WebP), resolution and the colour profile are kept where the format supports them, the
profile only if it suits the number of channels. A picture that the format cannot hold is refused.
"""

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from img2img.data import czi, nd2, npy, ome_metadata, ome_zarr, raster, tiff, tiff_write, zarr_write
from img2img.data.options import JPEG_QUALITY, MAX_PIXELS, PAGES
from img2img.data.picture import DTYPES, Array, Header, Picture, Stated, as_type, check_size, merge, unmerge
from img2img.errors import ConfigError, DataError, choose, first_line, quote
from img2img.runtime.files import atomic, atomic_folder

OpenFile = AbstractContextManager[tuple[Header, Callable[[], Picture]]]  # its header, and the function that decodes it

# The first bytes of a file, the name of its format, and the function that opens it.
CONTENT: dict[bytes, tuple[str, Callable[[Path], OpenFile]]] = {
    b"\x89PNG\r\n\x1a\n": ("PNG", partial(raster.open_raster, kind="png")),
    b"\xff\xd8\xff": ("JPEG", partial(raster.open_raster, kind="jpeg")),
    rb"RIFF....WEBP": ("WebP", partial(raster.open_raster, kind="webp")),
    b"BM": ("BMP", partial(raster.open_raster, kind="bmp")),
    b"II\\*\0": ("TIFF", tiff.open_tiff),
    b"MM\0\\*": ("TIFF", tiff.open_tiff),
    b"II\\+\0": ("TIFF", tiff.open_tiff),
    b"MM\0\\+": ("TIFF", tiff.open_tiff),
    b"\x93NUMPY": ("npy", npy.open_npy),
    b"PK": ("npz", npy.open_npz),
    b"ZISRAWFILE": ("CZI", czi.open_czi),
    b"\xda\xce\xbe\n": ("ND2", nd2.open_nd2),
}

# Formats often found under the suffix of an image that we do not read, by the first bytes.
OTHERS = {
    b"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)": "HEIC",
    b"....ftyp(avif|avis)": "AVIF",
    b"....ftyp": "a video",
    b"GIF8": "GIF",
    b"\xff\n|\0\0\0\x0cJXL ": "JPEG XL",
    b"\xffO\xffQ|\0\0\0\x0cjP  ": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"P[1-7]\\s": "PNM",
    b"%PDF": "PDF",
    b"\\s*<[!?a-zA-Z]": "HTML or XML",
    b"version https://git-lfs": "a Git LFS pointer",
}

# Messages of the decoders that tell more than that a file is damaged, and what they mean.
DECODER_MESSAGES = {
    "truncated|cut short|end of (the )?(file|stream|data)|premature|not enough (image )?data|EOF": "is truncated.",
    "unsupported|not supported|not implemented|requires the|precision|encrypted|password": (
        "is a variant of {kind} that img2img cannot decode; save it as PNG or TIFF."
    ),
}


@dataclass(frozen=True)
class Format:
    """A format: what it can hold, and the function that writes it. `channels` None means any number."""

    kind: str
    write: Callable[[Path, Picture, str, int], None]
    dtypes: tuple[str, ...] = ("uint8",)
    channels: tuple[int, ...] | None = (1, 3)
    alpha: bool = False
    pages: bool = False
    axes: str | None = None  # letters that the axes of pages may have; None means any
    side: int = 2**31 - 1
    place: Callable[[Path], AbstractContextManager[Path]] = atomic  # where it is written until it is complete

    def lacks(self, picture: Picture) -> str | None:
        """Return the first property of the picture that the format cannot hold, or None."""
        array, axes = picture.array, picture.source.stated.axes if picture.source else ()
        names = [axis for axis, _ in axes] or ["an axis of unknown meaning"]
        faults = {
            f"{array.shape[-1]} channels": self.channels and array.shape[-1] not in self.channels,
            f"{array.dtype} values": str(array.dtype) not in self.dtypes,
            f"{len(array)} pages": array.ndim == 4 and not self.pages,
            f"pages along {' and '.join(names)}": array.ndim == 4 and self.axes and not set(names) <= set(self.axes),
            "alpha": picture.alpha is not None and not self.alpha,
            f"sides of more than {self.side} pixels": max(array.shape[-3:-1]) > self.side,
        }
        return next((fault for fault, present in faults.items() if present), None)


_JPEG = Format("jpeg", raster.write, side=65500)
_TIFF = Format("tiff", tiff_write.write, DTYPES, None, alpha=True, pages=True)
FORMATS = {
    ".png": Format("png", raster.write, ("uint8", "uint16"), alpha=True),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".jpe": _JPEG,
    ".jfif": _JPEG,
    ".webp": Format("webp", raster.write, alpha=True, side=16383),
    ".bmp": Format("bmp", raster.write),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".npy": Format("npy", npy.write, DTYPES, None, pages=True),
    ".npz": Format("npz", npy.write, DTYPES, None, pages=True),
    ".zarr": Format("zarr", zarr_write.write, DTYPES, None, pages=True, axes="TZ", place=atomic_folder),
}
READ_ONLY = {".czi": ".ome.tif", ".nd2": ".ome.tif"}  # the suffixes of their results
SUFFIXES = (*FORMATS, *READ_ONLY)


def read_header(path: Path, pages: str = "images", max_pixels: int = MAX_PIXELS) -> Header:
    """Read the size, channels, type and number of pages of a file, without decoding it.

    Args:
        pages: whether the pages of a file are separate "images" or the "channels" of one.
        max_pixels: the limit for all pages together.

    Raises:
        DataError: if the file is not a readable image, or too large.
    """
    with _opened(path, pages, max_pixels) as (header, _):
        return header


def read_image(path: Path, pages: str = "images", max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a file; `pages` and `max_pixels` are those of `read_header`.

    Raises:
        DataError: if the file is damaged, not a readable image, or too large.
    """
    with _opened(path, pages, max_pixels) as (_, load):
        picture = load()
    return merge(picture, path) if pages == "channels" else picture


@contextmanager
def _opened(path: Path, pages: str, max_pixels: int) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open a file of any format; within the block, whatever a decoder raises becomes a DataError."""
    choose("--pages", pages, PAGES)
    kind, part = "image", "header"
    try:
        kind, opener = _opener(path)
        with opener(path) as (header, load):
            check_size(header, max_pixels)
            if pages == "channels":
                header = replace(header, channels=header.channels * header.pages, pages=1)
            part = "pixels"
            yield header, load
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{quote(path)} cannot be read: there is not enough memory for it.") from error
    except Exception as error:  # decoders raise anything on damaged input
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{quote(path)} cannot be read: {error.strerror}.") from error
        reasons = (reason for words, reason in DECODER_MESSAGES.items() if re.search(words, str(error), re.IGNORECASE))
        reason = next(reasons, "is damaged: its {part} cannot be decoded ({kind}).")
        raise DataError(f"{quote(path)} {reason.format(part=part, kind=kind)}") from error


def _opener(path: Path) -> tuple[str, Callable[[Path], OpenFile]]:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode) and ome_metadata.is_zarr(path):
        return "OME-Zarr", ome_zarr.open_image
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{quote(path)} is not a regular file.")
    if not status.st_size:
        raise DataError(f"{quote(path)} is empty.")
    with path.open("rb") as file:
        start = file.read(64)
    if found := next((opener for first, opener in CONTENT.items() if re.match(first, start, re.DOTALL)), None):
        return found
    if other := next((name for first, name in OTHERS.items() if re.match(first, start, re.DOTALL)), None):
        raise DataError(f"{quote(path)} holds {other}, which img2img does not read; save it as PNG, JPEG or TIFF.")
    raise DataError(f"{quote(path)} is not in a format img2img reads: {', '.join(s[1:] for s in SUFFIXES)}.")


def _of_zarr(picture: Picture) -> bool:
    return picture.source is not None and picture.source.kind == "zarr"


def not_kept(picture: Picture, target: Path) -> tuple[str, ...]:
    """Return what the result of a picture, written as `target`, does not keep of its original."""
    stated: Stated = picture.source.stated
    again = _of_zarr(picture) and FORMATS.get(target.suffix.lower(), FORMATS[".zarr"]).kind == "zarr"
    levels = again and picture.source.options["layout"].complete
    return tuple(what for what in stated.lost if not levels or what != ome_zarr.LEVELS)


def write_image(path: Path, picture: Picture, quality: int = JPEG_QUALITY) -> None:
    """Write `picture` in the format of `path`'s suffix; the file appears whole or not at all.

    A picture that was read from a file has a source; whatever of it fits the format and the pixels is kept. The folder
    is created if necessary. `quality` is that of JPEG and lossy WebP, 1 to 100.

    Raises:
        ConfigError: if the quality is out of range.
        DataError: if the format cannot hold the picture.
    """
    if not 1 <= quality <= 100:
        raise ConfigError(f"The quality of JPEG and WebP must be from 1 to 100, not {quality}.")
    known = FORMATS.get(path.suffix.lower()) or (FORMATS[".zarr"] if _of_zarr(picture) else None)
    if known is None:
        raise DataError(f"{quote(path)} needs the suffix of a format img2img writes: {', '.join(FORMATS)}.")
    if picture.array.ndim not in (3, 4) or not picture.array.size:
        raise DataError(f"{quote(path)}: a picture must be (H, W, C) or (P, H, W, C), not {picture.array.shape}.")
    picture = unmerge(picture)
    if lacking := known.lacks(picture):
        others = ", ".join({other.kind.upper(): 0 for other in FORMATS.values() if not other.lacks(picture)})
        raise DataError(
            f"{quote(path)}: {known.kind.upper()} cannot hold {lacking}; "
            + (f"write {others} instead." if others else "no format of img2img can.")
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with known.place(path) as temporary:
            known.write(temporary, picture, known.kind, quality)
    except MemoryError as error:
        raise DataError(f"{quote(path)} cannot be written: there is not enough memory for it.") from error
    except DataError as error:
        raise DataError(f"{quote(path)} cannot be written: {error}") from error
    except Exception as error:  # encoders raise anything, too
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{quote(path)} cannot be written as {known.kind.upper()}: the metadata of its original does not fit "
            f"({first_line(error)}); write another format."
        ) from error


def resize(array: Array, height: int, width: int) -> Array:
    """Resize by bicubic interpolation with antialiasing, channel by channel, in the array's own type.

    Overshoot is clipped to the range of an integer type. Types other than uint8 are computed in fp32, as in the
    networks.
    """
    if array.shape[:2] == (height, width):
        return array
    size = (width, height)
    if array.dtype == np.uint8 and array.shape[2] == 3:
        return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC))
    planes: list[Any] = [
        np.asarray(Image.fromarray(array[..., c].astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
        for c in range(array.shape[2])
    ]
    return as_type(np.stack(planes, axis=2).astype(np.float64), array.dtype)
