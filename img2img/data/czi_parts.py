"""The parts of a CZI, checked before libCZI sees them, which trusts what they say of their sizes and places.

A file is segments: a header, a directory of tiles, the tiles, metadata. Each begins with its name and its length.
"""

from pathlib import Path
from struct import Struct, error as StructError
from typing import IO, Any

from img2img.errors import DataError, quote

HEAD = 32  # bytes of name and lengths, before the content of a segment
FILE, TILE, DIRECTORY, METADATA = b"ZISRAWFILE", b"ZISRAWSUBBLOCK", b"ZISRAWDIRECTORY", b"ZISRAWMETADATA"
LENGTHS = Struct("<16sqq")  # name, bytes set aside, bytes used (0 for all of them)
PLACES = Struct("<52xqq")  # of the directory and the metadata
COUNT = Struct("<i124x")  # of tiles in the directory
ENTRY = Struct("<2siqiiB5xi")  # schema, type of pixels, place, part, compression, kind of level, number of dimensions
DIMENSION = Struct("<4siifi")  # name, first, size, coordinate, stored size
SIZES = Struct("<iiq")  # of the metadata, the attachment and the pixels of a tile
XML = Struct("<ii248x")  # bytes of the metadata, and of what follows them
AHEAD = 256  # bytes before the metadata of a tile, unless its entry takes more
MAX_TILES, MAX_DIMENSIONS = 2**22, 40
COORDINATES = range(-(2**30), 2**30)  # of pixels on the stage
NUMBERS = range(-1, 2**22)  # of channels, planes, scenes, tiles


def check_parts(path: Path) -> None:
    """Refuse a CZI whose parts do not lie in it, or have sizes that cannot be.

    Raises:
        DataError: if that is so.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        try:
            fault = _fault(file, size)
        except (StructError, ValueError, OverflowError, OSError):
            fault = "it ends too early"
    if fault:
        raise DataError(f"{quote(path)} is damaged: {fault}.")


def _fault(file: IO[bytes], size: int) -> str:
    directory, metadata = _read(file, PLACES, _segment(file, 0, size, FILE))
    if metadata:
        place = _segment(file, metadata, size, METADATA)
        parts = _read(file, XML, place)
        if min(parts) < 0 or place + XML.size + sum(parts) > size:
            return "its metadata are longer than the file"
    place = _segment(file, directory, size, DIRECTORY)
    (count,) = _read(file, COUNT, place)
    place += COUNT.size
    if not 0 < count <= MAX_TILES:
        return f"it has a directory of {count} tiles"
    for _ in range(count):
        entry, dimensions = _entry(file, place)
        place += ENTRY.size + DIMENSION.size * len(dimensions)
        tile = _segment(file, entry[2], size, TILE)
        parts = _read(file, SIZES, tile)
        _, same = _entry(file, tile + SIZES.size)
        before = max(AHEAD, SIZES.size + ENTRY.size + DIMENSION.size * len(same))
        if min(parts) < 0 or tile + before + sum(parts) > size:
            return "a tile is longer than the file"
        if any(dimensions[axis][1:] != same[axis][1:] for axis in (b"X", b"Y")):
            return "a tile and the directory disagree on its size"
    return ""


def _segment(file: IO[bytes], place: int, size: int, name: bytes) -> int:
    """Return where the content of a segment begins, after a check of its name and lengths."""
    found, allocated, used = _read(file, LENGTHS, place)
    if found.rstrip(b"\0") != name or not 0 <= used <= allocated <= size - place - HEAD:
        raise ValueError(name)
    return place + HEAD


def _entry(file: IO[bytes], place: int) -> tuple[tuple[Any, ...], dict[bytes, tuple[int, int, int]]]:
    """Return the entry of a tile in the directory, and the first number, the size and the stored size of its axes."""
    entry = _read(file, ENTRY, place)
    if entry[0] != b"DV" or not 2 <= entry[-1] <= MAX_DIMENSIONS:
        raise ValueError(entry)
    dimensions = {}
    for i in range(entry[-1]):
        name, first, size, _, stored = _read(file, DIMENSION, place + ENTRY.size + i * DIMENSION.size)
        axis = name.rstrip(b"\0")
        in_plane = axis in (b"X", b"Y")
        if first not in (COORDINATES if in_plane else NUMBERS) or not 0 <= stored <= size < 2**30 or not size:
            raise ValueError(name)
        dimensions[axis] = first, size, stored
    if len(dimensions) != entry[-1] or not {b"X", b"Y"} <= dimensions.keys():
        raise ValueError(entry)
    return entry, dimensions


def _read(file: IO[bytes], kind: Struct, place: int) -> tuple[Any, ...]:
    file.seek(place)
    return kind.unpack(file.read(kind.size))
