"""The adversarial game: players that each own networks and an optimizer, and take turns."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from img2img.core.referee import Referee
from img2img.runtime.averaging import averaged_gradients

Batch = dict[str, Tensor]
Scalars = dict[str, Tensor]


class Method(nn.Module):
    """One paper: its networks, its players, and the order of their moves.

    A method says in `step` what a training step is, drawing batches and calling `update`; in `preview` which images
    show what it has learned; and in `generators` which network translates in which direction. It knows nothing of
    files, devices, precision or processes. All its state is in `state_dict()` and in its optimizers.

    Args:
        config: an instance of `Config`.
        channels: channels of the images of each domain, by the keys of a batch.

    Attributes:
        Config: the frozen dataclass of its options.
        generators: direction -> (domain of the input, domain of the output, attribute that holds the generator).
        layout: what a batch holds: "pairs", "a" and "b" that show the same thing; "unpaired", "a" and "b"; or "images".
        rows: samples that `preview` is called with, one by one, for a sample grid.
        batch_size: images in a batch, where nothing else is asked for.
        optimizers: player -> its optimizer.
        referee: the losses that all methods share, if this one uses them.
        step_number: of the step that is being taken, from 1; the training loop moves it.
        draws: batches that one `step` takes.
        watch: whether this step also measures what only the log needs: gradient norms, diversity.
        gradient_norms: player -> norm of its gradient at its last measured move, before it is clipped.
        accumulate: successive `update` calls whose gradients are averaged into one move of a player.
        clip: largest gradient norm of a player; 0 leaves gradients alone.
    """

    Config: ClassVar[type]
    generators: ClassVar[dict[str, tuple[str, str, str]]]
    layout: ClassVar[str]
    rows: ClassVar[int] = 4
    batch_size: ClassVar[int] = 1

    def __init__(self, config: Any, channels: dict[str, int]) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.step_number = 1
        self.draws = 1
        self.watch = True
        self.gradient_norms: dict[str, Tensor] = {}
        self.accumulate = 1
        self.clip = 0.0
        self._updates: Counter[str] = Counter()

    @staticmethod
    def resolve(config: Any, size: int) -> Any:
        """`config` with every "auto" replaced by what it means for images of `size` pixels."""
        raise NotImplementedError

    @staticmethod
    def build_generator(config: Any, in_channels: int, out_channels: int) -> nn.Module:
        """One generator, with its weights as initialised."""
        raise NotImplementedError

    def step(self, batches: Iterator[Batch]) -> Scalars:
        """One training step in the paper's own order; returns scalars worth logging, still on the device."""
        raise NotImplementedError

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """The columns of a sample grid, by title; every image (N, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def proceed(self, step: int, steps: int) -> None:
        """Says which step of how many comes next, for what changes over a run."""
        self.step_number = step
        referee = getattr(self, "referee", None)
        if isinstance(referee, Referee):
            referee.progress = (step - 1) / steps

    def draws_until(self, step: int) -> int:
        """Batches that the first `step` steps take."""
        return step * self.draws

    def networks(self) -> dict[str, nn.Module]:
        """The networks of all players, by attribute name."""
        return {name: child for name, child in self.named_children() if any(True for _ in child.parameters())}

    def add_player(self, name: str, *networks: nn.Module, lr: float, beta1: float, beta2: float = 0.999) -> None:
        """Gives the player `name` one Adam over all of `networks` (Kingma and Ba 2015)."""
        parameters = [p for network in networks for p in network.parameters()]
        self.optimizers[name] = torch.optim.Adam(parameters, lr=lr, betas=(beta1, beta2), fused=True)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return [p for group in self.optimizers[player].param_groups for p in group["params"]]

    def update(self, player: str, loss: Tensor) -> None:
        """Moves `player` one optimizer step down the gradient of `loss`, and nobody else.

        The backward pass ends at the player's own parameters, so no other player receives a gradient.
        """
        parameters = self.parameters_of(player)
        self._updates[player] += 1
        complete = self._updates[player] % self.accumulate == 0
        with averaged_gradients(parameters) if complete else contextlib.nullcontext():
            (loss / self.accumulate).backward(inputs=parameters)  # type: ignore[no-untyped-call]
        if not complete:
            return
        if self.watch or self.clip:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.gradient_norms[player] = norm
        if self.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        self.optimizers[player].step()
        self.optimizers[player].zero_grad()
