"""The type of every network whose features are compared: a function of images (N, C, H, W) in [-1, 1]."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

ENCODER = "encoder"
Extract = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # features (N, D); logits (N, classes), if there are any


class Network(NamedTuple):
    """A network of features.

    Attributes:
        suffix: of the names of its metrics: "" for Inception, which they are named after, else "[name]".
        extract: returns features (N, D), and logits (N, classes) or None for a network without classes.
        classes: whether it has classes.
        note: a caution on everything that is measured with it.
        file: the file that its weights come from; None if it is fitted.
    """

    suffix: str
    extract: Extract
    classes: bool = False
    note: str = ""
    file: Path | None = None
