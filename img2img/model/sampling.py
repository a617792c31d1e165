"""A trained model as a source of images: from noise to arrays."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from img2img.core.method import Noise, truncated
from img2img.data.picture import Array
from img2img.data.vectors import vectors_of
from img2img.errors import ConfigError, ModelFileError
from img2img.model.model import Model, noise_of
from img2img.model.options import SampleOptions
from img2img.runtime.device import PRECISIONS, torch_threads


class Sampler(Model):
    """A model that generates images from noise. Image i of a seed is always the same, whatever else is drawn.

    A model with classes draws image i of class i modulo their number, unless a label is chosen; one that was trained
    under vectors takes them in the same way, once they are given to `under`.

    Attributes:
        truncation: where noise is cut; 0 for nowhere.
        vectors: what images are drawn under, (rows, length); None without.
        threads: of PyTorch on the CPU; None for its own number.
    """

    def __init__(
        self, path: str | Path, device: str = "auto", precision: str = "auto", label: str | None = None
    ) -> None:
        super().__init__(path, device, precision, None, label)
        if self.spec().takes_images:
            raise ModelFileError(f"{self.path} is a {self.card.method} model, which translates; use img2img translate.")
        self.truncation = 0.0
        self.vectors: Tensor | None = None
        self.threads: int | None = None
        self._open()

    def _open(self) -> None:
        use = self.use()
        self._noise = next(x for x in use.inputs if isinstance(x, Noise))
        self._network = use.network
        self.runtime.place(self._network)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_network": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open()

    def __repr__(self) -> str:
        spec, length = self.spec(), self.card.vector
        under = [f"vectors of {length}"] if length else []
        return self._in_words(f"{spec.scale_out.dtype} x{spec.out_channels}", *under)

    def __call__(
        self,
        n: int,
        seed: int = 0,
        *,
        label: str | None = None,
        start: int = 0,
        batch_size: int = 64,
        truncation: float | None = None,
    ) -> Array:
        """Draw images number `start` to `start` + `n` of a seed.

        Args:
            n: how many.
            seed: of the noise.
            label: the class, one of `classes`, for a model that takes one; by default all in turn.
            start: number of the first one.
            batch_size: images drawn at once.
            truncation: cut normal noise at plus and minus this; 0 does not, and by default as in `self.truncation`.

        Returns:
            (n, H, W, C), in the type and range of the training images.

        Raises:
            ConfigError: if a number is out of range, or the model has no such class.
        """
        if n < 1 or batch_size < 1 or start < 0 or seed < 0:
            raise ConfigError(
                f"Images to draw and a batch are at least 1, start and seed at least 0; not {n}, {batch_size}, {start} "
                f"and {seed}."
            )
        numbers = list(range(start, start + n))
        model = self.towards(label=label).cut(self.truncation if truncation is None else truncation)
        return np.stack(list(model._draw(numbers, seed, batch_size)))

    def under(self, vectors: Array | str | Path) -> Self:
        """Return the same model, which draws image i under row i modulo their number, of an array or a file.

        Raises:
            ConfigError: if the model takes no vectors.
            DataError: if they are not such vectors, or of another length.
        """
        if not self.card.vector:
            raise ConfigError(f"This {self.card.method} model takes no vectors; leave them out.")
        other = copy.copy(self)
        other.vectors = torch.from_numpy(vectors_of(vectors, self.card.vector))
        return other

    @property
    def turn(self) -> Sequence[str | int]:
        """The classes, or the numbers of the vectors, that images take in turn; empty if all are drawn alike."""
        if self.vectors is not None:
            return range(len(self.vectors))
        return self.classes if self.spec().labelled and self.label is None else ()

    def noise(self, number: int, seed: int = 0) -> Tensor:
        """Return the noise (1, latent) of image `number` of a seed."""
        z = noise_of(self._noise, number, seed)
        return truncated(z, self.truncation) if self.truncation else z

    def cut(self, truncation: float) -> Self:
        """Return the same model, whose noise is cut at plus and minus `truncation`; 0 for none.

        Raises:
            ConfigError: if its noise is not normal.
        """
        if truncation and self._noise.kind != "normal":
            raise ConfigError(f"--truncation is for normal noise, and this model draws {self._noise.kind} noise.")
        other = copy.copy(self)
        other.truncation = truncation
        return other

    def by_way_of(self, precision: str, threads: int | None) -> Self:
        """Return the same model, computed differently."""
        other = copy.copy(self)
        other.runtime, other.threads = replace(self.runtime, dtype=PRECISIONS[precision] or torch.float32), threads
        if other.runtime != self.runtime:
            other._uses = {}
            other._open()
        return other

    def way(self) -> dict[str, Any]:
        """Return what an image depends on besides model, noise, condition and batch, for the record."""
        threads = (self.threads or torch.get_num_threads()) if self.runtime.device.type == "cpu" else None
        return self.machine() | {"precision": self.runtime.precision, "threads": threads}

    def chosen(self, options: SampleOptions) -> Self:
        """Return the same model with the class, the truncation and the vectors of `options`."""
        model = self.towards(label=options.label).cut(options.truncation or self.truncation)
        return model.under(options.vectors) if options.vectors else model

    @torch.no_grad()
    def images_of(self, noise: Tensor, condition: Tensor | None = None) -> list[Array]:
        """Return the image (H, W, C) of each noise (N, latent), under a class (N,), weights of classes (N, classes) or
        a vector (N, length), where the model takes one.
        """
        given = [x.to(self.runtime.device) for x in (noise, condition) if x is not None]
        with torch_threads(self.threads):
            return [self.spec().scale_out.decode(x) for x in self._network(*given)]

    def condition(self, numbers: Sequence[int]) -> Tensor | None:
        """Return the classes (N,) or vectors (N, length) of images of these numbers; None if the model takes neither.

        Raises:
            ConfigError: if vectors are missing.
        """
        if self.card.vector:
            if self.vectors is None:
                raise ConfigError(
                    f"This model draws under vectors of {self.card.vector} numbers; give some: --vectors FILE, or "
                    "model.under(vectors)."
                )
            return self.vectors[[k % len(self.vectors) for k in numbers]]
        if not self.spec().labelled:
            return None
        return torch.tensor([self.classes.index(self.label or self.classes[k % len(self.classes)]) for k in numbers])

    def walk(
        self, start: int, stop: int, steps: int, seed: int = 0, between: tuple[str | int, str | int] | None = None
    ) -> list[Array]:
        """Return the images along the way from image `start` to image `stop`, both included.

        Normal noise is interpolated along the sphere (White 2016), as its length hardly varies; other noise linearly.

        Args:
            start: number of the first image.
            stop: number of the last one; `start` for the same noise all along.
            steps: number of images.
            seed: of the noise.
            between: two classes, or the numbers of two vectors: the condition leads linearly from one to the other,
                through mixtures that were not in the training. By default it is that of image `start`.
        """
        a, b = self.noise(start, seed), self.noise(stop, seed)
        t = torch.linspace(0, 1, steps).view(-1, 1)
        if self._noise.kind == "normal":
            angle = torch.arccos(torch.cosine_similarity(a.flatten(), b.flatten(), 0).clamp(-1, 1)).clamp_min(1e-6)
            way = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
        else:
            way = torch.lerp(a, b, t)
        if between is None:
            return self.images_of(way, self.condition([start] * steps))
        first, last = map(self._row, between)
        return self.images_of(way, torch.lerp(first, last, t))

    def _row(self, condition: str | int) -> Tensor:
        """Return a class as one-hot weights (1, classes), or a vector (1, length)."""
        if self.card.vector:
            x = self.condition([int(condition)])
            assert x is not None
            return x
        return torch.eye(len(self.classes))[[self.classes.index(self._known(str(condition)))]]

    def _draw(self, numbers: list[int], seed: int, batch_size: int) -> Iterator[Array]:
        for i in range(0, len(numbers), batch_size):
            batch = numbers[i : i + batch_size]
            yield from self.images_of(torch.cat([self.noise(k, seed) for k in batch]), self.condition(batch))

    def draw_in_place(self, numbers: list[int], seed: int, batch_size: int) -> Iterator[Array]:
        """Draw images of these numbers, each in its usual batch: in another it would be rounded differently."""
        for k, wanted in groupby(numbers, lambda number: number // batch_size):
            images = list(self._draw(list(range(k * batch_size, (k + 1) * batch_size)), seed, batch_size))
            yield from (images[number % batch_size] for number in wanted)
