"""From an image of one batch to the target's: the models, and what was learned applied to pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import nn

from img2img.data.picture import Array, as_type
from img2img.errors import InputError
from img2img.lab import adversarial
from img2img.lab.correction import Correction, Origin


class Model(NamedTuple):
    """What a model consists of: whether it evens the illumination first, and the network that follows, if any.

    A network that `starts_at_tone` is given what the curves made; others are given the images as they are.
    """

    with_field: bool = False
    network: str | None = None
    starts_at_tone: bool = True


MODELS = {
    "tone": Model(),
    "tone+field": Model(with_field=True),
    "local": Model(network="local"),
    "local+field": Model(with_field=True, network="local"),
    "stargan": Model(network="stargan", starts_at_tone=False),
    "cyclegan": Model(network="cyclegan", starts_at_tone=False),
}


@dataclass(frozen=True)
class Mover:
    """Moves an image (C, H, W) of any batch to the target, which stays as it is; so do batches it does not know.

    Attributes:
        model: what it consists of.
        batches: names, in the order of their numbers.
        target: one of them, or "mean".
        scale: low and high value of each channel (C, 2).
        correction: the curves and fields.
        generator: the network, if the model has one.
        device: that it runs on.
    """

    model: Model
    batches: Sequence[str]
    target: str
    scale: Array
    correction: Correction
    generator: nn.Module | None
    device: str

    def __call__(self, image: Array, batch: str, origin: Origin | None = None) -> Array:
        """The image in its own type, rounded and cut to it. `origin` is its place on the camera, if it is a part."""
        if self._stays(batch):
            return image.copy()
        if self.generator is None:
            return self.correction.corrected(image, self.batches.index(batch), self.place(image, origin))
        return as_type(self.values(image, batch, origin), image.dtype)

    def values(self, image: Array, batch: str, origin: Origin | None = None) -> Array:
        """The image as float32, neither rounded nor cut."""
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
        """Where on the camera a field begins for this image.

        Raises:
            InputError: if there is a field, and the image is neither the whole camera nor a part with its place.
        """
        camera = tuple(self.correction.camera.tolist())
        if not any(camera):
            return 0, 0
        if origin is None:
            if image.shape[1:] != camera:
                raise InputError(
                    f"An image is {image.shape[1]}x{image.shape[2]}, and the field was fitted to a camera of "
                    f"{camera[0]}x{camera[1]} pixels; give whole images, or the origin= of each part."
                )
            return 0, 0
        if min(origin) < 0 or any(o + n > c for o, n, c in zip(origin, image.shape[1:], camera, strict=True)):
            raise InputError(f"A part of {image.shape[1:]} pixels at {origin} leaves the camera of {camera} pixels.")
        return origin

    def network_input(self, image: Array, number: int, origin: Origin = (0, 0)) -> Array:
        """What the network is given of batch `number`: values of about -1 to 1, float32."""
        x = self.correction(image, number, origin) if self.model.starts_at_tone else image.astype(np.float32)
        low, high = self._ends
        signal: Array = (x - low) * (2 / (high - low)) - 1
        return signal

    def run_network(self, signal: Array, number: int) -> Array:
        """What the network makes of its input."""
        assert self.model.network is not None and self.generator is not None
        bound = adversarial.bind(self.model.network, self.generator, number, self.batches.index(self.target))
        result: Array = adversarial.apply(bound, signal, device=self.device)
        return result

    def _stays(self, batch: str) -> bool:
        return batch == self.target or batch not in self.batches

    @property
    def _ends(self) -> Array:
        """Low and high value, (2, C, 1, 1)."""
        return self.scale.astype(np.float32).T[:, :, None, None]
