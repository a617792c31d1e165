"""Work shared by Ray: pieces go to workers, processes that each hold a copy of the work, and results come back."""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from img2img.bulk.begun import Begun
from img2img.bulk.cluster import count_workers
from img2img.bulk.options import RayOptions
from img2img.errors import ConfigError, DataError, Img2ImgError, ModelFileError, TrainingError, first_line, quote
from img2img.model.devices import add_note

PIECES = 32  # that a worker takes at a time, at most
SHARES = 8  # that each worker takes, at least, if there are enough pieces
TRIES = 3  # of a piece alone, once a worker has ended while it worked on it
PR_SET_PDEATHSIG = 1
RESULT, NOTE, BUG = "result", "note", "bug"
COLUMNS = ("number", "kind", "value")
ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, ModelFileError, TrainingError, Img2ImgError)}
ENDED = "the process that worked on it ended each time; is there enough memory?"
UNKNOWN = "Ray returned no result for it; run the same command again."


class Work(Protocol):
    """A job as a worker sees it. It can be pickled; pieces are bytes."""

    @property
    def notes(self) -> list[str]:
        """Sentences for the user; the list is emptied."""

    @property
    def most(self) -> int:
        """Pieces that a worker takes at a time, at most."""

    def join(self, begun: Begun) -> None:
        """Set this process up to compute as the others do, or raise an Img2ImgError."""

    def do(self, pieces: dict[int, bytes]) -> Iterable[tuple[int, Any]]:
        """Do pieces, given by number; yield the number and the result of each, in any order."""

    def tidy(self, piece: bytes) -> None:
        """Remove what a worker that has ended left of a piece half done."""

    def given_up(self, piece: bytes, reason: str) -> Any:
        """Return the result of a piece that cannot be done; or raise an Img2ImgError."""


class Worker:
    """A copy of a job in a process of its own.

    Args:
        work: the job.
        begun: what all workers know.
        place: the folder that relative paths start from.
    """

    def __init__(self, work: Work, begun: Begun, place: str) -> None:
        self.work, self.begun, self.is_ready = work, begun, False
        with suppress(OSError):
            os.chdir(place)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Do pieces, given by number; return a row for each, and for each note, and for what stops all.

        Exceptions are rows too: Ray would start the work again.
        """
        pieces = {int(n): bytes(piece) for n, piece in zip(batch["number"], batch["piece"], strict=True)}
        rows: list[tuple[int, str, Any]] = []
        try:
            for number, result in self._results(pieces):
                rows.append((number, RESULT, result))
        except Img2ImgError as error:
            kind = next(kind for kind in type(error).__mro__ if kind.__name__ in ERRORS)
            rows.append((-1, kind.__name__, str(error)))
        except Exception:
            rows.append((-1, BUG, traceback.format_exc()))
        rows += [(-1, NOTE, note) for note in self.work.notes]
        self.work.notes.clear()
        numbers, kinds, values = zip(*rows, strict=True)
        return dict(zip(COLUMNS, (list(numbers), list(kinds), list(map(pickle.dumps, values))), strict=True))

    def _results(self, pieces: dict[int, bytes]) -> Iterator[tuple[int, Any]]:
        if not self.is_ready:
            self.work.join(self.begun)
            self.is_ready = True
        if self.begun.count(f"from {min(pieces)}", 1) == 1:
            yield from self.work.do(pieces)
            return
        for number, piece in pieces.items():  # one of which may be what ends workers
            self.work.tidy(piece)
            if self.begun.count(str(number), 1) <= TRIES:
                yield from self.work.do({number: piece})
                self.begun.count(str(number), -1)
            else:
                yield number, self.work.given_up(piece, ENDED)


class Actor(Worker):
    """A worker that ends at once when the process of Ray that started it has ended: some were seen to stay for ever."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Elsewhere(Begun):
    """What all workers know, asked for from any of them; it is kept beside the process that gave the job."""

    def __init__(self, ray: Any) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.ray, self.actor = ray, ray.remote(Begun).options(num_cpus=0, scheduling_strategy=here).remote()

    def count(self, piece: str, step: int) -> int:
        return int(self.ray.get(self.actor.count.remote(piece, step)))

    def first(self, key: Any, value: Any) -> Any:
        return self.ray.get(self.actor.first.remote(key, value))


def spread(
    ray: Any, work: Work, pieces: Iterable[bytes], options: RayOptions, gpus: float, notes: list[str]
) -> Iterator[tuple[int, Any]]:
    """Do pieces of a job on Ray; yield the number and the result of each as soon as it is known, in any order.

    Args:
        ray: the module, connected.
        work: the job, as workers are to have it.
        pieces: what to do; they are numbered from 0.
        options: of Ray.
        gpus: of each worker.
        notes: where the notes of workers are added.

    Raises:
        ConfigError: if a worker cannot compute as the others do.
        TrainingError: if the disk is full, or Ray cannot continue.
    """
    import pyarrow

    table = pyarrow.table({"piece": pyarrow.array(pieces, pyarrow.large_binary())})
    table = table.add_column(0, "number", pyarrow.array(range(len(table)), pyarrow.int64()))
    missing = set(range(len(table)))
    try:
        for row in _rows(ray, work, table, options, gpus) if missing else ():
            number, kind, value = row["number"], row["kind"], pickle.loads(row["value"])  # by a worker of this job
            if kind == NOTE:
                add_note(notes, value)
            elif kind == BUG:
                raise RuntimeError(value)
            elif kind in ERRORS:
                raise ERRORS[kind](value)
            elif number in missing:
                missing.remove(number)
                yield number, value
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"Ray cannot continue: {first_line(error).rstrip('.')}. Run the same command again."
        ) from error
    for number in sorted(missing):
        yield number, work.given_up(table["piece"][number].as_py(), UNKNOWN)


def _rows(ray: Any, work: Work, table: Any, options: RayOptions, gpus: float) -> Iterator[dict[str, Any]]:
    workers = min(count_workers(ray, options, gpus), len(table))
    size = max(1, min(work.most, len(table) // (SHARES * workers)))
    results = ray.data.from_arrow([table.slice(k, size) for k in range(0, len(table), size)]).map_batches(
        Actor,
        fn_constructor_args=(work, _Elsewhere(ray), str(Path.cwd())),
        batch_size=size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=options.ray_cpus,
        num_gpus=gpus or None,
    )
    yield from results.iter_rows()


def gpus_of(kind: str, asked: str, options: RayOptions) -> float:
    """Return the GPUs of each worker of a job on a `kind` of device.

    Raises:
        ConfigError: if the device was asked for as one GPU by number, which workers do not have.
    """
    if kind != "cuda":
        if options.ray_gpus:
            raise ConfigError(f"--ray-gpus has no effect on {kind}; leave it out, or use --device cuda.")
        return 0.0
    if asked not in ("auto", "cuda"):
        raise ConfigError(f"--device {quote(asked)}: Ray gives each worker its GPU; use --device cuda.")
    return options.ray_gpus or 1.0
