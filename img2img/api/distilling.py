"""`distill`: from a trained model to a small one that imitates it. The command line calls the same function."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from img2img.api.training import train
from img2img.core.method import Image
from img2img.core.needs import Needs
from img2img.data.images import FORMATS, write_image
from img2img.data.options import ImagesConfig, data_options
from img2img.data.picture import Array, Picture
from img2img.data.samples import HeldOut, Opened, Samples, open_samples
from img2img.errors import ConfigError
from img2img.methods import METHODS
from img2img.model.hub import is_on_hub, short_name
from img2img.model.plugged import named
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, options_in, pick, split
from img2img.options.docstrings import documented
from img2img.runs.folder import RunFolder
from img2img.runs.sameness import PATHS, read_config
from img2img.runtime import peers
from img2img.runtime.files import atomic
from img2img.runtime.output import stderr_console
from img2img.runtime.progress import Meter
from img2img.training.config import DistillConfig, groups_of_student

GROUPS = groups_of_student(METHODS["pix2pix"].Config)
LIKE_TEACHER = ("generator", "norm", "padding", "upsample", "discriminator", "d_width")  # options, if not given
AT_ONCE = 16  # images in memory
SUFFIXES = (".png", ".tif", ".npy")  # of pairs: the first format that can hold them
RECORD = "distilled.json"
FOLDERS = ("trainA", "trainB", "testA", "testB")
NUMBERED = re.compile(r"\d{6,}\.(png|tif|npy)")


@documented(*GROUPS)
def distill(
    run: str | Path,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Unpack[keywords.Distilling],
) -> Translator:
    """Train a thin generator to imitate a trained one, on the images that it was trained on.

    The teacher translates samples of its own training, cut and augmented as they were there, and pix2pix learns these
    pairs: L1 to the teacher's output, and a discriminator that tells the two apart (the simplest form of Li et al.,
    "GAN Compression", CVPR 2020). The result is an ordinary model of pix2pix. The same call on the same `out` resumes.

    Args:
        run: the folder of a run, or a model file, here or on a hub, and `images`.
        out: the run folder of the student; by default that of the run, or `checkpoints/NAME` of a model on a hub, and
            `_distilled`. The pairs are written beside it, into `OUT_pairs`, and may be deleted afterwards.
        overwrite: make pairs and run anew, whatever there is of an earlier call.
        quiet: show no progress.
        **options: see Options below.

    Returns:
        The student.

    Raises:
        ConfigError: if the model takes a class or noise, its images are unknown, or `out` holds something else.
    """
    with peers.together():
        return _distill(run, out, overwrite, quiet, options)


def _distill(
    run: str | Path, out: str | Path | None, overwrite: bool, quiet: bool, options: Mapping[str, Any]
) -> Translator:
    check_names("distill", options, *GROUPS)
    options = named(options, {})
    what, training, student, _ = split(options, *GROUPS)
    teacher = Translator(run, training.device, direction=what.direction)
    if [type(x) for x in teacher.use().inputs] != [Image]:
        method = teacher.card.method
        raise ConfigError(f"{method} translates by a class or by noise; distill imitates models of images alone.")
    folder = Path("checkpoints") / short_name(run) if is_on_hub(run) else teacher.path.parent
    if is_on_hub(run) and what.images is None:
        raise ConfigError(f"{run} comes without its images; say on which to imitate it, with --images.")
    opened, domain = _open(folder, what.images, teacher)
    target = Path(out) if out is not None else folder.with_name(f"{folder.resolve().name}_distilled")
    pairs = target.with_name(f"{target.name}_pairs")
    RunFolder(target).refuse_foreign(overwrite)

    def make_pairs() -> None:
        _take(pairs, _record(teacher, opened, domain, what.pairs), overwrite)
        with closing(Meter(stderr_console(quiet), "pairs", first=0)) as meter:
            _write_pairs(pairs, teacher, opened, domain, what.pairs, meter.advance)

    peers.first_alone(teacher.runtime, make_pairs)

    settings = {"dropout": student.dropout, "width": student.width, "epochs": training.epochs}
    settings |= {name: teacher.card.config[name] for name in LIKE_TEACHER if name in teacher.card.config}
    settings |= {name: x for name, x in options.items() if name not in options_in(DistillConfig)}
    if student.generator == "auto":
        settings["generator"] = teacher.card.config.get("generator", "auto")
    needless = {name for name, _ in replace(student, generator=settings["generator"]).idle()} - options.keys()
    settings = {name: x for name, x in settings.items() if name not in needless}
    model: Translator = train(
        "pix2pix",
        out=target,
        overwrite=overwrite,
        quiet=quiet,
        **settings | {"data": pairs, "size": opened.train.config.size, "augment": "none"},
    )
    return model


def _open(folder: Path, images: str | None, teacher: Translator) -> tuple[Opened, str]:
    """Open the images of a run, or those in the folder `images`; return them and the teacher's domain among them."""
    if images is not None:
        return open_samples(Needs(("image",)), ImagesConfig(images, teacher.card.size or 256)), "image"
    files = RunFolder(folder)
    saved = read_config(files) if files.config.exists() else None
    if saved is None or not any(saved["options"].get(name) for name in PATHS):
        what = "is not the folder of a run" if saved is None else "was trained on arrays"
        raise ConfigError(f"{folder} {what}; say on which images to imitate the model, with --images.")
    needs, before = METHODS[saved["method"]].Config.needs, saved["options"]
    config = data_options(needs)(**pick(before, data_options(needs)))
    return open_samples(needs, config, before.get("seed", 0)), teacher.use().source


