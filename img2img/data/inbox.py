"""Files in stores that a table names: a path such as s3:/bucket/x.tif stands for each, and it is brought to be read."""

import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from img2img.data.outbox import temporary_folder
from img2img.data.remote import Remote
from img2img.errors import ConfigError, Img2ImgError, is_url, quote


@lru_cache
def _opened(root: str) -> Remote:
    return Remote.open(root)


def stored(path: Path) -> tuple[Remote, str]:
    """Return the store of a path that stands for a URL, and the name of the file in it.

    Raises:
        ConfigError: if there is no driver for it, or it holds credentials, which a path would show.
    """
    protocol, place, *names = path.parts
    if "@" in place:
        raise ConfigError(
            f"{protocol}//{place.rpartition('@')[2]}: a table, and files in one, are named without credentials; give "
            "these to the driver of the store, e.g. by the environment."
        )
    return _opened(f"{protocol}//{place}"), "/".join(names)


def exists(path: Path) -> bool:
    """Return whether there is a file on this disk, or in a store."""
    if not is_url(path):
        return path.exists()
    place, name = stored(path)
    return place.size(name) is not None


def fingerprint_of(path: Path, count: int) -> tuple[int, int]:
    """Return the size of a file in a store and a checksum of its last `count` bytes.

    Raises:
        StoreError: if it cannot be read.
    """
    place, name = stored(path)
    size = place.size(name) or 0
    return size, zlib.crc32(place.read(name, max(size - count, 0), size) or b"")


@contextmanager
def brought(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Yield files on this disk: those in stores are brought, and removed after the block.

    Raises:
        StoreError: if one cannot be read.
        TrainingError: if the disk is full.
    """
    if not any(map(is_url, files)):
        yield tuple(files)
        return
    folder = temporary_folder()
    try:
        here = tuple(folder / str(k) / path.name if is_url(path) else path for k, path in enumerate(files))

        def bring(path: Path, to: Path) -> None:
            if is_url(path):
                to.parent.mkdir()
                place, name = stored(path)
                place.bring(name, to)

        with ThreadPoolExecutor(len(files)) as pool:
            list(pool.map(bring, files, here))
        try:
            yield here
        except Img2ImgError as error:
            text = str(error)
            for path, to in zip(files, here, strict=True):
                text = text.replace(quote(to), quote(path))
            error.args = (text,)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
