"""`img2img equalize`. An option is declared once, as an argument of `BatchEqualizer`: its name, type, default, and its
text in `Args:`.
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

from img2img.cli.terminal import Command, parameter_of, progress_bar, stoppable, with_options
from img2img.errors import ConfigError, choose, counted
from img2img.lab import options as types
from img2img.options.declared import Option, arguments_of
from img2img.options.outline import outline

LEFT_OUT = {"axes", "channels", "out_dtype", "training"}  # of arrays, and what has a form of its own here
FLAGS = {"random_state": "--seed", "n_jobs": "--jobs", "dark": "--dark/--bright"}
KINDS: dict[str, Any] = {"root": Path, "run": Path, "nuclei": str}  # of several, the one that text is
TEXTS = {
    "run": "Folder of the training of a network, which goes on there after a stop.",
    "masks": "Column of files with the objects of each image as labels; by default they are segmented in the input.",
    "overwrite": "Do again what is there already.",
}
TABLE = "A CSV file with FileName_<Channel> and Metadata_ columns, or a folder whose subfolders are the batches."

Saved = Annotated[Path, typer.Argument(metavar="EQ", help="The folder of a fitted equalizer.")]
Table = Annotated[Path, typer.Argument(metavar="TABLE", help=TABLE)]


def texts_of(function: Any) -> dict[str, str]:
    """The sentences in the `Args:` section of a docstring, by name."""
    section = re.search(r"^Args:\n((?: {4}.*\n|\n)*)", f"{inspect.getdoc(function)}\n", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): ((?:.+\n?)(?: {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    sentences = {name: " ".join(text.split()) for name, text in entries}
    return {name: text[:1].upper() + text[1:] for name, text in sentences.items()}


def add_equalizing(equalize: typer.Typer) -> None:
    """Adds the commands to the group. Their options are read from the equalizer's source: its import takes seconds."""
    if equalize.registered_commands:
        return
    scope = {"Any": Any, "Mapping": Mapping, "Sequence": Sequence, "Path": Path, "o": types}
    BatchEqualizer = outline("img2img.lab.equalizer", "BatchEqualizer", scope)
    told = (BatchEqualizer, BatchEqualizer.evaluate, BatchEqualizer.fit_table)
    texts = {name: text for function in told for name, text in texts_of(function).items()} | TEXTS

    def like(function: Any, *names: str) -> Iterator[tuple[Option, inspect.Parameter]]:
        chosen = names or [name for name in inspect.signature(function).parameters if name not in {"self"} | LEFT_OUT]
        for name, one in arguments_of(function, *chosen).items():
            flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
            one = replace(one, text=texts[name], flag=flag, kind=KINDS.get(name, one.kind))
            yield one, parameter_of(one, flag=flag if name in FLAGS else None)

    def add(name: str, command: Callable[..., None], *options: Iterable[tuple[Option, inspect.Parameter]]) -> None:
        equalize.command(name, cls=Command)(with_options(list(chain(*options)))(_with_lab(command)))

    columns, table = ("root", "batch", "control", "group", "label", "where"), BatchEqualizer.fit_table
    done, judged = BatchEqualizer.transform_table, BatchEqualizer.evaluate_table
    add("fit", _fit, like(table, *columns), like(BatchEqualizer.__init__))
    add(
        "transform",
        _transform,
        like(table, "root"),
        like(done, "batch", "where", "overwrite"),
        like(BatchEqualizer.__init__, "n_jobs"),
    )
    add("report", _report, like(judged, *columns, "masks", "nuclei", "dark"))


