"""What people import: `train`, `load`, `translate`. The command line calls the same functions."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from img2img.core.game import Method
from img2img.data.images import atomic
from img2img.data.opening import LAYOUTS, Opened
from img2img.data.scale import Scale
from img2img.data.stream import auto_workers
from img2img.errors import ConfigError, ModelFileError, TrainingError, choose
from img2img.evaluation.evaluate import keep
from img2img.evaluation.evaluator import Evaluator
from img2img.evaluation.options import EvaluateOptions
from img2img.evaluation.sides import Sides
from img2img.inference import engine
from img2img.inference.engine import Outcome, Summary, write_report
from img2img.inference.options import (
    FolderOptions,
    LoadOptions,
    SampleLoadOptions,
    SampleOptions,
    TranslateOptions,
)
from img2img.inference.sampling import Sampler, write_samples
from img2img.inference.translator import Translator
from img2img.methods import METHODS
from img2img.metrics.options import MetricOptions
from img2img.options import check_names, given, split
from img2img.runtime import Runtime, environment
from img2img.training.checkpoint import Direction, ModelCard
from img2img.training.config import OPERATIONAL, TrainConfig, check, flat
from img2img.training.loop import Run, train as run_training
from img2img.training.validation import IMAGES as VALIDATION_IMAGES

PATHS = ("a", "b", "ab", "data")
NOISE = Scale(-1, 1, "float32")  # what goes into a generator that draws from noise


def train(
    method: str, *, out: str | Path | None = None, resume: bool = False, quiet: bool = False, **options: Any
) -> Translator | Sampler:
    """Trains a method on folders of images, or on arrays, and returns the trained model.

    The same call on the same `out` goes on where a stopped run was, bit-equal to a run that was never stopped.

    Args:
        method: "cyclegan" or "pix2pix"; or of those that draw from noise "gan", "dcgan", "wgan" or "wgan_gp".
        out: the run folder; by default `checkpoints/METHOD_NAMES-OF-THE-DATA`.
        resume: demand a run to go on from. Options left out are then taken from it, the data included.
        quiet: no progress on the screen.
        **options: the images, as `a` and `b` (folders, or arrays (N, H, W[, C]) or lists of arrays), `ab` or `data`,
            which for the methods that draw from noise is a folder, an idx file or arrays; and every option of
            `img2img train METHOD --help`, with underscores.

    Returns:
        What `img2img.load(out)` returns; of a method that draws from noise, a `Sampler`.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    method_class = choose("method", method, METHODS)
    layout, groups = LAYOUTS[method_class.layout], options_of(method_class)
    check_names(method, options, *groups)
    arrays = {k: options.pop(k) for k in PATHS if not isinstance(options.get(k, ""), str | Path | None)}
    if wrong := [name for name in arrays if name not in layout.arrays]:
        raise ConfigError(f"{method} takes arrays as {' and '.join(layout.arrays)}, not as {wrong[0]}.")
    options = {k: str(v) if k in PATHS and v is not None else v for k, v in options.items()}

    folder = Path(out) if out is not None else _default_folder(method, options)
    saved = _read_config(folder)
    if resume:
        if saved is None or not (folder / "last.pt").exists():
            raise ConfigError(f"There is nothing to resume in {folder}: it holds no last.pt. Start without --resume.")
        options = saved["options"] | options
    data_config, train_config, method_config, *others = split(options, *groups)
    if data_config.size < layout.smallest:
        raise ConfigError(f"--size must be at least {layout.smallest}, not {data_config.size}.")
    train_config = replace(train_config, batch_size=train_config.batch_size or method_class.batch_size)
    method_config = method_class.resolve(method_config, data_config.size)
    check(train_config, method_config.decay)

    runtime = Runtime.start(train_config.device, train_config.precision)
    record = {
        "method": method,
        "options": flat(data_config, train_config, method_config, *others),
        "processes": runtime.world_size,
    }
    if saved is not None and (folder / "last.pt").exists():
        _refuse_other_config(folder, saved, record)

    shared = (train_config.workers if train_config.workers >= 0 else auto_workers(runtime.device)) > 0
    opened = layout.open(data_config, method_class.layout == "pairs", train_config.seed, shared, **arrays)
    torch.manual_seed(train_config.seed)
    built = method_class(method_config, opened.train.channels)
    if method_class.layout != "images":
        _refuse_wrong_size(built, data_config.size)

    if runtime.is_main:
        _start_folder(folder, record)
        if not quiet:
            _introduce(method, built, opened, folder)
    hint = f"img2img train {method} --out {shlex.quote(str(folder))} --resume"
    run = Run(folder, _card_of(method, built, opened, data_config), _facts(record, opened), hint)
    trained = run_training(built, opened.train, opened.heldout, train_config, run, runtime, quiet, *others)
    if method_class.layout == "images":
        return Sampler(folder, train_config.device, train_config.precision)
    model = Translator(folder, train_config.device, train_config.precision)
    if trained and opened.heldout is not None and runtime.is_main:
        _evaluate(model, folder, opened, method_class.layout == "pairs", *others)
    return model


