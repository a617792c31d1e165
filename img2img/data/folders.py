"""Finding the images of a data set, checking that they are consistent, and pairing them."""

import hashlib
import os
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.images import Array, Header, find_images, read_header, read_image, skipped_note
from img2img.data.picture import DTYPES, quote
from img2img.errors import ConfigError, DataError, counted

HELD_OUT = ("val", "test")  # names of held-out parts, in order of preference
TAIL_BYTES = 4096  # at the end of a file, by which it is distinguished from others
MAX_LISTED = 5  # names that an error lists


@dataclass(frozen=True)
class Domain:
    """The images of one domain, and the properties that they share.

    Attributes:
        title: "A" or "B", for error messages.
        sources: headers of files, or arrays (H, W, C).
        half: "whole", or the "left" or "right" half of each image.
        channels: number of channels of every image; grey images of a colour domain are read as colour.
        dtype: type of every image.
        passed: suffixes of the other files that were skipped in their folder, with their counts.
        labels: class index of every image; empty if the images have no labels.
    """

    title: str
    sources: tuple[Header | Array, ...]
    half: str
    channels: int
    dtype: str
    passed: Counter[str] = field(default_factory=Counter)
    labels: tuple[int, ...] = ()

    @classmethod
    def of(cls, title: str, sources: Sequence[Header | Array], half: str = "whole") -> "Domain":
        """Build a domain, taking its number of channels and its type from the data.

        Raises:
            DataError: if there are no images, or they are inconsistent.
        """
        if not sources:
            raise DataError(f"There are no images of domain {title}.")
        kinds: dict[tuple[int, str], list[int]] = defaultdict(list)
        for i, source in enumerate(sources):
            kinds[_channels(source), str(source.dtype)].append(i)
        dtypes, counts = {dtype for _, dtype in kinds}, {channels for channels, _ in kinds}
        passed = sources.passed if isinstance(sources, Scanned) else Counter[str]()
        domain = cls(title, tuple(sources), half, max(counts, default=0), next(iter(dtypes), ""), passed)
        if len(dtypes) > 1 or not (len(counts) == 1 or counts == {1, 3}):
            most_common = max(kinds, key=lambda kind: len(kinds[kind]), default=None)
            groups = []
            for kind in sorted(kinds, key=lambda kind: -len(kinds[kind])):
                names = "" if kind == most_common else f" ({_list(domain.name(i) for i in kinds[kind])})"
                groups.append(f"{len(kinds[kind])} with {kind[0]} channels of {kind[1]}{names}")
            raise DataError(
                f"The images of domain {title} are of different kinds: {', '.join(groups)}. Convert them to one kind."
            )
        return domain

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def grey_files(self) -> int:
        """The number of grey images that are read as colour."""
        return sum(_channels(s) != self.channels for s in self.sources)

    def size(self, i: int) -> tuple[int, int]:
        """Return the height and width of image i."""
        source = self.sources[i]
        height, width = (source.height, source.width) if isinstance(source, Header) else source.shape[:2]
        return height, width if self.half == "whole" else width // 2

    def name(self, i: int) -> str:
        """Return the name of image i for error messages."""
        source = self.sources[i]
        return quote(source.path) if isinstance(source, Header) else f"array {i} of domain {self.title}"

    def load(self, i: int) -> Array:
        """Load image i as (H, W, channels)."""
        source = self.sources[i]
        array = read_image(source.path).array if isinstance(source, Header) else source
        refuse_non_finite(array, self.name(i))
        if self.half != "whole":
            middle = array.shape[1] // 2
            array = array[:, :middle] if self.half == "left" else array[:, middle : 2 * middle]
        return array if array.shape[2] == self.channels else np.repeat(array, self.channels, axis=2)

    def identity(self) -> dict[str, Any]:
        """Return a fingerprint of these images: their number, kind, and checksums of their names and contents."""
        paths = [source.path for source in self.sources if isinstance(source, Header)]
        folder = os.path.commonpath([path.parent for path in paths]) if paths else ""
        names, contents = hashlib.sha256(), hashlib.sha256(self.half.encode())
        for source in self.sources:
            if isinstance(source, Header):
                names.update(os.fsencode(source.path.relative_to(folder).as_posix()) + b"\0")
                kind = source.width, source.height, source.channels, *_fingerprint(source.path)
            else:
                kind = (*source.shape, zlib.crc32(np.ascontiguousarray(source).tobytes()))
            contents.update(repr(kind).encode())
        labels = {"labels": hashlib.sha256(repr(self.labels).encode()).hexdigest()[:16]} if self.labels else {}
        return labels | {
            "images": len(self),
            "kind": f"{self.channels} channels of {self.dtype}",
            "names": names.hexdigest()[:16],
            "contents": contents.hexdigest()[:16],
        }

    def evenly(self, count: int) -> "Domain":
        """Return at most `count` of the images, evenly spaced."""
        return self.select([round(i) for i in np.linspace(0, len(self) - 1, min(count, len(self)))])

    def select(self, indices: Sequence[int]) -> "Domain":
        """Return the images at these indices, with their labels."""
        labels = tuple(self.labels[i] for i in indices) if self.labels else ()
        return replace(self, sources=tuple(self.sources[i] for i in indices), labels=labels)


