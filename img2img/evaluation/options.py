"""The options of evaluating, each declared once; imports nothing heavy, so that help is fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from img2img.data.options import PAGES
from img2img.data.shards import Shard
from img2img.errors import ConfigError
from img2img.options.declared import Choice, Options, Within

Show = Annotated[int, "Held-out images to show side by side.", Within(1, 100)]


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """The images to evaluate on, and how they are cut."""

    a: Annotated[str | None, "Held-out folder of domain A."] = None
    b: Annotated[str | None, "Held-out folder of domain B; paired images have the names of those in A."] = None
    ab: Annotated[str | None, "Held-out folder of side-by-side pairs: left half A, right half B."] = None
    real: Annotated[str | None, "Without a model: folder of real images, the reference."] = None
    fake: Annotated[str | None, "Without a model: folder of generated images, which are judged."] = None
    paired: Annotated[bool, "A and B, or real and fake, show the same scenes under the same names."] = False
    size: Annotated[int, "Resize all images to this square first.", Within(16, 2**16, special=(0, "as they are"))] = 0
    limit: Annotated[
        int, "Use only this many images of each side, evenly chosen.", Within(1, 10**9, special=(0, "all"))
    ] = 0
    pages: Annotated[
        str | None,
        "What the pages of a file are, images or channels of one; by default as in training.",
        Choice(tuple(PAGES)),
    ] = None
    judge: Annotated[
        str | None, "Folder with a sub-folder of real images per class; trains a classifier that judges results."
    ] = None
    cache: Annotated[
        str | None,
        "Folder that keeps the features of all images, so that they are computed only once; not with the encoder.",
    ] = None
    shard: Annotated[
        str | None,
        "With --cache, without a model: only compute and keep the features of one of several parts of the images, e.g. "
        "2/8; which, follows from names alone, so machines can share the work.",
    ] = None
    labels: Annotated[
        str | None,
        "With --judge: CSV file with the columns file and label, the classes of the inputs, to measure whether results "
        "keep them; by default the names of sub-folders of the inputs are their classes.",
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and self.judge is None:
            raise ConfigError("--labels needs a judge that classifies the results: add --judge DIR.")
        if self.shard is not None and self.cache is None:
            raise ConfigError("--shard keeps features for a later call, which needs to find them: add --cache DIR.")
        Shard.parse(self.shard)

    @property
    def judging(self) -> dict[str, Any]:
        """The files of the judge and the folder of features, as arguments of `Evaluator`."""
        files = {name: Path(x) if (x := getattr(self, name)) else None for name in ("judge", "labels", "cache")}
        return {**files, "pages": self.pages or "images"}

    @property
    def cut_in_words(self) -> str:
        return f"{self.size}, resized" if self.size else "as they are"
