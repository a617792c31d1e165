"""report.html: a run in one self-contained page that can be mailed."""

import re
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from math import isfinite, nan
from pathlib import Path
from statistics import median
from typing import Any

from img2img.metrics.table import sign_of
from img2img.report import remarks
from img2img.report.card import write_card
from img2img.report.contents import Contents
from img2img.report.curves import Panel, draw_panel, stacked, training_panels
from img2img.report.page import captioned, page
from img2img.report.remarks import Remark, shown
from img2img.report.result import checkpoints_table, pictured, result_section
from img2img.runs.facts import Report, in_words, read_report_record
from img2img.runs.folder import Entry, RunFolder
from img2img.runs.record import LogRow, read_log, scalars_of
from img2img.runs.results import RankingRecord
from img2img.runtime.files import atomic
from img2img.runtime.markup import table

SHOWN_SAMPLES = 12
LINKED = [entry.name for entry in (*vars(RunFolder).values(),) if isinstance(entry, Entry) and entry.name[0] != "."]
LINKED.remove("report.html")


def write_report(files: RunFolder, rows: Sequence[LogRow], report: Report) -> None:
    """Write curves.png, model_card.md and report.html into a run folder.

    Args:
        files: the run folder, whose samples and evaluation are shown.
        rows: the records of its log.
        report: what was trained, how far it is, and what went wrong in the game.
    """
    run = Contents(files, rows, report)
    write_card(run)  # before the page, which links to it
    panels = [(panel, draw_panel(panel)) for panel in training_panels(rows, run.kinds)]
    held_out = [(panel, draw_panel(panel, best)) for panel, best in _held_out_panels(run)]
    if panels or held_out:
        with atomic(files.curves) as temporary:
            temporary.write_bytes(stacked([picture for _, picture in panels + held_out]))
    newest, earlier = _samples(run)
    sections = {
        "Samples": newest,
        "Diagnosis": _remarks(run),
        "Result": result_section(run.evaluation, files, run.step),
        "Held-out images over the run": "\n".join(filter(None, [_figures(held_out), _checkpoints(run.ranking)])),
        "Curves": _figures(panels),
        "Earlier samples": earlier,
        "How to use the model": _commands(run),
        "What was trained": _trained(run),
    }
    filled = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in filled)
    parts = [_head(run), *(f'<h2 id="{_anchor(title)}">{title}</h2>\n{body}' for title, body in filled.items())]
    parts.insert(1, f'<nav aria-label="Sections">{links}</nav>')
    text = page(f"{files.path.name}: img2img run", "\n".join(parts), heading=False)
    with atomic(files.report) as temporary:
        temporary.write_text(text, encoding="utf-8")


def rewrite_report(folder: Path) -> None:
    """Draw report.html again, for results that came after the run; a folder without a log is left alone."""
    files = RunFolder(folder)
    if files.log.exists():
        write_report(files, read_log(files.log), read_report_record(files))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _head(run: Contents) -> str:
    progress = run.report.progress
    if not run.step:
        state = "No step has been recorded yet."
    else:
        state = f"Step {run.step:,}"
        if progress is not None:
            state += f" of {progress.steps:,}"
            state += f" (ended: {progress.ended})" if progress.ended else " (done)" * run.finished
        if run.training:
            # means over the steps before each record; 0 where a record has none
            paces = [remarks.number(row.values.get("seconds_per_step")) or 0.0 for row in run.training]
            lengths = (step - before for before, step in pairwise([0, *(row.step for row in run.training)]))
            seconds = sum(length * pace for length, pace in zip(lengths, paces, strict=True))
            state += f" after {_duration(seconds)}, {median(paces):.3g} s per step"
        state += "."
    if run.facts.images:
        held_out = " and ".join(map(str, run.facts.held_out.values()))
        state += f" Trained on {in_words(run.facts.images)}" + (f"; held out: {held_out}." if held_out else ".")
    method = f"<p class=above>{escape(run.facts.method)}, trained with img2img</p>" if run.facts.method else ""
    return f'<header>{method}<h1>{escape(run.files.path.name)}</h1><p class="state">{escape(state)}</p></header>'


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _remarks(run: Contents) -> str:
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
    ways = f"<p>{_with_options(remark.ways)}</p>" if remark.ways else ""
    return f'<div class="remark {remark.kind}"><p><strong>{escape(remark.text)}</strong></p>{ways}{when}</div>'


def _held_out_panels(run: Contents) -> list[tuple[Panel, int | None]]:
    panels: list[tuple[Panel, int | None]] = []
    for name in scalars_of(run.scores):
        curve = [(float(row.step), row.values[name]) for row in run.scores if isfinite(row.values.get(name, nan))]
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


