"""A trained model as a function from images to images."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from img2img.core.method import Noise
from img2img.data.picture import Array
from img2img.errors import ConfigError, ModelFileError, TrainingError, choose
from img2img.model.arrays import Unpacked, by_page, crop, fit, pad, unpack
from img2img.model.backends import Forward, Way, prepare
from img2img.model.lazy import Memory, Span
from img2img.model.model import Model, of_images
from img2img.model.options import BACKENDS, TranslateOptions
from img2img.model.tiling import NotInTilesError, in_tiles
from img2img.options.declared import checked
from img2img.options.keywords import Calling
from img2img.runtime.device import PRECISIONS, is_out_of_memory

VIEWS = 8  # turns and mirrors of an image that an ensemble averages over
SMALLEST = 8  # pixels; smaller images are padded to it, so that the networks can pad their own small maps
AUTO_TILE = 512
TILE_FROM = 2048 * 2048  # pixels
BATCH_PIXELS = 32 * 256 * 256  # translated at once, where images do not go one by one
Kind = TypeVar("Kind", Array, Tensor, Image)  # of images: what comes out is of the kind that went in
Several = list[Kind] | tuple[Kind, ...]
Paths = list[str] | list[Path] | tuple[str | Path, ...]


class Translator(Model):
    """A model that translates images.

    `translator(image)` takes an array, a tensor, a PIL image or a path, or a list of such of any sizes, and returns
    the same kind, in the same size and, unless the model changes it, the same type. Inputs are not modified,
    and the output for an image does not depend on what else is in the call, to the bit. Several threads may call it.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        precision: str = "auto",
        direction: str | None = None,
        backend: str = "auto",
        label: str | None = None,
    ) -> None:
        super().__init__(path, device, precision, direction, label)
        if not self.spec().takes_images:
            raise ModelFileError(
                f"{self.path} is a {self.card.method} model, which generates from noise; use img2img sample."
            )
        self._may_change = precision == "auto" and self._eight_bit  # by rounding
        self.backend = choose("backend", backend, BACKENDS)
        self.threads: int | None = None  # of PyTorch in jobs on the CPU; None for its own number
        self.notes: list[str] = []  # changes that were necessary, for the user to know
        self._networks: dict[tuple[str, str | None], nn.Module] = {}
        self._ways: dict[tuple[str, str | None, bool], Way] = {}  # the last: whether in tiles
        self._batches: dict[tuple[str, str | None, torch.Size], bool] = {}  # whether each image gets what it gets alone
        self._fitted: dict[str, int] = {}  # the pixels of a batch that did fit, once one did not
        self._untiled: set[str] = set()  # directions whose networks have turned out not to work in tiles
        self.use()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_networks": {}, "_ways": {}, "_batches": {}, "_fitted": {}}

    def __repr__(self) -> str:
        spec, names = self.spec(), dict.fromkeys([self.direction, *self.directions])
        kinds = f"{spec.scale_in.dtype} x{spec.in_channels}", f"{spec.scale_out.dtype} x{spec.out_channels}"
        return self._in_words("|".join(names), " -> ".join(dict.fromkeys(kinds)))

    def by_way_of(self, precision: str, backend: str, threads: int | None) -> "Translator":
        """Return the same model, computed differently."""
        other = copy.copy(self)
        other.runtime = replace(self.runtime, dtype=PRECISIONS[precision] or torch.float32)
        other.backend, other.threads, other._may_change = backend, threads, False
        other._uses, other._networks, other._ways, other._batches = {}, {}, {}, {}
        return other

    def with_noise(self, number: int, seed: int = 0) -> "Translator":
        """Return the same model with the noise of result `number` of a seed.

        Raises:
            ConfigError: if the model takes no noise.
        """
        if not any(isinstance(x, Noise) for x in self.use().inputs):
            raise ConfigError(
                "This model takes no noise, so each image has one result; leave out --n-outputs and --seed."
            )
        other = copy.copy(self)
        other.drawn, other._networks, other._ways, other._batches = (number, seed), {}, {}, {}
        return other

    def _network(self) -> nn.Module:
        """Return the network of the model's direction and, if it takes one, class, which calls share and `prepare`
        changes in place.

        Raises:
            ConfigError: if the model takes a class and none was chosen.
        """
        key = self.direction, self.label
        with self._lock:
            if key not in self._networks:
                use = self.use()
                alone = len(use.inputs) == 1 or hasattr(use.network, "bind")  # `prepare` changes networks in place
                self._networks[key] = of_images(use, self.classes, self.label) if alone else self._fresh()
            return self._networks[key]

    def describe(self) -> str:
        """Return device, precision and backend; they are settled when the direction is first used."""
        keys = ((self.direction, self.label, in_tiles) for in_tiles in (False, True))
        ways = [self._ways[key].label for key in keys if key in self._ways]
        return ways[0] if ways else self.runtime.describe()

    def way(self) -> dict[str, Any]:
        """Return what a result depends on besides model, image and options, for the record."""
        way, on_cpu = self._way(in_tiles=False), self.runtime.device.type == "cpu"
        threads = (self.threads or torch.get_num_threads()) if on_cpu else None
        return self.machine() | {"precision": way.precision, "backend": way.backend, "threads": threads}

    @overload
    def __call__(self, images: Kind, direction: str | None = None, **options: Unpack[Calling]) -> Kind: ...
    @overload
    def __call__(
        self, images: Several[Kind], direction: str | None = None, **options: Unpack[Calling]
    ) -> list[Kind]: ...
    @overload
    def __call__(self, images: str | Path, direction: str | None = None, **options: Unpack[Calling]) -> Array: ...
    @overload
    def __call__(self, images: Paths, direction: str | None = None, **options: Unpack[Calling]) -> list[Array]: ...
    @overload
    def __call__(self, images: Several[Any], direction: str | None = None, **options: Unpack[Calling]) -> list[Any]: ...
    def __call__(
        self,
        images: Any,
        direction: str | None = None,
        *,
        label: str | None = None,
        channel_axis: int | None = None,
        **options: Any,
    ) -> Any:
        """Translate one image or a list of images.

        Args:
            images: what `img2img.model.arrays.unpack` takes, or a list of it.
            direction: one of `directions`.
            label: one of `classes`, for a model that takes a class.
            channel_axis: where arrays and tensors have their channels; by default last and third from last.
            **options: those of `TranslateOptions`: `batch_size`, `tile`, `ensemble`, `channels`, `nan`, `tile_memory`.

        Raises:
            DataError: if an image has another type or number of channels than the model was trained on.
        """
        model = self.towards(direction, label)
        several = isinstance(images, list | tuple)
        how = channel_axis, model.card.pages
        pages, pack = by_page([unpack(x, *how) for x in images]) if several else unpack(images, *how)
        settings = checked(TranslateOptions, options, "translating")
        fitted, restore = by_page([model.fit(page, settings) for page in pages])
        groups: dict[tuple[int, int], list[int]] = {}
        for i, page in enumerate(fitted):
            groups.setdefault(model.padded_size(page), []).append(i)
        results: dict[int, Array] = {}
        for size, indices in groups.items():
            count = model.batch_size(size, settings)
            for k in range(0, len(indices), count):
                chunk = indices[k : k + count]
                translated = model.translate_batch([fitted[i] for i in chunk], settings)
                results |= zip(chunk, translated, strict=True)
        return pack(restore([results[i] for i in range(len(fitted))]))

    def fit(self, array: Array, options: TranslateOptions) -> Unpacked:
        """Return `array` (H, W, C) as images of the kind that the model takes, and the way back; see `arrays.fit`."""
        spec = self.spec()
        return fit(array, spec.scale_in, spec.in_channels, options.channels, options.nan)

    def padded_size(self, array: Array) -> tuple[int, int]:
        """Return height and width after padding to the next multiple that the network takes."""
        return self.padded(*array.shape[:2])

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after padding, of an image of the given ones."""
        multiple = int(self._network().multiple)  # type: ignore[arg-type]
        height, width = (-(-max(n, SMALLEST) // multiple) * multiple for n in (height, width))
        return height, width

    def batch_size(self, size: tuple[int, int], options: TranslateOptions) -> int:
        """Return the number of images of a padded size to translate at once."""
        pixels = size[0] * size[1]
        if self.tile(size, options):
            return 1
        wanted = options.batch_size or (1 if self.runtime.device.type == "cpu" else max(1, BATCH_PIXELS // pixels))
        largest = self._fitted.get("pixels")
        return min(wanted, max(1, largest // pixels)) if largest else wanted

    def tile(self, size: tuple[int, int], options: TranslateOptions) -> int:
        """Return the edge of the tiles for images of a padded size; 0 to translate them whole."""
        if options.tile == "off":
            return 0
        if options.tile == "auto":
            return AUTO_TILE if size[0] * size[1] > TILE_FROM and self.direction not in self._untiled else 0
        return int(options.tile) if max(size) > int(options.tile) else 0

    def translate_batch(self, arrays: Sequence[Array], options: TranslateOptions | None = None) -> list[Array]:
        """Translate arrays (H, W, C) of equal padded size, of the model's type and channels."""
        options = options or TranslateOptions()
        scale = self.spec().scale_out
        if not options.ensemble:
            return [scale.decode(signal) for signal in self.signals(arrays, options)]
        totals: list[Tensor] = []
        for turns in range(4):
            for mirrored in (False, True):
                views = [np.rot90(x[:, ::-1] if mirrored else x, turns) for x in arrays]
                signals = [torch.rot90(s, -turns, (1, 2)) for s in self.signals(views, options)]
                signals = [s.flip(2) if mirrored else s for s in signals]
                totals = [a.add_(b) for a, b in zip(totals, signals, strict=True)] if totals else signals
        return [scale.decode(total / VIEWS) for total in totals]

    @torch.inference_mode()
    def signals(self, arrays: Sequence[Array], options: TranslateOptions) -> list[Tensor]:
        """Return the network's outputs (C, H, W) in [-1, 1] for arrays of equal padded size; smaller batches or tiles
        are used if memory is full.
        """
        size = self.padded_size(arrays[0])
        edge = self.tile(size, options)
        try:
            if edge:
                return [self._in_tiles(array, size, edge, options) for array in arrays]
            full = len(arrays) == self.batch_size(size, options)
            return self._whole(arrays, size, full)
        except NotInTilesError as error:
            if options.tile != "auto":
                raise
            self._untiled.add(self.direction)
            self.notes.append(f"Large images are not translated in tiles: {error.why}.")
            return self.signals(arrays, replace(options, tile="off"))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(arrays) > 1:
            half = (len(arrays) + 1) // 2
            self._fitted["pixels"] = half * size[0] * size[1]
            self.notes.append(f"Out of memory with {len(arrays)} images at once; continuing with {half}.")
            return [s for part in (arrays[:half], arrays[half:]) for s in self.signals(part, options)]
        smaller = (edge or min(2 * AUTO_TILE, *size)) // 2
        if smaller < 64 or options.tile == "off":
            raise TrainingError(f"Not enough memory for an image of {size[1]}x{size[0]} pixels. Try --tile 256.")
        self.notes.append(note := f"Out of memory; continuing in tiles of {smaller} pixels.")
        try:
            return self.signals(arrays, replace(options, tile=str(smaller)))
        except NotInTilesError as error:
            self.notes.remove(note)
            raise TrainingError(
                f"Not enough memory for an image of {size[1]}x{size[0]} pixels: {error.why}. Give smaller images."
            ) from error

    def _whole(self, arrays: Sequence[Array], size: tuple[int, int], full: bool) -> list[Tensor]:
        scale, forward = self.spec().scale_in, self._way(in_tiles=False).forward
        images = [scale.encode(pad(array, size))[None].to(self.runtime.device) for array in arrays]
        if full and self._may_batch(forward, len(images), images[0]):
            outputs = list(forward(torch.cat(images)).cpu())
        else:
            outputs = [forward(image).cpu()[0] for image in images]
        return [crop(out, array) for out, array in zip(outputs, arrays, strict=True)]

    def _may_batch(self, forward: Forward, count: int, image: Tensor) -> bool:
        """Find out whether a batch of `count` images gives each exactly what it gets alone; tried once per size.

        Kernels are chosen by the shape of the batch, and some sum in another order.
        """
        if count == 1:
            return False
        shape = torch.Size((count, *image.shape[1:]))
        with self._lock:
            if (self.direction, self.label, shape) not in self._batches:
                draw = torch.Generator().manual_seed(0)
                images = [(torch.rand(image.shape, generator=draw) * 2 - 1).to(image.device) for _ in range(count)]
                together = forward(torch.cat(images)).cpu()
                alone = (forward(x).cpu()[0] for x in images)
                self._batches[self.direction, self.label, shape] = all(map(torch.equal, together, alone))
            return self._batches[self.direction, self.label, shape]

    def _in_tiles(self, array: Array, size: tuple[int, int], edge: int, options: TranslateOptions) -> Tensor:
        padded, scale = pad(array, size), self.spec().scale_in
        memory = Memory(edge, int(options.tile_memory * 1e9), self.runtime.device)

        def read(rows: Span, columns: Span) -> Tensor:
            return scale.encode(padded[slice(*rows), slice(*columns)])[None].to(self.runtime.device)

        return crop(in_tiles(self.tiled(), (1, padded.shape[2], *size), read, memory)[0], array)

    def tiled(self) -> Forward:
        """Return what runs the network on `Lazy` maps."""
        return self._way(in_tiles=True).forward

    def _way(self, in_tiles: bool) -> Way:
        """Return what runs the network."""
        key = self.direction, self.label, in_tiles
        with self._lock:
            if key not in self._ways:
                other = (self.direction, self.label, not in_tiles) in self._ways
                network = self._fresh() if other else self._network()
                backend, channels = "eager" if in_tiles else self.backend, self.spec().in_channels
                self._ways[key] = prepare(network, self.runtime, backend, self._may_change, channels, self._fresh)
            return self._ways[key]
