"""The command line: parse, call the function a notebook would call, print."""

import dataclasses
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from img2img.cli.equalize import add_equalizing
from img2img.cli.evaluate import add_judging
from img2img.cli.terminal import RUN, Command, Group, options_of, progress_bar, stoppable
from img2img.data.options import SIDES
from img2img.errors import Img2ImgError, Interrupted, counted
from img2img.methods import CONFIGS, PLACES
from img2img.model.options import (
    Count,
    FolderOptions,
    LoadOptions,
    SampleLoadOptions,
    SampleOptions,
    TranslateOptions,
)
from img2img.options.declared import option
from img2img.options.outline import docstring
from img2img.runtime.output import forgiving_output
from img2img.training.config import STEPS
from img2img.training.groups import groups_of, headings_of
from img2img.version import __version__

if TYPE_CHECKING:
    from img2img.model.folder import Outcome

OTHER = "Models in and out, and a demo"

app = typer.Typer(
    help="Image-to-image translation with GANs: train on two folders of images, translate a third.",
    cls=Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
train = typer.Typer(
    help="Train a method. `img2img train METHOD --help` shows its options, with the paper's defaults.",
    cls=Group,
    no_args_is_help=True,
)
app.add_typer(train, name="train")
equalize = typer.Typer(
    help="Move images of several batches onto one of them, and judge the result.", cls=Group, no_args_is_help=True
)
app.add_typer(equalize, name="equalize")


@train.callback()
def _train_group() -> None:
    """Train a method. `img2img train METHOD --help` shows its options, with the paper's defaults."""


@equalize.callback()
def _equalize_group() -> None:
    """Move images of several batches onto one of them, and judge the result."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"img2img {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(cls=Command)
@options_of(LoadOptions, TranslateOptions, FolderOptions)
def translate(
    model: Annotated[Path, typer.Argument(help="A model file (.safetensors) or the folder of a run.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A folder of images, or one image.")],
    out: Annotated[Path, typer.Option(help="Folder for the results, which have the same names and formats.")],
    **options: Any,
) -> None:
    """Translate a folder of images, or one image.

    Output has the size, type, format and name of the input. A file that cannot be translated is reported and the rest
    go on; the exit code is then 1. Started again, the command does only what is missing.
    """
    import img2img.api
    from img2img.data.picture import quote
    from img2img.model.translator import Translator

    loading = {field.name: options.pop(field.name) for field in dataclasses.fields(LoadOptions)}
    loaded = Translator(model, **loading)
    with stoppable("Stopped. The same command does what is missing."), progress_bar(loaded.direction) as (advance, say):

        def progress(outcome: "Outcome") -> None:
            advance(outcome.done, outcome.total)
            if outcome.status == "failed":
                say(f"failed: {outcome.reason}")

        summary = img2img.api.translate(loaded, source, out, progress=progress, **options)
    for note in dict.fromkeys(loaded.notes):
        say(note)
    if summary.outside:
        file, share = max(summary.outside, key=lambda entry: entry[1])
        worst = quote(file)
        say(
            f"{len(summary.outside)} files have values outside the range the model was trained on, which it cannot "
            f"follow; most of them {worst}, {share:.2%}."
        )
    skipped = f", {summary.skipped} were there already" if summary.skipped else ""
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    speed = summary.translated / summary.seconds if summary.seconds else 0.0
    images = counted(summary.translated, "image", "images")
    typer.echo(f"{images} translated into {quote(out)} ({speed:.1f} images/s){skipped}{failed}")
    if summary.translated:
        typer.echo(f"computed with {summary.computed}")
    if summary.failed:
        raise typer.Exit(1)


@app.command(cls=Command)
@options_of(SampleLoadOptions, SampleOptions)
def sample(
    model: Annotated[Path, typer.Argument(help="A model file (.safetensors) or the folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    n: Annotated[Count, typer.Option("--n", help="How many images.")] = 64,
    **options: Any,
) -> None:
    """Draw images with a model that draws from noise: gan, dcgan, wgan, wgan_gp.

    Image number i depends on the seed and i alone, so a longer call goes on where a shorter one ended. Started again,
    the command does only what is missing.
    """
    import img2img.api

    with stoppable("Stopped. The same command does what is missing."), progress_bar("drawing") as (advance, _):
        written = img2img.api.sample(model, n, out=out, progress=advance, **options)
    skipped = f", {written.skipped} were there already" if written.skipped else ""
    typer.echo(f"{counted(written.drawn, 'image', 'images')} drawn into {out}{skipped}")
    for picture in written.pictures:
        typer.echo(f"picture: {picture}")


add_judging(app)


@app.command("import", cls=Command, rich_help_panel=OTHER)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A generator, as latest_net_G.pth.")],
    out: Annotated[Path, typer.Option(help="The model file to write, .safetensors.")],
    b2a: Annotated[
        Path | None, typer.Option(help="The generator of the way back, as latest_net_G_B.pth; FILE.pth is then a2b.")
    ] = None,
    direction: Annotated[str, typer.Option(help="What to call the direction of FILE.pth: a2b or b2a.")] = "a2b",
    size: Annotated[
        int | None,
        typer.Option(help="Size of the training images, for the record: the file does not tell it."),
        SIDES,
    ] = None,
    padding: Annotated[
        str | None,
        typer.Option(
            help="Of a ResNet's blocks: reflect or replicate, which the file does not tell; by default reflect."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model file if it exists.")] = False,
) -> None:
    """Make a model of weights of the published pix2pix and CycleGAN code.

    The network is recognised by its tensors. Nothing in the file is executed.
    """
    from img2img.interchange.info import model_info, print_info
    from img2img.interchange.pth import import_model

    print_info(
        model_info(
            import_model(file, out, b2a=b2a, direction=direction, size=size, padding=padding, overwrite=overwrite)
        )
    )


@app.command(cls=Command, rich_help_panel=OTHER)
def export(
    model: Annotated[Path, typer.Argument(help="A model file (.safetensors) or the folder of a run.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[
        str, typer.Option(help="pth, onnx or torchscript; auto goes by --out: .pth, .onnx, .pt.")
    ] = "auto",
    direction: Annotated[str | None, typer.Option(help="a2b or b2a; by default the model's first.")] = None,
    label: Annotated[str | None, typer.Option(help="The class to translate to, of a model that takes one.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a model for other programs: ONNX, TorchScript, or weights for the published code.

    The file is read back and compared with the model before it gets its name.
    """
    from img2img.interchange.export import export_model

    made = export_model(model, out, format=format, direction=direction, label=label, overwrite=overwrite)
    shapes = ", ".join("x".join(map(str, shape)) for shape in made.checked)
    typer.echo(f"{made.format}, {made.direction}: {made.path}")
    typer.echo(f"largest difference from the model, of -1 to 1: {made.difference:.2g}, with inputs of {shapes}")
    for note in made.notes:
        typer.echo(f"note: {note}")


@app.command(cls=Command, rich_help_panel=OTHER)
def info(
    model: Annotated[Path, typer.Argument(help="A model file (.safetensors) or the folder of a run.")],
    json: Annotated[bool, typer.Option("--json", help="Print json.")] = False,
) -> None:
    """Show what a model file says of itself."""
    from img2img.interchange.info import model_info, print_info

    print_info(model_info(model), as_json=json)


@app.command(cls=Command, rich_help_panel=OTHER)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's images, run and picture.")] = Path(
        "checkpoints/demo"
    ),
    steps: Annotated[
        int | None, typer.Option(help="Training steps; the default takes a few minutes on two CPU cores."), STEPS
    ] = None,
) -> None:
    """Train CycleGAN on drawn animals, plain and striped, translate held-out ones, and show and score the result."""
    import img2img.demo

    length = option("steps", Annotated[int | None, STEPS]).convert(steps) or img2img.demo.STEPS
    result = img2img.demo.run(out, length, partial(typer.echo, err=True))
    for name, value in result.scores.items():
        typer.echo(f"score of {name}: {value:.2f}")
    typer.echo("0 is the plain animal as it was, 1 its striped twin with the ground left alone; held-out animals, mean")
    typer.echo(f"before and after: {result.picture}")
    typer.echo(f"open {result.report}")


