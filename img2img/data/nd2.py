"""ND2, the files of Nikon microscopes, by the package nd2: all channels, planes, time points and positions.

Axes named C are channels, as in a TIFF; positions, T and Z are pages, in this order. Results are OME-TIFF, with the
names of the channels and the size of a pixel. The package fills in what it does not find, and unpacks whatever it does,
so the parts of a file are checked before: each is there, and none becomes larger than it should.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from struct import Struct, error as StructError
from typing import IO, Any

import numpy as np

from img2img.data.descriptions import all_names, ome_xml, size_of
from img2img.data.picture import Header, Picture, Source, Stated, known_dtype
from img2img.data.tiff_write import described
from img2img.errors import DataError, install_hint, quote

MAGIC, END = 0x0ABECEDA, b"ND2 CHUNK MAP SIGNATURE 0000001!"
PART, ENTRY, TAIL = Struct("<IIQ"), Struct("<QQ"), Struct("<32sQ")
PACKED, MAX_PACKED = 76, 2**18  # the first byte of metadata that are compressed, and their most bytes in the file
PIXELS = 4096  # bytes from the beginning of a frame to its pixels
ALIGNMENT = 64  # bytes that a row may have beyond its pixels, at most
STAMP = 8  # bytes before the compressed pixels
LOST = "the other metadata of ND2"


@contextmanager
def open_nd2(path: Path) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open an ND2; yield its header, and a function that reads it.

    Raises:
        DataError: if it has other axes or types, or lacks parts, or the package nd2 is not installed.
    """
    try:
        import nd2  # imported late: it is the extra [microscopes]
    except ModuleNotFoundError as error:
        raise DataError(install_hint("Reading ND2", "nd2", "microscopes")) from error
    with path.open("rb") as raw, _parts(path, raw) as parts, nd2.ND2File(path) as file:
        sizes = dict(file.sizes)
        if other := [f"{axis} of {n}" for axis, n in sizes.items() if axis not in "TPZCYXS"]:
            raise DataError(f"{quote(path)} has the axes {', '.join(other)}; img2img reads C, T, Z and positions.")
        paging = {axis: n for axis, n in sizes.items() if axis in "TPZ"}
        order = sorted(paging, key="PTZ".index)
        c, s = sizes.get("C", 1), sizes.get("S", 1)
        names, steps, lost = _described(file)
        stated = Stated(
            all_names(names, c * s),
            size_of(steps[:2]) if len(steps) > 1 else None,
            tuple(("series" if axis == "P" else axis, paging[axis]) for axis in order),
            (lost,),
        )
        pages, attributes = prod(paging.values()), file.attributes
        header = Header(
            path, attributes.widthPx or 0, attributes.heightPx, c * s, known_dtype(path, file.dtype), pages, stated
        )

        def load() -> Picture:
            _refuse_odd_frames(path, raw, parts, attributes, pages)
            frame = c, header.height, header.width, s
            stack = file.asarray().reshape(*paging.values(), *frame)
            stack = stack.transpose(*map(list(paging).index, order), *range(len(order), stack.ndim))
            stack = stack.reshape(pages, *frame).transpose(0, 2, 3, 1, 4)
            array = np.ascontiguousarray(stack).reshape(pages, header.height, header.width, c * s)
            details = described(stated, ome_xml(stated.channels, stated.pixel_size, *steps[2:]))
            return Picture(array if pages > 1 else array[0], None, Source("tiff", details=details, stated=stated))

        yield header, load


def _described(file: Any) -> tuple[list[str], list[float], str]:
    """Return the names of the channels, the sides of a pixel in micrometres if they are known, and what is not kept."""
    try:
        channels = file.metadata.channels or []
    except Exception:  # the package expects entries that a file may lack, while its pixels can be read
        return [], [], f"the metadata of {quote(Path(file.path).name)}, which cannot be read"
    names = [channel.channel.name for channel in channels]
    if not channels or not all(channels[0].volume.axesCalibrated[:2]):
        return names, [], LOST
    volume = channels[0].volume
    sides = zip(volume.axesCalibration, volume.axesCalibrated, strict=True)
    return names, [side for side, known in sides if known], LOST


@contextmanager
def _parts(path: Path, file: IO[bytes]) -> Iterator[dict[bytes, int]]:
    """Yield where each part of a file begins, by its name, after a look at those that may be compressed.

    Raises:
        DataError: if the list of parts at the end is missing, or metadata would become too large.
    """
    size = file.seek(-TAIL.size, 2) + TAIL.size
    end, place = TAIL.unpack(file.read(TAIL.size))
    if end != END or place > size:
        raise DataError(f"{quote(path)} is truncated: the list of its parts is not at its end.")
    listing, parts, position = _content(file, place), dict[bytes, int](), 0
    while not listing.startswith(END, position):
        after = listing.index(b"!", position) + 1
        parts[listing[position:after]] = ENTRY.unpack_from(listing, after)[0]
        position = after + ENTRY.size
    for name, place in parts.items():
        if not name.startswith((b"ImageDataSeq|", b"CustomData")):
            content = _content(file, place)
            if content[:1] == bytes([PACKED]) and len(content) > MAX_PACKED:
                raise DataError(f"{quote(path)} has {len(content)} bytes of compressed metadata, which is too much.")
    yield parts


def _content(file: IO[bytes], place: int) -> bytes:
    """Return the content of the part that begins at a place."""
    file.seek(place)
    magic, name, size = PART.unpack(file.read(PART.size))
    if magic != MAGIC:
        raise StructError("no part begins here")
    file.seek(name, 1)
    return file.read(size)


def _refuse_odd_frames(path: Path, file: IO[bytes], parts: dict[bytes, int], attributes: Any, pages: int) -> None:
    """Refuse a file without one of its frames, or with one that would become larger than it should."""
    size, packed = file.seek(0, 2), attributes.compressionType == "lossless"
    values = attributes.widthPx * attributes.componentCount * attributes.bitsPerComponentInMemory // 8
    row = attributes.widthBytes or values
    if not values <= row < values + ALIGNMENT:
        raise DataError(f"{quote(path)} has rows of {row} bytes, and its pixels take {values}; save it again.")
    expected = attributes.heightPx * row
    for i in range(pages):
        place = parts.get(b"ImageDataSeq|%d!" % i)
        if place is None or place + (0 if packed else PIXELS + expected) > size:
            raise DataError(f"{quote(path)} lacks some of the planes it declares; save it again completely.")
        if packed:
            unpacking = zlib.decompressobj()
            unpacking.decompress(_content(file, place)[STAMP:], expected)
            if not unpacking.eof and unpacking.decompress(unpacking.unconsumed_tail, 1):
                raise DataError(f"{quote(path)} has a frame that is larger than {expected} bytes, as all should be.")
