"""cGAN: Mirza, Osindero, "Conditional Generative Adversarial Nets", 2014, arXiv:1411.1784."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from img2img.core import options as o
from img2img.core.method import Use
from img2img.core.needs import Facts, Needs
from img2img.core.noise import FromNoise, drawing
from img2img.networks import FROM_NOISE
from img2img.networks.conditional import LabelledDiscriminator


@dataclass(frozen=True)
class CGANConfig(o.NoiseConfig):
    """The options of cGAN, whose paper has fully connected networks (--network mlp)."""

    needs: ClassVar[Needs] = Needs(labels=True)

    noise: o.Noise = "uniform"


class CGAN(FromNoise):
    r"""The game of `GAN`, both of whose players are told the class y of each image.

        min_G max_D V(D, G) = E[log D(x|y)] + E[log(1 - D(G(z|y)|y))]                   eq. 2

    y enters one-hot, beside the noise in G and as planes beside the image in D; generated images get the labels of the
    batch. The paper joins image and label after a maxout layer of each, and trains by SGD with momentum.
    """

    Config = CGANConfig

    @staticmethod
    def build(config: CGANConfig, facts: Facts) -> dict[str, Use]:
        return drawing(config, facts, classes=len(facts.classes))

    def build_d(self) -> nn.Module:
        c, f = self.config, self.facts
        d = FROM_NOISE[c.network].d(c.pack * (f.channels["image"] + len(f.classes)), f.size, c)
        return LabelledDiscriminator(d, len(f.classes))
