"""The record of a results folder: the model and the settings, so that missing results are computed the same way."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from img2img.errors import ConfigError, ModelFileError, quote
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.runtime.files import write_json
from img2img.runtime.records import read_record

if TYPE_CHECKING:
    from img2img.model.translator import Translator

RECORD = ".img2img.json"
BY_MACHINE = ("device", "precision", "backend", "threads")  # taken from the record where the user left them open
NOT_SEEN = ("batch_size", "max_megapixels", "overwrite", "report", "n_outputs")  # options that do not affect pixels


@dataclass
class _Record:
    """The settings that results were computed with."""

    options: dict[str, Any]
    precision: Literal["fp32", "bf16"]
    backend: str
    threads: Annotated[int, Interval(ge=1, le=4096)] | None = None
    model: str | None = None
    direction: str | None = None
    label: str | None = None
    device: str | None = None


def resume_record(
    translator: "Translator", out: Path, options: TranslateOptions, files: FolderOptions, resumed: bool
) -> "Translator":
    """Return the translator that computes the way the results in `out` were computed; write the record of a new folder.

    A job is `resumed` if `out` already holds results of it.

    Raises:
        ConfigError: if the existing results come from another model, other options or another device and are not to
            be replaced; or if nothing can be written.
    """
    previous = _read(out)
    current: dict[str, Any] = {
        "model": translator.digest(),
        "direction": translator.direction,
        "options": {k: v for k, v in (asdict(options) | asdict(files)).items() if k not in NOT_SEEN},
    }
    if translator.label is not None:
        current["label"] = translator.label
    if previous is not None and not files.overwrite and _holds_results(out):
        if previous.get("unfinished"):
            raise ConfigError(f"Overwriting the results in {quote(out)} was interrupted; use --overwrite again.")
        translator = _continue(translator, out, previous, current)
        current |= {k: previous.get(k) for k in BY_MACHINE}
    else:
        if previous is None and resumed and not files.overwrite:
            translator.notes.append(f"{out} has no record of how its results were computed; they are kept unchanged.")
        current |= translator.way()
        if files.overwrite and resumed and previous is not None and previous != current:
            current["unfinished"] = True
    if current != previous:
        _write(out, current)
    return translator


def mark_finished(out: Path) -> None:
    """Record that all results that were to be replaced have been."""
    previous = _read(out)
    if previous and previous.pop("unfinished", None):
        _write(out, previous)


def _continue(translator: "Translator", out: Path, previous: dict[str, Any], current: dict[str, Any]) -> "Translator":
    """Return the translator with the precision, backend and threads of the existing results.

    Raises:
        ConfigError: if they were computed with another model, other options or another device.
    """
    device, precision = translator.asked
    old, new = dict(previous.get("options", {})), dict(current["options"])
    for name in ("direction", "label"):
        old[name], new[name] = previous.get(name), current.get(name)
    for name, value in {"precision": precision, "backend": translator.backend}.items():
        old[name], new[name] = previous.get(name), previous.get(name) if value == "auto" else value
    differences = [f"{k} was {old.get(k)}, now {new.get(k)}" for k in new if k in old and old[k] != new[k]]
    if previous.get("model") != current["model"]:
        differences.insert(0, "the model is another")
    device_name = translator.device_name()
    if previous.get("device") != device_name and device == "auto":
        differences.append(f"device was {previous.get('device')}, now {device_name}")
    if differences:
        raise ConfigError(
            f"The results in {quote(out)} were computed differently: {'; '.join(differences)}. "
            "Use --overwrite to replace them, or choose another --out."
        )
    if previous.get("device") != device_name:
        translator.notes.append(
            f"The existing results were computed on {previous.get('device')}; rounding differs on {device_name}."
        )
    threads = previous.get("threads") if device_name == "cpu" else None
    return translator.by_way_of(previous["precision"], previous["backend"], threads)


def _holds_results(out: Path) -> bool:
    return any(not name.startswith(".") for _, _, names in os.walk(out) for name in names)


def _read(out: Path) -> dict[str, Any] | None:
    path = out / RECORD
    if not path.exists():
        return None
    try:
        return read_record(_Record, path)
    except ModelFileError as error:
        raise ConfigError(
            f"{quote(path)} is damaged, or the record of another command; choose another --out, or delete it together "
            "with the results in its folder."
        ) from error


def _write(out: Path, record: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RECORD, record)
    except OSError as error:
        raise ConfigError(
            f"{quote(out)} cannot be written: {error.strerror or error}; choose another --out."
        ) from error
