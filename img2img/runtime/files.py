"""Files that appear whole or not at all: they are written under a temporary name, and renamed when complete."""

import errno
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from img2img.errors import ConfigError, quote

TEMPORARY = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.img2img-part(\..+)?")
STALE = 3600  # seconds after which a temporary file counts as abandoned by a killed process on any machine


@contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`: it becomes `path` if the block succeeds, and is removed if it fails.

    If `durable`, the content is flushed to the disk before renaming, so that a power cut leaves the old file or the new
    one.

    Raises:
        OSError: on failure to write, and if `path` is not a regular file: devices and pipes are never replaced.
    """
    if _is_special(path):
        raise OSError(errno.EINVAL, "is a device or a pipe, not a regular file", str(path))
    temporary = _temporary(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            with suppress(OSError):  # not every system can open folders
                sync(path.parent, os.O_RDONLY)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`: it becomes `path` if the block succeeds, in place of what is there.

    Raises:
        OSError: on failure to write, and if `path` is a file.
    """
    _refuse_file(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        move_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_folder(folder: Path, path: Path) -> None:
    """Rename a folder to `path` on the same disk, in place of the folder or the link that is there.

    Raises:
        OSError: if it cannot be done; what was there stays.
    """
    _refuse_file(path)
    former = _temporary(path)
    try:
        with suppress(FileNotFoundError):
            path.unlink() if path.is_symlink() else path.rename(former)
        try:
            folder.rename(path)
        except OSError:
            with suppress(OSError):
                former.rename(path)
            raise
        with suppress(OSError):  # not every system can open folders
            sync(path.parent, os.O_RDONLY)
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OSError(errno.ENOTDIR, "is a file, not a folder", str(path))


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named, atomically; a device or a pipe is written to directly."""
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int | None = 1, durable: bool = False) -> None:
    """Write `content` as JSON, atomically; the arguments are those of `json.dumps` and `atomic`."""
    with atomic(path, durable) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def create_json(path: Path, content: Any) -> bool:
    """Write `content` as JSON unless there is such a file; return whether it was written.

    Of several processes that try at once, on any machines, one succeeds.
    """
    temporary = _temporary(path)
    temporary.write_text(text := json.dumps(content, indent=1) + "\n", encoding="utf-8")
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # of a disk without links
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def refuse_unwritable(path: Path, ours: Callable[[bytes], bool]) -> None:
    """Refuse a file that cannot be written, before the work rather than after it.

    An existing file may be replaced if `ours` tells from its content that img2img wrote it.

    Raises:
        ConfigError: if the file cannot be written, or belongs to somebody else.
    """
    if path.is_dir():
        raise ConfigError(f"{quote(path)} is a folder; give the name of a file to write.")
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {quote(path.parent)} to write {quote(Path(path.name))} into.")
    if _is_special(path):
        return
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"The folder {quote(path.parent)} is not writable; give another one.")
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ConfigError(f"{quote(path)} exists and cannot be read: {error.strerror}; give another name.") from error
    if content and not ours(content):
        raise ConfigError(
            f"{quote(path)} exists and was not written by this command; give another name, or move the file away."
        )


def json_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; an empty one if the content is anything else."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def holds_keys(*names: str) -> Callable[[bytes], bool]:
    """Return a test that recognises our own JSON by some of its keys; for `refuse_unwritable`."""
    return lambda content: set(names) <= json_object(content).keys()


def remove_stale(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left behind; never those of a live process."""
    for path in folder.glob(".*"):
        if not (leftover := TEMPORARY.fullmatch(path.name)):
            continue
        with suppress(OSError):
            is_dead = leftover["host"] == _host() and not is_alive(int(leftover["process"]))
            inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
            if is_dead or time.time() - max(x.lstat().st_mtime for x in (path, *inside)) > STALE:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _temporary(path: Path) -> Path:
    return path.parent / temporary_name(path.suffix)


def temporary_name(suffix: str = "") -> str:
    """Return a new name that `remove_stale` recognises, once this process has ended."""
    return f".{_host()}-{os.getpid()}-{secrets.token_hex(4)}.img2img-part{suffix}"


def is_text(path: Path) -> bool:
    """Return whether the name is valid UTF-8, as libraries not written in Python require."""
    return str(path).encode(errors="surrogatepass").decode(errors="replace") == str(path)


def _is_special(path: Path) -> bool:
    """Return whether `path` exists and is a device, a pipe or a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def sync(path: Path, flags: int = os.O_RDWR) -> None:
    """Flush the content of a file to the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@cache
def _host() -> str:
    """Return an id of the machine and the container, within which process numbers are unique."""
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{zlib.crc32(f'{platform.node()} {namespace}'.encode()):08x}"


def is_alive(process: int) -> bool:
    """Return whether a process of this machine may be alive; one that ended and is not yet waited for is not."""
    if sys.platform == "win32":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    with suppress(OSError):  # no /proc
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"
    return True
