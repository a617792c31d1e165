"""A fitted equalizer on disk: config.json, which a person can read, and weights.safetensors. Neither can execute."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes, save as to_bytes

from img2img.errors import Img2ImgError, ModelFileError
from img2img.lab.fitted import Fitted, Learned, Names
from img2img.lab.options import Parameters
from img2img.runtime.device import environment
from img2img.runtime.files import atomic
from img2img.runtime.records import from_json, read_text

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


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
    """The content of config.json. In the file the names in `fitted` end with an underscore."""

    parameters: Parameters
    fitted: Learned
    statistics: Annotated[Names, Len(2)]
    checksum: str


def save(parameters: Parameters, fitted: Fitted, folder: Path) -> None:
    """Write both files; each appears whole or not at all."""
    arrays, statistics = fitted.to_arrays()
    content = to_bytes({name: np.array(x, order="C") for name, x in arrays.items()})
    config = {
        "format": FORMAT,
        "parameters": dict(sorted(asdict(parameters).items())),
        "fitted": {f"{name}_": value for name, value in fitted.learned().items()},
        "statistics": statistics,
        "environment": environment(),
        "checksum": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False, default=_plain)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS) as weights_file, atomic(folder / CONFIG) as config_file:
        weights_file.write_bytes(content)
        config_file.write_text(text + "\n", encoding="utf-8")


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
            return config.parameters, Fitted.from_arrays(config.fitted, from_bytes(content), config.statistics)
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
