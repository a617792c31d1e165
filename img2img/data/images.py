"""Reading and writing image files, and giving back the kind of file that was read.

**What is read.** PNG, JPEG, WebP, BMP, TIFF, npy and npz, told apart by content; an array of the file's own type, as
(H, W, C), alpha apart. The orientation is applied; a palette becomes the colours it stands for; 1, 2 and 4 bits become
8-bit grey; white-is-zero becomes black-is-zero; CMYK becomes RGB by the plain formula; premultiplied alpha is divided
out. Other colour spaces, animations and damaged files are refused.

**Several pages.** Axes named C or S are channels. Every other axis (Z, T, pages of unknown meaning, several series of
equal shape, the first axis of a (P, H, W, C) array) gives separate images, in file order: the array is (P, H, W, C),
and is written back in the same axes. `pages="channels"` takes all of them, Z and T included, as the channels of one
image instead, and they come back as pages.

**What is written.** The format is that of the suffix, whatever the content of the original was. Orientation is upright.
EXIF data (among PNG, JPEG and WebP), resolution and the colour profile are kept where the format has them, the profile
only if it is one for that number of channels. What a format cannot hold is refused.
"""

import errno
import json
import os
import platform
import re
import secrets
import stat
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from img2img.data import npy, raster, tiff
from img2img.data.defaults import JPEG_QUALITY as JPEG_QUALITY, MAX_PIXELS as MAX_PIXELS, PAGES
from img2img.data.picture import (
    DTYPES,
    Array as Array,
    Header as Header,
    Picture as Picture,
    as_type,
    check_size,
    merge,
    quote,
    unmerge,
)
from img2img.errors import ConfigError, DataError, choose

TEMPORARY = re.compile(r"\.(?P<here>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.img2img-part(\..+)?")  # of `atomic`
STALE = 3600  # seconds after which a temporary file is what a killed process left, wherever that was

Opened = AbstractContextManager[tuple[Header, Callable[[], Picture]]]

# The first bytes of a file, what it is, and what opens it.
CONTENT: dict[bytes, tuple[str, Callable[[Path], Opened]]] = {
    b"\x89PNG\r\n\x1a\n": ("PNG", partial(raster.opened, kind="png")),
    b"\xff\xd8\xff": ("JPEG", partial(raster.opened, kind="jpeg")),
    rb"RIFF....WEBP": ("WebP", partial(raster.opened, kind="webp")),
    b"BM": ("BMP", partial(raster.opened, kind="bmp")),
    b"II\\*\0": ("TIFF", tiff.opened),
    b"MM\0\\*": ("TIFF", tiff.opened),
    b"II\\+\0": ("TIFF", tiff.opened),
    b"MM\0\\+": ("TIFF", tiff.opened),
    b"\x93NUMPY": ("npy", npy.opened_npy),
    b"PK": ("npz", npy.opened_npz),
}

# What is often found under the suffix of an image, by the first bytes.
OTHERS = {
    b"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)": "HEIC",
    b"....ftyp(avif|avis)": "AVIF",
    b"....ftyp": "a film",
    b"GIF8": "GIF",
    b"\xff\n|\0\0\0\x0cJXL ": "JPEG XL",
    b"\xffO\xffQ|\0\0\0\x0cjP  ": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"P[1-7]\\s": "PNM",
    b"%PDF": "PDF",
    b"\\s*<[!?a-zA-Z]": "HTML or XML",
    b"version https://git-lfs": "a pointer of Git LFS",
}

# Words of the decoders that say more than that a file is damaged, and what they mean.
MEANS = {
    "truncated|cut short|end of (the )?(file|stream|data)|premature|not enough (image )?data|EOF": "is cut short.",
    "unsupported|not supported|not implemented|requires the|precision|encrypted|password": (
        "is of a kind of {kind} that img2img does not decode; save it as PNG or TIFF."
    ),
}