def _record(teacher: Translator, opened: Opened, domain: str, count: int) -> dict[str, Any]:
    """Return what the pairs depend on."""
    config, images = opened.train.config, {"train": opened.train.domains[domain].identity()}
    if opened.heldout is not None:
        images["test"] = opened.heldout.domains[domain].identity()
    return {
        "model": teacher.digest(), "direction": teacher.direction, "images": images, "pairs": count,
        "precision": teacher.way()["precision"], "size": config.size,
        "augment": config.augment, "seed": opened.train.seed,
    }  # fmt: skip


def _take(pairs: Path, record: dict[str, Any], overwrite: bool) -> None:
    """Begin the folder of the pairs, or go on with it; refuse one that holds others."""
    file = pairs / RECORD
    if file.is_file() and overwrite:
        for image in (x for folder in FOLDERS for x in (pairs / folder).glob("*") if NUMBERED.fullmatch(x.name)):
            image.unlink()
    elif file.is_file():
        if file.read_text(encoding="utf-8") != _text(record):
            raise ConfigError(
                f"{pairs} holds pairs of another model, of other images or in another number. Use --overwrite, "
                "or another --out."
            )
        return
    elif pairs.exists() and (not pairs.is_dir() or any(pairs.iterdir())):
        raise ConfigError(f"{pairs}, where the pairs would go, holds something else; choose another --out.")
    pairs.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        temporary.write_text(_text(record), encoding="utf-8")


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"


def _write_pairs(
    pairs: Path, teacher: Translator, opened: Opened, domain: str, count: int, progress: Callable[[int, int], None]
) -> None:
    """Write `count` training pairs, and one of each held-out image, except those that are there."""
    parts: list[tuple[str, Samples | HeldOut, int]] = [("train", opened.train, count)]
    if opened.heldout is not None:
        parts.append(("test", opened.heldout, len(opened.heldout.domains[domain])))
    total, done = sum(n for *_, n in parts), 0
    for part, samples, n in parts:
        folders = [pairs / f"{part}{side}" for side in "AB"]
        for begin in range(0, n, AT_ONCE):
            numbers = range(begin, min(n, begin + AT_ONCE))
            missing = [i for i in numbers if not any((folders[1] / f"{i:06}{suffix}").exists() for suffix in SUFFIXES)]
            inputs = [opened.train.scales[domain].decode(samples[i][domain]) for i in missing]
            for i, *images in zip(missing, inputs, teacher(inputs) if inputs else [], strict=True):
                suffix = _format(images)
                for folder, image in zip(folders, images, strict=True):
                    write_image(folder / f"{i:06}{suffix}", Picture(image))
            done += len(numbers)
            progress(done, total)


def _format(images: Sequence[Array]) -> str:
    fitting = (s for s in SUFFIXES if not any(FORMATS[s].lacks(Picture(image)) for image in images))
    return next(fitting)
