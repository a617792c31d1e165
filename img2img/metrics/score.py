"""What a metric gives."""

from typing import NamedTuple


class Score(NamedTuple):
    """A value, and its standard deviation over the resamplings of a metric that has them."""

    value: float
    std: float | None = None
