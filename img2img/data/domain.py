"""A domain: images of one kind, from files or arrays, checked to be consistent."""

import hashlib
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.folders import Found, skipped_note
from img2img.data.holes import holes_of, in_words
from img2img.data.images import read_image
from img2img.data.patches import Patch, read_patch
from img2img.data.picture import DTYPES, Array, Header
from img2img.errors import ConfigError, DataError, counted, listed, quote

TAIL_BYTES = 4096  # at the end of a file, by which it is distinguished from others
SOME_FILES = 16  # of a folder, whose ends are read


@dataclass(frozen=True)
class Domain:
    """The images of one domain, and the properties that they share."""

    title: str  # "A" or "B", for error messages
    sources: tuple[Header | Array, ...]  # headers of files, or arrays (H, W, C)
    half: str  # "whole", or the "left" or "right" half of each image
    channels: int  # number of channels of every image; grey images of a colour domain are read as colour
    dtype: str  # type of every image
    passed: Counter[str] = field(default_factory=Counter)  # the files that were skipped in their folder, by suffix
    labels: tuple[int, ...] = ()  # class index of every image; empty if the images have no labels
    vectors: Array | None = None  # (images, length) float32, in place of labels

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
        passed = sources.passed if isinstance(sources, Found) else Counter[str]()
        domain = cls(title, tuple(sources), half, max(counts), next(iter(dtypes)), passed)
        if len(dtypes) > 1 or not (len(counts) == 1 or counts == {1, 3}):
            ranked = sorted(kinds.items(), key=lambda entry: -len(entry[1]))
            groups = [f"{len(images)} with {channels} channels of {dtype}" for (channels, dtype), images in ranked]
            for k, (_, images) in enumerate(ranked[1:], 1):  # those that are not of the most common kind
                groups[k] += f" ({listed(map(domain.name, images))})"
            raise DataError(
                f"The images of domain {title} are of different kinds: {', '.join(groups)}. Convert them to one kind."
            )
        return domain

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def kind(self) -> str:
        """The channels and the type of every image, in words."""
        return f"{self.channels} channels of {self.dtype}"

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
        return quote(source.path) + source.place if isinstance(source, Header) else f"array {i} of domain {self.title}"

    def load(self, i: int) -> Array:
        """Load image i as (H, W, channels). A file with pages was admitted only if they are channels."""
        source = self.sources[i]
        if isinstance(source, Patch):
            array = read_patch(source)
        else:
            array = read_image(source.path, "channels").array if isinstance(source, Header) else source
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
        checked = {path: fingerprint(path) for path in dict.fromkeys(paths)}
        for source in self.sources:
            if isinstance(source, Header):
                names.update(os.fsencode(source.path.relative_to(folder).as_posix() + source.place) + b"\0")
                kind = source.width, source.height, source.channels, *checked[source.path]
            else:
                kind = (*source.shape, zlib.crc32(np.ascontiguousarray(source).tobytes()))
            contents.update(repr(kind).encode())
        labels = {"labels": hashlib.sha256(repr(self.labels).encode()).hexdigest()[:16]} if self.labels else {}
        if self.vectors is not None:
            labels = {"vectors": hashlib.sha256(self.vectors.tobytes()).hexdigest()[:16]}
        return labels | {
            "images": len(self),
            "kind": self.kind,
            "names": names.hexdigest()[:16],
            "contents": contents.hexdigest()[:16],
        }

    def evenly(self, count: int) -> "Domain":
        """Return at most `count` of the images, evenly spaced."""
        return self.select([round(i) for i in np.linspace(0, len(self) - 1, min(count, len(self)))])

    def select(self, indices: Sequence[int]) -> "Domain":
        """Return the images at these indices, with their labels or vectors."""
        labels = tuple(self.labels[i] for i in indices) if self.labels else ()
        vectors = None if self.vectors is None else self.vectors[list(indices)]
        return replace(self, sources=tuple(self.sources[i] for i in indices), labels=labels, vectors=vectors)


def fingerprint(path: Path) -> tuple[int, int]:
    """Return the size of a file and a checksum of its last bytes, which are quick to read and differ if pixels do.

    Of a folder, which an image of OME-Zarr is, they are those of names, sizes and a few of its files.
    """
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        some = [fingerprint(files[name])[1] for name in list(files)[:: -(-len(files) // SOME_FILES)]]
        return sum(sizes.values()), zlib.crc32(repr((sizes, some)).encode())
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - TAIL_BYTES, 0))
        return size, zlib.crc32(file.read())


def _channels(source: Header | Array) -> int:
    return source.channels if isinstance(source, Header) else source.shape[2]


def passed_beside(*domains: Domain) -> tuple[str, ...]:
    """Return a note on the files skipped beside the images of `domains`, as a tuple; empty if there were none."""
    return skipped_note(sum((domain.passed for domain in domains), Counter()))


def refuse_non_finite(array: Array, name: str) -> None:
    """Raise DataError if an image contains NaN or infinity, which training would propagate into every weight."""
    if (holes := holes_of(array)) is not None:
        raise DataError(f"{name} has {in_words(array, holes)}; repair it or remove it.")


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
        raise DataError(
            f"The held-out images of domain {train.title}, e.g. {heldout.name(0)}, have {heldout.kind}, but the "
            f"training images, e.g. {train.name(0)}, have {train.kind}. Convert them to one kind."
        )
    return replace(heldout, channels=train.channels)


def refuse_small(domain: Domain, size: int) -> None:
    """Raise DataError if images are smaller than the crop."""
    small = [f"{domain.name(i)} ({w}x{h})" for i in range(len(domain)) for h, w in [domain.size(i)] if min(h, w) < size]
    if small:
        raise DataError(
            f"Domain {domain.title} has {counted(len(small), 'image', 'images')} smaller than the {size} px crop: "
            f"{listed(small)}. Use a smaller --size, or an --augment preset that resizes."
        )
