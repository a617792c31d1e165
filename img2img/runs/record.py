"""What a run leaves on disk in words and numbers: its options, and its log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from img2img.errors import ModelFileError
from img2img.runtime.records import from_json, read_text

Row = dict[str, int | float | Literal["train", "validation"]]  # a record of the log

# Options that leave the result as it is: a resumed run may change them.
OPERATIONAL = {
    "device",
    "checkpoint_activations",
    "workers",
    "log_every",
    "sample_every",
    "validate_every",
    "save_every",
    "keep",
    "patience",
    "tensorboard",
    "cache_mb",
}


@dataclass(frozen=True)
class RunRecord:
    """What the config.json of every run holds."""

    method: str
    options: dict[str, str | bool | int | float | None]
    processes: int = 1


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log; a last line that a kill cut short is left out.

    Raises:
        ModelFileError: naming the line that is no record.
    """
    lines = read_text(path).decode(errors="replace").splitlines() if path.exists() else []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            from_json(_Record, line, f"Line {number} of {path}")
            row = from_json(Row, line, f"Line {number} of {path}")
        except ModelFileError:
            if number == len(lines):
                break
            raise
        rows.append(row)
    return rows


@dataclass
class _Record:
    """What every line of a log has; its other values are numbers by name."""

    step: Annotated[int, Ge(0)]
    epoch: Annotated[int, Ge(0)]
    kind: Literal["train", "validation"]
