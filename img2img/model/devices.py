"""Translation of a folder on several devices: a process for each, all of which take files from one list."""

import contextlib
import copy
import pickle
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from img2img.data.workers import Context, shield
from img2img.errors import ConfigError, Img2ImgError, TrainingError, counted, listed, quote
from img2img.model.folder import LOOK_AHEAD, Job, unheard
from img2img.model.record import mark_finished
from img2img.model.summary import Outcome
from img2img.runtime.device import machine, pick_device
from img2img.runtime.files import remove_stale

DEATHS = 2  # of processes with a file in hand, after which it is not given to another one
MORE, IDLE = "more", "idle"  # what a process asks for: files if there are any; files whenever there are some
PATIENCE = 10.0  # seconds for a process to finish what it writes, once the job is stopped


def refuse_unlike(devices: Sequence[str]) -> None:
    """Raise ConfigError unless equal images have equal results on all `devices`."""
    kinds = {name: machine(pick_device(name))["device"] for name in devices}
    first = devices[0]
    if other := next((name for name in devices if kinds[name] != kinds[first]), None):
        raise ConfigError(
            f"--device {first} is {kinds[first]} and {other} is {kinds[other]}, which round differently; give devices "
            "of one kind."
        )


def run(job: Job, devices: Sequence[str]) -> Iterator[Outcome]:
    """Yield the outcomes of a job as `job.run` does, computed on `devices`, a process for each.

    The files that a process had in hand when it was killed are given to the others.

    Raises:
        TrainingError: if the disk is full, or all processes were killed.
    """
    if len(devices) == 1:
        yield from job.run()
        return
    todo: deque[Path] = deque()
    yield from job.sort_out(todo)
    if todo:
        yield from _Team(job, devices[: len(todo)], todo).work()
    mark_finished(job.plan.out)


class _Worker:
    """A process, as it is seen from the one that started it.

    Attributes:
        files: those that it has in hand.
        idle: whether it has none and waits for more.
        busy: whether it was given files since it last was idle.
    """

    def __init__(self, job: Job, device: str) -> None:
        self.device, self.idle, self.busy = device, False, False
        self.files: dict[Path, None] = {}
        context = Context()
        self.connection, theirs = context.Pipe()
        arguments = theirs, pickle.dumps(light(job, device)), torch.get_num_threads()
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def give(self, files: list[Path]) -> None:
        self.files |= dict.fromkeys(files)
        self.idle, self.busy = False, self.busy or bool(files)
        self.connection.send(files)


