"""GAN: Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio, "Generative Adversarial Nets",
NeurIPS 2014, arXiv:1406.2661.
"""

from dataclasses import dataclass

from img2img.core import options as o
from img2img.core.noise import FromNoise


@dataclass(frozen=True)
class GANConfig(o.NoiseConfig):
    """The options of the first GAN."""

    network: o.Network = "mlp"
    noise: o.Noise = "uniform"
    width: o.Width = 1200
    d_width: o.DWidth = 1200


class GAN(FromNoise):
    r"""A generator g: noise -> images, and a discriminator d: images -> probability of being real.

        min_G max_D V(D, G) = E[log D(x)] + E[log(1 - D(G(z)))]         eq. 1

    Algorithm 1 is `FromNoise.step`: D moves k = n_critic times, then G. By default G maximises log D(G(z)) instead
    (section 3); the objective "minimax" is eq. 1 as it stands.

    The paper's D has maxout units and dropout, its G sigmoids at the end, and both are trained by SGD with momentum.
    Here both are plain networks trained by Adam, as in most later code, and images are in [-1, 1].
    """

    Config = GANConfig
