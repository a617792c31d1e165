"""The command `img2img equalize`. Each option is declared once, as an argument of `BatchEqualizer` or `Manifest.open`:
its name, type and default in the signature, its help text in `Args:`.
"""

import inspect
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from img2img.bulk.options import RayOptions
from img2img.cli.terminal import Command, parameter_of, progress_bar, stoppable, with_options
from img2img.errors import ConfigError, choose, counted
from img2img.lab import options as types
from img2img.options.declared import Option, arguments_of, options_in
from img2img.options.outline import outline

LEFT_OUT = {"axes", "channels", "out_dtype", "training"}  # for arrays, or with another form here
DEFAULTS = {"n_jobs": -1}  # a command has the machine to itself, other than a call
FLAGS = {"random_state": "--seed", "n_jobs": "--jobs", "dark": "--dark/--bright"}
KINDS: dict[str, Any] = {
    "root": str,
    "run": Path,
    "nuclei": str,
    "channels": str,
    "map": list[str],
}  # of several types
TEXTS = {
    "run": "Folder for training a network; training resumes there after a stop.",
    "control": "A true/false column, or a comparison such as \"Metadata_treatment == 'DMSO'\".",
    "channels": "The channels to read, in this order, such as DNA,ER; by default every FileName_ column except "
    "FileName_Illum<Channel>, the illumination functions of CellProfiler.",
    "masks": "Column of files with the objects of each image as labels; by default they are segmented in the input.",
    "nuclei": "The channel, by number or name, in which objects are segmented.",
    "overwrite": "Replace existing results.",
}
FILES = ("root", "map", "file_column", "channel_column")
COLUMNS = (*FILES, "batch", "control", "group", "label", "where", "missing", "pages", "metadata")
TABLE = (
    "A table with FileName_<Channel> and Metadata_ columns (CSV, Parquet, Excel, or SQLite as table.sqlite::Image); "
    "several files of one, as a folder or a pattern in quotes ('*/load_data.csv'); or a folder of images with one "
    "subfolder per batch."
)

Saved = Annotated[Path, typer.Argument(metavar="EQ", help="The folder of a fitted equalizer.")]
Table = Annotated[str, typer.Argument(metavar="TABLE", help=TABLE)]


