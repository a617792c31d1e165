"""A fitted model applied to pixels: an image of any batch moved to the target batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from img2img.data.picture import Array, as_type
from img2img.errors import InputError
from img2img.lab.curves.correction import Correction, Origin
from img2img.lab.networks.applying import apply, bind
from img2img.lab.networks.models import Model


@dataclass(frozen=True)
class Mover:
    """Move an image (C, H, W) of any batch to the target. Images of the target and of unknown batches stay as they are.

    Attributes:
        model: its steps.
        batches: names, in the order of their numbers.
        target: one of them, or "mean".
        scale: low and high value of each channel (C, 2).
        correction: the curves and fields.
        generator: the network, if the model has one.
        device: the device that the network runs on.
    """

    model: Model
    batches: Sequence[str]
    target: str
    scale: Array
    correction: Correction
    generator: nn.Module | None
    device: str

    def __call__(self, image: Array, batch: str, origin: Origin | None = None) -> Array:
        """Return the image in its own type, rounded and clipped. `origin` is the place of a crop on the camera."""
        if self._stays(batch):
            return image.copy()
        if self.generator is None:
            return self.correction.corrected(image, self.batches.index(batch), self.place(image, origin))
        return as_type(self.values(image, batch, origin), image.dtype)

    def values(self, image: Array, batch: str, origin: Origin | None = None) -> Array:
        """Return the image as float32, neither rounded nor clipped."""
        if self._stays(batch):
            return image.astype(np.float32)
        number, place = self.batches.index(batch), self.place(image, origin)
        if self.generator is None:
            return self.correction(image, number, place)
        y = self.run_network(self.network_input(image, number, place), number)
        low, high = self._ends
        values: Array = (y + 1) * ((high - low) / 2) + low
        return values

    def place(self, image: Array, origin: Origin | None) -> Origin:
        """Return the row and column of the image's first pixel on the camera.

        Raises:
            InputError: if there is a field, and the image is neither a whole camera image nor a crop with its place.
        """
        camera = tuple(self.correction.camera.tolist())
        if not any(camera):
            return 0, 0
        if origin is None:
            if image.shape[1:] != camera:
                raise InputError(
                    f"An image is {image.shape[1]}x{image.shape[2]}, but the field was fitted to a camera of "
                    f"{camera[0]}x{camera[1]} pixels; give whole images, or the origin= of each crop."
                )
            return 0, 0
        if min(origin) < 0 or any(o + n > c for o, n, c in zip(origin, image.shape[1:], camera, strict=True)):
            raise InputError(
                f"A crop of {image.shape[1:]} pixels at {origin} does not fit on the camera of {camera} pixels."
            )
        return origin

    def network_input(self, image: Array, number: int, origin: Origin = (0, 0)) -> Array:
        """Return the network's input for an image of batch `number`: about -1 to 1, float32."""
        x = self.correction(image, number, origin) if self.model.starts_at_tone else image.astype(np.float32)
        low, high = self._ends
        signal: Array = (x - low) * (2 / (high - low)) - 1
        return signal

    def run_network(self, signal: Array, number: int) -> Array:
        """Return the network's output for its input, on the same scale."""
        assert self.model.network is not None and self.generator is not None
        bound = bind(self.model.network.name, self.generator, number, self.batches.index(self.target))
        moved: Array = apply(bound, signal, device=self.device)
        return moved

    def _stays(self, batch: str) -> bool:
        return batch == self.target or batch not in self.batches

    @property
    def _ends(self) -> Array:
        """The low and high values, (2, C, 1, 1)."""
        return self.scale.astype(np.float32).T[:, :, None, None]
