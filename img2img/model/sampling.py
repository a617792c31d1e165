"""A trained model as a source of images: from noise to arrays, and to files."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from img2img.core.method import Noise, truncated
from img2img.data.grid import draw_grid
from img2img.data.images import FORMATS, write_image
from img2img.data.picture import Array, Picture
from img2img.data.vectors import vectors_of
from img2img.errors import ConfigError, DataError, ModelFileError, TrainingError, choose
from img2img.model.model import Model, noise_of
from img2img.model.options import SampleOptions
from img2img.runtime.files import atomic, holds_keys, remove, remove_stale, write_text

PNG_HOLDS = ("uint8", "uint16")
GRID_IMAGES, WALKS, COLUMNS = 64, 8, 32
SOURCE = "samples.json"  # in a folder of images: the model and the seed that they are of


class Sampler(Model):
    """A model that generates images from noise. Image i of a seed is always the same, whatever else is drawn.

    A model with classes draws image i of class i modulo their number, unless a label is chosen; one that was trained
    under vectors takes them in the same way, once they are given to `under`.

    Attributes:
        truncation: where noise is cut; 0 for nowhere.
        vectors: what images are drawn under, (rows, length); None without.
    """

    def __init__(
        self, path: str | Path, device: str = "auto", precision: str = "auto", label: str | None = None
    ) -> None:
        super().__init__(path, device, precision, None, label)
        if self.spec().takes_images:
            raise ModelFileError(f"{self.path} is a {self.card.method} model, which translates; use img2img translate.")
        self.truncation = 0.0
        self.vectors: Tensor | None = None
        self._open()

    def _open(self) -> None:
        use = self.use()
        self._noise = next(x for x in use.inputs if isinstance(x, Noise))
        self.network = use.network
        self.runtime.place(self.network)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"network": None}

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
        return [self.spec().scale_out.decode(x) for x in self.network(*given)]

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

    def _draw_in_place(self, numbers: list[int], seed: int, batch_size: int) -> Iterator[Array]:
        """Draw as `_draw` does, but each image in its usual batch: in another it would be rounded differently."""
        for k, wanted in groupby(numbers, lambda number: number // batch_size):
            images = list(self._draw(list(range(k * batch_size, (k + 1) * batch_size)), seed, batch_size))
            yield from (images[number % batch_size] for number in wanted)


@dataclass
class Written:
    """The result of `write_samples`: images drawn, images that existed, and the sheets that show several."""

    drawn: int
    skipped: int
    pictures: list[Path]


def write_samples(
    model: Sampler, n: int, out: Path, options: SampleOptions, progress: Callable[[int, int], None]
) -> Written:
    """Write images number 0 to `n` into `out`, a batch at a time, keeping those that exist.

    Raises:
        ConfigError: if `out` holds images of another model, seed, class, truncation or vectors.
    """
    suffix = _suffix(model, options.format)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a folder for the images.")
    model = model.chosen(options)
    model.condition([0])  # refuses a model whose vectors are missing
    known = {"model": model.digest(), "seed": options.seed} | ({"label": model.label} if model.label else {})
    known |= {"truncation": model.truncation} if model.truncation else {}
    if model.vectors is not None:
        known["vectors"] = hashlib.sha256(model.vectors.numpy().tobytes()).hexdigest()
    source = json.dumps(known) + "\n"
    begun = (out / SOURCE).exists()
    others = begun and (out / SOURCE).read_text() != source
    if others and not options.overwrite:
        raise ConfigError(
            f"{out} holds images of another model, seed, class, truncation or vectors; give another --out, or "
            "--overwrite them."
        )
    paths = [out / f"{i:06}{suffix}" for i in range(n)]
    sheets = {"grid.png": options.grid, "walk.png": options.interpolate}
    wanted = [*paths, *(out / name for name, asked in sheets.items() if asked)]
    if not begun and not options.overwrite and (foreign := next((path for path in wanted if path.exists()), None)):
        raise ConfigError(f"{foreign} was not drawn by this command; give another --out, or --overwrite it.")
    missing = [i for i in range(n) if options.overwrite or not paths[i].exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_stale(out)
        ours = others and holds_keys("model", "seed")((out / SOURCE).read_bytes())
        for stale in out.glob("[0-9]*.*") if ours else ():
            if stale.stem.isdecimal() and stale.stem == f"{int(stale.stem):06}" and stale.suffix in FORMATS:
                remove(stale)
        if others or not begun:  # before the images, so that a stopped call knows whose they are
            write_text(out / SOURCE, source)
        for done, image in enumerate(model._draw_in_place(missing, options.seed, options.batch_size), start=1):
            try:
                write_image(paths[missing[done - 1]], Picture(image))
            except DataError:  # a format that cannot hold them: the folder stays free for another
                if done == 1 and not begun:
                    (out / SOURCE).unlink()
                raise
            progress(n - len(missing) + done, n)
        pictures = _pictures(model, n, out, options)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written: {error.strerror or error}.") from error
    return Written(len(missing), n - len(missing), pictures)


def _suffix(model: Sampler, format: str) -> str:
    if format == "auto":
        fits = model.spec().scale_out.dtype in PNG_HOLDS and model.spec().out_channels in (1, 3)
        return ".png" if fits else ".tif"
    suffix = f".{format.removeprefix('.')}"
    choose("format", suffix, FORMATS)
    return suffix


def _pictures(model: Sampler, n: int, out: Path, options: SampleOptions) -> list[Path]:
    def shown(images: Iterable[Array]) -> Tensor:
        return torch.stack([model.spec().scale_out.encode(image) for image in images])

    sheets: dict[str, tuple[dict[str, Tensor], int | None]] = {}
    turn, seed, steps = model.turn, options.seed, options.interpolate
    if options.grid and len(turn) > 1:  # a column for each, whose rows have the same noise
        turn = turn[:COLUMNS]
        rows = range(min(n, max(2, GRID_IMAGES // len(turn))))
        noise = torch.cat([model.noise(k, seed) for k in rows])
        columns = {str(x): model.images_of(noise, model.condition([c] * len(rows))) for c, x in enumerate(turn)}
        sheets["grid.png"] = {title: shown(images) for title, images in columns.items()}, None
    elif options.grid:
        sheets["grid.png"] = {"": shown(model(min(n, GRID_IMAGES), seed, batch_size=options.batch_size))}, None
    if steps:
        k = len(model.turn)
        ways: Iterable[list[Array]] = (model.walk(2 * i, 2 * i + 1, steps, seed) for i in range(WALKS))
        if k > 1:  # from one class or vector to the next, under the same noise
            ways = (model.walk(i, i, steps, seed, (model.turn[i % k], model.turn[(i + 1) % k])) for i in range(WALKS))
        sheets["walk.png"] = {"": shown(image for way in ways for image in way)}, steps
    for name, (images, wide) in sheets.items():
        with atomic(out / name) as temporary:
            draw_grid(images, wide).save(temporary)
    return [out / name for name in sheets]
