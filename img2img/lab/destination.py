"""Where the results of a table go: under the names of its files, in another folder, and never onto an original."""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from img2img.data.images import FORMATS, Picture, remove_stale, write_image
from img2img.data.picture import Array, quote
from img2img.errors import ConfigError, DataError
from img2img.lab.folders import RESULTS
from img2img.lab.tables import Manifest

LOSSY = tuple(suffix for suffix, known in FORMATS.items() if known.kind in ("jpeg", "webp"))


class Destination:
    """A folder for the results of a table; whether they can go there is known before anything is written.

    Attributes:
        manifest: the table.
        folder: of the results.
        targets: the results' files of every row; names relative to the table's root stay as they are.

    Raises:
        ConfigError: if a result would overwrite an original or the table, also by way of a link.
        DataError: if two have one name, a file does not lie below the root, or its format would lose something.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        _real_folder.cache_clear()
        self.manifest, self.folder = manifest, folder
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{quote(folder)} is a file; give a folder for the results.")
        if os.path.realpath(folder) == os.path.realpath(manifest.root):
            raise ConfigError(f"{quote(folder)} is the folder of the originals; give another for the results.")
        if manifest.table is not None and _real(folder / RESULTS) == _real(manifest.table):
            raise ConfigError(f"The results would overwrite the table {quote(manifest.table)}; give another folder.")
        self.targets = [tuple(folder / _name(path, manifest.root) for path in row) for row in manifest.files]
        self._check_targets()

    def _check_targets(self) -> None:
        originals = {_real(path): path for path in self.manifest.originals}
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
                        f"{quote(seen[real])} and {quote(path)} have one result, {quote(target)}; list each file once."
                    )
                seen[real] = path

    def holds(self, i: int) -> bool:
        """Whether every result of row `i` is there."""
        return all(path.is_file() for path in self.targets[i])

    def refuse_foreign(self) -> None:
        """Raises ConfigError if a file has the name of a result, where no result has been written yet."""
        if found := next((path for row in self.targets for path in row if path.exists()), None):
            raise ConfigError(
                f"{quote(found)} is there already, and no {RESULTS} there lists it; give another folder, or overwrite "
                "it (--overwrite)."
            )

    def remove_stale(self) -> None:
        """Removes what killed processes left half written among the results."""
        for folder in {path.parent for row in self.targets for path in row} | {self.folder}:
            remove_stale(folder)

    def write(self, i: int, image: Array, pictures: list[Picture] | None = None) -> None:
        """Writes image `i` (C, H, W) as the files that it came from, with their metadata.

        Args:
            i: the row.
            image: its result.
            pictures: what the row's files held, if they have been read.

        Raises:
            DataError: if it is of another shape, or a format cannot hold it.
        """
        pictures = self.manifest.pictures(i) if pictures is None else pictures
        counts = [picture.array.shape[2] for picture in pictures]
        shape = (sum(counts), *pictures[0].array.shape[:2])
        if image.shape != shape:
            raise DataError(
                f"{quote(self.manifest.files[i][0])}: the result has the shape {image.shape}, and the image {shape}; "
                "give one of the same shape."
            )
        parts = np.split(image, np.cumsum(counts)[:-1])
        for path, part, picture in zip(self.targets[i], parts, pictures, strict=True):
            write_image(path, replace(picture, array=np.ascontiguousarray(part.transpose(1, 2, 0))))


def _name(path: Path, root: Path) -> str:
    """The file's name relative to the root."""
    suffix = path.suffix.lower()
    if suffix in LOSSY or suffix not in FORMATS:
        fault = "is lossy" if suffix in LOSSY else "is not written by img2img"
        raise DataError(
            f"{quote(path)}: the format {suffix or 'without a suffix'} {fault}, so that the result would not be "
            "what was computed; convert the originals to TIFF or PNG first."
        )
    file, above = Path(os.path.normpath(path.absolute())), Path(os.path.normpath(root.absolute()))
    if not file.is_relative_to(above):
        file, above = Path(_real_folder(path.parent), path.name), Path(os.path.realpath(root))
    if file.is_relative_to(above):
        return file.relative_to(above).as_posix()
    raise DataError(
        f"{quote(path)} does not lie below {quote(root)}, so its result would not lie in the folder of "
        "results; give a root that holds every file."
    )


@lru_cache(maxsize=4096)
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


def _real(path: Path) -> str:
    """Where a file is, or would be, whatever links lead there."""
    return os.path.realpath(path) if path.is_symlink() else str(Path(_real_folder(path.parent), path.name))
