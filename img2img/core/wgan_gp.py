"""WGAN-GP: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved Training of Wasserstein GANs", NeurIPS 2017,
arXiv:1704.00028.
"""

from dataclasses import dataclass

from img2img.core import options as o
from img2img.core.noise import FromNoise


@dataclass(frozen=True)
class WGANGPConfig(o.NoiseConfig):
    """WGAN-GP's options, with the defaults of Algorithm 1; the penalty is the objective's."""

    objective: o.Objective = "wasserstein"
    d_norm: o.DNorm = "none"
    n_critic: o.NCritic = 5
    lr: o.LearningRate = 1e-4
    beta1: o.Beta1 = 0.0
    beta2: o.Beta2 = 0.9


class WGANGP(FromNoise):
    r"""The game of WGAN, whose critic is kept 1-Lipschitz by a penalty on its slope instead.

        L = E[D(g(z))] - E[D(x)] + lambda E[(|grad D(x^)| - 1)^2]       eq. 3, x^ between x and g(z)

    A penalty per image rules out batch norm in the critic (section 4). Adam at 1e-4 with betas 0 and 0.9.
    """

    Config = WGANGPConfig
