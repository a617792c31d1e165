"""A network of features in a file of the user's: TorchScript, an exported program, or ONNX.

Such a file is a program. Opening it runs what its author wrote: use files of people you trust.
"""

import importlib.util
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from img2img.errors import ConfigError, DataError, ModelFileError, install_hint
from img2img.metrics.features import Run

Program = Callable[[Tensor], object]


def open_program(path: Path, device: torch.device) -> Run:
    """Features (1, D), or a map (1, D, h, w) that is averaged, of one image (1, C, H, W) in [-1, 1] at a time.

    Raises:
        ConfigError: if onnxruntime is needed and not installed.
        ModelFileError: if the file is missing or cannot be opened.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no file {path} for --features.")
    try:
        program = PROGRAMS[path.suffix](path, device)
    except ConfigError:
        raise
    except Exception as error:  # each of the libraries has its own errors, down to plain RuntimeError
        raise ModelFileError(f"{path} is damaged, or is not what its name ends in: {_first_line(error)}.") from error

    def run(images: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.cat([_features(path, program, image) for image in torch.split(images, 1)]), None

    return run


def _features(path: Path, program: Program, image: Tensor) -> Tensor:
    shape = "×".join(map(str, image.shape))
    try:
        out = program(image)
    except Exception as error:
        raise DataError(f"{path} fails at an image of {shape}: {_first_line(error)}.") from error
    if isinstance(out, Tensor) and out.ndim == 4:
        out = out.mean((2, 3))
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 1:
        given = "×".join(map(str, out.shape)) if isinstance(out, Tensor) else type(out).__name__
        raise DataError(f"{path} gives {given} for an image of {shape}. It must give features, 1×D or 1×D×h×w.")
    return out.float()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".:")


def _torchscript(path: Path, device: torch.device) -> Program:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".torch.jit.load. is deprecated")  # not for files that are there
        program: Program = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    return program


def _exported(path: Path, device: torch.device) -> Program:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive")  # where PyTorch would log a traceback of its own
    return torch.export.load(path).module().to(device)


def _onnx(path: Path, device: torch.device) -> Program:
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError(install_hint(str(path), "onnxruntime", "onnx"))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: torch.from_numpy(session.run(None, {name: image.cpu().numpy()})[0])


PROGRAMS: dict[str, Callable[[Path, torch.device], Program]] = {
    ".pt": _torchscript,
    ".pt2": _exported,
    ".onnx": _onnx,
}
