"""The options of evaluating, each declared once; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from img2img.errors import ConfigError
from img2img.options.declared import Options, Within

Show = Annotated[int, "Held-out images to show side by side.", Within(1, 100)]


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What is evaluated on what, and how images are cut."""

    a: Annotated[str | None, "Held-out folder of domain A."] = None
    b: Annotated[str | None, "Held-out folder of domain B; for pairs, partners have the names of those in A."] = None
    ab: Annotated[str | None, "Held-out folder of side-by-side pairs: left half A, right half B."] = None
    real: Annotated[str | None, "Without a model: folder of real images, by which those of --fake are judged."] = None
    fake: Annotated[str | None, "Without a model: folder of the images that are judged by those of --real."] = None
    paired: Annotated[bool, "A and B, or real and fake, show the same things under the same names."] = False
    size: Annotated[int, "Resize all images to this square first.", Within(16, 2**16, special=(0, "as they are"))] = 0
    limit: Annotated[int, "Use this many images of each side, evenly chosen.", Within(1, 10**9, special=(0, "all"))] = 0
    judge: Annotated[str | None, "Folder with a folder of real images per class: a judge that names results."] = None
    labels: Annotated[
        str | None,
        "With --judge: CSV file with the columns file and label, the classes of the inputs, to ask whether results "
        "keep them; without it, inputs in a folder per class have the names of these.",
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and self.judge is None:
            raise ConfigError("--labels are what the judge has to find again: give --judge DIR as well.")

    @property
    def judging(self) -> dict[str, Path | None]:
        """The files of the judge, as an `Evaluator` takes them."""
        return {name: Path(x) if (x := getattr(self, name)) else None for name in ("judge", "labels")}
