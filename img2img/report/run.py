"""report.html: a run in one self-contained page that can be mailed."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from img2img.data.images import atomic
from img2img.errors import ModelFileError
from img2img.report import remarks
from img2img.report.curves import Panel, draw_panel, stacked, training_panels
from img2img.report.diagnosis import Finding
from img2img.report.page import captioned, page, table
from img2img.report.remarks import Remark, Row, shown
from img2img.report.result import pictured, result, score
from img2img.runs.folder import NUMBERED
from img2img.runs.record import read_log
from img2img.runtime.records import from_json, read_record, read_text

FACTS = "report.json"
SHOWN_SAMPLES = 12

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
    """What a report is made of."""

    folder: Path
    rows: Sequence[Row]
    facts: Mapping[str, Any]
    findings: Sequence[Finding]
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.evaluation = self._read("evaluation.json")
        self.checkpoints = self._read("checkpoints.json")
        self.config = self._read("config.json")
        self.training = [row for row in self.rows if row["kind"] == "train"]
        self.scores = [row for row in self.rows if row["kind"] == "validation"]

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            return read_record(_Result, path) if path.exists() else {}
        except ModelFileError:
            self.unreadable.append(name)
            return {}

    @cached_property
    def progress(self) -> tuple[int, int | None]:
        """The last step, and that of the end where it is known."""
        said = re.fullmatch(r"(\d+) of (\d+)", str(self.facts.get("steps", "")))
        if said:
            return int(said[1]), int(said[2])
        return max((int(row["step"]) for row in self.rows), default=0), None

    @property
    def select(self) -> str:
        """The metric that chooses best.safetensors, by the name it has in the log."""
        options = self.config.get("options")
        said = str(options.get("select", "auto")) if isinstance(options, dict) else "auto"
        measured = str(options.get("metrics", "auto")) if isinstance(options, dict) else "auto"
        first = "l1" if measured == "auto" else measured.partition(",")[0].strip()
        wanted = first if said == "auto" else said
        return next((name for name in remarks.metrics_of(self.scores) if name.partition("[")[0] == wanted), wanted)

    @property
    def method(self) -> str:
        return str(self.facts.get("method", ""))

    @cached_property
    def from_noise(self) -> bool:
        from img2img.methods import METHODS

        if self.method in METHODS:
            return not METHODS[self.method].Config.needs.domains[1:]
        return any("diversity" in row for row in self.rows)

    @cached_property
    def of_equalizer(self) -> bool:
        """Whether it is part of a batch equalizer, which has commands of its own."""
        from img2img.methods import METHODS

        return bool(self.method) and self.method not in METHODS

    @property
    def outdated(self) -> bool:
        """Whether the run has gone on since its checkpoints were scored."""
        steps = [entry.get("step", 0) for entry in self.checkpoints.get("scores", {}).values()]
        return bool(steps) and max(steps) < self.progress[0]

    @cached_property
    def best_model(self) -> Path:
        """What to use: the checkpoint that scored best, where some were scored."""
        best = self.checkpoints.get("best")
        if isinstance(best, str) and (self.folder / best).exists() and not self.outdated:
            return self.folder / best
        chosen = self.folder / "best.safetensors"
        return chosen if chosen.exists() and remarks.of_scores(self.scores, self.select, "") else self.folder


Table = dict[str, dict[str, Any]]


@dataclass
class _Checkpoint:
    step: int


@dataclass
class _Protocol:
    step: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class _Result:
    """The parts of a result, or of a run's config, that the report reads; what is not there does no harm."""

    rows: Table = field(default_factory=dict)
    metrics: Table = field(default_factory=dict)
    per_image: Table = field(default_factory=dict)
    protocol: _Protocol = field(default_factory=_Protocol)
    options: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, _Checkpoint] = field(default_factory=dict)
    best: str | None = None


def _per_step(row: Row) -> float:
    """Return the seconds of a step; 0 where a record has none."""
    return remarks.number(row.get("seconds_per_step")) or 0.0


