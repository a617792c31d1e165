"""The two files of a run, and the only reader and writer of both: `last.pt` to resume, `model.safetensors` to use."""

import contextlib
import errno
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from img2img.data.images import atomic
from img2img.data.scale import Scale
from img2img.errors import ModelFileError, choose
from img2img.methods import METHODS

FORMAT = 1


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Writes everything needed to go on, whole or not at all.

    Raises:
        OSError: if the disk is full or fails; what was there before stays.
    """
    with as_os_error(path), atomic(path) as temporary:
        torch.save(state, temporary)


@contextlib.contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """The writers of torch and safetensors report a full disk in errors of their own; here it is an OSError."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise OSError(errno.EIO, "the disk is full or does not take the file", str(path)) from error


def load_resume(path: Path) -> dict[str, Any]:
    """Reads what `save_resume` wrote, on the CPU; executes nothing.

    Raises:
        ModelFileError: if the file is damaged or something else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelFileError(f"{path} cannot be resumed from: it is damaged or not a checkpoint of img2img.") from error
    return state


@dataclass(frozen=True)
class Direction:
    """One way a model translates: channels and pixel values of what goes in and what comes out."""

    in_channels: int
    out_channels: int
    scale_in: Scale
    scale_out: Scale


@dataclass(frozen=True)
class ModelCard:
    """The header of a model file: all that is needed to use its weights.

    Attributes:
        size: height and width of the training images; 0 if not known, as of some imported models.
        source: where the weights are from, if not from a training of `img2img`.
    """

    method: str
    config: dict[str, Any]
    directions: dict[str, Direction]
    size: int
    step: int
    version: str
    format: int = FORMAT
    source: str = ""


def save_model(path: Path, card: ModelCard, weights: dict[str, dict[str, Tensor]]) -> None:
    """Writes the generators, `weights[direction]`, with their card in the header.

    Raises:
        OSError: if the disk is full or fails; what was there before stays.
    """
    tensors = {
        f"{direction}.{name}": x.detach().cpu().contiguous()
        for direction, state in weights.items()
        for name, x in state.items()
    }
    with as_os_error(path), atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"img2img": json.dumps(asdict(card))})


def read_card(path: Path) -> ModelCard:
    """The header of a model file.

    Raises:
        ModelFileError: if the file is missing, damaged, not a model of img2img, or of a newer format.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no model file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("img2img")
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} {_other_than_ours(path)}.") from error
    if metadata is None:
        raise ModelFileError(f"{path} holds tensors, but was not written by img2img.")
    try:
        header = json.loads(metadata)
        if header["format"] <= FORMAT:
            directions = {
                name: Direction(d["in_channels"], d["out_channels"], Scale(**d["scale_in"]), Scale(**d["scale_out"]))
                for name, d in header.pop("directions").items()
            }
            return ModelCard(directions=directions, **header)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"The header of {path} is damaged, or of a version this one does not know.") from error
    raise ModelFileError(f"{path} was written by img2img {header['version']}; this one cannot read it. Upgrade.")


def _other_than_ours(path: Path) -> str:
    """What is wrong with a file that is not safetensors, in words."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(4)[:2] in (b"PK", b"\x80\x02"):  # what torch.save writes today, and wrote until 1.6
            return "is a file of torch.save; to use weights of the pix2pix and CycleGAN code, first run img2img import"
    return "is damaged or not a safetensors file"


def load_generator(path: Path, card: ModelCard, direction: str) -> torch.nn.Module:
    """Builds the generator of one direction, from the file alone, in evaluation mode on the CPU."""
    spec = choose("direction in this model", direction, card.directions)
    method = choose("method", card.method, METHODS)
    try:
        config = method.Config(**card.config)
    except TypeError as error:
        raise ModelFileError(f"{path} was written by img2img {card.version}, whose options this one lacks.") from error
    with torch.device("meta"):  # without memory: the weights of the file take its place
        network = method.build_generator(config, spec.in_channels, spec.out_channels)
    with safe_open(path, framework="pt") as file:
        prefix, names = f"{direction}.", list(file.keys())
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelFileError(f"{path} does not hold the weights that its header promises.") from error
    return network.eval()
