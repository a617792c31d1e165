"""Where an image was taken, as far as a correction depends on it: on the camera, and on the plate.

A well is known by a group called "plate/A01".
"""

import re
from collections.abc import Iterable
from typing import NamedTuple, Self

from img2img.errors import InputError, quote

WELL = re.compile(r".*/([A-Z]|A[A-F])0*([1-9]\d?)", re.IGNORECASE | re.DOTALL)
FORMATS = ((8, 12), (16, 24), (32, 48))  # rows and columns of plates of 96, 384 and 1536 wells

Origin = tuple[int, int]
Well = tuple[float, float]


class Place(NamedTuple):
    """The place of an image.

    Attributes:
        origin: row and column of its first pixel on the camera.
        well: row and column of its well, from -1 to 1 across the plate.
    """

    origin: Origin = (0, 0)
    well: Well = (0.0, 0.0)


NOWHERE = Place()


class Position(NamedTuple):
    """The row and column of a well, counted from 1."""

    row: int
    column: int

    @classmethod
    def of(cls, group: str) -> Self | None:
        """Return the position of the group "plate/A01"; None for a group with another name."""
        if (found := WELL.fullmatch(group)) is None:
            return None
        letters, column = found[1].upper(), int(found[2])
        row = 26 * (len(letters) - 1) + ord(letters[-1]) - ord("A") + 1
        return cls(row, column) if row <= FORMATS[-1][0] and column <= FORMATS[-1][1] else None

    def is_edge(self, shape: tuple[int, int]) -> bool:
        """Return whether the well lies in an outer row or column of a plate of this many rows and columns."""
        return self.row in (1, shape[0]) or self.column in (1, shape[1])


def plate_shape(positions: Iterable[Position]) -> tuple[int, int]:
    """Return the rows and columns of the smallest plate that has these wells."""
    row, column = (max(values) for values in zip(*positions, strict=True))
    return next(shape for shape in FORMATS if row <= shape[0] and column <= shape[1])


def plate_of(groups: Iterable[str]) -> tuple[int, int]:
    """Return the rows and columns of the smallest plate that has these wells, called "plate/A01".

    Raises:
        InputError: for a group with another name.
    """
    return plate_shape([_place_of(group) for group in set(groups)])


def centred(group: str | None, plate: tuple[int, int]) -> tuple[float, float]:
    """Return the row and column of the well "plate/A01", from -1 to 1 across a plate of this many rows and columns.

    Raises:
        InputError: for a group with another name, or none.
    """
    row, column = (2 * (at - 1) / (count - 1) - 1 for at, count in zip(_place_of(group), plate, strict=True))
    return row, column


def _place_of(group: str | None) -> Position:
    if group is None or (place := Position.of(group)) is None:
        raise InputError(
            f'plate_position needs the well of every image, as a group called "plate/A01", but '
            f"{'no groups were given' if group is None else f'{quote(group)} is none'}; give the columns of plate and "
            "well, or leave plate_position out."
        )
    return place
