"""GcGAN: Fu, Gong, Wang, Batmanghelich, Zhang, Tao, "Geometry-Consistent Generative Adversarial Networks for One-Sided
Unsupervised Domain Mapping", CVPR 2019, arXiv:1809.05852.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from img2img.extending import (
    Batch,
    Choice,
    Facts,
    Image,
    Method,
    Needs,
    ObjectiveName,
    Referee,
    Scalars,
    TranslationConfig,
    Use,
    Within,
    adam,
    build_discriminator,
    build_generator,
    learning_rates,
    measured,
    published_resnet,
)

# f of the paper, each an isometry of the square: it moves pixels, and changes none.
TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rotation": lambda x: x.rot90(-1, (2, 3)),
    "flip": lambda x: x.flip(2),
}
CHOICE = Choice(table="img2img_example.gcgan.TRANSFORMS")


@dataclass(frozen=True)
class GcGANConfig(TranslationConfig):
    """GcGAN's options, with the paper's weight; what both share with CycleGAN has the defaults of CycleGAN."""

    needs: ClassVar[Needs] = Needs(("a", "b"))

    objective: ObjectiveName = "lsgan"
    transform: Annotated[str, "Transform that keeps what images show: rotation, by 90 degrees, or flip.", CHOICE] = (
        "rotation"
    )
    lambda_geo: Annotated[float, "Weight of the geometry consistency.", Within(0, 10**9)] = 20.0


class GcGAN(Method):
    """One generator g: A -> B, which must turn a turned image into its turned translation.

        L = L_GAN(g(a), d) + L_GAN(g(f(a)), d_f) + lambda L_geo             section 3
        L_geo = E[|g(a) - f^-1(g(f(a)))|] + E[|g(f(a)) - f(g(a))|]

    As f only moves pixels, both terms of L_geo are the same number. d judges images of B, and d_f turned ones. The
    paper also tries a generator of its own for turned images; here g translates both. G moves first, then D.
    """

    Config = GcGANConfig
    kinds = measured("d", "d_f")
    referee: Referee

    def __init__(self, config: GcGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.referee = Referee(config, config.norm, weight=0.5)
        self.g = self.uses["a2b"].network
        self.d, self.d_f = (build_discriminator(config, facts.channels["b"]) for _ in range(2))
        g_lr, d_lr = learning_rates(config)
        self.player("G", self.g, lr=g_lr, optimizer=adam(config.beta1))
        self.player("D", self.d, self.d_f, lr=d_lr, optimizer=adam(config.beta1))

    @staticmethod
    def resolve(config: GcGANConfig, facts: Facts) -> GcGANConfig:
        return replace(config, generator=published_resnet(facts.size)) if config.generator == "auto" else config

    @staticmethod
    def build(config: GcGANConfig, facts: Facts) -> dict[str, Use]:
        return {"a2b": Use(build_generator(config, facts.channels["a"], facts.channels["b"]), (Image("a"),), "b")}

    def step(self, batches: Iterator[Batch]) -> Scalars:
        batch, f, referee = next(batches), TRANSFORMS[self.config.transform], self.referee
        a, b = batch["a"], batch["b"]

        fake, fake_f = self.g(a), self.g(f(a))
        adversarial = referee.fool(self.d, fake, b) + referee.fool(self.d_f, fake_f, f(b))
        geometry = 2 * F.l1_loss(fake_f, f(fake))
        self.move("G", adversarial + self.config.lambda_geo * geometry)

        loss, measures = referee.judge(self.d, b, fake)
        loss_f, measures_f = referee.judge(self.d_f, f(b), fake_f)
        self.move("D", loss + loss_f)

        scalars = {"g_gan": adversarial, "geometry": geometry, "d": loss, "d_f": loss_f}
        scalars |= {f"d_{name}": x for name, x in measures.items()}
        scalars |= {f"d_f_{name}": x for name, x in measures_f.items()}
        return {name: x.detach() for name, x in scalars.items()}
