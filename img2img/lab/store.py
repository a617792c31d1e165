"""A fitted equalizer on disk: config.json, which a person can read, and weights.safetensors. Neither can execute."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes, save as to_bytes

from img2img.data.images import atomic
from img2img.data.picture import Array
from img2img.errors import ConfigError, ModelFileError
from img2img.lab import adversarial
from img2img.lab.baselines import Statistics
from img2img.lab.correction import Correction
from img2img.lab.quality import Familiarity
from img2img.runtime import environment

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
PLAIN = (
    "model_", "network_", "batches_", "target_", "channels_", "n_channels_", "dtype_", "groups_", "on_controls_",
    "n_images_", "cramers_v_", "fingerprints_", "sham_", "notes_",
)  # fmt: skip
STATES = {"correction_": Correction, "familiarity_": Familiarity}
Equalizer = TypeVar("Equalizer")


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
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] > FORMAT:
            version = config["environment"]["img2img"]
            raise ModelFileError(f"{folder} was written by img2img {version}; this one cannot read it. Upgrade.")
        content = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != config["checksum"]:
            raise ValueError("these are not the weights that the config was written with")
        weights = from_bytes(content)
        equalizer: Any = cls(**config["parameters"])
        for name in PLAIN:
            setattr(equalizer, name, config["fitted"][name])
        equalizer.scale_ = weights["scale_"]
        for name, state in STATES.items():
            setattr(equalizer, name, state(**_below(name, weights)))
        equalizer.statistics_ = Statistics.from_arrays(_below("statistics_", weights), config["statistics"])
        equalizer.generator_ = None
        if equalizer.network_ is not None:
            generator = adversarial.build_generator(**equalizer.network_)
            generator.load_state_dict({k: torch.from_numpy(x) for k, x in _below("generator_", weights).items()})
            equalizer.generator_ = generator.eval()
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, ConfigError) as error:
        raise ModelFileError(f"{folder} is damaged, or not a saved equalizer; restore it, or fit again.") from error
    return equalizer  # type: ignore[no-any-return]


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