@dataclass(frozen=True)
class Format:
    """What a format can hold, and what writes it; `channels` None is any number."""

    kind: str
    write: Callable[[Path, Picture, str, int], None]
    dtypes: tuple[str, ...] = ("uint8",)
    channels: tuple[int, ...] | None = (1, 3)
    alpha: bool = False
    pages: bool = False
    side: int = 2**31 - 1

    def lacks(self, picture: Picture) -> str | None:
        """What of the picture the format cannot hold."""
        array = picture.array
        faults = {
            f"{array.shape[-1]} channels": self.channels and array.shape[-1] not in self.channels,
            f"{array.dtype} values": str(array.dtype) not in self.dtypes,
            f"{len(array)} pages": array.ndim == 4 and not self.pages,
            "alpha": picture.alpha is not None and not self.alpha,
            f"sides of more than {self.side} pixels": max(array.shape[-3:-1]) > self.side,
        }
        return next((what for what, lacking in faults.items() if lacking), None)


_JPEG = Format("jpeg", raster.write, side=65500)
_TIFF = Format("tiff", tiff.write, DTYPES, None, alpha=True, pages=True)
FORMATS = {
    ".png": Format("png", raster.write, ("uint8", "uint16"), alpha=True),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".jpe": _JPEG,
    ".jfif": _JPEG,
    ".webp": Format("webp", raster.write, alpha=True, side=16383),
    ".bmp": Format("bmp", raster.write),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".npy": Format("npy", npy.write, DTYPES, None, pages=True),
    ".npz": Format("npz", npy.write, DTYPES, None, pages=True),
}
SUFFIXES = tuple(FORMATS)
# Beside this file of `sample`, these pictures are no samples but views of some.
SHEETS = {"samples.json": ("grid.png", "walk.png")}


KINDS = 8  # suffixes that are named of files passed over
WAYS = 100  # by which one folder may be found


class Found(list[Path]):
    """Image files, and the suffixes of the other files that were found beside them."""

    passed: Counter[str]


def find_images(folder: Path) -> Found:
    """Every image below `folder`, at any depth, in the order of their names.

    Hidden files and folders are left out, and so are the folders of runs, whose pictures are results, and the sheets
    that `sample` writes beside its images. Links to folders are followed, but not back into a folder they lie in.
    Whatever else has the suffix of an image is listed, broken links too: reading them says what is wrong.

    Raises:
        DataError: if the folder is missing, cannot be listed, or holds no image.
    """
    if not folder.is_dir():
        raise DataError(
            f"{quote(folder)} is not a folder." if folder.exists() else f"There is no folder {quote(folder)}."
        )
    found, ways = Found(), Counter[tuple[int, int]]()
    found.passed = Counter()
    todo: list[tuple[Path, frozenset[tuple[int, int]] | None]] = [(folder, frozenset())]
    try:
        while todo:
            where, parents = todo.pop()
            if parents is None:
                found.append(where)
                continue
            status = where.stat()
            identity = status.st_dev, status.st_ino
            if identity in parents:
                continue
            ways[identity] += 1
            if ways[identity] > WAYS:
                raise DataError(f"Links below {quote(folder)} lead to {quote(where)} in over {WAYS} ways; remove some.")
            with os.scandir(where) as listing:
                entries = sorted((e for e in listing if e.name[0] != "."), key=lambda e: e.name, reverse=True)
            if {"config.json", "log.jsonl"} <= {e.name for e in entries} and is_run(where):
                if where == folder:
                    raise DataError(f"{quote(folder)} is the folder of a run; give a folder of images.")
                continue
            sheets = [name for entry in entries for name in SHEETS.get(entry.name, ())]
            for entry in entries:
                if entry.name in sheets or entry.name in SHEETS:
                    continue
                suffix = entry.name[entry.name.rfind(".") :].lower() if "." in entry.name else ""
                if entry.is_dir():
                    todo.append((where / entry.name, parents | {identity}))
                elif suffix in FORMATS:
                    todo.append((where / entry.name, None))
                else:
                    found.passed[suffix if suffix[1:].isalnum() and len(suffix) < 10 else ""] += 1
    except OSError as error:
        raise DataError(f"{quote(Path(error.filename or folder))} cannot be listed: {error.strerror}.") from error
    if not found:
        beside = "".join(f" {sentence}" for sentence in skipped_note(found.passed))
        raise DataError(f"{quote(folder)} holds no image. img2img reads {', '.join(s[1:] for s in SUFFIXES)}.{beside}")
    return found


def is_run(folder: Path) -> bool:
    """Whether `folder` holds the config.json of a training of img2img."""
    try:
        record = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), dict) for name in ("options", "environment"))
        and "img2img" in record["environment"]
    )