def _with_lab(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command`, which says so where the extra [lab] is not installed."""

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


def _fit(
    table: Table,
    out: Annotated[Path, typer.Option(help="Folder for the fitted equalizer.")],
    train: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option of the training of a network, as steps=2000; can be repeated."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the equalizer if it exists.")] = False,
    **options: Any,
) -> None:
    """Learn what each batch needs from the images that a table names, and save it."""
    from img2img.lab.equalizer import BatchEqualizer, LabWarning
    from img2img.lab.verdict import BANNER

    _refuse_out(out, overwrite, options["run"])
    rows = {name: options.pop(name) for name in ("root", "batch", "control", "group", "label", "where")}
    equalizer = BatchEqualizer(**options, training=_training(options["model"], train or [], options["run"]))
    bar = progress_bar(f"fitting {equalizer.model}")
    with stoppable("Stopped; nothing was saved."), bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", LabWarning)  # they are printed as notes
        equalizer.fit_table(table, **rows)
    with _writing(out):
        equalizer.save(out)
    seen = "controls" if equalizer.on_controls_ else "all images"
    typer.echo(f"{equalizer.model}, fitted on {seen}; target: {equalizer.target_}")
    for number, (name, count) in enumerate(equalizer.n_images_.items()):
        kept = name != equalizer.target_ and equalizer.correction_.is_identity(number)
        reason = "; left as it is, as no difference from the target is certain: more control wells would tell"
        typer.echo(f"batch {name}: {count} images{reason if kept else ''}")
    for note in dict.fromkeys(equalizer.notes_):
        typer.echo(f"note: {note}")
    sham = "not measured, the target has too few groups" if equalizer.sham_ is None else f"{equalizer.sham_:.2%}"
    typer.echo(f"sham change, where there is nothing to correct, of the range: {sham}")
    typer.echo(f"saved: {out}")
    typer.echo(BANNER)


def _refuse_out(out: Path, overwrite: bool, run: Path | None) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a folder for the equalizer.")
    if run is not None and run.resolve() == out.resolve():
        raise ConfigError(f"--run and --out are both {out}, and both hold a config.json; give two folders.")
    for name in ("config.json", "weights.safetensors"):
        if (out / name).exists() and not overwrite:
            raise ConfigError(f"{out} holds a {name} already; give another --out, or replace it with --overwrite.")
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    with _writing(out), tempfile.TemporaryFile(dir=there):  # found out now, and not after a training
        pass


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


def _training(model: str, words: list[str], run: Path | None) -> dict[str, Any] | None:
    """NAME=VALUE as options of the network's training, each of the type that it is declared with."""
    from img2img.lab.adversarial import options_of
    from img2img.lab.moving import MODELS

    network = choose("model", model, MODELS).network
    if network is None and (words or run is not None):
        trained = ", ".join(name for name, parts in MODELS.items() if parts.network)
        raise ConfigError(f"--train and --run are for models with a network, {trained}; {model} has none.")
    if network is None or not words:
        return None
    known, options = options_of(network), {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"--train takes NAME=VALUE, such as steps=2000, not '{word}'.")
        one = choose(f"option of {network}", name, known)
        options[name] = replace(one, flag=f"--train {name}").convert(value)
    return options


def _transform(
    eq: Saved,
    table: Table,
    out: Annotated[Path, typer.Option(help="Folder for the results, which have the same names and formats.")],
    **options: Any,
) -> None:
    """Move the images that a table names to the target batch.

    Output has the size, type, format and name of the input; equalized.csv beside it says of each row what was done and
    how far to trust it. A file that cannot be equalized is reported and the rest go on; the exit code is then 1.
    Started again, the command does only what is missing.
    """
    from img2img.lab.equalizer import BatchEqualizer
    from img2img.lab.verdict import BANNER

    equalizer = BatchEqualizer.load(eq).set_params(n_jobs=options.pop("n_jobs"))
    root = options.pop("root")
    with stoppable("Stopped. The same command does what is missing."), progress_bar(equalizer.model) as (advance, say):
        result = equalizer.transform_table(table, root, out, progress=advance, **options)
        for reason in result["error"][result["status"] == "failed"]:
            say(f"failed: {reason}")
    done, kept, failed = (int((result["status"] == status).sum()) for status in ("done", "kept", "failed"))
    flagged = sum(isinstance(words, str) and bool(words) for words in result.get("flags", ()))
    shares = [f", {kept} were there already" if kept else "", f", {failed} failed" if failed else ""]
    typer.echo(f"{counted(done, 'image', 'images')} equalized into {out}{''.join(shares)}; {flagged} flagged")
    typer.echo(f"listed in {out / 'equalized.csv'}")
    typer.echo(BANNER)
    if failed:
        raise typer.Exit(1)


def _report(
    eq: Saved,
    table: Table,
    out: Annotated[Path, typer.Option(help="The page to write, .html.")],
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file as well, as json.")] = None,
    **options: Any,
) -> None:
    """Judge an equalizer on images that it was not fitted on, beside what a lab would use instead."""
    from img2img.data.images import holds_keys, refuse_unwritable
    from img2img.lab.equalizer import BatchEqualizer, LabWarning
    from img2img.report.page import is_page

    refuse_unwritable(out, is_page)
    if json:
        refuse_unwritable(json, holds_keys("verdict", "gates"))
    equalizer = BatchEqualizer.load(eq)
    nuclei = options.pop("nuclei")
    nuclei = int(nuclei) if str(nuclei).isdecimal() and nuclei not in (equalizer.channels_ or []) else nuclei
    with (
        stoppable("Stopped; nothing was written."),
        progress_bar("judging", "methods") as (advance, _),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", LabWarning)  # they are notes of the report
        evaluation = equalizer.evaluate_table(table, nuclei=nuclei, progress=advance, **options)
    typer.echo(evaluation.to_text())
    with _writing(out):
        evaluation.to_html(out)
    typer.echo(f"report: {out}")
    if json:
        with _writing(json):
            evaluation.to_json(json)
        typer.echo(f"numbers: {json}")
