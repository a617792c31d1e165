"""A folder of this disk that stands for a place in a store, while results are made in it and sent."""

import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from img2img.data.remote import Remote
from img2img.errors import Img2ImgError
from img2img.runtime.files import atomic, remove_stale, temporary_name

LANES = 16  # files that are asked for, or brought, or sent, at a time
WAITING = 64  # results that wait on this disk until they are sent

Key = TypeVar("Key")


def remove_half_done() -> None:
    """Remove the folders of this disk in which processes that were killed had files on their way."""
    remove_stale(Path(tempfile.gettempdir()))


def new_folder() -> Path:
    """Return a new folder for files that are on their way; those of processes that were killed are removed first."""
    remove_half_done()
    return temporary_folder()


def temporary_folder() -> Path:
    """Return a new folder for files that are on their way; whoever comes later removes it if this process is killed."""
    folder = Path(tempfile.gettempdir()).resolve() / temporary_name()
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def standing_for(place: Remote) -> Iterator[Path]:
    """Yield a new folder that stands for a place; what is raised names the files where they are meant to be."""
    folder = new_folder()
    try:
        yield folder
    except Img2ImgError as error:
        error.args = (retold(str(error), folder, place),)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def retold(text: str, folder: Path, place: Remote) -> str:
    """Return a sentence about files in a folder as one about those of the place that the folder stands for."""
    return text.replace(str(folder), place.shown)


def fetch(place: Remote, name: str, folder: Path) -> bytes | None:
    """Fetch a small file into the folder that stands for its place, and return its content; None if there is none."""
    content = place.read(name)
    if content is None:
        (folder / name).unlink(missing_ok=True)
    else:
        with atomic(folder / name) as temporary:
            temporary.write_bytes(content)
    return content


def publish(place: Remote, name: str, folder: Path, before: bytes | None) -> bool:
    """Send a small file that was `before` when it was fetched; return False if another process created it meanwhile."""
    after = (folder / name).read_bytes()
    if before is None:
        return place.create(name, after)
    if after != before:
        place.send(folder / name, name)
    return True


def sending(place: Remote, folder: Path, results: Iterable[tuple[Key, str]]) -> Iterator[Key]:
    """Send results, given by a key and a name, as they are made; yield the key of each that has been sent."""
    waiting = deque[tuple[Key, Future[None]]]()

    def send(name: str) -> None:
        place.send(folder / name, name)
        (folder / name).unlink()

    def sent(most: int) -> Iterator[Key]:
        while waiting and (len(waiting) > most or waiting[0][1].done()):
            key, future = waiting.popleft()
            future.result()
            yield key

    pool = ThreadPoolExecutor(LANES)
    try:
        for key, name in results:
            waiting.append((key, pool.submit(send, name)))
            yield from sent(WAITING)
        yield from sent(0)
    finally:
        pool.shutdown(cancel_futures=True)
