"""A model for other programs: weights for the published code, ONNX, TorchScript."""

import copy
import importlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from img2img.core.method import Image, Input, Label, Noise, Use, Vector
from img2img.errors import ConfigError, ModelFileError, choose, install_hint
from img2img.interchange.layout import fit
from img2img.interchange.onnx_graph import onnx_model, unsupported
from img2img.interchange.pth import read_generator, write_pth
from img2img.interchange.target import new_file
from img2img.metrics.programs import read_onnx, read_torchscript
from img2img.model.file import ModelCard, load_use, read_card
from img2img.model.model import model_file, of_images
from img2img.networks.layers import traceable
from img2img.runtime.compiling import reason
from img2img.runtime.device import environment

CPU = torch.device("cpu")
TOLERANCE = 1e-3  # an eighth of an 8-bit grey level, on the networks' [-1, 1]
Function = Callable[..., Tensor]
Inputs = dict[str, Tensor]  # one input of each kind by its name, in the order of the network's arguments


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: the file.
        format: pth, onnx or torchscript.
        direction: the direction that was exported.
        difference: the largest difference from the model's output, of -1 to 1, for `checked`.
        checked: the shapes of the inputs that were compared, (N, C, H, W) of images; of several inputs, the first.
        notes: what the file does not state, but whoever loads it must know.
    """

    path: Path
    format: str
    direction: str
    difference: float
    checked: list[tuple[int, ...]]
    notes: tuple[str, ...] = ()


def export_model(
    model: str | Path,
    out: str | Path,
    *,
    format: str = "auto",
    direction: str | None = None,
    label: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write one direction of a model for other programs.

    The file gets its name only after it has been read back and compared with the model, on inputs of several sizes.
    Its inputs are those of the network, in this order: "input" (an image), "noise" or "vector" (N, length),
    "label" (N,) int64.

    Args:
        model: a `.safetensors` file of img2img, or a run folder.
        out: the file to write.
        format: "pth" (weights for the published pix2pix and CycleGAN code), "onnx" or "torchscript"; "auto" chooses by
            the name of `out`: .pth, .onnx, .pt.
        direction: by default the model's first.
        label: the class to fix, for a model that takes one; without it the class is an input of the file.
        overwrite: replace `out` if it exists.

    Raises:
        ModelFileError: if there is no readable model.
        ConfigError: if the model has no such direction, the format no such network, a package is missing, or `out`
            exists or cannot be written.
    """
    path, out = model_file(model), Path(out)
    name = _format_of(out) if format == "auto" else format
    chosen, card = choose("format", name, FORMATS), read_card(path)
    direction = direction or next(iter(card.directions))
    if not choose("direction in this model", direction, card.directions).takes_images and name == "pth":
        raise ConfigError(
            f"{path} is a {card.method} model, which draws from noise, and the published code has no such networks; "
            "export it as onnx or torchscript."
        )
    if label is not None:
        choose("--label", label, card.classes)
    use = load_use(path, card, direction)
    if label is not None:
        use = Use(of_images(use, card.classes, label), use.inputs[:1], use.output)
    network, metadata = use.network, describe(card, direction, use, label)
    inputs = list(examples(use, card.channels))
    with new_file(out, overwrite, path) as temporary, warnings.catch_warnings():
        # TorchScript still works, and is the one format that C++ programs load without another library
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        chosen.write(network, inputs[0], metadata, temporary)
        difference = largest_difference(network, chosen.read(temporary, network), inputs)
        if not difference <= TOLERANCE:
            raise ModelFileError(
                f"The {name} file differs from the model by {difference:.2g}, of -1 to 1, so it was not kept. "
                "Please report this with the versions of the packages."
            )
    notes = _unsaid(card.config) if name == "pth" else ()
    return Exported(out, name, direction, difference, [tuple(next(iter(x.values())).shape) for x in inputs], notes)


def _unsaid(config: dict[str, Any]) -> tuple[str, ...]:
    """Return notes on what the tensors of a .pth file do not show."""
    resnet, dropout, notes = config["generator"].startswith("resnet"), config.get("dropout", 0), []
    if resnet and config.get("padding") == "replicate":
        notes.append(
            "the file does not say that the blocks pad by replicating: give img2img import --padding replicate, and "
            "the published ResnetGenerator padding_type='replicate'"
        )
    if dropout and not resnet:
        notes.append(f"the file does not say that the U-Net was trained with dropout {dropout:g}")
    elif dropout not in (0, 0.5):
        notes.append(f"the file says dropout, but not that it was {dropout:g}: both programs take 0.5")
    return tuple(notes)


