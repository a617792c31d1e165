"""Endless, seeded batches that any number of processes share and that can start anywhere."""

import os
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from img2img.data.workers import Context, ignore_worker_deaths, shield
from img2img.errors import DataError, TrainingError

PREFETCH = 4  # fewest batches that each worker prepares ahead
Batch = dict[str, Tensor]


class _Batches(Dataset[Any]):
    """Whole batches of a data set: from its `fetch(numbers)`, or, if it has none, collated from its samples.

    A worker returns an error as a value, because a raised one would arrive with a page of tracebacks.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, numbers: Any) -> Batch | Exception:
        if get_worker_info() is None:
            return self._batch(numbers)
        try:
            batch = self._batch(numbers)
            for x in batch.values():
                x.share_memory_()  # type: ignore[no-untyped-call]  # here, where a lack of memory can be reported
            return batch
        except (DataError, OSError, MemoryError) as error:
            return error
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            return TrainingError("There is no room for a batch in shared memory (/dev/shm); use --workers 0.")

    def _batch(self, numbers: Any) -> Batch:
        fetch = getattr(self.dataset, "fetch", None)
        batch: Batch = fetch(numbers) if fetch else default_collate([self.dataset[n] for n in numbers])
        return batch


def auto_workers(device: torch.device) -> int:
    """Return the number of workers for `device`: none on a CPU, which training keeps busy itself; a few for a GPU."""
    return 0 if device.type == "cpu" else min(4, max((os.cpu_count() or 2) - 1, 0))


def stream(
    dataset: Dataset[Batch],
    start: int,
    stop: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    prefetch: int = PREFETCH,
) -> Generator[Batch, None, None]:
    """Yield batches `start` to `stop` (exclusive) of the samples of `dataset`.

    Batch k holds the samples from k * batch_size * world_size on; each process gets its own `batch_size` of them. So
    resuming from batch k takes no stored state, and the samples depend neither on workers nor on processes. Closing
    the iterator ends the workers.

    Raises:
        DataError: if an image cannot be read.
        TrainingError: if a worker is killed.
    """
    firsts = ((k * world_size + rank) * batch_size for k in range(start, stop))
    numbers: Any = (list(range(first, first + batch_size)) for first in firsts)
    loader = DataLoader(
        _Batches(dataset),
        sampler=numbers,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=Context() if workers else None,
        worker_init_fn=shield,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # leaves the global one to training
        prefetch_factor=prefetch if workers else None,
    )
    batches = iter(loader)
    if not workers:
        yield from batches
        return
    with ignore_worker_deaths():
        try:
            while (batch := _next(batches)) is not None:
                if isinstance(batch, Exception):
                    raise batch
                yield batch if pin_memory else {name: x.clone() for name, x in batch.items()}  # shared memory is scarce
        finally:  # now, rather than when the last error that refers to them is freed
            getattr(batches, "_shutdown_workers", lambda: None)()


def _next(batches: Iterator[Any]) -> Any:
    """Return the next batch, or the error in its place; None at the end."""
    try:
        return next(batches, None)
    except (RuntimeError, OSError, EOFError) as error:
        if str(error).startswith("Caught"):  # raised by our code in a worker, with its traceback
            raise
        raise TrainingError(
            "A process that prepares images was killed, perhaps because the memory was full; use fewer --workers, or 0."
        ) from error
