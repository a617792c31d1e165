"""Endless, seeded batches that any number of processes share and that can start anywhere."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Tensor]


class _Positions:
    """Lists of sample numbers, one list a batch: process `rank` takes its slice of every global batch."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int, world_size: int) -> None:
        self.batches = range(start, stop)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for k in self.batches:
            first = (k * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


class _Fetched(Dataset[Batch]):
    """A data set that makes whole batches at once, by `fetch`, which is faster than one sample after the other."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, numbers: Any) -> Batch:
        batch: Batch = self.dataset.fetch(numbers)
        return batch


def auto_workers(device: torch.device) -> int:
    """None beside a CPU training, which needs every core itself; a few beside a GPU."""
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
) -> Iterator[Batch]:
    """Batches number `start` up to `stop` of the samples of `dataset`.

    Batch k holds the samples from k * batch_size * world_size on, of which each process gets its own `batch_size`. So
    nothing needs to be remembered to go on from batch k, and the samples do not depend on workers or processes.
    """
    positions: Any = _Positions(start, stop, batch_size, rank, world_size)
    whole = hasattr(dataset, "fetch")
    batches: Any = {"sampler": positions, "batch_size": None} if whole else {"batch_sampler": positions}
    loader = DataLoader(
        _Fetched(dataset) if whole else dataset,
        **batches,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: the global one belongs to the training
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)