def skipped_note(suffixes: Counter[str]) -> tuple[str, ...]:
    """How many files that are no images of ours were found, of which kinds; nothing if there were none."""
    count = suffixes.total()
    if not count:
        return ()
    ranked = sorted(suffixes.items(), key=lambda entry: (-entry[1], not entry[0], entry[0]))
    kinds = [f"{n} {suffix or 'of other names'}" for suffix, n in ranked]
    more = f", and {len(kinds) - KINDS} other kinds" if len(kinds) > KINDS else ""
    return (f"{count} file{'s were' if count > 1 else ' was'} passed over: {', '.join(kinds[:KINDS])}{more}.",)


def read_header(path: Path, pages: str = "images", max_pixels: int = MAX_PIXELS) -> Header:
    """Size, channels, type and pages of a file, without decoding it.

    Args:
        path: the file.
        pages: whether the pages of a file are separate "images" or the "channels" of one.
        max_pixels: refuse files with more, all pages together.

    Raises:
        DataError: if the file is not a readable image, or too large.
    """
    header, _ = _read(path, pages, max_pixels, decode=False)
    return header


def read_image(path: Path, pages: str = "images", max_pixels: int = MAX_PIXELS) -> Picture:
    """Decodes a file; the arguments are those of `read_header`.

    Raises:
        DataError: if the file is damaged, not a readable image, or too large.
    """
    _, picture = _read(path, pages, max_pixels, decode=True)
    assert picture is not None
    return picture


def _read(path: Path, pages: str, max_pixels: int, decode: bool) -> tuple[Header, Picture | None]:
    choose("meaning of pages", pages, PAGES)
    as_channels = pages == "channels"
    kind, part = "image", "header"
    try:
        kind, opener = _opener(path)
        with opener(path) as (header, load):
            check_size(header, max_pixels)
            part = "pixels"
            picture = load() if decode else None
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{quote(path)} cannot be read: there is not enough memory for it.") from error
    except Exception as error:  # decoders raise whatever they like on damaged input
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{quote(path)} cannot be read: {error.strerror}.") from error
        known = (means for words, means in MEANS.items() if re.search(words, str(error), re.IGNORECASE))
        means = next(known, "is damaged: its {part} cannot be decoded ({kind}).")
        raise DataError(f"{quote(path)} {means.format(part=part, kind=kind)}") from error
    if as_channels:
        header = Header(path, header.width, header.height, header.channels * header.pages, header.dtype)
        picture = picture and merge(picture, path)
    return header, picture


def _opener(path: Path) -> tuple[str, Callable[[Path], Opened]]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{quote(path)} is not a regular file.")
    if not status.st_size:
        raise DataError(f"{quote(path)} is empty.")
    with path.open("rb") as file:
        start = file.read(64)
    if found := next((opener for first, opener in CONTENT.items() if re.match(first, start, re.DOTALL)), None):
        return found
    if other := next((name for first, name in OTHERS.items() if re.match(first, start, re.DOTALL)), None):
        raise DataError(f"{quote(path)} holds {other}, which img2img does not read; save it as PNG, JPEG or TIFF.")
    raise DataError(f"{quote(path)} is none of the formats img2img reads: {', '.join(s[1:] for s in SUFFIXES)}.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_image(path: Path, picture: Picture, quality: int = JPEG_QUALITY) -> None:
    """Writes `picture` in the format of `path`'s suffix; the file appears whole or not at all.

    A picture that was read has a source; what of it fits the format and the pixels is kept.

    Args:
        path: the file; its folder is made if need be.
        picture: the pixels, and what their file was.
        quality: of JPEG and lossy WebP, 1 to 100.

    Raises:
        ConfigError: if the quality is out of range.
        DataError: if the format cannot hold the picture.
    """
    if not 1 <= quality <= 100:
        raise ConfigError(f"The quality of JPEG and WebP is 1 to 100, not {quality}.")
    if (known := FORMATS.get(path.suffix.lower())) is None:
        raise DataError(f"{quote(path)} has no suffix of a format img2img writes: {', '.join(SUFFIXES)}.")
    if picture.array.ndim not in (3, 4) or not picture.array.size:
        raise DataError(f"{quote(path)}: a picture is (H, W, C) or (P, H, W, C), not {picture.array.shape}.")
    picture = unmerge(picture)
    if lacking := known.lacks(picture):
        others = ", ".join({other.kind.upper(): 0 for other in FORMATS.values() if not other.lacks(picture)})
        raise DataError(
            f"{quote(path)}: {known.kind.upper()} cannot hold {lacking}; "
            + (f"write {others}." if others else "no format here can.")
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            known.write(temporary, picture, known.kind, quality)
    except MemoryError as error:
        raise DataError(f"{quote(path)} cannot be written: there is not enough memory for it.") from error
    except Exception as error:  # encoders, too, raise whatever they like
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{quote(path)} cannot be written as {known.kind.upper()}: what its original says beside the pixels does "
            f"not fit ({_first_line(error)}); write another format."
        ) from error


def refuse_unwritable(path: Path, ours: Callable[[bytes], bool] | None = None) -> None:
    """Raises ConfigError if a file of this name cannot be written: known before the work rather than after it.

    Args:
        path: the file.
        ours: tells by content whether a file that is there already was written by img2img, and so may be replaced.
    """
    if path.is_dir():
        raise ConfigError(f"{quote(path)} is a folder; name a file to write.")
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {quote(path.parent)} to write {quote(Path(path.name))} into.")
    if _is_special(path):
        return
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"Nothing may be written into {quote(path.parent)}.")
    try:
        content = path.read_bytes() if ours and path.exists() else b""
    except OSError as error:
        raise ConfigError(f"{quote(path)} exists and cannot be read: {error.strerror}; give another name.") from error
    if ours and content and not ours(content):
        raise ConfigError(
            f"{quote(path)} exists and was not written by this command; give another name, or move it away."
        )


