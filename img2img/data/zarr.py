"""Arrays in Zarr folders, of formats 2 and 3: their metadata, and their chunks, decoded by imagecodecs.

A store may be hostile. The metadata are checked before a chunk is opened; every decoder is told how many bytes a chunk
may become; codecs that could execute anything, such as pickle, do not exist here; and no chunk lies outside the store.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval, Len

from img2img.data.picture import DTYPES, Array
from img2img.errors import DataError, quote
from img2img.runtime.records import from_json, read_text

MAX_CHUNKS = 2**16  # of an array, or in a shard
MAX_CHUNK = 2**28  # values of a chunk
MISSING = 2**64 - 1  # place of a chunk that a shard does not hold
Shape = Annotated[tuple[Annotated[int, Interval(ge=1, le=2**31)], ...], Len(2, 5)]
COMPRESSORS = ("blosc", "zstd", "gzip", "zlib", "lz4")
KINDS = {"transpose": "t", "bytes": "b", "sharding_indexed": "s", **dict.fromkeys((*COMPRESSORS, "crc32c"), "c")}
ORDER, ORDER_IN_SHARD = "t*[bs]c*", "t*bc*"


@dataclass(frozen=True)
class _Codec:
    name: str
    configuration: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Array2:
    """The content of .zarray."""

    zarr_format: Literal[2]
    shape: Shape
    chunks: Shape
    dtype: str
    compressor: dict[str, Any] | None
    fill_value: float | str | None = 0
    filters: list[dict[str, Any]] | None = None
    order: Literal["C", "F"] = "C"
    dimension_separator: Literal[".", "/"] = "."

    def layout(self) -> dict[str, Any]:
        dtype = np.dtype(self.dtype)
        codecs = [_Codec("transpose", {"order": list(range(len(self.shape)))[::-1]})] if self.order == "F" else []
        codecs.append(_Codec("bytes", {"endian": "big" if self.dtype.startswith(">") else "little"}))
        codecs += [_Codec(str(one.get("id"))) for one in self.filters or ()]
        codecs += [_Codec(str(self.compressor.get("id")))] if self.compressor else []
        return {
            "dtype": str(dtype.name),
            "chunks": self.chunks,
            "codecs": codecs,
            "separator": self.dimension_separator,
        }


@dataclass(frozen=True)
class _Array3:
    """The content of zarr.json."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Shape
    data_type: str
    chunk_grid: _Codec
    chunk_key_encoding: _Codec
    codecs: list[_Codec]
    fill_value: float | str | None = 0

    def layout(self) -> dict[str, Any]:
        chunks = tuple(self.chunk_grid.configuration["chunk_shape"])
        default = self.chunk_key_encoding.name == "default"
        separator = self.chunk_key_encoding.configuration.get("separator", "/" if default else ".")
        prefix = "c" + separator if default else ""
        return {
            "dtype": self.data_type, "chunks": chunks, "codecs": self.codecs, "separator": separator, "prefix": prefix,
        }  # fmt: skip


