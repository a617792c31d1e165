"""Random subsets that depend on the images alone, neither on their order nor on other random draws."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def canonical(rows: Tensor) -> Tensor:
    """Return the rows of (N, D) sorted by their sum, in float64."""
    rows = rows.double()
    return rows[rows.sum(1).argsort(stable=True)]


@contextlib.contextmanager
def own_randomness(seed: int = 0) -> Iterator[None]:
    """Start the CPU's random numbers from `seed` within the block, and restore their state after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        yield
