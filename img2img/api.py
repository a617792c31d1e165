"""The public functions: `train`, `load`, `translate`, `sample`, `classify`. The command line calls the same ones."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Unpack, overload

import torch

from img2img.core.needs import Facts
from img2img.data.axes import arrays_of
from img2img.data.picture import Array
from img2img.data.samples import arrays_for, open_samples
from img2img.data.stream import auto_workers
from img2img.errors import ConfigError, ModelFileError, choose, install_hint
from img2img.methods import METHODS
from img2img.metrics.options import MetricOptions
from img2img.model.classifying import Classified, classify_files
from img2img.model.file import read_card
from img2img.model.folder import Job
from img2img.model.model import Model, model_file
from img2img.model.options import (
    ClassifyOptions,
    Count,
    FolderOptions,
    LoadOptions,
    SampleLoadOptions,
    SampleOptions,
    TranslateOptions,
)
from img2img.model.sampling import Sampler, Written, write_samples
from img2img.model.summary import Outcome, Summary, refuse_report, write_report
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, checked, option, options_in, pick, refuse_idle, split
from img2img.options.docstrings import documented
from img2img.runs.facts import read_report_record
from img2img.runs.folder import RunFolder
from img2img.runs.record import RETIRED
from img2img.runs.sameness import (
    PATHS,
    absolute,
    default_folder,
    identities,
    note_on_place,
    read_config,
    refuse_folder,
    refuse_other_data,
)
from img2img.runtime.device import Runtime, environment
from img2img.runtime.output import stderr_console
from img2img.training.config import flat, groups_of
from img2img.training.finished import evaluate_finished
from img2img.training.loop import Trainer
from img2img.training.run import Run, card_of, facts_of, introduce
from img2img.training.sizes import refuse_wrong_size, shorten as advice_to_shorten

OF_TRANSLATORS = ("direction", "backend")  # options of loading that only translators have
OF_SCORES = {"metrics", "select", "patience", *(field.name for field in fields(MetricOptions))}


@overload
def train(method: keywords.TranslationMethod, **options: Unpack[keywords.TranslationTraining]) -> Translator: ...
@overload
def train(method: keywords.SamplingMethod, **options: Unpack[keywords.SamplingTraining]) -> Sampler: ...
@overload
def train(method: str, **options: Unpack[keywords.Training]) -> Translator | Sampler: ...
@documented(**{name: groups_of(method.Config) for name, method in METHODS.items()})
def train(
    method: str,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    channel_axis: int | None = None,
    **options: Any,
) -> Translator | Sampler:
    """Train a method on folders of images or on arrays, and return the trained model.

    The same call on the same `out` resumes a stopped run, bit-equal to a run that was never stopped.

    Args:
        method: the name of a method, e.g. "cyclegan".
        out: the run folder; by default `checkpoints/METHOD_NAMES-OF-THE-DATA`.
        resume: fail unless there is a run to resume. Options left out are then taken from it, including the data.
        overwrite: start a new run, whatever `out` holds. Files that a run writes are removed or replaced, and nothing
            else.
        quiet: show no progress.
        channel_axis: the axis of the channels in arrays and tensors; by default the last and the third from last.
        **options: the images, and the options below. Methods of two domains take `a` and `b` (folders, or arrays
            (N, H, W[, C]), tensors (N, C, H, W), or lists of arrays, tensors, PIL images and paths), `ab` or `data`;
            the others take `data` (a folder, an idx file or arrays) and, if they need classes, `labels`, or `vectors`
            if they can learn from those.

    Returns:
        What `img2img.load(out)` returns: a `Translator`, or the `Sampler` of a method that generates from noise.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    method_class = choose("method", method, METHODS)
    groups, needs = groups_of(method_class.Config), method_class.Config.needs
    check_names(method, options, *groups)
    asked = set(options)
    arrays = {k: options.pop(k) for k in PATHS if not isinstance(options.get(k, ""), str | Path | None)}
    taken = arrays_for(needs)
    if wrong := [name for name in arrays if name not in taken]:
        raise ConfigError(f"{method} takes arrays as {' and '.join(taken)}, not as {wrong[0]}.")
    listed = {name: arrays.pop(name) for name in ("labels", "vectors") if name in arrays}
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite starts over; give one of them.")

    files = RunFolder(Path(out) if out is not None else default_folder(method, options))
    folder = files.path
    files.refuse_foreign(overwrite)
    saved = None if overwrite else read_config(files)
    if resume:
        if saved is None or not files.resumable:
            raise ConfigError(f"There is nothing to resume in {folder}: it holds no last.pt. Start without --resume.")
        options = {name: x for name, x in saved["options"].items() if name not in RETIRED} | options
    options = absolute(options)
    data_config, train_config, method_config, *others = split(options, *groups)
    arrays = arrays_of(arrays, channel_axis, data_config.pages) | listed
    for config in (data_config, method_config):
        refuse_idle(method, asked, config)
    train_config = replace(train_config, batch_size=train_config.batch_size or method_class.batch_size)
    unresolved, method_config = method_config, method_class.resolve(method_config, Facts(data_config.size))

    runtime = Runtime.start(train_config.device, train_config.precision)
    record = {
        "method": method,
        "options": flat(data_config, train_config, method_config, *others),
        "processes": runtime.world_size,
    }
    defaults = {name: known.default for group in groups for name, known in options_in(group).items()}
    refuse_folder(files, record, defaults, overwrite)

    shared = (train_config.workers if train_config.workers >= 0 else auto_workers(runtime.device)) > 0
    say = partial(stderr_console(quiet or not runtime.is_main).print, markup=False, soft_wrap=True)
    opened = open_samples(needs, data_config, train_config.seed, shared, say, **arrays)
    if train_config.precision == "auto" and any(s.dtype != "uint8" for s in opened.train.scales.values()):
        runtime = replace(runtime, dtype=torch.float32)  # bf16 keeps 8 significant bits: enough for 8-bit pixels only
    if opened.heldout is None and (idle := asked & OF_SCORES):
        raise ConfigError(
            f"--{min(idle).replace('_', '-')} is for evaluations on held-out images, and there are none; hold some out "
            "with --val-fraction, or leave it out."
        )
    if needs.balanced and train_config.batch_size < len(opened.train.classes):
        raise ConfigError(
            f"--batch-size {train_config.batch_size} cannot hold an image of each of the {len(opened.train.classes)} "
            f"classes, which {method} needs; use at least --batch-size {len(opened.train.classes)}."
        )
    pack = getattr(method_config, "pack", 1)
    if train_config.batch_size % pack:
        raise ConfigError(
            f"--batch-size {train_config.batch_size} makes no packs of {pack} images; use a multiple of {pack}."
        )
    torch.manual_seed(train_config.seed)
    built = method_class(method_config, opened.train.facts)
    refuse_wrong_size(built, data_config.size)

    facts = facts_of(method, built, opened, runtime.world_size)

    def entry() -> dict[str, Any]:
        saved = refuse_folder(files, record, defaults, overwrite)
        data = identities(opened)
        if saved is not None:
            before = read_report_record(files).facts.images
            refuse_other_data(folder, saved.get("data"), data, facts.images, before)
        return record | {"data": data, "command": shlex.join(sys.argv), "environment": environment()}

    with ExitStack() as held:
        if runtime.is_main:
            note = held.enter_context(files.held(entry, overwrite))
            for line in filter(None, (*opened.images.notes, note or note_on_place(folder, options))):
                say(line)
            introduce(method, built, opened, folder, say)
        runtime.gather(None)  # last.pt is what the run begins with, for every process
        hint = f"img2img train {method} --out {shlex.quote(str(folder))} --resume"
        shorten = advice_to_shorten(built, unresolved, data_config.size, train_config, runtime)
        other_way = getattr(data_config, "direction", "a2b") == "b2a"
        card = card_of(method, built, opened.train.scales, other_way, data_config.pages)
        run = Run(files, card, facts, hint, shorten)
        trainer = Trainer(built, opened.train, opened.heldout, train_config, run, runtime, quiet, *others)
        trained = trainer.run_to_the_end()
        if not next(iter(built.uses.values())).source:
            return Sampler(folder, train_config.device, train_config.precision)
        model = Translator(folder, train_config.device, train_config.precision)
        if opened.heldout is not None and runtime.is_main and needs.domains == ("a", "b"):
            evaluate_finished(files, model, opened.heldout, needs.paired, trained, *others)
        return model


