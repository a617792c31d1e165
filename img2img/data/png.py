"""The chunks of PNG files, and pixels of 16 bits per colour, which Pillow would reduce to 8, by imagecodecs."""

import bisect
import io
import logging
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from img2img.data.picture import Array
from img2img.errors import DataError, quote

# Chunks of a PNG. Those that define the colour space, here with their lengths, are written back as they were read.
COLOUR_CHUNKS = {b"cICP": 4, b"cHRM": 32, b"gAMA": 4, b"sRGB": 1, b"mDCV": 24, b"cLLI": 8}
PIXEL_CHUNKS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # the ancillary ones that affect the visible image
TEXT_KEYS = {b"XML:com.adobe.xmp": "xmp", b"Raw profile type exif": "Raw profile type exif"}  # may hold an orientation
PNG_START = 33  # bytes of the signature and the header chunk
MAX_METADATA = 2**24  # bytes that a profile or such a text may decompress to

logging.getLogger("imagecodecs").addHandler(logging.NullHandler())  # or libpng's remarks go to stderr


@dataclass
class Chunks:
    """What the chunks of a PNG hold; one with a wrong checksum is ignored unless the pixels depend on it.

    `parts` are those, (offset, length), that hold the pixels and what they depend on; Pillow sees no others.
    """

    parts: list[tuple[int, int]] = field(default_factory=list)
    deep: int = 0  # the number of channels of a PNG with 16 bits, 0 for any other
    info: dict[Any, Any] = field(default_factory=dict)  # the metadata, under Pillow's names
    colour: bytes = b""  # the chunks that define the colour space

    def take(self, offset: int, length: int) -> None:
        last, taken = self.parts[-1]
        if last + taken == offset:
            self.parts[-1] = (last, taken + length)
        else:
            self.parts.append((offset, length))

    def note(self, name: bytes, data: bytes) -> None:
        """Read a metadata chunk; of several of one kind the first counts."""
        if len(data) == COLOUR_CHUNKS.get(name) and name not in self.colour:
            self.colour += chunk(name, data)
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


def read_chunks(path: Path, file: IO[bytes]) -> Chunks:
    """Read through the chunks of a PNG; metadata may follow the pixels.

    Raises:
        DataError: if the file is truncated.
    """
    bits, colours = file.read(26)[24:].ljust(2, b"\0")
    png = Chunks([(0, 8)], (3 if colours in (2, 6) else 1) if bits == 16 else 0)
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


def verify_checksums(path: Path, file: IO[bytes]) -> None:
    """Raise DataError if the checksum of a chunk is wrong; the decoders verify only few of them."""
    file.seek(8)
    while len(start := file.read(8)) == 8 and start[4:] != b"IEND":
        data = file.read(int.from_bytes(start[:4], "big"))
        if zlib.crc32(start[4:] + data) != int.from_bytes(file.read(4), "big"):
            raise DataError(f"{quote(path)} is damaged: a checksum of its pixel data is wrong.")


class Parts(io.RawIOBase):
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

    def readinto(self, buffer: Any) -> int:
        i = bisect.bisect_right(self.starts, self.position) - 1
        if i == len(self.parts):
            return 0
        self.file.seek(self.parts[i][0] + self.position - self.starts[i])
        data = self.file.read(min(len(buffer), self.starts[i + 1] - self.position))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def decode_deep(file: IO[bytes]) -> Array:
    """Decode a PNG with 16 bits per colour."""
    import imagecodecs

    file.seek(0)
    array: Array = imagecodecs.png_decode(file.read())
    return array


def encode_deep(
    array: Array, icc_profile: bytes = b"", dpi: tuple[float, float] | None = None, exif: bytes = b""
) -> bytes:
    """Encode a PNG with 16 bits per colour."""
    import imagecodecs

    chunks = b""
    if icc_profile:
        chunks += chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        chunks += chunk(b"pHYs", struct.pack(">IIB", *(round(n / 0.0254) for n in dpi), 1))
    if exif:
        chunks += chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return with_chunks(bytes(imagecodecs.png_encode(array.copy())), chunks)  # with the strides of a new array


def with_chunks(data: bytes, chunks: bytes) -> bytes:
    """Return a PNG with these chunks after its header."""
    return data[:PNG_START] + chunks + data[PNG_START:]


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
