"""The contents of a report: what its sections are made of, read from the run folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from img2img.errors import ModelFileError
from img2img.metrics.table import base_name
from img2img.model.file import read_card
from img2img.report import remarks
from img2img.runs.facts import Report, UseRecord, uses_of_old
from img2img.runs.folder import RunFolder
from img2img.runs.record import Config, LogRow, kinds_of_old, scalars_of
from img2img.runs.results import RankingRecord, Result, read_ranking, read_result
from img2img.runtime.records import from_json, read_text

Record = TypeVar("Record")


@dataclass
class Contents:
    """Everything that a report is made of."""

    files: RunFolder
    rows: Sequence[LogRow]
    report: Report
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.facts = self.report.facts
        self.evaluation = self._read(read_result, self.files.evaluation, Result())
        self.ranking = self._read(read_ranking, self.files.ranking, RankingRecord())
        self.config = self._read(
            lambda path: from_json(Config, read_text(path), str(path)), self.files.config, Config()
        )
        self.training = [row for row in self.rows if row.kind == "train"]
        self.scores = [row for row in self.rows if row.kind == "validation"]

    def _read(self, read: Callable[[Path], Record], path: Path, absent: Record) -> Record:
        try:
            return read(path) if path.exists() else absent
        except ModelFileError:
            self.unreadable.append(path.name)
            return absent

    @property
    def step(self) -> int:
        """The last step."""
        progress = self.report.progress
        return progress.step if progress else max((row.step for row in self.rows), default=0)

    @property
    def finished(self) -> bool:
        """True if the run has nothing left to do."""
        progress = self.report.progress
        return progress is not None and (progress.step >= progress.steps or bool(progress.ended))

    @property
    def kinds(self) -> Mapping[str, str]:
        """Scalar -> its kind."""
        return self.facts.kinds or kinds_of_old(scalars_of(self.training))

    @property
    def select(self) -> str:
        """The metric that chooses the best model, by the name it has in the log."""
        options = self.config.options
        select, metrics = (str(options.get(name, "auto")) for name in ("select", "metrics"))
        first = "l1" if metrics == "auto" else metrics.partition(",")[0].strip()
        wanted = first if select == "auto" else select
        return next((name for name in scalars_of(self.scores) if base_name(name) == wanted), wanted)

    @cached_property
    def uses(self) -> tuple[UseRecord, ...]:
        """The networks that the run keeps: as recorded, or for old runs by their model file or the table of methods."""
        if self.facts.uses:
            return self.facts.uses
        try:
            return uses_of_old(read_card(self.files.model).directions)
        except ModelFileError:
            from img2img.methods import METHODS

            if self.facts.method in METHODS:
                needs = METHODS[self.facts.method].Config.needs
                return uses_of_old(["a2b"] if "a" in needs.domains else ["sample"])
        return uses_of_old(["sample"] if "variety" in self.kinds.values() else ["a2b"])

    @property
    def translations(self) -> list[UseRecord]:
        """The uses that take images."""
        return [use for use in self.uses if use.images]

    @property
    def outdated(self) -> bool:
        """True if the run has been resumed since its checkpoints were scored."""
        steps = [checkpoint.step for checkpoint in self.ranking.checkpoints.values()]
        return bool(steps) and max(steps) < self.step

    @cached_property
    def best_model(self) -> Path:
        """The model to use: the checkpoint that scored best, if any were scored."""
        best = self.files.path / self.ranking.best
        if self.ranking.best and best.exists() and not self.outdated:
            return best
        worse = remarks.of_scores(self.scores, self.select, "")
        return self.files.best if self.files.best.exists() and worse else self.files.path
