"""BigGAN: Brock, Donahue, Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", ICLR 2019,
arXiv:1809.11096.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from img2img.core import options as o
from img2img.core.method import Batch, Label, Noise, Optimizer, Scalars, Use
from img2img.core.needs import Facts
from img2img.core.noise import FromNoise
from img2img.core.referee import regularised
from img2img.networks.residual import ProjectionDiscriminator, ResidualGenerator
from img2img.options.declared import Within


@dataclass(frozen=True)
class BigGANConfig(o.ResidualConfig):
    """BigGAN's options, with the defaults of the paper at 128 px."""

    embedding: Annotated[int, "Length of the vector of the class that all norms share.", Within(1, 2**16)] = 128
    lambda_ortho: Annotated[float, "Weight of the orthogonal regularisation of G.", o.WEIGHT] = 1e-4
    deep: Annotated[bool, "The networks of BigGAN-deep: four times the layers, and all of the noise in each."] = False
    latent: o.Latent = 120
    width: o.ResidualWidth = 96
    d_width: o.ResidualDWidth = 96
    attention: o.Attention = 64
    n_critic: o.NCritic = 2
    lr: o.LearningRate = 5e-5
    d_lr: o.DLearningRate = 2e-4
    beta2: o.Beta2 = 0.999


class BigGAN(FromNoise):
    r"""The game of SAGAN, larger: the class is one vector for all norms, and each block gets a part of the noise.

        L_G = -E[D(G(z, y), y)] + lambda sum_W |W W^T * (1 - I)|^2      eq. 3, of all of G's weights but the vectors

    z = (z_0, ..., z_L): z_0 enters the first layer, and block l the norms' gains and shifts, linear in (vector, z_l).
    In BigGAN-deep (appendix B) all layers get (vector, z), blocks are bottlenecks, and shortcuts copy channels.
    The truncation of section 3.1 is that of `img2img sample --truncation`.
    """

    Config = BigGANConfig

    @staticmethod
    def build(config: BigGANConfig, facts: Facts) -> dict[str, Use]:
        k, c = len(facts.classes), config
        g = ResidualGenerator(
            c.latent, k, facts.channels["image"], facts.size, c.width, c.attention, c.embedding, c.deep
        )
        return {"sample": Use(regularised(g, c.spectral), (Noise(c.latent, c.noise), Label(k)), "image")}

    def build_d(self) -> nn.Module:
        c, f = self.config, self.facts
        return ProjectionDiscriminator(f.channels["image"], len(f.classes), f.size, c.d_width, c.attention, c.deep)

    def optimizer(self) -> Optimizer:
        return partial(super().optimizer(), eps=1e-6)  # of the authors' code

    def g_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        loss, scalars = super().g_loss(batch, fake)
        if not self.config.lambda_ortho:
            return loss, scalars
        weights = (p for name, p in self.g.named_parameters() if p.ndim > 1 and not name.startswith("embedding"))
        ortho = orthogonality(weights)
        return loss + self.config.lambda_ortho * ortho, scalars | {"ortho": ortho}


def orthogonality(weights: Iterable[Tensor]) -> Tensor:
    """Return the sum of |W W^T * (1 - I)|^2, with a row of W for each output of a layer; 0 if rows are orthogonal."""
    products = ((w := weight.flatten(1)) @ w.T for weight in weights)
    return torch.stack([x.square().sum() - x.diagonal().square().sum() for x in products]).sum()
