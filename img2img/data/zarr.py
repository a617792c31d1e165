"""Arrays in Zarr folders, of formats 2 and 3, which the zarr package reads from metadata that are checked first.

A store may be hostile. zarr does not read its metadata, but gets a document of format 3 that is made of those that have
been checked here, and no codec but those listed here. Chunks are decompressed by imagecodecs, which is told how many
bytes one may become, where numcodecs allocates whatever a chunk states. No chunk lies outside the store.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import imagecodecs
import numpy as np
import zarr
from annotated_types import Interval, Len
from zarr.abc.buffer import Buffer
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, StorePath

from img2img.data.kept import Kept
from img2img.data.ome_metadata import FILES
from img2img.data.picture import DTYPES, MAX_TILE, Array
from img2img.errors import DataError, quote
from img2img.runtime.records import from_json, read_text

MAX_CHUNKS = 2**16  # of an array that is held, or in a shard
MAX_GRID, MAX_PIXELS = 2**22, 2**36  # chunks of an array that is read by region, and pixels of one of its planes
MAX_CHUNK = 2**28  # values of a chunk
Shape = Annotated[tuple[Annotated[int, Interval(ge=1, le=2**31)], ...], Len(2, 5)]
COMPRESSORS = ("blosc", "zstd", "gzip", "zlib", "lz4")
INNER = ("transpose", "bytes", "crc32c", *COMPRESSORS)
OUTER = (*INNER, "sharding_indexed")


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
    fill_value: int | float | str | None = 0
    filters: list[dict[str, Any]] | None = None
    order: Literal["C", "F"] = "C"
    dimension_separator: Literal[".", "/"] = "."

    def as_format_3(self) -> "_Array3":
        axes = list(range(len(self.shape)))
        packing = [*(self.filters or ()), *([self.compressor] if self.compressor else ())]
        codecs = [
            _Codec("transpose", {"order": axes if self.order == "C" else axes[::-1]}),
            _Codec("bytes", {"endian": "big" if self.dtype.startswith(">") else "little"}),
            *(_Codec(str(codec.get("id"))) for codec in packing),
        ]
        grid = _Codec("regular", {"chunk_shape": self.chunks})
        keys = _Codec("v2", {"separator": self.dimension_separator})
        return _Array3(3, "array", self.shape, np.dtype(self.dtype).name, grid, keys, codecs, self.fill_value)


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
    fill_value: int | float | str | None = 0

    def as_format_3(self) -> "_Array3":
        return self


@dataclass(frozen=True)
class ZarrArray:
    """An array in a folder.

    Attributes:
        folder: where it is.
        shape: of the array.
        dtype: type of its values, one of `DTYPES`.
        chunks: shape of a chunk, or of a shard.
        pieces: shape of what is decoded at once to read a region: a chunk, also of a shard.
        whole: what zarr reads: the array, continued to a multiple of its chunks.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    pieces: tuple[int, ...]
    whole: Any

    @classmethod
    def open(cls, folder: Path, by_region: bool = False) -> "ZarrArray":
        """Check the metadata of an array; one that is read `by_region` may be larger, and its chunks may not.

        Raises:
            DataError: if there is none, or it is too large or of a kind that is not read. Damaged ones raise anything.
        """
        kinds: dict[str, Any] = {"zarr.json": _Array3, ".zarray": _Array2}
        name = next((name for name in kinds if (folder / name).is_file()), None)
        if name is None:
            raise DataError(f"{quote(folder)} does not hold a Zarr array.")
        known = from_json(kinds[name], read_text(folder / name), quote(folder / name)).as_format_3()
        if (dtype := known.data_type) not in DTYPES:
            raise DataError(f"{quote(folder)} holds {dtype[:60]} values; img2img supports {', '.join(DTYPES)}.")
        chunks = tuple(known.chunk_grid.configuration["chunk_shape"])
        most = MAX_GRID if by_region else MAX_CHUNKS
        codecs = _codecs(known.codecs, known.shape, chunks, np.dtype(dtype).itemsize, quote(folder), OUTER, most)
        shape = [n * chunk for n, chunk in zip(_grid(known.shape, chunks), chunks, strict=True)]
        document = asdict(known) | {"codecs": codecs, "shape": shape, "fill_value": known.fill_value or 0}
        store = StorePath(LocalStore(folder, read_only=True))
        whole = zarr.Array.from_dict(store, document)
        if by_region and (math.prod(whole.chunks) > MAX_TILE or math.prod(known.shape[-2:]) > MAX_PIXELS):
            raise DataError(
                f"{quote(folder)} has chunks of {whole.chunks} in {known.shape}, too large to read regions of; write "
                "it again in chunks of e.g. 1024x1024."
            )
        return cls(folder, known.shape, dtype, chunks, whole.chunks, whole)

    def read(self) -> Array:
        """Return all values; those of a chunk that is not there are filled in, as stores leave out empty ones.

        Raises:
            DataError: if there is no chunk at all, or one lies outside the store. Damaged chunks raise anything.
        """
        if not any([self._holds(number) for number in np.ndindex(*_grid(self.shape, self.chunks))]):  # check them all
            raise DataError(f"{quote(self.folder)} holds none of its chunks; it may not have been copied completely.")
        place = [slice(0, n) for n in self.shape]
        # zarr decodes ten chunks at once, and loads those that it needs of a part of a shard, which may overlap
        if not (self.whole.shards or math.prod(self.chunks) > MAX_CHUNK // 10):
            return np.asarray(self.whole[tuple(place)])
        return self._gathered(place, self.chunks, lambda number: self._chunk(number, self.chunks))

    def part(self, place: Sequence[slice], kept: Kept | None = None) -> Array:
        """Return the values at a place, of which only the chunks that it touches are read and checked.

        Args:
            place: a slice for each axis.
            kept: chunks that were decoded before, and that are for later.
        """

        def checked(number: tuple[int, ...]) -> Array:
            self._holds(tuple(i * n // m for i, n, m in zip(number, self.pieces, self.chunks, strict=True)))
            return self._chunk(number, self.pieces)

        def known(number: tuple[int, ...]) -> Array:
            return kept.get((self.folder, number), partial(checked, number)) if kept else checked(number)

        return self._gathered(place, self.pieces, known)

    def is_empty(self) -> bool:
        """Return whether there is no chunk at all."""
        return not _any_file(self.folder)

    def _chunk(self, number: tuple[int, ...], size: tuple[int, ...]) -> Array:
        return np.asarray(self.whole[tuple(slice(i * n, (i + 1) * n) for i, n in zip(number, size, strict=True))])

    def _gathered(
        self, place: Sequence[slice], size: tuple[int, ...], load: Callable[[tuple[int, ...]], Array]
    ) -> Array:
        """Return the values at a place from chunks of a size, one after the other."""
        out = np.empty([s.stop - s.start for s in place], self.dtype)
        for number in product(*(range(s.start // n, -(-s.stop // n)) for s, n in zip(place, size, strict=True))):
            starts = [max(s.start, i * n) for s, i, n in zip(place, number, size, strict=True)]
            stops = [min(s.stop, (i + 1) * n) for s, i, n in zip(place, number, size, strict=True)]
            target = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(starts, stops, place, strict=True))
            origin = zip(starts, stops, number, size, strict=True)
            out[target] = load(number)[tuple(slice(a - i * n, b - i * n) for a, b, i, n in origin)]
        return out

    def _holds(self, number: tuple[int, ...]) -> bool:
        path = self.folder / self.whole.metadata.encode_chunk_key(number)
        if not path.exists():
            return False
        if not path.is_file():
            raise DataError(f"{quote(path)} is not a regular file.")
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder)):
            raise DataError(f"{quote(path)} leads outside of its store; copy the file there.")
        size = math.prod(self.chunks) * np.dtype(self.dtype).itemsize
        if path.stat().st_size > _limit(size) + 16 * MAX_CHUNKS:
            raise DataError(f"{quote(path)} is larger than the values it should hold.")
        return True


def array_like(folder: Path, document: dict[str, Any]) -> Any:
    """Return the array that `document`, the metadata of one that was read, describes; nothing is written."""
    metadata = cast("Any", zarr.Array.from_dict(StorePath(LocalStore(folder)), document).metadata)
    config = cast("Any", {"write_empty_chunks": True})  # an array without any chunk looks half copied
    return zarr.Array(zarr.AsyncArray(metadata, StorePath(LocalStore(folder)), config))


def create_array(folder: Path, document: dict[str, Any]) -> Any:
    """Create an array as `document`, the metadata of one that was read, says; return it, to be written part by part.

    Where a part begins and ends with chunks, nothing is read, and what was there is replaced.
    """
    array = array_like(folder, document)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in array.metadata.to_buffer_dict(default_buffer_prototype()).items():
        if name != ".zattrs" or document["attributes"]:
            (folder / name).write_bytes(content.to_bytes())
    return array


def write_array(folder: Path, values: Array, document: dict[str, Any]) -> None:
    """Write an array as `document`, the metadata of one that was read, says: its chunks, codecs and byte order."""
    create_array(folder, document)[...] = values


@dataclass(frozen=True)
class _Unpacking(BytesBytesCodec):
    """Decompress chunks into at most `limit` bytes."""

    codec: str
    limit: int
    is_fixed_size = False

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: Any) -> Buffer:
        options = {"header": True} if self.codec == "lz4" else {}
        decode = getattr(imagecodecs, f"{self.codec}_decode")
        decoded = decode(chunk_data.as_numpy_array(), out=self.limit, **options)
        return cast("Buffer", chunk_spec.prototype.buffer.from_bytes(decoded))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError("the index of a shard is compressed, which is not supported")


def _codecs(
    given: Sequence[_Codec],
    shape: Sequence[int],
    chunks: Sequence[int],
    size: int,
    where: str,
    known: Sequence[str],
    most: int = 0,
) -> list[Codec | dict[str, Any]]:
    """Check the codecs of chunks of values of `size` bytes, all of which must be `known`; return them for zarr.

    There may be `most` chunks; by default, `MAX_CHUNKS`.
    """
    if len(chunks) != len(shape) or not all(isinstance(n, int) and n > 0 for n in chunks):
        raise DataError(f"{where} is damaged: its chunks have the shape {str(chunks)[:60]}, the array {tuple(shape)}.")
    if math.prod(_grid(shape, chunks)) > (most or MAX_CHUNKS) or math.prod(chunks) > MAX_CHUNK:
        raise DataError(
            f"{where} has chunks of {tuple(chunks)} in {tuple(shape)}, too many or too large; write it again."
        )
    result: list[Codec | dict[str, Any]] = []
    for codec in given:
        if codec.name not in known:
            raise DataError(f"{where} uses the codec {codec.name[:60]!r}; img2img reads {', '.join(COMPRESSORS)}.")
        if codec.name == "sharding_indexed":
            parts = codec.configuration
            inner, index = ([_Codec(**one) for one in parts[kind]] for kind in ("codecs", "index_codecs"))
            result.append(
                ShardingCodec(
                    chunk_shape=parts["chunk_shape"],
                    codecs=_codecs(inner, chunks, parts["chunk_shape"], size, where, INNER),
                    index_codecs=_codecs(index, chunks, chunks, size, where, INNER),
                    index_location=parts.get("index_location", "end"),
                )
            )
        elif codec.name in COMPRESSORS:
            result.append(_Unpacking(codec.name, _limit(math.prod(chunks) * size)))
        else:
            result.append(asdict(codec))
    return result


def _any_file(folder: Path) -> bool:
    """Return whether there is a file below a folder besides metadata."""
    with os.scandir(folder) as entries:
        return any(
            _any_file(Path(entry)) if entry.is_dir(follow_symlinks=False) else entry.name not in FILES
            for entry in entries
        )


def _grid(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True))


def _limit(size: int) -> int:
    """Return the most bytes that `size` bytes take while they are compressed."""
    return size + size // 8 + 4096
