"""The arguments of the equalizer: their types and limits. Imports nothing heavy, so that `--help` stays quick."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from img2img.data.options import MAX_PIXELS
from img2img.options.declared import Choice, Within

MAX_MEGAPIXELS = MAX_PIXELS / 1e6
ORDER = "NCYX"

Model = Annotated[str, Choice(table="img2img.lab.networks.models.MODELS")]
Unseen = Annotated[str, Choice(("error", "passthrough"))]
Pages = Annotated[str, Choice(("error", "channels"))]
Metadata = Annotated[str, Choice(("error", "ignore"))]
Missing = Annotated[str, Choice(("error", "skip"))]
Nan = Annotated[str, Choice(("error", "mask"))]
Device = Annotated[str, Choice(("auto", "cpu", "cuda", "mps"), complete=False)]
MaxChange = Annotated[float, Within(0, 1, above=True)]
MinImages = Annotated[int, Within(2, 10**6)]
MaxImages = Annotated[int, Within(2, 10**9)]
Seed = Annotated[int, Within(0, 2**32 - 1)]
Memory = Annotated[float, Within(0, 10**6, above=True)]
MaxMegapixels = Annotated[float, Within(0, 10**9, above=True)]
Jobs = Annotated[int, Within(1, 1024, special=(-1, "one for each core"))]


@dataclass(frozen=True)
class Parameters:
    """The arguments that a `BatchEqualizer` was made with; its docstring explains them."""

    model: str
    target: str
    axes: str
    channels: Sequence[str] | None
    max_change: float
    unseen: str
    out_dtype: str
    min_images: int
    max_images: int
    allow_confounded: bool
    training: Mapping[str, Any] | None
    run: str | Path | None
    random_state: int
    device: str
    n_jobs: int
    allow_single_group: bool = False  # equalizers before 0.2 lack it, and the next
    plate_position: bool = False
    memory: float = 2.0
