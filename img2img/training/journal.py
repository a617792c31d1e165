"""What a run tells: the live line, log.jsonl, curves, sample grids, TensorBoard where wanted."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from img2img.data.grid import draw_grid
from img2img.data.images import atomic
from img2img.errors import ConfigError, install_hint
from img2img.report.diagnosis import Diagnosis, Finding
from img2img.report.run import FACTS, read_facts, write_report
from img2img.runs.folder import logged_steps, remove_samples
from img2img.runs.record import read_log
from img2img.runtime.output import stderr_console
from img2img.runtime.progress import Meter, rough_duration

FIRST_SECONDS = 3.0  # before the first line where there is no terminal
LONG = 3600.0  # seconds of a run, above which it is said how to shorten it


class Journal:
    """Writes what rank 0 of a run sees. A journal that is not `enabled` (other ranks) writes nothing.

    Args:
        folder: the run folder.
        total: steps of the whole run.
        start: the step that training goes on from; later records of an earlier, killed process are dropped.
        advise: what may help against a kind of failure, in words.
        shorten: how to shorten a long run, in words.
    """

    def __init__(
        self,
        folder: Path,
        total: int,
        start: int,
        enabled: bool = True,
        quiet: bool = False,
        tensorboard: bool = False,
        advise: Callable[[str], str] = lambda kind: "",
        shorten: str = "",
    ) -> None:
        self.folder, self.total, self.start, self.enabled, self.shorten = folder, total, start, enabled, shorten
        self.console = stderr_console(quiet=quiet or not enabled)
        self.meter: Meter | None = None
        self.settled = True
        self.estimated = start > 0
        self.board: Any = None
        self.diagnosis = Diagnosis(total, advise)
        if not enabled:
            return
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "log.jsonl"
        remove_samples(folder, start, max(logged_steps(folder), default=0))
        kept = [r for r in read_log(self.log_file) if r["step"] <= start]
        with atomic(self.log_file) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in kept))
        for row in (row for row in kept if row["kind"] == "train"):
            self.diagnosis.see(row["step"], row)
        if tensorboard:
            self.board = _tensorboard(folder)
        if not quiet:
            self.meter = Meter(self.console, "train", total, start, lambda text: self.say(text), first=FIRST_SECONDS)

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
        if self.meter is not None:
            self.meter.below = self._line(epoch, values)

    def advance(self, step: int, images: float, settled: bool = True) -> None:
        """Shows that a step is done, which took so many images.

        Args:
            step: its number.
            images: how many it took.
            settled: whether later steps will take about as long; not so while compiling is tried.
        """
        if self.meter is None:
            return
        pace = self.meter.pace
        self.meter.advance(step, work=images)
        if settled and not self.settled:
            pace.restart()  # from here on steps take as long as the rest
        self.settled = settled
        if pace.warm and settled and not self.estimated:
            self.estimated = True
            seconds = self.total * (pace.seconds or 0.0)
            if seconds > LONG and self.shorten:
                self.say(f"The whole run takes about {rough_duration(seconds)} {self.shorten}")

    def _line(self, epoch: int, values: Mapping[str, float]) -> str:
        quiet = ("lr", "seconds_per_step", "images_per_s")
        shown = {k: v for k, v in values.items() if k not in quiet and not k.startswith("grad_")}
        accuracies = {k: v for k, v in shown.items() if k.endswith(("_real", "_fake"))}
        losses = " ".join(f"{k} {v:.3f}" for k, v in shown.items() if k not in accuracies)
        right = " ".join(f"{k} {v:.0%}" for k, v in accuracies.items())
        return f"epoch {epoch} {losses}" + (f" | right: {right}" if right else "")

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

    def complete(self, facts: Mapping[str, Any]) -> None:
        """Reports a run that has nothing left to do, if a kill prevented that at its end."""
        known = read_facts(self.folder)[0]
        if any(known.get(name) != facts.get(name) for name in ("steps", "ended")):
            self.report(facts)

    def failed(self, step: int, facts: Mapping[str, Any]) -> None:
        """Notes in the report that numbers are not finite any more."""
        self.diagnosis.findings.append(Finding("not finite", step, ways=self.diagnosis.advise("not finite")))
        self.report(facts)

    def close(self) -> None:
        if self.meter is not None:
            self.meter.close()
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(install_hint("--tensorboard", "tensorboard", "tensorboard")) from None
    return SummaryWriter(str(folder / "tensorboard"))
