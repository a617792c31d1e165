"""A trained model: the networks of one model file, opened on a device."""

import copy
import hashlib
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from img2img.core.method import CLASS, Label, Noise, Use
from img2img.data.picture import Array
from img2img.data.remote import refuse_url
from img2img.errors import ConfigError, ModelFileError, choose
from img2img.model.file import Direction, content_of, load_use, read_card
from img2img.model.hub import Place, fetch, is_on_hub
from img2img.model.plugged import passed_for
from img2img.model.showing import card_in_cell
from img2img.plugins import restore
from img2img.runtime.device import SOFTWARE, Runtime, machine

BATCH = 64  # images classified at once


class Model:
    """The networks of a model file. One with image inputs is a `Translator`, one without a `Sampler`.

    It can be pickled and copied. A pickle holds the weights, so that it needs no file where it is loaded, and chooses
    device and precision there, as they were asked for.

    Attributes:
        card: the header of the model file.
        asked: device and precision, as they were asked for.
        direction: the use that calls without one take.
        label: the class that calls without one take; None where none was chosen.
        drawn: number and seed of the noise, for a model that takes images and noise.
    """

    drawn = 0, 0

    def __init__(
        self, path: str | Path, device: str, precision: str, direction: str | None = None, label: str | None = None
    ) -> None:
        self.path = model_file(path)
        self._loaded, self._content = self.path.stat(), b""  # the content only of one that was pickled
        self.card = read_card(self.path)
        self.direction = direction or next(iter(self.card.uses))
        spec = self.spec()
        # bf16 keeps 8 significant bits: enough for 8-bit pixels only
        self._eight_bit = spec.scale_out.dtype == "uint8" and (not spec.takes_images or spec.scale_in.dtype == "uint8")
        self.asked = device, precision
        self.runtime = _started(device, precision, self._eight_bit)
        self._lock = threading.RLock()
        self._uses: dict[str, Use] = {}
        self.label = None if label is None else self._known(label)

    def __getstate__(self) -> dict[str, Any]:
        content = self._content or content_of(self.path, self._loaded)
        state = {"_lock": None, "_uses": {}, "runtime": None, "_content": content, "_passed": passed_for(self.card)}
        return self.__dict__ | state

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(state.pop("_passed"))
        device, precision = state["asked"]
        runtime = _started(device, precision, state["_eight_bit"])  # first, as it may fail
        self.__dict__.update(state | {"_lock": threading.RLock(), "runtime": runtime})

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def to(self, device: str | torch.device) -> Self:
        """Move this model to another device, for all calls to come, and return it; call it from one thread."""
        self.__setstate__(self.__getstate__() | {"asked": (str(device), self.asked[1])})
        return self

    @property
    def directions(self) -> list[str]:
        return list(self.card.directions)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the model takes or gives; empty without labels."""
        return self.card.classes

    def spec(self, direction: str | None = None) -> Direction:
        return choose("direction in this model", direction or self.direction, self.card.directions)

    def use(self, direction: str | None = None) -> Use:
        """Return a use with its network in evaluation mode, loaded at the first call.

        Raises:
            ConfigError: if the model has no such use.
        """
        name = direction or self.direction
        with self._lock:
            if name not in self._uses:
                self._uses[name] = load_use(self.path, self.card, name, self._content)
            return self._uses[name]

    def towards(self, direction: str | None = None, label: str | None = None) -> Self:
        """Return the same model with another default direction or class; the networks are shared.

        Raises:
            ConfigError: if the model has no such direction or class, or takes no class.
        """
        other = copy.copy(self)
        other.direction = direction or self.direction
        other.spec()
        other.label = self.label if label is None else other._known(label)
        return other

    def _known(self, label: str) -> str:
        if not self.spec().labelled:
            raise ConfigError(f"label {label}: this model takes no class; leave it out.")
        choose("--label", str(label), self.classes)
        return str(label)

    def network(self, direction: str | None = None, label: str | None = None) -> nn.Module:
        """Return the network of a direction as a plain module: a new copy at every call, for whatever the caller does.

        A translator's takes images (N, C, H, W), float32 in [-1, 1], with H and W multiples of its `multiple`, and
        returns images of that size, in [-1, 1] where the network ends in tanh. So `model(array)` is, up to rounding,
        `spec.scale_out.decode(network(spec.scale_in.encode(array)[None])[0])` with `spec = model.spec(direction)`; it
        pads other sizes first. Class and noise, where there are such inputs, are fixed: to `label`, and to those of
        `with_noise`. A sampler's takes noise (N, length), and then, unless `label` is given, class indices (N,) or
        vectors where the model has them.

        It is in evaluation mode, on the device of the model, in float32, and its parameters require no gradient.

        Args:
            direction: one of `directions`; by default the model's own.
            label: one of `classes`; by default the model's own, if it has one.

        Raises:
            ConfigError: if the model has no such direction or class, or a translator needs a class and has none.
        """
        return self.towards(direction, label)._fresh().to(self.runtime.device)

    def _fresh(self) -> nn.Module:
        """Return the network of the model's direction and class, loaded anew."""
        use = load_use(self.path, self.card, self.direction, self._content)
        if not use.source and self.label is None:
            return use.network
        return of_images(use, self.classes, self.label, self.drawn)

    def classifier(self) -> Use:
        """Return the use that classifies images.

        Raises:
            ConfigError: if there is none.
        """
        use = self.use("classify") if "classify" in self.card.uses else None
        if use is None or use.output != CLASS:
            raise ConfigError(f"A {self.card.method} model does not classify images; semigan's do.")
        return use

    def classify(self, images: Array) -> list[str]:
        """Return the class of each image (N, H, W, C), of the size, type and range of the training images.

        Raises:
            ConfigError: if the model has no classifier, or images have another size or number of channels.
        """
        return [self.classes[k] for k in self.confidences(images).argmax(1)]

    @torch.no_grad()
    def confidences(self, images: Array) -> Array:
        """Return how sure the model is of each class, (N, classes), for images as `classify` takes; rows sum to 1."""
        use = self.classifier()
        size, channels = self.card.size, self.card.channels[use.source]
        if (images := np.asarray(images)).shape[1:] != (size, size, channels):
            raise ConfigError(
                f"images of shape {images.shape}: this model classifies images (N, {size}, {size}, {channels})."
            )
        network, scale, device = use.network.to(self.runtime.device), self.card.scales[use.source], self.runtime.device
        parts = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        logits = [network(scale.encode_all(x).to(device))[0].double().cpu() for x in parts]
        return torch.cat([*logits, torch.zeros(0, len(self.classes))]).softmax(1).numpy()

    def digest(self) -> str:
        """Return the SHA-256 of the model file."""
        return hashlib.sha256(self._content or content_of(self.path, self._loaded)).hexdigest()

    def machine(self) -> dict[str, Any]:
        """Return what rounding depends on besides precision and threads, for the record of results."""
        return machine(self.runtime.device) | {"software": SOFTWARE}

    def _repr_html_(self) -> str:
        where = {"class": self.label, "device": self.runtime.describe(), "file": self.path}
        return card_in_cell(type(self).__name__, self.card, self.direction, **where)

    def _in_words(self, *facts: str) -> str:
        card = self.card
        classes = [f"{len(card.classes)} classes"] if self.spec().labelled else []
        known = card.method, *facts, *classes, f"{card.size} px", f"step {card.step}", str(self.runtime.device)
        return f"{type(self).__name__}({', '.join(known)})"


