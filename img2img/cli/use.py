"""The commands that use a model: `translate`, `sample`, `classify`; and `report merge`, of what they report."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from img2img.bulk.options import RayOptions
from img2img.cli.terminal import (
    STOPPED,
    Command,
    ModelPath,
    headings_of,
    now_and_then,
    options_of,
    progress_bar,
    stoppable,
)
from img2img.errors import counted, listed, quote
from img2img.model.options import (
    ClassifyOptions,
    Count,
    FolderOptions,
    JobLoadOptions,
    SampleLoadOptions,
    SampleOptions,
    TranslateOptions,
)

if TYPE_CHECKING:
    from img2img.model.summary import Outcome

GROUPS = {JobLoadOptions: "Model", TranslateOptions: "Pixels", FolderOptions: "Files", RayOptions: "Many machines"}
SHARED = dict.fromkeys(("files", "shard"), "Many machines") | dict.fromkeys(("statistics", "skip_empty"), "Slides")


@options_of(*GROUPS, headings=headings_of(GROUPS) | SHARED)
def translate(
    model: ModelPath,
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="A folder of images, or one image; or a URL such as s3://bucket/photos."),
    ],
    out: Annotated[
        str,
        typer.Option(help="Folder for the results, which have the same names and formats; or its URL.", metavar="PATH"),
    ],
    **options: Any,
) -> None:
    """Translate a folder of images, or one image.

    Results have the size, type, format and name of their input. Files that cannot be translated are reported and
    skipped; the exit code is then 1. Running the command again computes only the missing results.
    """
    import img2img.api.translating
    from img2img.data.remote import locate

    loading = {field.name: options.pop(field.name) for field in fields(JobLoadOptions)}
    loaded, devices = img2img.api.translating.open_on_devices(img2img.Translator, model, **loading)
    with stoppable(STOPPED) as check, progress_bar(loaded.direction) as (advance, print_line):

        def progress(outcome: "Outcome") -> None:
            check()
            advance(outcome.done, outcome.total)
            if outcome.status == "failed":
                print_line(f"failed: {outcome.reason}")

        blocks = now_and_then(lambda slide, done, total: print_line(f"{quote(slide)}: {done} of {total} blocks"))
        summary = img2img.api.translating.translate_on(loaded, devices, source, out, progress, blocks, options)
    for note in dict.fromkeys(loaded.notes):
        print_line(note)
    if summary.outside:
        file, share = max(summary.outside, key=lambda entry: entry[1])
        files = counted(len(summary.outside), "file has", "files have")
        print_line(
            f"{files} values outside the range of the training data, which the model cannot reproduce; "
            f"the worst is {quote(file)}, with {share:.2%}."
        )
    skipped = f", {summary.skipped} already there" if summary.skipped else ""
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    speed = summary.translated / summary.seconds if summary.seconds else 0.0
    images = counted(summary.translated, "image", "images")
    typer.echo(f"{images} translated into {quote(str(locate(out)))} ({speed:.1f} images/s){skipped}{failed}")
    if summary.translated:
        typer.echo(f"computed with {summary.computed}")
    if summary.failed:
        raise typer.Exit(1)


DRAWING = {SampleLoadOptions: "Model", SampleOptions: "Images", RayOptions: "Many machines"}


@options_of(*DRAWING, headings=headings_of(DRAWING) | {"shard": "Many machines"})
def sample(
    model: ModelPath,
    out: Annotated[str, typer.Option(help="Folder for the images, or its URL.", metavar="PATH")],
    n: Annotated[Count, typer.Option("--n", help="Number of images.")] = 64,
    **options: Any,
) -> None:
    """Draw images with a model that generates them from noise, such as dcgan, or under a class, such as cgan.

    Image number i depends only on the seed and i, so a longer call continues where a shorter one ended. Running the
    command again draws only the missing images.
    """
    import img2img.api.models
    from img2img.data.remote import locate

    with stoppable(STOPPED) as check, progress_bar("drawing") as (advance, _):

        def progress(done: int, total: int) -> None:
            check()
            advance(done, total)

        written = img2img.api.models.sample(model, n, out=out, progress=progress, **options)
    skipped = f", {written.skipped} already there" if written.skipped else ""
    typer.echo(f"{counted(written.drawn, 'image', 'images')} drawn into {locate(out)}{skipped}")
    for note in written.notes:
        typer.echo(f"note: {note}")
    for picture in written.pictures:
        typer.echo(f"picture: {picture}")


@options_of(ClassifyOptions)
def classify(
    model: ModelPath,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A folder of images, or one image.")],
    out: Annotated[Path, typer.Option(help="The table to write, .csv: file, label, and a confidence per class.")],
    **options: Any,
) -> None:
    """Classify a folder of images, or one image, with a model that learned to: semigan.

    Images are resized to the training size. Files that cannot be read are reported and skipped, and the exit code is
    then 1.
    """
    import img2img.api.models

    with stoppable("Stopped."), progress_bar("classifying") as (advance, print_line):
        result = img2img.api.models.classify(model, source, out, progress=advance, **options)
        for _, reason in result.failed:
            print_line(f"failed: {reason}")
    failed = f", {len(result.failed)} failed" if result.failed else ""
    typer.echo(f"{counted(len(result.files), 'image', 'images')} classified into {quote(out)}{failed}")
    if result.failed:
        raise typer.Exit(1)


def merge(
    parts: Annotated[list[Path], typer.Argument(help="Reports that `translate --shard --report` wrote.")],
    out: Annotated[Path, typer.Option(help="The report to write, as JSON.")],
) -> None:
    """Merge the reports of the shards of a translation into one, and name the shards that are missing.

    The exit code is 1 if a file failed or a shard is missing.
    """
    import img2img.api.translating

    merged = img2img.api.translating.merge_reports(parts, out)
    for failure in merged.failed:
        typer.echo(f"failed: {failure.reason}")
    images = counted(merged.translated, "image", "images")
    typer.echo(f"{images} translated, {merged.skipped} already there, {len(merged.failed)} failed: {quote(out)}")
    if merged.missing:
        typer.echo(f"missing: {counted(len(merged.missing), 'shard', 'shards')}, {listed(merged.missing)}")
    if merged.failed or merged.missing:
        raise typer.Exit(1)


def add_using(app: typer.Typer, report: typer.Typer) -> None:
    """Add the commands to the command line, and to its group of reports."""
    for command in (translate, sample, classify):
        app.command(cls=Command)(command)
    report.command(cls=Command)(merge)
