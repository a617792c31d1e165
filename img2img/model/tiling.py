"""Networks on images of any size in bounded memory, with the statistics of the whole image.

A network whose norms see each tile alone gives every tile its own contrast, and seams between them. Here the network
runs, unchanged, on a `Lazy` map instead of a tensor. Each operation on a Lazy map makes another one, which can compute
any region of itself from the region of its input that it depends on; nothing is computed before it is asked for.
Tiles therefore agree exactly with the whole image, borders included. A norm asks for every tile of its input once,
for the mean and variance, and is then a pointwise operation.

Memory. A map up to the size that a tile has in the first layer is computed at once and kept. A larger one that a
convolution or a sum makes is computed tile by tile and kept in main memory while `Memory` has room; beyond that it is
computed again for each region that is asked for. Only then, and only more than `EXACT_DEPTH` convolutions away from
the nearest kept map, is a mean taken over `SAMPLE` tiles spread over the map instead of over all of them.

An operation that needs the whole map at once, such as self-attention, has no form in tiles. `in_tiles` finds that by
running the network, whatever the operation is.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.errors import ConfigError, Img2ImgError
from img2img.runtime.compiling import reason
from img2img.runtime.device import is_out_of_memory

Span = tuple[int, int]  # first and one past the last row or column
Compute = Callable[[Span, Span], Tensor]

CHANNELS = 64  # a tile's work is that of a layer of so many channels; wider layers take smaller tiles
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
    network: Callable[..., Any], shape: tuple[int, ...], read: Compute, memory: "Memory", *conditions: Any
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
    try:
        out = network(Lazy(shape, read, memory), *conditions)
        if not isinstance(out, Lazy):
            raise TypeError(f"its output is a {type(out).__name__}")
        return out.collect(torch.device("cpu"))
    except Exception as error:
        if isinstance(error, Img2ImgError | OSError) or is_out_of_memory(error):
            raise
        raise NotInTilesError(reason(error)) from error


def _demand(condition: bool, otherwise: str) -> None:
    """Raise an error that says what has no form in tiles, unless `condition` holds."""
    if not condition:
        raise NotImplementedError(otherwise)


@dataclass
class Memory:
    """How tiles are computed and what may be kept.

    Attributes:
        tile: edge of a tile in pixels.
        free: bytes left for maps that are kept.
        device: where tiles are computed; maps are kept in main memory.
    """

    tile: int
    free: int
    device: torch.device

    @property
    def small(self) -> int:
        """Elements of a map that is as good as a tile."""
        return CHANNELS * self.tile**2

    def take(self, owner: "Lazy", count: int) -> bool:
        """Reserve `count` bytes for as long as `owner` lives, and return whether there was room."""
        if count > self.free:
            return False
        self.free -= count
        weakref.finalize(owner, self._give_back, count)
        return True

    def _give_back(self, count: int) -> None:
        self.free += count


class Lazy:
    """A map (1, C, H, W) that computes the regions that are read.

    Args:
        shape: of the whole map.
        compute: gives the region (rows, columns), which lies inside the map, as a tensor on `memory.device`.
        depth: convolutions between this map and the nearest ones that are kept.
        keep: whether the map is worth keeping; others are cheap to compute again.
    """

    is_cpu = False  # the layers' shortcuts for small maps are for tensors

    def __init__(
        self, shape: tuple[int, ...], compute: Compute, memory: Memory, depth: int = 0, keep: bool = False
    ) -> None:
        self.shape = torch.Size(shape)
        self.memory = memory
        self.device = memory.device
        self.depth = depth
        self._compute: Compute | None = compute
        self._kept: Tensor | None = None
        self._autocast = torch.is_autocast_enabled(self.device.type)
        count, itemsize = self.shape.numel(), 2 if self._autocast else 4
        if count <= memory.small:
            self._kept = self.collect(self.device)
        elif keep and memory.take(self, count * itemsize):
            self._kept = self.collect(torch.device("cpu"))
        if self._kept is not None:
            self._compute, self.depth = None, 0

    def read(self, rows: Span, columns: Span) -> Tensor:
        """Return a region inside the map, on the device."""
        if self._compute is None:
            assert self._kept is not None
            return self._kept[:, :, slice(*rows), slice(*columns)].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self._compute(rows, columns)

    def tiles(self) -> Iterator[tuple[Span, Span]]:
        """Yield regions that cover the map once."""
        edge = max(16, int(self.memory.tile * math.sqrt(CHANNELS / max(self.shape[1], CHANNELS))))
        height, width = self.shape[2:]
        for top in range(0, height, edge):
            for left in range(0, width, edge):
                yield (top, min(top + edge, height)), (left, min(left + edge, width))

    def collect(self, device: torch.device) -> Tensor:
        """Return the whole map as a tensor on `device`."""
        whole: Tensor | None = None
        for rows, columns in self.tiles():
            part = self.read(rows, columns)
            if whole is None:
                whole = torch.empty(self.shape, dtype=part.dtype, device=device)
            whole[:, :, slice(*rows), slice(*columns)] = part
        assert whole is not None
        return whole

    # The methods that networks and their wrappers call

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> "Lazy":
        return self

    def dim(self) -> int:
        return len(self.shape)

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def is_floating_point(self) -> bool:
        return True

    def float(self) -> "Lazy":
        return _pointwise(Tensor.float, self)

    def __add__(self, other: Any) -> "Lazy":
        return _add(self, other)

    def __mul__(self, other: Any) -> "Lazy":
        return _mul(self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} has no form in tiles")

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in OPERATIONS:
            return OPERATIONS[func](*args, **(kwargs or {}))
        raise NotImplementedError(f"{getattr(func, '__name__', func)} has no form in tiles")


def _pointwise(function: Callable[..., Tensor], *inputs: Any, keep: bool = False) -> "Lazy":
    """Return `function` of maps of the same height and width, whose channels add up (concatenation) or agree.

    Besides Lazy maps, inputs may be numbers, tensors (1, C, H, W), and tensors (1, C, 1, 1) as of a class.
    """
    maps = [x for x in inputs if isinstance(x, Lazy)]
    size, joined = maps[0].shape[2:], function is _concatenate
    shapes = [tuple(x.shape) for x in inputs if isinstance(x, Lazy) or (isinstance(x, Tensor) and x.dim())]
    everywhere = {(1, 1), tuple(size)} if not joined else {tuple(size)}
    fitting = all(len(shape) == 4 and shape[0] == 1 and shape[2:] in everywhere for shape in shapes)
    channels = {shape[1] for shape in shapes}
    _demand(fitting and all(x.shape[2:] == size for x in maps), "maps of several sizes have no form in tiles")

    def compute(rows: Span, columns: Span) -> Tensor:
        return function(*(_region(x, rows, columns) for x in inputs))

    count = sum(shape[1] for shape in shapes) if joined else max(channels)
    _demand(joined or channels <= {1, count}, "maps of several numbers of channels have no form in tiles")
    return Lazy((1, count, *size), compute, maps[0].memory, max(x.depth for x in maps), keep)


def _region(x: Any, rows: Span, columns: Span) -> Any:
    """Return a region of a map, or a value that is the same in all regions."""
    if isinstance(x, Lazy):
        return x.read(rows, columns)
    if isinstance(x, Tensor) and x.dim() and x.shape[2:] != (1, 1):
        return x[:, :, slice(*rows), slice(*columns)]
    return x


def _concatenate(*parts: Tensor) -> Tensor:
    return torch.cat(parts, 1)


def _add(x: Any, y: Any) -> "Lazy":
    return _pointwise(torch.add, x, y, keep=True)


def _mul(x: Any, y: Any) -> "Lazy":
    return _pointwise(torch.mul, x, y)


def _cat(tensors: Any, dim: int = 0) -> "Lazy":
    _demand(dim in (1, -3), "a concatenation of others than channels has no form in tiles")
    return _pointwise(_concatenate, *tensors)


def _like(x: Any, other: Any) -> Tensor:
    """Return a tensor in the type and on the device of a map."""
    _demand(isinstance(x, Tensor) and isinstance(other, Lazy), "a map of another type has no form in tiles")
    converted: Tensor = x.to(other.device, torch.float32)
    return converted


def _with_zeros(x: "Lazy", rows: Span, columns: Span) -> Tensor:
    """Return a region that may reach beyond the map, which is zero there."""
    (top, bottom), (left, right) = rows, columns
    height, width = x.shape[2:]
    inside = x.read((max(top, 0), min(bottom, height)), (max(left, 0), min(right, width)))
    return F.pad(inside, (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)))


def _conv2d(
    x: "Lazy", weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> "Lazy":
    """Convolve: output row y is made of the input rows y * s - p to y * s - p + reach."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]

    def needed(span: Span, axis: int) -> Span:
        s, p = stride[axis], padding[axis]
        return span[0] * s - p, (span[1] - 1) * s - p + reach[axis]

    def compute(rows: Span, columns: Span) -> Tensor:
        part = _with_zeros(x, needed(rows, 0), needed(columns, 1))
        return F.conv2d(part, weight, bias, stride, 0, dilation, groups)

    size = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(x.shape[2:], padding, reach, stride, strict=True)]
    return Lazy((1, weight.shape[0], *size), compute, x.memory, x.depth + 1, keep=True)


