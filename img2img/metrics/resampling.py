"""Random subsets that depend on the images alone: not on their order, and not on what else draws random numbers."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def canonical(rows: Tensor) -> Tensor:
    """The rows of (N, D) in an order that is theirs, by their sum, in float64."""
    rows = rows.double()
    return rows[rows.sum(1).argsort(stable=True)]


@contextlib.contextmanager
def own_randomness(seed: int = 0) -> Iterator[None]:
    """The CPU's random numbers start from `seed` inside, and go on outside as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs' as well
        yield
