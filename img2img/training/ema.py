"""A moving average of the generators' weights, which is often the better generator (Yazici et al. 2019)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Follow `networks`: average = decay * average + (1 - decay) * weights after every step; a decay of 0 disables it.

    A tensor that several networks share is averaged once.
    """

    def __init__(self, networks: list[nn.Module], decay: float) -> None:
        self.decay = decay
        every = dict.fromkeys(x for network in networks for x in (*network.parameters(), *_averages(network)))
        self.weights: list[Tensor] = [x for x in every if x.is_floating_point()] if decay else []
        self.average = [x.detach().clone() for x in self.weights]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))  # soon forgets the first weights, which are of no use
        if self.weights:
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    def restart(self) -> None:
        """Begin again, with the weights as they are now."""
        self.steps = 0
        for average, weights in zip(self.average, self.weights, strict=True):
            average.copy_(weights.detach())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the networks carry their averages within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for p, average in zip(self.weights, self.average, strict=True):
            kept = p.clone()
            p.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        steps, average = state["steps"], state["average"]
        assert isinstance(steps, int) and isinstance(average, list)
        self.steps = steps
        for mine, saved in zip(self.average, average, strict=True):
            mine.copy_(saved)


def _averages(network: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers that belong to the weights: the running averages of norms. The vectors of spectral norm do not:
    their average would no longer be of length 1.
    """
    for name, x in network.named_buffers():
        if name.rpartition(".")[2] not in ("_u", "_v"):
            yield x