class Bound(nn.Module):
    """A network of an image and conditions, as a network of the image alone.

    Args:
        network: what is bound.
        conditions: (1, ...) each, the same for every image.
    """

    def __init__(self, network: nn.Module, *conditions: Tensor) -> None:
        super().__init__()
        self.network = network
        self.multiple, self.in_channels = network.multiple, getattr(network, "in_channels", None)
        for i, x in enumerate(conditions):
            self.register_buffer(f"condition_{i}", x)
        self.count = len(conditions)

    def forward(self, x: Tensor) -> Tensor:
        conditions = (getattr(self, f"condition_{i}") for i in range(self.count))
        out: Tensor = self.network(x, *(c.expand(x.shape[0], *c.shape[1:]) for c in conditions))
        return out


def noise_of(noise: Noise, number: int, seed: int) -> Tensor:
    """Return the noise (1, length) of image or result `number` of a seed."""
    state = np.random.SeedSequence((seed, number)).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed((int(state[0]) << 32 | int(state[1])) % 2**63)
    return noise.draw(1, generator=generator)


def of_images(use: Use, classes: tuple[str, ...], label: str | None, drawn: tuple[int, int] = (0, 0)) -> nn.Module:
    """Return the network of a use as one of images alone, with its other inputs fixed: class, and number and seed of
    its noise.

    Raises:
        ConfigError: if it takes a class and none was chosen.
    """
    conditions = use.inputs[1:]
    if not conditions:
        return use.network
    if use.labelled and label is None:
        raise ConfigError(f"This model needs a class; give --label, one of {', '.join(classes)}.")
    index = classes.index(label) if label is not None else 0
    bind: Any = getattr(use.network, "bind", None)
    if bind is not None and len(conditions) == 1:
        bound: nn.Module = bind(index)
        return bound.eval()
    fixed = [
        torch.tensor([index]) if isinstance(x, Label) else noise_of(x, *drawn)
        for x in conditions
        if isinstance(x, Label | Noise)
    ]
    return Bound(use.network, *fixed).eval()


def _started(device: str, precision: str, eight_bit: bool) -> Runtime:
    runtime = Runtime.start(device, "fp32" if precision == "auto" and not eight_bit else precision)
    if runtime.device.type == "cuda":  # equal results from equal images
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return runtime


def model_file(path: str | Path) -> Path:
    """Return the model file that `path` is, or that the run folder or the repository `path` holds.

    Raises:
        ModelFileError: if there is none.
        ConfigError: if it is a URL of another kind than hf://.
    """
    if not isinstance(path, str | Path):
        raise ModelFileError(
            f"A model is the path of a run folder or of a model file here, or one of the kind needed, not {path!r}."
        )
    if is_on_hub(path):
        return fetch(Place.of(path))
    path = Path(path)
    refuse_url(path, "A model")
    if path.is_dir():
        found = path / "model.safetensors"
        if not found.exists():
            raise ModelFileError(f"{path} holds no model.safetensors; is it the folder of a run that has saved?")
        return found
    if not path.exists():
        raise ModelFileError(f"There is no model or run folder {path}.")
    return path
