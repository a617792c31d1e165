"""Weights of published networks, from files on this machine: nothing is downloaded, nothing is executed."""

import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from img2img.errors import ModelFileError


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file written by safetensors or `torch.save`, without executing anything in it.

    Raises:
        ModelFileError: if the file is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ModelFileError(
            f"{path} is damaged, or holds more than tensors, which could run code and is not loaded."
        ) from error
    if isinstance(state, dict) and state and all(isinstance(x, Tensor) for x in state.values()):
        return state
    raise ModelFileError(f"{path} holds no named tensors. Give a state dict, or a .safetensors file.")


def find_weights(network: str, file: str | None, url: str, option: str, instead: str = "") -> Path:
    """Return `file`, or by default the copy of `url` in torch's cache.

    Raises:
        ModelFileError: if there is none; names its source, its place, and an alternative.
    """
    if file is not None:
        return Path(file)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    raise ModelFileError(
        f"{network} needs weights that are not on this machine: download {url} and pass it as {option} FILE, or put it "
        f"at {path}{instead}."
    )


def misfit(path: Path, network: str) -> ModelFileError:
    """Return the error for weights of another network."""
    return ModelFileError(f"{path} does not hold the weights of {network}.")
