"""Translation of a folder by Ray: names of files go to workers, which hold the model, and outcomes come back."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from img2img.bulk.options import RayOptions
from img2img.bulk.workers import PIECES, Begun, gpus_of, spread
from img2img.errors import quote
from img2img.model.devices import light
from img2img.model.folder import Job
from img2img.model.record import join_record, mark_finished
from img2img.model.summary import Outcome
from img2img.runtime.files import remove_stale

Fields = tuple[str, str, float]  # status, reason and outside of an outcome


class Translating:
    """A job of translation as a worker has it: pieces are names of files."""

    most = PIECES

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads = job, threads

    @property
    def notes(self) -> list[str]:
        return self.job.translator.notes

    def join(self, begun: Begun) -> None:
        torch.set_num_threads(self.threads)
        self.job.translator = join_record(self.job.translator, self.job.plan.out, self.job.record)

    def do(self, pieces: dict[int, bytes]) -> Iterator[tuple[int, Fields]]:
        numbers = {self._source(name): number for number, name in pieces.items()}
        for x in self.job.translate(deque(numbers)):
            yield numbers[Path(x.source)], (x.status, x.reason, x.outside)

    def tidy(self, piece: bytes) -> None:
        remove_stale(self.job.plan.target(self._source(piece)).parent)

    def given_up(self, piece: bytes, reason: str) -> Fields:
        return "failed", f"{quote(self._source(piece))}: {reason}", 0.0

    def _source(self, name: bytes) -> Path:
        return self.job.plan.base / os.fsdecode(name)


def translate(ray: Any, job: Job, options: RayOptions) -> Iterator[Outcome]:
    """Do a job on Ray, and yield the outcome of each file as soon as it is known, in any order; raises as `spread`."""
    todo: deque[Path] = deque()
    yield from job.sort_out(todo)
    files = list(todo)
    names = (os.fsencode(path.relative_to(job.plan.base)) for path in files)
    model, asked = job.translator, job.translator.asked[0]
    work, gpus = Translating(light(job, asked), options.ray_cpus), gpus_of(model.runtime.device.type, asked, options)
    for number, (status, reason, outside) in spread(ray, work, names, options, gpus, model.notes):
        job.done += 1
        outcome = Outcome(files[number], job.plan.target(files[number]), status, reason, outside)
        yield replace(outcome, done=job.done, total=job.total)
    mark_finished(job.plan.out)
