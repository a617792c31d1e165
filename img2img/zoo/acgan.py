"""AC-GAN: Odena, Olah, Shlens, "Conditional Image Synthesis with Auxiliary Classifier GANs", ICML 2017,
arXiv:1610.09585.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from img2img.core import options as o
from img2img.core.heads import WithHeads, accuracy
from img2img.core.method import Batch, Scalars, Use
from img2img.core.needs import Facts, Needs
from img2img.core.noise import drawing


@dataclass(frozen=True)
class ACGANConfig(o.GameConfig):
    """AC-GAN's options."""

    needs: ClassVar[Needs] = Needs(labels=True)

    lambda_class: Annotated[float, "Weight of the classification loss.", o.WEIGHT] = 1.0


class ACGAN(WithHeads):
    r"""G is told the class c of the image to draw; D is not, and has to name it, of real and of generated images.

        L_S = E[log P(S = real | x)] + E[log P(S = fake | G(z, c))]     eq. 2
        L_C = E[log P(C = c | x)]    + E[log P(C = c | G(z, c))]        eq. 3

    D maximises L_S + L_C, and G maximises L_C - L_S, of which only the generated images reach it. Generated images get
    the classes of the batch.
    """

    Config = ACGANConfig
    kinds = dict(WithHeads.kinds) | {"d_real_class": "share", "d_fake_class": "share"}

    @staticmethod
    def build(config: ACGANConfig, facts: Facts) -> dict[str, Use]:
        return drawing(config, facts, classes=len(facts.classes))

    def d_heads(self, batch: Batch, real: Tensor, fake: Tensor) -> tuple[Tensor, Scalars]:
        label = batch["label"]
        loss = F.cross_entropy(real, label) + F.cross_entropy(fake, label)
        right = {"real_class": accuracy(real, label), "fake_class": accuracy(fake, label)}
        return self.config.lambda_class * loss, right | {"class": loss}

    def g_heads(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        loss = F.cross_entropy(fake, batch["label"])
        return self.config.lambda_class * loss, {"g_class": loss}
