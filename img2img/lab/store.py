"""A fitted equalizer on disk: config.json, which a person can read, and weights.safetensors. Neither can execute."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from annotated_types import Interval, Len
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes, save as to_bytes

from img2img.data.images import atomic
from img2img.data.picture import Array
from img2img.errors import Img2ImgError, ModelFileError, choose
from img2img.lab import adversarial
from img2img.lab.baselines import LEVELS, Statistics
from img2img.lab.checks import DTYPES, MAX_CHANNELS
from img2img.lab.correction import Correction
from img2img.lab.field import TERMS
from img2img.lab.moving import MODELS
from img2img.lab.quality import Familiarity
from img2img.runtime.device import environment
from img2img.runtime.records import from_json, read_text

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
PLAIN = (
    "model_", "network_", "batches_", "target_", "channels_", "n_channels_", "dtype_", "groups_", "on_controls_",
    "n_images_", "cramers_v_", "fingerprints_", "sham_", "notes_",
)  # fmt: skip
STATES = {"correction_": Correction, "familiarity_": Familiarity}
# The shape of each array: B batches, C channels, K levels, F features, and other letters that mean one number each.
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
Equalizer = TypeVar("Equalizer")
Names = list[str]


@dataclass(frozen=True)
class _Parameters:
    """What a `BatchEqualizer` was made of."""

    model: str
    target: str
    axes: str
    channels: Names | None
    max_change: float
    unseen: str
    out_dtype: str
    min_images: int
    max_images: int
    allow_confounded: bool
    training: dict[str, Any] | None
    run: str | None
    random_state: int
    device: str
    n_jobs: int


@dataclass(frozen=True)
class _Network:
    """What the generator of a network is built of."""

    model: str
    options: dict[str, str | bool | int | float | None]
    channels: int
    batches: int


@dataclass(frozen=True)
class _Fitted:
    """What a fit found, but for the arrays."""

    model_: str
    network_: _Network | None
    batches_: Annotated[Names, Len(1)]
    target_: str
    channels_: Names | None
    n_channels_: Annotated[int, Interval(ge=1, le=MAX_CHANNELS)]
    dtype_: str
    groups_: Names
    on_controls_: bool
    n_images_: dict[str, int]
    cramers_v_: float | None
    fingerprints_: list[int]
    sham_: float | None
    notes_: Names

    def __post_init__(self) -> None:
        network = choose("model", self.model_, MODELS).network
        choose("type of image", self.dtype_, dict.fromkeys(DTYPES))
        choose("target", self.target_, dict.fromkeys([*self.batches_, "mean"]))
        built = self.network_ and (self.network_.model, self.network_.channels)
        if built != (network and (network, self.n_channels_)):
            raise ValueError(f"{self.model_} of {self.n_channels_} channels has another network")
        if self.channels_ is not None and len(self.channels_) != self.n_channels_:
            raise ValueError(f"{len(self.channels_)} names for {self.n_channels_} channels")


@dataclass(frozen=True)
class _Version:
    """Which version wrote a config.json."""

    img2img: str


@dataclass(frozen=True)
class _Format:
    """What the config.json of every version holds."""

    format: int
    environment: _Version


@dataclass(frozen=True)
class _Config:
    """The content of config.json."""

    parameters: _Parameters
    fitted: _Fitted
    statistics: Annotated[Names, Len(2)]
    checksum: str


def save(equalizer: Any, folder: Path) -> None:
    """Writes both files; each appears whole or not at all."""
    weights: dict[str, Array] = {"scale_": equalizer.scale_}
    for name in STATES:
        weights |= _under(name, _arrays_of(getattr(equalizer, name)))
    statistics, names = equalizer.statistics_.to_arrays()
    weights |= _under("statistics_", statistics)
    if equalizer.generator_ is not None:
        weights |= _under("generator_", {k: x.cpu().numpy() for k, x in equalizer.generator_.state_dict().items()})
    content = to_bytes({k: np.array(x, order="C") for k, x in weights.items()})
    config = {
        "format": FORMAT,
        "parameters": equalizer.get_params(),
        "fitted": {name: getattr(equalizer, name) for name in PLAIN},
        "statistics": names,
        "environment": environment(),
        "checksum": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False, default=_plain)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS) as weights_file, atomic(folder / CONFIG) as config_file:
        weights_file.write_bytes(content)
        config_file.write_text(text + "\n", encoding="utf-8")


def load(cls: type[Equalizer], folder: Path) -> Equalizer:
    """The equalizer in `folder`.

    Raises:
        ModelFileError: if there is none, or it is damaged or of a newer version.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelFileError(f"{folder} holds no {name}; give the folder of a saved equalizer.")
    try:
        text = read_text(folder / CONFIG)
        written = from_json(_Format, text, CONFIG)
        if written.format <= FORMAT:
            from_json(_Config, text, CONFIG)
            return _made_of(cls, json.loads(text), (folder / WEIGHTS).read_bytes())
    except PermissionError as error:
        raise ModelFileError(f"{folder} cannot be read: {error.strerror}.") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, Img2ImgError) as error:
        raise ModelFileError(f"{folder} is damaged, or not a saved equalizer; restore it, or fit again.") from error
    version = written.environment.img2img
    raise ModelFileError(f"{folder} was written by img2img {version}; this one cannot read it. Upgrade.")


