"""Files in object stores and on servers, by fsspec: listed as a stream, brought to this disk, and sent whole.

A place is a path, or a URL such as s3://bucket/photos; `file://` stands for a path. Credentials come from where the
driver of a store looks for them, and whatever a URL holds of them is never shown.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from img2img.errors import (
    ConfigError,
    Img2ImgError,
    StoreError,
    TrainingError,
    first_line,
    install_hint,
    printable,
    quote,
)
from img2img.runtime.files import temporary_name

URL = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.:-]+)://(?P<rest>.*)", re.DOTALL)
COLLAPSED = re.compile(r"(.*[/\\])?([A-Za-z][A-Za-z0-9+.-]+:)[/\\]+([^/\\].*)", re.DOTALL)  # a URL as a path
OF_DISKS = ("file", "local")
# Protocols of stores in which an object that is put appears whole or not at all.
PUT_IS_WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory")
OF_A_PROCESS = ("memory",)  # protocols of stores that no other process sees
PAGE = 1000  # names that are asked for at a time, if the driver can
MAX_RECORD = 2**20  # bytes of a small file that is read into memory
SHORTEST = 4  # characters of a secret that is taken out of messages
LONGEST = 255  # bytes of a name on a disk
HIDDEN = "***"


def locate(place: "str | Path | Remote") -> "Path | Remote":
    """Return the path, or the store, that a place stands for.

    Raises:
        ConfigError: if there is no driver for the URL, or it cannot be opened.
    """
    if not isinstance(place, str) or not (url := URL.fullmatch(place)):
        return place if isinstance(place, Remote) else Path(place)
    return Path(url["rest"]) if url["protocol"].lower() in OF_DISKS else Remote.open(place)


def refuse_url(path: Path, what: str) -> None:
    """Raise ConfigError if `path` is a URL, which `what` cannot be; it would be a folder called s3: otherwise."""
    if (found := COLLAPSED.fullmatch(str(path))) and not Path((found[1] or "") + found[2]).exists():
        url = shown(f"{found[2]}//{found[3]}")
        raise ConfigError(
            f"{what} takes a path on this machine, and not a URL such as {url}; copy the files to a disk first, or "
            "mount the store."
        )


def refuse_private(*places: "Path | Remote") -> None:
    """Raise ConfigError if processes that are to share a job would each see another store of their own."""
    for place in places:
        if isinstance(place, Remote) and not place.is_shared:
            raise ConfigError(f"{place} is in the memory of one process; give a place that all workers see.")


def shown(url: str) -> str:
    """Return a URL without user, password and query, on one line."""
    rest = url.partition("?")[0].rstrip("/")
    return printable(re.sub(r"(:/+)[^/]*@", r"\1", rest, count=1))


class Remote:
    """A folder in a store, or a file in it, by a file system of fsspec.

    Names are relative to it, with slashes; "" is the place itself.

    Args:
        fs: the file system.
        root: the path of the place in it.
        shown: the URL, as it may be shown.
        secrets: what is to be taken out of the messages of drivers.
    """

    def __init__(self, fs: Any, root: str, shown: str, secrets: tuple[str, ...] = ()) -> None:
        self.fs, self.root, self.shown, self.secrets = fs, root.rstrip("/"), shown, secrets
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        self.is_whole, self.is_shared = protocol in PUT_IS_WHOLE, protocol not in OF_A_PROCESS
        self.identity = protocol, self.root
        _forget_listings(fs)

    def __str__(self) -> str:
        return self.shown

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _forget_listings(self.fs)  # which the driver has opened anew, in this process

    @classmethod
    def open(cls, url: str) -> "Remote":
        """Open a URL.

        Raises:
            ConfigError: if that is not possible.
        """
        if "::" in url:
            raise ConfigError(f"{shown(url)}: chained URLs, with ::, are not supported; give one URL.")
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise ConfigError(install_hint(shown(url), str(error.name), "stores")) from error
        secrets = _secrets(url)
        try:
            fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        except Exception as error:
            reason = without_secrets(first_line(error), secrets)
            raise ConfigError(f"{shown(url)} cannot be opened: {reason.rstrip('.')}.") from None
        return cls(fs, root, shown(url), secrets)

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.fs, self._path(name), f"{self.shown}/{printable(name)}", self.secrets)

    @property
    def parent(self) -> "Remote":
        return Remote(self.fs, self.root.rpartition("/")[0], self.shown.rpartition("/")[0], self.secrets)

    def inner(self, other: "Remote") -> str:
        """Return the name of a place below this one, with a slash at the end; "" for any other place."""
        (protocol, root), (theirs, place) = self.identity, other.identity
        return f"{place[len(root) :].strip('/')}/" * (protocol == theirs and place.startswith(f"{root}/"))

    def show(self, name: str) -> str:
        """Return the URL of a file as it may be shown."""
        return f"{self.shown}/{printable(name).rstrip('/')}" if name else self.shown

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is none."""
        with self._told(name, "cannot be looked for"), suppress(FileNotFoundError):
            found = self.fs.info(self._path(name))
            return int(found["size"] or 0) if found["type"] == "file" else None
        return None

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every file below, at any depth, without holding them all.

        Objects in S3 come by page. Of other stores, the names of one folder at a time are held.
        """
        with self._told("", "cannot be listed"):
            for entry in self._pages() if hasattr(self.fs, "_iterdir") else self._walk():
                name = str(entry["name"]).strip("/")[len(self.root.strip("/")) :].strip("/")
                if name and entry["type"] == "file":
                    yield name, int(entry["size"] or 0)

    def bring(self, name: str, path: Path) -> None:
        """Copy a file to this disk.

        Raises:
            TrainingError: if the disk is full.
        """
        with self._told(name, "cannot be read"):
            try:
                self.fs.get_file(self._path(name), str(path))
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise disk_full(path) from error
                raise

    def send(self, path: Path, name: str) -> None:
        """Copy a file from this disk; it appears whole or not at all."""
        with self._told(name, "cannot be written"):
            target = self._path(name)
            if self.is_whole:
                self.fs.put_file(str(path), target)
                return
            folder = target.rpartition("/")[0]
            temporary = f"{folder}/{temporary_name(path.suffix)}"
            self.fs.makedirs(folder, exist_ok=True)
            try:
                self.fs.put_file(str(path), temporary)
                self.fs.mv(temporary, target)
            except BaseException:
                with suppress(Exception):
                    self.fs.rm_file(temporary)
                raise

    def all_names(self) -> Iterator[str]:
        """Yield the name of every file below, at any depth; none if the place does not exist."""
        try:
            for name, _ in self.files():
                yield name
        except StoreError as error:
            if not error.absent:
                raise

    def names(self) -> list[str]:
        """Return the names of the files that lie directly in it; none if it does not exist."""
        with self._told("", "cannot be listed"), suppress(FileNotFoundError):
            entries = self.fs.ls(self.root, detail=True)
            return [str(entry["name"]).rpartition("/")[2] for entry in entries if entry["type"] == "file"]
        return []

    def read(self, name: str, start: int = 0, end: int = MAX_RECORD) -> bytes | None:
        """Return the content of a small file, or some of that of another; None if there is none."""
        with self._told(name, "cannot be read"), suppress(FileNotFoundError):
            return bytes(self.fs.cat_file(self._path(name), start=start, end=end))
        return None

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file unless there is one; return whether it was written.

        Of several processes that try at once, one succeeds, if the store has such a request; S3 and Google's have.
        """
        if self.size(name) is not None:
            return False
        with self._told(name, "cannot be written"):
            if not self.is_whole:  # others have no folders, and buckets are not made
                self.fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            try:
                self.fs.pipe_file(self._path(name), content, mode="create")
            except Exception:
                if self.read(name) is None:
                    raise
        return self.read(name) == content

    def remove(self, name: str) -> None:
        """Remove a file; there may be none."""
        with self._told(name, "cannot be removed"), suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    def check(self) -> None:
        """Raise StoreError if the store does not answer now."""
        with self._told("", "does not answer"), suppress(FileNotFoundError):
            self.fs.info(self.root)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _walk(self) -> Iterator[dict[str, Any]]:
        folders = [self.root]
        while folders:
            try:
                listing = self.fs.ls(folder := folders.pop(), detail=True)
            except FileNotFoundError:  # removed meanwhile
                if folder == self.root:
                    raise
                continue
            entries = sorted(listing, key=lambda entry: str(entry["name"]))
            yield from entries
            folders += [entry["name"] for entry in reversed(entries) if entry["type"] == "directory"]

    def _pages(self) -> Iterator[dict[str, Any]]:
        """List as s3fs can, without folders."""
        from fsspec.asyn import sync

        bucket, _, prefix = self.root.partition("/")
        listing = self.fs._iterdir(bucket, delimiter="", prefix=f"{prefix}/" if prefix else "")

        async def page() -> list[dict[str, Any]]:
            entries: list[dict[str, Any]] = []
            async for entry in listing:
                entries.append(entry)
                if len(entries) == PAGE:
                    break
            return entries

        while entries := sync(self.fs.loop, page):
            yield from entries

    @contextmanager
    def _told(self, name: str, what: str) -> Iterator[None]:
        """Raise whatever a driver raises, of any kind, as a StoreError with a sentence about the file."""
        try:
            yield
        except Img2ImgError:
            raise
        except Exception as error:
            absent = isinstance(error, FileNotFoundError)
            detail = "it does not exist" if absent else without_secrets(first_line(error), self.secrets).rstrip(".")
            if isinstance(error, PermissionError):
                detail = f"access is denied ({detail})"
            raise StoreError(f"{self.show(name)} {what}: {detail}.", absent) from None