def options_of(method: type[Method]) -> tuple[type, ...]:
    """The dataclasses that hold the options of training a method."""
    translates = method.layout != "images"
    return (LAYOUTS[method.layout].Config, TrainConfig, method.Config, *(MetricOptions,) * translates)


def _evaluate(model: Translator, folder: Path, opened: Opened, paired: bool, options: MetricOptions) -> None:
    """Scores a finished run on some of its held-out images, for the report; `img2img evaluate` takes all of them."""
    held = opened.heldout
    assert held is not None
    sides = Sides.held_out((held.a, held.b), held.config, paired, folder, EvaluateOptions(limit=VALIDATION_IMAGES))
    evaluator = Evaluator.for_model(model, sides, options=options)
    try:
        keep(folder, evaluator, model, evaluator.of_model(model))
    except OSError as error:
        raise TrainingError(f"Trained, but {folder} does not take the evaluation: {error.strerror}.") from error


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    direction: str | None = None,
    backend: str = "auto",
) -> Translator:
    """Opens a model file, or the newest model of a run folder, for use. Executes nothing of the file.

    Args:
        path: a `.safetensors` file of img2img, or a run folder.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto", "fp32" or "bf16"; auto is bf16 for 8-bit models where the hardware multiplies it and the
            first image comes out close enough to fp32.
        direction: the direction to translate in; by default the model's first.
        backend: what runs the network: "auto", "eager", "compile" or "openvino".

    Raises:
        ModelFileError: if there is no readable model.
        ConfigError: if the model has no such direction.
    """
    return Translator(Path(path), device, precision, direction, backend)