@documented(LoadOptions)
def load(path: str | Path, **options: Unpack[keywords.Loading]) -> Translator | Any:
    """Open a model file, the newest model of a run folder, or a saved equalizer; execute nothing in it.

    Args:
        path: a `.safetensors` file of img2img, a run folder, or the folder of an equalizer.
        **options: see Options below; a model that generates from noise has only `device`, `precision` and `label`, the
            class to generate, and an equalizer only `device`.

    Returns:
        A `Translator`; a `Sampler` for a model that generates from noise; or a `BatchEqualizer`. Type checkers cannot
        tell them apart by path: use `img2img.Sampler(path)` or `img2img.BatchEqualizer.load(path)` for them.

    Raises:
        ModelFileError: if there is no readable model.
        ConfigError: if the model has no such direction or class, or an option does not apply to it.
    """
    chosen = checked(LoadOptions, {**options}, "loading")
    if _holds_equalizer(path):
        _refuse_given(chosen, (*OF_TRANSLATORS, "precision", "label"), f"{path} is an equalizer, which has none")
        return _load_equalizer(Path(path), chosen.device)
    if not any(spec.takes_images for spec in read_card(model_file(path)).directions.values()):
        _refuse_given(chosen, OF_TRANSLATORS, f"{path} generates from noise, and has none")
        return Sampler(path, chosen.device, chosen.precision, chosen.label)
    return Translator(path, chosen.device, chosen.precision, chosen.direction, chosen.backend, chosen.label)


