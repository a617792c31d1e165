"""Maps that are computed region by region, when they are read.

Each operation on a `Lazy` map makes another one, which knows the region of its inputs that any region of itself depends
on, and computes the one from the other; nothing is computed before it is asked for. The operations are those of
`model.tiling`.

Memory. A map up to the size that a tile has in the first layer is computed at once and kept. A larger one that a
convolution or a sum makes is computed tile by tile and kept in main memory while `Memory` has room; beyond that it is
computed again for each region that is asked for.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

Span = tuple[int, int]  # first and one past the last row or column
Region = tuple[Span, Span]  # rows and columns
Read = Callable[[Span, Span], Tensor]
Compute = Callable[[list[Tensor], Span, Span], Tensor]  # a region from those of the inputs that it depends on
Moments = tuple[Tensor, Tensor]  # mean and variance of each channel
Needs = Callable[[Span, Span], Region]  # the region of each input that a region depends on

CHANNELS = 64  # a tile's work is that of a layer of so many channels; wider layers take smaller tiles


@dataclass
class Memory:
    """How tiles are computed and what may be kept."""

    tile: int  # edge of a tile in pixels
    free: int  # bytes left for maps that are kept
    device: torch.device  # where tiles are computed; maps are kept in main memory

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

    def added(self, made: "Lazy") -> None:
        """Note that a map was made."""

    def moments(self, of: "Lazy", exactly: Callable[["Lazy"], Moments]) -> Callable[[], Moments]:
        """Return a function that gives the mean and variance of the channels of a map, for a norm."""
        mean, variance = exactly(of)
        return lambda: (mean, variance)


def _itself(rows: Span, columns: Span) -> Region:
    return rows, columns


class Lazy:
    """A map (1, C, H, W) that computes the regions that are read.

    Args:
        shape: of the whole map.
        compute: gives the region (rows, columns), which lies inside the map, as a tensor on `memory.device`.
        memory: how it is computed.
        inputs: the maps that it is made of.
        needs: the region of each of them that a region depends on.
        convolved: whether it is the result of a convolution.
        keep: whether the map is worth keeping; others are cheap to compute again.

    Attributes:
        operations: functions of torch, and what they are on maps.
        depth: convolutions between this map and the nearest ones that are kept.
    """

    operations: ClassVar[Mapping[Callable[..., Any], Callable[..., Any]]] = {}
    is_cpu = False  # the layers' shortcuts for small maps are for tensors

    def __init__(
        self,
        shape: tuple[int, ...],
        compute: Compute,
        memory: Memory,
        inputs: Sequence["Lazy"] = (),
        needs: Needs = _itself,
        convolved: bool = False,
        keep: bool = False,
    ) -> None:
        self.shape = torch.Size(shape)
        self.memory, self.device = memory, memory.device
        self.inputs, self.needs = tuple(inputs), needs
        self.depth: int = max((x.depth for x in inputs), default=0) + convolved
        self._compute: Compute | None = compute
        self._kept: Tensor | None = None
        self._autocast = torch.is_autocast_enabled(self.device.type)
        count = self.shape.numel()
        if count <= memory.small:
            self._kept = self.collect(self.device)
        elif keep and memory.take(self, count * self.itemsize):
            self._kept = self.collect(torch.device("cpu"))
        if self._kept is not None:
            self.inputs, self.needs, self._compute, self.depth = (), _itself, None, 0  # which lets go of the inputs
        memory.added(self)

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return 2 if self._autocast else 4

    def read(self, rows: Span, columns: Span) -> Tensor:
        """Return a region inside the map, on the device."""
        if self._kept is not None:
            return self._kept[:, :, slice(*rows), slice(*columns)].to(self.device)
        return self.made([x.read(*self.needs(rows, columns)) for x in self.inputs], rows, columns)

    def made(self, parts: list[Tensor], rows: Span, columns: Span) -> Tensor:
        """Compute a region inside the map from those of its inputs that it needs."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            assert self._compute is not None
            return self._compute(parts, rows, columns)

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
        return pointwise(Tensor.float, self)

    def __add__(self, other: Any) -> "Lazy":
        return pointwise(torch.add, self, other, keep=True)

    def __mul__(self, other: Any) -> "Lazy":
        return pointwise(torch.mul, self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} has no form in tiles")

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in cls.operations:
            return cls.operations[func](*args, **(kwargs or {}))
        raise NotImplementedError(f"{getattr(func, '__name__', func)} has no form in tiles")


def source(shape: tuple[int, ...], read: Read, memory: Memory) -> Lazy:
    """Return the map (1, C, H, W) of which `read` gives any region, on the device."""
    return Lazy(shape, lambda parts, rows, columns: read(rows, columns), memory)


def pointwise(function: Callable[..., Tensor], *inputs: Any, keep: bool = False) -> "Lazy":
    """Return `function` of maps of the same height and width, whose channels add up (concatenation) or agree.

    Besides Lazy maps, inputs may be numbers, tensors (1, C, H, W), and tensors (1, C, 1, 1) as of a class.
    """
    maps = [x for x in inputs if isinstance(x, Lazy)]
    size, joined = maps[0].shape[2:], function is concatenate
    shapes = [tuple(x.shape) for x in inputs if isinstance(x, Lazy) or (isinstance(x, Tensor) and x.dim())]
    everywhere = {(1, 1), tuple(size)} if not joined else {tuple(size)}
    fitting = all(len(shape) == 4 and shape[0] == 1 and shape[2:] in everywhere for shape in shapes)
    channels = {shape[1] for shape in shapes}
    demand(fitting and all(x.shape[2:] == size for x in maps), "maps of several sizes have no form in tiles")

    def compute(parts: list[Tensor], rows: Span, columns: Span) -> Tensor:
        given = iter(parts)
        return function(*(next(given) if isinstance(x, Lazy) else _part(x, rows, columns) for x in inputs))

    count = sum(shape[1] for shape in shapes) if joined else max(channels)
    demand(joined or channels <= {1, count}, "maps of several numbers of channels have no form in tiles")
    return Lazy((1, count, *size), compute, maps[0].memory, maps, keep=keep)


def _part(x: Any, rows: Span, columns: Span) -> Any:
    """Return a region of a tensor, or a value that is the same in all regions."""
    if isinstance(x, Tensor) and x.dim() and x.shape[2:] != (1, 1):
        return x[:, :, slice(*rows), slice(*columns)]
    return x


def concatenate(*parts: Tensor) -> Tensor:
    return torch.cat(parts, 1)


def demand(condition: bool, otherwise: str) -> None:
    """Raise an error that says what has no form in tiles, unless `condition` holds."""
    if not condition:
        raise NotImplementedError(otherwise)