def _fingerprint(path: Path) -> tuple[int, int]:
    """Return the size of a file and a checksum of its last bytes, which are quick to read and differ if pixels do."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - TAIL_BYTES, 0))
        return size, zlib.crc32(file.read())


def _channels(source: Header | Array) -> int:
    return source.channels if isinstance(source, Header) else source.shape[2]


Domains = tuple[Domain, Domain]


class Scanned(list[Header]):
    """The headers of the images in a folder, and the suffixes of the files that were skipped, with their counts."""

    def __init__(self, headers: Iterable[Header], passed: Counter[str]) -> None:
        super().__init__(headers)
        self.passed = passed


def passed_beside(*domains: Domain) -> tuple[str, ...]:
    """Return a note on the files skipped beside the images of `domains`, as a tuple; empty if there were none."""
    return skipped_note(sum((domain.passed for domain in domains), Counter()))


def find(places: dict[str, str | None], paired: bool) -> tuple[Domains, Domains | None]:
    """Find the domains to train on, and the held-out ones if there are any.

    Args:
        places: the folders given as "a", "b", "ab" and "data", in one of the supported combinations.
        paired: whether image i of A belongs to image i of B.

    Raises:
        ConfigError: if the combination of folders is not supported.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    folders = {name: Path(place) for name, place in places.items() if place is not None}
    if folders.keys() == {"data"}:
        return _find_in_root(folders["data"], paired)
    if folders.keys() == {"ab"} and paired:
        root = folders["ab"]
        if (root / "train").is_dir():
            return _find_in_root(root, paired)
        return _side_by_side(root), _maybe(_side_by_side, _beside(root))
    if folders.keys() == {"a", "b"}:
        a, b = folders["a"], folders["b"]
        if a.resolve() == b.resolve():
            raise DataError(f"--a and --b are the same folder, {a}; give two different folders.")
        for inner, outer in ((a, b), (b, a)):
            if inner.resolve().is_relative_to(outer.resolve()):
                raise DataError(
                    f"{inner} is inside {outer}, so both domains would contain its images; give two separate folders."
                )
        heldout_a, heldout_b = _beside(a), _beside(b)
        heldout = None
        if heldout_a and heldout_b and heldout_a.resolve() != heldout_b.resolve():
            heldout = _two_folders(heldout_a, heldout_b, paired)
        return _two_folders(a, b, paired), heldout
    choices = "--a DIR --b DIR, --ab DIR or --data ROOT" if paired else "--a DIR --b DIR or --data ROOT"
    actual = f" You gave: {', '.join('--' + name for name in sorted(folders))}." if folders else ""
    raise ConfigError(f"Give the folders of the images in one of these ways: {choices}.{actual}")


