"""Finding the images of a data set, checking that they go together, and pairing them."""

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
END = 4096  # bytes of a file, by which it is told from others
LISTED = 5  # names shown of a longer list of culprits


@dataclass(frozen=True)
class Domain:
    """The images of one side: where they are, and what they have in common.

    Attributes:
        title: "A" or "B", for messages.
        sources: headers of files, or arrays (H, W, C).
        half: "whole", or the "left" or "right" half of each image.
        channels: channels of every image; grey images of a colour domain are read as colour.
        dtype: type of every image.
        passed: suffixes of the files that were passed over beside them, and how often.
        labels: index of the class of every image; empty where images have none.
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
        """Decides channels and type from the data.

        Raises:
            DataError: if there are no images, or they do not go together.
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
            most = max(kinds, key=lambda kind: len(kinds[kind]), default=None)
            found = []
            for kind in sorted(kinds, key=lambda kind: -len(kinds[kind])):
                names = "" if kind == most else f" ({_list(domain.name(i) for i in kinds[kind])})"
                found.append(f"{len(kinds[kind])} with {kind[0]} channels of {kind[1]}{names}")
            raise DataError(
                f"The images of domain {title} do not go together: {', '.join(found)}. Convert them to one kind."
            )
        return domain

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def grey_files(self) -> int:
        """How many grey images are read as colour."""
        return sum(_channels(s) != self.channels for s in self.sources)

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i."""
        source = self.sources[i]
        height, width = (source.height, source.width) if isinstance(source, Header) else source.shape[:2]
        return height, width if self.half == "whole" else width // 2

    def name(self, i: int) -> str:
        source = self.sources[i]
        return quote(source.path) if isinstance(source, Header) else f"array {i} of domain {self.title}"

    def load(self, i: int) -> Array:
        """Image i as (H, W, channels)."""
        source = self.sources[i]
        array = read_image(source.path).array if isinstance(source, Header) else source
        refuse_non_finite(array, self.name(i))
        if self.half != "whole":
            middle = array.shape[1] // 2
            array = array[:, :middle] if self.half == "left" else array[:, middle : 2 * middle]
        return array if array.shape[2] == self.channels else np.repeat(array, self.channels, axis=2)

    def identity(self) -> dict[str, Any]:
        """What tells these images from others: number, kind, names below their folder, and contents, by checksum."""
        paths = [source.path for source in self.sources if isinstance(source, Header)]
        folder = os.path.commonpath([path.parent for path in paths]) if paths else ""
        names, contents = hashlib.sha256(), hashlib.sha256(self.half.encode())
        for source in self.sources:
            if isinstance(source, Header):
                names.update(os.fsencode(source.path.relative_to(folder).as_posix()) + b"\0")
                kind = source.width, source.height, source.channels, *_end_of(source.path)
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
        """At most `count` of the images, evenly chosen."""
        return self.select([round(i) for i in np.linspace(0, len(self) - 1, min(count, len(self)))])

    def select(self, indices: Sequence[int]) -> "Domain":
        """Return the images of these indices, with their labels."""
        labels = tuple(self.labels[i] for i in indices) if self.labels else ()
        return replace(self, sources=tuple(self.sources[i] for i in indices), labels=labels)


def _end_of(path: Path) -> tuple[int, int]:
    """Return the size of a file and the checksum of its last bytes, which differ where pixels do, and are read fast."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - END, 0))
        return size, zlib.crc32(file.read())


def _channels(source: Header | Array) -> int:
    return source.channels if isinstance(source, Header) else source.shape[2]


Domains = tuple[Domain, Domain]


class Scanned(list[Header]):
    """The headers of the images of a folder, and the suffixes of the files that were passed over."""

    def __init__(self, headers: Iterable[Header], passed: Counter[str]) -> None:
        super().__init__(headers)
        self.passed = passed


def passed_beside(*domains: Domain) -> tuple[str, ...]:
    """How many files were passed over while the images of `domains` were found; nothing if there were none."""
    return skipped_note(sum((domain.passed for domain in domains), Counter()))


