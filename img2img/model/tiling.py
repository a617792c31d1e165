"""Networks on images of any size in bounded memory, with the statistics of the whole image.

A network whose norms see each tile alone gives every tile its own contrast, and seams between them. Here the network
runs, unchanged, on a `Lazy` map instead of a tensor. Tiles therefore agree exactly with the whole image, borders
included. A norm asks for every tile of its input once, for the mean and variance, and is then a pointwise operation;
only on a map that is computed again for each region, and only more than `EXACT_DEPTH` convolutions away from the
nearest kept map, is the mean taken over `SAMPLE` tiles spread over the map instead of over all of them.

An operation that needs the whole map at once, such as self-attention, has no form in tiles. `in_tiles` finds that by
running the network, whatever the operation is.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.errors import ConfigError, Img2ImgError
from img2img.model.lazy import Lazy, Memory, Moments, Read, Region, Span, concatenate, demand, pointwise, source
from img2img.runtime.compiling import reason
from img2img.runtime.device import is_out_of_memory

EXACT_DEPTH = 4
SAMPLE = 256


class NotInTilesError(ConfigError):
    """The network cannot be computed in tiles.

    Attributes:
        why: the operation that cannot, as a clause.
    """

    def __init__(self, operation: str) -> None:
        self.why = f"the network of this model cannot be computed in tiles ({operation})"
        super().__init__(f"{self.why[0].upper()}{self.why[1:]}; use --tile off.")


def in_tiles(
    network: Callable[..., Any], shape: tuple[int, ...], read: Read, memory: Memory, *conditions: Any
) -> Tensor:
    """Return the output of `network` for an image that is read in regions, on the CPU.

    Args:
        network: takes the image and the conditions, and returns an image (1, C, H, W).
        shape: of the image, (1, C, H, W).
        read: gives a region (rows, columns) of it, on `memory.device`.
        memory: how tiles are computed.
        conditions: other inputs, such as a class, passed as they are.

    Raises:
        NotInTilesError: if an operation of the network has no form in tiles.
    """
    with not_in_tiles():
        out = network(source(shape, read, memory), *conditions)
        if not isinstance(out, Lazy):
            raise TypeError(f"its output is a {type(out).__name__}")
        return out.collect(torch.device("cpu"))


@contextmanager
def not_in_tiles() -> Iterator[None]:
    """Raise a NotInTilesError for whatever an operation on maps raises, other than for lack of memory."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Img2ImgError | OSError) or is_out_of_memory(error):
            raise
        raise NotInTilesError(reason(error)) from error


def _cat(tensors: Any, dim: int = 0) -> Lazy:
    demand(dim in (1, -3), "a concatenation of others than channels has no form in tiles")
    return pointwise(concatenate, *tensors)


def _like(x: Any, other: Any) -> Tensor:
    """Return a tensor in the type and on the device of a map."""
    demand(isinstance(x, Tensor) and isinstance(other, Lazy), "a map of another type has no form in tiles")
    converted: Tensor = x.to(other.device, torch.float32)
    return converted


def _inside(x: Lazy, rows: Span, columns: Span) -> Region:
    """Return the part of a region that is inside the map."""
    height, width = x.shape[2:]
    return (max(rows[0], 0), min(rows[1], height)), (max(columns[0], 0), min(columns[1], width))


def _with_zeros(x: Lazy, part: Tensor, rows: Span, columns: Span) -> Tensor:
    """Continue `part`, what is inside the map of a region, with the zeros that are outside."""
    (top, bottom), (left, right) = _inside(x, rows, columns)
    return F.pad(part, (left - columns[0], columns[1] - right, top - rows[0], rows[1] - bottom))


