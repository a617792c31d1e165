"""NumPy files: (H, W), (H, W, C) or (P, H, W, C), decided by the number of axes.

Their lengths decide nothing, but an array whose channels outnumber its rows or columns is refused: it probably has its
channels first. An .npz holds exactly one array. Both are written back with the axes, the key and the compression they
had.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from img2img.data.picture import MAX_LAST, Array, Header, Picture, Source, Stated, known_dtype
from img2img.errors import DataError, quote

HEADERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


@dataclass(frozen=True)
class Details:
    """The layout of the array in its file."""

    ndim: int = 3
    key: str = "arr_0"
    compression: int = zipfile.ZIP_STORED


@contextmanager
def open_npy(path: Path) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open an .npy file; yield its header, and a function that reads the rest."""
    with path.open("rb") as file:
        header, ndim = _header(path, file)
        yield header, lambda: _load(path, file, Source("npy", details=Details(ndim), stated=header.stated))


@contextmanager
def open_npz(path: Path) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open an .npz file with one array; yield its header, and a function that reads the rest."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) != 1 or not entries[0].filename.endswith(".npy"):
            names = ", ".join(quote(e.filename.removesuffix(".npy")) for e in entries[:5])
            raise DataError(f"{quote(path)} has {len(entries)} entries ({names}); save it with exactly one array.")
        entry = entries[0]
        with archive.open(entry) as file:
            header, ndim = _header(path, file)
        details = Details(ndim, entry.filename.removesuffix(".npy"), entry.compress_type)

        def load() -> Picture:
            with archive.open(entry) as file:
                return _load(path, file, Source("npz", details=details, stated=header.stated))

        yield header, load


def _header(path: Path, file: IO[bytes]) -> tuple[Header, int]:
    version = npy_format.read_magic(file)
    if version not in HEADERS:
        raise DataError(f"{quote(path)} uses version {version} of the npy format; save it as a plain array.")
    shape, _, dtype = HEADERS[version](file)
    if not 2 <= len(shape) <= 4:
        raise DataError(
            f"{quote(path)} holds an array of shape {shape}; img2img takes (H, W), (H, W, C) and (P, H, W, C)."
        )
    pages, height, width, channels = {2: (1, *shape, 1), 3: (1, *shape)}.get(len(shape), shape)
    if channels > MAX_LAST and channels >= min(height, width) > 0:
        raise DataError(
            f"{quote(path)} holds an array of shape {shape}, in which the channels, the last axis, are as many as rows "
            f"or columns; if they come first, save it as np.moveaxis(array, {len(shape) - 3}, -1)."
        )
    stated = Stated(axes=(("P", pages),) if pages > 1 else ())
    return Header(path, width, height, channels, known_dtype(path, dtype), pages, stated), len(shape)


def _load(path: Path, file: Any, source: Source) -> Picture:
    file.seek(0)
    array: Array = npy_format.read_array(file, allow_pickle=False)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    array = array[..., None] if array.ndim == 2 else array
    return Picture(array[0] if array.ndim == 4 and len(array) == 1 else array, None, source)


def write(path: Path, picture: Picture, kind: str, quality: int) -> None:
    """Write an .npy or .npz file; a picture without a source as (H, W, C) or (P, H, W, C)."""
    source, array = picture.source, np.ascontiguousarray(picture.array)
    details = source.details if source and isinstance(source.details, Details) else Details()
    if details.ndim == 2 and array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    elif details.ndim == 4 and array.ndim == 3:
        array = array[None]
    if kind == "npy":
        with path.open("wb") as file:
            npy_format.write_array(file, array, allow_pickle=False)
        return
    with (
        zipfile.ZipFile(path, "w", details.compression) as archive,
        archive.open(f"{details.key}.npy", "w", force_zip64=True) as entry,
    ):
        npy_format.write_array(entry, array, allow_pickle=False)
