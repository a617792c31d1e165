"""What workers tell each other. The process that keeps it imports nothing else, so it starts in no time."""

from collections import Counter
from typing import Any


class Begun:
    """What all workers know: how often each piece was begun and not completed, and what was said first.

    A piece that was begun and not completed may have ended its worker.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.settled: dict[Any, Any] = {}

    def count(self, piece: str, step: int) -> int:
        """Add a number to the count of a piece, and return the sum."""
        self.counts[piece] += step
        return self.counts[piece]

    def first(self, key: Any, value: Any) -> Any:
        """Return the value that was first given for a key, by any worker."""
        return self.settled.setdefault(key, value)
