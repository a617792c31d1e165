"""DiscoGAN: Kim, Cha, Kim, Lee, Kim, "Learning to Discover Cross-Domain Relations with Generative Adversarial
Networks", ICML 2017, arXiv:1703.05192.
"""

from dataclasses import dataclass, replace

from img2img.core.needs import Facts
from img2img.core.options import Decay
from img2img.translation import options as o
from img2img.translation.build import deepest_unet
from img2img.translation.two_domains import TwoDomains


@dataclass(frozen=True)
class DiscoGANConfig(o.TwoDomainsConfig):
    """DiscoGAN's options, with the defaults of section 3 and of the authors' code."""

    norm: o.Norm = "batch"
    decay: Decay = 0.0
    lambda_cycle: o.LambdaCycle = 1.0
    distance: o.Distance = "l2"


class DiscoGAN(TwoDomains):
    r"""Two generators and two discriminators; what goes there and back is compared by its squared distance.

        L_G = L_GAN(g_ab, d_b) + L_GAN(g_ba, d_a)                                     eq. 5, of the first GAN
            + |g_ba(g_ab(a)) - a|^2 + |g_ab(g_ba(b)) - b|^2                           eq. 3, 4, 6
        L_D = L_{D_A} + L_{D_B}                                                       eq. 7

    The step is `TwoDomains.step`. The paper's generators are encoders and decoders without skips, of 64 px images; here
    they are the deepest U-Net that fits, and D is a patch discriminator.
    """

    Config = DiscoGANConfig
    batch_size = 16

    @staticmethod
    def resolve(config: DiscoGANConfig, facts: Facts) -> DiscoGANConfig:
        return replace(config, generator=deepest_unet(facts.size)) if config.generator == "auto" else config
