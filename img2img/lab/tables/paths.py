"""The files that a table names, on this machine: a table may have been written on another, under Windows or in a cloud.

A name is relative to the root, or absolute, or a file:// URL, or the URL of a file in a store, such as s3://bucket/x.tif,
which becomes the path s3:/bucket/x.tif; backslashes are slashes. `--map OLD=NEW` says that what
lay in OLD lies in NEW here. If the root is given, and absolute folders of the table do not exist here, the ends of
these paths are looked for below the root: the longest that leads to a file there says what the root stands for.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from img2img.data.inbox import stored
from img2img.errors import ConfigError, DataError, is_url, quote

DRIVE, ADDRESS = r"[A-Za-z]:/", r"[A-Za-z][A-Za-z0-9+.-]+://"
WEB = r"(https?|ftps?)://"
PROBED = 20  # folders that are looked for


def slashed(name: Any) -> str:
    """Return a path with slashes, whether it was written with backslashes or as a file: URL."""
    text = str(name).replace("\\", "/")
    if text[:5].lower() != "file:":
        return text
    text = re.sub(r"^(//(localhost)?(?=/))?", "", unquote(text[5:]), flags=re.IGNORECASE)
    return text[1:] if re.match(f"/{DRIVE}", text) else text


def local(place: Any) -> Any:
    """Return the path of a file: URL, and anything else as it is."""
    return slashed(place) if isinstance(place, str) and place[:5].lower() == "file:" else place


def joined_names(folder: str, name: str) -> str:
    """Return the path of a file in a folder, both slashed; an absolute name has no need of it."""
    return name if is_absolute(name) or not folder else f"{folder.rstrip('/')}/{name}"


def is_absolute(text: str) -> bool:
    """Return whether a slashed path is absolute, here or on Windows, or a web address."""
    return text.startswith("/") or (":/" in text and re.match(f"{DRIVE}|{ADDRESS}", text) is not None)


def is_stored(text: str) -> bool:
    """Return whether a slashed name is the URL of a file in a store, rather than a path or an address of the web."""
    return re.match(ADDRESS, text) is not None and not re.match(WEB, text, re.IGNORECASE)


def moves_of(given: Sequence[str] | Mapping[str, Any] | str | None) -> list[tuple[str, str]]:
    """Return the pairs (OLD, NEW) of `map`: texts "OLD=NEW", or a dict."""
    if given is None:
        return []
    words = [given] if isinstance(given, str) else given
    pairs = list(words.items()) if isinstance(words, Mapping) else [str(word).partition("=")[::2] for word in words]
    if wrong := [f"{old}={new}" for old, new in pairs if not old or not str(new)]:
        raise ConfigError(f"map takes OLD=NEW, such as /home/ubuntu/bucket=/data, not {wrong[0]}.")
    return [(slashed(old).rstrip("/"), slashed(new)) for old, new in pairs]


def rest_of(text: str, old: str) -> str | None:
    """Return the part of a slashed path below the folder `old`; None if it lies elsewhere."""
    on_windows = old[1:2] == ":" or old[:2] == "//"
    fits = text.startswith(old) or (on_windows and text.lower().startswith(old.lower()))
    return text[len(old) + 1 :] if fits and text[len(old) : len(old) + 1] in ("", "/") else None


@dataclass(frozen=True)
class Places:
    """The place on this machine of every file that a table names.

    Attributes:
        root: the folder that relative names are relative to.
        moves: pairs of folders (OLD, NEW); the first whose OLD a name begins with applies.
        reads_stores: whether names may be URLs of files in stores, rather than of copies below the root.
    """

    root: Path
    moves: tuple[tuple[str, str], ...] = ()
    reads_stores: bool = False
    _paths: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)

    def text(self, text: str) -> str:
        """Return a slashed path of the table after the moves."""
        for old, new in self.moves:
            if (rest := rest_of(text, old)) is not None:
                return joined_names(new, rest) if rest else new
        return text

    def __call__(self, name: Any) -> Path:
        """Return the file of a name in the table.

        Raises:
            DataError: if it cannot be on this machine.
        """
        name = slashed(name)
        if ":/" in name:
            text = self.text(name)
            if self.reads_stores and is_stored(text):
                stored(Path(text))  # refuses one that cannot be opened
            elif re.match(ADDRESS, text) or (re.match(DRIVE, text) and not Path(text).is_absolute()):
                raise DataError(_elsewhere(text.rpartition("/")[0]))
        return self.path(name)

    def path(self, name: str) -> Path:
        """Return the file of a slashed name, even if it cannot be on this machine; each is made once."""
        path = self._paths.get(name)
        if path is None:
            text = self.text(name)
            path = self._paths[name] = Path(text) if re.match(ADDRESS, text) else self.root / text
        return path


def places_of(
    names: Iterable[str], root: Path, moves: Sequence[tuple[str, str]], is_given: bool
) -> tuple[Places, list[str]]:
    """Return the places of the slashed names of a table, and notes on folders that were found below the root.

    Args:
        names: every name of a file in the table.
        root: the folder that relative names are relative to.
        moves: pairs of folders, (OLD, NEW).
        is_given: whether the caller has named that root, so that it may stand for folders that do not exist here.

    Raises:
        ConfigError: if no name begins with the OLD of a move.
        DataError: if no absolute folder of the table exists here, or below the root.
    """
    names = list(names)
    for old, _ in moves:
        if names and all(rest_of(name, old) is None for name in names):
            raise ConfigError(f"map: no file of the table lies in {quote(old)}; the first is {quote(names[0])}.")
    reads_stores = not is_given or is_url(root)
    places, found, notes = Places(root, tuple(moves)), list(moves), []
    folders = {text.rpartition("/")[0]: text for text in map(places.text, names) if is_absolute(text)}
    if reads_stores:
        folders = {folder: text for folder, text in folders.items() if not is_stored(text)}
    strange = [text for folder, text in folders.items() if not Path(folder).is_dir()]
    lost: list[str] = []
    for text in strange[:PROBED]:
        if any(rest_of(text, old) is not None for old, _ in found[len(moves) :]):
            continue
        beginning = _stands_for(text, root) if is_given else None
        if beginning is not None:
            found.append((beginning, slashed(root)))
            notes.append(
                f"The folder {quote(beginning or '/')} of the table is taken to be {quote(root)}, where its files are."
            )
        else:
            lost.append(text)
    if folders and lost and len(strange) == len(folders) and len(found) == len(moves):
        shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*(f.split("/") for f in folders), strict=False))
        common = "/".join(parts[0] for parts in shared)
        raise DataError(_elsewhere(common if common.strip("/") else lost[0].rpartition("/")[0]))
    return Places(root, tuple(found), reads_stores), notes


def _elsewhere(folder: str) -> str:
    """Return the sentence on a folder of the table that does not exist on this machine."""
    fault = "is a web address; download its files and" if re.match(ADDRESS, folder) else "does not exist here;"
    name = quote(folder)
    return f"The folder {name} of the table {fault} say where it is: --map {name}=FOLDER or --root FOLDER."


def _stands_for(text: str, root: Path) -> str | None:
    """Return the beginning of an absolute path that the root stands for; None if the file is not below it."""
    parts = text.split("/")
    for i in range(1, len(parts)):
        if parts[i] and root.joinpath(*parts[i:]).exists():
            return "/".join(parts[:i])
    return None
