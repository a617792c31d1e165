"""The evaluation of a run as a section of its report: scores beside those of baselines, best and worst images."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from img2img.metrics.table import METRICS, base_name
from img2img.report import remarks
from img2img.report.page import captioned, lightened
from img2img.report.remarks import Texts, shown
from img2img.runs.folder import RunFolder
from img2img.runs.results import MODEL, RankingRecord, Result, SavedScore, Scores
from img2img.runtime.markup import table

BOLD = "Bold: the best of each line, except where a baseline is best by definition."
NAMED_IMAGES = 3  # best and worst of the held-out ones
BETTER = {1: "higher is better", -1: "lower is better", 0: ""}
ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def result_section(result: Result, run: RunFolder, step: int) -> str:
    """Return the section of the report as HTML, empty without an evaluation.

    Args:
        result: the content of evaluation.json.
        run: the run, whose picture of held-out images is shown.
        step: the last step of the run.
    """
    if not result.rows:
        return ""
    parts = [
        scores_table(result.rows, result.metrics),
        f'<p class="faint">{BOLD} {escape(protocol(result, step))}</p>',
        meanings(result.metrics),
        _ranking(result),
    ]
    if run.evaluation_picture.exists():
        name = ranked_by(result.per_image)
        caption = f"Best and worst held-out images by {name}." if name else "Held-out images."
        parts.append(pictured(run.evaluation_picture, caption, "Inputs and results of held-out images"))
    return "\n".join(filter(None, parts))


def scores_table(rows: Mapping[str, Scores], metrics: Texts) -> str:
    """Return a line for each metric and a column for each row of an evaluation; the best of each line is bold."""
    lines = []
    for name in dict.fromkeys(name for scores in rows.values() for name in scores):
        best = remarks.best_rows(name, rows, metrics)
        cells = [score_cell(scores.get(name), row in best) for row, scores in rows.items()]
        lines.append([f"{escape(name)}{ARROWS[remarks.sign_in(name, metrics)]}", *cells])
    head = ["metric", *("<strong>model</strong>" if row == MODEL else escape(row) for row in rows)]
    return f'<div class="numbers">{table(lines, head, "Scores on held-out images")}</div>'


def checkpoints_table(ranking: RankingRecord) -> str:
    """Return a line for each scored checkpoint, in order of steps; the best ones are marked."""
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
    return f'<div class="numbers files">{scored}</div>'


def meanings(metrics: Texts) -> str:
    """Return the explanation of each metric, in a block to open; one for all classes of the judge."""
    words = {}
    for name, metric in metrics.items():
        by_definition = "the unchanged input is best by definition" if remarks.compares_with_input(name) else ""
        parts = metric.text.rstrip("."), BETTER[remarks.sign_in(name, metrics)], metric.range, by_definition
        title = "judge[class]" if name.startswith("judge[") else name
        words[title] = f"<dt>{escape(title)}</dt><dd>{escape('; '.join(filter(None, parts)))}.</dd>"
    return f"<details open><summary>What the metrics mean</summary><dl>{''.join(words.values())}</dl></details>"


def score_cell(score: SavedScore | None, best: bool) -> str:
    """Return a cell of a table of scores; None is a missing score."""
    if score is None:
        return shown(None)
    text = f"<strong>{shown(score.value)}</strong>" if best else shown(score.value)
    std = remarks.number(score.std)
    return f"{text} <small>± {std:.2g}</small>" if std is not None else text


def protocol(result: Result, reached: int = 0) -> str:
    """Return what was measured on what, in sentences; `reached` is the last step of the run."""
    known = result.protocol
    pairs = "" if known.paired is None else ", with their true answers" if known.paired else ", unpaired"
    images = "unknown" if known.images is None else known.images
    words = [f"Measured on {images} held-out images{pairs}."]
    if known.direction:
        words.append(f"Direction {known.direction}, size {known.size}.")
    if known.model:
        words.append(f"Model {known.model}" + ("." if known.step is None else f" of step {known.step:,}."))
    if known.step is not None and known.step < reached:
        words.append(f"The run has reached step {reached:,} since.")
    if any("[" in name for name in result.metrics) and known.features:
        words.append(f"Features: {known.features}.")
    if known.judge is not None and remarks.number(known.judge.accuracy) is not None:
        words.append(f"The classifier is {known.judge.accuracy:.0%} accurate on real images.")
    return " ".join([*words, *(f"{note.rstrip('.')}." for note in dict.fromkeys(known.notes))])


def _ranking(result: Result) -> str:
    """Return the names of the best and the worst held-out images."""
    name = ranked_by(result.per_image)
    sign = remarks.sign_in(name, result.metrics)
    values = result.per_image.get(name, {})
    known = {image: x for image, value in values.items() if (x := remarks.number(value)) is not None}
    if not sign or len(known) < 2:
        return ""
    order = sorted(known, key=lambda image: -sign * known[image])
    count = min(NAMED_IMAGES, len(order) // 2)
    best, worst = (
        ", ".join(f"{escape(image)} ({shown(known[image])})" for image in images)
        for images in (order[:count], order[: -count - 1 : -1])
    )
    means = ", where the best are the least changed" if remarks.compares_with_input(name) else ""
    return f"<p>By {escape(name)}{means}, best: {best}; worst: {worst}.</p>"


def ranked_by(per_image: Mapping[str, object]) -> str:
    """Return the metric that ranks held-out images, the first that scores single results; "" if there is none."""
    known = (name for name in per_image if (metric := METRICS.get(base_name(name))) and "fake" in metric.on)
    return next(known, "")


def pictured(path: Path, caption: str, alt: str) -> str:
    """Return a picture of a run folder with its caption; a large one as a JPEG, which the caption then mentions."""
    picture = path.read_bytes()
    light = lightened(picture)
    return captioned(light, caption if light is picture else f"{caption} (reduced)", alt)
