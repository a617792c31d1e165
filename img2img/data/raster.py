"""PNG, JPEG, WebP and BMP by Pillow; PNG with 16 bits per colour, which Pillow would reduce to 8, by imagecodecs."""

import bisect
import copy
import io
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from img2img.data.picture import Array, Header, Picture, Source, fitting_profile, quote, upright, with_alpha
from img2img.errors import DataError

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

# Chunks of a PNG. Those that define the colour space, here with their lengths, are written back as they were read.
COLOUR_CHUNKS = {b"cICP": 4, b"cHRM": 32, b"gAMA": 4, b"sRGB": 1, b"mDCV": 24, b"cLLI": 8}
PIXEL_CHUNKS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # the ancillary ones that affect the visible image
TEXT_KEYS = {b"XML:com.adobe.xmp": "xmp", b"Raw profile type exif": "Raw profile type exif"}  # may hold an orientation
PNG_START = 33  # bytes of the signature and the header chunk
MAX_METADATA = 2**24  # bytes that a profile or such a text may decompress to

JPEG_BYTES = 8  # buffer per pixel of a progressive JPEG; black and white noise of quality 100 takes 3.3

logging.getLogger("imagecodecs").addHandler(logging.NullHandler())  # or libpng's remarks go to stderr

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
        png = _scan_png(path, whole) if kind == "png" else _Png()
        file = io.BufferedReader(_Parts(whole, png.parts)) if png.parts else whole
        deep = png.deep
        file.seek(0)
        with _unlimited():
            image = PLUGINS[kind](file)
            image.info |= png.info
            exif, orientation = _exif(image)
        with image:
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{quote(path)} is an animation; save its frames as separate images.")
            mode = _target_mode(image)
            size = image.size if orientation < 5 else image.size[::-1]
            header = Header(path, *size, deep or (1 if mode[0] == "L" else 3), "uint16" if deep else "uint8")

            def load() -> Picture:
                source = Source(
                    kind,
                    image.info.get("icc_profile"),
                    _dpi(image),
                    _kept_exif(exif, size),
                    _options(image, file),
                    png.colour,
                )
                if kind == "png":
                    _verify_checksums(path, file)
                array = _deep(file) if deep else np.array(image if image.mode == mode else image.convert(mode))
                array = upright(np.atleast_3d(array), orientation)
                if array.shape[2] in (2, 4):
                    return Picture(array[..., :-1], array[..., -1:], source)
                return Picture(array, None, source)

            yield header, load


def from_pil(image: Image.Image) -> Picture:
    """Convert a PIL image the way a file of its kind is read: upright, in grey or colours, with separate alpha.

    Raises:
        DataError: if the mode of the image represents neither grey nor colours.
    """
    exif, orientation = _exif(image)
    exif = copy.deepcopy(exif)  # about to be changed, and the image belongs to the caller
    size = image.size if orientation < 5 else image.size[::-1]
    source = Source("png", image.info.get("icc_profile"), _dpi(image), _kept_exif(exif, size))
    mode = image.mode if image.mode.startswith(("I", "F")) else _target_mode(image)
    try:
        array = np.atleast_3d(np.array(image if image.mode == mode else image.convert(mode)))
    except ValueError as error:
        raise DataError(
            f"A PIL image of mode {image.mode} cannot be used. Convert it first: image.convert('RGB')."
        ) from error
    array = upright(array.astype(array.dtype.newbyteorder("=")), orientation)
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
        image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    except TypeError as error:
        kind = f"{array.shape[2]} channels of {array.dtype}"
        raise DataError(f"PIL has no mode for the result, {kind}; pass the image as an array instead.") from error
    kept = {"icc_profile": fitting_profile(picture), "dpi": picture.source.dpi, "exif": picture.source.exif}
    image.info |= {name: value for name, value in kept.items() if value}
    return image


def _target_mode(image: Image.Image) -> str:
    has_alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
    colours = "L" if image.mode in GREY_MODES else "RGB"
    return f"{colours}A" if has_alpha else colours


@dataclass
class _Png:
    """The content of a PNG's chunks; one with a wrong checksum is ignored unless the pixels depend on it.

    Attributes:
        parts: the parts, (offset, length), that hold the pixels and what they depend on; Pillow sees no others.
        deep: the number of channels of a PNG with 16 bits, 0 for any other.
        info: the metadata, under Pillow's names.
        colour: the chunks that define the colour space.
    """

    parts: list[tuple[int, int]] = field(default_factory=list)
    deep: int = 0
    info: dict[Any, Any] = field(default_factory=dict)
    colour: bytes = b""

    def take(self, offset: int, length: int) -> None:
        last, taken = self.parts[-1]
        if last + taken == offset:
            self.parts[-1] = (last, taken + length)
        else:
            self.parts.append((offset, length))

    def note(self, name: bytes, data: bytes) -> None:
        """Read a metadata chunk; of several of one kind the first counts."""
        if len(data) == COLOUR_CHUNKS.get(name) and name not in self.colour:
            self.colour += _chunk(name, data)
        elif name == b"eXIf":
            self.info.setdefault("exif", b"Exif\0\0" + data)
        elif name == b"iCCP" and "icc_profile" not in self.info:
            if profile := _decompress(data.partition(b"\0")[2][1:]):
                self.info["icc_profile"] = profile
        elif (key := TEXT_KEYS.get(data.partition(b"\0")[0], "")) and key not in self.info:
            text = data.partition(b"\0")[2]
            if name == b"zTXt":
                text = _decompress(text[1:])
            elif name == b"iTXt":
                is_compressed, (*_, text) = text[:1] == b"\1", text[2:].split(b"\0", 2)
                text = _decompress(text) if is_compressed else text
            if text:
                self.info[key] = text if key == "xmp" else text.decode("latin-1")


