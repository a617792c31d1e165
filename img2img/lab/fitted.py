"""The state of a fitted equalizer: one frozen dataclass, and its conversion to and from arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Self

import numpy as np
import torch
from annotated_types import Interval, Len
from torch import nn

from img2img.data.picture import Array
from img2img.errors import InputError, UnknownBatchError, choose
from img2img.lab import checks
from img2img.lab.curves.correction import Correction, Origin
from img2img.lab.curves.field import TERMS
from img2img.lab.judgement.baselines import LEVELS, Statistics
from img2img.lab.judgement.quality import Familiarity, quality_of
from img2img.lab.networks.applying import build_generator
from img2img.lab.networks.models import MODELS
from img2img.lab.networks.moving import Mover

# The shape of each array: B batches, C channels, K levels, F features, S batches of the baselines; any other letter is
# one number too. "points" and the like vary freely.
SHAPES: dict[str, tuple[str | int, ...]] = {
    "scale_": ("C", 2),
    "correction_.signs": ("C",),
    "correction_.levels": ("B", "C", "K"),
    "correction_.curves": ("B", "C", 2, "points"),
    "correction_.fields": ("B", "C", 2, TERMS),
    "correction_.camera": (2,),
    "correction_.target_level": ("C", "K"),
    "correction_.target_covariance": ("C", "K", "K"),
    "correction_.target_field": ("C", 2, TERMS),
    "correction_.target_field_covariance": ("C", 2, TERMS, TERMS),
    "familiarity_.centres": ("B", "F"),
    "familiarity_.precision": ("F", "F"),
    "familiarity_.spread": ("F",),
    "familiarity_.limit": (),
    "statistics_.example": ("C", "height", "width"),
    "statistics_.mean": ("S", "C"),
    "statistics_.sd": ("S", "C"),
    "statistics_.quantiles": ("S", "C", len(LEVELS)),
    "statistics_.colour": ("S", 2, 3),
}
OPTIONAL = {"statistics_.colour"}
Names = list[str]


@dataclass(frozen=True)
class GeneratorSpec:
    """The arguments that a network's generator is built with."""

    model: str
    options: dict[str, str | bool | int | float | None]
    channels: int
    batches: int


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The result of a fit, except for the arrays.

    Attributes:
        model: the model that was fitted.
        network: how its generator is built, or None.
        batches: names of the batches, sorted; those added later at the end.
        target: the target batch, or "mean".
        channels: names of the channels, or None.
        n_channels: number of channels.
        dtype: type of the images.
        groups: the groups that were fitted, if groups were given.
        on_controls: whether only controls were used.
        n_images: number of images used from each batch.
        cramers_v: association of batch and label, if labels were given.
        fingerprints: checksums of the images that were used.
        sham: mean change, as a share of the range, when the target batch alone is split at random and equalized.
        notes: the warnings of the fit.
    """

    model: str
    network: GeneratorSpec | None
    batches: Annotated[Names, Len(1)]
    target: str
    channels: Names | None
    n_channels: Annotated[int, Interval(ge=1, le=checks.MAX_CHANNELS)]
    dtype: str
    groups: Names
    on_controls: bool
    n_images: dict[str, int]
    cramers_v: float | None
    fingerprints: list[int]
    sham: float | None
    notes: Names

    def __post_init__(self) -> None:
        network = choose("model", self.model, MODELS).network
        choose("type of image", self.dtype, checks.DTYPES)
        choose("target", self.target, [*self.batches, "mean"])
        built = self.network and (self.network.model, self.network.channels)
        if built != (network and (network.name, self.n_channels)):
            raise ValueError(f"{self.model} of {self.n_channels} channels has another network")
        if self.channels is not None and len(self.channels) != self.n_channels:
            raise ValueError(f"{len(self.channels)} names for {self.n_channels} channels")


@dataclass(frozen=True, kw_only=True)
class Fitted(Learned):
    """Everything that a fit learned.

    Attributes:
        scale: low and high pixel value (C, 2) of the target batch, the unit of every share of the range.
        correction: the curves and fields.
        familiarity: the features of the fitted images.
        statistics: means and quantiles of the batches, for the baselines.
        generator: the network, or None.
    """

    scale: Array
    correction: Correction
    familiarity: Familiarity
    statistics: Statistics
    generator: nn.Module | None = None

    @property
    def highest(self) -> float:
        """The highest value of any channel's range."""
        return float(self.scale[:, 1].max())

    def mover(self, device: str = "cpu") -> Mover:
        """Return what moves images to the target."""
        parts = (self.batches, self.target, self.scale, self.correction, self.generator)
        return Mover(MODELS[self.model], *parts, device)

    def quality(self, image: Array, batch: str, origin: Origin | None, device: str) -> dict[str, Any]:
        """Return the quality of an image's result; see `judgement.quality.quality_of`."""
        number = self.batches.index(batch) if batch in self.batches else None
        return quality_of(image, self.mover(device).values(image, batch, origin), self.scale, self.familiarity, number)

    def check(self, images: Any, batch: Sequence[str], unseen: str) -> None:
        """Raise an error unless batches, channels and type are those that were fitted."""
        self.check_batches(batch, unseen)
        checks.check_channels(images, self.n_channels, self.channels)
        checks.check_dtype(images, self.dtype, self.highest)

    def check_batches(self, batch: Sequence[str], unseen: str) -> None:
        """Raise UnknownBatchError for a batch that was not fitted, unless `unseen` is "passthrough"."""
        unknown = sorted(set(batch) - set(self.batches))
        if unknown and unseen == "error":
            raise UnknownBatchError(
                f"Batch {', '.join(unknown)} was not fitted; the batches are {', '.join(self.batches)}. Fit it with "
                "add_batch(name, its controls), or use unseen='passthrough' to leave such images as they are."
            )

    def channel(self, name: int | str) -> int:
        """Return the number of a channel that is given by number or name."""
        if isinstance(name, str):
            return choose("channel", name, {c: i for i, c in enumerate(self.channels or [])})
        if not 0 <= name < self.n_channels:
            raise InputError(f"There is no channel {name}; there are {self.n_channels} channels, counted from 0.")
        return name

    def learned(self) -> dict[str, Any]:
        """Return the fields of `Learned`, for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(Learned)}
        return plain | {"network": None if self.network is None else asdict(self.network)}

    def to_arrays(self) -> tuple[dict[str, Array], Names]:
        """Return all arrays by their names in `SHAPES`, and the baselines' batches, the reference first."""
        statistics, names = self.statistics.to_arrays()
        arrays = {"scale_": self.scale}
        arrays |= _prefixed("correction_", _arrays_of(self.correction))
        arrays |= _prefixed("familiarity_", _arrays_of(self.familiarity))
        arrays |= _prefixed("statistics_", statistics)
        if self.generator is not None:
            arrays |= _prefixed("generator_", {k: x.cpu().numpy() for k, x in self.generator.state_dict().items()})
        return arrays, names

    @classmethod
    def from_arrays(cls, learned: Learned, arrays: Mapping[str, Array], names: Names) -> Self:
        """Return the inverse of `learned` and `to_arrays`.

        Raises:
            KeyError, ValueError, RuntimeError: if an array is missing, or does not fit.
        """
        check_shapes(arrays, {"B": len(learned.batches), "C": learned.n_channels, "S": len(names) - 1})
        generator: nn.Module | None = None
        if learned.network is not None:
            generator = build_generator(**asdict(learned.network))
            weights = _below("generator_", arrays)
            generator.load_state_dict({k: torch.from_numpy(x) for k, x in weights.items()})
            generator.eval()
        return cls(
            **{f.name: getattr(learned, f.name) for f in fields(Learned)},
            scale=arrays["scale_"],
            correction=Correction(**_below("correction_", arrays)),
            familiarity=Familiarity(**_below("familiarity_", arrays)),
            statistics=Statistics.from_arrays(_below("statistics_", arrays), names),
            generator=generator,
        )


def check_shapes(arrays: Mapping[str, Array], sizes: dict[str, int]) -> None:
    """Raise ValueError unless every array is present, finite, and of its shape in `SHAPES`."""
    for name, shape in SHAPES.items():
        if name in OPTIONAL and name not in arrays:
            continue
        array = arrays[name]
        if array.ndim != len(shape) or not np.isfinite(array).all():
            raise ValueError(f"{name} is no array of {len(shape)} axes")
        for letter, n in zip(shape, array.shape, strict=True):
            if n != (letter if isinstance(letter, int) else sizes.setdefault(letter, n)):
                raise ValueError(f"{name} has the shape {array.shape}")


def _arrays_of(state: Any) -> dict[str, Array]:
    return {f.name: np.asarray(getattr(state, f.name)) for f in fields(state) if not f.name.startswith("_")}


def _prefixed(name: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{name}.{key}": x for key, x in arrays.items()}


def _below(name: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): x for key, x in arrays.items() if key.startswith(prefix)}
