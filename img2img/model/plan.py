"""Which files of a folder are translated, and where their results go."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from img2img.data.images import SUFFIXES, find_images
from img2img.errors import ConfigError, choose, quote


@dataclass(frozen=True)
class Plan:
    """The files to translate, and the paths of their results: the tree of a folder is kept."""

    sources: list[Path]  # the files
    base: Path  # the folder that corresponds to `out`
    out: Path
    suffix: str | None  # of the results, if they are to have another format
    passed: Counter[str] = field(default_factory=Counter)  # the number of files of other kinds, by suffix

    @classmethod
    def make(cls, source: Path, out: Path, format: str | None = None) -> "Plan":
        """Find the files.

        Raises:
            ConfigError: if results would overwrite the originals, or the format is unknown.
            DataError: if there is nothing to translate.
        """
        formats = {suffix[1:]: suffix for suffix in SUFFIXES}
        suffix = None if format is None else choose("format", format.lower().removeprefix("."), formats)
        if (out.exists() or out.is_symlink()) and not out.is_dir():
            what = "is a file" if out.exists() else "is a broken link"
            raise ConfigError(f"--out {quote(out)} {what}; give a folder.")
        inside, root = out.resolve(), source.resolve()
        sources, base, passed = [source], source.parent, Counter[str]()
        if not source.is_file():
            sources, base = find_images(source), source
            passed = sources.passed
        if inside != root and inside.is_relative_to(root):  # results below the source are not translated again
            sources = [path for path in sources if not path.resolve().is_relative_to(inside)]
        plan = cls(sources, base, out, suffix, passed)
        if inside == base.resolve():
            targets = ((path, plan.target(path)) for path in sources)
            clash = next((path for path, target in targets if target.exists() and target.samefile(path)), None)
            if clash:
                raise ConfigError(f"The result would overwrite the original {quote(clash)}; choose another --out.")
        return plan

    def target(self, source: Path) -> Path:
        path = self.out / source.relative_to(self.base)
        return path.with_suffix(self.suffix) if self.suffix else path
