"""Translation of a folder by Ray: names of files go to workers, which hold the model, and outcomes come back."""

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from img2img.bulk.begun import Begun
from img2img.bulk.options import RayOptions
from img2img.bulk.workers import PIECES, gpus_of, spread
from img2img.data.outbox import remove_half_done
from img2img.errors import quote
from img2img.model.devices import light
from img2img.model.folder import Job
from img2img.model.record import join_record, mark_finished
from img2img.model.staging import StagedJob
from img2img.model.summary import Fields, Outcome
from img2img.runtime.files import remove_stale

ROUND = 500_000  # names of files in a store that are held at a time


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


class StagedTranslating:
    """A job whose files or results are in a store, as a worker has it: pieces are names and sizes of files."""

    most = PIECES

    def __init__(self, job: StagedJob, threads: int) -> None:
        self.job, self.threads = job, threads

    @property
    def notes(self) -> list[str]:
        return self.job.translator.notes

    def join(self, begun: Begun) -> None:
        torch.set_num_threads(self.threads)
        self.job.join()

    def do(self, pieces: dict[int, bytes]) -> Iterator[tuple[int, Fields]]:
        with self.job.settled(), self.job.retold():
            items = (self.job.plan.item(number, *pickle.loads(piece)) for number, piece in pieces.items())
            for item, fields in self.job.process(items):
                yield item.number, fields

    def tidy(self, piece: bytes) -> None:
        remove_half_done()

    def given_up(self, piece: bytes, reason: str) -> Fields:
        return "failed", f"{self.job.plan.source.show(pickle.loads(piece)[0])}: {reason}", 0.0


def translate(ray: Any, job: Job, options: RayOptions) -> Iterator[Outcome]:
    """Do a job on Ray, and yield the outcome of each file as soon as it is known, in any order; raises as `spread`."""
    model, asked = job.translator, job.translator.asked[0]
    gpus, own = gpus_of(model.runtime.device.type, asked, options), light(job, asked)
    share = partial(spread, ray, options=options, gpus=gpus, notes=model.notes)
    if isinstance(job, StagedJob):
        assert isinstance(own, StagedJob)
        with job.whole():
            yield from _staged(job, partial(share, StagedTranslating(own, options.ray_cpus)))
        return
    todo: deque[Path] = deque()
    yield from job.sort_out(todo)
    files = list(todo)
    names = (os.fsencode(path.relative_to(job.plan.base)) for path in files)
    for number, (status, reason, outside) in share(Translating(own, options.ray_cpus), names):
        job.done += 1
        outcome = Outcome(files[number], job.plan.target(files[number]), status, reason, outside)
        yield replace(outcome, done=job.done, total=job.total)
    mark_finished(job.plan.out)


def _staged(job: StagedJob, share: Callable[[Iterable[bytes]], Iterator[tuple[int, Fields]]]) -> Iterator[Outcome]:
    """Let workers process the files of a job, some after others; those with a fault are not given to them."""
    items = job.plan.items()
    while some := list(islice(items, ROUND)):
        for item in some:
            if item.fault:
                yield job.ended_with(item, job.failed(item))
        sound = [item for item in some if not item.fault]
        for number, fields in share(pickle.dumps((item.name, item.size)) for item in sound):
            yield job.ended_with(sound[number], fields)
