"""BicycleGAN: Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman, "Toward Multimodal Image-to-Image Translation",
NeurIPS 2017, arXiv:1711.11586.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.core.method import Batch, Image, Method, Noise, Scalars, Use, adam
from img2img.core.needs import Facts, Needs
from img2img.core.options import CHANNELS, WEIGHT, Latent, Objective
from img2img.core.referee import Referee, learning_rates, measured
from img2img.networks.conditional import NoisyGenerator
from img2img.networks.encoder import Encoder
from img2img.networks.layers import init_weights
from img2img.translation import options as o
from img2img.translation.build import build_discriminator, build_generator, deepest_unet

SHOWN = 4  # results of each image in the sample grid


@dataclass(frozen=True)
class BicycleGANConfig(o.TranslationConfig):
    """BicycleGAN's options, with the defaults of section 4 and of the authors' code."""

    needs: ClassVar[Needs] = Needs(("a", "b"), paired=True)

    objective: Objective = "lsgan"
    latent: Latent = 8
    e_width: Annotated[int, "Channels of the encoder's first layer.", CHANNELS] = 64
    lambda_l1: Annotated[float, "Weight of the L1 distance to the target, given its own code.", WEIGHT] = 10.0
    lambda_kl: Annotated[float, "Weight of the divergence of codes from normal noise.", WEIGHT] = 0.01
    lambda_latent: Annotated[float, "Weight of the L1 distance of codes found again in results.", WEIGHT] = 0.5


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) | N(0, 1)) of codes (N, length), summed over the code and averaged over images."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


class BicycleGAN(Method):
    r"""A generator g(a, z) of many results, and an encoder E(b) of what a result has and its source lacks.

        z ~ E(b):     L_code  = L_GAN(g(a, z), d_code) + lambda_1 |b - g(a, z)|
                              + lambda_KL KL(E(b) | N(0, 1))                                  section 3.2, cVAE-GAN
        z ~ N(0, 1):  L_noise = L_GAN(g(a, z), d_noise) + lambda_latent |z - E(g(a, z))|      section 3.3, cLR-GAN
        L = L_code + L_noise                                                                  section 3.4

    E(b) is a normal distribution, from which z is drawn; its mean is what is compared in the last term. That term moves
    g alone: together, g and E could hide the code in the image. g and E move first, then both discriminators, which do
    not see a.
    """

    Config = BicycleGANConfig
    kinds = measured("d_code", "d_noise")
    batch_size = 2
    referee: Referee

    def __init__(self, config: BicycleGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        b = facts.channels["b"]
        self.referee = Referee(config, config.norm)
        use = self.uses["a2b"]
        self.g, self.noise = use.network, Noise(config.latent)
        self.e = init_weights(Encoder(b, 2 * config.latent, facts.size, config.e_width, config.norm))
        self.d_code, self.d_noise = build_discriminator(config, b), build_discriminator(config, b)
        g_lr, d_lr = learning_rates(config)
        self.player("G", self.g, self.e, lr=g_lr, optimizer=adam(config.beta1))
        self.player("D", self.d_code, self.d_noise, lr=d_lr, optimizer=adam(config.beta1))

    @staticmethod
    def resolve(config: BicycleGANConfig, facts: Facts) -> BicycleGANConfig:
        return replace(config, generator=deepest_unet(facts.size)) if config.generator == "auto" else config

    @staticmethod
    def build(config: BicycleGANConfig, facts: Facts) -> dict[str, Use]:
        a, b = facts.channels["a"], facts.channels["b"]
        g = NoisyGenerator(build_generator(config, a + config.latent, b), a)
        return {"a2b": Use(g, (Image("a"), Noise(config.latent)), "b")}

    def found(self, fake: Tensor) -> Tensor:
        """Return the mean code of results, (N, length), by an encoder that does not learn from it."""
        frozen = {name: p.detach() for name, p in self.e.named_parameters()}
        mean: Tensor = torch.func.functional_call(self.e, frozen, (fake,)).chunk(2, 1)[0]
        return mean

    def step(self, batches: Iterator[Batch]) -> Scalars:
        c, referee, batch = self.config, self.referee, next(batches)
        a, b = batch["a"], batch["b"]

        mean, log_variance = self.e(b).chunk(2, 1)
        code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        z = self.noise.draw(len(a), a.device)
        fake_code, fake_noise = self.g(a, code), self.g(a, z)
        g_code, g_noise = referee.fool(self.d_code, fake_code, b), referee.fool(self.d_noise, fake_noise, b)
        l1, kl = F.l1_loss(fake_code, b), divergence(mean, log_variance)
        latent = F.l1_loss(self.found(fake_noise), z)
        self.move("G", g_code + g_noise + c.lambda_l1 * l1 + c.lambda_kl * kl + c.lambda_latent * latent)

        loss_code, measures_code = referee.judge(self.d_code, b, fake_code)
        loss_noise, measures_noise = referee.judge(self.d_noise, b, fake_noise)
        self.move("D", loss_code + loss_noise)

        scalars = {"g_code": g_code, "g_noise": g_noise, "l1": l1, "kl": kl, "latent": latent}
        scalars |= {"d_code": loss_code, "d_noise": loss_noise}
        for name, measures in (("d_code", measures_code), ("d_noise", measures_noise)):
            scalars |= {f"{name}_{measure}": x for measure, x in measures.items()}
        return {name: x.detach() for name, x in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a, b = batch["a"], batch["b"]
        draw = torch.Generator(a.device).manual_seed(0)
        noise = [self.noise.draw(1, a.device, draw).expand(len(a), -1) for _ in range(SHOWN)]
        return {"a": a} | {f"a → b, {k}": self.g(a, z) for k, z in enumerate(noise)} | {"b": b}
