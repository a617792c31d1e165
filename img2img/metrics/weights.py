"""Weights of published networks, from files that are on this machine: nothing is downloaded, nothing is executed."""

import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from img2img.errors import ModelFileError


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that `torch.save` wrote, read without executing it.

    Raises:
        ModelFileError: if the file is missing, damaged, or holds something else than named tensors.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no file of weights {path}.")
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


def find_weights(what: str, given: str | None, url: str, option: str, instead: str = "") -> Path:
    """`given`, or the file that torch keeps of `url` in its cache.

    Raises:
        ModelFileError: if neither is there, saying where it is from, where it goes, and what can be done without.
    """
    if given is not None:
        return Path(given)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    raise ModelFileError(
        f"{what} needs weights that are not on this machine: fetch {url} and give it as {option} FILE, or put it at "
        f"{path}{instead}."
    )


def misfit(path: Path, network: str) -> ModelFileError:
    return ModelFileError(f"{path} does not hold the weights of {network}.")
