"""The output of a run: the live line, log.jsonl, curves, sample grids, and what listeners hear of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from img2img.data.grid import draw_grid
from img2img.errors import first_line
from img2img.report.diagnosis import Diagnosis
from img2img.report.run import write_report
from img2img.runs.facts import Finding, Progress, Report, read_report_record, write_report_record
from img2img.runs.record import NOT_SCALARS, Kind, LogRow, read_log
from img2img.runtime.files import atomic
from img2img.runtime.output import stderr_console
from img2img.runtime.progress import Meter, rough_duration
from img2img.training.callbacks import Callback
from img2img.training.run import Run

FIRST_SECONDS = 3.0  # before the first line if there is no terminal
LONG = 3600.0  # seconds of a run above which advice on shortening it is shown


class Journal:
    """Writes the output of rank 0. A journal that is not `enabled` (on other ranks) writes nothing.

    Args:
        run: what it is about.
        total: the length of the run in steps.
        start: the step that training resumes from; later records of an earlier, killed process are dropped.
        advise: returns what may help against a kind of failure, in words.
        callbacks: hear of what is recorded.
        options: of the run, for them.
    """

    def __init__(
        self,
        run: Run,
        total: int,
        start: int,
        advise: Callable[[str], str] = lambda kind: "",
        enabled: bool = True,
        quiet: bool = False,
        callbacks: Sequence[Callback] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.run, self.files, self.total, self.enabled = run, run.files, total, enabled
        self.console = stderr_console(quiet=quiet or not enabled)
        self.meter: Meter | None = None
        self.estimated = start > 0
        self.callbacks = list(callbacks) if enabled else []
        self.diagnosis = Diagnosis(total, advise, run.facts.kinds)
        if not enabled:
            return
        self.files.samples.mkdir(parents=True, exist_ok=True)
        self.files.remove_samples(start, max(self.files.logged_steps(), default=0))
        kept = [row for row in read_log(self.files.log) if row.step <= start]
        with atomic(self.files.log) as temporary:
            temporary.write_text("".join(row.to_json() for row in kept))
        for row in (row for row in kept if row.kind == "train"):
            self.diagnosis.see(row.step, row.values)
        for callback in self.callbacks:
            callback.begin(self.files.path, dict(options or {}), start)
        if not quiet:
            self.meter = Meter(self.console, "train", total, start, first=FIRST_SECONDS)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def record(self, step: int, epoch: int, values: Mapping[str, float], kind: Kind = "train") -> None:
        """Append a record to the log, and show it."""
        if not self.enabled:
            return
        row = LogRow(step, epoch, kind, {name: float(f"{v:.7g}") for name, v in values.items()})
        with self.files.log.open("a") as file:
            file.write(row.to_json())
        self._tell("log", step, row.values, kind)
        if kind == "validation":
            self.say(f"step {step}: held out " + ", ".join(f"{name} {v:.4g}" for name, v in values.items()))
            return
        for finding in self.diagnosis.see(step, row.values):
            self.say(f"step {step}: {finding.text}")
        if self.meter is not None:
            self.meter.below = self._line(epoch, values)

    def advance(self, step: int, images: float) -> None:
        """Show that a step is done, which took `images` images."""
        if self.meter is None:
            return
        pace = self.meter.pace
        self.meter.advance(step, work=images)
        if pace.warm and not self.estimated:
            self.estimated = True
            seconds = self.total * (pace.seconds or 0.0)
            if seconds > LONG and self.run.shorten:
                self.say(f"The whole run takes about {rough_duration(seconds)} {self.run.shorten}")

    def _line(self, epoch: int, values: Mapping[str, float]) -> str:
        kinds = self.run.facts.kinds
        shares = " ".join(f"{k} {v:.0%}" for k, v in values.items() if kinds.get(k) == "share")
        others = {k: v for k, v in values.items() if k not in NOT_SCALARS and kinds.get(k) not in ("norm", "share")}
        losses = " ".join(f"{k} {v:.3f}" for k, v in others.items())
        return f"epoch {epoch} {losses}" + (f" | right: {shares}" if shares else "")

    def samples(self, step: int, columns: Mapping[str, Tensor]) -> None:
        """Write a sample grid: a row per image, a column per title."""
        if not self.enabled:
            return
        with atomic(self.files.sample(step)) as temporary:
            draw_grid(columns).save(temporary)
        self._tell("samples", step, self.files.sample(step))

    def report(self, progress: Progress) -> None:
        """Write report.json, curves.png and report.html."""
        if self.enabled:
            report = Report(self.run.facts, progress, self.diagnosis.findings)
            write_report_record(self.files, report)
            write_report(self.files, read_log(self.files.log), report)

    def complete(self, progress: Progress) -> None:
        """Report a run that has nothing left to do, if a kill prevented that at its end."""
        if self.enabled and read_report_record(self.files).progress != progress:
            self.report(progress)

    def failed(self, progress: Progress) -> None:
        """Note in the report that numbers are no longer finite."""
        finding = Finding("not finite", progress.step, ways=self.diagnosis.advise("not finite"))
        self.diagnosis.findings.append(finding)
        self.report(progress)

    def close(self, step: int = 0) -> None:
        """End the display, and say that the run is over or stopped after `step` steps."""
        if self.meter is not None:
            self.meter.close()
        self._tell("end", step)

    def _tell(self, what: str, *values: Any) -> None:
        """Call a method of all callbacks; drop those that may fail and do."""
        for callback in list(self.callbacks):
            try:
                getattr(callback, what)(*values)
            except Exception as error:
                if not callback.optional:
                    raise
                self.callbacks.remove(callback)
                self.say(f"{type(callback).__name__} failed, and the run continues without it: {first_line(error)}")
