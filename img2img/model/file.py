"""The two files of a run, and the only reader and writer of both: `last.pt` to resume, `model.safetensors` to use."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval, Len
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors, save
from torch import Tensor

from img2img.data.images import atomic
from img2img.data.picture import is_text, shown
from img2img.data.scale import Scale
from img2img.errors import ConfigError, ModelFileError, choose
from img2img.methods import METHODS
from img2img.options.declared import checked
from img2img.runtime.records import from_json

FORMAT = 1
Channels = Annotated[int, Interval(ge=1, le=65536)]  # with noise as the input, its length
Value = str | bool | int | float | None  # of an option
PRECISIONS_OF_WEIGHTS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Writes everything needed to go on, whole or not at all.

    Raises:
        OSError: if the disk is full or fails; what was there before stays.
    """
    with as_os_error(path), atomic(path, durable=True) as temporary, temporary.open("wb") as file:
        torch.save(state, file)  # a file without a name, as torch writes names into it


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
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch raises whatever it likes on damaged input
        raise ModelFileError(f"{path} cannot be resumed from: it is damaged or not a checkpoint of img2img.") from error
    return state


@dataclass(frozen=True)
class Direction:
    """One way a model translates: channels and pixel values of what goes in and what comes out."""

    in_channels: Channels
    out_channels: Channels
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
    config: dict[str, Value]
    directions: Annotated[dict[str, Direction], Len(1)]
    size: Annotated[int, Interval(ge=0, le=2**24)]  # 0: not known
    step: Annotated[int, Ge(0)]
    version: str
    format: int = FORMAT
    source: str = ""


@dataclass(frozen=True)
class _Format:
    """What every version of a model file says of itself."""

    format: int
    version: str


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
    with as_os_error(path), atomic(path, durable=True) as temporary:
        temporary.write_bytes(save(tensors, metadata={"img2img": json.dumps(asdict(card))}))


def read_card(path: Path) -> ModelCard:
    """The header of a model file.

    Raises:
        ModelFileError: if the file is missing, damaged, not a model of img2img, or of a newer format.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no model file {path}.")
    if not is_text(path):
        raise ModelFileError(f"{shown(path)} cannot be opened: its name is not UTF-8; rename it or its folder.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("img2img")
            names = list(file.keys())
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} {_other_than_ours(path)}.") from error
    if metadata is None:
        raise ModelFileError(f"{path} holds tensors, but was not written by img2img.")
    where = f"The header of {path}"
    if (written := from_json(_Format, metadata, where)).format > FORMAT:
        raise ModelFileError(f"{path} was written by img2img {written.version}; this one cannot read it. Upgrade.")
    card = from_json(ModelCard, metadata, where)
    if strange := [name for name in names if name.partition(".")[0] not in card.directions]:
        raise ModelFileError(f"{path} holds {shown(Path(strange[0]))}, which none of its directions has.")
    return card


@contextlib.contextmanager
def _tensors(path: Path, content: bytes) -> Iterator[Any]:
    """Opens the tensors of a model file, or of its `content`."""
    if not content:
        with safe_open(path, framework="pt") as file:
            yield file
    else:
        tensors = load_tensors(content)
        yield SimpleNamespace(keys=tensors.keys, get_tensor=tensors.__getitem__)


def content_of(path: Path, loaded: os.stat_result) -> bytes:
    """Return the bytes of the model file `path` that was loaded.

    Args:
        path: the file.
        loaded: its state when the model was loaded.

    Raises:
        ModelFileError: if it has changed since, or is gone: what is there is then not the model in memory.
    """
    try:
        content, found = path.read_bytes(), path.stat()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read again: {error.strerror}.") from error
    if (found.st_mtime_ns, found.st_size) != (loaded.st_mtime_ns, loaded.st_size):
        raise ModelFileError(f"{path} has changed since it was loaded; load it again.")
    return content


def _other_than_ours(path: Path) -> str:
    """What is wrong with a file that is not safetensors, in words."""
    if path.name == "last.pt":
        return "is what its run is resumed from; give the folder of the run, or its model.safetensors"
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(4)[:2] in (b"PK", b"\x80\x02"):  # what torch.save writes today, and wrote until 1.6
            return "is a file of torch.save; to use weights of the pix2pix and CycleGAN code, first run img2img import"
    return "is damaged or not a safetensors file"


def load_generator(path: Path, card: ModelCard, direction: str, content: bytes = b"") -> torch.nn.Module:
    """Builds the generator of one direction from its file, or the `content` of it, in evaluation mode on the CPU."""
    spec = choose("direction in this model", direction, card.directions)
    method = choose("method", card.method, METHODS)
    try:
        config = checked(method.Config, card.config, "this method")
    except ConfigError as error:
        raise ModelFileError(f"{path}, written by img2img {card.version}, cannot be built here: {error}") from error
    with torch.device("meta"):  # without memory: the weights of the file take its place
        network = method.build_generator(config, spec.in_channels, spec.out_channels)
    with _tensors(path, content) as file:
        prefix, names = f"{direction}.", list(file.keys())
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
    if odd := [name for name, x in weights.items() if x.dtype not in PRECISIONS_OF_WEIGHTS]:
        raise ModelFileError(f"{path} holds {weights[odd[0]].dtype} in {shown(Path(odd[0]))}; weights are fractions.")
    weights = {name: x.float() for name, x in weights.items()}
    if broken := [name for name, x in weights.items() if not torch.isfinite(x).all()]:
        raise ModelFileError(
            f"{path} holds weights that are not finite numbers, in {shown(Path(broken[0]))}: its training had failed; "
            "take an earlier model of the run."
        )
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelFileError(f"{path} does not hold the weights that its header promises.") from error
    return network.eval()
