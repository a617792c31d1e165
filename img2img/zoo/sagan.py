"""SAGAN: Zhang, Goodfellow, Metaxas, Odena, "Self-Attention Generative Adversarial Networks", ICML 2019,
arXiv:1805.08318.
"""

from dataclasses import dataclass

from torch import nn

from img2img.core import options as o
from img2img.core.method import Label, Noise, Use
from img2img.core.needs import Facts
from img2img.core.noise import FromNoise
from img2img.core.referee import regularised
from img2img.networks.residual import ProjectionDiscriminator, ResidualGenerator


@dataclass(frozen=True)
class SAGANConfig(o.ResidualConfig):
    """SAGAN's options, with the defaults of section 5."""

    latent: o.Latent = 128


class SAGAN(FromNoise):
    r"""Residual networks in which each place of a map also sees all others, and whose discriminator projects the class.

        o = x + gamma W_o(sum_i beta_ji h(x_i)),   beta_ji = softmax_i(f(x_i)^T g(x_j))         eq. 1 to 3
        L_D = E[max(0, 1 - D(x, y))] + E[max(0, 1 + D(G(z, y), y))]                             eq. 4
        L_G = -E[D(G(z, y), y)]

    gamma is 0 at first. Spectral norm in both networks, class-conditional batch norm in G, D(x, y) = w phi + e_y phi;
    D learns faster than G.
    """

    Config = SAGANConfig

    @staticmethod
    def build(config: SAGANConfig, facts: Facts) -> dict[str, Use]:
        classes, c = len(facts.classes), config
        g = ResidualGenerator(c.latent, classes, facts.channels["image"], facts.size, c.width, c.attention)
        inputs = (Noise(c.latent, c.noise), Label(classes))
        return {"sample": Use(regularised(g, c.spectral), inputs, "image")}

    def build_d(self) -> nn.Module:
        c, f = self.config, self.facts
        return ProjectionDiscriminator(f.channels["image"], len(f.classes), f.size, c.d_width, c.attention)
