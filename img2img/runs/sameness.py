"""The check that a resumed run has the options and the images that it began with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from img2img.data.samples import Opened
from img2img.errors import ConfigError
from img2img.runs.facts import in_words
from img2img.runs.record import OPERATIONAL, RETIRED

PATHS = ("a", "b", "ab", "data", "labels")  # options that name files or folders


def refuse_other_config(
    folder: Path, saved: dict[str, Any], wanted: dict[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Refuse to resume a run with other options than it began with.

    Args:
        folder: of the run.
        saved: the content of its config.json.
        wanted: the same of the run that is to be resumed.
        defaults: of the options; those that an older version did not have count as left out.

    Raises:
        ConfigError: naming the options that differ.
    """

    def settings(record: dict[str, Any]) -> dict[str, Any]:
        known = dict(defaults) | {k: v for k, v in record["options"].items() if k not in RETIRED}
        fixed = {k: v for k, v in known.items() if k not in OPERATIONAL}
        if fixed.get("compile") == "auto":  # of 0.1.0; last.pt holds what came of it
            fixed["compile"] = "off"
        return {"method": record.get("method"), "processes": record.get("processes"), **fixed}

    def same(name: str) -> bool:
        a, b = old.get(name), new.get(name)
        if name in PATHS and a and b:  # moved data are told by what is in them
            return not Path(a).exists() or Path(a).resolve() == Path(b).resolve()
        return bool(a == b)

    old, new = settings(saved), settings(wanted)
    differing = [f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in old | new if not same(k)]
    if differing:
        raise ConfigError(
            f"{folder} holds a run with other options: {'; '.join(differing)}. "
            "Give the same options to resume it, or another --out for a new run, or --overwrite to start over."
        )


def identities(opened: Opened) -> dict[str, dict[str, Any]]:
    """Return what tells the data of a run from others, by domain."""
    known = {domain.title: domain.identity() for domain in opened.train.domains.values()}
    held = opened.heldout.domains.values() if opened.heldout is not None else ()
    return known | {f"held-out {domain.title}": domain.identity() for domain in held}


def refuse_other_data(
    folder: Path, old: Any, data: dict[str, Any], counts: Mapping[str, int], before: Mapping[str, int]
) -> None:
    """Refuse to resume a run with other images than it began with.

    Args:
        folder: of the run.
        old: the identities in its config.json; None of a version that kept only the counts.
        data: those of the images at hand.
        counts: the number of images of each domain at hand.
        before: their numbers at the start; empty if unknown.

    Raises:
        ConfigError: naming the domain that differs.
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
