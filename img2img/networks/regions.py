"""Networks in parts: each part compiled by itself, equal parts once; or its activations computed again when needed.

A part is a residual block, or a run of layers between two of them: a level of a U-Net, a whole discriminator.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from img2img.networks.resnet import ResidualBlock, ResNet
from img2img.networks.unet import UNet
from img2img.runtime import needs_second_derivative

BACKEND = "inductor"
VARIANTS = 64  # shapes and kinds of parts that are compiled; PyTorch's own limit is 8 for all of them together

Part = Callable[[Tensor], Tensor]


class Stack(nn.Sequential):
    """A run of layers of a network, which owns them."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Parts:
    """What takes the place of the forward pass of a sequence of layers: its parts one after the other."""

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
    """A part that is compiled, forward and backward pass at once, when inputs of a kind first come.

    Where that fails, `failed` is told why, and the part stays eager.
    """

    def __init__(self, module: nn.Module, going: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        self.module, self.going, self.failed = module, going, failed
        self.tried: set[Any] = set()
        self.fast: Part = partial(_compiled(type(module).forward, BACKEND), module)

    def choose(self, x: Tensor) -> Part:
        """What to call with `x`: the compiled part where it can be had."""
        if not self.going() or needs_second_derivative():
            return self.module
        kind = (x.shape, x.stride(), x.dtype, x.requires_grad, torch.is_autocast_enabled(x.device.type))
        if kind not in self.tried:
            try:
                self._try(x)
            except Exception as error:  # whatever the compiler cannot do
                self.failed(error)
                return self.module
            self.tried.add(kind)
        return self.fast

    def _try(self, x: Tensor) -> None:
        """Once forward and back, which leaves no trace: neither in gradients nor in buffers nor in random states."""
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            x = x.detach().requires_grad_(x.requires_grad)
            out = self.fast(x)
            wanted = [p for p in (x, *self.module.parameters()) if p.requires_grad]
            torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@cache
def _compiled(forward: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    """The `forward` of a class. Of all its modules that are built alike, PyTorch compiles one."""
    return torch.compile(forward, fullgraph=True, dynamic=False, backend=backend)


def compile_parts(networks: Iterable[nn.Module], failed: Callable[[Exception], None]) -> None:
    """Compiles `networks` for training, in place; after the first failure, of which `failed` is told, all run eagerly.

    Passes without gradients (samples, held-out scores) are not compiled.
    """
    torch._dynamo.config.recompile_limit = VARIANTS
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        failed(error)

    for sequence in (s for network in networks for s in _sequences(network)):
        parts = Parts.of(sequence)
        parts.compiled = [Compiled(module, lambda: not failures, fail) for module in parts.modules]


def checkpoint_parts(networks: Iterable[nn.Module]) -> int:
    """Makes ResNets and U-Nets keep only what goes into each part, and compute the rest again when going back.

    Returns:
        How many of `networks` are of that kind. Others may keep running averages, which would be updated twice.
    """
    fitting = [network for network in networks if isinstance(network, ResNet | UNet)]
    for sequence in (s for network in fitting for s in _sequences(network)):
        Parts.of(sequence).checkpointed = True
    return len(fitting)


def _sequences(network: nn.Module) -> Iterator[nn.Sequential]:
    """The outermost sequences of layers."""
    for child in network.children():
        if isinstance(child, nn.Sequential):
            yield child
        else:
            yield from _sequences(child)


def _split(sequence: nn.Sequential) -> Iterator[nn.Module]:
    """Residual blocks, and the runs of layers between them."""
    for alone, group in groupby(sequence, lambda layer: isinstance(layer, ResidualBlock)):
        layers = list(group)
        yield from layers if alone else [Stack(*layers)]


class Work:
    """Counts what convolutions and linear layers of `networks` multiply within the block, in `flop`.

    A multiply-add counts as 2, and a pass with gradients as 3 without.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.layers = [
            m for n in networks for m in n.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        ]
        self.flop = 0

    def __enter__(self) -> "Work":
        self.hooks = [layer.register_forward_hook(self._count) for layer in self.layers]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _count(self, layer: Any, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            products = out.numel() * layer.in_features
        else:  # a transposed convolution multiplies at each pixel of its input, others at each of their output
            pixels = (inputs[0] if layer.transposed else out)[:, 0].numel()
            products = pixels * layer.in_channels * layer.out_channels * math.prod(layer.kernel_size) // layer.groups
        self.flop += 2 * products * (3 if torch.is_grad_enabled() else 1)