def _forget_listings(fs: Any) -> None:
    """Let a file system keep no listings, which would hold every name that was seen."""
    from fsspec.dircache import DirCache

    fs.dircache = DirCache(use_listings_cache=False)


def on_disk(folder: Path) -> Remote:
    """Return a folder of this machine as if it were in a store."""
    from fsspec.implementations.local import LocalFileSystem

    return Remote(LocalFileSystem(), folder.absolute().as_posix(), str(folder))


def is_inside(place: Path | Remote, other: Path | Remote) -> bool:
    """Return whether a place is another one, or lies below it."""
    if isinstance(place, Path) and isinstance(other, Path):
        return place.resolve().is_relative_to(other.resolve())
    if isinstance(place, Path) or isinstance(other, Path):
        return False
    return place.identity == other.identity or bool(other.inner(place))


def disk_full(path: Path) -> TrainingError:
    """Return the error of a disk that has no room for what is brought to it."""
    return TrainingError(
        f"The disk is full on which {quote(path.parent)} is; make room, or set TMPDIR to a folder on another one, and "
        "start the same command again."
    )


def is_name(name: str) -> bool:
    """Return whether the name of an object can be that of a file on a disk."""
    parts = PurePosixPath(name).parts
    is_plain = "/".join(parts) == name and ".." not in parts and not {"\0", os.sep, os.altsep} & set("".join(parts))
    return is_plain and 0 < max((len(part.encode(errors="replace")) for part in parts), default=0) <= LONGEST


def _secrets(url: str) -> tuple[str, ...]:
    """Return what a URL holds of user, password and tokens."""
    place = url.partition("?")
    user = place[0].partition("://")[2].partition("/")[0].rpartition("@")[0]
    values = [value for _, value in parse_qsl(urlsplit(f"x://y?{place[2]}").query)]
    texts = [user, *user.split(":", 1), *values, place[2]]
    found = {text for raw in texts for text in (raw, unquote(raw)) if len(text) >= SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def without_secrets(text: str, secrets: tuple[str, ...]) -> str:
    """Return the message of a driver without secrets: those given, and whatever is in the place of one in a URL."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = re.sub(r"(?<=://)[^/@\s'\"]+@", "", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)
