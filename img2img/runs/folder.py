"""The folder of a run: the name of every file in it, who may write into it now, and which files img2img wrote."""

import contextlib
import errno
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from safetensors import SafetensorError, safe_open

from img2img.data.folders import is_run
from img2img.errors import ConfigError, ModelFileError, TrainingError, quote
from img2img.runtime.files import is_text, remove_stale, write_json
from img2img.runtime.records import from_json

NUMBERED = re.compile(r"[0-9]{8}\.(png|safetensors)")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class Entry:
    """A file or folder of a run: an attribute of `RunFolder` that is its path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The files of a run by name, and the operations on the folder as a whole."""

    path: Path

    # What is trained, and how to repeat it
    config = Entry("config.json")  # the options, data, versions and command
    last = Entry("last.pt")  # the state that the run is resumed from
    model = Entry("model.safetensors")  # the newest generators
    best = Entry("best.safetensors")  # the generators with the best held-out score
    models = Entry("models")  # the folder of the models kept along the run
    lock = Entry(".img2img-lock")  # of the process that trains here

    # What the run reports
    log = Entry("log.jsonl")  # a line of JSON per record
    samples = Entry("samples")  # the folder of sample grids
    tensorboard = Entry("tensorboard")  # the folder of TensorBoard's files
    report = Entry("report.html")  # the page
    card = Entry("model_card.md")  # the text that introduces the model to those it is shared with
    report_record = Entry("report.json")  # the facts, progress and findings that the page is drawn from, beside the log
    curves = Entry("curves.png")  # all curves in one picture
    evaluation = Entry("evaluation.json")  # the scores on held-out images
    evaluation_picture = Entry("evaluation_images.png")  # the best and worst held-out images
    ranking = Entry("checkpoints.json")  # the scores of all kept models

    def checkpoint(self, step: int) -> Path:
        """Return the file of the model kept at `step`."""
        return self.models / f"{step:08d}.safetensors"

    def sample(self, step: int) -> Path:
        """Return the file of the sample grid of `step`."""
        return self.samples / f"{step:08d}.png"

    # What is there

    @property
    def resumable(self) -> bool:
        """True if there is a state to resume from."""
        return self.last.exists()

    def kept_models(self) -> list[Path]:
        """Return all model files of the run, in no particular order: those kept along the run, the best, the newest."""
        return [path for path in (*self.models.glob("[!.]*.safetensors"), self.best, self.model) if path.exists()]

    def sample_grids(self) -> list[Path]:
        """Return the sample grids in the order of their steps."""
        found = (path for path in self.samples.glob("*.png") if NUMBERED.fullmatch(path.name))
        return sorted(path for path in found if not path.is_symlink())

    def logged_steps(self) -> list[int]:
        """Return the steps in the log, as far as it can be read."""
        steps = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            for line in self.log.read_text(encoding="utf-8").splitlines():
                steps.append(int(json.loads(line)["step"]))
        return steps

    def has_results(self) -> bool:
        """Tell whether the run has got far enough to leave anything that depends on its options."""
        files = (self.last, self.best, *self._after_last)
        numbered = (p for folder in self._folders for p in folder.glob("*") if NUMBERED.fullmatch(p.name))
        logged = self.log.is_file() and self.log.stat().st_size > 0
        return any(path.exists() for path in files) or logged or any(numbered)

    # Taking the folder

    def refuse_foreign(self, overwrite: bool | None = False) -> None:
        """Raise ConfigError if a run can neither start nor resume here without harming other files.

        Args:
            overwrite: whether the run may start here anyway; None where that is not offered.
        """
        for folder in self._folders:
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise ConfigError(
                    f"{folder} is {'a link' if folder.is_symlink() else 'a file'} where a run needs a folder; remove "
                    "it, or choose another folder for the run."
                )
        if overwrite or not self.path.is_dir():
            return
        anew = "" if overwrite is None else ", or use --overwrite, which replaces the files of a run and no others"
        visible = sorted(path.name for path in self.path.iterdir() if path.name[0] != ".")
        if visible and not is_run(self.path):
            raise ConfigError(
                f"{self.path} is neither empty nor the folder of a run: it holds {visible[0]}. Choose another "
                f"folder{anew}."
            )
        left = [path.name for path in self._after_last if path.exists()]
        if left and not self.resumable:
            raise ConfigError(
                f"{self.path} holds {left[0]} of a run, but no last.pt to resume it from. Choose another folder{anew}."
            )

    @contextlib.contextmanager
    def held(self, entry: Callable[[], dict[str, Any]], overwrite: bool = False) -> Iterator[str]:
        """Hold the folder for this process alone, with config.json written.

        Args:
            entry: called once the folder is held; returns the content of config.json, or raises if the run must not
                start.
            overwrite: remove the files of an earlier run first.

        Yields:
            A note for the user, or "".

        Raises:
            ConfigError: if another process holds it.
            TrainingError: if it cannot be written.
        """
        if not is_text(self.path):
            raise ConfigError(f"{quote(self.path)} cannot hold a model: its name is not UTF-8; choose another --out.")
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                note = stack.enter_context(self._locked())
                record = entry()
                for folder in (self.path, *self._folders):
                    remove_stale(folder)
                if overwrite:
                    self._clear()
                write_json(self.config, record, indent=2, durable=True)
            except OSError as error:
                raise TrainingError(
                    f"Cannot write into {self.path}: {error.strerror}. Choose another --out."
                ) from error
            yield note

    @contextlib.contextmanager
    def _locked(self) -> Iterator[str]:
        """Lock the folder until the process ends, however it ends."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.lock, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"Another process is training in {self.path}; wait for it, or choose another --out."
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield f"The disk of {self.path} has no locks: make sure that no other process trains there."
            return
        try:
            yield ""
        finally:
            with contextlib.suppress(OSError):  # Windows removes it after the release
                self.lock.unlink()
            lock.release()

    def remove_samples(self, after: int, last: int) -> None:
        """Remove the sample grids of the steps above `after`, up to `last`."""
        for path in self.samples.glob("*.png"):
            if NUMBERED.fullmatch(path.name) and after < int(path.stem) <= last:
                path.unlink()

    def _clear(self) -> None:
        """Remove the files of a run: those with its names, and numbered ones whose step its log holds."""
        last = max(self.logged_steps(), default=0)
        self.remove_samples(0, last)
        for path in self.models.glob("*.safetensors"):
            if NUMBERED.fullmatch(path.name) and step_of(path) == int(path.stem) <= last:
                path.unlink()
        for path in (
            *(self.config, self.last, *self._after_last, self.best, self.log, self.report, self.card, self.curves),
            *(self.evaluation, self.evaluation_picture, self.ranking),
        ):
            path.unlink(missing_ok=True)

    @property
    def _folders(self) -> tuple[Path, Path]:
        return self.samples, self.models

    @property
    def _after_last(self) -> tuple[Path, Path]:
        """Files written right after last.pt: where one of them is, there has been a last.pt."""
        return self.model, self.report_record


@dataclass(frozen=True)
class _Header:
    """The part of a model file's header that ties it to a run."""

    step: Annotated[int, Ge(0)]


def step_of(model: Path) -> int | None:
    """Return the training step of a model file; None if img2img did not write it."""
    if not model.is_file():
        return None
    try:
        with safe_open(model, framework="pt") as file:
            metadata = (file.metadata() or {}).get("img2img", "")
        return from_json(_Header, metadata, str(model)).step
    except (SafetensorError, OSError, ModelFileError):
        return None
