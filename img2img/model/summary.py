"""What became of the files of a folder: file by file, in total, and as a report."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from img2img.errors import ConfigError
from img2img.model.translator import Translator
from img2img.runtime.files import holds_keys, refuse_unwritable, write_text

SHOWN_FAILURES = 10  # in the repr of a summary; all are in its `failed`

Status = Literal["translated", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The result of one file.

    Attributes:
        outside: share of its values outside the range that the model was trained on and can represent.
        done, total: number of files processed so far, and of all files.
    """

    source: Path
    target: Path
    status: Status
    reason: str = ""
    outside: float = 0.0
    done: int = 0
    total: int = 0


@dataclass
class Summary:
    """The results of a folder.

    Attributes:
        translated: files written.
        skipped: files whose result already existed.
        failed: (file, reason) of every file that could not be translated.
        outside: (file, share) of every file with values outside the range that the model was trained on.
        seconds: from the first read to the last write.
        computed: device, precision and backend, in words.
    """

    translated: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    outside: list[tuple[Path, float]] = field(default_factory=list)
    seconds: float = 0.0
    computed: str = ""

    def __repr__(self) -> str:
        counts = f"{self.translated} translated, {self.skipped} skipped, {len(self.failed)} failed"
        reasons = [f"\n  {reason}" for _, reason in self.failed[:SHOWN_FAILURES]]  # each names its file
        more = f"\n  and {len(self.failed) - SHOWN_FAILURES} more" if len(self.failed) > SHOWN_FAILURES else ""
        return f"Summary({counts}, {self.seconds:.1f} s){''.join(reasons)}{more}"

    def add(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            self.failed.append((outcome.source, outcome.reason))
        elif outcome.status == "skipped":
            self.skipped += 1
        else:
            self.translated += 1
            if outcome.outside:
                self.outside.append((outcome.source, outcome.outside))

    def to_json(self) -> dict[str, Any]:
        rate = round(self.translated / self.seconds, 3) if self.seconds else 0.0
        return {
            **asdict(self),
            "failed": [{"file": str(path), "reason": reason} for path, reason in self.failed],
            "outside": [{"file": str(path), "share": share} for path, share in self.outside],
            "files_per_s": rate,
        }


def refuse_report(path: Path) -> None:
    """Raise ConfigError if the report cannot be written to `path`, or `path` is a file other than such a report."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The report {path} cannot be written: {error.strerror}.") from error
    refuse_unwritable(path, holds_keys("model", "computed", "translated"))


def write_report(path: Path, translator: Translator, summary: Summary) -> None:
    """Write `summary` as JSON, with the model and how it was run.

    Raises:
        ConfigError: if it cannot be written.
    """
    facts = {"model": str(translator.path), "direction": translator.direction, "label": translator.label}
    report = facts | summary.to_json() | {"notes": translator.notes}
    try:
        write_text(path, json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"The report {path} cannot be written: {error.strerror}.") from error
