"""A trained model as a function from arrays to arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from img2img.data.images import Array
from img2img.errors import ConfigError, DataError, ModelFileError
from img2img.runtime import Runtime
from img2img.training.checkpoint import Direction, load_generator, read_card

SMALLEST = 16  # pixels; smaller images are padded to it, so that the networks can pad their own small maps


class Translator:
    """Translates images with the generators of one model file.

    `translator(image)` takes an array (H, W) or (H, W, C) of the pixel type the model was trained on, or a list of
    such arrays of any sizes, and returns the same kind in the same size; the input is left untouched.

    Attributes:
        card: the header of the model file.
        direction: the direction that calls without one take.
    """

    def __init__(self, path: Path, device: str = "auto", precision: str = "auto", direction: str | None = None) -> None:
        self.path = model_file(path)
        self.card = read_card(self.path)
        self.direction = direction or next(iter(self.card.directions))
        spec = self.card.directions.get(self.direction)
        # bf16 keeps 8 significant bits: enough for 8-bit pixels only
        if precision == "auto" and spec is not None and spec.scale_in.dtype != "uint8":
            precision = "fp32"
        self.runtime = Runtime.start(device, precision)
        self._networks: dict[str, nn.Module] = {}
        self.network(self.direction)

    @property
    def directions(self) -> list[str]:
        return list(self.card.directions)

    def spec(self, direction: str | None = None) -> Direction:
        return self.card.directions[direction or self.direction]

    def network(self, direction: str) -> nn.Module:
        """The generator of one direction, loaded when first asked for.

        Raises:
            ConfigError: if the model has no such direction.
        """
        if direction not in self._networks:
            network = load_generator(self.path, self.card, direction)
            self.runtime.prepare(network)
            self._networks[direction] = network
        return self._networks[direction]

    @overload
    def __call__(self, images: Array, direction: str | None = None, batch_size: int = 4) -> Array: ...
    @overload
    def __call__(self, images: Sequence[Array], direction: str | None = None, batch_size: int = 4) -> list[Array]: ...
    def __call__(
        self, images: Array | Sequence[Array], direction: str | None = None, batch_size: int = 4
    ) -> Array | list[Array]:
        """Translates one array or a list of arrays; batches hold images of equal padded size.

        Raises:
            DataError: if an array has another type or number of channels than the model was trained on.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}.")
        direction = direction or self.direction
        one = isinstance(images, np.ndarray)
        arrays = [images] if isinstance(images, np.ndarray) else list(images)
        waiting: dict[tuple[int, int], list[int]] = {}
        for i, array in enumerate(arrays):
            waiting.setdefault(self.padded_size(array, direction), []).append(i)
        out: dict[int, Array] = {}
        for indices in waiting.values():
            for k in range(0, len(indices), batch_size):
                chunk = indices[k : k + batch_size]
                out |= zip(chunk, self.translate_batch([arrays[i] for i in chunk], direction), strict=True)
        return out[0] if one else [out[i] for i in range(len(arrays))]

    def padded_size(self, array: Array, direction: str) -> tuple[int, int]:
        """Height and width after padding to what the network divides by."""
        if array.ndim not in (2, 3):
            raise DataError(f"An image is (H, W) or (H, W, C); this array has the shape {array.shape}.")
        multiple = self.network(direction).multiple
        assert isinstance(multiple, int)
        height, width = (max(-(-n // multiple) * multiple, SMALLEST) for n in array.shape[:2])
        return height, width

    @torch.inference_mode()
    def translate_batch(self, arrays: Sequence[Array], direction: str) -> list[Array]:
        """Translates arrays of equal padded size in one forward pass."""
        network, spec = self.network(direction), self.spec(direction)
        padded, corners = zip(*(self._encode(array, direction) for array in arrays), strict=True)
        batch = torch.stack(padded).to(self.runtime.device)
        results = []
        for array, (top, left), out in zip(arrays, corners, network(batch).cpu(), strict=True):
            height, width = array.shape[:2]
            decoded = spec.scale_out.decode(out[:, top : top + height, left : left + width])
            results.append(decoded[..., 0] if array.ndim == 2 and spec.out_channels == 1 else decoded)
        return results

    def _encode(self, array: Array, direction: str) -> tuple[Tensor, tuple[int, int]]:
        spec = self.spec(direction)
        pixels = array[..., None] if array.ndim == 2 else array
        if pixels.ndim != 3 or pixels.shape[2] != spec.in_channels or str(pixels.dtype) != spec.scale_in.dtype:
            raise DataError(
                f"This model takes (H, W, {spec.in_channels}) {spec.scale_in.dtype} images; "
                f"this one is {pixels.shape} {pixels.dtype}. Convert it first."
            )
        if 0 in pixels.shape:
            raise DataError(f"This image has no pixels: {pixels.shape}.")
        height, width = self.padded_size(pixels, direction)
        down, right = height - pixels.shape[0], width - pixels.shape[1]
        top, left = down // 2, right // 2
        padded = np.pad(pixels, ((top, down - top), (left, right - left), (0, 0)), mode="reflect")
        return spec.scale_in.encode(padded), (top, left)


def model_file(path: Path) -> Path:
    """The model file that `path` is, or that the run folder `path` holds.

    Raises:
        ModelFileError: if there is none.
    """
    if path.is_dir():
        found = path / "model.safetensors"
        if not found.exists():
            raise ModelFileError(f"{path} holds no model.safetensors; is it the folder of a run that has saved?")
        return found
    if not path.exists():
        raise ModelFileError(f"There is no model or run folder {path}.")
    return path
