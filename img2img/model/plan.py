"""Which files of a folder or a list are translated, and where their results go."""

from collections import Counter
from pathlib import Path

from img2img.data.folders import find_images
from img2img.data.images import SUFFIXES
from img2img.data.shards import WHOLE, Shard, files_below, read_list
from img2img.errors import ConfigError, choose, quote


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
        formats = {suffix[1:]: suffix for suffix in SUFFIXES}
        self.suffix = None if format is None else choose("format", format.lower().removeprefix("."), formats)
        if (out.exists() or out.is_symlink()) and not out.is_dir():
            what = "is a file" if out.exists() else "is a broken link"
            raise ConfigError(f"--out {quote(out)} {what}; give a folder.")
        self.out, self.base, self.sources, self.passed = out, source.parent, [source], Counter[str]()
        if names is not None:
            self.base, self.sources = source, files_below(source, read_list(names))
        elif not source.is_file():
            found = find_images(source)
            self.base, self.sources, self.passed = source, found, found.passed
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
        path = self.out / source.relative_to(self.base)
        return path.with_suffix(self.suffix) if self.suffix else path