def _conv_transpose2d(
    x: "Lazy", weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any, groups: int,
    dilation: Any,
) -> "Lazy":  # fmt: skip
    """Convolve, transposed: input row i is added to the output rows i * s - p to i * s - p + reach."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    whole = all(r >= s + e for r, s, e in zip(reach, stride, output_padding, strict=True))
    _demand(whole, "a transposed convolution whose kernel leaves gaps has no form in tiles")

    def needed(span: Span, axis: int) -> tuple[Span, int]:
        s, p = stride[axis], padding[axis]
        first, last = -((reach[axis] - 1 - p - span[0]) // s), (span[1] - 1 + p) // s
        return (first, last + 1), span[0] - (first * s - p)

    def compute(rows: Span, columns: Span) -> Tensor:
        (source_rows, top), (source_columns, left) = needed(rows, 0), needed(columns, 1)
        part = _with_zeros(x, source_rows, source_columns)
        out = F.conv_transpose2d(part, weight, bias, stride, 0, 0, groups, dilation)
        return out[:, :, top : top + rows[1] - rows[0], left : left + columns[1] - columns[0]]

    size = [
        (n - 1) * s - 2 * p + r + extra
        for n, s, p, r, extra in zip(x.shape[2:], stride, padding, reach, output_padding, strict=True)
    ]
    return Lazy((1, weight.shape[1] * groups, *size), compute, x.memory, x.depth + 1, keep=True)


def _gather(x: "Lazy", rows: Tensor, columns: Tensor) -> "Lazy":
    """Return the map whose row y is row `rows[y]` of `x`, and whose columns are `columns` likewise."""

    def compute(row_span: Span, column_span: Span) -> Tensor:
        y, x_ = rows[slice(*row_span)], columns[slice(*column_span)]
        top, left = int(y.min()), int(x_.min())
        part = x.read((top, int(y.max()) + 1), (left, int(x_.max()) + 1))
        return part.index_select(2, (y - top).to(part.device)).index_select(3, (x_ - left).to(part.device))

    return Lazy((*x.shape[:2], len(rows), len(columns)), compute, x.memory, x.depth)


def _pad(x: "Lazy", pad: Any, mode: str = "constant", value: float | None = None) -> "Lazy":
    left, right, top, bottom = pad
    height, width = x.shape[2:]
    _demand(not value and mode in ("constant", "reflect", "replicate"), "padding of this kind has no form in tiles")
    if mode == "constant":

        def compute(rows: Span, columns: Span) -> Tensor:
            return _with_zeros(x, (rows[0] - top, rows[1] - top), (columns[0] - left, columns[1] - left))

        return Lazy((*x.shape[:2], height + top + bottom, width + left + right), compute, x.memory, x.depth)

    def positions(n: int, before: int, after: int) -> Tensor:
        i = torch.arange(-before, n + after)
        return i.clamp(0, n - 1) if mode == "replicate" else (n - 1) - (n - 1 - i.abs()).abs()

    return _gather(x, positions(height, top, bottom), positions(width, left, right))


def _interpolate(
    x: "Lazy", size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> "Lazy":
    fits = mode == "nearest" and size is None and scale_factor == int(scale_factor)
    _demand(fits, "an interpolation other than to nearest neighbours has no form in tiles")
    rows, columns = (torch.arange(n * int(scale_factor)) // int(scale_factor) for n in x.shape[2:])
    return _gather(x, rows, columns)


def _group_norm(
    x: "Lazy", num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> "Lazy":
    _demand(num_groups == x.shape[1], "a norm of several channels has no form in tiles")
    mean, variance = (moment.to(x.device) for moment in _moments(x))

    def normalise(part: Tensor) -> Tensor:
        return F.batch_norm(part, mean, variance, weight, bias, training=False, eps=eps)

    return _pointwise(normalise, x)


def _moments(x: "Lazy") -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel, in fp32, combined from those of tiles (Chan et al. 1979)."""
    tiles = list(x.tiles())
    if x.depth > EXACT_DEPTH and len(tiles) > SAMPLE:
        order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))
        tiles = [tiles[i] for i in order[:SAMPLE]]
    counts, variances, means = [], [], []
    for rows, columns in tiles:
        part = x.read(rows, columns).float()
        variance, mean = torch.var_mean(part, (0, 2, 3), correction=0)
        counts.append(part[0, 0].numel())
        variances.append(variance.cpu())
        means.append(mean.cpu())
    share = (torch.tensor(counts, dtype=torch.float64) / sum(counts))[:, None]
    by_tile = torch.stack(means).double()
    mean = (share * by_tile).sum(0)
    variance = (share * (torch.stack(variances).double() + (by_tile - mean).square())).sum(0)
    return mean.float(), variance.float()


def _relu(x: "Lazy", inplace: bool = False) -> "Lazy":
    return _pointwise(torch.relu, x)


def _leaky_relu(x: "Lazy", negative_slope: float = 0.01, inplace: bool = False) -> "Lazy":
    return _pointwise(lambda part: F.leaky_relu(part, negative_slope), x)


def _dropout(x: "Lazy", p: float = 0.5, training: bool = True, inplace: bool = False) -> "Lazy":
    _demand(not training, "training has no form in tiles")
    return x


OPERATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.conv_transpose2d: _conv_transpose2d,
    F.pad: _pad,
    F.interpolate: _interpolate,
    F.relu: _relu,
    F.leaky_relu: _leaky_relu,
    F.dropout: _dropout,
    torch.tanh: lambda x: _pointwise(torch.tanh, x),
    torch.group_norm: _group_norm,
    torch.cat: _cat,
    torch.add: _add,
    torch.Tensor.add: _add,
    torch.Tensor.__add__: _add,
    torch.Tensor.__radd__: _add,
    torch.mul: _mul,
    torch.Tensor.mul: _mul,
    torch.Tensor.__mul__: _mul,
    torch.Tensor.__rmul__: _mul,
    torch.Tensor.to: _like,
}
