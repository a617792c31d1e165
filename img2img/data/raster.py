"""PNG, JPEG, WebP and BMP by Pillow."""

import copy
import io
import threading
import warnings
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

from img2img.data.picture import Array, Header, Picture, Source, fitting_profile, upright, with_alpha
from img2img.data.png import Chunks, Parts, decode_deep, encode_deep, read_chunks, verify_checksums, with_chunks
from img2img.errors import DataError, quote

# The plugins themselves: `Image.open` would refuse images above its own limit, and mistake a camera's JPEG with
# previews for an animation.
PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
    "bmp": BmpImageFile,
}
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")  # every other mode becomes RGB
ORIENTATION, EXIF_IFD, EXIF_WIDTH, EXIF_HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
JPEG_BYTES = 8  # buffer per pixel of a progressive JPEG; black and white noise of quality 100 takes 3.3

_pillow = threading.Lock()  # guards Pillow's limits and the process's warnings while a header is parsed
_default_buffer = ImageFile.MAXBLOCK
_buffers: list[int] = []


@contextmanager
def _unlimited() -> Iterator[None]:
    """Disable Pillow's limit on pixels and its warnings, for the moment it takes to parse a header."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _buffer(size: int) -> Iterator[None]:
    """Give Pillow an encoding buffer of `size` bytes: a progressive JPEG must fit, and its own estimate is too low."""
    with _pillow:
        _buffers.append(size)
        ImageFile.MAXBLOCK = max(_default_buffer, *_buffers)
    try:
        yield
    finally:
        with _pillow:
            _buffers.remove(size)
            ImageFile.MAXBLOCK = max([_default_buffer, *_buffers])


@contextmanager
def open_raster(path: Path, kind: str) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open a file of the given kind; yield its header, and a function that reads the rest."""
    with path.open("rb") as whole:
        png = read_chunks(path, whole) if kind == "png" else Chunks()
        file = io.BufferedReader(Parts(whole, png.parts)) if png.parts else whole
        file.seek(0)
        with _unlimited():
            image = PLUGINS[kind](file)
            image.info |= png.info
            exif, orientation, size = _exif(image)
        with image:
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{quote(path)} is an animation; save its frames as separate images.")
            mode = _target_mode(image)
            channels = png.deep or (1 if mode[0] == "L" else 3)
            header = Header(path, *size, channels, "uint16" if png.deep else "uint8")

            def load() -> Picture:
                profile, options = image.info.get("icc_profile"), _options(image, file)
                source = Source(kind, profile, _dpi(image), _kept_exif(exif, size), options, png.colour)
                if kind == "png":
                    verify_checksums(path, file)
                return _picture(decode_deep(file) if png.deep else _pixels(image, mode), orientation, source)

            yield header, load


def from_pil(image: Image.Image) -> Picture:
    """Convert a PIL image the way a file of its kind is read: upright, in grey or colours, with separate alpha.

    Raises:
        DataError: if the mode of the image represents neither grey nor colours.
    """
    exif, orientation, size = _exif(image)
    exif = copy.deepcopy(exif)  # about to be changed, and the image belongs to the caller
    source = Source("png", image.info.get("icc_profile"), _dpi(image), _kept_exif(exif, size))
    mode = image.mode if image.mode.startswith(("I", "F")) else _target_mode(image)
    try:
        array = _pixels(image, mode)
    except ValueError as error:
        raise DataError(
            f"A PIL image of mode {image.mode} cannot be used. Convert it first: image.convert('RGB')."
        ) from error
    return _picture(array.astype(array.dtype.newbyteorder("=")), orientation, source)


def _pixels(image: Image.Image, mode: str) -> Array:
    return np.array(image if image.mode == mode else image.convert(mode))


def _picture(array: Array, orientation: int, source: Source) -> Picture:
    array = upright(np.atleast_3d(array), orientation)
    if array.shape[2] in (2, 4):
        return Picture(array[..., :-1], array[..., -1:], source)
    return Picture(array, None, source)


def to_pil(picture: Picture) -> Image.Image:
    """Return a picture as a PIL image, with the metadata of its source.

    Raises:
        DataError: if PIL has no mode for its type and channels.
    """
    array = with_alpha(picture)
    try:
        image = _image(array)
    except TypeError as error:
        kind = f"{array.shape[2]} channels of {array.dtype}"
        raise DataError(f"PIL has no mode for the result, {kind}; pass the image as an array instead.") from error
    image.info |= _metadata(picture)
    return image


def _image(array: Array) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def _target_mode(image: Image.Image) -> str:
    has_alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
    colours = "L" if image.mode in GREY_MODES else "RGB"
    return f"{colours}A" if has_alpha else colours


# Metadata


def _exif(image: Image.Image) -> tuple[Image.Exif | None, int, tuple[int, int]]:
    """Return the EXIF data, the orientation, and the size once upright; data that Pillow cannot parse are missing."""
    with suppress(Exception):
        exif = Image.Image.getexif(image)  # a PNG's own method would decode the pixels to look for EXIF after them
        orientation = exif.get(ORIENTATION, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        return exif, orientation, image.size if orientation < 5 else image.size[::-1]
    return None, 1, image.size


def _kept_exif(exif: Image.Exif | None, size: tuple[int, int]) -> bytes | None:
    if not exif:
        return None
    with suppress(Exception), _unlimited():
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


def _metadata(picture: Picture) -> dict[Any, Any]:
    """Return what the source of a picture knows and its channels allow, under Pillow's names."""
    source = picture.source
    known = {"icc_profile": fitting_profile(picture), "dpi": source and source.dpi, "exif": source and source.exif}
    return {name: value for name, value in known.items() if value}


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
    """Write a picture that the format can hold; `quality` is for JPEG and WebP."""
    array, source, options = np.ascontiguousarray(with_alpha(picture)), picture.source, _metadata(picture)
    same_kind = source is not None and source.kind == kind
    if array.dtype == np.uint16:
        data = encode_deep(array, **options)
    else:
        if kind in ("jpeg", "webp"):
            options["quality"] = quality
        if kind == "webp":
            options["exact"] = True  # keeps the colours of fully transparent pixels
        if kind == "jpeg":
            options["subsampling"] = 0
        if same_kind:
            options |= source.options
        buffer, image = io.BytesIO(), _image(array)
        with _buffer(JPEG_BYTES * image.width * image.height if options.get("progressive") else 0):
            image.save(buffer, kind, **options)
        data = buffer.getvalue()
    if kind == "png" and same_kind:
        data = with_chunks(data, source.details or b"")
    path.write_bytes(data)
