"""Weights of the published pix2pix and CycleGAN code (`latest_net_G.pth`), in and out."""

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from img2img.core.needs import Facts
from img2img.data.options import Size
from img2img.data.picture import quote
from img2img.data.scale import Scale
from img2img.errors import ConfigError, ModelFileError, choose
from img2img.interchange.layout import fit, infer, standard_names
from img2img.interchange.target import new_file
from img2img.methods import METHODS
from img2img.model.file import PRECISIONS_OF_WEIGHTS, ModelCard, as_os_error, save_model
from img2img.networks.layers import BatchNorm
from img2img.networks.unet import UNet
from img2img.options.declared import option
from img2img.runtime.device import environment

SCALE = Scale(0, 255, "uint8")  # what the published code feeds its networks
WRAPPERS = ("state_dict", "netG")
DEEPEST = 4  # wrappers around the weights
PREFIXES = re.compile(r"(module\.|_orig_mod\.)+")  # of DataParallel and of torch.compile
OWNER = re.compile(
    r"((?:\w+\.)*?)(?=model\.model\.1\.model\.|model\.\d+\.conv_block\.\d)"
)  # whose the generator is, "netG."
MIRRORED = ("reflect", "replicate")  # paddings that have the same tensors
SHALLOWEST = 5  # levels of the smallest U-Net the published code builds
RUNNING: dict[str, Callable[[Tensor], Tensor]] = {  # a batch norm's averages, as they are before any training
    "running_mean": torch.zeros_like,
    "running_var": torch.ones_like,
    "num_batches_tracked": lambda weight: torch.tensor(0),
}


