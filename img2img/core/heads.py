"""The game of a discriminator that also says what an image shows, in further columns of its output."""

import torch
from torch import Tensor, nn

from img2img.core.method import Batch, Scalars
from img2img.core.noise import FromNoise
from img2img.networks import FROM_NOISE


class WithHeads(FromNoise):
    """d: images -> (N, 1 + columns), the logit of being real and the heads; conditions are for the generator alone.

    A paper states what is added to D's loss and to G's for what the heads say of real and of generated images.
    """

    def columns(self) -> int:
        """Return the number of columns beside the logit."""
        return len(self.facts.classes)

    def build_d(self) -> nn.Module:
        channels = self.facts.channels["image"]
        return FROM_NOISE[self.config.network].d(channels, self.facts.size, self.config, 1 + self.columns())

    def d_heads(self, batch: Batch, real: Tensor, fake: Tensor) -> tuple[Tensor, Scalars]:
        """Return what the heads (N, columns) of real and generated images add to D's loss, and scalars for the log."""
        raise NotImplementedError

    def g_heads(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        """Return what the heads (N, columns) of generated images add to G's loss, and scalars for the log."""
        raise NotImplementedError

    def d_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        critic = _Critic(self.d)
        loss, measures = self.referee.judge(critic, batch["image"], fake)
        more, scalars = self.d_heads(batch, *critic.heads[:2])
        return loss + more, measures | scalars

    def g_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        critic = _Critic(self.d)
        loss = self.referee.fool(critic, fake, batch["image"])
        more, scalars = self.g_heads(batch, critic.heads[0])
        return loss + more, {"g_gan": loss} | scalars


class _Critic:
    """The logits (N, 1) of a discriminator with heads; keeps what the heads say, call by call."""

    def __init__(self, d: nn.Module) -> None:
        self.d, self.heads = d, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(x)
        self.heads.append(out[:, 1:])
        return out[:, :1]


@torch.no_grad()
def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the share of images whose class is the largest of the logits (N, classes)."""
    return (logits.argmax(1) == label).float().mean()
