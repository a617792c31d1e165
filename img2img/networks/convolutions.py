"""Convolutions on a CPU, each in whatever way is fastest for its sizes.

PyTorch's own kernels lose most of their time on

- small maps, in reordering the weights: 512 channels, 4x4 positions, bf16, with gradients take 10 ms, and as one matrix
  product 2 ms; a batch of 64 such maps 77 ms and 25 ms;
- the gradient of few outputs of a large kernel: 64 channels to 3, 7x7: 12 ms, and as the convolution that it is 1 ms;
- the gradient of the bias of a transposed convolution: 18 to 46 ms, and as a sum 1 ms.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_POSITIONS = 64  # of a batch of contiguous maps, and proportionally more in layers of more than 128 channels
MOST_WIDE_POSITIONS = 16  # of a batch in channels_last: positions times width of a map, per channel
FEW, LARGE = 4, 5  # outputs, and the side of a kernel


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return `F.conv2d` of `x` (N, C, H, W) and `weight` (O, C, k, k)."""
    k = weight.shape[2]
    h, w = ((n + 2 * padding - k) // stride + 1 for n in x.shape[2:])
    if not _as_product(x, weight, h, w):
        if fast_on_cpu(x) and len(weight) <= FEW and k >= LARGE and stride == 1 and padding < k:
            few: Tensor = _FewOutputs.apply(*_as_autocast(x, weight), padding)
            return _shifted(few, bias)
        return F.conv2d(x, weight, bias, stride, padding)
    if is_channels_last(x) and is_channels_last(weight):
        out = F.linear(_Patches.apply(x, k, stride, padding), weight.permute(0, 2, 3, 1).flatten(1))
    else:
        out = F.unfold(x, k, padding=padding, stride=stride).transpose(1, 2).flatten(0, 1) @ weight.flatten(1).t()
    return _shifted(out.view(len(x), h, w, -1).permute(0, 3, 1, 2), bias)


def transpose(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, extra: int) -> Tensor:
    """Return `F.conv_transpose2d` of `x` (N, C, H, W) and `weight` (C, O, k, k); `extra` is its output padding."""
    n, _, h, w = x.shape
    k = weight.shape[2]
    size = tuple((length - 1) * stride - 2 * padding + k + extra for length in (h, w))
    if not _as_product(x, weight, h, w):
        if fast_on_cpu(x):
            out = F.conv_transpose2d(x, weight, None, stride, padding, extra)
            return out if bias is None else out.add_(bias.to(out.dtype).view(-1, 1, 1))
        return F.conv_transpose2d(x, weight, bias, stride, padding, extra)
    if is_channels_last(x) and is_channels_last(weight):
        patches = x.permute(0, 2, 3, 1).flatten(0, 2) @ weight.permute(0, 2, 3, 1).flatten(1)
        return _shifted(_Sum.apply(patches, (n, h, w), size, k, stride, padding), bias)
    rows = x.flatten(2).transpose(1, 2).flatten(0, 1)
    patches = (rows @ weight.flatten(1)).view(n, h * w, -1).transpose(1, 2)
    return _shifted(F.fold(patches, size, k, padding=padding, stride=stride), bias)


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def fast_on_cpu(x: Tensor) -> bool:
    """Return whether `x` is a map in channels_last on a CPU, as all in bf16 are; those in fp32 are left to PyTorch."""
    return x.is_cpu and x.dtype is not torch.float32 and not x.is_contiguous() and is_channels_last(x)


def _as_product(x: Tensor, weight: Tensor, height: int, width: int) -> bool:
    """Return whether a matrix product is faster, at so many positions of the kernel."""
    positions = len(x) * height * width
    if is_channels_last(x):
        return positions * width <= MOST_WIDE_POSITIONS * max(len(weight), 8)
    return positions <= MOST_POSITIONS * max(1, min(weight.shape[:2]) / 128)


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of the type that autocast would give to a convolution."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype("cpu")) for x in tensors)


def _shifted(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype).view(-1, 1, 1)


class _FewOutputs(torch.autograd.Function):
    """`F.conv2d` with stride 1, whose gradient by `x` is computed as the convolution that it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, None, 1, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            back = weight.transpose(0, 1).flip(2, 3)
            of_x = F.conv2d(gradient, back, None, 1, weight.shape[2] - 1 - ctx.padding)
            of_x = of_x.contiguous(memory_format=torch.channels_last)  # that of one channel is not
        if ctx.needs_input_grad[1]:
            sizes = [1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], 1
            _, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, *sizes, [False, True, False]
            )
        return of_x, of_weight, None


class _Patches(torch.autograd.Function):
    """The k x k x C patches of `x` (N, C, H, W) as rows (N h w, k k C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, stride: int, padding: int) -> Tensor:
        x = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
        patches = x.unfold(1, k, stride).unfold(2, k, stride).permute(0, 1, 2, 4, 5, 3)  # a view (N, h, w, k, k, C)
        size = tuple(n - 2 * padding for n in x.shape[1:3])
        ctx.arguments = patches.shape[:3], size, k, stride, padding
        return patches.flatten(3).flatten(0, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Sum.apply(gradient, *ctx.arguments), None, None, None


class _Sum(torch.autograd.Function):
    """The map (N, C, *size) of which each pixel is the sum of the patches over it; `positions` are N, h, w of patches.

    It is the transpose of `_Patches`, and each is the other's gradient, to any order.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, positions: tuple[int, ...], size: tuple[int, ...], k: int, stride: int, padding: int
    ) -> Tensor:
        ctx.arguments = k, stride, padding
        n, h, w = positions
        patches = rows.view(n, h, w, k, k, -1)
        out = rows.new_zeros(n, size[0] + 2 * padding, size[1] + 2 * padding, patches.shape[-1])
        for i in range(k):
            for j in range(k):
                out[:, i : i + stride * h : stride, j : j + stride * w : stride][:, :h, :w] += patches[:, :, :, i, j]
        out = out[:, padding : padding + size[0], padding : padding + size[1]]
        return out.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Patches.apply(gradient, *ctx.arguments), None, None, None, None, None
