"""The record of a folder of results: which model made them, and how, so that what is missing is computed likewise."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from img2img.data.images import atomic
from img2img.data.picture import quote
from img2img.errors import ConfigError, ModelFileError
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.model.translator import Translator
from img2img.runtime.records import read_record

RECORD = ".img2img.json"
BY_MACHINE = ("device", "precision", "backend", "threads")  # what was not asked for is taken from the record
NOT_SEEN = ("batch_size", "max_megapixels", "overwrite", "report")  # options that pixels do not depend on


@dataclass
class _Record:
    """What a record says of how results were computed."""

    options: dict[str, Any]
    precision: Literal["fp32", "bf16"]
    backend: str
    threads: Annotated[int, Interval(ge=1, le=4096)] | None = None
    model: str | None = None
    direction: str | None = None
    device: str | None = None


def resume_record(
    translator: Translator, out: Path, options: TranslateOptions, files: FolderOptions, resumed: bool
) -> Translator:
    """The translator that computes as the results in `out` were computed; writes the record of a new folder.

    Args:
        translator: as it was loaded.
        out: the folder of results.
        options: how images go through the model.
        files: how they are written.
        resumed: whether results of this job are there already.

    Raises:
        ConfigError: if the results there are of another model, of other options or of another device, and are not
            to be replaced; or if nothing can be written.
    """
    known = _read(out)
    wanted: dict[str, Any] = {
        "model": translator.digest(),
        "direction": translator.direction,
        "options": {k: v for k, v in (asdict(options) | asdict(files)).items() if k not in NOT_SEEN},
    }
    if known is not None and not files.overwrite and _holds_results(out):
        if known.get("unfinished"):
            raise ConfigError(f"An --overwrite of the results in {quote(out)} was stopped; give --overwrite again.")
        translator = _continue(translator, out, known, wanted)
        wanted |= {k: known.get(k) for k in BY_MACHINE}
    else:
        if known is None and resumed and not files.overwrite:
            translator.notes.append(f"{out} has no record of how its results were computed; they are kept as they are.")
        wanted |= translator.way()
        if files.overwrite and resumed and known is not None and known != wanted:
            wanted["unfinished"] = True
    if wanted != known:
        _write(out, wanted)
    return translator


def mark_finished(out: Path) -> None:
    """Notes that everything that was to be replaced is."""
    known = _read(out)
    if known and known.pop("unfinished", None):
        _write(out, known)


def _continue(translator: Translator, out: Path, known: dict[str, Any], wanted: dict[str, Any]) -> Translator:
    device, precision, backend = translator.asked
    old, new = dict(known.get("options", {})), dict(wanted["options"])
    old["direction"], new["direction"] = known.get("direction"), wanted["direction"]
    asked = {"precision": precision, "backend": backend}
    for name, value in asked.items():
        old[name], new[name] = known.get(name), known.get(name) if value == "auto" else value
    differing = [f"{k} was {old.get(k)}, now {new.get(k)}" for k in new if k in old and old[k] != new[k]]
    if known.get("model") != wanted["model"]:
        differing.insert(0, "they are of another model")
    here = translator.device_name()
    if known.get("device") != here and device == "auto":
        differing.append(f"device was {known.get('device')}, now {here}")
    if differing:
        raise ConfigError(
            f"The results in {quote(out)} were computed otherwise: {'; '.join(differing)}. "
            "Replace them with --overwrite, or give another --out."
        )
    if known.get("device") != here:
        translator.notes.append(f"The results that were there are of {known.get('device')}; rounding differs here.")
    threads = known.get("threads") if here == "cpu" else None
    return translator.by_way_of(known["precision"], known["backend"], threads)


def _holds_results(out: Path) -> bool:
    return any(not name.startswith(".") for _, _, names in os.walk(out) for name in names)


def _read(out: Path) -> dict[str, Any] | None:
    path = out / RECORD
    if not path.exists():
        return None
    try:
        return read_record(_Record, path)
    except ModelFileError as error:
        raise ConfigError(f"{quote(path)} is damaged; remove it, and the results of the folder with it.") from error


def _write(out: Path, record: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with atomic(out / RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(
            f"{quote(out)} cannot be written: {error.strerror or error}; choose another --out."
        ) from error