def _method_command(method: str, help: str) -> Callable[..., None]:
    config = CONFIGS[method]

    @options_of(*groups_of(config), headings=headings_of(config))
    def command(
        ctx: typer.Context,
        out: Annotated[
            Path | None, typer.Option(help="Run folder; by default checkpoints/METHOD_DATA.", rich_help_panel=RUN)
        ] = None,
        resume: Annotated[
            bool,
            typer.Option(
                "--resume",
                help="Resume the run in --out with its saved options; fail if there is none.",
                rich_help_panel=RUN,
            ),
        ] = False,
        overwrite: Annotated[
            bool,
            typer.Option(
                "--overwrite",
                help="Begin a new run, whatever --out holds, and replace its files.",
                rich_help_panel=RUN,
            ),
        ] = False,
        **options: Any,
    ) -> None:
        import img2img.api

        given = {name: value for name, value in options.items() if _is_given(ctx, name)}
        with stoppable("Stopped. The same command does what is missing."):
            model = img2img.api.train(method, out=out, resume=resume, overwrite=overwrite, **given)
        if model.runtime.is_main:
            typer.echo(f"model: {model.path}")
            typer.echo(f"report: {model.path.parent / 'report.html'}")

    command.__doc__ = help
    return command


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def add_methods() -> None:
    """Adds a command per method to `train`."""
    if train.registered_commands:
        return
    for name, (module, _) in PLACES.items():
        train.command(name, cls=Command)(_method_command(name, f"Train {docstring(module)}"))


def main() -> None:
    """Runs the command line. A user's mistake is one line on stderr and exit code 2; anything else is a bug and shows
    its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with forgiving_output():
        _main()


def _main() -> None:
    try:
        completing = "_IMG2IMG_COMPLETE" in os.environ  # the words are then in the environment
        if completing or "train" in sys.argv[1:2]:
            add_methods()
        if completing or "equalize" in sys.argv[1:2]:
            add_equalizing(equalize)
        app(prog_name="img2img")
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        sys.exit(130)
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        sys.exit(128 + stop.signal)
    except Img2ImgError as error:
        typer.echo(f"img2img: {error}", err=True)
        sys.exit(2)
