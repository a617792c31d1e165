"""The record of a folder of results: what made them, so that missing ones are made in the same way, on any machine."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from img2img.errors import ConfigError, ModelFileError, counted, quote
from img2img.model.options import BACKENDS, FolderOptions, TranslateOptions
from img2img.model.plan import Plan
from img2img.runtime.files import create_json, json_object, write_json
from img2img.runtime.records import read_record

if TYPE_CHECKING:
    from img2img.model.model import Model
    from img2img.model.translator import Translator

RECORD, UNFINISHED = ".img2img.json", "unfinished"  # the file, and its mark while results are being replaced
BY_MACHINE = ("device", "processor", "software", "precision", "backend", "threads")  # taken over from the record
# options that do not affect pixels
NOT_SEEN = ("batch_size", "max_megapixels", "overwrite", "report", "files", "shard", "n_outputs")
FOLLOWED = (*BACKENDS, "fp32", "bf16")  # and not a backend that was offered once
TRIES = 10  # to write the first record of a folder that others write into


@dataclass
class _Record:
    """The settings that results were computed with; None where an older version did not record them."""

    options: dict[str, Any]
    precision: Literal["fp32", "bf16"]
    backend: str
    threads: Annotated[int, Interval(ge=1, le=4096)] | None = None
    model: str | None = None
    direction: str | None = None
    label: str | None = None
    device: str | None = None
    processor: str | None = None
    software: str | None = None


def resume_record(
    translator: "Translator", plan: Plan, options: TranslateOptions, files: FolderOptions
) -> tuple["Translator", dict[str, Any]]:
    """Return the translator that computes as the results in the plan's folder were computed, and the record of them.

    Of several processes that begin a folder at once, on any machines, one decides how.

    Raises:
        ConfigError: if the existing results come from another model, other options or another machine and are not all
            to be replaced; or if nothing can be written.
    """
    out = plan.out
    current: dict[str, Any] = {
        "model": translator.digest(),
        "direction": translator.direction,
        "options": {k: v for k, v in (asdict(options) | asdict(files)).items() if k not in NOT_SEEN},
    }
    if translator.label is not None:
        current["label"] = translator.label
    for _ in range(TRIES):
        previous = _read(out)
        if previous is None:
            if not files.overwrite and plan.begun():
                note = f"{out} has no record of how its results were computed; they are kept unchanged."
                translator.notes.append(note)
            if _create(out, fresh := current | translator.way()):
                return translator, fresh
        elif files.overwrite:
            return translator, _replace(translator, plan, previous, current, in_parts=files.shard is not None)
        elif previous.get(UNFINISHED):
            raise ConfigError(f"Overwriting the results in {quote(out)} was interrupted; use --overwrite again.")
        else:
            return _continue(translator, plan, previous, current)
    raise ConfigError(f"{quote(out / RECORD)} comes and goes; end the other commands that use the folder.")


def join_record(translator: "Translator", out: Path, record: Mapping[str, Any]) -> "Translator":
    """Return the translator that computes as the record of a job says, in a process that helps with the job.

    Raises:
        ConfigError: if the machine rounds differently, or does not see the folder of the results.
    """
    notes = worker_remarks(translator, out / RECORD, record)
    refuse_taken(out, record)
    translator.notes += notes
    return _by_way_of(translator, record)


def worker_remarks(model: "Model", path: Path, record: Mapping[str, Any]) -> list[str]:
    """Return what there is to say of how a process rounds that helps with the job whose record is in `path`.

    Raises:
        ConfigError: if the machine rounds differently, or does not see the folder of the results.
    """
    node, out = quote(platform.node()), quote(path.parent)
    if not path.exists():
        raise unseen(out)
    of_machine, remarks = compare_machines(model, record)
    if of_machine:
        raise ConfigError(
            f"A worker on {node} would compute differently than the results in {out}: {'; '.join(of_machine)}. Start "
            "the job on a machine like the workers, or accept other rounding with an explicit --device."
        )
    return [f"Results of {node} may be rounded differently: {words}." for words in remarks]


def unseen(out: str) -> ConfigError:
    """Return the error of a process that helps with a job and does not see the folder of its results."""
    return ConfigError(
        f"A worker on {quote(platform.node())} does not see {out}; INPUT and --out must be on a disk that all machines "
        "share."
    )


def refuse_taken(out: Path, record: Mapping[str, Any], name: str = RECORD) -> None:
    """Raise ConfigError if another command has begun to write other results into a folder."""
    path = out / name
    found = json_object(path.read_bytes()) if path.exists() else record
    if any(found.get(name) != record[name] for name in record if name != UNFINISHED):
        raise ConfigError(
            f"Another command has begun to write other results into {quote(out)}; give each an --out of its own."
        )


def mark_finished(out: Path) -> None:
    """Record that all results that were to be replaced have been."""
    previous = _read(out)
    if previous and previous.pop(UNFINISHED, None):
        _write(out, previous)


def _replace(
    translator: "Translator", plan: Plan, previous: dict[str, Any], current: dict[str, Any], in_parts: bool
) -> dict[str, Any]:
    """Return the record of a job that overwrites results: all of them, if they were computed differently.

    Raises:
        ConfigError: if others would stay beside them.
    """
    differences = _differences(translator, previous, current) + compare_machines(translator, previous)[0]
    if differences or previous.get(UNFINISHED):
        why = "; ".join(differences) or "overwriting them was interrupted"
        kept, example = plan.others(in_parts)
        if example:
            raise ConfigError(
                f"{quote(plan.out)} holds {counted(kept, 'result', 'results')} that were computed differently and "
                f"{'that one shard cannot replace' if in_parts else 'that this job does not replace'}, e.g. "
                f"{quote(example)}: {why}. Move or delete them, or choose another --out."
            )
    current = current | translator.way()
    if previous != current and plan.begun():
        current[UNFINISHED] = True
    if previous != current:
        _write(plan.out, current)
    return current


def _continue(
    translator: "Translator", plan: Plan, previous: dict[str, Any], current: dict[str, Any]
) -> tuple["Translator", dict[str, Any]]:
    """Return the translator with the precision, backend and threads of the existing results, and their record.

    Raises:
        ConfigError: if they were computed with another model, other options or on another machine.
    """
    out, differences = plan.out, _differences(translator, previous, current)
    if differences and next(plan.results(), None) is None:  # a job that made nothing leaves the folder free
        current = current | translator.way()
        _write(out, current)
        return translator, current
    of_machine, remarks = compare_machines(translator, previous)
    if differences or of_machine:
        accepting = f", or accept other rounding with --device {translator.runtime.device.type}"
        raise ConfigError(
            f"The results in {quote(out)} were computed differently: {'; '.join(differences + of_machine)}. "
            f"Use --overwrite to replace them, or choose another --out{accepting * (not differences)}."
        )
    translator.notes += [f"The existing results may be rounded differently: {words}." for words in remarks]
    current = current | {name: previous.get(name) for name in BY_MACHINE}
    if current != previous:  # an older version recorded less
        _write(out, current)
    return _by_way_of(translator, previous), current


def _by_way_of(translator: "Translator", record: Mapping[str, Any]) -> "Translator":
    threads = record.get("threads") if translator.runtime.device.type == "cpu" else None
    return translator.by_way_of(record["precision"], record["backend"], threads)


def _differences(translator: "Translator", previous: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Return the differences between two jobs, of the model and of what was asked for."""
    old, new = dict(previous.get("options", {})), dict(current["options"])
    for name in ("direction", "label"):
        old[name], new[name] = previous.get(name), current.get(name)
    for name, value in {"precision": translator.asked[1], "backend": translator.backend}.items():
        old[name] = recorded = previous.get(name)
        new[name] = recorded if value == "auto" and recorded in FOLLOWED else value
    differences = [f"{k} was {old.get(k)}, now {new.get(k)}" for k in new if k in old and old[k] != new[k]]
    return ["the model is another"] * (previous.get("model") != current["model"]) + differences


def compare_machines(model: "Model", previous: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return how this machine differs from the one in a record: reasons to refuse it, and remarks.

    Another device or processor rounds differently, and is refused unless the device was asked for by name.
    """
    here = model.machine()
    changed = [name for name in ("device", "processor") if previous.get(name) not in (None, here[name])]
    found = [f"{name} was {previous[name]}, now {here[name]}" for name in changed[:1]]
    refused, remarks = (found, []) if model.asked[0] == "auto" else ([], found)
    if previous.get("software") not in (None, here["software"]):
        remarks = [*remarks, f"software was {previous['software']}, now {here['software']}"]
    return refused, remarks


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
        write_json(out / RECORD, record)
    except OSError as error:
        raise _unwritable(out, error) from error


def _create(out: Path, record: dict[str, Any]) -> bool:
    try:
        out.mkdir(parents=True, exist_ok=True)
        return create_json(out / RECORD, record)
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{quote(out)} cannot be written: {error.strerror or error}; choose another --out.")
