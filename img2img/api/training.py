"""`train`: from images and options to a model. The command line calls the same function."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack, overload
from zlib import crc32

import torch

from img2img.api.weights import absolute_name, weights_of
from img2img.core.method import Method
from img2img.core.needs import Facts
from img2img.data.axes import arrays_of
from img2img.data.remote import refuse_url
from img2img.data.samples import Opened, arrays_for, open_samples
from img2img.data.stream import auto_workers
from img2img.errors import ConfigError, choose
from img2img.methods import METHODS, PLACES
from img2img.metrics.options import MetricOptions
from img2img.model.file import ModelCard
from img2img.model.plugged import named, packages_of, refuse_absent
from img2img.model.sampling import Sampler
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, options_in, refuse_idle, split
from img2img.options.docstrings import documented
from img2img.runs.facts import read_report_record
from img2img.runs.folder import RunFolder
from img2img.runs.record import OPERATIONAL, RETIRED
from img2img.runs.sameness import (
    LENGTH,
    PATHS,
    absolute,
    default_folder,
    earlier_settings,
    identities,
    note_on_place,
    read_config,
    refuse_folder,
    refuse_other_data,
)
from img2img.runtime import peers
from img2img.runtime.device import Runtime, environment
from img2img.runtime.output import stderr_console
from img2img.training.callbacks import Callback
from img2img.training.config import Schedule, StartConfig, flat, groups_of
from img2img.training.finished import evaluate_finished
from img2img.training.loop import Trainer
from img2img.training.run import Run, card_of, facts_of, introduce
from img2img.training.sizes import refuse_wrong_output, refuse_wrong_size, shorten as advice_to_shorten
from img2img.training.start import Start, read_start
from img2img.training.trackers import open_trackers

MAY_DIFFER = {*PATHS, *OPERATIONAL}  # options, between nodes
OF_SCORES = {"metrics", "select", "patience", *(field.name for field in fields(MetricOptions))}


@overload
def train(method: keywords.TranslationMethod, **options: Unpack[keywords.TranslationTraining]) -> Translator: ...
@overload
def train(method: keywords.SamplingMethod, **options: Unpack[keywords.SamplingTraining]) -> Sampler: ...
@overload
def train(method: str, **options: Unpack[keywords.Training]) -> Translator | Sampler: ...
@documented(**{name: groups_of(METHODS[name].Config) for name in PLACES.own})
def train(
    method: str,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    channel_axis: int | None = None,
    callbacks: Sequence[Callback] = (),
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
        callbacks: listeners to the run: objects of classes derived from `img2img.Callback`.
        channel_axis: the axis of the channels in arrays and tensors; by default the last and the third from last.
        **options: the images, and the options below. Methods of two domains take `a` and `b` (folders, or arrays
            (N, H, W[, C]), tensors (N, C, H, W), or lists of arrays, tensors, PIL images and paths), `ab` or `data`;
            the others take `data` (a folder, an idx file or arrays) and, if they need classes, `labels`, or `vectors`
            if they can learn from those. `generator`, `discriminator` and `network` also take a class or function that
            makes such a network (docs/extending.md); it must be passed again to resume the run or to load its model.

    Returns:
        What `img2img.load(out)` returns: a `Translator`, or the `Sampler` of a method that generates from noise.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    with peers.together():
        return _train(method, out, resume, overwrite, quiet, channel_axis, callbacks, options)


def _train(
    method: str,
    out: str | Path | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    channel_axis: int | None,
    callbacks: Sequence[Callback],
    options: dict[str, Any],
) -> Translator | Sampler:
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

    if out is not None:
        refuse_url(Path(out), "--out")
    files = RunFolder(Path(out) if out is not None else default_folder(method, options))
    folder = files.path
    files.refuse_foreign(overwrite)
    saved = None if overwrite else read_config(files)
    before = saved["options"] if saved is not None and saved["method"] == method else {}
    options = named(options, before)
    if saved is not None:
        refuse_absent(str(folder), method, before | options, saved.get("plugins", {}))
    if resume:
        if saved is None or not files.resumable:
            raise ConfigError(f"There is nothing to resume in {folder}: it holds no last.pt. Start without --resume.")
        options = {name: x for name, x in saved["options"].items() if name not in RETIRED} | options
    lengths = {name for name in LENGTH if options.get(name) is not None} & asked
    longer = resume and bool(lengths)
    if longer and "steps" not in lengths:
        options["steps"] = 0  # by --epochs
    options = absolute(options)
    if options.get("init"):
        known = saved["options"].get("init") if saved and files.resumable else None
        options["init"] = absolute_name(str(options["init"]), str(known or ""))
    data_config, train_config, method_config, metrics = split(options, *groups)
    arrays = arrays_of(arrays, channel_axis, data_config.pages) | listed
    for config in (data_config, train_config, method_config):
        refuse_idle(method, asked, config)
    train_config = replace(train_config, batch_size=train_config.batch_size or method_class.batch_size)
    callbacks = [*callbacks, *open_trackers(train_config.track, train_config.tensorboard)]
    unresolved, method_config = method_config, method_class.resolve(method_config, Facts(data_config.size))

    runtime = Runtime.start(train_config.device, train_config.precision)
    peers.meet(runtime)
    record: dict[str, Any] = {
        "method": method,
        "options": flat(data_config, train_config, method_config, metrics),
        "processes": runtime.world_size,
    }
    if packages := packages_of(method, record["options"]):
        record["plugins"] = packages
    defaults = {name: known.default for group in groups for name, known in options_in(group).items()}
    refuse_folder(files, record, defaults, overwrite, longer)

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
    refuse_wrong_output(built, data_config.size)

    other_way = getattr(data_config, "direction", "a2b") == "b2a"
    card = card_of(method, built, opened.train.scales, other_way, data_config.pages)
    fresh = overwrite or not files.resumable
    begin = _start(train_config, built, card(0)) if fresh else None
    begun = {"init": {"from": begin.note, "sha256": begin.digest}} if begin else {}
    if not fresh and saved and saved.get("init"):
        begun = {"init": saved["init"]}
    facts = facts_of(method, built, opened, runtime.world_size, begun["init"]["from"] if begun else "")
    shorter = _earlier_schedule(saved, train_config, built, opened, runtime, folder) if longer and saved else None

    def entry() -> dict[str, Any]:
        saved = refuse_folder(files, record, defaults, overwrite, longer)
        data = identities(opened)
        if saved is not None:
            before = read_report_record(files).facts.images
            refuse_other_data(folder, saved.get("data"), data, facts.images, before)
        made = {"data": data, "command": shlex.join(sys.argv), "environment": environment()}
        return record | begun | made | earlier_settings(files, saved, record)

    _refuse_other_processes(runtime, record, opened, begin)
    with ExitStack() as held:
        if runtime.is_main:
            note = held.enter_context(files.held(entry, overwrite))
            for line in filter(None, (*opened.images.notes, note or note_on_place(folder, options))):
                say(line)
            introduce(method, built, opened, folder, say)
            if begin is not None:
                say(f"starts from {begin.note}")
        runtime.gather(None)  # last.pt is what the run begins with, for every process
        start = "torchrun ... -m " if runtime.world_size > 1 else ""
        hint = f"{start}img2img train {method} --out {shlex.quote(str(folder))} --resume"
        shorten = advice_to_shorten(built, unresolved, data_config.size, train_config, runtime)
        run = Run(files, card, facts, hint, shorten, shorter=shorter)
        samples = opened.train, opened.heldout
        trainer = Trainer(built, *samples, train_config, run, runtime, quiet, metrics, callbacks, begin)
        trained = trainer.run_to_the_end()
        peers.leave()
        if not next(iter(built.uses.values())).source:
            return Sampler(folder, train_config.device, train_config.precision)
        model = Translator(folder, train_config.device, train_config.precision)
        if opened.heldout is not None and runtime.is_main and needs.domains == ("a", "b"):
            evaluate_finished(files, model, opened.heldout, needs.paired, trained, metrics)
        return model


def _start(config: StartConfig, method: Method, card: ModelCard) -> Start | None:
    """Return what a new run starts from; None if from chance alone."""
    if not config.init:
        return None
    with weights_of(config.init, next(iter(card.uses))) as path:
        return read_start(config.init, path, method, card, config.init_only)


def _earlier_schedule(
    saved: dict[str, Any], config: StartConfig, method: Method, opened: Opened, runtime: Runtime, folder: Path
) -> Schedule | None:
    """Return the schedule of a run until now that is made longer; None if its length stays.

    Raises:
        ConfigError: if it would become shorter.
    """
    saved_length = {name: saved["options"][name] for name in LENGTH if name in saved["options"]}
    samples = -(-len(opened.train) // method.draws)
    before, now = (
        Schedule.of(replace(config, **length), method.config.decay, samples, runtime.world_size)
        for length in (saved_length, {})
    )
    if now.steps < before.steps:
        raise ConfigError(
            f"{folder} holds a run of {before.steps} steps, and a resumed run cannot become shorter, as {now.steps} "
            "steps would be. Give a greater length, or another --out for a new run."
        )
    return before if now.steps > before.steps else None


def _refuse_other_processes(runtime: Runtime, record: dict[str, Any], opened: Opened, begin: Start | None) -> None:
    """Raise ConfigError unless all processes train the same method with the same options on the same images, from the
    same weights.
    """
    if runtime.world_size == 1:
        return
    options = {f"--{name.replace('_', '-')}": x for name, x in record["options"].items() if name not in MAY_DIFFER}
    versions = {name: x for name, x in environment().items() if name in ("img2img", "torch")}
    about = {"method": record["method"], "precision": runtime.precision, "device": runtime.device.type}
    peers.agree(runtime, about | versions | options, "give the same command on every node")
    checksums = {f"checksum of {title}": f"{crc32(repr(x).encode()):08x}" for title, x in identities(opened).items()}
    peers.agree(runtime, checksums, "every node needs the same images")
    if begin is not None:
        peers.agree(runtime, {"checksum of --init": begin.digest[:8]}, "every node needs the same weights")
