"""The command line: parse, call the function a notebook would call, print."""

import io
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from img2img.cli.config import read_options
from img2img.cli.equalize import add_equalizing
from img2img.cli.evaluate import add_judging
from img2img.cli.serve import add_serving
from img2img.cli.share import add_sharing
from img2img.cli.terminal import RUN, Command, Group, ModelPath, options_of, stoppable, traced
from img2img.cli.use import add_using
from img2img.data.options import SIDES
from img2img.errors import ConfigError, Img2ImgError, Interrupted
from img2img.methods import CONFIGS, PLACES
from img2img.options.declared import option
from img2img.options.outline import docstring
from img2img.runtime.output import forgiving_output, quietly
from img2img.training.config import STEPS, groups_of, groups_of_student, headings_of
from img2img.version import __version__

OF_STUDENT = groups_of_student(CONFIGS["pix2pix"])
STOPPED_TRAINING = "Stopped. Run the same command again to continue."
TOGETHER = ("train", "distill", "info")  # commands that several processes may run
SHARDED = ("translate", "sample", "evaluate")
OTHER = "Import, export, demo and doctor"
DEMO = Path("checkpoints/demo")
of_run = partial(typer.Option, rich_help_panel=RUN)

app = typer.Typer(
    help="Image-to-image translation with GANs: train on two folders of images, translate a third.",
    cls=Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(help=text, cls=Group, no_args_is_help=True)
    app.add_typer(group, name=name)
    return group


train = _group("train", "Train a method. `img2img train METHOD --help` lists its options, with the paper's defaults.")
report = _group("report", "Put reports together.")
equalize = _group("equalize", "Map the images of several batches onto one of them, and judge the result.")


def _version(requested: bool) -> None:
    if requested:
        torch = f"torch {metadata.version('torch')}"  # which takes seconds to import
        typer.echo(f"img2img {__version__}, {torch}, Python {platform.python_version()}, {platform.platform()}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only results and errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show where in the code an error was raised.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the versions.")
    ] = False,
) -> None:
    if quiet:
        ctx.with_resource(quietly())
    if verbose:
        ctx.with_resource(traced())


@app.command(cls=Command)
@options_of(*OF_STUDENT, headings=headings_of(*OF_STUDENT))
def distill(
    ctx: typer.Context,
    run: Annotated[
        str,
        typer.Argument(help="The folder of a run, or a model file, here or at hf://user/name, which needs --images."),
    ],
    out: Annotated[Path | None, of_run(help="Run folder of the student; by default RUN_distilled.")] = None,
    overwrite: Annotated[
        bool, of_run("--overwrite", help="Start anew, and replace the pairs and the run of an earlier call.")
    ] = False,
    **options: Any,
) -> None:
    """Train a thin, fast generator to imitate a trained one, on the images of its run.

    The model translates samples of its training into OUT_pairs, and pix2pix learns these pairs. The result is an
    ordinary model of pix2pix. The same command resumes.
    """
    import img2img.api.distilling

    with stoppable(STOPPED_TRAINING):
        model = img2img.api.distilling.distill(run, out=out, overwrite=overwrite, **_given(ctx, options))
    _say_where(model)


add_using(app, report)
add_judging(app)
add_serving(app)
add_sharing(app)


