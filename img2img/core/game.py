"""The adversarial game: players that each own networks and an optimizer, and take turns."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from img2img.core.objectives import Objective
from img2img.core.penalties import gradient_penalty
from img2img.runtime import average_gradients

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
        paired: whether a batch's "a" and "b" show the same thing.
        optimizers: player -> its optimizer.
        draws: batches that one `step` takes.
        accumulate: successive `update` calls whose gradients are averaged into one move of a player.
        clip: largest gradient norm of a player; 0 leaves gradients alone.
    """

    Config: ClassVar[type]
    generators: ClassVar[dict[str, tuple[str, str, str]]]
    paired: ClassVar[bool]

    def __init__(self, config: Any, channels: dict[str, int]) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.draws = 1
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

    def networks(self) -> dict[str, nn.Module]:
        """The networks of all players, by attribute name."""
        return {name: child for name, child in self.named_children() if any(True for _ in child.parameters())}

    def add_player(self, name: str, *networks: nn.Module, lr: float, beta1: float) -> None:
        """Gives the player `name` one Adam over all of `networks` (Kingma and Ba 2015)."""
        parameters = [p for network in networks for p in network.parameters()]
        self.optimizers[name] = torch.optim.Adam(parameters, lr=lr, betas=(beta1, 0.999), fused=True)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return [p for group in self.optimizers[player].param_groups for p in group["params"]]

    def update(self, player: str, loss: Tensor) -> None:
        """Moves `player` one optimizer step down the gradient of `loss`, and nobody else.

        The backward pass ends at the player's own parameters, so no other player receives a gradient.
        """
        parameters = self.parameters_of(player)
        (loss / self.accumulate).backward(inputs=parameters)  # type: ignore[no-untyped-call]
        self._updates[player] += 1
        if self._updates[player] % self.accumulate:
            return
        average_gradients(parameters)
        if self.clip:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizers[player].step()
        self.optimizers[player].zero_grad()


def judge(
    gan: Objective, d: nn.Module, real: Tensor, fake: Tensor, lambda_gp: float
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What `d` minimises on one batch of real and one of generated images.

    Returns:
        The loss, halved as both papers halve it to slow D against G, plus the gradient penalty where the objective
        asks for one; and D's accuracy on "real" and on "fake", each in [0, 1].
    """
    fake = fake.detach()
    real_logits, fake_logits = d(real), d(fake)
    loss = gan.d(real_logits, fake_logits) / 2
    if gan.penalised:
        loss = loss + lambda_gp * gradient_penalty(d, real, fake)
    if gan.boundary is None:
        return loss, {}
    accuracy = {
        "real": (real_logits.detach() > gan.boundary).float().mean(),
        "fake": (fake_logits.detach() <= gan.boundary).float().mean(),
    }
    return loss, accuracy