def write_report(folder: Path, rows: Sequence[Row], facts: Mapping[str, Any], findings: Sequence[Finding] = ()) -> None:
    """Writes curves.png and report.html into a run folder.

    Args:
        folder: the run folder, whose samples and evaluation are shown.
        rows: the records of log.jsonl.
        facts: what was trained: titles and values, in the order to show them.
        findings: what went wrong in the game.
    """
    run = _Run(folder, rows, facts, findings)
    panels = [(panel, draw_panel(panel)) for panel in training_panels(rows)]
    held = [(panel, draw_panel(panel, best)) for panel, best in _held_out_panels(run)]
    if panels or held:
        with atomic(folder / "curves.png") as temporary:
            temporary.write_bytes(stacked([picture for _, picture in panels + held]))
    sections = {
        "Diagnosis": _remarks(run),
        "Result": result(run.evaluation, folder, run.progress[0]),
        "Held-out images over the run": _held_out(run, held),
        "Curves": _figures(panels),
        "Samples": _samples(run),
        "How to use the model": _use(run),
        "What was trained": _trained(run),
    }
    there = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in list(there)[1:])
    parts = [_head(run), *(f'<h2 id="{_anchor(title)}">{title}</h2>\n{body}' for title, body in there.items())]
    parts.insert(1, f'<nav aria-label="Sections">{links}</nav>')
    text = page(f"{folder.name}: img2img run", "\n".join(parts), STYLE, heading=False)
    with atomic(folder / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _head(run: _Run) -> str:
    step, steps = run.progress
    if not step:
        state = "No step has been recorded yet."
    else:
        state = f"Step {step:,}" + (f" of {steps:,}" if steps else "")
        ended = run.facts.get("ended")
        state += f" (ended: {ended})" if ended else " (done)" if step == steps else ""
        if run.training:
            own = median(_per_step(row) for row in run.training)
            state += f" after {_duration(_seconds(run.training))}, {own:.3g} s per step"
        state += "."
    images, held = run.facts.get("training images"), run.facts.get("held-out images", "none")
    if images:
        state += f" Trained on {images}" + ("." if held == "none" else f"; held out: {held}.")
    method = f"<p class=above>{escape(run.method)}, trained with img2img</p>" if run.method else ""
    return f'<header>{method}<h1>{escape(run.folder.name)}</h1><p class="state">{escape(state)}</p></header>'


def _seconds(rows: Sequence[Row]) -> float:
    """What training took, from the means that each record holds of the steps before it."""
    before, seconds = 0, 0.0
    for row in rows:
        seconds += (row["step"] - before) * _per_step(row)
        before = row["step"]
    return seconds


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _remarks(run: _Run) -> str:
    of_checkpoints = remarks.of_checkpoints(run.checkpoints, run.outdated)
    own = [
        *remarks.of_evaluation(run.evaluation),
        *(of_checkpoints or remarks.of_scores(run.scores, run.select, "best.safetensors")),
        *(
            Remark("note", f"the file {name} cannot be read and is left out.", "What to do: make it again.")
            for name in run.unreadable
        ),
    ]
    every = sorted(remarks.of_findings(run.findings) + own, key=lambda r: ("wrong", "note", "over").index(r.kind))
    if not every:
        seen = "the records of its training" + (" and its evaluation" if run.evaluation else "")
        return f'<div class="remark fine"><p><strong>Nothing conspicuous</strong> in {seen}.</p></div>'
    return "\n".join(map(_remark, every))


def _remark(remark: Remark) -> str:
    over = " It is over." if remark.kind == "over" else ""
    when = f'<p class="when">Seen {escape(remark.when)}.{over}</p>' if remark.when else ""
    ways = f"<p>{_options(remark.ways)}</p>" if remark.ways else ""
    return f'<div class="remark {remark.kind}"><p><strong>{escape(remark.text)}</strong></p>{ways}{when}</div>'


def _options(text: str) -> str:
    """Text with the names of options set as such, which then do not break."""
    return re.sub(r"(--[a-z][a-z0-9-]*)", r"<code>\1</code>", escape(text))


def _held_out_panels(run: _Run) -> list[tuple[Panel, int | None]]:
    panels: list[tuple[Panel, int | None]] = []
    for name in remarks.metrics_of(run.scores):
        curve = [(row["step"], row[name]) for row in run.scores if _finite(row.get(name))]
        if not curve:
            continue
        best, last = remarks.best_of(name, run.scores), run.scores[-1]
        reading = f"Last {shown(last.get(name))} at step {last['step']:,}"
        if best is not None:
            way = "higher" if remarks.ahead(name) > 0 else "lower"
            reading += f", best {shown(best[name])} at step {best['step']:,} (dashed line); {way} is better"
        panel = Panel(f"Held out: {name}", f"{reading}.", {name: curve})
        panels.append((panel, None if best is None else best["step"]))
    return panels


def _finite(value: Any) -> bool:
    x = remarks.number(value)
    return x is not None and abs(x) != float("inf")


def _held_out(run: _Run, panels: Sequence[tuple[Panel, bytes]]) -> str:
    parts = [_figures(panels)]
    scores = run.checkpoints.get("scores", {})
    if scores:
        order = sorted(scores, key=lambda name: scores[name].get("step", 0))
        names = list(dict.fromkeys(name for entry in scores.values() for name in entry if name != "step"))
        best = {name: remarks.best_rows(name, scores, {}) for name in names}
        metric = str(run.checkpoints.get("metric", ""))
        if metric in names and metric not in best:
            best[metric] = {str(run.checkpoints.get("best"))}
        lines = []
        for file in order:
            step = f"{scores[file].get('step', 0):,}"
            marked = f"<strong>{step}, best</strong>" if file == run.checkpoints.get("best") else step
            lines.append([marked, *(score(scores[file].get(n), file in best[n]) for n in names), escape(file)])
        scored = table(lines, ["step", *map(escape, names), "file"], "Scores of checkpoints")
        parts.append(
            f"<h3>Checkpoints that were kept</h3><p>All scored alike; the best by {escape(metric)} is marked.</p>"
            f'<div class="numbers files">{scored}</div>'
        )
    return "\n".join(filter(None, parts))


def _figures(panels: Sequence[tuple[Panel, bytes]]) -> str:
    figures = [captioned(picture, panel.reading, f"{panel.title}, over the steps") for panel, picture in panels]
    return f'<div class="panels">{"".join(figures)}</div>' if figures else ""


def _samples(run: _Run) -> str:
    every = sorted(
        path
        for path in (run.folder / "samples").glob("*.png")
        if NUMBERED.fullmatch(path.name) and not path.is_symlink()
    )
    if not every:
        return ""
    count = min(len(every), SHOWN_SAMPLES)
    chosen = [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)] if count > 1 else every
    what = "images drawn from the same noise" if run.from_noise else "a row per image, a column per translation"
    some = f" {count} of {len(every)}, evenly chosen; all are in samples/." if len(every) > count else ""
    newest, *earlier = [
        pictured(path, f"Step {int(path.stem):,}", f"Samples of step {int(path.stem)}: {what}")
        for path in reversed(chosen)
    ]
    others = f'<div class="panels earlier">{"".join(earlier)}</div>' if earlier else ""
    reduced = " Large pictures are reduced here, as JPEG; exact ones are in samples/." if "(reduced)" in newest else ""
    return f"<p>Newest first: {what}.{some}{reduced}</p>\n{newest}\n{others}"


