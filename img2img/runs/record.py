"""The config and the log of a run: their content as dataclasses, checked where it is read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from img2img.errors import ModelFileError
from img2img.runtime.records import from_json, read_text

Value = str | bool | int | float | None  # of an option
Kind = Literal["train", "validation"]

RETIRED = {"image_size"}  # options of 0.1 whose value is now a fact of the data

# Options that do not change the result: a resumed run may change them.
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
    "track",
    "cache_mb",
}
NOT_SCALARS = ("lr", "seconds_per_step", "images_per_s")  # values of a row that are no scalars of the method


@dataclass(frozen=True, kw_only=True)
class Config:
    """The parts of a config.json that a report shows, also of a run inside an equalizer.

    Attributes:
        data: what identifies the images, by domain; empty for runs of early versions.
    """

    options: dict[str, Value] = field(default_factory=dict)  # every option with its value
    data: dict[str, Any] = field(default_factory=dict)
    command: str = "unknown"  # the command line
    environment: dict[str, str] = field(default_factory=dict)  # the versions of what it ran on

    def training_images(self) -> dict[str, int]:
        """Return the number of training images of each domain; empty where the config does not hold it."""
        domains = {name: domain for name, domain in self.data.items() if not name.startswith("held-out ")}
        return {name: from_json(_Domain, json.dumps(x), f"The domain {name}").images for name, x in domains.items()}


@dataclass(frozen=True, kw_only=True)
class RunRecord(Config):
    """The content of the config.json of every run."""

    method: str  # the name of the method
    options: dict[str, Value]
    processes: int = 1  # the number of processes that train


@dataclass(frozen=True)
class LogRow:
    """A record of the log."""

    step: int  # the training step that it was taken at, from 1
    epoch: int  # the pass over the data that the step belongs to
    kind: Kind  # "train" or "validation"
    values: dict[str, float]  # scalars of training (means since the record before), or held-out scores, by name

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "LogRow":
        """Return the row of a flat record."""
        values = {name: x for name, x in record.items() if name not in ("step", "epoch", "kind")}
        return cls(record["step"], record["epoch"], record["kind"], values)

    def to_json(self) -> str:
        """Return the row as a line of the log."""
        return json.dumps({"step": self.step, "epoch": self.epoch, "kind": self.kind, **self.values}) + "\n"


def read_log(path: Path) -> list[LogRow]:
    """Return the records of a log, without a last line that was cut short by a kill.

    Raises:
        ModelFileError: naming the line that is no record.
    """
    lines = read_text(path).decode(errors="replace").splitlines() if path.exists() else []
    rows: list[LogRow] = []
    for number, line in enumerate(lines, 1):
        where = f"Line {number} of {path}"
        try:
            from_json(_Head, line, where)
            record = from_json(dict[str, int | float | Kind], line, where)
        except ModelFileError:
            if number == len(lines):
                break
            raise
        rows.append(LogRow.of(record))
    return rows


def scalars_of(rows: Iterable[LogRow]) -> list[str]:
    """Return the names of the scalars or scores in `rows`, without rates and times, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.values if name not in NOT_SCALARS))


def kinds_of_old(names: Iterable[str]) -> dict[str, str]:
    """Return the kinds of scalars by the spelling of their names, for runs that did not record them.

    Until version 0.1.0 names were the only record. See `Facts.kinds` for the kinds.
    """
    exact = {"diversity": "variety", "d_distance": "distance"}
    kinds = {}
    for name in names:
        spelled = "norm" if name.startswith("grad_") else "share" if name.endswith(("_real", "_fake")) else "loss"
        kinds[name] = exact.get(name, spelled)
    return kinds


@dataclass(frozen=True)
class _Domain:
    """The part of a domain's identity that is compared by number."""

    images: Annotated[int, Ge(0)]


@dataclass(frozen=True)
class _Head:
    """The fields of every line of a log; its other values are numbers by name."""

    step: Annotated[int, Ge(0)]
    epoch: Annotated[int, Ge(0)]
    kind: Kind
