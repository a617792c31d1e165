"""InfoGAN: Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel, "InfoGAN: Interpretable Representation Learning by
Information Maximizing Generative Adversarial Nets", NeurIPS 2016, arXiv:1606.03657.
"""

from dataclasses import dataclass, replace
from math import log
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.core import options as o
from img2img.core.heads import WithHeads
from img2img.core.method import Batch, Scalars, Use
from img2img.core.needs import Facts
from img2img.core.noise import drawing
from img2img.options.declared import Within


@dataclass(frozen=True)
class InfoGANConfig(o.GameConfig):
    """InfoGAN's options, with the defaults of the authors' code for MNIST."""

    unused: ClassVar[tuple[str, ...]] = ("noise",)

    codes: Annotated[int, "Values of the categorical code.", Within(2, 1000)] = 10
    continuous: Annotated[int, "Number of continuous codes.", Within(0, 1000)] = 2
    lambda_info: Annotated[float, "Weight of the mutual information.", o.WEIGHT] = 1.0
    latent: o.Latent = 62
    noise: o.Noise = "uniform"
    lr: o.LearningRate = 1e-3
    d_lr: o.DLearningRate = 2e-4


class InfoGAN(WithHeads):
    r"""Part of G's noise is codes c, which have to be recognised in the image: categories, and numbers in [-1, 1].

        min_{G,Q} max_D V(D, G) - lambda L_I(G, Q)                      eq. 6
        L_I = E[log Q(c | G(z, c))] + H(c) <= I(c; G(z, c))             eq. 5

    Q shares D's layers except for the last, and moves with D; L_I is in D's loss and in G's. A number is scored as
    N(mu(x), 1) against N(0, 1), as in the authors' code: E[c^2 - (c - mu)^2] / 2. The categories are the classes of
    the model, so that --label draws one of them.
    """

    Config = InfoGANConfig
    batch_size = 128

    def __init__(self, config: InfoGANConfig, facts: Facts) -> None:
        super().__init__(config, replace(facts, classes=tuple(map(str, range(config.codes)))))

    @staticmethod
    def build(config: InfoGANConfig, facts: Facts) -> dict[str, Use]:
        return drawing(config, facts, config.codes, config.continuous)

    def columns(self) -> int:
        columns: int = self.config.codes + self.config.continuous
        return columns

    def conditions(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch["code"],)

    def fake(self, batch: Batch) -> Tensor:
        """Generate as many images as the batch has; their noise and codes join the batch."""
        n, device = len(batch["image"]), batch["image"].device
        batch["code"] = torch.randint(self.config.codes, (n,), device=device)
        batch["noise"] = self.noise.draw(n, device)
        fake: Tensor = self.g(batch["noise"], batch["code"])
        return fake

    def information(self, batch: Batch, q: Tensor) -> tuple[Tensor, Scalars]:
        """Return L_I in nats, of the codes of a batch and what Q (N, columns) says of them, and its two parts."""
        k = self.config.codes
        number, mean = batch["noise"][:, self.config.latent :], q[:, k:]
        parts = {
            "mi_code": log(k) - F.cross_entropy(q[:, :k], batch["code"]),
            "mi_continuous": (number.square() - (number - mean).square()).sum(1).mean() / 2,
        }
        return parts["mi_code"] + parts["mi_continuous"], parts

    def d_heads(self, batch: Batch, real: Tensor, fake: Tensor) -> tuple[Tensor, Scalars]:
        return -self.config.lambda_info * self.information(batch, fake)[0], {}

    def g_heads(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        information, parts = self.information(batch, fake)
        return -self.config.lambda_info * information, parts
