"""The images in a folder: which files they are, which others are beside them, and their headers."""

import os
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from img2img.data.images import SUFFIXES, read_header
from img2img.data.ome_metadata import FILES, is_zarr
from img2img.data.ome_zarr import ABOUT, images_in
from img2img.data.picture import Header
from img2img.data.remote import refuse_url
from img2img.errors import DataError, NoImagesError, counted, listed, quote
from img2img.runtime.files import json_object

# In a folder with this file of `sample`, these pictures are overviews, not samples.
SHEETS = {"samples.json": ("grid.png", "walk.png")}

MAX_SUFFIXES = 8  # of skipped files that a note names
MAX_VISITS = 100  # of one folder, through different links

Image = TypeVar("Image")


class Found(list[Image]):
    """The images of a folder, as paths or headers, and the suffixes of the files that were skipped, with their counts.

    A skipped file without a suffix, or with an odd one, counts as "".
    """

    def __init__(self, images: Iterable[Image], passed: Counter[str]) -> None:
        super().__init__(images)
        self.passed = passed


def find_images(folder: Path, others: Collection[str] = ()) -> Found[Path]:
    """List every image below `folder`, at any depth, sorted by name; and the files with the suffixes `others`.

    A folder that is an image of OME-Zarr counts as a file, and a plate as one for each field of its wells. Hidden files
    and folders are skipped, as are run folders, whose pictures are results, and the overview sheets that `sample`
    writes beside its images. Symlinked folders are followed, except into a folder that contains the link.
    Everything else with the suffix of an image is listed, broken links included: reading one reports what is wrong.

    Raises:
        DataError: if the folder is missing or cannot be listed.
        NoImagesError: if it contains no images.
    """
    if not folder.is_dir():
        refuse_url(folder, "This command")
        raise DataError(
            f"{quote(folder)} is not a folder." if folder.exists() else f"There is no folder {quote(folder)}."
        )
    found, visits = Found[Path]((), Counter()), Counter[tuple[int, int]]()
    queue: list[tuple[Path, frozenset[tuple[int, int]] | None]] = [(folder, frozenset())]
    try:
        while queue:
            path, parents = queue.pop()
            if parents is None:
                found.append(path)
                continue
            status = path.stat()
            identity = status.st_dev, status.st_ino
            if identity in parents:
                continue
            visits[identity] += 1
            if visits[identity] > MAX_VISITS:
                raise DataError(
                    f"Links below {quote(folder)} lead to {quote(path)} in over {MAX_VISITS} ways; remove some."
                )
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda e: e.name, reverse=True)
            if in_zarr := any(e.name in FILES for e in entries):
                images = images_in(path)
                if images is not None:
                    queue += [(image, None) for image in reversed(images)]
                    found.passed[".zarr"] += not images
                    continue
            entries = [e for e in entries if e.name[0] != "." and not (in_zarr and e.name in (ABOUT, *FILES))]
            if {"config.json", "log.jsonl"} <= {e.name for e in entries} and is_run(path):
                if path == folder:
                    raise DataError(f"{quote(folder)} is a run folder; give a folder of images.")
                continue
            sheets = {name for e in entries if e.name in SHEETS for name in (e.name, *SHEETS[e.name])}
            for entry in entries:
                if entry.name in sheets:
                    continue
                inside = path / entry.name
                suffix = inside.suffix.lower()
                if entry.is_dir():
                    queue.append((inside, parents | {identity}))
                elif suffix in SUFFIXES or suffix in others:
                    queue.append((inside, None))
                else:
                    found.passed[kind_of(suffix)] += 1
    except OSError as error:
        raise DataError(f"{quote(Path(error.filename or folder))} cannot be listed: {error.strerror}.") from error
    if not found:
        raise no_images(folder, found.passed)
    return found


def no_images(folder: Path | str, passed: Counter[str]) -> NoImagesError:
    """Return the error of a folder that holds other files alone, which were counted by suffix."""
    beside = "".join(f" {sentence}" for sentence in skipped_note(passed))
    return NoImagesError(
        f"{quote(folder)} contains no images. img2img reads {', '.join(s[1:] for s in SUFFIXES)}.{beside}"
    )


def kind_of(suffix: str) -> str:
    """Return the suffix of a skipped file, under which it is counted; "" for an odd one."""
    return suffix if suffix[1:].isalnum() and len(suffix) < 10 else ""


def images_at(place: Path, others: Collection[str] = ()) -> tuple[Path, Found[Path]]:
    """Return the images that a file, an OME-Zarr image or plate, or a folder stands for, and the folder they lie in.

    The suffixes `others` are those of `find_images`.

    Raises:
        DataError: as `find_images` does.
    """
    if place.is_file():
        return place.parent, Found([place], Counter())
    return place.parent if is_zarr(place) else place, find_images(place, others)


def is_run(folder: Path) -> bool:
    """Return whether `folder` holds the config.json of a training run of img2img."""
    try:
        record = json_object((folder / "config.json").read_bytes())
    except OSError:
        return False
    return all(isinstance(record.get(name), dict) for name in ("options", "environment")) and (
        "img2img" in record["environment"]
    )


def skipped_note(suffixes: Counter[str]) -> tuple[str, ...]:
    """Return a note that counts the skipped files by kind, as a tuple of one sentence; empty if there were none."""
    count = suffixes.total()
    if not count:
        return ()
    ranked = sorted(suffixes.items(), key=lambda entry: (-entry[1], not entry[0], entry[0]))
    kinds = [f"{n} {suffix or 'with other names'}" for suffix, n in ranked]
    more = f", and {len(kinds) - MAX_SUFFIXES} other kinds" if len(kinds) > MAX_SUFFIXES else ""
    files = counted(count, "file was", "files were")
    return (f"{files} skipped: {', '.join(kinds[:MAX_SUFFIXES])}{more}.",)


def scan(folder: Path, pages: str = "images") -> Found[Header]:
    """Read the headers of all images below `folder`; unreadable files are reported together. See `readable`."""

    def header(path: Path) -> Header | DataError:
        try:
            return readable(path, pages)
        except DataError as error:
            return error

    paths = find_images(folder)
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(header, paths))
    if bad := [str(h) for h in headers if isinstance(h, DataError)]:
        raise DataError(f"{len(bad)} of the images in {quote(folder)} cannot be used: {listed(bad)}")
    return Found((h for h in headers if isinstance(h, Header)), paths.passed)


def readable(path: Path, pages: str = "images") -> Header:
    """Return the header of a file that has to be a single image; with `pages="channels"` all its pages are one.

    Raises:
        DataError: if it is not a readable image, or has several pages.
    """
    header = read_header(path, pages)
    if header.pages > 1:
        raise DataError(
            f"{quote(path)} has {header.pages} pages, and a single image is needed; use --pages channels "
            "(pages='channels') if they are its channels, otherwise save each page as a separate file"
        )
    return header