def _holds_equalizer(path: str | Path) -> bool:
    """Tell whether `path` is a folder that `BatchEqualizer.save` wrote."""
    if not isinstance(path, str | Path):
        return False
    return (Path(path) / "weights.safetensors").is_file() and not (Path(path) / "model.safetensors").exists()


def _load_equalizer(folder: Path, device: str) -> Any:
    try:
        from img2img.lab.equalizer import BatchEqualizer
    except ModuleNotFoundError as error:
        raise ConfigError(install_hint(f"{folder} is an equalizer, which", str(error.name), "lab")) from error
    equalizer = BatchEqualizer.load(folder)
    return equalizer if device == "auto" else equalizer.set_params(device=device)


def _refuse_given(chosen: LoadOptions, names: Iterable[str], why: str) -> None:
    if stray := [name for name in names if getattr(chosen, name) != getattr(LoadOptions(), name)]:
        raise ConfigError(f"{', '.join(stray)}: {why}; leave it out.")


@overload
def sample(
    model: str | Path | Sampler,
    n: int = 64,
    *,
    out: None = None,
    progress: Callable[[int, int], None] = ...,
    **options: Unpack[keywords.Sampling],
) -> Array: ...
@overload
def sample(
    model: str | Path | Sampler,
    n: int = 64,
    *,
    out: str | Path,
    progress: Callable[[int, int], None] = ...,
    **options: Unpack[keywords.Sampling],
) -> Written: ...
@documented(SampleLoadOptions, SampleOptions)
def sample(
    model: str | Path | Sampler,
    n: int = 64,
    *,
    out: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Any:
    """Generate images with a model that draws from noise.

    Args:
        model: a model, or its path.
        n: number of images.
        out: a folder to write them into, one file each, keeping those that exist; None returns them instead.
        progress: called with the number of images written, and their total.
        **options: see Options below.

    Returns:
        The images, (n, H, W, C) in the type of the training images; or with `out`, a `Written` with its counts.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    check_names("sampling", options, SampleLoadOptions, SampleOptions)
    loading = pick(options, SampleLoadOptions)
    n = option("n", Count).convert(n)
    if not isinstance(model, Sampler):
        model = Sampler(model, **loading)
    elif loading:
        raise ConfigError(f"{', '.join(loading)}: fixed when the model is loaded, which has already happened.")
    (chosen,) = split(options, SampleOptions)
    if out is None:
        return model.chosen(chosen)(n, chosen.seed, batch_size=chosen.batch_size)
    return write_samples(model, n, Path(out), chosen, progress)


@documented(ClassifyOptions)
def classify(
    model: str | Path | Model,
    source: str | Path,
    out: str | Path | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Unpack[keywords.Classifying],
) -> Classified:
    """Classify a folder of images, or one, with a model that learned to: resized to its size, as in training.

    Args:
        model: a model, or its path.
        source: the folder or the image.
        out: a CSV to write, with file, label, confidence, and the confidence of each class.
        progress: called with the number of images read, and their total.
        **options: see Options below.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    check_names("classifying", options, ClassifyOptions)
    if not isinstance(model, Model):
        (chosen,) = split(options, ClassifyOptions)
        model = load(model, device=chosen.device)
    elif options:
        raise ConfigError(f"{', '.join(options)}: fixed when the model is loaded, which has already happened.")
    if not isinstance(model, Model):
        raise ModelFileError("An equalizer does not classify images; a semigan model does.")
    return classify_files(model, Path(source), None if out is None else Path(out), progress)


@documented(LoadOptions, TranslateOptions, FolderOptions)
def translate(
    model: str | Path | Translator,
    source: str | Path,
    out: str | Path,
    *,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    **options: Unpack[keywords.Translating],
) -> Summary:
    """Translate a folder of images, or one file, into the folder `out`, with the same tree, names and formats.

    Args:
        model: a model, or its path.
        source: the folder or file to translate.
        out: the folder for the results.
        progress: called with the outcome of each file.
        **options: see Options below.
    """
    begin, summary = time.perf_counter(), Summary()
    model = _model_for(model, options)
    going, files = split(options, TranslateOptions, FolderOptions)
    if files.report:
        refuse_report(Path(files.report))  # rather than at the end
    for k, job in enumerate(_jobs(model, Path(source), Path(out), going, files)):
        summary.computed = summary.computed or job.translator.describe()
        for outcome in job.run():
            total = outcome.total * files.n_outputs
            summary.add(outcome)
            summary.seconds = time.perf_counter() - begin
            progress(replace(outcome, done=outcome.done + k * outcome.total, total=total))
    if files.report:
        write_report(Path(files.report), model, summary)
    return summary


@documented(LoadOptions, TranslateOptions, FolderOptions)
def translate_folder(
    model: str | Path | Translator, source: str | Path, out: str | Path, **options: Unpack[keywords.Translating]
) -> Iterator[Outcome]:
    """Translate as `translate` does, as an iterator over the outcome of each file."""
    model = _model_for(model, options)
    going, files = split(options, TranslateOptions, FolderOptions)
    jobs = _jobs(model, Path(source), Path(out), going, files)
    first = next(jobs)  # so that what is wrong is said at once
    return (outcome for job in chain([first], jobs) for outcome in job.run())


def _jobs(model: Translator, source: Path, out: Path, going: TranslateOptions, files: FolderOptions) -> Iterator[Job]:
    """Yield the job of each result of the images; several have a folder each."""
    if files.n_outputs == 1:
        yield Job(model.with_noise(0, files.seed) if files.seed else model, source, out, going, files)
        return
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--n-outputs writes several folders, which must not be inside {source}; give another --out.")
    for number in range(files.n_outputs):
        yield Job(model.with_noise(number, files.seed), source, out / f"{number:03}", going, files)


def _model_for(model: str | Path | Translator, options: Mapping[str, Any]) -> Translator:
    """Return `model`, loaded with those of `options` that apply to loading."""
    check_names("translating", options, LoadOptions, TranslateOptions, FolderOptions)
    loading = pick(options, LoadOptions)
    if not isinstance(model, Translator):
        return Translator(model, **loading)
    towards = {name: loading.pop(name) for name in ("direction", "label") if name in loading}
    if loading:
        raise ConfigError(f"{', '.join(loading)}: fixed when the model is loaded, which has already happened.")
    return model.towards(**towards) if towards else model
