"""A fitted equalizer on disk: config.json, which a person can read, and weights.safetensors. Neither can execute."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes, save as to_bytes

from img2img.data.picture import Array
from img2img.errors import Img2ImgError, ModelFileError
from img2img.lab.curves.correction import Correction
from img2img.lab.curves.field import TERMS
from img2img.lab.curves.stain import StainCorrection
from img2img.lab.fitted import Fitted, Learned, Names
from img2img.lab.judgement.baselines import LEVELS, Statistics
from img2img.lab.judgement.quality import Familiarity
from img2img.lab.networks.models import MODELS
from img2img.lab.options import Parameters
from img2img.runtime.files import atomic
from img2img.runtime.records import from_json, read_text

FORMAT = 2  # in 1, `familiarity_` is of other features
CONFIG, WEIGHTS = "config.json", "weights.safetensors"

# The shape of each array: B batches, C channels, K levels, F features, S batches of the baselines; any other letter is
# one number too. "points" and the like vary freely.
SHAPES: dict[str, tuple[str | int, ...]] = {
    "scale_": ("C", 2),
    "familiarity_.centres": ("B", "F"),
    "familiarity_.precision": ("F", "features of a block"),
    "familiarity_.spread": ("F",),
    "familiarity_.limit": (),
    "statistics_.example": ("C", "height", "width"),
    "statistics_.mean": ("S", "C"),
    "statistics_.sd": ("S", "C"),
    "statistics_.quantiles": ("S", "C", len(LEVELS)),
    "statistics_.colour": ("S", 2, 3),
}
CURVES: dict[str, tuple[str | int, ...]] = {
    "correction_.signs": ("C",),
    "correction_.levels": ("B", "C", "K"),
    "correction_.curves": ("B", "C", 2, "points"),
    "correction_.fields": ("B", "C", 2, TERMS),
    "correction_.camera": (2,),
    "correction_.target_level": ("C", "K"),
    "correction_.target_covariance": ("C", "K", "K"),
    "correction_.target_field": ("C", 2, TERMS),
    "correction_.target_field_covariance": ("C", 2, TERMS, TERMS),
    "correction_.trends": ("B", "C", 2, 2),
}
STAINS: dict[str, tuple[str | int, ...]] = {
    "correction_.white": ("B", 3),
    "correction_.stains": ("B", 3, 3),
    "correction_.mean": ("B", 3),
    "correction_.spread": ("B", 3),
    "correction_.share": (),
    "correction_.target": (),
}
OPTIONAL = {"statistics_.colour", "correction_.trends"}


@dataclass(frozen=True)
class _Version:
    """The version that wrote a config.json."""

    img2img: str


@dataclass(frozen=True)
class _Format:
    """The part of a config.json that every version holds."""

    format: int
    environment: _Version


@dataclass(frozen=True)
class _Config:
    """The content of config.json. In the file the names in `fitted` end with an underscore.

    `statistics` names the batches of the baselines, the reference first.
    """

    parameters: Parameters
    fitted: Learned
    statistics: Annotated[Names, Len(2)]
    checksum: str


def save(parameters: Parameters, fitted: Fitted, folder: Path) -> None:
    """Write both files; each appears whole or not at all."""
    from img2img.runtime.device import environment  # imports torch

    content = to_bytes({name: np.array(x, order="C") for name, x in _arrays_of(fitted).items()})
    config = {
        "format": FORMAT,
        "parameters": dict(sorted(asdict(parameters).items())),
        "fitted": {f"{name}_": value for name, value in fitted.learned().items()},
        "statistics": [fitted.statistics.reference, *fitted.statistics.names],
        "environment": environment(),
        "checksum": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False, default=_plain)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS) as weights_file, atomic(folder / CONFIG) as config_file:
        weights_file.write_bytes(content)
        config_file.write_text(text + "\n", encoding="utf-8")


def makers(fitted: Fitted, out_dtype: str, batch: Sequence[str]) -> list[str]:
    """Return which equalizer makes the result of an image of each batch: two checksums, joined by "-".

    The first is of what determines the results of all batches, the second of what determines those of this one. So they
    stay the same when another batch is added.
    """
    arrays = {
        name: x for name, x in _arrays_of(fitted).items() if name.startswith(("scale", "correction", "generator"))
    }
    own = {name for name in arrays if (SHAPES | CURVES | STAINS).get(name, ())[:1] == ("B",)}
    shared = [fitted.model, fitted.target, fitted.dtype, out_dtype, *(map(str, fitted.plate or ()))]

    def checksum(parts: Mapping[str, Array], texts: Sequence[str]) -> str:
        content = to_bytes({name: np.array(x, order="C") for name, x in parts.items()})
        return hashlib.sha256(content + json.dumps(texts).encode()).hexdigest()[:8]

    common = checksum({name: x for name, x in arrays.items() if name not in own}, shared)
    numbers = {name: fitted.batches.index(name) for name in set(batch) & {*fitted.batches}}
    each = {b: checksum({name: arrays[name][i] for name in own}, [b]) for b, i in numbers.items()}
    return [f"{common}-{each.get(b, 'unknown')}" for b in batch]


def load(folder: Path) -> tuple[Parameters, Fitted]:
    """Return the equalizer in `folder`.

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
            config = from_json(_Config, _without_underscores(text), CONFIG)
            content = (folder / WEIGHTS).read_bytes()
            if hashlib.sha256(content).hexdigest() != config.checksum:
                raise ValueError("these are not the weights that the config was written with")
            return config.parameters, _fitted(config.fitted, from_bytes(content), config.statistics)
    except PermissionError as error:
        raise ModelFileError(f"{folder} cannot be read: {error.strerror}.") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, Img2ImgError) as error:
        raise ModelFileError(f"{folder} is damaged, or not a saved equalizer; restore it, or fit again.") from error
    version = written.environment.img2img
    raise ModelFileError(f"{folder} was written by img2img {version}, which is newer than this version; upgrade.")