@dataclass(frozen=True)
class ZarrArray:
    """An array in a folder.

    Attributes:
        folder: where it is.
        shape: of the array.
        dtype: type of its values, one of `DTYPES`.
        chunks: shape of a chunk.
        codecs: what a chunk has gone through, the first first.
        separator: of the numbers in the name of a chunk.
        prefix: of these names.
        fill: the value of chunks that are not there.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    codecs: Sequence[_Codec]
    separator: str
    fill: float
    prefix: str = ""

    @classmethod
    def open(cls, folder: Path) -> "ZarrArray":
        """Read the metadata of an array.

        Raises:
            DataError: if there is none, or it is too large or of a kind that is not read.
            ModelFileError: if its metadata are damaged.
        """
        for name, kind in (("zarr.json", _Array3), (".zarray", _Array2)):
            if (folder / name).is_file():
                known: Any = from_json(kind, read_text(folder / name), quote(folder / name))
                array = cls(folder, known.shape, fill=float(known.fill_value or 0), **known.layout())
                array._check()
                return array
        raise DataError(f"{quote(folder)} does not hold a Zarr array.")

    def _check(self) -> None:
        name = quote(self.folder)
        if self.dtype not in DTYPES:
            raise DataError(f"{name} holds {self.dtype[:60]} values; img2img supports {', '.join(DTYPES)}.")
        if self.separator not in (".", "/"):
            raise DataError(f"{name} separates the names of its chunks by {self.separator[:9]!r}, not by . or /.")
        _check_chunks(self.chunks, self.shape, name)
        _check_codecs(self.codecs, len(self.shape), name)

    def read(self) -> Array:
        """Return all values; those of a chunk that is not there are `fill`, which is how stores leave out empty ones.

        Raises:
            DataError: if there is no chunk at all, or one lies outside the store. Damaged chunks raise anything.
        """
        out, found = self._empty(self.shape), False
        inside = os.path.realpath(self.folder)
        for number in np.ndindex(*_grid(self.shape, self.chunks)):
            path = self.folder / (self.prefix + self.separator.join(map(str, number)))
            if not path.is_file():
                continue
            if not Path(os.path.realpath(path)).is_relative_to(inside):
                raise DataError(f"{quote(path)} leads outside of its store; copy the file there.")
            found = True
            self._put(out, number, self.chunks, self._decoded(self._content(path), self.chunks, self.codecs))
        if not found:
            raise DataError(f"{quote(self.folder)} holds none of its chunks; it may not have been copied completely.")
        return out

    def _empty(self, shape: tuple[int, ...]) -> Array:
        dtype = np.dtype(self.dtype)
        return np.full(shape, dtype.type(int(self.fill) if dtype.kind in "iu" else self.fill))

    def _content(self, path: Path) -> bytes:
        limit = _limit(self._size(self.chunks)) + 16 * MAX_CHUNKS
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise DataError(f"{quote(path)} is larger than the values it should hold.")
        return content

    def _size(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * np.dtype(self.dtype).itemsize

    @staticmethod
    def _put(out: Array, number: Sequence[int], chunks: Sequence[int], values: Array) -> None:
        """Put a chunk into its place; what reaches beyond the array is left out."""
        place = tuple(slice(i * n, (i + 1) * n) for i, n in zip(number, chunks, strict=True))
        out[place] = values[tuple(slice(0, n) for n in out[place].shape)]

    def _decoded(self, data: bytes, shape: tuple[int, ...], codecs: Sequence[_Codec]) -> Array:
        """Return a chunk of that shape from its bytes."""
        first, *others = codecs
        if first.name == "transpose":
            order = first.configuration["order"]
            return self._decoded(data, tuple(shape[i] for i in order), others).transpose(np.argsort(order))
        size = self._size(shape)
        for i in reversed(range(len(others))):
            data = _unpacked(others[i].name, data, size if i == 0 else _limit(size))
        if first.name == "bytes":
            big = first.configuration.get("endian", "little") == "big"
            return np.frombuffer(data, np.dtype(self.dtype).newbyteorder(">" if big else "<")).reshape(shape)
        return self._shard(data, shape, first.configuration)

    def _shard(self, data: bytes, shape: tuple[int, ...], configuration: dict[str, Any]) -> Array:
        """Return a chunk that is a shard: chunks one after another, and an index of their offsets and lengths."""
        chunks = tuple(configuration["chunk_shape"])
        _check_chunks(chunks, shape, quote(self.folder))
        grid = _grid(shape, chunks)
        length = 16 * math.prod(grid) + 4  # with a checksum
        at_end = configuration.get("index_location", "end") == "end"
        index = np.frombuffer(data[-length:-4] if at_end else data[: length - 4], "<u8").reshape(*grid, 2)
        out = self._empty(shape)
        codecs = [_Codec(**codec) for codec in configuration["codecs"]]
        for number in np.ndindex(*grid):
            start, count = map(int, index[number])
            if start != MISSING:
                self._put(out, number, chunks, self._decoded(data[start : start + count], chunks, codecs))
        return out


def _unpacked(codec: str, data: bytes, size: int) -> bytes:
    """Return what compressed bytes are, which may be at most `size` bytes; a checksum is left out."""
    import imagecodecs

    if codec == "crc32c":
        return data[:-4]
    options = {"header": True} if codec == "lz4" else {}
    return bytes(getattr(imagecodecs, f"{codec}_decode")(data, out=size, **options))


def _grid(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True))


def _limit(size: int) -> int:
    """Return the most bytes that `size` bytes take while they are compressed."""
    return size + size // 8 + 4096


def _check_chunks(chunks: Sequence[Any], shape: Sequence[int], name: str) -> None:
    if len(chunks) != len(shape) or not all(isinstance(n, int) and n > 0 for n in chunks):
        raise DataError(f"{name} is damaged: its chunks have the shape {str(chunks)[:60]}, the array {shape}.")
    if math.prod(_grid(shape, chunks)) > MAX_CHUNKS or math.prod(chunks) > MAX_CHUNK:
        raise DataError(f"{name} has chunks of {tuple(chunks)} in {shape}, too many or too large; write it again.")


def _check_codecs(codecs: Sequence[_Codec], axes: int, name: str, order: str = ORDER) -> None:
    """Raise DataError unless all codecs are known, and in order: transposed, as bytes or as a shard, and compressed."""
    names = [codec.name for codec in codecs]
    if unknown := [codec for codec in names if codec not in KINDS]:
        raise DataError(f"{name} uses the codec {unknown[0][:60]!r}; img2img reads {', '.join(COMPRESSORS)}.")
    if not re.fullmatch(order, "".join(KINDS[codec] for codec in names)):
        raise DataError(f"{name} has codecs in an order that makes no array: {', '.join(names)[:60]}.")
    for codec in codecs:
        given = codec.configuration
        if codec.name == "transpose" and sorted(given["order"]) != list(range(axes)):
            raise DataError(f"{name} is damaged: {str(given['order'])[:60]} is no order of its axes.")
        if codec.name == "sharding_indexed":
            _check_codecs([_Codec(**inner) for inner in given["codecs"]], axes, name, ORDER_IN_SHARD)
            if [inner["name"] for inner in given["index_codecs"]] != ["bytes", "crc32c"]:
                raise DataError(f"{name} has shards whose index is compressed; write it again.")
