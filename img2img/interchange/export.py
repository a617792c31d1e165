"""A model for other programs: weights for the published code, ONNX, TorchScript."""

import copy
import importlib
import io
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from img2img.errors import ConfigError, ModelFileError, choose, install_hint
from img2img.interchange.layout import fit
from img2img.interchange.onnx_graph import onnx_model
from img2img.interchange.pth import read_generator, write_pth
from img2img.interchange.target import new_file
from img2img.model.file import Direction, ModelCard, load_use, read_card
from img2img.model.model import model_file, of_images
from img2img.networks.layers import traceable
from img2img.runtime.device import environment

TOLERANCE = 1e-3  # an eighth of an 8-bit grey level, on the networks' [-1, 1]
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: the file.
        format: pth, onnx or torchscript.
        direction: the direction it translates in.
        difference: the largest difference to the model's output, of -1 to 1, in `checked`.
        checked: the shapes (N, C, H, W) of the inputs that were compared.
        notes: what the file does not say, and whoever loads it has to know.
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
    """Writes one direction of a model for other programs.

    The file gets its name only after it has been read back and compared with the model, on inputs of several sizes.

    Args:
        model: a `.safetensors` file of img2img, or a run folder.
        out: the file to write.
        format: "pth" (weights for the published pix2pix and CycleGAN code), "onnx" or "torchscript"; "auto" goes by
            the name of `out`: .pth, .onnx, .pt.
        direction: by default the model's first.
        label: the class to translate to, of a model that takes one.
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
    if not card.directions[choose("direction in this model", direction, card.uses)].takes_images:
        raise ConfigError(f"{path} is a {card.method} model, which draws from noise; only those that translate can go.")
    if label is not None:
        choose("--label", label, dict.fromkeys(card.classes))
    network, spec = of_images(load_use(path, card, direction), card.classes, label), card.directions[direction]
    metadata = describe(card, direction, network, label)
    inputs = list(examples(spec.in_channels, network))
    with new_file(out, overwrite, path) as temporary, warnings.catch_warnings():
        # TorchScript still works, and is the one format that C++ programs load without another library
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        chosen.write(network, spec, metadata, temporary)
        difference = largest_difference(network, chosen.read(temporary, network), inputs)
        if not difference <= TOLERANCE:
            raise ModelFileError(
                f"The {name} file differs from the model by {difference:.2g}, of -1 to 1, so it was not kept. "
                "Please report this with the versions of the packages."
            )
    notes = _unsaid(card.config) if name == "pth" else ()
    return Exported(out, name, direction, difference, [tuple(x.shape) for x in inputs], notes)


def _unsaid(config: dict[str, Any]) -> tuple[str, ...]:
    """What the tensors of a .pth file do not show."""
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
    raise ConfigError(f"The name {out} does not tell the format. End it in {suffixes}, or give --format.")


def describe(card: ModelCard, direction: str, network: nn.Module, label: str | None = None) -> dict[str, str]:
    """Return what a program must know to use one direction, towards one class; it is kept inside the exported file."""
    spec = asdict(card.directions[direction])
    del spec["labelled"], spec["takes_images"]  # what is exported takes images and nothing else
    facts = {"method": card.method, "direction": direction, "multiple": network.multiple, **spec}
    facts |= {"img2img": environment()["img2img"], "source": card.source} | ({"label": label} if label else {})
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def examples(channels: int, network: nn.Module) -> Iterator[Tensor]:
    """Inputs of several batch sizes, heights and widths, all that the network takes; noise in [-1, 1]."""
    multiple = network.multiple
    assert isinstance(multiple, int)
    small = -(-64 // multiple) * multiple
    large = small + multiple
    random = torch.Generator().manual_seed(0)
    for batch, height, width in ((1, small, small), (1, large, small), (2, small, large), (3, small, small)):
        yield torch.rand(batch, channels, height, width, generator=random) * 2 - 1


@torch.inference_mode()
def largest_difference(network: nn.Module, exported: Function, inputs: list[Tensor]) -> float:
    return max(float((network(x) - exported(x)).abs().max()) for x in inputs)


def _package(name: str) -> Any:
    """The module `name`, of the extra for ONNX."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(install_hint("Export to ONNX", name.partition(".")[0], "onnx")) from error


def _write_onnx(network: nn.Module, spec: Direction, metadata: dict[str, str], path: Path) -> None:
    onnx, _ = _package("onnx"), _package("onnxruntime")
    model = onnx_model(onnx, network, (spec.in_channels, spec.out_channels), metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _read_onnx(path: Path, _: nn.Module) -> Function:
    session = _package("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])


def _write_torchscript(network: nn.Module, spec: Direction, metadata: dict[str, str], path: Path) -> None:
    example = next(examples(spec.in_channels, network))
    traced = torch.jit.trace(traceable(network), example, check_trace=False)  # type: ignore[no-untyped-call]
    file = io.BytesIO()  # torch.jit.save ends the process where the disk is full
    torch.jit.save(traced, file, _extra_files={"img2img.json": json.dumps(metadata)})
    path.write_bytes(file.getbuffer())


def _read_torchscript(path: Path, _: nn.Module) -> Function:
    loaded: Function = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return loaded


def _read_pth(path: Path, network: nn.Module) -> Function:
    network = copy.deepcopy(network)
    network.load_state_dict(fit(read_generator(path).weights, network))
    return network


@dataclass(frozen=True)
class Format:
    """A file format: the usual end of its name, its writer, and what makes a function of a file again."""

    suffix: str
    write: Callable[[nn.Module, Direction, dict[str, str], Path], None]
    read: Callable[[Path, nn.Module], Function]


FORMATS = {
    "pth": Format(".pth", lambda network, spec, metadata, path: write_pth(network, path), _read_pth),
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
    "torchscript": Format(".pt", _write_torchscript, _read_torchscript),
}