def holds_keys(*names: str) -> Callable[[bytes], bool]:
    """A test for json of ours, by some of the names in it; for `refuse_unwritable`."""

    def ours(content: bytes) -> bool:
        try:
            record = json.loads(content)
        except (ValueError, RecursionError):
            return False
        return isinstance(record, dict) and set(names) <= record.keys()

    return ours


def _is_special(path: Path) -> bool:
    """Whether `path` is there and is a device, a pipe or a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_text(path: Path, text: str) -> None:
    """Writes a file that the user named, whole or not at all; a device or a pipe gets the text as it is."""
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class atomic:  # noqa: N801 - used as a function: `with atomic(path) as temporary:`
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    With `durable`, the content is on the disk before the name is: after a power cut there is the old file or the new.

    Raises:
        OSError: also if `path` is no regular file: devices and pipes are never replaced.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path, self.durable = path, durable

    def __enter__(self) -> Path:
        if _is_special(self.path):
            raise OSError(errno.EINVAL, "is a device or a pipe, not a regular file", str(self.path))
        name = f".{_here()}-{os.getpid()}-{secrets.token_hex(4)}.img2img-part{self.path.suffix}"
        self.temporary = self.path.parent / name
        os.close(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask
        return self.temporary

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                if self.durable:
                    _sync(self.temporary)
                self.temporary.replace(self.path)
                if self.durable:
                    with suppress(OSError):  # not every system opens folders
                        _sync(self.path.parent, os.O_RDONLY)
                return
        except BaseException:
            with suppress(OSError):
                self.temporary.unlink()
            raise
        with suppress(OSError):
            self.temporary.unlink()


def _sync(path: Path, flags: int = os.O_RDWR) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@cache
def _here() -> str:
    """The machine, and the container, that process numbers are of."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


def remove_stale(folder: Path) -> None:
    """Removes the temporary files of `atomic` that killed processes left; no other file, and none of a living one."""
    for path in folder.glob(".*"):
        if not (left := TEMPORARY.fullmatch(path.name)):
            continue
        with suppress(OSError):
            dead = left["here"] == _here() and not _is_alive(int(left["process"]))
            if dead or time.time() - path.stat().st_mtime > STALE:
                path.unlink()


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # where signal 0 ends a process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def resize(array: Array, height: int, width: int) -> Array:
    """Bicubic with antialiasing, channel by channel, in the array's own type; overshoot is cut to the type's range.

    Other types than uint8 are computed in fp32, as the networks do.
    """
    if array.shape[:2] == (height, width):
        return array
    size = (width, height)
    if array.dtype == np.uint8 and array.shape[2] == 3:
        return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC))
    planes: list[Any] = [
        np.asarray(Image.fromarray(array[..., c].astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
        for c in range(array.shape[2])
    ]
    return as_type(np.stack(planes, axis=2).astype(np.float64), array.dtype)
