"""Translation of a folder by Ray: names of files go to workers, which hold the model, and outcomes come back."""

import ctypes
import os
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from img2img.bulk.cluster import count_workers
from img2img.bulk.options import RayOptions
from img2img.errors import ConfigError, DataError, Img2ImgError, ModelFileError, TrainingError, first_line, quote
from img2img.model.devices import add_note, light
from img2img.model.folder import Job
from img2img.model.record import join_record, mark_finished
from img2img.model.summary import Outcome
from img2img.runtime.files import remove_stale

FILES = 32  # that a worker takes at a time, at most
SHARES = 8  # that each worker takes, at least, if there are enough files
TRIES = 3  # of a file alone, once a worker has ended while it worked on it
PR_SET_PDEATHSIG = 1
NOTE, BUG = "note", "bug"
COLUMNS = ("number", "status", "reason", "outside")
ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, ModelFileError, TrainingError, Img2ImgError)}


class Begun:
    """The count of how often each piece of work was begun and not completed, because its worker ended."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, piece: str, step: int) -> int:
        self.counts[piece] += step
        return self.counts[piece]


class Worker:
    """A copy of a job in a process of its own, with its model.

    Args:
        job: the job.
        count: adds a number to the count of a piece of work that was begun, in any worker, and returns the sum.
        threads: of PyTorch.
        place: the folder that relative paths start from.
    """

    def __init__(self, job: Job, count: Callable[[str, int], int], threads: int, place: str) -> None:
        self.job, self.count, self.threads, self.is_ready = job, count, threads, False
        with suppress(OSError):
            os.chdir(place)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Translate files, given by number and name; return a row for each, and for each note, and for what stops all.

        Exceptions are rows too: Ray would start the work again.
        """
        base = self.job.plan.base
        numbers = {base / os.fsdecode(name): int(n) for n, name in zip(batch["number"], batch["name"], strict=True)}
        rows: list[tuple[int, str, str, float]] = []
        try:
            for x in self._outcomes(numbers):
                rows.append((numbers[Path(x.source)], x.status, x.reason, x.outside))
        except Img2ImgError as error:
            kind = next(kind for kind in type(error).__mro__ if kind.__name__ in ERRORS)
            rows.append((-1, kind.__name__, str(error), 0.0))
        except Exception:
            rows.append((-1, BUG, traceback.format_exc(), 0.0))
        notes = self.job.translator.notes
        rows += [(-1, NOTE, note, 0.0) for note in notes]
        notes.clear()
        return {name: list(column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)}

    def _outcomes(self, numbers: dict[Path, int]) -> Iterator[Outcome]:
        if not self.is_ready:
            torch.set_num_threads(self.threads)
            self.job.translator = join_record(self.job.translator, self.job.plan.out, self.job.record)
            self.is_ready = True
        if self.count(f"from {min(numbers.values())}", 1) == 1:
            yield from self.job.translate(deque(numbers))
            return
        for source, number in numbers.items():  # one of which may be what ends workers
            remove_stale(self.job.plan.target(source).parent)
            if self.count(str(number), 1) <= TRIES:
                yield from self.job.translate(deque([source]))
                self.count(str(number), -1)
            else:
                yield _failed(
                    self.job, source, "the process that worked on it ended each time; is there enough memory?"
                )


class Actor(Worker):
    """A worker that ends at once when the process of Ray that started it has ended: some were seen to stay for ever."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def translate(ray: Any, job: Job, options: RayOptions) -> Iterator[Outcome]:
    """Do a job on Ray, and yield the outcome of each file as soon as it is known, in any order.

    Raises:
        ConfigError: if a worker cannot compute as the others do.
        TrainingError: if the disk is full, or Ray cannot continue.
    """
    todo: deque[Path] = deque()
    yield from job.sort_out(todo)
    missing = dict(enumerate(todo))
    try:
        for row in _rows(ray, job, missing, options) if todo else ():
            number, status, reason, outside = (row[name] for name in COLUMNS)
            if status == NOTE:
                add_note(job.translator.notes, reason)
            elif status == BUG:
                raise RuntimeError(reason)
            elif status in ERRORS:
                raise ERRORS[status](reason)
            elif number in missing:
                source = missing.pop(number)
                yield _counted(job, Outcome(source, job.plan.target(source), status, reason, outside))
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"Ray cannot continue: {first_line(error).rstrip('.')}. Run the same command again."
        ) from error
    for source in missing.values():
        yield _counted(job, _failed(job, source, "Ray returned no result for it; run the same command again."))
    mark_finished(job.plan.out)


def _failed(job: Job, source: Path, reason: str) -> Outcome:
    return Outcome(source, job.plan.target(source), "failed", f"{quote(source)}: {reason}")


def _counted(job: Job, outcome: Outcome) -> Outcome:
    job.done += 1
    return replace(outcome, done=job.done, total=job.total)


def _rows(ray: Any, job: Job, files: dict[int, Path], options: RayOptions) -> Iterator[dict[str, Any]]:
    import pyarrow
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    gpus = gpus_of(job, options)
    workers = min(count_workers(ray, options, gpus), len(files))
    size = max(1, min(FILES, len(files) // (SHARES * workers)))
    names = pyarrow.table(
        {"number": list(files), "name": [os.fsencode(path.relative_to(job.plan.base)) for path in files.values()]}
    )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    begun = ray.remote(Begun).options(num_cpus=0, scheduling_strategy=here).remote()

    def count(piece: str, step: int) -> int:
        return int(ray.get(begun.count.remote(piece, step)))

    results = ray.data.from_arrow([names.slice(k, size) for k in range(0, len(names), size)]).map_batches(
        Actor,
        fn_constructor_args=(light(job, job.translator.asked[0]), count, options.ray_cpus, str(Path.cwd())),
        batch_size=size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=options.ray_cpus,
        num_gpus=gpus or None,
    )
    yield from results.iter_rows()


def gpus_of(job: Job, options: RayOptions) -> float:
    """Return the GPUs of each worker.

    Raises:
        ConfigError: if the model was loaded onto one GPU by number, which workers do not have.
    """
    runtime, asked = job.translator.runtime, job.translator.asked[0]
    if runtime.device.type != "cuda":
        if options.ray_gpus:
            raise ConfigError(f"--ray-gpus has no effect on {runtime.device.type}; leave it out, or use --device cuda.")
        return 0.0
    if asked not in ("auto", "cuda"):
        raise ConfigError(f"--device {quote(asked)}: Ray gives each worker its GPU; use --device cuda.")
    return options.ray_gpus or 1.0
