"""The options of evaluating, each declared once; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from typing import Annotated

from img2img.options import Options, Within

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