def _conv2d(
    x: Lazy, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Lazy:
    """Convolve: output row y is made of the input rows y * s - p to y * s - p + reach."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]

    def needed(span: Span, axis: int) -> Span:
        s, p = stride[axis], padding[axis]
        return span[0] * s - p, (span[1] - 1) * s - p + reach[axis]

    def needs(rows: Span, columns: Span) -> Region:
        return _inside(x, needed(rows, 0), needed(columns, 1))

    def compute(parts: list[Tensor], rows: Span, columns: Span) -> Tensor:
        part = _with_zeros(x, parts[0], needed(rows, 0), needed(columns, 1))
        return F.conv2d(part, weight, bias, stride, 0, dilation, groups)

    size = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(x.shape[2:], padding, reach, stride, strict=True)]
    return Lazy((1, weight.shape[0], *size), compute, x.memory, [x], needs, convolved=True, keep=True)


def _conv_transpose2d(
    x: Lazy, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any, groups: int,
    dilation: Any,
) -> Lazy:  # fmt: skip
    """Convolve, transposed: input row i is added to the output rows i * s - p to i * s - p + reach."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    whole = all(r >= s + e for r, s, e in zip(reach, stride, output_padding, strict=True))
    demand(whole, "a transposed convolution whose kernel leaves gaps has no form in tiles")

    def needed(span: Span, axis: int) -> tuple[Span, int]:
        s, p = stride[axis], padding[axis]
        first, last = -((reach[axis] - 1 - p - span[0]) // s), (span[1] - 1 + p) // s
        return (first, last + 1), span[0] - (first * s - p)

    def needs(rows: Span, columns: Span) -> Region:
        return _inside(x, needed(rows, 0)[0], needed(columns, 1)[0])

    def compute(parts: list[Tensor], rows: Span, columns: Span) -> Tensor:
        (source_rows, top), (source_columns, left) = needed(rows, 0), needed(columns, 1)
        part = _with_zeros(x, parts[0], source_rows, source_columns)
        out = F.conv_transpose2d(part, weight, bias, stride, 0, 0, groups, dilation)
        return out[:, :, top : top + rows[1] - rows[0], left : left + columns[1] - columns[0]]

    size = [
        (n - 1) * s - 2 * p + r + extra
        for n, s, p, r, extra in zip(x.shape[2:], stride, padding, reach, output_padding, strict=True)
    ]
    return Lazy((1, weight.shape[1] * groups, *size), compute, x.memory, [x], needs, convolved=True, keep=True)


def _gather(x: Lazy, rows: Tensor, columns: Tensor) -> Lazy:
    """Return the map whose row y is row `rows[y]` of `x`, and whose columns are `columns` likewise."""

    def needs(row_span: Span, column_span: Span) -> Region:
        y, x_ = rows[slice(*row_span)], columns[slice(*column_span)]
        return (int(y.min()), int(y.max()) + 1), (int(x_.min()), int(x_.max()) + 1)

    def compute(parts: list[Tensor], row_span: Span, column_span: Span) -> Tensor:
        return _picked(_picked(parts[0], 2, rows[slice(*row_span)]), 3, columns[slice(*column_span)])

    return Lazy((*x.shape[:2], len(rows), len(columns)), compute, x.memory, [x], needs)


def _picked(part: Tensor, axis: int, places: Tensor) -> Tensor:
    """Return the rows or columns at `places`, which are at most one apart, from the first of them on."""
    if int(places[-1] - places[0]) == len(places) - 1:  # one after the other
        return part
    return part.index_select(axis, (places - places.min()).to(part.device))


def _pad(x: Lazy, pad: Any, mode: str = "constant", value: float | None = None) -> Lazy:
    left, right, top, bottom = pad
    height, width = x.shape[2:]
    demand(not value and mode in ("constant", "reflect", "replicate"), "padding of this kind has no form in tiles")
    if mode == "constant":

        def moved(rows: Span, columns: Span) -> Region:
            return (rows[0] - top, rows[1] - top), (columns[0] - left, columns[1] - left)

        def needs(rows: Span, columns: Span) -> Region:
            return _inside(x, *moved(rows, columns))

        def compute(parts: list[Tensor], rows: Span, columns: Span) -> Tensor:
            return _with_zeros(x, parts[0], *moved(rows, columns))

        return Lazy((*x.shape[:2], height + top + bottom, width + left + right), compute, x.memory, [x], needs)

    def positions(n: int, before: int, after: int) -> Tensor:
        i = torch.arange(-before, n + after)
        return i.clamp(0, n - 1) if mode == "replicate" else (n - 1) - (n - 1 - i.abs()).abs()

    return _gather(x, positions(height, top, bottom), positions(width, left, right))


def _interpolate(
    x: Lazy, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> Lazy:
    fits = mode == "nearest" and size is None and scale_factor == int(scale_factor)
    demand(fits, "an interpolation other than to nearest neighbours has no form in tiles")
    rows, columns = (torch.arange(n * int(scale_factor)) // int(scale_factor) for n in x.shape[2:])
    return _gather(x, rows, columns)


def _group_norm(
    x: Lazy, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Lazy:
    demand(num_groups == x.shape[1], "a norm of several channels has no form in tiles")
    moments = x.memory.moments(x, _moments)

    def normalise(part: Tensor) -> Tensor:
        mean, variance = (moment.to(x.device) for moment in moments())
        return F.batch_norm(part, mean, variance, weight, bias, training=False, eps=eps)

    return pointwise(normalise, x)


def _moments(x: Lazy) -> Moments:
    """Return mean and variance of each channel of a map."""
    tiles = list(x.tiles())
    if x.depth > EXACT_DEPTH and len(tiles) > SAMPLE:
        order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))
        tiles = [tiles[i] for i in order[:SAMPLE]]
    return pooled(x.read(*tile) for tile in tiles)


def pooled(parts: Iterable[Tensor]) -> Moments:
    """Return mean and variance of each channel, in fp32, combined from those of tiles (Chan et al. 1979)."""
    counts, variances, means = [], [], []
    for part in parts:
        variance, mean = torch.var_mean(part.float(), (0, 2, 3), correction=0)
        counts.append(part[0, 0].numel())
        variances.append(variance.cpu())
        means.append(mean.cpu())
    share = (torch.tensor(counts, dtype=torch.float64) / sum(counts))[:, None]
    by_tile = torch.stack(means).double()
    mean = (share * by_tile).sum(0)
    variance = (share * (torch.stack(variances).double() + (by_tile - mean).square())).sum(0)
    return mean.float(), variance.float()


def _leaky_relu(x: Lazy, negative_slope: float = 0.01, inplace: bool = False) -> Lazy:
    return pointwise(lambda part: F.leaky_relu(part, negative_slope), x)


def _dropout(x: Lazy, p: float = 0.5, training: bool = True, inplace: bool = False) -> Lazy:
    demand(not training, "training has no form in tiles")
    return x


OPERATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.conv_transpose2d: _conv_transpose2d,
    F.pad: _pad,
    F.interpolate: _interpolate,
    F.relu: lambda x, inplace=False: pointwise(torch.relu, x),
    F.leaky_relu: _leaky_relu,
    F.dropout: _dropout,
    torch.tanh: lambda x: pointwise(torch.tanh, x),
    torch.group_norm: _group_norm,
    torch.cat: _cat,
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), Lazy.__add__),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), Lazy.__mul__),
    Tensor.to: _like,
}
Lazy.operations = OPERATIONS
