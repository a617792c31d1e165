"""A thread that computes what waits in a line, with the engine that `img2img translate` has."""

import copy
import itertools
import sys
import threading
import traceback
import zipfile
from collections import OrderedDict, deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook

from img2img.errors import DataError, Img2ImgError, TrainingError
from img2img.model import samples
from img2img.model.folder import Job
from img2img.model.record import RECORD
from img2img.model.sampling import Sampler
from img2img.model.translator import Translator
from img2img.runtime.files import remove
from img2img.serve.asked import Drawing, Translation
from img2img.serve.counts import Counts
from img2img.serve.line import Line, Result, Task, remove_file
from img2img.serve.models import Loaded

JOBS = 8  # kinds of translations that stay ready
_numbers = itertools.count()


class LeftError(TrainingError):
    """The end of work that nobody waits for."""


class BrokenError(Img2ImgError):
    """A bug of ours, whose traceback is on the server's standard error."""


class Worker(threading.Thread):
    """A thread that owns the models of one device.

    Args:
        models: by name; no other thread computes with them.
        line: the tasks.
        folder: a private one; uploads are in its `in`.
        counts: what it counts.
    """

    def __init__(self, models: Loaded, line: Line, folder: Path, counts: Counts) -> None:
        super().__init__(daemon=True, name="img2img-worker")
        self.models, self.line, self.folder, self.counts = models, line, folder, counts
        self.jobs: OrderedDict[Translation, Job] = OrderedDict()
        self.batch: list[Task] = []

    def run(self) -> None:
        """Compute until the line is closed and empty."""
        hook = register_module_forward_pre_hook(self._stop_unless_wanted)
        try:
            while batch := self.line.take():
                self.batch = [task for task in batch if task.wanted]
                for task in batch:
                    if task not in self.batch:
                        self.counts.add("img2img_images_total", model=task.asked.model, outcome="left")
                if self.batch:
                    self._compute(self.batch[0].asked)
                for task in batch:  # those that are without outcome
                    task.fail(LeftError("Its client did not wait."))
        finally:
            hook.remove()

    def _stop_unless_wanted(self, *_: Any) -> None:
        """Stop between two layers of a network when no client waits for the batch."""
        if threading.current_thread() is self and not any(task.wanted for task in self.batch):
            raise LeftError("Its client did not wait.")

    def _compute(self, asked: Translation | Drawing) -> None:
        self.counts.add("img2img_batches_total", model=asked.model)
        try:
            if isinstance(asked, Drawing):
                self._draw(self.batch[0], asked)
            else:
                self._translate(asked)
        except Img2ImgError as error:
            self._fail(error)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._fail(BrokenError("The server failed on this; its log says where."))
        else:
            return
        if isinstance(asked, Translation):
            self._forget(asked)  # so that no other request meets a broken state

    def _fail(self, error: Img2ImgError) -> None:
        for task in self.batch:
            if not task.future.done():
                self.counts.add("img2img_images_total", model=task.asked.model, outcome="failed")
                task.fail(error)

    def _translate(self, asked: Translation) -> None:
        job = self._job(asked)
        tasks = {task.source: task for task in self.batch}
        try:
            for outcome in job.translate(deque(path for path in tasks if path is not None)):
                task, target = tasks[Path(outcome.source)], Path(outcome.target)
                status = "left" if not task.wanted else "done" if outcome.status == "translated" else "failed"
                self.counts.add("img2img_images_total", model=asked.model, outcome=status)
                if outcome.status == "failed":
                    task.fail(DataError(task.words(outcome.reason.replace(f"{target.parent}/", ""))))
                else:
                    notes = [note for note in job.translator.notes if str(self.folder) not in note]
                    task.finish(Result(target, outcome.outside, tuple(dict.fromkeys(notes))))
        finally:
            job.translator.notes.clear()

    def _job(self, asked: Translation) -> Job:
        """Return the job that computes as `img2img translate` would in a new folder."""
        if asked not in self.jobs:
            model, files = self.models[asked.model], asked.files
            assert isinstance(model, Translator)
            model = model.towards(asked.direction, asked.label)
            if files.seed:
                model = model.with_noise(0, files.seed)
            model = copy.copy(model)
            model.notes = []
            out = self.folder / f"out{next(_numbers)}"
            self.jobs[asked] = Job(model, self.folder / "in", out, asked.options, files)
            self.jobs[asked].translator.notes.clear()
            if len(self.jobs) > JOBS:
                self._forget(next(iter(self.jobs)))
        self.jobs.move_to_end(asked)
        return self.jobs[asked]

    def _forget(self, asked: Translation) -> None:
        if job := self.jobs.pop(asked, None):
            remove_file(job.plan.out / RECORD)
            with suppress(OSError):  # a result that is still being sent
                job.plan.out.rmdir()

    def _draw(self, task: Task, asked: Drawing) -> None:
        model, folder = self.models[asked.model], self.folder / f"out{next(_numbers)}"
        assert isinstance(model, Sampler)

        def progress(*_: int) -> None:
            if not task.wanted:
                raise LeftError("Its client did not wait.")

        try:
            drawing = samples.Drawing(model, asked.n, folder, asked.options)
            samples.write_samples(drawing, drawing.draw(drawing.missing), progress)
            paths = sorted(path for path in folder.iterdir() if path.stem.isdecimal())
            result = folder.with_name(f"{folder.name}{paths[0].suffix if asked.n == 1 else '.zip'}")
            if asked.n == 1:
                paths[0].rename(result)
            else:
                with zipfile.ZipFile(result, "w") as archive:  # stored: the images are compressed
                    for path in paths:
                        archive.write(path, path.name)
        finally:
            if folder.exists():
                remove(folder)
        self.counts.add("img2img_images_total", asked.n, model=asked.model, outcome="done")
        task.finish(Result(result))