def _find_in_root(root: Path, paired: bool) -> tuple[Domains, Domains | None]:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    if (root / "trainA").is_dir() and (root / "trainB").is_dir():
        pairs = [(root / f"{part}A", root / f"{part}B") for part in HELD_OUT]
        heldout = next(((a, b) for a, b in pairs if a.is_dir() and b.is_dir()), None)
        return _two_folders(root / "trainA", root / "trainB", paired), heldout and _two_folders(*heldout, paired)
    if paired and (root / "train").is_dir():
        return _side_by_side(root / "train"), _maybe(_side_by_side, _beside(root / "train"))
    layouts = "trainA and trainB" + (", or train with side-by-side pairs" if paired else "")
    raise DataError(f"{root} does not have the standard layout: it must contain the folders {layouts}.")


def _beside(folder: Path) -> Path | None:
    """Return the held-out folder that belongs to a folder called train, trainA or trainB, if there is one."""
    if folder.name not in ("train", "trainA", "trainB"):
        return None
    names = [folder.name.replace("train", part, 1) for part in HELD_OUT]
    return next((folder.parent / name for name in names if (folder.parent / name).is_dir()), None)


def _maybe(load: Callable[[Path], Domains], folder: Path | None) -> Domains | None:
    return load(folder) if folder else None


def scan(folder: Path) -> Scanned:
    """Read the headers of all images below `folder`; unreadable files are reported together."""

    def header(path: Path) -> Header | DataError:
        try:
            return _single(read_header(path))
        except DataError as error:
            return error

    paths = find_images(folder)
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(header, paths))
    bad = [h for h in headers if isinstance(h, DataError)]
    if bad:
        raise DataError(f"{len(bad)} of the images in {quote(folder)} cannot be used: {_list(map(str, bad))}")
    return Scanned((h for h in headers if isinstance(h, Header)), paths.passed)


def _single(header: Header) -> Header:
    if header.pages > 1:
        raise DataError(
            f"{quote(header.path)} has {header.pages} pages; training takes single images, so save each page as a "
            "separate file"
        )
    return header


def _list(items: Iterable[str]) -> str:
    names = list(items)
    more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _side_by_side(folder: Path) -> Domains:
    headers = scan(folder)
    odd = [f"{quote(h.path.name)} ({h.width}x{h.height})" for h in headers if h.width % 2]
    if odd:
        raise DataError(f"Side-by-side images must have an even width, to be split in half: {_list(odd)}.")
    return Domain.of("A", headers, "left"), Domain.of("B", list(headers), "right")


def _two_folders(a: Path, b: Path, paired: bool) -> Domains:
    if not paired:
        return Domain.of("A", scan(a)), Domain.of("B", scan(b))
    stems: list[dict[str, Header]] = []
    scans = [scan(folder) for folder in (a, b)]
    for folder, scanned in zip((a, b), scans, strict=True):
        by_stem: dict[str, Header] = {}
        for header in scanned:
            stem = unicodedata.normalize("NFC", header.path.relative_to(folder).with_suffix("").as_posix())
            if stem in by_stem:
                raise DataError(
                    f"{quote(by_stem[stem].path)} and {quote(header.path)} differ only in the suffix, or in how "
                    "accents are encoded; keep one of them."
                )
            by_stem[stem] = header
        stems.append(by_stem)
    unmatched = [stem for side, other in (stems, stems[::-1]) for stem in side if stem not in other]
    if unmatched:
        names = _list(quote(side[stem].path) for side in stems for stem in unmatched if stem in side)
        folded = {_fold(stem): stem for stem in stems[1]}
        similar = ((stem, folded[_fold(stem)]) for stem in unmatched if stem in stems[0] and _fold(stem) in folded)
        hint = "".join(
            f" {quote(stems[0][one].path)} and {quote(stems[1][two].path)} differ only in case, or in how letters "
            "are encoded; rename one of them."
            for one, two in islice(similar, 1)
        )
        raise DataError(
            f"{counted(len(unmatched), 'image has', 'images have')} no partner of the same name in the other folder: "
            f"{names}. Pairs are matched by file name without suffix; add the missing partners, or remove these "
            f"images.{hint}"
        )
    pairs = [Scanned((side[n] for n in sorted(stems[0])), s.passed) for side, s in zip(stems, scans, strict=True)]
    return pair_up(pairs[0], pairs[1], True)


