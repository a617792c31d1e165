"""The command `push`."""

from pathlib import Path
from typing import Annotated

import typer

from img2img.cli.terminal import Command, stoppable


def push(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a model file (.safetensors).")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository, made if there is none.")],
    license: Annotated[
        str | None, typer.Option(help="Licence of the model, as hubs call it, e.g. apache-2.0; it must be given.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only its owner sees.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to upload to, made if there is none; by default main.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Upload the newest samples, images of the data, as well.")
    ] = True,
    dry_run: Annotated[
        Path | None, typer.Option(help="Write the files into this new folder, to look at, and upload nothing.")
    ] = None,
) -> None:
    """Share a model on a hub such as Hugging Face's, with a model card made of its run.

    Others can then use it as hf://user/name. HF_TOKEN must hold a token that may write there.
    """
    import img2img.api.sharing

    with stoppable("Stopped."):
        pushed = img2img.api.sharing.push(
            run, repository, license=license, private=private, revision=revision, pictures=pictures, dry_run=dry_run
        )
    for file, size in pushed.files.items():
        typer.echo(f"{file}: {size:,} bytes")
    for note in pushed.notes:
        typer.echo(f"note: {note}")
    if dry_run is not None:
        typer.echo(f"written into {dry_run}; nothing was uploaded")
    else:
        typer.echo(f"page: {pushed.url}\nmodel: {pushed.name}")


def add_sharing(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(cls=Command)(push)
