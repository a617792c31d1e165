"""Two domains: finding their folders, and pairing their images."""

import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from img2img.data.domain import Domain
from img2img.data.folders import Found, scan
from img2img.data.patches import pairs_of, patches_of, scan_large
from img2img.data.picture import Array, Header
from img2img.data.remote import refuse_url
from img2img.errors import ConfigError, DataError, counted, listed, quote

HELD_OUT = ("val", "test")  # names of held-out parts, in order of preference
Domains = tuple[Domain, Domain]


def find_pair(
    places: dict[str, str | None], paired: bool, pages: str = "images", region: int = 0
) -> tuple[Domains, Domains | None]:
    """Find the domains to train on, and the held-out ones if there are any.

    Args:
        places: the folders given as "a", "b", "ab" and "data", in one of the supported combinations.
        paired: whether image i of A belongs to image i of B.
        pages: see `folders.readable`.
        region: pixels along the side of the squares that images are cut into; 0 for whole images.

    Raises:
        ConfigError: if the combination of folders is not supported.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    folders = {name: Path(place) for name, place in places.items() if place is not None}
    if folders.keys() == {"data"}:
        return _find_in_root(folders["data"], paired, pages, region)
    if folders.keys() == {"ab"} and paired:
        root = folders["ab"]
        _refuse_halves(root, region)
        return _find_in_root(root, paired, pages) if (root / "train").is_dir() else _halves_and_heldout(root, pages)
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
            heldout = two_folders(heldout_a, heldout_b, paired, pages, region)
        return two_folders(a, b, paired, pages, region), heldout
    choices = "--a DIR --b DIR, --ab DIR or --data ROOT" if paired else "--a DIR --b DIR or --data ROOT"
    actual = f" You gave: {', '.join('--' + name for name in sorted(folders))}." if folders else ""
    raise ConfigError(f"Give the folders of the images in one of these ways: {choices}.{actual}")


def _find_in_root(root: Path, paired: bool, pages: str, region: int = 0) -> tuple[Domains, Domains | None]:
    if not root.is_dir():
        refuse_url(root, "--data")
        raise DataError(f"There is no folder {root}.")
    if (root / "trainA").is_dir() and (root / "trainB").is_dir():
        pairs = [(root / f"{part}A", root / f"{part}B") for part in HELD_OUT]
        heldout = next(((a, b) for a, b in pairs if a.is_dir() and b.is_dir()), None)
        train = two_folders(root / "trainA", root / "trainB", paired, pages, region)
        return train, heldout and two_folders(*heldout, paired, pages, region)
    if paired and (root / "train").is_dir():
        _refuse_halves(root, region)
        return _halves_and_heldout(root / "train", pages)
    layouts = "trainA and trainB" + (", or train with side-by-side pairs" if paired else "")
    raise DataError(f"{root} does not have the standard layout: it must contain the folders {layouts}.")


def _refuse_halves(root: Path, region: int) -> None:
    if region:
        raise ConfigError(
            f"--region-size {region} is for the images of two folders, --a and --b, not for the side-by-side pairs of "
            f"{quote(root)}; split them, or leave it out."
        )


def _beside(folder: Path) -> Path | None:
    """Return the held-out folder that belongs to a folder called train, trainA or trainB, if there is one."""
    if folder.name not in ("train", "trainA", "trainB"):
        return None
    names = [folder.name.replace("train", part, 1) for part in HELD_OUT]
    return next((folder.parent / name for name in names if (folder.parent / name).is_dir()), None)


def _halves_and_heldout(folder: Path, pages: str) -> tuple[Domains, Domains | None]:
    heldout = _beside(folder)
    return halves_of(folder, pages), halves_of(heldout, pages) if heldout else None


def halves_of(folder: Path, pages: str = "images") -> Domains:
    """Open a folder of side-by-side pairs: the left halves are domain A, the right halves B.

    Raises:
        DataError: if images are missing or unreadable, or have an odd width.
    """
    headers = scan(folder, pages)
    if odd := [f"{quote(h.path.name)} ({h.width}x{h.height})" for h in headers if h.width % 2]:
        raise DataError(f"Side-by-side images must have an even width, to be split in half: {listed(odd)}.")
    return Domain.of("A", headers, "left"), Domain.of("B", list(headers), "right")


def two_folders(a: Path, b: Path, paired: bool, pages: str = "images", region: int = 0) -> Domains:
    """Open a folder for each domain; pairs are matched by name, and cut alike if `region` says so.

    Raises:
        DataError: if images are missing, unreadable, or do not fit together.
    """
    scans = [scan_large(folder) if region else scan(folder, pages) for folder in (a, b)]
    if not paired:
        first, second = (Found(chain(*patches_of(s, region)), s.passed) if region else s for s in scans)
        return Domain.of("A", first), Domain.of("B", second)
    sides = [_by_stem(folder, headers) for folder, headers in zip((a, b), scans, strict=True)]
    alone = [side[stem] for side, other in (sides, sides[::-1]) for stem in side if stem not in other]
    if alone:
        twins = {_fold(stem): header for stem, header in sides[1].items()}
        hints = [
            f" {quote(header.path)} and {quote(twins[_fold(stem)].path)} differ only in case, or in how letters are "
            "encoded; rename one of them."
            for stem, header in sides[0].items()
            if stem not in sides[1] and _fold(stem) in twins
        ]
        raise DataError(
            f"{counted(len(alone), 'image has', 'images have')} no partner of the same name in the other folder: "
            f"{listed(quote(header.path) for header in alone)}. Pairs are matched by file name without suffix; add "
            f"the missing partners, or remove these images.{''.join(hints[:1])}"
        )
    first, second = (Found((side[n] for n in sorted(sides[0])), s.passed) for side, s in zip(sides, scans, strict=True))
    if region:
        pair_up(first, second, True)  # or squares would not show the same
        cut = pairs_of(first, second, region)
        first, second = (Found(patches, s.passed) for patches, s in zip(cut, scans, strict=True))
    return pair_up(first, second, True)


def _by_stem(folder: Path, headers: Sequence[Header]) -> dict[str, Header]:
    """Return the images by their paths relative to the folder, without suffix."""
    by_stem: dict[str, Header] = {}
    for header in headers:
        name = header.path.relative_to(folder)  # which has no parts if the folder is an image of OME-Zarr itself
        stem = unicodedata.normalize("NFC", name.with_suffix("").as_posix() if name.parts else "")
        if (twin := by_stem.setdefault(stem, header)) is not header:
            raise DataError(
                f"{quote(twin.path)} and {quote(header.path)} differ only in the suffix, or in how accents are "
                "encoded; keep one of them."
            )
    return by_stem


def _fold(stem: str) -> str:
    """Return the name without differences that are hard or impossible to see."""
    return unicodedata.normalize("NFKC", stem).casefold()


def pair_up(a: Sequence[Header | Array], b: Sequence[Header | Array], paired: bool) -> Domains:
    """Build both domains, after checking that pairs match in number and size.

    Raises:
        DataError: if they do not match.
    """
    first, second = Domain.of("A", a), Domain.of("B", b)
    if paired:
        if len(a) != len(b):
            raise DataError(f"Pairs need equally many images in A and B, but there are {len(a)} and {len(b)}.")
        sizes = [(i, first.size(i), second.size(i)) for i in range(len(a))]
        unequal = [
            f"{first.name(i)} ({wa}x{ha} and {wb}x{hb})" for i, (ha, wa), (hb, wb) in sizes if (ha, wa) != (hb, wb)
        ]
        if unequal:
            raise DataError(f"{len(unequal)} pairs differ in size: {listed(unequal)}.")
    return first, second
