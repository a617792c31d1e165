"""What a run tells others while it trains: code of the user's own, and trackers of experiments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal


class Callback:
    """A listener to a run: override what you want to hear of. All calls come from the first process, in order.

    An exception that a method raises ends the run, which can be resumed from its last checkpoint.

    Attributes:
        optional: true if an exception is only reported, once the run has begun, and the run continues without this
            listener.
    """

    optional = False

    def begin(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        """Hear that a run begins, or is resumed.

        Args:
            folder: the run folder.
            options: of the run, by name.
            step: the steps that are done, 0 for a new run.
        """

    def log(self, step: int, values: Mapping[str, float], kind: Literal["train", "validation"]) -> None:
        """Hear of a record: every `log_every` steps the means since the last one, and the scores of each validation."""

    def samples(self, step: int, picture: Path) -> None:
        """Hear of a sample grid: a PNG with a row per image and a column per translation."""

    def end(self, step: int) -> None:
        """Hear that the run is over or stopped, `step` steps of it done."""
