"""WGAN-GP: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved Training of Wasserstein GANs", NeurIPS 2017,
arXiv:1704.00028.
"""

from img2img.core import noise as u
from img2img.core.options import WGANGPConfig


class WGANGP(u.Unconditional):
    r"""The game of WGAN, whose critic is kept 1-Lipschitz by a penalty on its slope instead.

        L = E[D(g(z))] - E[D(x)] + lambda E[(|grad D(x^)| - 1)^2]       eq. 3, x^ between x and g(z)

    A penalty per image rules out batch norm in the critic (section 4). Adam at 1e-4 with betas 0 and 0.9.
    """

    Config = WGANGPConfig
