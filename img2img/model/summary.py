"""What became of the files of a folder: file by file, in total, and as a report; reports of shards in one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from img2img.data.shards import Shard
from img2img.errors import ConfigError, quote
from img2img.model.translator import Translator
from img2img.runtime.files import holds_keys, refuse_unwritable, write_text
from img2img.runtime.markup import facts, in_cell, listing, shortened
from img2img.runtime.records import from_json, read_text

Status = Literal["translated", "skipped", "failed"]
Fields = tuple[Status, str, float]  # status, reason and outside of an outcome


@dataclass(frozen=True)
class Outcome:
    """The result of one file.

    Attributes:
        outside: share of its values outside the range that the model was trained on and can represent.
        done, total: number of files processed so far, and of all files; 0 if that is not known.
        source, target: paths; URLs of files in stores.
    """

    source: Path | str
    target: Path | str
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
    failed: list[tuple[Path | str, str]] = field(default_factory=list)
    outside: list[tuple[Path | str, float]] = field(default_factory=list)
    seconds: float = 0.0
    computed: str = ""

    def __repr__(self) -> str:
        counts = f"{self.translated} translated, {self.skipped} skipped, {len(self.failed)} failed"
        lines = shortened([reason for _, reason in self.failed])  # each names its file
        return "\n  ".join([f"Summary({counts}, {self.seconds:.1f} s)", *lines])

    def _repr_html_(self) -> str:
        counts = {"translated": self.translated, "already there": self.skipped, "failed": len(self.failed)}
        found = counts | {
            "outside the range of training": len(self.outside) or "",
            "time": f"{self.seconds:.1f} s",
            "computed": self.computed,
        }
        return in_cell("Translated files", facts(found), listing([reason for _, reason in self.failed]))

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


@dataclass(frozen=True)
class _Failed:
    file: str
    reason: str


@dataclass(frozen=True)
class _Outside:
    file: str
    share: float


@dataclass(frozen=True)
class Report:
    """The content of a report of translating: of one job, or of all shards of one.

    Attributes:
        seconds: from the first read to the last write; summed over shards.
        shard: the part that it is of, such as 2/8; None for a whole.
        missing: the shards that a merged report lacks.
    """

    model: str
    direction: str
    label: str | None
    translated: int
    skipped: int
    failed: list[_Failed]
    outside: list[_Outside]
    seconds: float
    computed: str
    files_per_s: float
    notes: list[str]
    shard: str | None = None
    missing: list[str] = field(default_factory=list)


def refuse_report(path: Path) -> None:
    """Raise ConfigError if the report cannot be written to `path`, or `path` is a file other than such a report."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The report {path} cannot be written: {error.strerror}.") from error
    refuse_unwritable(path, holds_keys("model", "computed", "translated"))


def write_report(path: Path, translator: Translator, summary: Summary, shard: str | None) -> None:
    """Write `summary` as JSON, with the model and how it was run.

    Raises:
        ConfigError: if it cannot be written.
    """
    facts = {"model": str(translator.path), "direction": translator.direction, "label": translator.label}
    _write(path, facts | summary.to_json() | {"notes": translator.notes, "shard": shard})


def merge_reports(paths: Sequence[Path], out: Path) -> Report:
    """Write the reports of the shards of a job as one, and return it.

    Raises:
        ConfigError: if two are of the same shard, or they are not of one job, or `out` cannot be written.
        ModelFileError: if one is not such a report.
    """
    refuse_report(out)
    reports: dict[Shard, Report] = {}
    for path in paths:
        report = from_json(Report, read_text(path), str(path))
        if report.shard is None:
            raise ConfigError(f"{quote(path)} is the report of a whole job, not of a shard of one.")
        if (shard := Shard.parse(report.shard)) in reports:
            raise ConfigError(f"{quote(path)} is another report of shard {shard}; give one of each.")
        reports[shard] = report
    parts = [reports[shard] for shard in sorted(reports, key=lambda shard: shard.number)]
    first, counts = parts[0], {shard.count for shard in reports}
    for name in ("model", "direction", "label"):
        values = {str(getattr(part, name)) for part in parts}
        if len(values) > 1:
            raise ConfigError(f"The reports are not of one job: {name} is {' and '.join(sorted(values))}.")
    if len(counts) > 1:
        raise ConfigError(f"The reports are of a job in {' and of one in '.join(map(str, sorted(counts)))} parts.")
    (count,) = counts
    seconds, translated = sum(part.seconds for part in parts), sum(part.translated for part in parts)
    merged = replace(
        first,
        translated=translated,
        skipped=sum(part.skipped for part in parts),
        failed=[entry for part in parts for entry in part.failed],
        outside=[entry for part in parts for entry in part.outside],
        seconds=seconds,
        computed=next((part.computed for part in parts if part.computed), ""),
        files_per_s=round(translated / seconds, 3) if seconds else 0.0,
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        shard=None,
        missing=[str(s) for number in range(1, count + 1) if (s := Shard(number, count)) not in reports],
    )
    _write(out, asdict(merged))
    return merged


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        write_text(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"The report {path} cannot be written: {error.strerror}.") from error