def find(places: dict[str, str | None], paired: bool) -> tuple[Domains, Domains | None]:
    """The domains to train on, and the held-out ones where there are any.

    Args:
        places: what was given as "a", "b", "ab" and "data", in one of the ways that make sense.
        paired: whether image i of A belongs to image i of B.

    Raises:
        ConfigError: if the places are not given in one way.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    given = {name: Path(place) for name, place in places.items() if place is not None}
    if given.keys() == {"data"}:
        return _find_in_root(given["data"], paired)
    if given.keys() == {"ab"} and paired:
        root = given["ab"]
        if (root / "train").is_dir():
            return _find_in_root(root, paired)
        return _side_by_side(root), _maybe(_side_by_side, _beside(root))
    if given.keys() == {"a", "b"}:
        a, b = given["a"], given["b"]
        if a.resolve() == b.resolve():
            raise DataError(f"--a and --b are the same folder, {a}; give two different ones.")
        for inner, outer in ((a, b), (b, a)):
            if inner.resolve().is_relative_to(outer.resolve()):
                raise DataError(f"{inner} lies inside {outer}, so both domains would hold its images; give two apart.")
        heldout_a, heldout_b = _beside(a), _beside(b)
        heldout = None
        if heldout_a and heldout_b and heldout_a.resolve() != heldout_b.resolve():
            heldout = _two_folders(heldout_a, heldout_b, paired)
        return _two_folders(a, b, paired), heldout
    ways = "--a DIR --b DIR, --ab DIR or --data ROOT" if paired else "--a DIR --b DIR or --data ROOT"
    got = f" You gave: {', '.join('--' + name for name in sorted(given))}." if given else ""
    raise ConfigError(f"Say where the images are, in one way: {ways}.{got}")


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
    raise DataError(f"{root} does not have the standard layout: it needs the folders {layouts}.")


def _beside(folder: Path) -> Path | None:
    """The held-out folder that belongs to a folder called train, trainA or trainB."""
    if folder.name not in ("train", "trainA", "trainB"):
        return None
    names = [folder.name.replace("train", part, 1) for part in HELD_OUT]
    return next((folder.parent / name for name in names if (folder.parent / name).is_dir()), None)


def _maybe(load: Callable[[Path], Domains], folder: Path | None) -> Domains | None:
    return load(folder) if folder else None


def scan(folder: Path) -> Scanned:
    """The headers of all images below `folder`; unreadable files are named together."""

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
            "file of its own"
        )
    return header


def _list(culprits: Iterable[str]) -> str:
    names = list(culprits)
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _side_by_side(folder: Path) -> Domains:
    headers = scan(folder)
    odd = [f"{quote(h.path.name)} ({h.width}x{h.height})" for h in headers if h.width % 2]
    if odd:
        raise DataError(f"Side-by-side images need an even width to be halved: {_list(odd)}.")
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
                    f"{quote(by_stem[stem].path)} and {quote(header.path)} have the same name but for the suffix, or "
                    "for how accents are stored; keep one."
                )
            by_stem[stem] = header
        stems.append(by_stem)
    lonely = [stem for side, other in (stems, stems[::-1]) for stem in side if stem not in other]
    if lonely:
        names = _list(quote(side[stem].path) for side in stems for stem in lonely if stem in side)
        nearly = {_folded(stem): stem for stem in stems[1]}
        close = ((stem, nearly[_folded(stem)]) for stem in lonely if stem in stems[0] and _folded(stem) in nearly)
        hint = "".join(
            f" {quote(stems[0][one].path)} and {quote(stems[1][two].path)} differ only in case, or how letters "
            "are stored; rename one of them."
            for one, two in islice(close, 1)
        )
        raise DataError(
            f"{counted(len(lonely), 'image has', 'images have')} no partner of the same name in the other folder: "
            f"{names}. "
            f"Pairs are matched by file name without suffix; complete or remove them.{hint}"
        )
    pairs = [Scanned((side[n] for n in sorted(stems[0])), s.passed) for side, s in zip(stems, scans, strict=True)]
    return pair_up(pairs[0], pairs[1], True)


def _folded(stem: str) -> str:
    """The name without what people do not see, or hardly."""
    return unicodedata.normalize("NFKC", stem).casefold()


def pairs_in(*, ab: Path | None = None, a: Path | None = None, b: Path | None = None) -> Domains:
    """The pairs in one folder of side-by-side images, or in two folders, by name.

    Raises:
        DataError: if images are missing, unreadable, or do not fit together.
    """
    if ab is not None:
        return _side_by_side(ab)
    assert a is not None and b is not None
    return _two_folders(a, b, True)


def pair_up(a: Sequence[Header | Array], b: Sequence[Header | Array], paired: bool) -> Domains:
    """Both domains, after checking that pairs are equal in number and size.

    Raises:
        DataError: if they do not fit together.
    """
    domains = Domain.of("A", a), Domain.of("B", b)
    if paired:
        if len(a) != len(b):
            raise DataError(f"Pairs need as many images in A as in B; there are {len(a)} and {len(b)}.")
        sizes = [(i, domains[0].size(i), domains[1].size(i)) for i in range(len(a))]
        unequal = [
            f"{domains[0].name(i)} ({wa}x{ha} and {wb}x{hb})" for i, (ha, wa), (hb, wb) in sizes if (ha, wa) != (hb, wb)
        ]
        if unequal:
            raise DataError(f"{len(unequal)} pairs differ in size: {_list(unequal)}.")
    return domains


def refuse_non_finite(array: Array, name: str) -> None:
    """Raises DataError if an image holds NaN or infinity, which training would spread over everything."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name} holds values that are not numbers (NaN or infinite); repair it or take it out.")


def readable(path: Path) -> Header:
    """Returns the header of a file that is to be one of several images.

    Raises:
        DataError: if it is not a readable image, or has several pages.
    """
    return _single(read_header(path))


def from_arrays(title: str, images: Any) -> list[Header | Array]:
    """Headers, and arrays (H, W) or (H, W, C), or one array of all images, as a list of headers and (H, W, C)."""
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
    """`heldout` with the channels of `train`: grey images of a colour domain are read as colour."""
    if heldout.dtype != train.dtype or (heldout.channels != train.channels and heldout.channels != 1):
        kinds = [f"{d.channels} channels of {d.dtype}" for d in (heldout, train)]
        raise DataError(
            f"The held-out images of domain {train.title}, as {heldout.name(0)}, have {kinds[0]}, the training images, "
            f"as {train.name(0)}, {kinds[1]}. Convert them to one kind."
        )
    return replace(heldout, channels=train.channels)


def refuse_small(domain: Domain, size: int) -> None:
    """Raises DataError if images are smaller than the crop."""
    small = [f"{domain.name(i)} ({w}x{h})" for i in range(len(domain)) for h, w in [domain.size(i)] if min(h, w) < size]
    if small:
        raise DataError(
            f"Domain {domain.title} has {counted(len(small), 'image', 'images')} smaller than the {size} px crop: "
            f"{_list(small)}. Use a smaller --size, or an --augment that resizes."
        )
