"""CycleGAN: Zhu, Park, Isola, Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
ICCV 2017, arXiv:1703.10593.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core.method import Batch, Method, Scalars
from img2img.core.referee import Referee, learning_rates
from img2img.errors import ConfigError
from img2img.networks.layers import each
from img2img.translation.build import build_discriminator, build_generator
from img2img.translation.options import CycleGANConfig
from img2img.translation.pool import ImagePool


class CycleGAN(Method):
    r"""Two generators, g_ab: A -> B and g_ba: B -> A, and two discriminators; d_b judges images of domain B.

        L = L_GAN(g_ab, d_b) + L_GAN(g_ba, d_a)                         eq. 1, least squares (section 4)
          + lambda (|g_ba(g_ab(a)) - a| + |g_ab(g_ba(b)) - b|)          eq. 2, 3
          + lambda_idt lambda (|g_ba(a) - a| + |g_ab(b) - b|)           section 5.2

    As in the authors' code, and unlike the paper's text: the identity loss is on for every task (it keeps colours),
    and one Adam drives both generators and another both discriminators. G moves first, then D on the pool's fakes.
    """

    Config = CycleGANConfig
    generators = {"a2b": ("a", "b", "g_ab"), "b2a": ("b", "a", "g_ba")}
    layout = CycleGANConfig.layout

    def __init__(self, config: CycleGANConfig, channels: dict[str, int]) -> None:
        super().__init__(config, channels)
        a, b = channels["a"], channels["b"]
        if config.lambda_identity and a != b:
            raise ConfigError(
                f"The identity loss compares images of both domains, but A has {a} channels and B has {b}. "
                "Switch it off with --lambda-identity 0."
            )
        self.referee = Referee(config, config.norm, weight=0.5)  # half, to slow D (appendix 7)
        self.g_ab, self.g_ba = build_generator(config, a, b), build_generator(config, b, a)
        self.d_a, self.d_b = build_discriminator(config, a), build_discriminator(config, b)
        self.pool_a, self.pool_b = ImagePool(config.pool), ImagePool(config.pool)
        g_lr, d_lr = learning_rates(config)
        self.add_player("G", self.g_ab, self.g_ba, lr=g_lr, beta1=config.beta1)
        self.add_player("D", self.d_a, self.d_b, lr=d_lr, beta1=config.beta1)

    @staticmethod
    def resolve(config: CycleGANConfig, size: int) -> CycleGANConfig:
        if config.generator != "auto":
            return config
        return replace(config, generator="resnet_9" if size >= 256 else "resnet_6")  # appendix 7.2

    @staticmethod
    def build_generator(config: CycleGANConfig, in_channels: int, out_channels: int) -> nn.Module:
        return build_generator(config, in_channels, out_channels)

    def step(self, batches: Iterator[Batch]) -> Scalars:
        c, referee, batch = self.config, self.referee, next(batches)
        a, b = batch["a"], batch["b"]

        if c.lambda_identity:  # each generator also gets an image that is to stay as it is
            (fake_b, same_b), (fake_a, same_a) = each(self.g_ab, a, b), each(self.g_ba, b, a)
        else:
            fake_b, fake_a = self.g_ab(a), self.g_ba(b)
        adversarial = referee.fool(self.d_b, fake_b, b) + referee.fool(self.d_a, fake_a, a)
        cycle = F.l1_loss(self.g_ba(fake_b), a) + F.l1_loss(self.g_ab(fake_a), b)
        loss = adversarial + c.lambda_cycle * cycle
        scalars = {"g_gan": adversarial, "cycle": cycle}
        if c.lambda_identity:
            identity = F.l1_loss(same_a, a) + F.l1_loss(same_b, b)
            loss = loss + c.lambda_cycle * c.lambda_identity * identity
            scalars["identity"] = identity
        self.update("G", loss)

        loss_a, says_a = referee.judge(self.d_a, a, self.pool_a(fake_a))
        loss_b, says_b = referee.judge(self.d_b, b, self.pool_b(fake_b))
        self.update("D", loss_a + loss_b)

        scalars |= {"d_a": loss_a, "d_b": loss_b}
        scalars |= {f"d_a_{kind}": x for kind, x in says_a.items()} | {f"d_b_{kind}": x for kind, x in says_b.items()}
        return {name: x.detach() for name, x in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a, b = batch["a"], batch["b"]
        fake_b, fake_a = self.g_ab(a), self.g_ba(b)
        columns = {"a": a, "a → b": fake_b, "a → b → a": self.g_ba(fake_b)}
        if self.config.lambda_identity:
            columns["a → a"] = self.g_ba(a)
        columns |= {"b": b, "b → a": fake_a, "b → a → b": self.g_ab(fake_a)}
        if self.config.lambda_identity:
            columns["b → b"] = self.g_ab(b)
        return columns
