"""The command line: parse, call the function a notebook would call, print."""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from img2img import __version__
from img2img.errors import Img2ImgError, Interrupted

app = typer.Typer(
    help="Image-to-image translation with GANs: train on two folders of images, translate a third.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(
    help="Train a method. `img2img train METHOD --help` shows its options, with the paper's defaults.",
    no_args_is_help=True,
)
app.add_typer(train, name="train")


@train.callback()
def _train_group() -> None:
    """Train a method. `img2img train METHOD --help` shows its options, with the paper's defaults."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"img2img {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def translate(
    model: Annotated[Path, typer.Argument(help="A model file (.safetensors) or the folder of a run.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A folder of images, or one image.")],
    out: Annotated[Path, typer.Option(help="Folder for the results, which have the same names and formats.")],
    direction: Annotated[str | None, typer.Option(help="a2b or b2a; by default the model's first.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images of equal size translated at once.")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Translate what has a result already, too.")] = False,
) -> None:
    """Translate a folder of images, or one image.

    Output has the size, format and name of the input. A file that cannot be translated is reported and the rest go
    on; the exit code is then 1. Started again, the command does only what is missing.
    """
    from rich.console import Console
    from rich.progress import Progress

    import img2img.api

    console = Console(stderr=True, highlight=False)
    loaded = img2img.api.load(model, device=device, precision=precision, direction=direction)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"{loaded.direction}, {loaded.runtime.describe()}", total=None)
        summary = img2img.api.translate(
            loaded,
            source,
            out,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            report=lambda path, reason: console.print(f"failed: {reason}", markup=False, soft_wrap=True),
        )
    skipped = f", {summary.skipped} were there already" if summary.skipped else ""
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    speed = summary.translated / summary.seconds if summary.seconds else 0.0
    typer.echo(f"{summary.translated} images translated into {out} ({speed:.1f} images/s){skipped}{failed}")
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's images, run and picture.")] = Path(
        "checkpoints/demo"
    ),
    steps: Annotated[int, typer.Option(help="Training steps; the default takes a few minutes on two CPU cores.")] = 0,
) -> None:
    """Train CycleGAN on drawn animals, plain and striped, translate held-out ones, and show and score the result."""
    import img2img.demo

    result = img2img.demo.run(out, steps or img2img.demo.STEPS)
    for name, value in result.scores.items():
        typer.echo(f"score of {name}: {value:.2f}")
    typer.echo(f"before and after: {result.picture}")


def _method_command(method: str, configs: tuple[type, ...], help: str) -> Callable[..., None]:
    """A command whose options are the fields of `configs`: an option is declared once, in its dataclass."""

    def command(ctx: typer.Context, **values: Any) -> None:
        import img2img.api

        given = {name: value for name, value in values.items() if _is_given(ctx, name)}
        model = img2img.api.train(method, **given)
        if model.runtime.is_main:
            typer.echo(f"model: {model.path}")
            typer.echo(f"report: {model.path.parent / 'report.html'}")

    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        _parameter("out", Path | None, "Run folder; by default checkpoints/METHOD_DATA.", None),
        _parameter("resume", bool, "Demand a stopped run to go on with; its options are kept.", False),
    ]
    for config in configs:
        hints = get_type_hints(config, include_extras=True)
        for field in dataclasses.fields(config):
            kind, text = get_args(hints[field.name])
            parameters.append(_parameter(field.name, kind, text, field.default))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = help
    return command


def _parameter(name: str, kind: Any, text: str, default: Any) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    names = (f"{flag}/--no-{name.replace('_', '-')}",) if kind is bool and name != "resume" else (flag,)
    option = typer.Option(*names, help=text)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def add_methods() -> None:
    """Adds a command per method to `train`; imports torch, so only done when `train` is asked for."""
    from img2img.data.layouts import DataConfig
    from img2img.methods import METHODS
    from img2img.training.loop import TrainConfig

    for name, method in METHODS.items():
        first_line = (inspect.getdoc(sys.modules[method.__module__]) or "").replace("\n", " ")
        command = _method_command(name, (DataConfig, TrainConfig, method.Config), f"Train {first_line}")
        train.command(name)(command)


def main() -> None:
    """Runs the command line. A user's mistake is one line on stderr and exit code 2; anything else is a bug and shows
    its traceback.
    """
    if "train" in sys.argv[1:2]:
        add_methods()
    try:
        app()
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        sys.exit(128 + stop.signal)
    except Img2ImgError as error:
        typer.echo(f"img2img: {error}", err=True)
        sys.exit(2)