@app.command("import", cls=Command, rich_help_panel=OTHER)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A generator, e.g. latest_net_G.pth.")],
    out: Annotated[Path, typer.Option(help="The model file to write, .safetensors.")],
    b2a: Annotated[
        Path | None,
        typer.Option(help="The generator of the reverse direction, e.g. latest_net_G_B.pth; FILE.pth is then a2b."),
    ] = None,
    direction: Annotated[str, typer.Option(help="Direction that FILE.pth translates in: a2b or b2a.")] = "a2b",
    size: Annotated[
        int | None,
        typer.Option(help="Size of the training images, for information only: it cannot be read from the file."),
        SIDES,
    ] = None,
    padding: Annotated[
        str | None,
        typer.Option(
            help="Padding of a ResNet's blocks, reflect or replicate: it cannot be read from the file; default reflect."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model file if it exists.")] = False,
) -> None:
    """Import weights of the published pix2pix and CycleGAN code as a model.

    The architecture is inferred from the tensors. Nothing in the file is executed.
    """
    from img2img.interchange.info import model_info, print_info
    from img2img.interchange.pth import import_model

    path = import_model(file, out, b2a=b2a, direction=direction, size=size, padding=padding, overwrite=overwrite)
    print_info(model_info(path))


@app.command(cls=Command, rich_help_panel=OTHER)
def export(
    model: ModelPath,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    file_format: Annotated[
        str,
        typer.Option("--format", help="pth, onnx or torchscript; auto follows the suffix of --out: .pth, .onnx, .pt."),
    ] = "auto",
    direction: Annotated[str | None, typer.Option(help="a2b or b2a; by default the model's first direction.")] = None,
    label: Annotated[str | None, typer.Option(help="The class to fix; by default it is an input of the file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Export a model to other programs: ONNX, TorchScript, or weights for the published code.

    The file is read back and compared with the model before it gets its final name.
    """
    from img2img.interchange.export import export_model

    exported = export_model(model, out, format=file_format, direction=direction, label=label, overwrite=overwrite)
    shapes = ", ".join("x".join(map(str, shape)) for shape in exported.checked)
    typer.echo(f"{exported.format}, {exported.direction}: {exported.path}")
    typer.echo(f"largest difference from the model, on a scale of -1 to 1: {exported.difference:.2g}, inputs {shapes}")
    for note in exported.notes:
        typer.echo(f"note: {note}")


@app.command(cls=Command, rich_help_panel=OTHER)
def info(
    model: ModelPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the contents of a model file."""
    from img2img.interchange.info import model_info, print_info

    print_info(model_info(model), as_json=as_json)


@app.command(cls=Command, rich_help_panel=OTHER)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's images, run and picture.")] = DEMO,
    steps: Annotated[
        int | None, typer.Option(help="Training steps; the default takes two minutes or so on two CPU cores."), STEPS
    ] = None,
) -> None:
    """Train CycleGAN on drawn animals, plain and striped, translate held-out ones, and show and score the result."""
    import img2img.demo

    length = option("steps", Annotated[int | None, STEPS]).convert(steps) or img2img.demo.STEPS
    result = img2img.demo.run(out, length, partial(typer.echo, err=True))
    for name, value in result.scores.items():
        typer.echo(f"score of {name}: {value:.2f}")
    typer.echo("Mean over held-out animals: 0 is the unchanged plain animal, 1 its striped twin on unchanged ground.")
    typer.echo(f"before and after: {result.picture}")
    typer.echo(f"open {result.report}")


@app.command(cls=Command, rich_help_panel=OTHER)
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check what works on this machine: versions, devices, precision, extras, weights; and say how to cure the rest.

    Trains one step of a small network on every device. Exits with 1 if anything failed that is not optional.
    """
    from img2img.doctor import report as examined

    if not examined(as_json):
        raise typer.Exit(1)


def _method_command(method: str, text: str) -> Callable[..., None]:
    groups = groups_of(CONFIGS[method])

    @options_of(*groups, headings=headings_of(*groups), plugged=True)
    def command(
        ctx: typer.Context,
        out: Annotated[Path | None, of_run(help="Run folder; by default checkpoints/METHOD_DATA.")] = None,
        config: Annotated[
            Path | None, of_run(help="TOML of options, or a run's config.json; options given beside it prevail.")
        ] = None,
        resume: Annotated[
            bool, of_run("--resume", help="Resume the run in --out with its saved options; fail if there is none.")
        ] = False,
        overwrite: Annotated[
            bool, of_run("--overwrite", help="Start a new run, whatever --out holds, and replace its files.")
        ] = False,
        **options: Any,
    ) -> None:
        import img2img.api.training

        with stoppable(STOPPED_TRAINING):
            chosen = (read_options(config, method, groups) if config else {}) | _given(ctx, options)
            place = chosen.pop("out", None)
            model = img2img.api.training.train(method, out=out or place, resume=resume, overwrite=overwrite, **chosen)
        _say_where(model)

    command.__doc__ = text
    return command


def _given(ctx: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    sources = {name: ctx.get_parameter_source(name) for name in options}
    return {name: options[name] for name, source in sources.items() if source and source.name != "DEFAULT"}


def _say_where(model: Any) -> None:
    if model.runtime.is_main:
        typer.echo(f"model: {model.path}")
        typer.echo(f"report: {model.path.parent / 'report.html'}")


def add_methods() -> None:
    """Add one command per method to `train`."""
    if train.registered_commands:
        return
    faults = PLACES.faults()
    for name in PLACES:
        origin = f" From {package}." if (package := PLACES.package(name)) else ""
        try:
            with PLACES.guarded(name):
                command = _method_command(name, f"Train {docstring(PLACES[name][0])}{origin}")
        except ConfigError as error:
            faults[name] = str(error)
        else:
            train.command(name, cls=Command)(command)
    if "_IMG2IMG_COMPLETE" not in os.environ:
        for sentence in faults.values():
            typer.echo(f"img2img: {sentence}", err=True)


def _refuse_torchrun(command: str) -> None:
    """Raise ConfigError if `torchrun` started several processes of a command that does not divide its work."""
    processes, told = int(os.environ.get("WORLD_SIZE", 1)), os.environ.get("LOCAL_RANK", "0") != "0"
    if processes == 1 or command in TOGETHER or command.startswith("-"):
        return
    way = ", once for each part with --shard" if command in SHARDED else ""
    error = ConfigError(
        f"torchrun started {processes} processes of img2img {command}, which would all do the same and write the same "
        f"files; start it without torchrun{way}."
    )
    error.said = told
    raise error


def main() -> None:
    """Run the command line. A user's mistake prints one line on stderr and exits with 2; anything else is a bug and
    keeps its traceback.
    """
    if "WORLD_SIZE" in os.environ:  # one sentence says that a process is lost, and no pages from C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with forgiving_output():
        _main()


def _main() -> None:
    try:
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "--help")
        _refuse_torchrun(command)
        completing = "_IMG2IMG_COMPLETE" in os.environ  # shell completion passes the words in the environment
        if completing or command == "train":
            add_methods()
        if completing or command == "equalize":
            add_equalizing(equalize)
        app(prog_name="img2img")
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        sys.exit(130)
    except Interrupted as stop:
        if not stop.said:
            typer.echo(str(stop), err=True)
        sys.exit(128 + stop.signal)
    except Img2ImgError as error:
        if not error.said:
            typer.echo(f"img2img: {error}", err=True)
        sys.exit(2)