def _format_of(out: Path) -> str:
    for name, entry in FORMATS.items():
        if entry.suffix == out.suffix.lower():
            return name
    suffixes = ", ".join(f"{entry.suffix} ({name})" for name, entry in FORMATS.items())
    raise ConfigError(f"The name {out} does not tell the format. Use a name that ends in {suffixes}, or --format.")


def describe(card: ModelCard, direction: str, use: Use, label: str | None = None) -> dict[str, str]:
    """Return what a program must know to use one direction, towards one class; kept inside the exported file.

    A file whose only input is an image says no more of its inputs than in_channels and scale_in.
    """
    facts: dict[str, Any] = {"method": card.method, "direction": direction, "multiple": use.network.multiple}
    facts |= {
        name: x for name, x in asdict(card.directions[direction]).items() if name not in ("labelled", "takes_images")
    }
    facts |= {"img2img": environment()["img2img"], "source": card.source} | ({"label": label} if label else {})
    if [type(x) for x in use.inputs] != [Image]:
        facts["inputs"] = input_names(use.inputs)
        facts |= dict([("noise", x.kind) for x in use.inputs if isinstance(x, Noise)])
        facts |= {"classes": card.classes} if card.classes else {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def input_names(inputs: tuple[Input, ...]) -> list[str]:
    """Return the names of a network's inputs in exported files; a second input of a kind gets a number."""
    names: list[str] = []
    for x in inputs:
        kind = {Image: "input", Noise: "noise", Label: "label", Vector: "vector"}[type(x)]
        names.append(kind if kind not in names else f"{kind}{len(names) + 1}")
    return names


def examples(use: Use, channels: Mapping[str, int]) -> Iterator[Inputs]:
    """Yield inputs of several batch sizes and, for images, heights and widths that the network takes.

    Args:
        use: the network and its inputs.
        channels: of the images of each domain.
    """
    multiple = use.network.multiple
    assert isinstance(multiple, int)
    small = -(-64 // multiple) * multiple
    large = small + multiple
    random = torch.Generator().manual_seed(0)

    def example(x: Input, batch: int, height: int, width: int) -> Tensor:
        if isinstance(x, Noise):
            return x.draw(batch, generator=random)
        if isinstance(x, Label):
            return torch.randint(x.classes, (batch,), generator=random)
        if isinstance(x, Vector):
            return torch.randn(batch, x.length, generator=random)
        return torch.rand(batch, channels[x.domain], height, width, generator=random) * 2 - 1

    for size in ((1, small, small), (1, large, small), (2, small, large), (3, small, small)):
        yield {name: example(x, *size) for name, x in zip(input_names(use.inputs), use.inputs, strict=True)}


@torch.inference_mode()
def largest_difference(network: nn.Module, exported: Function, inputs: list[Inputs]) -> float:
    return max(float((network(*x.values()) - exported(*x.values())).abs().max()) for x in inputs)


def _package(name: str) -> Any:
    """Return the module `name`, of the extra for ONNX."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(install_hint("Export to ONNX", name.partition(".")[0], "onnx")) from error


def _write_onnx(network: nn.Module, example: Inputs, metadata: dict[str, str], path: Path) -> None:
    onnx, _ = _package("onnx"), _package("onnxruntime")
    model = onnx_model(onnx, network, example, metadata)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise unsupported(network, error) from error
    onnx.save(model, str(path))


def _write_torchscript(network: nn.Module, example: Inputs, metadata: dict[str, str], path: Path) -> None:
    inputs = tuple(example.values())
    try:
        traced = torch.jit.trace(traceable(network), inputs, check_trace=False)  # type: ignore[no-untyped-call]
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"{type(network).__name__} cannot be traced for TorchScript ({reason(error)}).") from error
    file = io.BytesIO()  # torch.jit.save ends the process where the disk is full
    torch.jit.save(traced, file, _extra_files={"img2img.json": json.dumps(metadata)})
    path.write_bytes(file.getbuffer())


def _read_pth(path: Path, network: nn.Module) -> Function:
    network = copy.deepcopy(network)
    network.load_state_dict(fit(read_generator(path).weights, network))
    return network


@dataclass(frozen=True)
class Format:
    """A file format: the usual suffix, the writer, and the reader, which returns the network as a function."""

    suffix: str
    write: Callable[[nn.Module, Inputs, dict[str, str], Path], None]
    read: Callable[[Path, nn.Module], Function]


FORMATS = {
    "pth": Format(".pth", lambda network, example, metadata, path: write_pth(network, path), _read_pth),
    "onnx": Format(".onnx", _write_onnx, lambda path, _: read_onnx(path, CPU)),
    "torchscript": Format(".pt", _write_torchscript, lambda path, _: read_torchscript(path, CPU)),
}
