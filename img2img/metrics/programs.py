"""A network of features in a file of the user: TorchScript, an exported program, or ONNX.

Such a file is a program. Opening it runs its author's code: use only files from people you trust.
"""

import importlib.util
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from img2img.errors import ConfigError, DataError, ModelFileError, install_hint
from img2img.metrics.network import Extract
from img2img.runtime.compiling import reason

Program = Callable[..., Any]


def open_program(path: Path, device: torch.device) -> Extract:
    """Return a function that gives features (N, D) of images (N, C, H, W) in [-1, 1].

    The program gets one image at a time, and gives features (1, D), or a map (1, D, h, w) that is averaged.

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
    except Exception as error:  # each library raises its own errors, down to plain RuntimeError
        raise ModelFileError(
            f"{path} is damaged, or does not match its suffix: {reason(error).rstrip(' .:')}."
        ) from error

    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.cat([_features(path, program, image) for image in torch.split(images, 1)]), None

    return extract


def _features(path: Path, program: Program, image: Tensor) -> Tensor:
    shape = "×".join(map(str, image.shape))
    try:
        out = program(image)
    except Exception as error:
        raise DataError(f"{path} fails on an image of {shape}: {reason(error).rstrip(' .:')}.") from error
    if isinstance(out, Tensor) and out.ndim == 4:
        out = out.mean((2, 3))
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 1:
        output = "×".join(map(str, out.shape)) if isinstance(out, Tensor) else type(out).__name__
        raise DataError(f"{path} returns {output} for an image of {shape}; it must return features, 1×D or 1×D×h×w.")
    return out.float()


def read_torchscript(path: Path, device: torch.device) -> Program:
    """Open a TorchScript file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".torch.jit.load. is deprecated")  # existing files still open
        program: Program = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    return program


def _exported(path: Path, device: torch.device) -> Program:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not an archive")  # PyTorch would log a traceback of its own
    return torch.export.load(path).module().to(device)


def read_onnx(path: Path, device: torch.device) -> Program:
    """Open an ONNX file; it runs on the CPU, and gives its first output."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError(install_hint(str(path), "onnxruntime", "onnx"))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        values = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=False)}
        return torch.from_numpy(session.run(None, values)[0])

    return run


PROGRAMS: dict[str, Callable[[Path, torch.device], Program]] = {
    ".pt": read_torchscript,
    ".pt2": _exported,
    ".onnx": read_onnx,
}
