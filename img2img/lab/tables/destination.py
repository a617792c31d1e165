"""The destination of a table's results: the names of its files, in another folder, and never onto an original."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from img2img.data.images import FORMATS, READ_ONLY, SUFFIXES, write_image
from img2img.data.ome_metadata import is_zarr
from img2img.data.ome_zarr import copy_groups, result_name
from img2img.data.outbox import fetch, retold, standing_for
from img2img.data.picture import Array, Picture
from img2img.data.regions import SLIDES, WRITTEN
from img2img.data.remote import Remote
from img2img.errors import ConfigError, DataError, is_url, quote
from img2img.lab.tables.folders import RESULTS, STORE
from img2img.lab.tables.manifest import Manifest
from img2img.model.record import RECORD
from img2img.runtime.files import remove_stale

LOSSY = tuple(suffix for suffix, known in FORMATS.items() if known.kind in ("jpeg", "webp"))


class Destination:
    """A folder for the results of a table, checked before anything is written.

    Attributes:
        manifest: the table.
        folder: the folder of the results; it stands for `place`, if that is given.
        place: where in a store the results go.
        targets: the result files of every row; names relative to the table's root are kept.

    Raises:
        ConfigError: if a result would overwrite an original or the table, even through a link.
        DataError: if two results have the same name, a file does not lie below the root, or its format is lossy.
    """

    def __init__(self, manifest: Manifest, folder: Path, place: Remote | None = None) -> None:
        _real_folder.cache_clear()
        self.manifest, self.folder, self.place = manifest, folder, place
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{quote(folder)} is a file; give a folder for the results.")
        if os.path.realpath(folder) == os.path.realpath(manifest.root):
            raise ConfigError(f"{quote(folder)} is the folder of the originals; give another for the results.")
        if table := next((path for path in manifest.tables if _real(folder / RESULTS) == _real(path)), None):
            raise ConfigError(f"The results would overwrite the table {quote(table)}; give another folder.")
        in_files = place is not None  # a store takes files, not folders
        self.targets = [tuple(folder / _name(path, manifest.root, in_files) for path in row) for row in manifest.files]
        self._check_targets()

    def _check_targets(self) -> None:
        originals = {_real(path): path for path in self.manifest.originals}
        if self.place is not None:
            where = Path("{}:/{}".format(*self.place.identity))
            if is_url(self.manifest.root) and where == self.manifest.root:
                raise ConfigError(f"{quote(where)} is the folder of the originals; give another for the results.")
            inside = (path for path in self.manifest.originals if path.is_relative_to(where))
            originals = {_real(self.folder / path.relative_to(where)): path for path in inside}
        seen: dict[str, Path] = {}
        for files, targets in zip(self.manifest.files, self.targets, strict=True):
            for path, target in zip(files, targets, strict=True):
                real = _real(target)
                if real in originals or (target.exists() and path.exists() and target.samefile(path)):
                    raise ConfigError(
                        f"The result {quote(target)} would overwrite the original "
                        f"{quote(originals.get(real, path))}; give another folder."
                    )
                if real in seen:
                    raise DataError(
                        f"{quote(seen[real])} and {quote(path)} share the result {quote(target)}; list each file once."
                    )
                seen[real] = path

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Give a copy in another process a folder of its own that stands for the place in a store."""
        if self.place is None:
            yield
            return
        with standing_for(self.place) as self.folder:
            fetch(self.place, RECORD, self.folder)
            yield

    def holds(self, i: int) -> bool:
        """Return whether every result of row `i` exists."""
        if self.place is not None:
            return all(self.place.size(self.name(path)) is not None for path in self.targets[i])
        return all(path.exists() for path in self.targets[i])

    def name(self, target: Path) -> str:
        """Return the name of a result in the folder."""
        return target.relative_to(self.folder).as_posix()

    def retold(self, text: str) -> str:
        """Return a sentence about results as one about where they are meant to be."""
        return text if self.place is None else retold(text, self.folder, self.place)

    def refuse_foreign(self) -> None:
        """Raise ConfigError if a file has the name of a result although none has been written yet."""
        there = set() if self.place is None else set(self.place.all_names())
        targets = (path for row in self.targets for path in row)
        if found := next((path for path in targets if path.exists() or self.name(path) in there), None):
            raise ConfigError(
                f"{quote(found)} already exists and is listed in no {RESULTS} there; give another folder, or overwrite "
                "it (--overwrite)."
            )

    def remove_stale(self) -> None:
        """Remove half-written files that killed processes left among the results."""
        for folder in {path.parent for row in self.targets for path in row} | {self.folder}:
            remove_stale(folder)

    def write(self, i: int, image: Array, pictures: list[Picture]) -> None:
        """Write image `i` (C, H, W) as the files it came from, whose contents are `pictures`, with their metadata.

        Raises:
            DataError: if the shape differs, or a format cannot hold the result.
        """
        counts = [picture.array.shape[2] for picture in pictures]
        shape = (sum(counts), *pictures[0].array.shape[:2])
        if image.shape != shape:
            raise DataError(
                f"{quote(self.manifest.files[i][0])}: the result has the shape {image.shape}, but the image {shape}; "
                "they must be the same."
            )
        parts = np.split(image, np.cumsum(counts)[:-1])
        self.copy_groups(i)
        for path, part, picture in zip(self.targets[i], parts, pictures, strict=True):
            write_image(path, replace(picture, array=np.ascontiguousarray(part.transpose(1, 2, 0))))
        self._send(self.targets[i])

    def copy_groups(self, i: int) -> None:
        """Copy what the plates, wells and other groups of OME-Zarr that row `i` lies in say of it."""
        root = self.manifest.root
        for path, target in zip(self.manifest.files[i], self.targets[i], strict=True):
            if path.is_dir() and self.name(target) == _below(path, root):
                copy_groups(root, target.relative_to(self.folder), self.folder)

    def _send(self, targets: tuple[Path, ...]) -> None:
        """Send results that go to a store."""
        if self.place is not None:
            try:
                for path in targets:
                    self.place.send(path, self.name(path))
            finally:
                for path in targets:
                    path.unlink()


