"""The result of a metric."""

from typing import NamedTuple


class Score(NamedTuple):
    """A value, and its standard deviation if the metric resamples."""

    value: float
    std: float | None = None
