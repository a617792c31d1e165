"""DualGAN: Yi, Zhang, Tan, Gong, "DualGAN: Unsupervised Dual Learning for Image-to-Image Translation", ICCV 2017,
arXiv:1704.02510.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from img2img.core import options as core
from img2img.core.method import Batch, Optimizer, Scalars
from img2img.core.needs import Facts
from img2img.core.optimizers import RMSprop
from img2img.core.penalties import clip_weights
from img2img.options.declared import Within
from img2img.translation import options as o
from img2img.translation.build import deepest_unet
from img2img.translation.two_domains import TwoDomains


@dataclass(frozen=True)
class DualGANConfig(o.TwoDomainsConfig):
    """DualGAN's options, with the defaults of Algorithm 1 and sections 3.3 and 3.4; RMSprop has no betas."""

    unused: ClassVar[tuple[str, ...]] = ("beta1",)

    objective: core.Objective = "wasserstein"
    penalty: core.Penalty = "none"
    weight_clip: Annotated[
        float, "The critics' weights are clipped to plus or minus this; 0 disables it.", Within(0, 10**6)
    ] = 0.1
    n_critic: core.NCritic = 2
    dropout: o.Dropout = 0.5
    lr: o.LearningRate = 5e-5
    decay: core.Decay = 0.0
    lambda_cycle: o.LambdaCycle = 500.0


class DualGAN(TwoDomains):
    r"""Two generators that undo each other, and two critics, which estimate Wasserstein distances.

        L_D = E[d_a(g_ba(b))] - E[d_a(a)] + E[d_b(g_ab(a))] - E[d_b(b)]               eq. 1, 2
        L_G = -E[d_a(g_ba(b))] - E[d_b(g_ab(a))]                                      eq. 3
            + lambda (|a - g_ba(g_ab(a))| + |b - g_ab(g_ba(b))|)                      lambda_U = lambda_V

    The noise z is dropout. Algorithm 1: n_critic moves of both critics, each on a fresh batch, with their weights
    clipped; then one of both generators on the last batch, all by RMSprop.
    """

    Config = DualGANConfig

    def __init__(self, config: DualGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.draws = config.n_critic
        self._clip()

    @staticmethod
    def resolve(config: DualGANConfig, facts: Facts) -> DualGANConfig:
        return replace(config, generator=deepest_unet(facts.size)) if config.generator == "auto" else config

    def optimizer(self) -> Optimizer:
        return RMSprop

    def move(self, player: str, loss: Tensor) -> None:
        super().move(player, loss)
        if player == "D":
            self._clip()

    def _clip(self) -> None:
        if self.config.weight_clip:
            clip_weights(self.parameters_of("D"), self.config.weight_clip)

    def step(self, batches: Iterator[Batch]) -> Scalars:
        for _ in range(self.config.n_critic):
            batch = next(batches)
            a, b = batch["a"], batch["b"]
            with torch.no_grad():
                fake_b, fake_a = self.g_ab(a), self.g_ba(b)
            measures = self.move_d(a, b, fake_b, fake_a)
        _, _, scalars = self.move_g(a, b)
        return {name: x.detach() for name, x in (scalars | measures).items()}
