"""DCGAN: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", ICLR 2016, arXiv:1511.06434.
"""

from dataclasses import dataclass

from img2img.core import options as o
from img2img.core.noise import FromNoise


@dataclass(frozen=True)
class DCGANConfig(o.NoiseConfig):
    """DCGAN's options, with the defaults of section 4 and half its width."""

    noise: o.Noise = "uniform"


class DCGAN(FromNoise):
    """The game of `GAN` between convolutional networks, by the guidelines of section 3.

    Strides in place of pooling, batch norm in both (except for G's output and D's input), ReLU in G with tanh at the
    end, LeakyReLU 0.2 in D; weights from N(0, 0.02^2), Adam at 2e-4 with beta1 0.5. The paper's batches hold 128
    images, and its maps have twice the channels (--width 128 --d-width 128).
    """

    Config = DCGANConfig