def texts_of(function: Any) -> dict[str, str]:
    """Return the sentences in the `Args:` section of a docstring, by name."""
    section = re.search(r"^Args:\n((?: {4}.*\n|\n)*)", f"{inspect.getdoc(function)}\n", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): ((?:.+\n?)(?: {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    sentences = {name: " ".join(text.split()) for name, text in entries}
    return {name: text[:1].upper() + text[1:] for name, text in sentences.items()}


def add_equalizing(equalize: typer.Typer) -> None:
    """Add the commands to the group. Their options are read from the source of the lab, whose import takes seconds."""
    if equalize.registered_commands:
        return
    scope = {"Any": Any, "Mapping": Mapping, "Sequence": Sequence, "Path": Path, "Array": Any, "o": types}
    BatchEqualizer = outline("img2img.lab.equalizer", "BatchEqualizer", scope)
    open_table = outline("img2img.lab.tables.manifest", "Manifest", scope).open
    documented = (BatchEqualizer, BatchEqualizer.transform, BatchEqualizer.evaluate, open_table)
    texts = {name: text for function in documented for name, text in texts_of(function).items()} | TEXTS

    def like(function: Any, *names: str) -> Iterator[tuple[Option, inspect.Parameter]]:
        chosen = names or [name for name in inspect.signature(function).parameters if name not in {"self"} | LEFT_OUT]
        for name, one in arguments_of(function, *chosen).items():
            flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
            kind, default = KINDS.get(name, one.kind), DEFAULTS.get(name, one.default)
            one = replace(one, text=texts[name], flag=flag, kind=kind, default=default)
            yield one, parameter_of(one, flag=flag if name in FLAGS else None)

    def add(name: str, command: Callable[..., None], *options: Iterable[tuple[Option, inspect.Parameter]]) -> None:
        equalize.command(name, cls=Command)(with_options(list(chain(*options)))(_with_lab(command)))

    new = BatchEqualizer.__init__
    add("fit", _fit, like(open_table, *COLUMNS, "channels", "max_megapixels"), like(new))
    add("add", _add, like(open_table, *COLUMNS, "max_megapixels"))
    add(
        "transform",
        _transform,
        like(open_table, *FILES, "batch", "where", "pages", "metadata", "shard", "max_megapixels"),
        like(BatchEqualizer.transform, "nan", "quality", "overwrite"),
        like(new, "n_jobs"),
        ((one, parameter_of(one)) for one in options_in(RayOptions).values()),
    )
    looking = like(new, "target", "random_state", "n_jobs", "memory")
    add("check", _check, like(open_table, *COLUMNS, "channels", "max_megapixels"), looking)
    add(
        "report",
        _report,
        like(open_table, *COLUMNS, "max_megapixels"),
        like(BatchEqualizer.evaluate, "masks", "nuclei", "dark"),
        like(new, "n_jobs", "memory"),
    )


def _with_lab(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command`, preceded by a check that the extra [lab] is installed."""

    @wraps(command)
    def checked(**options: Any) -> None:
        try:
            _ = sys.modules["img2img"].BatchEqualizer
        except ImportError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise ConfigError(str(error)) from error
            raise
        command(**options)

    return checked


def _check(
    table: Table,
    out: Annotated[Path | None, typer.Option(help="Also write a page, .html.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write all numbers to this file, as JSON.")] = None,
    **options: Any,
) -> None:
    """Recommend a route before any fitting: is there a batch effect on the controls, and can it be separated?"""
    from img2img.lab import BatchEqualizer, Manifest
    from img2img.report.page import is_page
    from img2img.runtime.files import holds_keys, refuse_unwritable

    for path, replaceable in ((out, is_page), (json, holds_keys("route", "differences"))):
        if path:
            refuse_unwritable(path, replaceable)
    columns = {name: options.pop(name) for name in (*COLUMNS, "channels", "max_megapixels")}
    with stoppable("Stopped; nothing was written."), progress_bar("checking") as (advance, _):
        manifest = Manifest.open(table, **columns)
        found = BatchEqualizer(**options).check(manifest, progress=advance)
    for note in manifest.notes:
        typer.echo(f"note: {note}")
    typer.echo(found.to_text().replace(found.sentence, typer.style(found.sentence, bold=True)))
    for path, write, name in ((out, found.to_html, "page"), (json, found.to_json, "numbers")):
        if path:
            with _writing(path):
                write(path)
            typer.echo(f"{name}: {path}")


def _fit(
    table: Table,
    out: Annotated[Path, typer.Option(help="Folder for the fitted equalizer.")],
    train: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option for training a network, e.g. steps=2000; can be repeated."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the equalizer if it exists.")] = False,
    **options: Any,
) -> None:
    """Fit an equalizer to the images that a table names, and save it."""
    from img2img.lab import BatchEqualizer, LabWarning, Manifest
    from img2img.lab.judgement.verdict import BANNER

    _refuse_out(out, overwrite, options["run"])
    columns = {name: options.pop(name) for name in (*COLUMNS, "max_megapixels")}
    channels = options.pop("channels")
    options["channels"] = channels and [name.strip() for name in channels.split(",")]
    equalizer = BatchEqualizer(**options, training=_training(options["model"], train or [], options["run"]))
    bar = progress_bar(f"fitting {equalizer.model}")
    with stoppable("Stopped; nothing was saved."), bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", LabWarning)  # they are printed as notes
        manifest = Manifest.open(table, **columns)
        equalizer.fit(manifest)
    with _writing(out):
        equalizer.save(out)
    fitted = equalizer.fitted_
    images = "controls" if fitted.on_controls else "all images"
    typer.echo(f"{fitted.model}, fitted to {images}; target: {fitted.target}; batches: {manifest.batch_column}")
    for name, count in fitted.n_images.items():
        typer.echo(
            f"batch {name}: {counted(count, 'image', 'images')}{', the target' if name == fitted.target else ''}"
        )
    for found in fitted.corrections:
        if found.batch != fitted.target:
            typer.echo(found)
    for note in dict.fromkeys(fitted.notes):
        typer.echo(f"note: {note}")
    sham = (
        "not measured: groups that lie in one batch are too few"
        if fitted.sham is None
        else f"{fitted.sham:.2%} of the range"
    )
    typer.echo(f"sham change, where there is nothing to correct: {sham}")
    typer.echo(f"saved: {out}")
    typer.echo(BANNER)


def _add(
    eq: Saved,
    table: Table,
    out: Annotated[Path, typer.Option(help="Folder for the equalizer with the new batches; EQ stays as it is.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the equalizer if it exists.")] = False,
    **options: Any,
) -> None:
    """Learn the batches of a table that an equalizer does not know yet, such as the plates of another week.

    Everything else stays as it is, so results for the other batches do not change. An equalizer that was fitted to
    controls needs --control.
    """
    from img2img.lab import BatchEqualizer, LabWarning, Manifest

    _refuse_out(out, overwrite, None)
    equalizer = BatchEqualizer.load(eq)
    if equalizer.fitted_.on_controls and options["control"] is None:
        raise ConfigError(f"{eq} was fitted to controls; say with --control which rows of {table} are controls.")
    with stoppable("Stopped; nothing was saved."), progress_bar("adding"), warnings.catch_warnings():
        warnings.simplefilter("ignore", LabWarning)  # they are printed as notes
        manifest = Manifest.open(table, **options)
        known, before = set(equalizer.batches_), set(equalizer.notes_)
        new = sorted(set(manifest.batch) - known)
        if not new:
            raise ConfigError(f"{eq} knows all batches of {table} already: {', '.join(sorted(set(manifest.batch)))}.")
        for name in new:
            equalizer.add_batch(name, manifest)
    with _writing(out):
        equalizer.save(out)
    for name in new:
        typer.echo(f"batch {name}: {equalizer.n_images_[name]} images, added")
    if same := sorted(set(manifest.batch) & known):
        typer.echo(f"known already, and left as they were: {', '.join(same)}")
    for note in dict.fromkeys([*manifest.notes, *(note for note in equalizer.notes_ if note not in before)]):
        typer.echo(f"note: {note}")
    typer.echo(f"saved: {out}")


def _refuse_out(out: Path, overwrite: bool, run: Path | None) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a folder for the equalizer.")
    if run is not None and run.resolve() == out.resolve():
        raise ConfigError(f"--run and --out are both {out}, but each needs its own config.json; give two folders.")
    for name in ("config.json", "weights.safetensors"):
        if (out / name).exists() and not overwrite:
            raise ConfigError(f"{out} already holds a {name}; give another --out, or replace it with --overwrite.")
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    with _writing(out), tempfile.TemporaryFile(dir=existing):  # to fail now, and not after a training
        pass


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


def _training(model: str, words: list[str], run: Path | None) -> dict[str, Any] | None:
    """Return the options of a network's training from words NAME=VALUE, each of its declared type."""
    from img2img.lab.networks.models import MODELS

    network = choose("model", model, MODELS).network
    if network is None and (words or run is not None):
        trained = ", ".join(name for name, parts in MODELS.items() if parts.network)
        raise ConfigError(f"--train and --run are for models with a network ({trained}); {model} has none.")
    if network is None or not words:
        return None
    known, options = network.options(), {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"--train takes NAME=VALUE, e.g. steps=2000, not '{word}'.")
        one = choose(f"option of {network.name}", name, known)
        options[name] = replace(one, flag=f"--train {name}").convert(value)
    return options


def _transform(
    eq: Saved,
    table: Table,
    out: Annotated[
        str,
        typer.Option(help="Folder for the results, which have the same names and formats; or its URL.", metavar="PATH"),
    ],
    **options: Any,
) -> None:
    """Move the images that a table names to the target batch.

    Results have the size, type, format and name of the input; equalized.csv beside them lists for each row what was
    done and how far to trust it. A file that cannot be equalized is reported, the others are still processed, and the
    exit code is 1. Run again, the command only does what is missing.
    """
    from img2img.data.remote import locate
    from img2img.lab import BatchEqualizer, Manifest
    from img2img.lab.judgement.verdict import BANNER
    from img2img.lab.tables.listing import list_name

    jobs, ray = options.pop("n_jobs"), {name: options.pop(name) for name in options_in(RayOptions)}
    if ray["ray"] is not None and jobs != DEFAULTS["n_jobs"]:
        raise ConfigError("--jobs has no effect with --ray, whose workers have --ray-cpus threads each; leave it out.")
    equalizer = BatchEqualizer.load(eq).set_params(n_jobs=jobs)
    choices = {name: options.pop(name) for name in ("nan", "quality", "overwrite")}
    with stoppable("Stopped; the same command resumes.") as check, progress_bar(equalizer.model) as (advance, say):

        def progress(done: int, total: int) -> None:
            check()
            advance(done, total)

        manifest = Manifest.open(table, **options)
        result = equalizer.transform(manifest, out_dir=out, **choices, progress=progress, **ray)
        for note in manifest.notes:
            say(f"note: {note}")
        for reason in result["error"][result["status"] == "failed"]:
            say(f"failed: {reason}")
    done, kept, failed = (int((result["status"] == status).sum()) for status in ("done", "kept", "failed"))
    flagged = sum(isinstance(words, str) and bool(words) for words in result.get("flags", ()))
    shares = [f", {kept} existed already" if kept else "", f", {failed} failed" if failed else ""]
    images, place = counted(done, "image", "images"), locate(out)
    typer.echo(f"{images} equalized into {place}{''.join(shares)}; {flagged} flagged")
    typer.echo(f"listed in {place / list_name(place, manifest.shard)}")
    typer.echo(BANNER)
    if failed:
        raise typer.Exit(1)


def _report(
    eq: Saved,
    table: Table,
    out: Annotated[Path, typer.Option(help="The page to write, .html.")],
    json: Annotated[Path | None, typer.Option(help="Also write all numbers to this file, as JSON.")] = None,
    **options: Any,
) -> None:
    """Judge an equalizer on images it was not fitted to, beside what a lab would use instead."""
    from img2img.lab import BatchEqualizer, LabWarning, Manifest
    from img2img.lab.judgement.verdict import COLOURS
    from img2img.report.page import is_page
    from img2img.runtime.files import holds_keys, refuse_unwritable

    refuse_unwritable(out, is_page)
    if json:
        refuse_unwritable(json, holds_keys("verdict", "gates"))
    equalizer = BatchEqualizer.load(eq).set_params(**{name: options.pop(name) for name in ("n_jobs", "memory")})
    columns = {name: options.pop(name) for name in (*COLUMNS, "max_megapixels")}
    nuclei = options.pop("nuclei")
    nuclei = int(nuclei) if str(nuclei).isdecimal() and nuclei not in (equalizer.channels_ or []) else nuclei
    with (
        stoppable("Stopped; nothing was written."),
        progress_bar("judging", "steps") as (advance, _),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", LabWarning)  # the report lists them as notes
        manifest = Manifest.open(table, **columns)
        evaluation = equalizer.evaluate(manifest, nuclei=nuclei, progress=advance, **options)
    coloured = typer.style(evaluation.verdict, fg=COLOURS[evaluation.outcome], bold=True)
    typer.echo(evaluation.to_text().replace(evaluation.verdict, coloured))  # plain where it is no terminal
    with _writing(out):
        evaluation.to_html(out)
    typer.echo(f"report: {out}")
    if json:
        with _writing(json):
            evaluation.to_json(json)
        typer.echo(f"numbers: {json}")
