"""What a job brings from a store and sends to one: which files, where they lie meanwhile, and the record."""

import hashlib
import re
import shutil
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from img2img.data.folders import SHEETS, kind_of, no_images
from img2img.data.images import FORMATS, SUFFIXES
from img2img.data.ome_metadata import FILES
from img2img.data.outbox import LANES, fetch, new_folder, publish
from img2img.data.regions import SLIDES
from img2img.data.remote import Remote, is_name, on_disk
from img2img.data.shards import Shard, read_list
from img2img.errors import ConfigError, DataError, StoreError, listed, quote
from img2img.model.options import FolderOptions
from img2img.model.plan import ZARR, Plan, suffix_of
from img2img.model.record import RECORD
from img2img.runtime.files import remove_stale

RECENT = 4096  # results that the next ones are compared with, in case two have the same name
BYTES_PER_PIXEL = 16  # of the largest file that is brought
OF_ZARR = "it is an OME-Zarr folder, which is not translated from or to a store"
COPY = "copy it to a disk first, or mount the store"
LOCAL = re.compile(r"/(in|out)(?:/(\d+)(?=/))?")


@dataclass
class Item:
    """A file of a job: its name in the store and that of its result, and where both lie on this disk meanwhile.

    Attributes:
        size: in bytes.
        fault: why it cannot be translated; "" if nothing is known against it.
    """

    number: int
    name: str
    size: int
    source: Path
    target: Path
    result: str
    fault: str = ""


class StagedPlan(Plan):
    """The files below a place, or that a list names below it, and the places of their results in `place`.

    They are known one after the other, and none is held for long. On this disk they lie in a temporary folder, each in
    one of its own, under the name that it has in the store.

    Attributes:
        source, place: where the files come from, and where their results go.
        passed: the number of files of other kinds on a disk, by suffix.
        passed_meanwhile: that in a store, so far.
        live: those files that are on this disk.

    Raises:
        ConfigError: if results would overwrite the originals.
        DataError: if there is nothing to translate, or a place cannot be read.
    """

    def __init__(self, source: Path | Remote, out: Path | Remote, files: FolderOptions) -> None:
        if suffix_of(files.format) == ZARR:
            raise ConfigError("--format zarr makes folders, which are not sent to a store; choose another --format.")
        self.suffix, self.shard = suffix_of(files.format), Shard.parse(files.shard)
        self.most = int(files.max_megapixels * 1e6) * BYTES_PER_PIXEL
        self.passed, self.passed_meanwhile = Counter[str](), Counter[str]()
        self.live, self.cleaned = dict[int, Item](), set[Path]()
        self.settle()
        try:
            self._open(source, out, files)
        except BaseException:
            self.close()
            raise

    def settle(self) -> None:
        """Make a temporary folder on this disk, for this process."""
        self.folder = new_folder()
        self.close = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.base, self.out = self.folder / "in", self.folder / "out"
        for folder in (self.base, self.out):
            folder.mkdir()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to bring and send files of its own, once it has settled."""
        return self.__dict__ | {"close": None, "_names": None, "live": {}, "cleaned": set()}

    def _open(self, source: Path | Remote, out: Path | Remote, files: FolderOptions) -> None:
        self.sources = []  # never all at once
        self.place = on_disk(out) if isinstance(out, Path) else out
        self.are_local = isinstance(source, Path), isinstance(out, Path)
        if isinstance(source, Path):
            found = Plan(source, self.out, files.format, files.files)
            self.source, self.passed = on_disk(found.base), found.passed
            self._names: Callable[[], Iterator[tuple[str, int]]] = partial(_names_of, found)
        elif files.files:
            self.source = source
            self._names = partial(_sized, source, _listed(source, read_list(files.files)))
        elif (size := source.size("")) is not None:
            self.source, one = source.parent, (source.root.rpartition("/")[2], size)
            self._names = lambda: iter([one])
        else:
            self.source, self._names = source, self._found
        if self.place.identity == self.source.identity:
            raise ConfigError(
                f"The results would lie among the originals in {quote(self.source.shown)}; give another --out."
            )
        if next(self._names(), None) is None:
            raise no_images(self.source.shown, self.passed_meanwhile)

    def items(self) -> Iterator[Item]:
        """Yield the files of the plan's shard, in the order of the listing."""
        seen = OrderedDict[str, str]()
        for number, (name, size) in enumerate(self._names()):
            if not self.shard.holds(PurePosixPath(name)):
                continue
            item = self.item(number, name, size)
            first = seen.setdefault(item.result, name)
            if first != name and not item.fault:
                clash = f"{self.source.show(first)}, {self.place.show(item.result)}"
                item.fault = f"its result would have the same path as that of {clash}."
            if len(seen) > RECENT:
                seen.popitem(last=False)
            yield item

    def item(self, number: int, name: str, size: int) -> Item:
        """Return a file of a name and a size in bytes, as it lies on this disk."""
        inside = PurePosixPath(name)
        source = self.base / str(number) / inside.name
        target = self.target(source) if is_name(name) else self.out
        item = Item(number, name, size, source, target, (inside.parent / target.name).as_posix())
        item.fault = self._fault(item)
        return item

    def _fault(self, item: Item) -> str:
        suffix = item.source.suffix.lower()
        if suffix == ZARR or item.name.endswith("/"):
            return f"{OF_ZARR}; {COPY}."
        if not is_name(item.name):
            return "it has a name that no file on a disk can have."
        if suffix in SLIDES:
            return f"it is a slide, which is not translated from or to a store; {COPY}."
        if item.size > self.most:
            return (
                f"it has {item.size / 1e9:.1f} GB, more than {BYTES_PER_PIXEL} bytes for each pixel of "
                f"--max-megapixels, {self.most / 1e9:.1f} GB; raise it if that is right."
            )
        return ""

    def begun(self) -> bool:
        return next(self.results(), None) is not None

    def results(self) -> Iterator[Path]:
        for name in self._results():
            yield self.out / name

    def others(self, in_parts: bool) -> tuple[int, Path | None]:
        """Return as `Plan` does, with eight bytes held for each result."""
        replaced = np.fromiter((_hash(item.result) for item in (() if in_parts else self.items())), np.uint64)
        replaced.sort()
        count, example = 0, None
        for name in self._results():
            k = np.searchsorted(replaced, value := np.uint64(_hash(name)))
            if k == len(replaced) or replaced[k] != value:
                count, example = count + 1, example or self.out / name
        return count, example

    def read_record(self) -> bytes | None:
        """Fetch the record from where the results go, so that it lies beside them on this disk; return its content."""
        return fetch(self.place, RECORD, self.out)

    def write_record(self, before: bytes | None) -> bool:
        """Send the record if it is not that of `before`; return False if another process was faster to create one."""
        return publish(self.place, RECORD, self.out, before)

    def send(self, item: Item) -> None:
        """Send a result; it appears whole or not at all."""
        if self.are_local[1] and (folder := Path(self.place.show(item.result)).parent) not in self.cleaned:
            self.cleaned.add(folder)
            remove_stale(folder)
        self.place.send(item.target, item.result)

    def path(self, item: Item, is_result: bool = False) -> Path | str:
        """Return the path or the URL of a file, or of its result."""
        text = self.place.show(item.result) if is_result else self.source.show(item.name)
        return Path(text) if self.are_local[is_result] else text

    def retell(self, text: str) -> str:
        """Return a sentence about files on this disk as one about those in the stores."""

        def place(match: re.Match[str]) -> str:
            side = self.source if match[1] == "in" else self.place
            item = self.live.get(int(match[2])) if match[2] else None
            parent = PurePosixPath(item.name).parent.as_posix() if item else "."
            return side.shown if parent == "." else side.show(parent)

        return re.sub(re.escape(str(self.folder)) + LOCAL.pattern, place, text)

    def release(self, item: Item) -> None:
        """Remove a file and its result from this disk."""
        del self.live[item.number]
        for folder in (self.base, self.out):
            shutil.rmtree(folder / str(item.number), ignore_errors=True)

    def _found(self) -> Iterator[tuple[str, int]]:
        """Yield the names of images below the source, as `find_images` chooses them; of OME-Zarr, that of the folder.

        Run folders are not recognised.
        """
        self.passed_meanwhile.clear()
        results, zarr = self.source.inner(self.place), ""
        for name, size in self.source.files():
            if (results and name.startswith(results)) or (zarr and name.startswith(zarr)):
                continue
            path = PurePosixPath(name)
            if _is_hidden(path.parts[:-1]):
                continue
            if within := _zarr(path):
                if within == ".":
                    raise DataError(f"{self.source.shown}: {OF_ZARR}; {COPY}.")
                zarr = f"{within}/"
                yield zarr, size
            elif _is_hidden(path.parts) or self._is_sheet(path):
                continue
            elif (suffix := path.suffix.lower()) in SUFFIXES or suffix in SLIDES:
                yield name, size
            else:
                self.passed_meanwhile[kind_of(suffix)] += 1

    def _is_sheet(self, path: PurePosixPath) -> bool:
        beside = (other for other, sheets in SHEETS.items() if path.name in (other, *sheets))
        return any(self.source.size((path.parent / other).as_posix()) is not None for other in beside)

    def _results(self) -> Iterator[str]:
        originals = self.place.inner(self.source)
        for name in self.place.all_names():
            path = PurePosixPath(name)
            is_original = originals and name.startswith(originals)
            if path.suffix.lower() in FORMATS and not _is_hidden(path.parts) and not is_original:
                yield name


