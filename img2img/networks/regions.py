"""Networks in parts: each part is compiled separately, equal parts only once; or its activations are recomputed.

A part is a residual block, or the layers between two of them: a level of a U-Net, a whole discriminator.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from img2img.networks.resnet import ResidualBlock, ResNet
from img2img.networks.unet import UNet
from img2img.runtime.compiling import compiled
from img2img.runtime.device import needs_second_derivative

BACKEND = "inductor"
VARIANTS = 64  # the number of shapes and kinds of parts that may be compiled

Part = Callable[[Tensor], Tensor]


class Stack(nn.Sequential):
    """Some consecutive layers of a network, which owns them."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Parts:
    """The forward pass of a sequence of layers, part by part; it replaces the sequence's own."""

    def __init__(self, sequence: nn.Sequential) -> None:
        self.modules = list(_split(sequence))
        self.compiled: list[Compiled] = []
        self.checkpointed = False

    @classmethod
    def of(cls, sequence: nn.Sequential) -> "Parts":
        if not isinstance(sequence.forward, Parts):
            sequence.forward = cls(sequence)  # type: ignore[method-assign]
        return sequence.forward

    def __call__(self, x: Tensor) -> Tensor:
        with_gradients = torch.is_grad_enabled()
        for i, module in enumerate(self.modules):
            part: Part = self.compiled[i].choose(x) if self.compiled and with_gradients else module
            x = checkpoint(part, x, use_reentrant=False) if self.checkpointed and with_gradients else part(x)
        return x


class Compiled:
    """A part whose forward and backward passes are compiled for each kind of input, when one first arrives.

    If that fails, `failed` is called with the error, and the part stays eager.
    """

    def __init__(self, module: nn.Module, failures: list[Exception], failed: Callable[[Exception], None]) -> None:
        self.module, self.failures, self.failed = module, failures, failed
        self.fast: dict[Any, Part] = {}  # by the kind of input

    def choose(self, x: Tensor) -> Part:
        """Return the function to call with `x`: the compiled part, if it can be compiled."""
        if self.failures or needs_second_derivative():
            return self.module
        autocast = torch.is_autocast_enabled(x.device.type)
        kind = (x.shape, x.stride(), x.dtype, x.requires_grad, autocast)
        if kind not in self.fast:
            fast = partial(_compiled(type(self.module).forward, BACKEND, x.is_cpu and not autocast), self.module)
            try:
                self._try(fast, x)
            except Exception as error:  # of any kind: it comes from the compiler
                self.failed(error)
                return self.module
            self.fast[kind] = fast
        return self.fast[kind]

    def _try(self, fast: Part, x: Tensor) -> None:
        """Run forward and backward once, and leave gradients, buffers and random states as they were."""
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            x = x.detach().requires_grad_(x.requires_grad)
            out = fast(x)
            wanted = [p for p in (x, *self.module.parameters()) if p.requires_grad]
            torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@cache
def _compiled(forward: Callable[..., Tensor], backend: str, keep_layout: bool) -> Callable[..., Tensor]:
    """Compile the `forward` of a class: among modules that are built alike, PyTorch compiles one.

    PyTorch would convert all convolutions on a CPU to channels_last, which makes them slower in fp32; `keep_layout`
    prevents that.
    """
    options: dict[str, Any] | None = {"layout_optimization": False} if keep_layout and backend == "inductor" else None
    return compiled(forward, backend, VARIANTS, options)


def compile_parts(networks: Iterable[nn.Module], failed: Callable[[Exception], None]) -> None:
    """Compile `networks` for training, in place; after a failure, which `failed` is called with, all run eagerly.

    Passes without gradients (samples, held-out scores) are not compiled.
    """
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        failed(error)

    for sequence in (s for network in networks for s in _sequences(network)):
        parts = Parts.of(sequence)
        parts.compiled = [Compiled(module, failures, fail) for module in parts.modules]


def checkpoint_parts(networks: Iterable[nn.Module]) -> int:
    """Make ResNets and U-Nets keep only the inputs of each part, and recompute the rest in the backward pass.

    Returns:
        The number of `networks` of that kind. Others may keep running averages, which would be updated twice.
    """
    fitting = [network for network in networks if isinstance(network, ResNet | UNet)]
    for sequence in (s for network in fitting for s in _sequences(network)):
        Parts.of(sequence).checkpointed = True
    return len(fitting)


def _sequences(network: nn.Module) -> Iterator[nn.Sequential]:
    """Yield the outermost sequences of layers."""
    for child in network.children():
        if isinstance(child, nn.Sequential):
            yield child
        else:
            yield from _sequences(child)


def _split(sequence: nn.Sequential) -> Iterator[nn.Module]:
    """Yield the residual blocks, and the layers between them as stacks."""
    for alone, group in groupby(sequence, lambda layer: isinstance(layer, ResidualBlock)):
        layers = list(group)
        yield from layers if alone else [Stack(*layers)]
