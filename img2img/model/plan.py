"""Which files of a folder or a list are translated, and where their results go."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from img2img.data.folders import images_at
from img2img.data.images import FORMATS, READ_ONLY, SUFFIXES
from img2img.data.ome_zarr import copy_groups, is_image, result_name
from img2img.data.regions import SLIDES, WRITTEN
from img2img.data.shards import WHOLE, Shard, files_below, read_list
from img2img.errors import ConfigError, choose, quote

ZARR = ".zarr"
OME = {".tif": ".ome.tif", ".tiff": ".ome.tiff"}  # the names of TIFFs that keep what a microscope states


class Plan:
    """The files to translate, and the paths of their results in `out`: the tree of a folder is kept.

    They are those below `source`, or of the list `names` of files below it, or `source` itself; of these, those of one
    shard.

    Attributes:
        sources: the files, of `shard` alone.
        passed: the number of files of other kinds, by suffix.

    Raises:
        ConfigError: if results would overwrite the originals, or the format is unknown.
        DataError: if there is nothing to translate.
    """

    def __init__(
        self, source: Path, out: Path, format: str | None, names: Path | None = None, shard: Shard = WHOLE
    ) -> None:
        self.suffix = suffix_of(format)
        if (out.exists() or out.is_symlink()) and not out.is_dir():
            what = "is a file" if out.exists() else "is a broken link"
            raise ConfigError(f"--out {quote(out)} {what}; give a folder.")
        if names is None:
            self.base, found = images_at(source, SLIDES)
            self.sources, self.passed = list(found), found.passed
        else:
            self.base, self.sources, self.passed = source, files_below(source, read_list(names)), Counter[str]()
        self.out = out
        inside, root = out.resolve(), source.resolve()
        if inside != root and inside.is_relative_to(root):  # results below the source are not translated again
            self.sources = [path for path in self.sources if not path.resolve().is_relative_to(inside)]
        self.sources = [path for path in self.sources if shard.holds(path.relative_to(self.base))]
        if inside == self.base.resolve():
            targets = ((path, self.target(path)) for path in self.sources)
            clash = next((path for path, target in targets if target.exists() and target.samefile(path)), None)
            if clash:
                raise ConfigError(f"The result would overwrite the original {quote(clash)}; choose another --out.")

    def target(self, source: Path) -> Path:
        name, suffix, end = source.relative_to(self.base), self.suffix, source.suffix.lower()
        if (end == ZARR or end not in SUFFIXES) and source.is_dir():
            if suffix is None or suffix == ZARR:
                return self.out / name
            return self.out / result_name(PurePosixPath(name), OME.get(suffix, suffix))
        suffix = suffix or READ_ONLY.get(end, ".tif" if renamed(source) else None)
        return self.out / (name.with_suffix(suffix) if suffix else name)

    def begun(self) -> bool:
        """Return whether one of the results exists."""
        return any(self.target(path).exists() for path in self.sources)

    def results(self) -> Iterator[Path]:
        """Yield the images below `out`."""
        for folder, inside, names in os.walk(self.out):
            if is_image(Path(folder)):
                yield Path(folder)
                inside.clear()
                continue
            yield from (Path(folder, x) for x in names if x[0] != "." and Path(x).suffix.lower() in FORMATS)

    def others(self, in_parts: bool) -> tuple[int, Path | None]:
        """Return the number of images in `out` that this job does not replace, and one of them.

        One part of a job (`in_parts`) replaces none for good.
        """
        targets, originals = {self.target(path) for path in self.sources}, set(self.sources)
        results = (path for path in self.results() if path not in originals)
        kept = [path for path in results if in_parts or path not in targets]
        return len(kept), next(iter(kept), None)

    def copy_groups(self, source: Path) -> None:
        """Copy what the plate, the well and other groups of OME-Zarr that an image lies in say of it."""
        name = source.relative_to(self.base)
        if source.is_dir() and self.target(source) == self.out / name:
            copy_groups(self.base, name, self.out)


def suffix_of(format: str | None) -> str | None:
    """Return the suffix of a format; None for that of each file.

    Raises:
        ConfigError: if the format is unknown.
    """
    formats = {suffix[1:]: suffix for suffix in FORMATS}
    return None if format is None else choose("format", format.lower().removeprefix("."), formats)


def renamed(source: Path) -> bool:
    """Return whether the result of a slide is a TIFF of another suffix."""
    return source.suffix.lower() in SLIDES and source.suffix.lower() not in WRITTEN
