"""A sequence of images that need not fit into memory."""

from collections.abc import Callable, Sequence
from threading import Lock, local
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


class KeptImages(Sequence[Array]):
    """A sequence of images that are kept once they are read, up to `memory` bytes; the others are read again.

    Every thread has at hand the last image that it read.
    """

    def __init__(self, images: Sequence[Array], memory: float) -> None:
        self.images, self.left, self.kept = images, memory, dict[int, Array]()
        self.lock, self.last = Lock(), local()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        if i in self.kept:
            return self.kept[i]
        number, image = getattr(self.last, "image", (None, None))
        if image is None or number != i:
            image = self.images[i]
            self.last.image = i, image
            with self.lock:
                if i not in self.kept and image.nbytes <= self.left:
                    self.left -= image.nbytes
                    self.kept[i] = image
        return image
