"""The command `serve`."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from img2img.cli.terminal import Command, options_of
from img2img.errors import ConfigError, install_hint
from img2img.model.options import JobLoadOptions
from img2img.options.declared import pick
from img2img.serve.options import TOKEN, ServeOptions

LOADING = dict.fromkeys(("device", "precision", "backend"), "Model")
PACKAGES = ("fastapi", "uvicorn", "python_multipart")
HEADINGS = (
    LOADING
    | dict.fromkeys(("host", "port", "token"), "Address")
    | dict.fromkeys(("queue", "max_megabytes", "max_megapixels", "timeout"), "Limits")
)


@options_of(JobLoadOptions, ServeOptions, headings=HEADINGS)
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Model files (.safetensors), run folders, or hf://user/name on a hub."),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="The folder of a run whose report is shown while it trains; may be given several times."),
    ] = None,
    **options: Any,
) -> None:
    """Serve models: a page to drop images on, and an HTTP API, for this machine or others; and reports of runs.

    Ctrl-C or SIGTERM ends it once all requests are answered.
    """
    if not models and not run:
        raise ConfigError("Give the models to serve, e.g. img2img serve checkpoints/h2z, or --run with a run to show.")
    if options["token"] is None:
        options["token"] = os.environ.get(TOKEN) or None
    chosen = ServeOptions(**pick(options, ServeOptions))
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ConfigError(install_hint("img2img serve", package.replace("_", "-"), "serve"))
    from img2img.serve.server import serve as listen

    def say(address: str) -> None:
        typer.echo(f"serving at {address} (Ctrl-C ends)")

    listen(models or [], chosen, say, run or [], **{name: options[name] for name in LOADING})


def add_serving(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(cls=Command)(serve)
