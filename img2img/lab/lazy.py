"""A sequence of images that need not fit into memory."""

from collections.abc import Callable, Sequence
from typing import Any

from img2img.data.picture import Array


class LazyImages(Sequence[Array]):
    """A sequence of `length` images, of which `function(i)` makes one whenever it is asked for."""

    def __init__(self, length: int, function: Callable[[int], Array]) -> None:
        self.length, self.function = length, function

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: Any) -> Any:
        chosen = range(self.length)[i]
        return list(map(self.function, chosen)) if isinstance(chosen, range) else self.function(chosen)
