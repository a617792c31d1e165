"""EBGAN: Zhao, Mathieu, LeCun, "Energy-based Generative Adversarial Network", ICLR 2017, arXiv:1609.03126."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from img2img.core import options as o
from img2img.core.energy import EnergyConfig, EnergyGame
from img2img.core.method import Batch, Scalars
from img2img.options.declared import Within


@dataclass(frozen=True)
class EBGANConfig(EnergyConfig):
    """The options of EBGAN. The margin is in the units of the energy, here the mean square over pixels."""

    margin: Annotated[float, "Energy up to which D raises that of generated images.", Within(0, 10**6)] = 0.1
    lambda_pt: Annotated[float, "Weight of the pulling-away term.", o.WEIGHT] = 0.1
    lr: o.LearningRate = 1e-3


class EBGAN(EnergyGame):
    r"""D gives low energy D(x) = |Dec(Enc(x)) - x|^2 to real images, and at least m to generated ones.

        L_D = D(x) + max(0, m - D(G(z)))                                          eq. 1
        L_G = D(G(z)) + w PT                                                      eq. 2, section 2.4
        PT  = sum_{i != j} cos^2(S_i, S_j) / (N (N - 1)),  S = Enc(G(z))          section 2.4

    The hinge is per image. The pulling-away term drives apart the codes of generated images, against mode collapse.
    """

    Config = EBGANConfig

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square()

    def d_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        (real, _), (low, _) = self.energies(batch["image"]), self.energies(fake)
        missing = (self.config.margin - low).clamp_min(0)
        inside = (missing > 0).float().mean()  # the share that D still raises
        return real.mean() + missing.mean(), {"energy_real": real.mean(), "energy_fake": low.mean(), "inside": inside}

    def g_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        energy, code = self.energies(fake)
        alike = pulling_away(code)
        return energy.mean() + self.config.lambda_pt * alike, {"g_gan": energy.mean(), "pt": alike}


def pulling_away(codes: Tensor) -> Tensor:
    """Return the mean squared cosine of two of the codes (N, length), section 2.4; 0 if there is one."""
    codes = F.normalize(codes)
    cosines = codes @ codes.t()
    pairs = len(codes) * (len(codes) - 1)
    return (cosines.square().sum() - cosines.diagonal().square().sum()) / max(pairs, 1)