def _names_of(plan: Plan) -> Iterator[tuple[str, int]]:
    """Yield the names of files on a disk; that of a folder ends with a slash."""
    for path in plan.sources:
        size = path.stat().st_size if path.is_file() else 0
        yield path.relative_to(plan.base).as_posix() + "/" * path.is_dir(), size


def _sized(place: Remote, names: list[str]) -> Iterator[tuple[str, int]]:
    """Yield names, each with the size of its file; that of one that cannot be read is 0."""

    def size(name: str) -> int:
        with suppress(StoreError):
            return place.size(name) or 0
        return 0

    with ThreadPoolExecutor(LANES) as pool:
        for k in range(0, len(names), LANES):
            part = names[k : k + LANES]
            yield from zip(part, pool.map(size, part), strict=True)


def _listed(place: Remote, names: list[str]) -> list[str]:
    """Return the names of a list relative to `place`; those that are URLs must lie below it.

    Raises:
        DataError: if one does not.
    """
    found = [name.removeprefix(f"{place.shown}/") for name in names]
    if outside := [quote(name) for name in found if "://" in name or ".." in name.split("/") or name.startswith("/")]:
        raise DataError(f"The list names files that are not below {place.shown}: {listed(outside)}.")
    return [PurePosixPath(name).as_posix() for name in found]


def _zarr(path: PurePosixPath) -> str:
    """Return the OME-Zarr folder that a file tells of, or lies in by its name; "" if there is none."""
    named = next((parent for parent in reversed(path.parents) if parent.suffix.lower() == ZARR), None)
    if named is None and path.name in FILES:
        named = path.parent
    return "" if named is None else named.as_posix()


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") and part != ".." for part in parts)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8])
