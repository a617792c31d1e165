"""PNG, JPEG, WebP and BMP, by Pillow; PNG with 16 bits per colour, which Pillow would cut to 8, by imagecodecs."""

import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from img2img.data.picture import Array, Header, Picture, Source, fitting_profile, shown, upright, with_alpha
from img2img.errors import DataError

# The plugins themselves: `Image.open` would refuse images above its own limit, and take a camera's JPEG with previews
# for an animation.
PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
    "bmp": BmpImageFile,
}
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")  # every other mode becomes RGB
ORIENTATION, EXIF_IFD, EXIF_WIDTH, EXIF_HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003

_pillow = threading.Lock()  # guards Pillow's limit and the process's warnings while a header is parsed


@contextmanager
def _alone() -> Iterator[None]:
    """Pillow without its limit on pixels and without its warnings, for the moment it takes to parse a header."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def opened(path: Path, kind: str) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """The header of a file of the given kind, and how to read the rest."""
    with path.open("rb") as file:
        deep, exif_data = _scan_png(path, file) if kind == "png" else (0, b"")
        file.seek(0)
        with _alone():
            image = PLUGINS[kind](file)
            exif, orientation = _exif(image, exif_data)
        with image:
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{shown(path)} is an animation; save its frames as images of their own.")
            mode = _target_mode(image)
            size = image.size if orientation < 5 else image.size[::-1]
            header = Header(path, *size, deep or (1 if mode[0] == "L" else 3), "uint16" if deep else "uint8")

            def load() -> Picture:
                source = Source(
                    kind, image.info.get("icc_profile"), _dpi(image), _kept_exif(exif, size), _options(image, file)
                )
                array = _deep(file) if deep else np.array(image if image.mode == mode else image.convert(mode))
                array = upright(np.atleast_3d(array), orientation)
                if array.shape[2] in (2, 4):
                    return Picture(array[..., :-1], array[..., -1:], source)
                return Picture(array, None, source)

            yield header, load


def _target_mode(image: Image.Image) -> str:
    has_alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
    return ("L" if image.mode in GREY_MODES else "RGB") + "A" * has_alpha


def _scan_png(path: Path, file: IO[bytes]) -> tuple[int, bytes]:
    """The channels of a PNG of 16 bits (0 of any other), and its EXIF data, which may stand behind the pixels.

    Raises:
        DataError: if the file is cut short.
    """
    bits, colours = file.read(26)[24:].ljust(2, b"\0")
    deep = (3 if colours in (2, 6) else 1) if bits == 16 else 0
    exif = b""
    file.seek(8)
    while len(start := file.read(8)) == 8:
        if (name := start[4:]) == b"IEND":
            return deep, exif
        length = int.from_bytes(start[:4], "big")
        if name == b"eXIf":
            exif = b"Exif\0\0" + file.read(length)
            length = 0
        file.seek(length + 4, 1)
    raise DataError(f"{shown(path)} is cut short.")


def _deep(file: IO[bytes]) -> Array:
    import imagecodecs

    file.seek(0)
    array: Array = imagecodecs.png_decode(file.read())
    return array


# What is kept beside the pixels


def _exif(image: ImageFile.ImageFile, data: bytes) -> tuple[Image.Exif | None, int]:
    """The EXIF data and the orientation; data that Pillow cannot parse count as none."""
    if data:
        image.info["exif"] = data
    with suppress(Exception):
        exif = Image.Image.getexif(image)  # a PNG's own would decode the pixels to see what follows them
        orientation = exif.get(ORIENTATION, 1)
        return exif, orientation if orientation in range(1, 9) else 1
    return None, 1


def _kept_exif(exif: Image.Exif | None, size: tuple[int, int]) -> bytes | None:
    if not exif:
        return None
    with suppress(Exception), _alone():
        if ORIENTATION in exif:
            exif[ORIENTATION] = 1
        details = exif.get_ifd(EXIF_IFD)
        for tag, side in zip((EXIF_WIDTH, EXIF_HEIGHT), size, strict=True):
            if tag in details:
                details[tag] = side
        return exif.tobytes()
    return None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    with suppress(TypeError, ValueError, ZeroDivisionError):
        x, y = (float(n) for n in image.info["dpi"]) if "dpi" in image.info else (0.0, 0.0)
        return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None
    return None


def _options(image: Image.Image, file: IO[bytes]) -> dict[str, Any]:
    if isinstance(image, JpegImageFile):
        sampling = get_sampling(image)
        options: dict[str, Any] = {"subsampling": sampling} if sampling >= 0 else {}
        return options | ({"progressive": True} if "progressive" in image.info else {})
    if isinstance(image, WebPImageFile):
        return {"lossless": _is_lossless_webp(file)}
    return {}


def _is_lossless_webp(file: IO[bytes]) -> bool:
    file.seek(12)
    while len(start := file.read(8)) == 8:
        if start[:4] == b"VP8L":
            return True
        length = int.from_bytes(start[4:], "little")
        file.seek(length + length % 2, 1)
    return False


# Writing


def write(path: Path, picture: Picture, kind: str, quality: int) -> None:
    """Writes a picture that the format can hold; `quality` is for JPEG and WebP."""
    array, source = np.ascontiguousarray(with_alpha(picture)), picture.source
    kept: dict[str, Any] = {
        "icc_profile": fitting_profile(picture),
        "dpi": source and source.dpi,
        "exif": source and source.exif,
    }
    if array.dtype == np.uint16:
        _write_deep_png(path, array, **kept)
        return
    options: dict[str, Any] = {name: value for name, value in kept.items() if value}
    if kind in ("jpeg", "webp"):
        options["quality"] = quality
    if kind == "webp":
        options["exact"] = True  # colours under full transparency stay what they are
    if source and source.kind == kind:
        options |= source.options
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path, **options)


def _write_deep_png(
    path: Path,
    array: Array,
    icc_profile: bytes | None,
    dpi: tuple[float, float] | None,
    exif: bytes | None,
) -> None:
    import imagecodecs

    chunks = b""
    if icc_profile:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(n / 0.0254) for n in dpi), 1))
    if exif:
        chunks += _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    data = imagecodecs.png_encode(array.copy())  # with the strides of a new array
    start = 33  # the signature and the header chunk
    path.write_bytes(data[:start] + chunks + data[start:])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