def sample(
    model: str | Path | Sampler,
    n: int = 64,
    *,
    out: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Any:
    """Draws images with a model that draws from noise.

    Args:
        model: a model, or the path of one.
        n: how many images.
        out: a folder to write them into, one file each; those that are there already are kept. None: they are
            returned.
        progress: called with the images written, and all there are.
        **options: as in `img2img sample --help`, with underscores.

    Returns:
        The images, (n, H, W, C) in the type of the training images; or with `out`, a `Written` with its counts.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    check_names("sampling", options, SampleLoadOptions, SampleOptions)
    loading = {k: options.pop(k) for k in ("device", "precision") if k in options}
    if not isinstance(model, Sampler):
        model = Sampler(Path(model), **loading)
    elif loading:
        raise ConfigError(f"{', '.join(loading)}: chosen where the model is loaded, which this one is already.")
    (chosen,) = split(options, SampleOptions)
    if out is None:
        return model(n, chosen.seed, batch_size=chosen.batch_size)
    return write_samples(model, n, Path(out), chosen, progress)


def translate(
    model: str | Path | Translator,
    source: str | Path,
    out: str | Path,
    *,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    **options: Any,
) -> Summary:
    """Translates a folder of images, or one file, into the folder `out`, mirrored with the same names and formats.

    Args:
        model: a model, or the path of one.
        progress: called with what happened to each file.
        **options: as in `img2img translate --help`, with underscores.
    """
    begin, summary = time.perf_counter(), Summary()
    model = _model_for(model, options)
    going, files = split(options, TranslateOptions, FolderOptions)
    if files.report:
        write_report(Path(files.report), model, summary)  # that it can be written should not turn out at the end
    job = engine.Job.open(model, Path(source), Path(out), going, files)
    summary.computed = job.translator.describe()
    for outcome in job.run():
        summary.add(outcome)
        summary.seconds = time.perf_counter() - begin
        progress(outcome)
    if files.report:
        write_report(Path(files.report), model, summary)
    return summary


def translate_folder(
    model: str | Path | Translator, source: str | Path, out: str | Path, **options: Any
) -> Iterator[Outcome]:
    """The same as `translate`, as an iterator over what happens to each file, for progress of one's own."""
    model = _model_for(model, options)
    going, files = split(options, TranslateOptions, FolderOptions)
    return engine.translate_folder(model, Path(source), Path(out), going, files)


def _model_for(model: str | Path | Translator, options: dict[str, Any]) -> Translator:
    """`model`, loaded as `options` say."""
    check_names("translating", options, LoadOptions, TranslateOptions, FolderOptions)
    loading = given(options, LoadOptions)
    if not isinstance(model, Translator):
        return load(model, **loading)
    direction = loading.pop("direction", None)
    if loading:
        raise ConfigError(f"{', '.join(loading)}: chosen where the model is loaded, which this one is already.")
    return model.towards(direction) if direction else model


def _default_folder(method: str, options: dict[str, Any]) -> Path:
    given = [Path(options[name]) for name in PATHS if options.get(name)]
    names = [path.resolve().parent.name if path.name.startswith("train") else path.resolve().name for path in given]
    return Path("checkpoints") / "_".join([method, *dict.fromkeys(names)])


def _read_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError:
        raise ModelFileError(f"{path} is damaged; restore it, or train into another --out.") from None
    return record


def _refuse_other_config(folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A run goes on with the options it was started with, or not at all."""

    def settings(record: dict[str, Any]) -> dict[str, Any]:
        fixed = {k: v for k, v in record["options"].items() if k not in OPERATIONAL}
        return {"method": record["method"], "processes": record["processes"], **fixed}

    old, new = settings(saved), settings(wanted)
    differing = [f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in old | new if old.get(k) != new.get(k)]
    if differing:
        raise ConfigError(
            f"{folder} holds a run with other options: {'; '.join(differing)}. "
            "Give the same options to go on with it, or another --out for a new run."
        )


def _refuse_wrong_size(method: Method, size: int) -> None:
    for _, _, attribute in method.generators.values():
        multiple = getattr(method, attribute).multiple
        if size % multiple:
            name = method.config.generator
            nearest = max(round(size / multiple), 1) * multiple
            raise ConfigError(
                f"--size {size} does not suit {name}, which needs multiples of {multiple}. "
                f"Use --size {nearest}, or --generator resnet_6."
            )
    smallest = max(getattr(network, "min_size", 1) for network in method.networks().values())
    if size < smallest:
        raise ConfigError(
            f"The discriminator {method.config.discriminator} needs images of at least {smallest} px, not {size}. "
            "Use a larger --size, or a --discriminator with a smaller receptive field."
        )


def _start_folder(folder: Path, record: dict[str, Any]) -> None:
    """Makes the run folder and writes config.json, or says why it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in folder.glob(".*.part*"):
            left_by_a_kill.unlink()
        entry = record | {"command": shlex.join(sys.argv), "environment": environment()}
        with atomic(folder / "config.json") as temporary:
            temporary.write_text(json.dumps(entry, indent=2) + "\n")
    except OSError as error:
        raise TrainingError(f"Cannot write into {folder}: {error.strerror}. Choose another --out.") from error


def _card_of(method: str, built: Method, opened: Opened, config: Any) -> Callable[[int], ModelCard]:
    channels, scales, directions = built.channels, opened.train.scales, {}
    for name, (source, target, _) in built.generators.items():
        spec = Direction(channels[source], channels[target], scales.get(source, NOISE), scales[target])
        directions[config.direction if built.layout == "pairs" else name] = spec
    options = flat(built.config)

    def card(step: int) -> ModelCard:
        return ModelCard(method, options, directions, config.size, step, environment()["img2img"])

    return card


def _facts(record: dict[str, Any], opened: Opened) -> dict[str, Any]:
    return {
        "method": record["method"],
        "training images": opened.counts,
        "held-out images": opened.held or "none",
        "options": ", ".join(f"{k} {v}" for k, v in record["options"].items() if v is not None),
        "started": time.strftime("%Y-%m-%d %H:%M"),
        "on": f"{environment()['system']}, torch {environment()['torch']}",
        "processes": record["processes"],
    }


def _introduce(method: str, built: Method, opened: Opened, folder: Path) -> None:
    from rich.console import Console

    say = partial(Console(stderr=True, highlight=False).print, markup=False, soft_wrap=True)
    for note in opened.notes:
        say(note)
    held = f", held out {opened.held}" if opened.held else ", none held out" if built.layout != "images" else ""
    say(f"{method}: {opened.counts}{held}; run folder {folder}")
    if not opened.train.cached:
        say("The decoded images do not fit into --cache-mb and are read from disk each time.")
    millions = ", ".join(
        f"{n} {sum(p.numel() for p in m.parameters()) / 1e6:.1f} M" for n, m in built.networks().items()
    )
    say(f"parameters: {millions}")