def _name(path: Path, root: Path, in_files: bool) -> str:
    """Return the name of a file's result relative to the root: its own, unless it is in a format that is only read.

    With `in_files`, the result for an image of OME-Zarr is a TIFF.
    """
    suffix = path.suffix.lower()
    in_store = any(part.lower().endswith(STORE) for part in path.parts) or is_zarr(path)
    if not in_store and suffix not in SLIDES and (suffix in LOSSY or suffix not in SUFFIXES):
        fault = "is lossy" if suffix in LOSSY else "is not written by img2img"
        raise DataError(
            f"{quote(path)}: the format {suffix or 'without a suffix'} {fault}, so the result would differ from what "
            "was computed; convert the originals to TIFF or PNG first."
        )
    if (below := _below(path, root)) is None:
        raise DataError(
            f"{quote(path)} does not lie below {quote(root)}, so its result would lie outside the folder of "
            "results; give a root that holds every file."
        )
    name = PurePosixPath(below)
    if in_store:
        return result_name(name) if in_files else below
    kept = path.suffix if suffix in WRITTEN or suffix not in SLIDES else ".tif"
    return str(name.with_suffix(READ_ONLY.get(suffix, kept)))


def _below(path: Path, root: Path) -> str | None:
    """Return the name of a file relative to the root, even through links; None if it lies elsewhere."""
    file, above = Path(os.path.normpath(path.absolute())), Path(os.path.normpath(root.absolute()))
    if not file.is_relative_to(above):
        file, above = Path(_real_folder(path.parent), path.name), Path(os.path.realpath(root))
    return file.relative_to(above).as_posix() if file.is_relative_to(above) else None


@lru_cache(maxsize=4096)
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


def _real(path: Path) -> str:
    """Return where a file is, or would be, with all links resolved."""
    return os.path.realpath(path) if path.is_symlink() else str(Path(_real_folder(path.parent), path.name))
