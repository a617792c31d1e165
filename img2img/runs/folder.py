"""The folder of a run: whose it is, who may write into it now, and which of its files img2img wrote."""

import contextlib
import errno
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from img2img.data.images import atomic, is_run, remove_stale
from img2img.data.picture import is_text, quote
from img2img.errors import ConfigError, ModelFileError, TrainingError
from img2img.model.file import read_card

LOCK = ".img2img-lock"
# Written from the first checkpoint on, right after last.pt: where one of them is, a last.pt has been.
AFTER_LAST = ("model.safetensors", "report.json")
FILES = (
    "config.json", "last.pt", *AFTER_LAST, "best.safetensors", "log.jsonl", "report.html", "curves.png",
    "evaluation.json", "evaluation_images.png", "checkpoints.json",
)  # fmt: skip
FOLDERS = ("samples", "models")
NUMBERED = re.compile(r"[0-9]{8}\.(png|safetensors)")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def refuse_foreign(folder: Path, overwrite: bool | None = False) -> None:
    """Raise ConfigError if a run can neither begin nor be resumed in `folder` without harm to what is there.

    Args:
        folder: of the run.
        overwrite: whether it may begin there all the same; None where that is not offered.
    """
    for name in FOLDERS:
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ConfigError(
                f"{path} is {'a link' if path.is_symlink() else 'a file'} where a run has a folder of its own; "
                "take it away, or give another folder for the run."
            )
    if overwrite or not folder.is_dir():
        return
    anew = "" if overwrite is None else ", or --overwrite, which replaces the files of a run and leaves others alone"
    visible = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    if visible and not is_run(folder):
        raise ConfigError(
            f"{folder} is neither empty nor the folder of a run: it holds {visible[0]}. Give another folder{anew}."
        )
    left = [name for name in AFTER_LAST if (folder / name).exists()]
    if left and not (folder / "last.pt").exists():
        raise ConfigError(
            f"{folder} holds {left[0]} of a run, but no last.pt to resume it from. Give another folder{anew}."
        )


def has_results(folder: Path) -> bool:
    """Tell whether a run in `folder` has got as far as to leave anything that depends on its options."""
    files = [folder / name for name in ("last.pt", "best.safetensors", *AFTER_LAST)]
    log = folder / "log.jsonl"
    numbered = (path for name in FOLDERS for path in (folder / name).glob("*") if NUMBERED.fullmatch(path.name))
    return any(path.exists() for path in files) or (log.is_file() and log.stat().st_size > 0) or any(numbered)


@contextlib.contextmanager
def begun(folder: Path, entry: Callable[[], dict[str, Any]], overwrite: bool = False) -> Iterator[str]:
    """Hold the folder of a run for this process alone, with its config.json written.

    Args:
        folder: is made if need be.
        entry: called when the folder is held: the content of config.json, or an error if the run must not begin.
        overwrite: remove the files of an earlier run first.

    Yields:
        What the user should know, or nothing.

    Raises:
        ConfigError: if another process holds it.
        TrainingError: if it cannot be written.
    """
    if not is_text(folder):
        raise ConfigError(f"{quote(folder)} cannot hold a model: its name is not UTF-8; choose another --out.")
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            note = stack.enter_context(_locked(folder))
            record = entry()
            for place in (folder, *(folder / name for name in FOLDERS)):
                remove_stale(place)
            if overwrite:
                _clear(folder)
            with atomic(folder / "config.json", durable=True) as temporary:
                temporary.write_text(json.dumps(record, indent=2) + "\n")
        except OSError as error:
            raise TrainingError(f"Cannot write into {folder}: {error.strerror}. Choose another --out.") from error
        yield note


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[str]:
    """A lock that ends with the process, however that ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"Another process is training in {folder}; wait for it, or give another --out.") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield f"The disk of {folder} has no locks: see that no other process trains there."
        return
    try:
        yield ""
    finally:
        with contextlib.suppress(OSError):  # Windows removes it after the release
            (folder / LOCK).unlink()
        lock.release()


def _clear(folder: Path) -> None:
    """Remove the files of a run: those of an exact name, and what is numbered by a step that its log has."""
    steps = logged_steps(folder)
    remove_samples(folder, 0, max(steps, default=0))
    for path in (folder / "models").glob("*.safetensors"):
        with contextlib.suppress(ModelFileError):
            if NUMBERED.fullmatch(path.name) and read_card(path).step == int(path.stem) <= max(steps, default=0):
                path.unlink()
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def logged_steps(folder: Path) -> list[int]:
    """The steps in the log of a run, as far as it can be read."""
    steps = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            steps.append(int(json.loads(line)["step"]))
    return steps


def remove_samples(folder: Path, after: int, last: int) -> None:
    """Remove the sample pictures of steps above `after`, up to `last`."""
    for path in (folder / "samples").glob("*.png"):
        if NUMBERED.fullmatch(path.name) and after < int(path.stem) <= last:
            path.unlink()
