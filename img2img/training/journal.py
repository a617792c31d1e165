"""What a run tells: the live line, log.jsonl, curves, sample grids, TensorBoard where wanted."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from img2img.data.images import atomic
from img2img.errors import ConfigError
from img2img.output import stderr_console
from img2img.page import draw_grid
from img2img.training.diagnosis import Diagnosis, Finding
from img2img.training.report import write_report

FACTS = "report.json"
PLAIN_SECONDS = 20.0  # between lines where there is no terminal to draw a live one


class Journal:
    """Writes what rank 0 of a run sees. A journal that is not `enabled` (other ranks) writes nothing.

    Args:
        folder: the run folder.
        total: steps of the whole run.
        start: the step that training goes on from; later records of an earlier, killed process are dropped.
    """

    def __init__(
        self, folder: Path, total: int, start: int, enabled: bool = True, quiet: bool = False, tensorboard: bool = False
    ) -> None:
        self.folder, self.total, self.enabled = folder, total, enabled
        self.console = stderr_console(quiet=quiet or not enabled)
        self.live: Progress | None = None
        self.task = TaskID(0)
        self.printed = time.monotonic()
        self.board: Any = None
        self.diagnosis = Diagnosis(total)
        if not enabled:
            return
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "log.jsonl"
        kept = [r for r in read_log(self.log_file) if r["step"] <= start]
        with atomic(self.log_file) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in kept))
        for row in (row for row in kept if row["kind"] == "train"):
            self.diagnosis.see(row["step"], row)
        for sample in (folder / "samples").glob("*.png"):
            if int(sample.stem) > start:
                sample.unlink()
        if tensorboard:
            self.board = _tensorboard(folder)
        if self.console.is_terminal and not quiet:
            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.live = Progress(*columns, console=self.console, transient=True)
            self.task = self.live.add_task("starting", total=total, completed=start)
            self.live.start()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def record(self, step: int, epoch: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Appends one line to the log, and shows it."""
        if not self.enabled:
            return
        row = {"step": step, "epoch": epoch, "kind": kind, **{name: float(f"{v:.7g}") for name, v in values.items()}}
        with self.log_file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name, v in values.items():
                self.board.add_scalar(f"{kind}/{name}", v, step)
        if kind == "validation":
            self.say(f"step {step}: held out " + ", ".join(f"{name} {v:.4g}" for name, v in values.items()))
            return
        for finding in self.diagnosis.see(step, row):
            self.say(f"step {step}: {finding.text}")
        line = self._line(step, epoch, values)
        if self.live is not None:
            self.live.update(self.task, completed=step, description=line)
        elif time.monotonic() - self.printed > PLAIN_SECONDS or step == self.total:
            self.printed = time.monotonic()
            left = (self.total - step) * values.get("seconds_per_step", 0.0)
            self.say(f"{line}, {left / 60:.0f} min left")

    def _line(self, step: int, epoch: int, values: Mapping[str, float]) -> str:
        quiet = ("lr", "seconds_per_step", "images_per_s")
        shown = {k: v for k, v in values.items() if k not in quiet and not k.startswith("grad_")}
        accuracies = {k: v for k, v in shown.items() if k.endswith(("_real", "_fake"))}
        losses = " ".join(f"{k} {v:.3f}" for k, v in shown.items() if k not in accuracies)
        right = " ".join(f"{k} {v:.0%}" for k, v in accuracies.items())
        return (
            f"step {step}/{self.total} epoch {epoch} {values['images_per_s']:.1f} images/s | {losses} | right: {right}"
        )

    def samples(self, step: int, columns: Mapping[str, Tensor]) -> None:
        """Writes a sample grid: a row per image, a column per title."""
        if self.enabled:
            with atomic(self.folder / "samples" / f"{step:08d}.png") as temporary:
                draw_grid(columns).save(temporary)

    def report(self, facts: Mapping[str, Any]) -> None:
        """Draws the curves and writes report.html, and what `rewrite_report` needs."""
        if self.enabled:
            with atomic(self.folder / FACTS) as temporary:
                known = {"facts": dict(facts), "findings": [asdict(finding) for finding in self.diagnosis.findings]}
                temporary.write_text(json.dumps(known, indent=1) + "\n")
            write_report(self.folder, read_log(self.log_file), facts, self.diagnosis.findings)

    def failed(self, step: int, facts: Mapping[str, Any]) -> None:
        """Notes in the report that numbers are not finite any more."""
        self.diagnosis.findings.append(Finding("not finite", step))
        self.report(facts)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
        if self.board is not None:
            self.board.close()


def read_facts(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """What the report of a run says beyond its log; nothing where that is missing or damaged."""
    try:
        known = json.loads((folder / FACTS).read_text())
        return dict(known["facts"]), [Finding(**finding) for finding in known["findings"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}, []


def rewrite_report(folder: Path) -> None:
    """Writes report.html anew, for results that came after the run; without the log of a run, leaves it alone."""
    if (folder / "log.jsonl").exists():
        write_report(folder, read_log(folder / "log.jsonl"), *read_facts(folder))


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("--tensorboard needs the package tensorboard: pip install tensorboard.") from None
    return SummaryWriter(str(folder / "tensorboard"))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
