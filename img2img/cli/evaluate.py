"""The commands `evaluate` and `compare`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from img2img.cli.terminal import MODEL, Command, headings_of, options_of, progress_bar, stoppable
from img2img.errors import ConfigError, quote
from img2img.evaluation.options import EvaluateOptions, Show
from img2img.metrics.options import MetricOptions
from img2img.model.options import LoadOptions

if TYPE_CHECKING:
    from img2img.metrics.score import Score

GROUPS = {EvaluateOptions: "Images", MetricOptions: "Metrics", LoadOptions: "Model"}
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="Metric to measure; repeat it, or separate several by commas. By default those that suit the images.",
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write everything to this file, as JSON.")]


@options_of(*GROUPS, headings=headings_of(GROUPS))
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(help=f"{MODEL}; leave it out for two folders."),
    ] = None,
    metric: Metrics = None,
    every: Annotated[bool, typer.Option("--all", help="Score every checkpoint that a run has kept.")] = False,
    json_file: Json = None,
    **options: Any,
) -> None:
    """Score a model on held-out images, beside the unchanged input and histogram matching; or one folder by another.

    A run is scored on its own held-out images, or on those of --a and --b, or --ab. Two folders are compared with
    --real and --fake. `--metric list` shows all metrics.
    """
    from img2img.evaluation import evaluate as judging
    from img2img.report.remarks import of_structure

    if metric == ["list"]:
        return _list_metrics()
    options = {k: v for k, v in options.items() if v is not None}
    _check(json_file)
    with stoppable("Stopped."), progress_bar("evaluating", "models" if every else "img") as (advance, _):
        if every and model is None:
            raise ConfigError("--all scores the checkpoints of a run; name its folder.")
        judge: Any = judging.rank if every else judging.evaluate
        result = judge(model, metrics=metric or (), progress=advance, **options)
    if every:
        _print_ranking(result)
    elif not result.rows:
        count = result.protocol["images"] + result.protocol["real_images"]
        typer.echo(f"features of {count} images in {quote(result.protocol['cache'])}")
    else:
        print_rows(result.rows)
        _print_protocol(result.protocol)
        for remark in of_structure(result.record):
            typer.echo(f"{remark.text} {remark.ways}")
    _write(json_file, result.to_json())


@options_of(*GROUPS, headings=headings_of(GROUPS))
def compare(
    runs: Annotated[list[str], typer.Argument(help="Folders of runs, or model files, here or at hf://user/name.")],
    metric: Metrics = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
    show: Annotated[Show, typer.Option("--show", help="Held-out images to show side by side.")] = 6,
    json_file: Json = None,
    **options: Any,
) -> None:
    """Compare runs on the same held-out images: their metrics, their results, and the settings that differ.

    The images are those that the first run held out, or those of --a and --b, or --ab.
    """
    from img2img.evaluation.compare import compare as comparing

    options = {k: v for k, v in options.items() if v is not None}
    _check(json_file)
    with stoppable("Stopped."), progress_bar("comparing", "models") as (advance, _):
        comparison = comparing(runs, metrics=metric or (), out=out, show=show, progress=advance, **options)
    print_rows(comparison.rows)
    for note in comparison.protocol["notes"]:
        typer.echo(note)
    for name, values in comparison.settings.items():
        typer.echo(f"{name}: {', '.join(f'{run} {value}' for run, value in values.items())}")
    _write(json_file, comparison.to_json())
    if comparison.unwritten:
        raise ConfigError(f"{comparison.unwritten}.")
    typer.echo(f"page: {out}")


def print_rows(rows: Mapping[str, dict[str, "Score"]]) -> None:
    """Print a line per metric and a column per row; the best of each line is bold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from img2img.evaluation.scores import saved_rows, texts_of
    from img2img.report.remarks import best_rows

    metrics, saved = texts_of(rows), saved_rows(rows)
    table = Table(box=None, pad_edge=False)
    for title in ("", *map(escape, rows), "better", "range"):
        table.add_column(title, justify="left" if title in ("", "better", "range") else "right", no_wrap=True)
    for name, text in metrics.items():
        best = best_rows(name, saved, metrics)
        cells = [_cell(row.get(name), title in best) for title, row in rows.items()]
        table.add_row(escape(name), *cells, text.better, text.range)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=10_000)).print(table)


def _cell(score: "Score | None", best: bool) -> str:
    if score is None:
        return "-"
    text = f"{score.value:.4g}" + (f" ± {score.std:.2g}" if score.std is not None else "")
    return f"[bold]{text}[/bold]" if best else text


def _print_protocol(protocol: Mapping[str, Any]) -> None:
    kinds = "pairs" if protocol["paired"] else f"images, {protocol['real_images']} real ones of the target"
    typer.echo(f"n = {protocol['images']} {kinds}; size: {protocol['size']}; {protocol['seconds']:.0f} s")
    if "judge" in protocol:
        judge = protocol["judge"]
        typer.echo(f"the judge is {judge['accuracy']:.0%} accurate on {judge['tested']} unseen real images")
        if judge["labelled"]:
            typer.echo(f"class_kept: on {judge['labelled']} inputs of known class")
    for note in protocol["notes"]:
        typer.echo(note)


def _print_ranking(ranking: Any) -> None:
    rows = {f"{name} (step {step})": scores for name, (step, scores) in ranking.scores.items()}
    for title, row in (rows | ranking.rows).items():
        if title != "model":
            typer.echo(f"{title}: {', '.join(f'{name} {score.value:.4g}' for name, score in row.items())}")
    typer.echo(f"best by {ranking.metric}: {ranking.best}")


def _list_metrics() -> None:
    from rich.console import Console
    from rich.table import Table

    from img2img.metrics.table import METRICS

    table = Table("name", "better", "range", "meaning", box=None, pad_edge=False)
    for name, metric in METRICS.items():
        table.add_row(name, metric.better or "", metric.range, metric.text + (" Pairs only." if metric.paired else ""))
    Console(highlight=False).print(table)


def _check(path: Path | None) -> None:
    from img2img.runtime.files import holds_keys, refuse_unwritable

    if path is not None:
        refuse_unwritable(path, holds_keys("protocol", "rows"))


def _write(path: Path | None, content: Any) -> None:
    from img2img.runtime.files import write_text

    if path is None:
        return
    try:
        write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from error
    typer.echo(f"json: {path}")


def add_judging(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (evaluate, compare):
        app.command(cls=Command)(command)