def _use(run: _Run) -> str:
    if run.of_equalizer:
        return (
            "<p>The model is part of a batch equalizer, which is fitted, applied and judged as a whole:</p>"
            f"{_command('img2img equalize --help')}"
        )
    folder = shlex.quote(str(run.folder))
    model = shlex.quote(str(run.best_model))
    held_out = run.facts.get("held-out images", "none") != "none"
    commands = {}
    if run.from_noise:
        commands["Draw 64 images:"] = f"img2img sample {model} --n 64 --out RESULTS"
    else:
        both = ", or with --direction b2a the other way" if run.method == "cyclegan" else ""
        commands[f"Translate a folder of images, or one image{both}:"] = (
            f"img2img translate {model} IMAGES --out RESULTS"
        )
        own = "" if held_out else " --a HELD_OUT_A --b HELD_OUT_B"
        commands["Score it on held-out images, beside doing nothing:"] = f"img2img evaluate {folder}{own}"
        if held_out and (run.folder / "models").is_dir():
            commands["Score every checkpoint that was kept:"] = f"img2img evaluate {folder} --all"
    step, steps = run.progress
    if run.method and (steps is None or step < steps) and "ended" not in run.facts:
        commands["Go on with the training where it stopped:"] = f"img2img train {run.method} --out {folder} --resume"
    return "\n".join(f"<p>{_options(text)}</p>{_command(command)}" for text, command in commands.items())


def _command(command: str) -> str:
    return f"<pre><code>{escape(command)}</code></pre>"


def _trained(run: _Run) -> str:
    options = run.config.get("options")
    facts = {k: v for k, v in run.facts.items() if k != "options" or not isinstance(options, dict)}
    parts = [_details("Facts", facts.items(), open_=True)]
    if isinstance(options, dict):
        set_ = ((f"--{name.replace('_', '-')}", "none" if v is None else v) for name, v in options.items())
        parts.append(_details("Options", set_))
    versions = run.config.get("environment")
    if isinstance(versions, dict):
        command = {"command": run.config.get("command", "unknown")}
        parts.append(_details("Versions and command", (versions | command).items()))
    return "\n".join(parts)


def _details(title: str, pairs: Iterable[tuple[str, Any]], open_: bool = False) -> str:
    lines = [(escape(str(name)), escape(str(value))) for name, value in pairs]
    return f"<details{' open' if open_ else ''}><summary>{title}</summary>{table(lines)}</details>" if lines else ""


@dataclass
class _Facts:
    """The content of report.json."""

    facts: dict[str, Any]
    findings: list[Finding]


def read_facts(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """What the report of a run says beyond its log; nothing where that is missing or damaged."""
    try:
        known = from_json(_Facts, read_text(folder / FACTS), FACTS)
    except ModelFileError:
        return {}, []
    return known.facts, known.findings


def rewrite_report(folder: Path) -> None:
    """Writes report.html anew, for results that came after the run; without the log of a run, leaves it alone."""
    if (folder / "log.jsonl").exists():
        write_report(folder, read_log(folder / "log.jsonl"), *read_facts(folder))