def _fold(stem: str) -> str:
    """Return the name without differences that are hard or impossible to see."""
    return unicodedata.normalize("NFKC", stem).casefold()


def pairs_in(*, ab: Path | None = None, a: Path | None = None, b: Path | None = None) -> Domains:
    """Find the pairs in one folder of side-by-side images, or in two folders, matched by name.

    Raises:
        DataError: if images are missing, unreadable, or do not fit together.
    """
    if ab is not None:
        return _side_by_side(ab)
    assert a is not None and b is not None
    return _two_folders(a, b, True)


def pair_up(a: Sequence[Header | Array], b: Sequence[Header | Array], paired: bool) -> Domains:
    """Build both domains, after checking that pairs match in number and size.

    Raises:
        DataError: if they do not match.
    """
    domains = Domain.of("A", a), Domain.of("B", b)
    if paired:
        if len(a) != len(b):
            raise DataError(f"Pairs need equally many images in A and B, but there are {len(a)} and {len(b)}.")
        sizes = [(i, domains[0].size(i), domains[1].size(i)) for i in range(len(a))]
        unequal = [
            f"{domains[0].name(i)} ({wa}x{ha} and {wb}x{hb})" for i, (ha, wa), (hb, wb) in sizes if (ha, wa) != (hb, wb)
        ]
        if unequal:
            raise DataError(f"{len(unequal)} pairs differ in size: {_list(unequal)}.")
    return domains


def refuse_non_finite(array: Array, name: str) -> None:
    """Raise DataError if an image contains NaN or infinity, which training would propagate into every weight."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name} contains values that are NaN or infinite; repair it or remove it.")


def readable(path: Path) -> Header:
    """Return the header of a file that has to be a single image.

    Raises:
        DataError: if it is not a readable image, or has several pages.
    """
    return _single(read_header(path))


def from_arrays(title: str, images: Any) -> list[Header | Array]:
    """Convert headers and arrays (H, W) or (H, W, C), or one array of all images, to headers and arrays (H, W, C)."""
    if images is None:
        raise ConfigError("Give arrays for both a and b, or folders for both.")
    arrays = [x if isinstance(x, Header) else np.asarray(x) for x in images]
    for i, x in enumerate(arrays):
        if not isinstance(x, Header) and (x.ndim not in (2, 3) or x.dtype.name not in DTYPES):
            raise DataError(
                f"Array {i} of domain {title} is {x.dtype} of shape {x.shape}; "
                f"expected (H, W) or (H, W, C) of {', '.join(DTYPES)}."
            )
    return [x if isinstance(x, Header) or x.ndim == 3 else x[..., None] for x in arrays]


def alike(heldout: Domain, train: Domain) -> Domain:
    """Return `heldout` with the channels of `train`: grey images of a colour domain are read as colour."""
    if heldout.dtype != train.dtype or (heldout.channels != train.channels and heldout.channels != 1):
        kinds = [f"{d.channels} channels of {d.dtype}" for d in (heldout, train)]
        raise DataError(
            f"The held-out images of domain {train.title}, e.g. {heldout.name(0)}, have {kinds[0]}, but the training "
            f"images, e.g. {train.name(0)}, have {kinds[1]}. Convert them to one kind."
        )
    return replace(heldout, channels=train.channels)


def refuse_small(domain: Domain, size: int) -> None:
    """Raise DataError if images are smaller than the crop."""
    small = [f"{domain.name(i)} ({w}x{h})" for i in range(len(domain)) for h, w in [domain.size(i)] if min(h, w) < size]
    if small:
        raise DataError(
            f"Domain {domain.title} has {counted(len(small), 'image', 'images')} smaller than the {size} px crop: "
            f"{_list(small)}. Use a smaller --size, or an --augment preset that resizes."
        )
