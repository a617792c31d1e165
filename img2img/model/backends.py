"""The backends that run a network: PyTorch as it is, or compiled.

Each gives a function from images (N, C, H, W) in [-1, 1] to images, in fp32.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from img2img.errors import ConfigError, choose
from img2img.runtime import compiling
from img2img.runtime.device import Runtime, is_out_of_memory

Forward = Callable[[Tensor], Tensor]

COMPILER = "inductor"
TOLERANCE = 2 * 2 / 255  # root mean square, two grey levels of 255 in the range from -1 to 1
PROBE_EDGE = 128  # of the picture on which bf16 is compared with fp32
SIZES = 2**16  # the number of image sizes that may be compiled for


def eager(network: nn.Module, runtime: Runtime) -> nn.Module:
    """Run the network in PyTorch, operation by operation."""
    if runtime.dtype is torch.bfloat16:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.to(torch.bfloat16)  # once, instead of in every call
    runtime.place(network)
    return network


def compiled(network: nn.Module, runtime: Runtime) -> Forward:
    """Compile the network for each image size separately: a program for several would depend on which came first."""
    program = compiling.compiled(eager(network, runtime), COMPILER, SIZES)

    def forward(x: Tensor) -> Tensor:
        try:
            out: Tensor = program(x)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ConfigError(f"--backend compile does not work here: {compiling.reason(error)}") from error
        return out

    return forward


BACKENDS: dict[str, Callable[[nn.Module, Runtime], Forward]] = {
    "eager": eager,
    "compile": compiled,
}


class Way(NamedTuple):
    """A network that is ready to run."""

    forward: Forward
    precision: str  # "fp32" or "bf16"
    backend: str  # a name of `BACKENDS`
    label: str  # device, precision and backend, in words


def prepare(
    network: nn.Module, runtime: Runtime, backend: str, may_change: bool, channels: int, reload: Callable[[], nn.Module]
) -> Way:
    """Make `network` ready to run, in a way that depends only on the network and the machine, never on the images.

    Args:
        network: on the CPU, as loaded; may be changed in place.
        runtime: device and precision.
        backend: a name of `BACKENDS`, or "auto".
        may_change: whether to use fp32 if the results for the `probe` in bf16 differ too much.
        channels: of the images.
        reload: returns `network` as it was loaded.
    """
    backend = "eager" if backend == "auto" else backend
    build = choose("backend", backend, BACKENDS)
    suffix = f", {backend}" if backend != "eager" else ""
    if not may_change or runtime.dtype is torch.float32:
        return Way(build(network, runtime), runtime.precision, backend, f"{runtime.describe()}{suffix}")
    sample = probe(channels, int(network.multiple)).to(runtime.device)  # type: ignore[arg-type]
    with torch.no_grad():
        reference = network.to(runtime.device)(sample).cpu()
        forward = build(network, runtime)
        error = difference(forward(sample).cpu(), reference)
    if error <= TOLERANCE:
        return Way(forward, "bf16", backend, f"{runtime.describe()}{suffix}, {error * 255 / 2:.2f}/255 from fp32")
    fp32 = replace(runtime, dtype=torch.float32)
    label = f"{fp32.describe()}{suffix}, because bf16 was {error * 255 / 2:.2f}/255 away"
    return Way(build(reload(), fp32), "fp32", backend, label)


def probe(channels: int, multiple: int) -> Tensor:
    """Return a fixed picture (1, channels, H, W) in [-1, 1] of slopes, edges and grain."""
    edge = -(-PROBE_EDGE // multiple) * multiple
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, channels, 16, 16)).astype(np.float32))
    slopes = nn.functional.interpolate(coarse, (edge, edge), mode="bilinear")
    edges = nn.functional.interpolate(coarse, (edge, edge))
    grain = torch.from_numpy(rng.normal(0, 0.05, (1, channels, edge, edge)).astype(np.float32))
    return (torch.where(torch.arange(edge) < edge // 2, slopes, edges) + grain).clamp(-1, 1)


def difference(x: Tensor, y: Tensor) -> float:
    """Return the root mean square of x - y."""
    return float((x - y).square().mean().sqrt())
