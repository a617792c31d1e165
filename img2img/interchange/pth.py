"""Import and export of weights of the published pix2pix and CycleGAN code (`latest_net_G.pth`)."""

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
from img2img.data.scale import Scale
from img2img.errors import ConfigError, ModelFileError, choose, quote
from img2img.interchange.layout import fit, infer, standard_names
from img2img.interchange.target import new_file
from img2img.methods import METHODS
from img2img.model.file import PRECISIONS_OF_WEIGHTS, ModelCard, as_os_error, save_model
from img2img.networks.norms import BatchNorm
from img2img.networks.unet import UNet
from img2img.options.declared import option
from img2img.runtime.device import environment

SCALE = Scale(0, 255, "uint8")  # the input of the published code's networks
WRAPPERS = ("state_dict", "netG")
MAX_WRAPPERS = 4  # nested around the weights
PREFIXES = re.compile(r"(module\.|_orig_mod\.)+")  # of DataParallel and of torch.compile
# The prefix of a generator inside a larger module, e.g. "netG.".
OWNER = re.compile(r"((?:\w+\.)*?)(?=model\.model\.1\.model\.|model\.\d+\.conv_block\.\d)")
MIRRORED = ("reflect", "replicate")  # paddings with the same tensors
MIN_LEVELS = 5  # of the smallest U-Net that the published code builds
RUNNING: dict[str, Callable[[Tensor], Tensor]] = {  # a batch norm's averages before any training
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
    """Create a model file from weights of the published pix2pix and CycleGAN code. Executes nothing in the file.

    The architecture is inferred from the tensors. The running averages of batch norms are dropped: like the published
    code, which tests in training mode with one image at a time, `img2img` normalises each image by its own statistics.

    Args:
        path: a generator, `EPOCH_net_G.pth` or `EPOCH_net_G_A.pth`: U-Net or ResNet, with any norm.
        out: the model file to write, `.safetensors`.
        b2a: the generator of the reverse direction, `EPOCH_net_G_B.pth`; `path` is then a2b.
        direction: the direction in which `path` translates, a2b or b2a.
        size: height and width of the training images, for information only, as the file does not contain it; None if
            unknown.
        padding: padding of a ResNet's blocks, "reflect" or "replicate", whose tensors are the same; None means reflect.
        overwrite: replace `out` if it exists.

    Returns:
        `out`, for `img2img.load`.

    Raises:
        ModelFileError: if a file holds more than tensors, or a network that `img2img` does not support.
        ConfigError: if the two files do not belong together, or `out` exists or cannot be written.
    """
    choose("--direction", direction, ("a2b", "b2a"))
    if b2a is not None and direction == "b2a":
        raise ConfigError("--b2a gives the reverse direction of an a2b model; leave --direction out.")
    size = None if size is None else option("size", Size).convert(size)
    files = {direction: Path(path)} | ({"b2a": Path(b2a)} if b2a is not None else {})
    generators = {name: _with_padding(read_generator(file), padding, file) for name, file in files.items()}
    first, last = generators[direction], list(generators.values())[-1]
    if first.options != last.options or (len(generators) == 2 and first.channels != last.channels[::-1]):
        raise ConfigError(
            f"{path} is {first.describe()} and {b2a} is {last.describe()}; the two generators of a model must match. "
            "Import each one separately."
        )
    method = "pix2pix" if len(generators) == 1 and first.options["norm"] == "batch" else "cyclegan"
    config = METHODS[method].Config(**first.options)
    uses = {name: "a2b" if method == "pix2pix" else name for name in generators}
    channels = dict(zip(uses[direction].split("2"), first.channels, strict=True))
    with torch.device("meta"):
        built = METHODS[method].build(config, Facts(size or 0, channels))
    networks = {name: built[use].network for name, use in uses.items()}
    for name, generator in generators.items():
        try:
            networks[name].load_state_dict(fit(generator.weights, networks[name]), assign=True)
        except ValueError as reason:
            raise ModelFileError(f"{files[name]} looks like {generator.describe()}, but {reason}.") from None
    source = "imported from " + " and ".join(file.name for file in files.values())
    if any(generator.averaged for generator in generators.values()):
        source += ", without the running averages of its batch norms"
    scales, version = dict.fromkeys(channels, SCALE), environment()["img2img"]
    card = ModelCard(method, first.options, size or 0, channels, scales, uses, 0, version, source=source)
    with new_file(Path(out), overwrite, *files.values()) as temporary:
        save_model(temporary, card, networks)
    return Path(out)


@dataclass(frozen=True)
class Generator:
    """The content of a `.pth` file.

    Attributes:
        options: the inferred options of the method's config.
        channels: input and output channels.
        weights: tensors by standard name.
        averaged: whether its batch norms have running averages from training, which are left out.
    """

    options: dict[str, Any]
    channels: tuple[int, int]
    weights: dict[str, Tensor]
    averaged: bool = False

    def describe(self) -> str:
        """Return the options and channels in words."""
        options = [f"{name} {value}" for name, value in self.options.items() if name != "generator"]
        return f"{self.options['generator']} ({', '.join(options)}, channels {self.channels[0]} to {self.channels[1]})"


def read_generator(path: Path) -> Generator:
    """Read a generator of the published code.

    Raises:
        ModelFileError: if the file holds anything else.
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


def _with_padding(generator: Generator, padding: str | None, file: Path) -> Generator:
    """Return the generator with the requested padding, which its tensors must leave open."""
    if padding is None:
        return generator
    choose("--padding", padding, MIRRORED)
    if generator.options.get("padding") not in MIRRORED:
        reason = "as its tensors show" if "padding" in generator.options else "as every U-Net does"
        raise ConfigError(f"{file} pads with zeros, {reason}; leave --padding out.")
    return replace(generator, options=generator.options | {"padding": padding})


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, in fp32, without wrappers and prefixes."""
    content = _load(path)
    for _ in range(MAX_WRAPPERS):
        if isinstance(content, Mapping) and (inner := [key for key in WRAPPERS if key in content]):
            content = content[inner[0]]
    if not (isinstance(content, Mapping) and content and all(isinstance(x, Tensor) for x in content.values())):
        raise ModelFileError(
            f"{path} is not a dict of tensors, neither directly nor under {' or '.join(WRAPPERS)}. "
            "Save only the generator's state_dict()."
        )
    weights = {PREFIXES.sub("", str(name), count=1): x for name, x in content.items()}
    if len(owners := dict.fromkeys(match[1] for name in weights if (match := OWNER.match(name)))) > 1:
        raise ModelFileError(
            f"{path} holds several generators, {', '.join(owners)}. Save the state_dict() of only one."
        )
    owner = next(iter(owners), "")
    weights = {name.removeprefix(owner): x for name, x in weights.items() if name.startswith(owner)}
    kept = {name: x for name, x in weights.items() if name.rpartition(".")[2] not in RUNNING}
    if odd := next((name for name, x in kept.items() if not _is_plain(x)), None):
        raise ModelFileError(
            f"{path} holds {quote(Path(odd))}, which is not a plain floating-point array like weights."
        )
    kept = {name: x.float() for name, x in kept.items()}
    broken = next((name for name, x in kept.items() if not x.isfinite().all()), None)
    if broken:
        raise ModelFileError(f"{path} has infinite or NaN values in {quote(broken)}; its training had diverged.")
    return weights


def _is_plain(x: Tensor) -> bool:
    """Return whether `x` is a dense floating-point tensor with all its values in the file, so that its size is real."""
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
            f"{path} is damaged, or holds more than tensors, which could execute code. "
            "Save only the generator's state_dict()."
        ) from error
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch raises anything on damaged input
        raise ModelFileError(f"{path} is damaged, or was not written by torch.save.") from error


def write_pth(network: nn.Module, path: Path) -> None:
    """Write `network` in the standard layout.

    The published code keeps running averages in its batch norms but does not use them by default. Our batch norms keep
    none, so their values before any training are written.

    Raises:
        ConfigError: if the published code has no equivalent network.
    """
    try:
        if isinstance(network, UNet) and len(network.down) < MIN_LEVELS:
            raise ValueError(f"the published code has no U-Net with fewer than {MIN_LEVELS} levels")
        names = standard_names(network)
    except ValueError as reason:
        raise ConfigError(
            f"This model cannot be exported as .pth: {reason}. Export it as onnx or torchscript."
        ) from None
    averaged = {f"{name}.bias" for name, layer in network.named_modules() if isinstance(layer, BatchNorm)}
    weights: dict[str, Tensor] = {}
    for name, x in network.state_dict().items():
        weights[names[name]] = x
        if name in averaged:
            norm = names[name].rpartition(".")[0]
            weights |= {f"{norm}.{average}": start(x) for average, start in RUNNING.items()}
    with as_os_error(path):
        torch.save(weights, path)