def import_model(
    path: str | Path,
    out: str | Path,
    *,
    b2a: str | Path | None = None,
    direction: str = "a2b",
    size: int | None = None,
    padding: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Makes a model file from weights of the published pix2pix and CycleGAN code. Executes nothing of the file.

    The network is recognised by its tensors. The averages of batch norms are dropped: like the published code, which
    tests in training mode with one image at a time, `img2img` normalises each image by its own statistics.

    Args:
        path: a generator, `EPOCH_net_G.pth` or `EPOCH_net_G_A.pth`: U-Net or ResNet, any norm.
        out: the model file to write, `.safetensors`.
        b2a: the generator of the way back, `EPOCH_net_G_B.pth`; `path` is then a2b.
        direction: the name of the direction `path` translates in, a2b or b2a.
        size: height and width of the training images, for the record: the file does not tell. None: not known.
        padding: of a ResNet's blocks, "reflect" or "replicate": the tensors of both are alike, and None means reflect.
        overwrite: replace `out` if it exists.

    Returns:
        `out`, for `img2img.load`.

    Raises:
        ModelFileError: if a file holds more than tensors, or a network that `img2img` does not have.
        ConfigError: if the two files do not belong together, or `out` exists or cannot be written.
    """
    choose("--direction", direction, ("a2b", "b2a"))
    if b2a is not None and direction == "b2a":
        raise ConfigError("--b2a gives the way back of an a2b model; leave --direction out.")
    size = None if size is None else option("size", Size).convert(size)
    files = {direction: Path(path)} | ({"b2a": Path(b2a)} if b2a is not None else {})
    found = {name: _padded(read_generator(file), padding, file) for name, file in files.items()}
    first, last = found[direction], list(found.values())[-1]
    if first.options != last.options or (len(found) == 2 and first.channels != last.channels[::-1]):
        raise ConfigError(
            f"{path} is {first.describe()} and {b2a} is {last.describe()}; one model has two of a kind. "
            "Import each by itself."
        )
    method = "pix2pix" if len(found) == 1 and first.options["norm"] == "batch" else "cyclegan"
    config = METHODS[method].Config(**first.options)
    uses = {name: "a2b" if method == "pix2pix" else name for name in found}
    channels = dict(zip(uses[direction].split("2"), first.channels, strict=True))
    with torch.device("meta"):
        built = METHODS[method].build(config, Facts(size or 0, channels))
    networks = {name: built[own].network for name, own in uses.items()}
    for name, generator in found.items():
        try:
            networks[name].load_state_dict(fit(generator.weights, networks[name]), assign=True)
        except ValueError as reason:
            raise ModelFileError(f"{files[name]} looks like {generator.describe()}, but {reason}.") from None
    source = "imported from " + " and ".join(file.name for file in files.values())
    if any(generator.averaged for generator in found.values()):
        source += ", without the running averages of its batch norms"
    scales, version = dict.fromkeys(channels, SCALE), environment()["img2img"]
    card = ModelCard(method, first.options, size or 0, channels, scales, uses, 0, version, source=source)
    with new_file(Path(out), overwrite, *files.values()) as temporary:
        save_model(temporary, card, networks)
    return Path(out)


@dataclass(frozen=True)
class Generator:
    """What a `.pth` file holds: the recognised options, (input, output) channels, and weights by standard name.

    `averaged` says that its batch norms have running averages of a training, which are left out.
    """

    options: dict[str, Any]
    channels: tuple[int, int]
    weights: dict[str, Tensor]
    averaged: bool = False

    def describe(self) -> str:
        options = [f"{name} {value}" for name, value in self.options.items() if name != "generator"]
        return f"{self.options['generator']} ({', '.join(options)}, channels {self.channels[0]} to {self.channels[1]})"


def read_generator(path: Path) -> Generator:
    """Reads a generator of the published code.

    Raises:
        ModelFileError: if it is something else.
    """
    weights = _tensors(path)
    running = [name for name in weights if name.rpartition(".")[2] in RUNNING]
    averages = [(name.rpartition(".")[2], weights.pop(name)) for name in running]
    try:
        options, *channels = infer(weights)
    except ValueError as reason:
        raise ModelFileError(f"{path} {reason}.") from None
    averaged = options["norm"] == "batch" and any(kind == "running_mean" and bool(x.any()) for kind, x in averages)
    return Generator(options, (channels[0], channels[1]), weights, averaged)


def _padded(generator: Generator, padding: str | None, file: Path) -> Generator:
    """The generator with the padding that is stated, where its tensors leave that open."""
    if padding is None:
        return generator
    choose("--padding", padding, MIRRORED)
    if generator.options.get("padding") not in MIRRORED:
        shown = "zeros, as its tensors show" if "padding" in generator.options else "zeros, as every U-Net"
        raise ConfigError(f"{file} pads with {shown}; leave --padding out.")
    return replace(generator, options=generator.options | {"padding": padding})


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in fp32, without wrappers and prefixes."""
    content = _load(path)
    for _ in range(DEEPEST):
        if isinstance(content, Mapping) and (inner := [key for key in WRAPPERS if key in content]):
            content = content[inner[0]]
    if not (isinstance(content, Mapping) and content and all(isinstance(x, Tensor) for x in content.values())):
        raise ModelFileError(
            f"{path} is not a dict of tensors, neither itself nor below {' or '.join(WRAPPERS)}. "
            "Save the generator's state_dict() alone."
        )
    weights = {PREFIXES.sub("", str(name), count=1): x for name, x in content.items()}
    if len(owners := dict.fromkeys(match[1] for name in weights if (match := OWNER.match(name)))) > 1:
        raise ModelFileError(
            f"{path} holds several generators, {', '.join(owners)}. Save the state_dict() of one alone."
        )
    owner = next(iter(owners), "")
    weights = {name.removeprefix(owner): x for name, x in weights.items() if name.startswith(owner)}
    kept = {name: x for name, x in weights.items() if name.rpartition(".")[2] not in RUNNING}
    if odd := next((name for name, x in kept.items() if not _is_plain(x)), None):
        raise ModelFileError(f"{path} holds {quote(Path(odd))}, which is no plain array of fractions, as weights are.")
    kept = {name: x.float() for name, x in kept.items()}
    broken = next((name for name, x in kept.items() if not x.isfinite().all()), None)
    if broken:
        raise ModelFileError(
            f"{path} has infinite or missing numbers in {quote(broken)}; its training had broken down."
        )
    return weights


def _is_plain(x: Tensor) -> bool:
    """Tell dense fractions, all of them in the file, from what else a file may hold in a few bytes."""
    dense = type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided and x.device.type == "cpu"
    return (
        dense
        and not x.is_nested
        and not x.is_quantized
        and x.dtype in PRECISIONS_OF_WEIGHTS
        and x.numel() * x.element_size() <= x.untyped_storage().nbytes()
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(f"There is no file {path}.")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path} holds more than tensors, which could execute code, or is damaged. "
            "Save the generator's state_dict() alone."
        ) from error
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch raises whatever it likes on damaged input
        raise ModelFileError(f"{path} is damaged or not a file of torch.save.") from error


def write_pth(network: nn.Module, path: Path) -> None:
    """Writes `network` in the standard layout.

    The published code keeps running averages in its batch norms and, by default, does not use them. Ours keep none,
    so they are written as they are before any training.

    Raises:
        ConfigError: if the published code has no such network.
    """
    try:
        if isinstance(network, UNet) and len(network.down) < SHALLOWEST:
            raise ValueError(f"the published code has no U-Net of less than {SHALLOWEST} levels")
        names = standard_names(network)
    except ValueError as reason:
        raise ConfigError(f"This model cannot be a .pth file: {reason}. Export it as onnx or torchscript.") from None
    averaged = {f"{name}.bias" for name, layer in network.named_modules() if isinstance(layer, BatchNorm)}
    weights: dict[str, Tensor] = {}
    for name, x in network.state_dict().items():
        weights[names[name]] = x
        if name in averaged:
            norm = names[name].rpartition(".")[0]
            weights |= {f"{norm}.{average}": start(x) for average, start in RUNNING.items()}
    with as_os_error(path):
        torch.save(weights, path)
