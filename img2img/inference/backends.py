"""What runs a network: PyTorch as it is, compiled, or a runtime made for CPUs. All are functions from (N, C, H, W) in
[-1, 1] to the same, fp32, and all are compared with PyTorch in fp32 before they are used unasked.
"""

import importlib.util
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from img2img.compiling import Compiling, reason
from img2img.errors import ConfigError, choose, needs
from img2img.networks.layers import traceable
from img2img.runtime import Runtime, has_amx

Forward = Callable[[Tensor], Tensor]

COMPILER = "inductor"
TOLERANCE = 2 * 2 / 255  # root mean square, two grey levels of 255 in the range from -1 to 1
PAYS_FROM = 64 * 256 * 256  # pixels in a job from which on another backend repays its preparation


def eager(network: nn.Module, runtime: Runtime) -> nn.Module:
    """PyTorch, operation by operation."""
    if runtime.dtype is torch.bfloat16:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.to(torch.bfloat16)  # once, and not at every call
    runtime.prepare(network)
    return network


def compiled(network: nn.Module, runtime: Runtime) -> Forward:
    """PyTorch, compiled."""
    program = torch.compile(eager(network, runtime), backend=COMPILER)

    def forward(x: Tensor) -> Tensor:
        try:
            out: Tensor = program(x)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ConfigError(f"--backend compile does not work here: {reason(error)}") from error
        return out

    return forward


class Tried:
    """A network that is compiled in the course of a long job, if that is faster and draws nearly the same.

    Args:
        network: as `eager` returns it.
        runtime: device and precision.
        pixels: how many are to come.
        tolerance: root mean square by which compiled outputs may differ from the others.
        say: gets what was found.
    """

    def __init__(
        self, network: Forward, runtime: Runtime, pixels: int, tolerance: float, say: Callable[[str], Any]
    ) -> None:
        self.network, self.left, self.tolerance = network, pixels / 1e6, tolerance
        self.forward = network
        self.lock = threading.Lock()
        self.compiling = Compiling(None, self._turn_on, runtime, "batches")
        self.compiling.begin(say)

    def __call__(self, x: Tensor) -> Tensor:
        if self.compiling.decided is not None:
            return self.forward(x)
        with self.lock:
            work = x.shape[0] * x.shape[2] * x.shape[3] / 1e6
            self.left -= work
            with self.compiling.step(work, self.left):
                return self.forward(x)

    def _turn_on(self, failed: Callable[[Exception], None]) -> Callable[[bool], None]:
        program, checked = torch.compile(self.network, backend=COMPILER), False

        def forward(x: Tensor) -> Tensor:
            nonlocal checked
            try:
                out: Tensor = program(x)
                error = 0.0 if checked else difference(out, self.network(x))
                if not error <= self.tolerance:  # nor if it is NaN
                    raise ArithmeticError(f"results were {error * 255 / 2:.2f}/255 away")
                checked = True
            except Exception as error:  # whatever the compiler cannot do
                if is_out_of_memory(error):
                    raise
                failed(error)
                turn(False)
                out = self.network(x)
            return out

        def turn(on: bool) -> None:
            self.forward = forward if on else self.network

        turn(True)
        return turn


def openvino(network: nn.Module, runtime: Runtime) -> Forward:
    """OpenVINO (extra `openvino`), on CPUs."""
    if importlib.util.find_spec("openvino") is None:
        raise ConfigError(needs("The backend openvino", "openvino", "openvino"))
    if runtime.device.type != "cpu":
        raise ConfigError(f"The backend openvino runs on the CPU, not on {runtime.device.type}.")
    import openvino as ov

    channels = next(network.parameters()).shape[1]
    edge = max(int(network.multiple), 64)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it traces, which PyTorch has begun to advise against
        model = ov.convert_model(traceable(network), example_input=torch.zeros(1, channels, edge, edge))
    model.reshape([-1, channels, -1, -1])
    precision = "bf16" if runtime.dtype is torch.bfloat16 else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    program = ov.Core().compile_model(model, "CPU", settings)

    def forward(x: Tensor) -> Tensor:
        result: dict[Any, np.ndarray[Any, Any]] = program(np.ascontiguousarray(x.numpy()))
        return torch.from_numpy(np.array(result[0]))

    return forward


BACKENDS: dict[str, Callable[[nn.Module, Runtime], Forward]] = {
    "eager": eager,
    "compile": compiled,
    "openvino": openvino,
}


def prepare(
    network: nn.Module,
    runtime: Runtime,
    backend: str,
    may_change: bool,
    sample: Tensor,
    pixels: int,
    reload: Callable[[], nn.Module],
    say: Callable[[str], Any],
) -> tuple[Forward, str]:
    """The fastest way to run `network` that is close enough to fp32, and a few words on it.

    Args:
        network: on the CPU, as loaded; it may be changed in place.
        runtime: device and precision.
        backend: a name of `BACKENDS`, or "auto".
        may_change: whether results may differ by rounding: fp32 takes over where bf16 is not close enough, and a long
            job tries to compile.
        sample: a small batch of the images to come.
        pixels: how many pixels are to come, for choosing what repays its preparation.
        reload: gives `network` as it was.
        say: gets what is found out while the job goes on.
    """

    tries = backend == "auto" and may_change

    def improved(forward: Forward, runtime: Runtime, error: float = 0.0) -> Forward:
        eagerly = tries and isinstance(forward, nn.Module)
        return Tried(forward, runtime, pixels, TOLERANCE - error, say) if eagerly else forward

    names = candidates(runtime, pixels) if backend == "auto" else [backend]
    checked = (runtime.dtype is torch.bfloat16 and may_change) or (backend == "auto" and names[0] != "eager")
    sample = sample.to(runtime.device)
    reference = network.to(runtime.device)(sample).cpu() if checked else None
    for name in names:
        forward = choose("backend", name, BACKENDS)(network, runtime)
        label = f"{runtime.describe()}{f', {name}' if name != 'eager' else ''}"
        if reference is None:
            return improved(forward, runtime), label
        error = difference(forward(sample).cpu(), reference)
        if error <= TOLERANCE:
            return improved(forward, runtime, error), f"{label}, {error * 255 / 2:.2f}/255 from fp32"
    fp32 = replace(runtime, dtype=torch.float32)
    label = f"{fp32.describe()}, because bf16 was {error * 255 / 2:.2f}/255 away"
    return improved(eager(reload(), fp32), fp32), label


def candidates(runtime: Runtime, pixels: int) -> list[str]:
    """Backends to try, the fastest first. OpenVINO gains on CPUs with AMX, and only in bf16."""
    suits = runtime.device.type == "cpu" and runtime.dtype is torch.bfloat16 and has_amx()
    repays = suits and pixels >= PAYS_FROM
    return [*(["openvino"] if repays and importlib.util.find_spec("openvino") else []), "eager"]


def difference(x: Tensor, y: Tensor) -> float:
    """The root mean square of x - y."""
    return float((x - y).square().mean().sqrt())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is one of the ways in which PyTorch says that memory is full."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