def _decompress(data: bytes) -> bytes:
    """Inflate `data`; return nothing if it is damaged or exceeds the limit."""
    decompressor = zlib.decompressobj()
    with suppress(zlib.error):
        out = decompressor.decompress(data, MAX_METADATA)
        return out if decompressor.eof else b""
    return b""


def _scan_png(path: Path, file: IO[bytes]) -> _Png:
    """Read through the chunks of a PNG; metadata may follow the pixels.

    Raises:
        DataError: if the file is truncated.
    """
    bits, colours = file.read(26)[24:].ljust(2, b"\0")
    png = _Png([(0, 8)], (3 if colours in (2, 6) else 1) if bits == 16 else 0)
    offset, end = 8, os.fstat(file.fileno()).st_size
    while offset + 8 <= end:
        file.seek(offset)
        start = file.read(8)
        name, length = start[4:], int.from_bytes(start[:4], "big")
        if offset + 8 + length > end:
            break
        if name[:1].isupper() or name in PIXEL_CHUNKS:
            png.take(offset, length + 12)
            if name == b"IEND":
                return png
        elif name in (*COLOUR_CHUNKS, b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"pHYs"):
            data, check = file.read(length), file.read(4)
            if zlib.crc32(name + data) == int.from_bytes(check, "big"):
                if name == b"pHYs" and length == 9:
                    png.take(offset, length + 12)
                png.note(name, data)
        offset += length + 12
    raise DataError(f"{quote(path)} is truncated.")


def _verify_checksums(path: Path, file: IO[bytes]) -> None:
    """Raise DataError if the checksum of a chunk is wrong; the decoders verify only few of them."""
    file.seek(8)
    while len(start := file.read(8)) == 8 and start[4:] != b"IEND":
        data = file.read(int.from_bytes(start[:4], "big"))
        if zlib.crc32(start[4:] + data) != int.from_bytes(file.read(4), "big"):
            raise DataError(f"{quote(path)} is damaged: a checksum of its pixel data is wrong.")


class _Parts(io.RawIOBase):
    """A view of some parts of a file, as if the others did not exist."""

    def __init__(self, file: IO[bytes], parts: list[tuple[int, int]]) -> None:
        self.file, self.parts, self.position = file, parts, 0
        self.starts = [0]
        for _, length in parts:
            self.starts.append(self.starts[-1] + length)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.starts[-1]}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        i = bisect.bisect_right(self.starts, self.position) - 1
        if i == len(self.parts):
            return 0
        self.file.seek(self.parts[i][0] + self.position - self.starts[i])
        data = self.file.read(min(len(buffer), self.starts[i + 1] - self.position))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def _deep(file: IO[bytes]) -> Array:
    import imagecodecs

    file.seek(0)
    array: Array = imagecodecs.png_decode(file.read())
    return array


# Metadata


def _exif(image: Image.Image) -> tuple[Image.Exif | None, int]:
    """Return the EXIF data and the orientation; data that Pillow cannot parse count as missing."""
    with suppress(Exception):
        exif = Image.Image.getexif(image)  # a PNG's own method would decode the pixels to look for EXIF after them
        orientation = exif.get(ORIENTATION, 1)
        return exif, orientation if orientation in range(1, 9) else 1
    return None, 1


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
    array, source = np.ascontiguousarray(with_alpha(picture)), picture.source
    kept: dict[str, Any] = {
        "icc_profile": fitting_profile(picture),
        "dpi": source and source.dpi,
        "exif": source and source.exif,
    }
    same_kind = source is not None and source.kind == kind
    if array.dtype == np.uint16:
        data = _deep_png(array, **kept)
    else:
        options: dict[str, Any] = {name: value for name, value in kept.items() if value}
        if kind in ("jpeg", "webp"):
            options["quality"] = quality
        if kind == "webp":
            options["exact"] = True  # keeps the colours of fully transparent pixels
        if kind == "jpeg":
            options["subsampling"] = 0
        if same_kind:
            options |= source.options
        buffer, image = io.BytesIO(), Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        with _buffer(JPEG_BYTES * image.width * image.height if options.get("progressive") else 0):
            image.save(buffer, kind, **options)
        data = buffer.getvalue()
    if kind == "png" and same_kind:
        data = data[:PNG_START] + (source.details or b"") + data[PNG_START:]
    path.write_bytes(data)


def _deep_png(array: Array, icc_profile: bytes | None, dpi: tuple[float, float] | None, exif: bytes | None) -> bytes:
    import imagecodecs

    chunks = b""
    if icc_profile:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(n / 0.0254) for n in dpi), 1))
    if exif:
        chunks += _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    data = bytes(imagecodecs.png_encode(array.copy()))  # with the strides of a new array
    return data[:PNG_START] + chunks + data[PNG_START:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