def _made_of(cls: type[Equalizer], config: dict[str, Any], content: bytes) -> Equalizer:
    """Return the equalizer that a config of checked types and the content of its weights describe."""
    if hashlib.sha256(content).hexdigest() != config["checksum"]:
        raise ValueError("these are not the weights that the config was written with")
    weights, fitted = from_bytes(content), config["fitted"]
    sizes = {"B": len(fitted["batches_"]), "C": fitted["n_channels_"], "S": len(config["statistics"]) - 1}
    _check_shapes(weights, sizes)
    equalizer: Any = cls(**config["parameters"])
    equalizer.check_parameters()
    for name in PLAIN:
        setattr(equalizer, name, fitted[name])
    equalizer.scale_ = weights["scale_"]
    for name, state in STATES.items():
        setattr(equalizer, name, state(**_below(name, weights)))
    equalizer.statistics_ = Statistics.from_arrays(_below("statistics_", weights), config["statistics"])
    equalizer.generator_ = None
    if equalizer.network_ is not None:
        generator = adversarial.build_generator(**equalizer.network_)
        generator.load_state_dict({k: torch.from_numpy(x) for k, x in _below("generator_", weights).items()})
        equalizer.generator_ = generator.eval()
    return equalizer  # type: ignore[no-any-return]


def _check_shapes(weights: Mapping[str, Array], sizes: dict[str, int]) -> None:
    """Raise ValueError unless every array is there, of numbers, in its shape of `SHAPES`."""
    for name, shape in SHAPES.items():
        if name in OPTIONAL and name not in weights:
            continue
        array = weights[name]
        if array.ndim != len(shape) or not np.isfinite(array).all():
            raise ValueError(f"{name} is no array of {len(shape)} axes")
        for letter, n in zip(shape, array.shape, strict=True):
            if n != (letter if isinstance(letter, int) else sizes.setdefault(letter, n)):
                raise ValueError(f"{name} has the shape {array.shape}")


def _plain(value: Any) -> Any:
    """A parameter that JSON does not know: of numpy, a path, a mapping."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else str(value)


def _arrays_of(state: Any) -> dict[str, Array]:
    return {f.name: np.asarray(getattr(state, f.name)) for f in fields(state) if not f.name.startswith("_")}


def _under(name: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{name}.{key}": x for key, x in arrays.items()}


def _below(name: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): x for key, x in arrays.items() if key.startswith(prefix)}
