"""What files say of their pixels, which has to be the same in all of a table: names of channels, axes, pixel size."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from img2img.data.picture import UNKNOWN_AXES, Stated
from img2img.errors import DataError, choose, quote
from img2img.lab.checks import MAX_CHANNELS

TOLERANCE = 0.01  # of the size of a pixel
WORDS = {"Z": "planes of Z", "T": "time points", "series": "images (series)", "P": "pages"}


class Agreement:
    """The names and the pixel size that the files of a table agree on: those of a fit, or of the first file to say so.

    What a file does not say is not compared.

    Args:
        metadata: "error" to refuse a file that disagrees, "ignore" to compare nothing.
        pages: "error" to refuse a file with several images, such as planes of Z; "channels" if they are channels.

    Attributes:
        pixel_size: width and height of a pixel in micrometres, and the file, or None.
        settle: returns what was first said of a thing, by any process, from the thing and what this one says.
        notes: what the user should know of the files that were checked.
    """

    def __init__(self, metadata: str = "error", pages: str = "error") -> None:
        self.metadata = choose("value of metadata,", metadata, ("error", "ignore"))
        self.pages = choose("value of pages,", pages, ("error", "channels"))
        self.pixel_size: tuple[tuple[float, float], str] | None = None
        self.notes: list[str] = []
        self.settle: Callable[[Any, Any], Any] = _as_here
        self._names: dict[int, tuple[tuple[str, ...], str]] = {}  # by the number of a file's first channel
        self._fitted: list[str] = []

    def expect(self, names: Sequence[str], pixel_size: tuple[float, float] | None) -> None:
        """Compare with what was fitted: a name for each channel, or "", and the size of a pixel."""
        self._fitted = list(names)
        if pixel_size is not None:
            self.pixel_size = pixel_size, "the equalizer was fitted to"

    def names(self, count: int) -> list[str]:
        """Return the agreed names of `count` channels, "" where there is none."""
        if len(self._fitted) == count:
            return self._fitted
        names = [""] * count
        for start, (part, _) in self._names.items():
            names[start : start + len(part)] = part
        return names

    def check(self, files: Sequence[Path], stated: Sequence[Stated], counts: Sequence[int]) -> None:
        """Check the files of one row, each with its statements and its number of channels.

        Raises:
            DataError: if a file has too many channels, pages that are no channels, or disagrees.
        """
        if sum(counts) > MAX_CHANNELS:
            raise DataError(
                f"{quote(files[0])} makes {sum(counts)} channels, and an equalizer takes at most {MAX_CHANNELS}; give "
                "fewer, each as a file of its own."
            )
        start = 0
        for path, one, count in zip(files, stated, counts, strict=True):
            self._check_axes(path, one)
            if self.metadata == "error":
                self._check_names(path, one.channels if len(one.channels) == count else (), start)
                self._check_pixel_size(path, one.pixel_size)
            start += count

    def _check_axes(self, path: Path, stated: Stated) -> None:
        if self.pages == "channels":
            return
        known = [
            (n, WORDS.get(axis, f"places on the axis {axis}")) for axis, n in stated.axes if axis not in UNKNOWN_AXES
        ]
        if known:
            several = " and ".join(f"{n} {word}" for n, word in known)
            raise DataError(
                f"{quote(path)} has {several}, and an image has one of each; project them, save each as a file of its "
                "own, or use pages='channels' (--pages channels) to make each a channel."
            )
        if stated.axes and not self.notes:
            pages = " x ".join(str(n) for _, n in stated.axes)
            self.notes.append(
                f"{quote(path)} does not state what its {pages} pages are, as OME or ImageJ would; they are taken for "
                "channels, in that order."
            )

    def _check_names(self, path: Path, names: tuple[str, ...], start: int) -> None:
        if not names:
            return
        fitted = tuple(self._fitted[start : start + len(names)])
        if len(fitted) == len(names) and all(fitted):
            wanted, source = fitted, "the equalizer was fitted to"
        else:
            if start not in self._names:
                self._names[start] = self.settle(start, (names, f"{quote(path)} has"))
            wanted, source = self._names[start]
        here, there = ([name.casefold() for name in each] for each in (names, wanted))
        if here == there:
            return
        remedy = "give all rows the same channels, or use metadata='ignore' (--metadata ignore) if only names differ"
        if sorted(here) == sorted(there):
            order = [here.index(name) for name in there]
            remedy = f"these are in another order, so save it again with its channels in the order {order}"
        raise DataError(f"{quote(path)} has {_listed(names)}, but {source} {_listed(wanted)}; {remedy}.")

    def _check_pixel_size(self, path: Path, size: tuple[float, float] | None) -> None:
        if size is None:
            return
        if self.pixel_size is None:
            self.pixel_size = self.settle("size", (size, f"{quote(path)} has"))
        assert self.pixel_size is not None
        wanted, source = self.pixel_size
        if any(abs(a - b) > TOLERANCE * b for a, b in zip(size, wanted, strict=True)):
            raise DataError(
                f"{quote(path)} has pixels of {_micrometres(size)}, but {source} pixels of {_micrometres(wanted)}; "
                "give images of one magnification, or use metadata='ignore' (--metadata ignore) if the files are wrong."
            )


def _as_here(thing: Any, value: Any) -> Any:
    return value


def _listed(names: Sequence[str]) -> str:
    return f"the channel{'s' * (len(names) > 1)} {', '.join(names)}"


def _micrometres(size: tuple[float, float]) -> str:
    x, y = size
    return f"{x:.4g} µm" if abs(x - y) <= TOLERANCE * x else f"{x:.4g} x {y:.4g} µm"