class _Team:
    """The processes of a job, and the files that none of them has yet."""

    def __init__(self, job: Job, devices: Sequence[str], todo: deque[Path]) -> None:
        self.job, self.todo, self.total = job, todo, len(devices)
        self.deaths: Counter[Path] = Counter()
        self.lost: list[str] = []
        self.workers = list[_Worker]()
        try:
            for device in devices:
                self.workers.append(_Worker(job, device))
        except BaseException:
            self._stop()
            raise

    def work(self) -> Iterator[Outcome]:
        try:
            while self.todo or any(worker.busy for worker in self.workers):
                if not self.workers:
                    raise TrainingError(
                        f"The processes on {listed(self.lost)} ended early, perhaps because the memory was full; run "
                        "the same command again to translate what is missing."
                    )
                for worker in self.workers:
                    if worker.idle and self.todo:
                        worker.give(self._share())
                ready = wait([worker.connection for worker in self.workers])
                for worker in [worker for worker in self.workers if worker.connection in ready]:
                    try:
                        yield from self._hear(worker)
                    except (EOFError, OSError):
                        yield from self._bury(worker)
        finally:
            self._stop()

    def _share(self) -> list[Path]:
        """Take the next files: many at once, but so few in the end that all devices end at the same time."""
        alone = self.deaths or self.job.files.statistics
        count = 1 if alone else max(1, min(LOOK_AHEAD, len(self.todo) // (4 * self.total)))
        return [self.todo.popleft() for _ in range(min(count, len(self.todo)))]

    def _hear(self, worker: _Worker) -> Iterator[Outcome]:
        message = worker.connection.recv()
        if isinstance(message, Outcome):
            worker.files.pop(Path(message.source), None)
            yield self._counted(message)
        elif isinstance(message, tuple):
            self.job.blocks(*message)
        elif isinstance(message, Img2ImgError):
            raise message
        elif isinstance(message, list):
            self._note(message)
        elif message == MORE:
            worker.give(self._share())
        else:
            worker.idle, worker.busy = True, False

    def _note(self, notes: list[str]) -> None:
        for note in notes:
            add_note(self.job.translator.notes, note)

    def _bury(self, worker: _Worker) -> Iterator[Outcome]:
        """Give the files of a process that was killed to the others, except those that may have been why."""
        stop(worker.process, worker.connection)
        self.workers.remove(worker)
        self.lost.append(worker.device)
        self.job.translator.notes.append(f"The process on {worker.device} ended early; the others did its work.")
        self.deaths.update(worker.files.keys())
        for source in worker.files:
            remove_stale(self.job.plan.target(source).parent)
            if self.deaths[source] < DEATHS:
                self.todo.appendleft(source)
                continue
            reason = f"{quote(source)}: {counted(DEATHS, 'process', 'processes')} that had it in hand ended early."
            yield self._counted(Outcome(source, self.job.plan.target(source), "failed", reason))

    def _counted(self, outcome: Outcome) -> Outcome:
        self.job.done += 1
        return replace(outcome, done=self.job.done, total=self.job.total)

    def _stop(self) -> None:
        """End the processes, with what they are writing completed."""
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            if not stop(worker.process, worker.connection):
                for source in worker.files:
                    remove_stale(self.job.plan.target(source).parent)


def stop(process: Any, connection: Any) -> bool:
    """Let a process end that works as long as a connection is open; return whether it did so by itself."""
    connection.close()
    process.join(PATIENCE)
    if process.exitcode is not None:
        return True
    process.kill()
    process.join()
    return False


def add_note(notes: list[str], note: str) -> None:
    """Add a note unless there is one that differs in its example alone."""
    if note.partition(", e.g. ")[0] not in {known.partition(", e.g. ")[0] for known in notes}:
        notes.append(note)


def light(job: Job, device: str) -> Job:
    """Return the job for a process that is to work on `device`: without the list of all files."""
    light, plan, translator = copy.copy(job), copy.copy(job.plan), copy.copy(job.translator)
    translator.asked, translator.notes = (device, translator.asked[1]), []
    plan.sources, plan.passed = [], Counter()
    light.translator, light.plan, light.blocks = translator, plan, unheard
    return light


class _Given(deque[Path]):
    """The files that a process was given. When it has none, it asks for more, until there are none for now."""

    def __init__(self, files: list[Path], connection: Any) -> None:
        super().__init__(files)
        self.connection, self.dry = connection, False

    def __bool__(self) -> bool:
        if not len(self) and not self.dry:
            self.connection.send(MORE)
            self.extend(files := self.connection.recv())
            self.dry = not files
        return len(self) > 0


def _serve(connection: Any, pickled: bytes, threads: int) -> None:
    """Translate the files that come through `connection`, and send their outcomes back, until it is closed."""
    shield()
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            torch.set_num_threads(threads)
            job: Job = pickle.loads(pickled)  # by the process that started this one
            if job.translator.runtime.device.type == "cuda":
                torch.cuda.set_device(job.translator.runtime.device)
            on_cpu = job.translator.runtime.device.type == "cpu"
            way = job.record["precision"], job.record["backend"], job.record.get("threads") if on_cpu else None
            job.translator = job.translator.by_way_of(*way)
            job.blocks = lambda *progress: connection.send(progress)
            files: list[Path] = []
            while True:
                for outcome in job.translate(_Given(files, connection)):
                    connection.send(outcome)
                connection.send(job.translator.notes)
                job.translator.notes.clear()
                connection.send(IDLE)
                files = connection.recv()
        except Img2ImgError as error:
            connection.send(error)
