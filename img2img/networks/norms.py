"""Norms, by the statistics of each image alone, of the batch, or of the batches of all processes."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.errors import choose
from img2img.networks.convolutions import fast_on_cpu
from img2img.runtime.device import several_processes


def normalize(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, together: bool = False
) -> Tensor:
    """Return `x` (N, C, H, W) with zero mean and unit variance per channel, times `weight` plus `bias` (C).

    The statistics, computed in fp32, are those of each image, or of the images `together`. A single pixel, normalised
    alone, becomes `bias`, or zero.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not fast_on_cpu(x):  # type: ignore[attr-defined, no-untyped-call]
        return _normalize(x, weight, bias, eps, together)
    normalized: Tensor = _Normalized.apply(x, weight, bias, eps, together)
    return normalized


def _normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, together: bool) -> Tensor:
    if together:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    return torch.group_norm(x, x.shape[1], weight, bias, eps)  # unlike F.instance_norm, in any layout and of any size


class _Normalized(torch.autograd.Function):
    """`_normalize` by the kernels of batch norm, image by image if need be, in channels_last on a CPU.

    There they take 1/10 to 1/50 of the time of group norm's: of its backward pass, and of its forward pass on maps of
    less than 1024 pixels. And on larger maps, group norm's variance is a difference of squares, off by percents if
    the mean is twenty times the deviation. Without a weight in fp32, these kernels would round the statistics to bf16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, together: bool) -> Tensor:
        size, kind = len(x) if together else 1, x.dtype if x.dtype is torch.float64 else torch.float32
        scale = torch.ones(x.shape[1], dtype=kind) if weight is None else weight
        out, moments = torch.empty_like(x), torch.empty(len(x) // size, 2, x.shape[1], dtype=kind)
        for part, into, (mean, inverse) in zip(_split(x, size), _split(out, size), moments, strict=True):
            torch.ops.aten.native_batch_norm.out(
                part, scale, bias, None, None, True, 0.0, eps, out=into, save_mean=mean, save_invstd=inverse
            )
        ctx.save_for_backward(x, weight, bias, scale, moments)
        ctx.eps, ctx.together, ctx.size = eps, together, size
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, moments = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        if torch.is_grad_enabled():  # the gradient is to be differentiated
            inputs = [tensor for tensor, one in zip((x, weight, bias), needed, strict=True) if one]
            again = _normalize(x, weight, bias, ctx.eps, ctx.together)
            found = iter(torch.autograd.grad(again, inputs, gradient, create_graph=True))
            return *(next(found) if one else None for one in needed), None, None
        gradient = gradient.contiguous(memory_format=torch.channels_last)  # a part of a concatenation's is not
        of_x, of_scale, of_bias = torch.empty_like(x), torch.zeros_like(scale), torch.zeros_like(scale)
        for part, of_part, into, (mean, inverse) in zip(
            _split(x, ctx.size), _split(gradient, ctx.size), _split(of_x, ctx.size), moments, strict=True
        ):
            kernel = torch.ops.aten.native_batch_norm_backward
            found = kernel(of_part, part, scale, None, None, mean, inverse, True, ctx.eps, [True, needed[1], needed[2]])
            into.copy_(found[0])  # faster than torch.cat of all
            for total, one, wanted in zip((of_scale, of_bias), found[1:], needed[1:], strict=True):
                if wanted:
                    total += one
        return of_x, of_scale if needed[1] else None, of_bias if needed[2] else None, None, None


def _split(x: Tensor, size: int) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = x.split(size)  # type: ignore[no-untyped-call]
    return parts


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per image and channel, without learned parameters (Ulyanov et al. 2016); 1x1 maps
    become zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes. Its gradient is such a sum too, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return cast(Tensor, _SumOverProcesses.apply(gradient))


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) as pix2pix uses it: with the current statistics, at test time as well.

    Training normalises over the batch, and over all processes if there are several. Evaluation normalises each image
    separately, which is exactly the published "train mode with batch size 1", and makes the output independent of the
    batch that an image is in. Running averages are therefore not kept.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return normalize(x, self.weight, self.bias, self.eps)
        if several_processes():
            return self._across_processes(x)[0]
        if x.numel() == x.shape[1]:  # one value per channel: batch_norm refuses it; the limit is the bias
            return self.bias.to(x.dtype).view(1, -1, 1, 1).expand_as(x)
        return normalize(x, self.weight, self.bias, self.eps, together=True)

    def _across_processes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise over the batches of all processes; return `x` normalised, and the mean and variance (C)."""
        x32 = x.float()
        var, mean = torch.var_mean(x32, (0, 2, 3), correction=0)
        total: Tensor = _SumOverProcesses.apply(torch.stack([mean, var + mean**2]))
        mean, square = (total / dist.get_world_size()).unbind()
        var = (square - mean**2).clamp_min(0)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift.view(1, -1, 1, 1), x32, scale.view(1, -1, 1, 1)).to(x.dtype), mean, var


class RunningBatchNorm(BatchNorm):
    """Batch norm with running averages for inference, as a generator from noise needs: a single sample must not be
    normalised by its own statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if several_processes():
            out, mean, var = self._across_processes(x)
        elif x.numel() == x.shape[1]:  # one value per channel
            out, mean, var = super().forward(x), x.float().flatten(), torch.zeros_like(self.running_var)
        else:  # batch_norm returns its moments; its variance is the unbiased estimate, converted back below
            mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
            out = F.batch_norm(x, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            var = var * (1 - x.shape[1] / x.numel())
        self._average(mean, var)
        return out

    @torch.no_grad()
    def _average(self, mean: Tensor, var: Tensor) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": InstanceNorm,
    "batch": BatchNorm,
    "none": lambda channels: nn.Identity(),
}


def norm_layer(name: str) -> tuple[Callable[[int], nn.Module], bool]:
    """Return the norm called `name`, and whether the convolution before it has a bias.

    A norm with its own shift makes that bias redundant. The published networks, whose parameter counts we match,
    drop it for "batch" and for "none", and keep it before the instance norm.

    Raises:
        ConfigError: if the norm is unknown.
    """
    return choose("--norm", name, NORMS), name == "instance"
