"""BEGAN: Berthelot, Schumm, Metz, "BEGAN: Boundary Equilibrium Generative Adversarial Networks", 2017,
arXiv:1703.10717.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from img2img.core import options as o
from img2img.core.energy import EnergyConfig, EnergyGame
from img2img.core.method import Batch, Scalars
from img2img.core.needs import Facts
from img2img.options.declared import Within
from img2img.runtime.averaging import averaged


@dataclass(frozen=True)
class BEGANConfig(EnergyConfig):
    """BEGAN's options, with the defaults of section 4."""

    gamma: Annotated[
        float, "Ratio of the losses of generated and real images that is held; less is sharper and less diverse.",
        Within(0, 1),
    ] = 0.5  # fmt: skip
    lambda_k: Annotated[float, "Rate at which k follows the balance of both losses.", Within(0, 1)] = 0.001
    network: o.Network = "began"
    latent: o.Latent = 64
    noise: o.Noise = "uniform"
    width: o.Width = 128
    d_width: o.DWidth = 128
    lr: o.LearningRate = 1e-4
    beta1: o.Beta1 = 0.9


class BEGAN(EnergyGame):
    r"""D tells the reconstruction losses L(x) = |AE(x) - x| of real and generated images apart, at an equilibrium.

        L_D = L(x) - k L(G(z_D)),    L_G = L(G(z_G))                              section 3.4
        k <- k + lambda_k (gamma L(x) - L(G(z_G))),    within [0, 1], from 0
        M = L(x) + |gamma L(x) - L(G(z_G))|                                       section 3.4.1

    k weighs D's two aims such that L(G) stays gamma L(x). M falls as a run converges.

    Attributes:
        k: the weight of generated images in D's loss, the same in all processes.
    """

    Config = BEGANConfig
    kinds = dict(EnergyGame.kinds) | {"k": "schedule"}
    batch_size = 16
    k: Tensor

    def __init__(self, config: BEGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.register_buffer("k", torch.zeros(()))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs()

    def d_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        real, low = self.energies(batch["image"])[0].mean(), self.energies(fake)[0].mean()
        return real - self.k * low, {"energy_real": real, "energy_fake": low}

    def g_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        loss = self.energies(fake)[0].mean()
        return loss, {"g_gan": loss}

    def step(self, batches: Iterator[Batch]) -> Scalars:
        scalars = super().step(batches)
        balance = self.config.gamma * scalars["d_energy_real"] - scalars["g_gan"]
        self.k.add_(self.config.lambda_k * averaged(balance)).clamp_(0, 1)
        return scalars | {"k": self.k.clone(), "convergence": scalars["d_energy_real"] + balance.abs()}
