"""Networks whose norms have fixed statistics, so that a region of the output depends on a region of the input alone.

The network runs once, unchanged, on a `Lazy` map of the whole image, which computes nothing and leaves the graph of its
operations. From then on a region is computed in two passes over that graph. From the output to the image, each map
learns which region of it the later ones need; from the image to the output, each is computed there, once. What lies
outside of the image is padded as in the whole image, and nothing else is padded. So two regions agree where they meet,
up to the rounding of kernels that are chosen by size, and memory is that of a region.

The statistics are learned from a sample of regions, all of which pass through the network together, from norm to norm:
each norm takes the mean and variance of its input over the whole sample, as the norms before it have made it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from img2img.model.lazy import Lazy, Memory, Moments, Read, Region, Span, source
from img2img.model.tiling import not_in_tiles, pooled

ReadRegion = Callable[[Region], Tensor]
Values = dict[int, Tensor]  # by the number of the map


class _Graph(Memory):
    """The maps of a network, in the order in which they are made; none is computed."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(tile=0, free=0, device=device)
        self.maps: list[Lazy] = []
        self.norms: dict[int, int] = {}  # numbers of the maps that are normalised, and of their norms
        self.statistics: list[Moments] = []  # of each norm

    def take(self, owner: Lazy, count: int) -> bool:
        return False

    def added(self, made: Lazy) -> None:
        self.maps.append(made)

    def moments(self, of: Lazy, exactly: Any) -> Callable[[], Moments]:
        number = self.norms.setdefault(next(i for i, known in enumerate(self.maps) if known is of), len(self.norms))
        return lambda: self.statistics[number]


@dataclass(frozen=True)
class _Course:
    """The computation of one region.

    Attributes:
        needed: the region of each map, by number.
        uses: how many maps read each of them.
    """

    needed: dict[int, Region]
    uses: Counter[int]


class Frozen:
    """A network on a large image, with the same statistics everywhere.

    Args:
        network: takes an image, and returns an image (1, C, H, W).
        shape: of the image, (1, C, H, W).
        device: where the network is.

    Raises:
        NotInTilesError: if an operation of the network has no form in tiles.
    """

    def __init__(self, network: Callable[..., Any], shape: tuple[int, ...], device: torch.device) -> None:
        self.graph = _Graph(device)
        with not_in_tiles():
            out = network(source(shape, _unread, self.graph))
            if not isinstance(out, Lazy):
                raise TypeError(f"its output is a {type(out).__name__}")
        self.shape = out.shape
        self.numbers = {id(known): i for i, known in enumerate(self.graph.maps)}
        self.last = self.numbers[id(out)]
        self.inputs = [[self.numbers[id(x)] for x in known.inputs] for known in self.graph.maps]

    @property
    def statistics(self) -> list[Moments]:
        """Mean and variance of each norm; what is assigned is used from then on."""
        return self.graph.statistics

    @statistics.setter
    def statistics(self, learned: Sequence[Moments]) -> None:
        self.graph.statistics = list(learned)

    @property
    def norms(self) -> int:
        """The number of norms."""
        return len(self.graph.norms)

    def needs(self, region: Region) -> Region:
        """Return the region of the image that a region of the output depends on."""
        return self._course(region).needed[0]

    def compute(self, region: Region, read: Read) -> Tensor:
        """Return a region of the output, (1, C, H, W) on the device; `read` gives regions of the image."""
        course, values = self._course(region), Values()
        for number in sorted(course.needed):
            self._step(number, course, values, read)
        return values[self.last]

    def learn(self, sample: Sequence[Region], read: Read) -> None:
        """Take the statistics from regions of the output, whose maps are held together; see `bytes_of`.

        The maps before the first norm, which are the largest, are computed again after it in place of being held.
        """
        first, *others = self.graph.norms or [self.last]
        alone = (self._reached(0, first, self._course(region), {}, read) for region in sample)
        self.graph.statistics = [pooled(alone)] if self.norms else []
        courses = [(self._course(region), Values()) for region in sample]
        start = 0
        for norm in others:
            self.graph.statistics.append(pooled(self._reached(start, norm, *course, read) for course in courses))
            start = max(start, norm + 1)

    def _reached(self, start: int, norm: int, course: _Course, values: Values, read: Read) -> Tensor:
        """Compute the maps from `start` to what is normalised, and return what the latter has of the region itself."""
        for number in sorted(course.needed):
            if start <= number <= norm:
                self._step(number, course, values, read)
        return self._core(values[norm], course, norm)

    def bytes_of(self, sample: Sequence[Region]) -> int:
        """Return the bytes of the maps that `learn` holds at once."""
        held = []
        courses = [self._course(region) for region in sample]
        for norm in list(self.graph.norms)[1:]:
            total = 0
            for course in courses:
                later = {x for number in course.needed if number > norm for x in self.inputs[number]}
                alive = (n for n in later if n <= norm)
                total += sum(self._bytes(n, course.needed[n]) for n in alive)
            held.append(total)
        return max(held, default=0)

    def _bytes(self, number: int, region: Region) -> int:
        (top, bottom), (left, right) = region
        of = self.graph.maps[number]
        return (bottom - top) * (right - left) * of.shape[1] * of.itemsize

    def _course(self, region: Region) -> _Course:
        needed, uses = {self.last: region}, Counter({self.last: 1})
        for number in range(self.last, -1, -1):
            if number not in needed:
                continue
            wanted = self.graph.maps[number].needs(*needed[number])
            for x in self.inputs[number]:
                uses[x] += 1
                needed[x] = _hull(needed[x], wanted) if x in needed else wanted
        return _Course(needed, uses)

    def _step(self, number: int, course: _Course, values: Values, read: Read) -> None:
        """Compute a map from its inputs in `values`, and let go of those that nothing else needs."""
        of, region = self.graph.maps[number], course.needed[number]
        if not self.inputs[number]:
            values[number] = read(*region)
            return
        wanted = of.needs(*region)
        parts = [_part(values[x], course.needed[x], wanted) for x in self.inputs[number]]
        values[number] = of.made(parts, *region)
        for x in self.inputs[number]:
            course.uses[x] -= 1
            if not course.uses[x]:
                del values[x]

    def _core(self, value: Tensor, course: _Course, number: int) -> Tensor:
        """Return what a map has of the region of the output itself, without the margin that later maps need."""
        spans, shape = [], self.graph.maps[number].shape
        for axis in (0, 1):
            first, stop = course.needed[self.last][axis]
            ratio = shape[axis + 2] / self.shape[axis + 2]
            low, high = course.needed[number][axis]
            begin = min(max(int(first * ratio), low), high - 1)
            spans.append((begin, max(min(-int(-stop * ratio // 1), high), begin + 1)))
        return _part(value, course.needed[number], (spans[0], spans[1]))


def _unread(rows: Span, columns: Span) -> Tensor:
    raise NotImplementedError("the whole image is needed at once")


def _hull(a: Region, b: Region) -> Region:
    rows, columns = ((min(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return rows, columns


def _part(value: Tensor, region: Region, wanted: Region) -> Tensor:
    """Return the wanted region from the value of a larger one."""
    rows, columns = (slice(w[0] - r[0], w[1] - r[0]) for w, r in zip(wanted, region, strict=True))
    return value[:, :, rows, columns]