def _without_underscores(text: bytes) -> str:
    config = json.loads(text)
    if not isinstance(config.get("fitted"), dict) or not isinstance(config.get("parameters"), dict):
        raise ValueError("config.json holds no fit")
    if unknown := config["parameters"].keys() - {f.name for f in fields(Parameters)}:
        raise ValueError(f"unknown parameters {unknown}")
    return json.dumps(config | {"fitted": {name.removesuffix("_"): x for name, x in config["fitted"].items()}})


def _plain(value: Any) -> Any:
    """Convert a parameter that JSON does not know: of numpy, a path, a mapping."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else str(value)


def _arrays_of(fitted: Fitted) -> dict[str, Array]:
    """Return all arrays by their names in the tables of shapes, and the weights of the generator."""
    arrays = {"scale_": fitted.scale}
    for name in ("correction", "familiarity", "statistics"):
        state = getattr(fitted, name)
        values = {f.name: getattr(state, f.name) for f in fields(state)}
        arrays |= {f"{name}_.{key}": x for key, x in values.items() if isinstance(x, np.ndarray)}
    if fitted.plate is None:
        arrays.pop("correction_.trends", None)
    if fitted.generator is not None:
        arrays |= {f"generator_.{key}": x.cpu().numpy() for key, x in fitted.generator.state_dict().items()}
    return arrays


def _fitted(learned: Learned, arrays: Mapping[str, Array], statistics: Names) -> Fitted:
    """Return the inverse of `Fitted.learned` and `_arrays_of`.

    Raises:
        KeyError, ValueError, RuntimeError: if an array is missing, or does not fit.
    """
    with_stains = MODELS[learned.model].with_stains
    shapes = SHAPES | (STAINS if with_stains else CURVES)
    _check_shapes(arrays, shapes, {"B": len(learned.batches), "C": learned.n_channels, "S": len(statistics) - 1})
    parts: dict[str, dict[str, Any]] = {}
    for name, x in arrays.items():
        part, _, key = name.partition("_.")
        parts.setdefault(part, {})[key] = x
    if not with_stains:
        parts["correction"].setdefault("trends", np.zeros((len(learned.batches), learned.n_channels, 2, 2)))
    generator = None
    if learned.network is not None:
        import torch

        from img2img.lab.networks.applying import build_generator

        generator = build_generator(**asdict(learned.network))
        generator.load_state_dict({key: torch.from_numpy(x) for key, x in parts.get("generator", {}).items()})
    return Fitted(
        **{f.name: getattr(learned, f.name) for f in fields(Learned)},
        scale=arrays["scale_"],
        correction=(StainCorrection if with_stains else Correction)(**parts["correction"]),
        familiarity=Familiarity(**parts["familiarity"]),
        statistics=Statistics(names=tuple(statistics[1:]), reference=statistics[0], **parts["statistics"]),
        generator=generator,
    )


def _check_shapes(
    arrays: Mapping[str, Array], shapes: Mapping[str, tuple[str | int, ...]], sizes: dict[str, int]
) -> None:
    """Raise ValueError unless every array is present, finite, and of its shape."""
    for name, shape in shapes.items():
        if name in OPTIONAL and name not in arrays:
            continue
        array = arrays[name]
        if array.ndim != len(shape) or not np.isfinite(array).all():
            raise ValueError(f"{name} is no array of {len(shape)} axes")
        for letter, n in zip(shape, array.shape, strict=True):
            if n != (letter if isinstance(letter, int) else sizes.setdefault(letter, n)):
                raise ValueError(f"{name} has the shape {array.shape}")