def _checkpoints(ranking: RankingRecord) -> str:
    """Return the table of the scored checkpoints, the best ones marked."""
    if not ranking.checkpoints:
        return ""
    return (
        f"<h3>Checkpoints that were kept</h3><p>All scored alike; the best by {escape(ranking.metric)} is marked.</p>"
        f"{checkpoints_table(ranking)}"
    )


def _figures(panels: Sequence[tuple[Panel, bytes]]) -> str:
    figures = [captioned(picture, panel.reading, f"{panel.title}, over the steps") for panel, picture in panels]
    return f'<div class="panels charts">{"".join(figures)}</div>' if figures else ""


def _samples(run: Contents) -> tuple[str, str]:
    """Return the newest samples, and earlier ones, as HTML."""
    every = run.files.sample_grids()
    if not every:
        return "", ""
    count = min(len(every), SHOWN_SAMPLES)
    chosen = [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)]
    content = "a row per image, a column per translation" if run.translations else "images drawn from the same noise"
    thinned = f", {count - 1} of {len(every) - 1}, evenly chosen; all are in samples/" if len(every) > count else ""
    newest, *earlier = [
        pictured(path, f"Step {int(path.stem):,}", f"Samples of step {int(path.stem)}: {content}")
        for path in reversed(chosen)
    ]
    others = f'<div class="panels earlier">{"".join(earlier)}</div>' if earlier else ""
    reduced = " Large pictures are reduced here, as JPEG; exact ones are in samples/." if "(reduced)" in newest else ""
    newest = f"<p>{content[0].upper()}{content[1:]}.{reduced}</p>\n{newest}"
    return newest, f"<p>Newest first{thinned}.</p>\n{others}" if others else ""


def _commands(run: Contents) -> str:
    """Return the commands that use the model, resume the run, or score it, as HTML."""
    if run.facts.equalizer:
        return (
            "<p>The model is part of a batch equalizer, which is fitted, applied and judged as a whole:</p>"
            f"{_command('img2img equalize --help')}"
        )
    if run.translations:
        commands = _translating(run)
    else:
        label = " --label NAME" * any(use.labels for use in run.uses)
        label += " --vectors FILE" * any(use.vectors for use in run.uses)
        sampling = f"img2img sample {shlex.quote(str(run.best_model))}{label} --n 64 --out RESULTS"
        commands = {"Draw 64 images:": sampling}
    if run.facts.method and not run.finished:
        folder = shlex.quote(str(run.files.path))
        commands["Resume the training:"] = f"img2img train {run.facts.method} --out {folder} --resume"
    return "\n".join(f"<p>{_with_options(text)}</p>{_command(command)}" for text, command in commands.items())


def _translating(run: Contents) -> dict[str, str]:
    folder, model = (shlex.quote(str(path)) for path in (run.files.path, run.best_model))
    first, *others = run.translations
    label = " --label TARGET" if first.labels else ""
    ways = "".join(f", or with --direction {use.name} from {use.images[0]} to {use.output}" for use in others)
    commands = {
        f"Translate a folder of images, or one image{ways}:": f"img2img translate {model} IMAGES{label} --out RESULTS"
    }
    domains = sorted({first.images[0], first.output})
    if len(domains) == 2:
        named = "" if run.facts.held_out else "".join(f" --{domain} HELD_OUT_{domain.upper()}" for domain in domains)
        commands["Score it on held-out images, beside the unchanged input:"] = f"img2img evaluate {folder}{named}"
        if run.facts.held_out and run.files.models.is_dir():
            commands["Score every checkpoint that was kept:"] = f"img2img evaluate {folder} --all"
    return commands


def _command(command: str) -> str:
    return f"<pre><code>{escape(command)}</code></pre>"


def _with_options(text: str) -> str:
    """Return text as HTML with the names of options set as code, which does not break."""
    return re.sub(r"(--[a-z][a-z0-9-]*)", r"<code>\1</code>", escape(text))


def _trained(run: Contents) -> str:
    facts = {k: v for k, v in run.facts.titled().items() if k != "options" or not run.config.options}
    parts = [_details("Facts", facts.items(), is_open=True)]
    options = ((f"--{name.replace('_', '-')}", "none" if v is None else v) for name, v in run.config.options.items())
    parts.append(_details("Options", options))
    if run.config.environment:
        versions = {**run.config.environment, "command": run.config.command}
        parts.append(_details("Versions and command", versions.items()))
    links = [f'<a href="{name}">{name}</a>' for name in LINKED if (run.files.path / name).exists()]
    parts.append(f"<p>Beside this page, in the run's folder: {', '.join(links)}.</p>" if links else "")
    return "\n".join(filter(None, parts))


def _details(title: str, pairs: Iterable[tuple[str, Any]], is_open: bool = False) -> str:
    lines = [(escape(str(name)), escape(str(value))) for name, value in pairs]
    state = " open" if is_open else ""
    return f"<details{state}><summary>{title}</summary>{table(lines)}</details>" if lines else ""
