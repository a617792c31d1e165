"""Regions in the place of images that are too large to be held: each is a field of its slide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from img2img.data.picture import Array
from img2img.data.regions import Span
from img2img.lab.curves.place import Origin
from img2img.lab.large import LargeImage
from img2img.lab.lazy import LazyImages

EDGE, COUNT = 512, 8  # pixels along a side of a region, and regions of an image


@dataclass(frozen=True)
class Piece:
    """What is looked at of an image: all of it, or the region of these rows and columns."""

    number: int
    region: tuple[Span, Span] | None = None

    @classmethod
    def of(cls, number: int, image: Array | LargeImage) -> list[Self]:
        """Return the pieces of an image: of a large one, regions that are spread evenly over its tissue.

        Those of which the edge of the image leaves less than half a side are left out, unless there are no others.
        """
        if isinstance(image, LargeImage):
            regions = image.sample(COUNT, EDGE)
            wide = [region for region in regions if all(2 * (end - start) >= EDGE for start, end in region)]
            return [cls(number, region) for region in wide or regions]
        return [cls(number)]

    @property
    def origin(self) -> Origin:
        """The row and column of its first pixel."""
        return (0, 0) if self.region is None else (self.region[0][0], self.region[1][0])

    def part(self, image: Any) -> Array:
        """Return the piece of an image (..., H, W) of the same size."""
        if self.region is None:
            return image  # type: ignore[no-any-return]
        rows, columns = (slice(*span) for span in self.region)
        part: Array = image[..., rows, columns] if image.ndim == 2 else image[:, rows, columns]
        return part

    def called(self, name: str) -> str:
        """Return what errors and reports call the piece of an image of this name."""
        if self.region is None:
            return name
        (top, bottom), (left, right) = self.region
        return f"{name}, rows {top} to {bottom - 1}, columns {left} to {right - 1}"


def in_pieces(images: Sequence[Array], pieces: Sequence[Piece]) -> LazyImages:
    """Return the pieces of images, each read when it is asked for."""
    return LazyImages(len(pieces), lambda i: pieces[i].part(images[pieces[i].number]))


def are_cut(pieces: Sequence[Piece]) -> bool:
    """Return whether there is a piece that is not a whole image."""
    return any(piece.region for piece in pieces)
