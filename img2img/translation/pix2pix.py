"""pix2pix: Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017,
arXiv:1611.07004.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.core.method import Batch, Image, Method, Scalars, Use, adam
from img2img.core.needs import Facts, Needs
from img2img.core.options import WEIGHT
from img2img.core.referee import Referee, learning_rates, measured
from img2img.translation import options as o
from img2img.translation.build import build_discriminator, build_generator, deepest_unet
from img2img.translation.features import match_pairs, perceptual


@dataclass(frozen=True)
class Pix2PixConfig(o.ComparingConfig):
    """pix2pix's options, with the defaults of section 3.3 and appendix 6."""

    needs: ClassVar[Needs] = Needs(("a", "b"), paired=True)

    norm: o.Norm = "batch"
    dropout: o.Dropout = 0.5
    lambda_l1: Annotated[float, "Weight of the L1 distance to the target.", WEIGHT] = 100.0


class Pix2Pix(Method):
    """One generator g: A -> B, and one discriminator that sees input and output together.

        G* = arg min_G max_D L_cGAN(G, D) + lambda L_L1(G)              eq. 4
        L_cGAN(G, D) = E[log D(a, b)] + E[log(1 - D(a, G(a)))]          eq. 1, the noise z being dropout
        L_L1(G) = E[|b - G(a)|]                                         eq. 3

    D moves first, then G, which maximises log D(a, G(a)) instead (section 3.3). The learning rate falls to zero over
    the second half, as in the authors' PyTorch code; the paper keeps it constant (--decay 0).
    """

    Config = Pix2PixConfig
    kinds = measured("d")
    referee: Referee

    def __init__(self, config: Pix2PixConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.referee = Referee(config, config.norm, weight=0.5)  # half, to slow D (section 3.3)
        self.perceptual = perceptual(config, facts.channels["b"])
        self.g = self.uses["a2b"].network
        self.d = build_discriminator(config, facts.channels["a"] + facts.channels["b"])
        g_lr, d_lr = learning_rates(config)
        self.player("G", self.g, lr=g_lr, optimizer=adam(config.beta1))
        self.player("D", self.d, lr=d_lr, optimizer=adam(config.beta1))

    @staticmethod
    def resolve(config: Pix2PixConfig, facts: Facts) -> Pix2PixConfig:
        return replace(config, generator=deepest_unet(facts.size)) if config.generator == "auto" else config

    @staticmethod
    def build(config: Pix2PixConfig, facts: Facts) -> dict[str, Use]:
        g = build_generator(config, facts.channels["a"], facts.channels["b"])
        return {"a2b": Use(g, (Image("a"),), "b")}

    def step(self, batches: Iterator[Batch]) -> Scalars:
        c, referee, batch = self.config, self.referee, next(batches)
        a, b = batch["a"], batch["b"]

        fake_b = self.g(a)
        real_pair, fake_pair = torch.cat([a, b], 1), torch.cat([a, fake_b], 1)
        d_loss, measures = referee.judge(self.d, real_pair, fake_pair)
        self.move("D", d_loss)

        adversarial = referee.fool(self.d, fake_pair, real_pair)
        l1 = F.l1_loss(fake_b, b)
        loss, scalars = adversarial + c.lambda_l1 * l1, {"g_gan": adversarial, "l1": l1}
        if c.lambda_feature:
            scalars["feature"] = match_pairs(self.d, real_pair, fake_pair)
            loss = loss + c.lambda_feature * scalars["feature"]
        if c.lambda_perceptual:
            scalars["perceptual"] = self.perceptual(fake_b, b)
            loss = loss + c.lambda_perceptual * scalars["perceptual"]
        self.move("G", loss)

        scalars |= {"d": d_loss} | {f"d_{name}": x for name, x in measures.items()}
        return {name: x.detach() for name, x in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"a": batch["a"], "a → b": self.g(batch["a"]), "b": batch["b"]}
