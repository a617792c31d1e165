"""Where a run may be written, and whether a resumed one has the options and the images that it began with."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from img2img.data.remote import URL
from img2img.data.samples import Opened
from img2img.errors import ConfigError, counted
from img2img.runs.facts import in_words
from img2img.runs.folder import RunFolder, step_of
from img2img.runs.record import OPERATIONAL, RETIRED, RunRecord
from img2img.runtime.records import read_record

LENGTH = ("steps", "epochs")  # options
PATHS = ("a", "b", "ab", "data", "labels", "vectors")  # options that name files or folders


def default_folder(method: str, options: Mapping[str, Any]) -> Path:
    """Return the folder of a run that was given none: named after its method and its data."""
    given = [Path(options[name]) for name in PATHS if options.get(name)]
    names = [path.resolve().parent.name if path.name.startswith("train") else path.resolve().name for path in given]
    return Path("checkpoints") / "_".join([method, *dict.fromkeys(names)])


def absolute(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with absolute paths, in which a link stays a link: a run must not depend on where it started."""
    given = {name: options[name] for name in PATHS if name in options}
    return {**options, **{name: os.path.abspath(x) if x else None for name, x in given.items()}}  # noqa: PTH100


def note_on_place(folder: Path, options: Mapping[str, Any]) -> str:
    """Return a note for the user if a run lies inside its data; otherwise ""."""
    around = [options[name] for name in PATHS if options.get(name)]
    found = next((place for place in around if folder.resolve().is_relative_to(Path(place).resolve())), None)
    return f"The run folder lies inside {found}; images in it are not used for training." if found else ""


def read_config(files: RunFolder) -> dict[str, Any] | None:
    """Return the content of config.json; None if there is none."""
    return read_record(RunRecord, files.config) if files.config.exists() else None


def refuse_folder(
    files: RunFolder, record: dict[str, Any], defaults: Mapping[str, Any], overwrite: bool, longer: bool = False
) -> dict[str, Any] | None:
    """Refuse a folder that a run, new or resumed, must not write into.

    Args:
        files: the folder.
        record: the content of config.json that the run would write.
        defaults: of the options; those that an older version did not have count as left out.
        overwrite: whether an earlier run there is to be replaced.
        longer: whether a resumed run may have another length.

    Returns:
        The content of config.json if the run is resumed; None if it is new.

    Raises:
        ConfigError: if the data lie in the folder, or it holds something else, or a run with other options.
    """
    options, folder = record["options"], files.path
    for name in (*PATHS, "init"):
        given = options.get(name)
        if given and not URL.match(given) and Path(given).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"--{name} {options[name]} lies in the run folder {folder}; give another --out.")
    files.refuse_foreign(overwrite)
    saved = None if overwrite else read_config(files)
    if saved is None or not files.has_results():
        return None
    _refuse_other_options(folder, saved, record, defaults, longer)
    return saved


def _refuse_other_options(
    folder: Path, saved: dict[str, Any], wanted: dict[str, Any], defaults: Mapping[str, Any], longer: bool
) -> None:
    def settings(record: dict[str, Any]) -> dict[str, Any]:
        known = dict(defaults) | {k: v for k, v in record["options"].items() if k not in RETIRED}
        fixed = {k: v for k, v in known.items() if k not in OPERATIONAL}
        if fixed.get("compile") == "auto":  # of 0.1.0; last.pt holds what came of it
            fixed["compile"] = "off"
        return {"method": record.get("method"), **fixed}

    def same(name: str) -> bool:
        a, b = old.get(name), new.get(name)
        if a and b and name in (*PATHS, "init") and not any(map(URL.match, (a, b))):
            # moved data are told by what is in them
            return not Path(a).exists() or Path(a).resolve() == Path(b).resolve()
        return bool(a == b)

    old, new = settings(saved), settings(wanted)
    if _refuse_other_batches(folder, saved, wanted):
        new["batch_size"] = old["batch_size"]
    free = LENGTH if longer else ()
    differing = {k: f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in old | new if k not in free and not same(k)}
    if differing and differing.keys() <= {*LENGTH}:
        raise ConfigError(
            f"{folder} holds a run of another length: {'; '.join(differing.values())}. Give the same length to resume "
            "it, or --resume and a greater one to make it longer."
        )
    if differing:
        raise ConfigError(
            f"{folder} holds a run with other options: {'; '.join(differing.values())}. "
            "Give the same options to resume it, or another --out for a new run, or --overwrite to start over."
        )


def _refuse_other_batches(folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether another number of processes is to share the same batches.

    Raises:
        ConfigError: if they would see other images in a step than those that began.
    """
    old, new = (int(record.get("processes", 1)) for record in (saved, wanted))
    each, now = (record["options"].get("batch_size", 1) for record in (saved, wanted))
    if old == new or old * each == new * now:
        return old != new
    whole, rest = divmod(old * each, new)
    way = f"give --batch-size {whole}" if not rest else f"start a number of processes that divides {old * each}"
    raise ConfigError(
        f"{folder} holds a run of {counted(old, 'process', 'processes')}, each with "
        f"{counted(each, 'image', 'images')} in a batch, and {new} with {now} would see others in a step; {way} to "
        f"resume it, or start {old} with --batch-size {each} as before."
    )


def earlier_settings(files: RunFolder, saved: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json adds of a run that had another number of processes and batch size, or another length,
    before: until when.
    """
    if saved is None:
        return {}
    earlier, known = saved.get("earlier", []), {"processes": 1, "batch_size": 1, "steps": 0, "epochs": 0}
    old, new = (known | x["options"] | x for x in (saved, wanted))
    for names in (("processes", "batch_size"), LENGTH):
        if any(old[name] != new[name] for name in names):
            earlier = [*earlier, {"until_step": step_of(files.model)} | {name: old[name] for name in names}]
    return {"earlier": earlier} if earlier else {}


def identities(opened: Opened) -> dict[str, dict[str, Any]]:
    """Return what tells the data of a run from others, by domain."""
    known = {domain.title: domain.identity() for domain in opened.train.domains.values()}
    held = opened.heldout.domains.values() if opened.heldout is not None else ()
    return known | {f"held-out {domain.title}": domain.identity() for domain in held}


def refuse_other_data(
    folder: Path, old: Any, data: dict[str, Any], counts: Mapping[str, int], before: Mapping[str, int]
) -> None:
    """Raise ConfigError if a run is to be resumed with other images than it began with, naming the domain.

    Args:
        folder: of the run.
        old: the identities in its config.json; None of a version that kept only the counts.
        data: those of the images at hand.
        counts: the number of images of each domain at hand.
        before: their numbers at the start; empty if unknown.
    """
    if old is None:
        changed = bool(before) and before != counts
        differing = [f"there were {in_words(before)}, now {in_words(counts)}"] if changed else []
    else:
        differing = [words for title in old | data if (words := _difference(title, old.get(title), data.get(title)))]
    if differing:
        raise ConfigError(
            f"The images of {folder} have changed since it began: {'; '.join(differing)}. Put them back as they were "
            "to resume it, or give another --out for a new run."
        )


def _difference(title: str, old: Any, new: Any) -> str:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{title} is {'gone' if new is None else 'new'}" if old != new else ""
    changed = [name for name in new if old.get(name) != new[name]]
    for name in ("images", "kind"):
        if name in changed:
            return f"{title} had {old.get(name)}{' images' * (name == 'images')}, now {new[name]}"
    return f"{title} has files of other {' and '.join(changed)}" if changed else ""
