"""The game of two domains, with a generator each way and a cycle; such papers are cases of it."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.core.method import Batch, Image, Method, Optimizer, Scalars, Use, adam
from img2img.core.needs import Facts
from img2img.core.referee import Referee, learning_rates, measured
from img2img.translation.build import build_discriminator, build_generator
from img2img.translation.features import match_means, perceptual

DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss}


class TwoDomains(Method):
    r"""g_ab: A -> B and g_ba: B -> A; d_a judges images of domain A, d_b those of B.

        L_G = L_GAN(g_ab, d_b) + L_GAN(g_ba, d_a) + lambda (d(g_ba(g_ab(a)), a) + d(g_ab(g_ba(b)), b)) + more

    One optimizer drives both generators and another both discriminators. G moves first, then D. A paper adds to G's
    loss in `generate`, shows D other fakes than the newest (`shown`), or changes the order (`step`).

    Attributes:
        weight: factor of D's loss.
    """

    kinds = measured("d_a", "d_b")
    weight: ClassVar[float] = 1.0
    referee: Referee

    def __init__(self, config: Any, facts: Facts) -> None:
        super().__init__(config, facts)
        self.referee = Referee(config, config.norm, self.weight)
        self.perceptual = perceptual(config, *facts.channels.values())
        self.g_ab, self.g_ba = self.uses["a2b"].network, self.uses["b2a"].network
        self.d_a, self.d_b = (build_discriminator(config, facts.channels[domain]) for domain in "ab")
        g_lr, d_lr = learning_rates(config)
        self.player("G", self.g_ab, self.g_ba, lr=g_lr, optimizer=self.optimizer())
        self.player("D", self.d_a, self.d_b, lr=d_lr, optimizer=self.optimizer())

    @staticmethod
    def build(config: Any, facts: Facts) -> dict[str, Use]:
        a, b = facts.channels["a"], facts.channels["b"]
        return {
            "a2b": Use(build_generator(config, a, b), (Image("a"),), "b"),
            "b2a": Use(build_generator(config, b, a), (Image("b"),), "a"),
        }

    def optimizer(self) -> Optimizer:
        return adam(self.config.beta1)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        return DISTANCES[self.config.distance](x, y)

    def generate(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor | float, Scalars]:
        """Return the fakes of B and of A, what else is added to G's loss, and scalars for the log."""
        return self.g_ab(a), self.g_ba(b), 0.0, {}

    def shown(self, fake: Tensor, domain: str) -> Tensor:
        """Return the fakes that the discriminator of `domain` is shown."""
        return fake

    def move_g(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Scalars]:
        """Move the generators; return their fakes of B and of A, and scalars for the log."""
        c = self.config
        fake_b, fake_a, more, scalars = self.generate(a, b)
        adversarial = self.referee.fool(self.d_b, fake_b, b) + self.referee.fool(self.d_a, fake_a, a)
        back_a, back_b = self.g_ba(fake_b), self.g_ab(fake_a)
        cycle = self.distance(back_a, a) + self.distance(back_b, b)
        loss = adversarial + c.lambda_cycle * cycle + more
        if c.lambda_feature:
            scalars["feature"] = match_means(self.d_b, b, fake_b) + match_means(self.d_a, a, fake_a)
            loss = loss + c.lambda_feature * scalars["feature"]
        if c.lambda_perceptual:
            scalars["perceptual"] = self.perceptual(back_a, a) + self.perceptual(back_b, b)
            loss = loss + c.lambda_perceptual * scalars["perceptual"]
        self.move("G", loss)
        return fake_b, fake_a, {"g_gan": adversarial, "cycle": cycle} | scalars

    def move_d(self, a: Tensor, b: Tensor, fake_b: Tensor, fake_a: Tensor) -> Scalars:
        """Move the discriminators; return scalars for the log."""
        loss_a, measures_a = self.referee.judge(self.d_a, a, self.shown(fake_a, "a"))
        loss_b, measures_b = self.referee.judge(self.d_b, b, self.shown(fake_b, "b"))
        self.move("D", loss_a + loss_b)
        scalars = {"d_a": loss_a, "d_b": loss_b} | {f"d_a_{name}": x for name, x in measures_a.items()}
        return scalars | {f"d_b_{name}": x for name, x in measures_b.items()}

    def step(self, batches: Iterator[Batch]) -> Scalars:
        batch = next(batches)
        a, b = batch["a"], batch["b"]
        fake_b, fake_a, scalars = self.move_g(a, b)
        scalars |= self.move_d(a, b, fake_b, fake_a)
        return {name: x.detach() for name, x in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a, b = batch["a"], batch["b"]
        fake_b, fake_a = self.g_ab(a), self.g_ba(b)
        return {
            "a": a, "a → b": fake_b, "a → b → a": self.g_ba(fake_b),
            "b": b, "b → a": fake_a, "b → a → b": self.g_ab(fake_a),
        }  # fmt: skip
