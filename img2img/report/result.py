"""The evaluation of a run, as a section of its report: scores beside those of baselines, best and worst images."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from img2img.metrics.table import METRICS, base_name
from img2img.report import remarks
from img2img.report.page import captioned, lightened, table
from img2img.report.remarks import MODEL, Row, shown

BOLD = "Bold: the best of a line, but for what is best by definition."
NAMED_IMAGES = 3  # best and worst of the held-out ones


def result(evaluation: Row, folder: Path, step: int) -> str:
    """The section of the report.

    Args:
        evaluation: the content of evaluation.json; empty if there is none.
        folder: the run folder, where the picture of held-out images is.
        step: how far the run is.

    Returns:
        HTML, empty without an evaluation.
    """
    rows, metrics = evaluation.get("rows", {}), evaluation.get("metrics", {})
    if not rows:
        return ""
    parts = [
        scores_table(rows, metrics),
        f'<p class="faint">{BOLD} {escape(protocol(evaluation, step))}</p>',
        meanings(metrics),
        _ranking(evaluation),
    ]
    picture = folder / "evaluation_images.png"
    if picture.exists():
        by = f" by {name}" if (name := ranked_by(evaluation.get("per_image", {}))) else ""
        caption = f"Best and worst held-out images{by}."
        parts.append(pictured(picture, caption, "Inputs and results of held-out images"))
    return "\n".join(filter(None, parts))


def scores_table(rows: Row, metrics: Row) -> str:
    """A line for each metric, a column for each row of an evaluation; the best of each line is bold."""
    lines = []
    for name in dict.fromkeys(name for scores in rows.values() for name in scores):
        best = remarks.best_rows(name, rows, metrics)
        cells = [score(scores.get(name), row in best) for row, scores in rows.items()]
        arrow = {1: " ↑", -1: " ↓", 0: ""}[remarks.ahead(name, metrics)]
        lines.append([f"{escape(name)}{arrow}", *cells])
    head = ["metric", *("<strong>model</strong>" if row == MODEL else escape(row) for row in rows)]
    return f'<div class="numbers">{table(lines, head, "Scores on held-out images")}</div>'


def meanings(metrics: Row) -> str:
    """What each metric says, to open."""
    judged = [name for name in metrics if name.startswith("judge[")]  # one line for all classes
    words = "".join(
        _meaning("judge[class]" if name in judged else name, metric)
        for name, metric in metrics.items()
        if name not in judged[1:]
    )
    return f"<details open><summary>What the metrics mean</summary><dl>{words}</dl></details>"


def score(entry: Any, best: bool) -> str:
    """A cell of a table of scores; None and numbers without a deviation are fine."""
    if not isinstance(entry, Mapping):
        return shown(entry)
    text = f"<strong>{shown(entry.get('value'))}</strong>" if best else shown(entry.get("value"))
    std = remarks.number(entry.get("std"))
    return f"{text} <small>± {std:.2g}</small>" if std is not None else text


def _meaning(name: str, metric: Mapping[str, Any]) -> str:
    better = {1: "higher is better", -1: "lower is better", 0: ""}[remarks.ahead(name, {name: metric})]
    own = "doing nothing is best by definition" if remarks.of_the_input(name) else ""
    text = str(metric.get("text", "")).rstrip(".")
    words = "; ".join(filter(None, [text, better, str(metric.get("range", "")), own]))
    return f"<dt>{escape(name)}</dt><dd>{escape(words)}.</dd>"


def protocol(evaluation: Row, reached: int = 0) -> str:
    """What was measured on what, in sentences; of a run that has reached a step."""
    known = evaluation.get("protocol", {})
    step, pairs = known.get("step"), known.get("paired")
    kind = "" if pairs is None else ", with their true answers" if pairs else ", unpaired"
    words = [f"Measured on {known.get('images', 'unknown')} held-out images{kind}."]
    if known.get("direction"):
        words.append(f"Direction {known['direction']}, size {known.get('size', 'as it is')}.")
    if known.get("model"):
        words.append(f"Model {known['model']}" + (f" of step {step:,}." if isinstance(step, int) else "."))
    if isinstance(step, int) and step < reached:
        words.append(f"The run has gone on to step {reached:,} since.")
    if any("[" in name for name in evaluation.get("metrics", {})) and known.get("features"):
        words.append(f"Features: {known['features']}.")
    judge = known.get("judge")
    if isinstance(judge, Mapping) and remarks.number(judge.get("accuracy")) is not None:
        words.append(f"The judge names {judge['accuracy']:.0%} of real images rightly.")
    scores = [score for row in evaluation.get("rows", {}).values() for score in row.values()]
    notes = [str(score["note"]) for score in scores if isinstance(score, Mapping) and score.get("note")]
    notes += [str(note) for note in known.get("notes", [])]
    return " ".join([*words, *(f"{note.rstrip('.')}." for note in dict.fromkeys(notes))])


def _ranking(evaluation: Row) -> str:
    """The names of the best and the worst held-out images."""
    per_image = evaluation.get("per_image", {})
    name = ranked_by(per_image)
    sign = remarks.ahead(name, evaluation.get("metrics", {}))
    known = {image: x for image, value in per_image.get(name, {}).items() if (x := remarks.number(value)) is not None}
    if not sign or len(known) < 2:
        return ""
    order = sorted(known, key=lambda image: -sign * known[image])
    some = min(NAMED_IMAGES, len(order) // 2)
    best, worst = (
        ", ".join(f"{escape(image)} ({shown(known[image])})" for image in images)
        for images in (order[:some], order[: -some - 1 : -1])
    )
    means = ", where best is what changed least" if remarks.of_the_input(name) else ""
    return f"<p>By {escape(name)}{means}, best: {best}; worst: {worst}.</p>"


def ranked_by(per_image: Mapping[str, Any]) -> str:
    """The metric that held-out images are ranked by, the first that scores single results; empty if there is none."""
    known = (name for name in per_image if (metric := METRICS.get(base_name(name))) and "fake" in metric.on)
    return next(known, "")


def pictured(path: Path, caption: str, alt: str) -> str:
    """A picture of a run folder; a large one as a JPEG, which it then says."""
    picture = path.read_bytes()
    light = lightened(picture)
    return captioned(light, caption if light is picture else f"{caption} (reduced)", alt)
