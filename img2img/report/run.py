"""report.html: a run in one self-contained page that can be mailed."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from img2img.data.images import atomic
from img2img.errors import ModelFileError
from img2img.metrics.table import base_name, sign_of
from img2img.model.file import read_card
from img2img.report import remarks
from img2img.report.curves import Panel, draw_panel, stacked, training_panels
from img2img.report.page import captioned, page, table
from img2img.report.remarks import Remark, shown
from img2img.report.result import pictured, result_section, score_cell
from img2img.runs.facts import Finding, Report, UseRecord, in_words, read_report_record, uses_of_old
from img2img.runs.folder import RunFolder
from img2img.runs.record import Config, LogRow, kinds_of_old, read_log, scalars_of
from img2img.runs.results import RankingRecord, Result, read_ranking, read_result
from img2img.runtime.records import from_json, read_text

SHOWN_SAMPLES = 12
Record = TypeVar("Record")

STYLE = """
body { max-width: 62rem; padding: 0 1.1rem 3rem }
h1 { font-size: 1.75rem; margin: 0 0 .4rem } .above { color: #595959; margin: 0; font-size: .95rem }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .8rem; padding-top: .8rem; border-top: 1px solid #d9d9d9 }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem }
p, ul, dl { margin: .6rem 0; max-width: 46rem } .state { font-size: 1.05rem }
nav { margin: 1rem 0; font-size: .95rem } nav a { margin-right: 1rem; white-space: nowrap } a { color: #0b57a4 }
.remark { border-left: 4px solid; padding: .55rem .9rem; margin: .7rem 0; max-width: 46rem; break-inside: avoid }
.remark p { margin: .15rem 0 } .remark p::first-letter { text-transform: uppercase }
.remark .when { color: #595959; font-size: .9rem }
.wide { background: linear-gradient(90deg, #fff 30%, #fff0) 0 0 / 2rem 100%,
  linear-gradient(270deg, #fff 30%, #fff0) 100% 0 / 2rem 100%,
  linear-gradient(90deg, #0003, #0000) 0 0 / .6rem 100%, linear-gradient(270deg, #0003, #0000) 100% 0 / .6rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll }
.wrong { border-color: #b3261e; background: #fdf1f0 } .note { border-color: #b26a00; background: #fdf6ea }
.over { border-color: #8a8a8a; background: #f5f5f5 } .fine { border-color: #2a7a3b; background: #f0f7f1 }
table { font-size: .95rem; font-variant-numeric: tabular-nums }
td, th { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid #e3e3e3 } th { font-weight: 600 }
thead th { border-bottom: 2px solid #8a8a8a; vertical-align: bottom }
.numbers tbody td, .numbers thead th + th { text-align: right; white-space: nowrap } .numbers th { white-space: nowrap }
tbody th { font-weight: 400 } td strong { font-weight: 700 } small { color: #595959; font-size: .85em }
.faint { color: #595959; font-size: .9rem }
code { white-space: nowrap; font-size: .92em } pre code { white-space: inherit }
dt { font-weight: 600 } dd { margin: 0 0 .5rem; color: #444 }
@media (min-width: 40rem) {
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem } dd { margin: 0 }
}
.files tbody td:last-child, .files thead th:last-child { text-align: left }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem 1.6rem }
.panels figure { margin: 0 } .earlier { align-items: start }
figcaption { font-size: .9rem; margin-top: .3rem; max-width: 46rem }
.panels:not(.earlier) img { width: 100% } figure img { display: block }
pre { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; margin: .3rem 0 1rem; border-radius: 4px;
  font: .9rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
summary { cursor: pointer; padding: .3rem 0 } details td { overflow-wrap: anywhere; min-width: 9rem }
@media (max-width: 30rem) { body { margin-top: 1.2rem } h1 { font-size: 1.45rem } }
p:has(+ pre), p:has(+ figure), p:has(+ .panels) { break-after: avoid }
@media print { h2 { margin-top: 1.4rem } .panels { grid-template-columns: 1fr 1fr } nav { display: none }
  .wide { background: none } }
"""


@dataclass
class _Run:
    """Everything that a report is made of."""

    files: RunFolder
    rows: Sequence[LogRow]
    report: Report
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.facts = self.report.facts
        self.evaluation = self._read(read_result, self.files.evaluation, Result())
        self.ranking = self._read(read_ranking, self.files.ranking, RankingRecord())
        self.config = self._read(_read_config, self.files.config, Config())
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
        """Whether the run has nothing left to do."""
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
                return uses_of_old(["sample"] if needs.domains == ("image",) else ["a2b"])
        return uses_of_old(["sample"] if "variety" in self.kinds.values() else ["a2b"])

    @property
    def translations(self) -> list[UseRecord]:
        """The uses that take images."""
        return [use for use in self.uses if use.images]

    @property
    def outdated(self) -> bool:
        """Whether the run has been resumed since its checkpoints were scored."""
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


def _read_config(path: Path) -> Config:
    return from_json(Config, read_text(path), str(path))


def _seconds_per_step(row: LogRow) -> float:
    """Return the seconds of a step; 0 where a record has none."""
    return remarks.number(row.values.get("seconds_per_step")) or 0.0


def write_report(files: RunFolder, rows: Sequence[LogRow], report: Report) -> None:
    """Write curves.png and report.html into a run folder.

    Args:
        files: the run folder, whose samples and evaluation are shown.
        rows: the records of its log.
        report: what was trained, how far it is, and what went wrong in the game.
    """
    run = _Run(files, rows, report)
    panels = [(panel, draw_panel(panel)) for panel in training_panels(rows, run.kinds)]
    held_out = [(panel, draw_panel(panel, best)) for panel, best in _held_out_panels(run)]
    if panels or held_out:
        with atomic(files.curves) as temporary:
            temporary.write_bytes(stacked([picture for _, picture in panels + held_out]))
    sections = {
        "Diagnosis": _remarks(run),
        "Result": result_section(run.evaluation, files, run.step),
        "Held-out images over the run": _held_out(run, held_out),
        "Curves": _figures(panels),
        "Samples": _samples(run),
        "How to use the model": _use(run),
        "What was trained": _trained(run),
    }
    filled = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in list(filled)[1:])
    parts = [_head(run), *(f'<h2 id="{_anchor(title)}">{title}</h2>\n{body}' for title, body in filled.items())]
    parts.insert(1, f'<nav aria-label="Sections">{links}</nav>')
    text = page(f"{files.path.name}: img2img run", "\n".join(parts), STYLE, heading=False)
    with atomic(files.report) as temporary:
        temporary.write_text(text, encoding="utf-8")


def rewrite_report(folder: Path) -> None:
    """Draw report.html again, for results that came after the run; a folder without a log is left alone."""
    files = RunFolder(folder)
    if files.log.exists():
        write_report(files, read_log(files.log), read_report_record(files))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _head(run: _Run) -> str:
    progress = run.report.progress
    if not run.step:
        state = "No step has been recorded yet."
    else:
        state = f"Step {run.step:,}"
        if progress is not None:
            state += f" of {progress.steps:,}"
            state += f" (ended: {progress.ended})" if progress.ended else " (done)" * run.finished
        if run.training:
            pace = median(_seconds_per_step(row) for row in run.training)
            state += f" after {_duration(_seconds(run.training))}, {pace:.3g} s per step"
        state += "."
    if run.facts.images:
        held_out = " and ".join(map(str, run.facts.held_out.values()))
        state += f" Trained on {in_words(run.facts.images)}" + (f"; held out: {held_out}." if held_out else ".")
    method = f"<p class=above>{escape(run.facts.method)}, trained with img2img</p>" if run.facts.method else ""
    return f'<header>{method}<h1>{escape(run.files.path.name)}</h1><p class="state">{escape(state)}</p></header>'


def _seconds(rows: Sequence[LogRow]) -> float:
    """Return the duration of training, from the means that each record holds over the steps before it."""
    before, seconds = 0, 0.0
    for row in rows:
        seconds += (row.step - before) * _seconds_per_step(row)
        before = row.step
    return seconds


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _remarks(run: _Run) -> str:
    of_checkpoints = remarks.of_checkpoints(run.ranking, run.outdated)
    every = [
        *remarks.of_findings(run.report.findings),
        *remarks.of_evaluation(run.evaluation),
        *(of_checkpoints or remarks.of_scores(run.scores, run.select, run.files.best.name)),
        *(
            Remark("note", f"the file {name} cannot be read and is left out.", "What to do: create it again.")
            for name in run.unreadable
        ),
    ]
    if not every:
        seen = "the records of its training" + (" and its evaluation" if run.evaluation.rows else "")
        return f'<div class="remark fine"><p><strong>No problems found</strong> in {seen}.</p></div>'
    return "\n".join(map(_remark, sorted(every, key=lambda remark: ("wrong", "note", "over").index(remark.kind))))


def _remark(remark: Remark) -> str:
    over = " It is over." if remark.kind == "over" else ""
    when = f'<p class="when">Seen {escape(remark.when)}.{over}</p>' if remark.when else ""
    ways = f"<p>{_options(remark.ways)}</p>" if remark.ways else ""
    return f'<div class="remark {remark.kind}"><p><strong>{escape(remark.text)}</strong></p>{ways}{when}</div>'


def _options(text: str) -> str:
    """Return text as HTML with the names of options set as code, which does not break."""
    return re.sub(r"(--[a-z][a-z0-9-]*)", r"<code>\1</code>", escape(text))


def _held_out_panels(run: _Run) -> list[tuple[Panel, int | None]]:
    panels: list[tuple[Panel, int | None]] = []
    for name in scalars_of(run.scores):
        curve = [(float(row.step), row.values[name]) for row in run.scores if _is_finite(row.values.get(name))]
        if not curve:
            continue
        best, last = remarks.best_row(name, run.scores), run.scores[-1]
        reading = f"Last {shown(last.values.get(name))} at step {last.step:,}"
        if best is not None:
            better = "higher" if sign_of(name) > 0 else "lower"
            reading += f", best {shown(best.values[name])} at step {best.step:,} (dashed line); {better} is better"
        panel = Panel(f"Held out: {name}", f"{reading}.", {name: curve})
        panels.append((panel, None if best is None else best.step))
    return panels


def _is_finite(value: float | None) -> bool:
    x = remarks.number(value)
    return x is not None and abs(x) != float("inf")


def _held_out(run: _Run, panels: Sequence[tuple[Panel, bytes]]) -> str:
    return "\n".join(filter(None, [_figures(panels), _checkpoints(run.ranking)]))


def _checkpoints(ranking: RankingRecord) -> str:
    """Return the table of the scored checkpoints, the best ones marked."""
    if not ranking.checkpoints:
        return ""
    scores = {file: checkpoint.scores for file, checkpoint in ranking.checkpoints.items()}
    names = list(dict.fromkeys(name for entry in scores.values() for name in entry))
    best = {name: remarks.best_rows(name, scores, {}) for name in names}
    if ranking.metric in best and not best[ranking.metric]:  # a metric of another version
        best[ranking.metric] = {ranking.best}
    lines = []
    for file, checkpoint in sorted(ranking.checkpoints.items(), key=lambda entry: entry[1].step):
        step = f"{checkpoint.step:,}"
        marked = f"<strong>{step}, best</strong>" if file == ranking.best else step
        cells = (score_cell(checkpoint.scores.get(name), file in best[name]) for name in names)
        lines.append([marked, *cells, escape(file)])
    scored = table(lines, ["step", *map(escape, names), "file"], "Scores of checkpoints")
    return (
        f"<h3>Checkpoints that were kept</h3><p>All scored alike; the best by {escape(ranking.metric)} is marked.</p>"
        f'<div class="numbers files">{scored}</div>'
    )


def _figures(panels: Sequence[tuple[Panel, bytes]]) -> str:
    figures = [captioned(picture, panel.reading, f"{panel.title}, over the steps") for panel, picture in panels]
    return f'<div class="panels">{"".join(figures)}</div>' if figures else ""


def _samples(run: _Run) -> str:
    every = run.files.sample_grids()
    if not every:
        return ""
    count = min(len(every), SHOWN_SAMPLES)
    chosen = [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)] if count > 1 else every
    content = "a row per image, a column per translation" if run.translations else "images drawn from the same noise"
    thinned = f" {count} of {len(every)}, evenly chosen; all are in samples/." if len(every) > count else ""
    newest, *earlier = [
        pictured(path, f"Step {int(path.stem):,}", f"Samples of step {int(path.stem)}: {content}")
        for path in reversed(chosen)
    ]
    others = f'<div class="panels earlier">{"".join(earlier)}</div>' if earlier else ""
    reduced = " Large pictures are reduced here, as JPEG; exact ones are in samples/." if "(reduced)" in newest else ""
    return f"<p>Newest first: {content}.{thinned}{reduced}</p>\n{newest}\n{others}"


def _use(run: _Run) -> str:
    if run.facts.equalizer:
        return (
            "<p>The model is part of a batch equalizer, which is fitted, applied and judged as a whole:</p>"
            f"{_command('img2img equalize --help')}"
        )
    commands = dict(_translating(run) if run.translations else _sampling(run))
    if run.facts.method and not run.finished:
        folder = shlex.quote(str(run.files.path))
        commands["Resume the training:"] = f"img2img train {run.facts.method} --out {folder} --resume"
    return "\n".join(f"<p>{_options(text)}</p>{_command(command)}" for text, command in commands.items())


def _sampling(run: _Run) -> Iterable[tuple[str, str]]:
    label = " --label NAME" if any(use.labels for use in run.uses) else ""
    yield "Draw 64 images:", f"img2img sample {shlex.quote(str(run.best_model))}{label} --n 64 --out RESULTS"


def _translating(run: _Run) -> Iterable[tuple[str, str]]:
    folder, model = (shlex.quote(str(path)) for path in (run.files.path, run.best_model))
    first, *others = run.translations
    label = " --label TARGET" if first.labels else ""
    ways = "".join(f", or with --direction {use.name} from {use.images[0]} to {use.output}" for use in others)
    yield (
        f"Translate a folder of images, or one image{ways}:",
        f"img2img translate {model} IMAGES{label} --out RESULTS",
    )
    if len({first.images[0], first.output}) < 2:
        return
    named = (
        ""
        if run.facts.held_out
        else "".join(f" --{domain} HELD_OUT_{domain.upper()}" for domain in sorted((first.images[0], first.output)))
    )
    yield "Score it on held-out images, beside the unchanged input:", f"img2img evaluate {folder}{named}"
    if run.facts.held_out and run.files.models.is_dir():
        yield "Score every checkpoint that was kept:", f"img2img evaluate {folder} --all"


def _command(command: str) -> str:
    return f"<pre><code>{escape(command)}</code></pre>"


def _trained(run: _Run) -> str:
    facts = {k: v for k, v in run.facts.titled().items() if k != "options" or not run.config.options}
    parts = [_details("Facts", facts.items(), is_open=True)]
    options = ((f"--{name.replace('_', '-')}", "none" if v is None else v) for name, v in run.config.options.items())
    parts.append(_details("Options", options))
    if run.config.environment:
        versions = {**run.config.environment, "command": run.config.command}
        parts.append(_details("Versions and command", versions.items()))
    return "\n".join(filter(None, parts))


def _details(title: str, pairs: Iterable[tuple[str, Any]], is_open: bool = False) -> str:
    lines = [(escape(str(name)), escape(str(value))) for name, value in pairs]
    state = " open" if is_open else ""
    return f"<details{state}><summary>{title}</summary>{table(lines)}</details>" if lines else ""


# For api.py, until it reads a `Report`.
def read_facts(folder: Path) -> tuple[dict[str, str], list[Finding]]:
    """Return the facts by title, and the findings, of report.json."""
    report = read_report_record(RunFolder(folder))
    return report.facts.titled(), report.findings
