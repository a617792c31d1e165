"""CycleGAN: Zhu, Park, Isola, Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
ICCV 2017, arXiv:1703.10593.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from img2img.core.method import Batch, Scalars
from img2img.core.needs import Facts
from img2img.core.options import WEIGHT, Objective
from img2img.errors import ConfigError
from img2img.networks.layers import each
from img2img.options.declared import Within
from img2img.translation import options as o
from img2img.translation.build import published_resnet
from img2img.translation.pool import ImagePool
from img2img.translation.two_domains import TwoDomains


@dataclass(frozen=True)
class CycleGANConfig(o.TwoDomainsConfig):
    """CycleGAN's options, with the defaults of section 4 and appendix 7."""

    objective: Objective = "lsgan"
    lambda_identity: Annotated[float, "Weight of the identity loss, as a share of --lambda-cycle.", WEIGHT] = 0.5
    pool: Annotated[
        int, "Size of the pool of past fakes that the discriminators are shown; 0 disables it.", Within(0, 10**6)
    ] = 50


class CycleGAN(TwoDomains):
    r"""Two generators, g_ab: A -> B and g_ba: B -> A, and two discriminators; d_b judges images of domain B.

        L = L_GAN(g_ab, d_b) + L_GAN(g_ba, d_a)                         eq. 1, least squares (section 4)
          + lambda (|g_ba(g_ab(a)) - a| + |g_ab(g_ba(b)) - b|)          eq. 2, 3
          + lambda_idt lambda (|g_ba(a) - a| + |g_ab(b) - b|)           section 5.2

    As in the authors' code, and unlike the paper's text: the identity loss is on for every task (it keeps colours),
    and one Adam drives both generators and another both discriminators. The step is `TwoDomains.step`: G moves first,
    then D on the pool's fakes.
    """

    Config = CycleGANConfig
    weight: ClassVar[float] = 0.5  # to slow D (appendix 7)

    def __init__(self, config: CycleGANConfig, facts: Facts) -> None:
        a, b = facts.channels["a"], facts.channels["b"]
        if config.lambda_identity and a != b:
            raise ConfigError(
                f"The identity loss compares images of both domains, but A has {a} channels and B has {b}. "
                "Switch it off with --lambda-identity 0."
            )
        super().__init__(config, facts)
        self.pool_a, self.pool_b = ImagePool(config.pool), ImagePool(config.pool)

    @staticmethod
    def resolve(config: CycleGANConfig, facts: Facts) -> CycleGANConfig:
        return replace(config, generator=published_resnet(facts.size)) if config.generator == "auto" else config

    def generate(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor | float, Scalars]:
        c = self.config
        if not c.lambda_identity:
            return super().generate(a, b)
        # each generator also gets an image that it must not change
        (fake_b, same_b), (fake_a, same_a) = each(self.g_ab, a, b), each(self.g_ba, b, a)
        identity = self.distance(same_a, a) + self.distance(same_b, b)
        return fake_b, fake_a, c.lambda_cycle * c.lambda_identity * identity, {"identity": identity}

    def shown(self, fake: Tensor, domain: str) -> Tensor:
        images: Tensor = {"a": self.pool_a, "b": self.pool_b}[domain](fake)
        return images

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        columns = super().preview(batch)
        if not self.config.lambda_identity:
            return columns
        same = {"a → a": self.g_ba(batch["a"]), "b → b": self.g_ab(batch["b"])}
        order = ("a", "a → b", "a → b → a", "a → a", "b", "b → a", "b → a → b", "b → b")
        return {title: (columns | same)[title] for title in order}
