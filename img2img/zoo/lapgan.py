"""LAPGAN: Denton, Chintala, Szlam, Fergus, "Deep Generative Image Models using a Laplacian Pyramid of Adversarial
Networks", NeurIPS 2015, arXiv:1506.05751.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from img2img.core import options as o
from img2img.core.method import Batch, Method, Noise, Scalars, Use, adam
from img2img.core.needs import Facts
from img2img.core.noise import SHOWN, diversity
from img2img.core.referee import Referee, learning_rates, measured, regularised
from img2img.errors import ConfigError
from img2img.networks.mlp import MLPDiscriminator, MLPGenerator
from img2img.networks.pyramid import DetailDiscriminator, DetailGenerator, Pyramid, generate, laplacian
from img2img.options.declared import Within

MOST = 6  # levels


@dataclass(frozen=True)
class LAPGANConfig(o.NetworksConfig):
    """LAPGAN's options, with the defaults of section 4 except for the optimizer."""

    unused: ClassVar[tuple[str, ...]] = ("network", "norm", "d_norm")

    levels: Annotated[int, "Sizes of the pyramid, each half of the next.", Within(1, MOST)] = 3
    coarse_width: Annotated[
        int, "Units per hidden layer of the coarsest generator; its discriminator has half of them.", Within(2, 2**14)
    ] = 1200
    network: o.Network = "mlp"
    noise: o.Noise = "uniform"
    d_dropout: o.DDropout = 0.5


class LAPGAN(Method):
    r"""A GAN draws small images, and one at each larger size the details that an enlarged image lacks.

        h_k = I_k - u(I_{k+1})                                                    eq. 4, I_{k+1} = d(I_k)
        I~_k = u(I~_{k+1}) + G_k(z_k, u(I~_{k+1}))                                eq. 6, I~_K = G_K(z_K)

    Every level is a game of its own (section 3.1): G_k learns on real images I_{k+1}, and D_k tells u(I_{k+1}) + h_k,
    which is I_k, from u(I_{k+1}) + G_k. Here level 0 is the coarsest. Only sampling runs through all of them.
    """

    Config = LAPGANConfig
    kinds = measured(*(f"d{k}" for k in range(MOST))) | {"diversity": "variety"}
    rows = 1
    batch_size = 64
    referee: Referee
    fixed_noise: Tensor

    def __init__(self, config: LAPGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        use, channels = self.uses["sample"], facts.channels["image"]
        assert isinstance(use.network, Pyramid) and isinstance(use.inputs[0], Noise)
        self.g, noise = use.network, use.inputs[0]
        coarsest, *finer = sizes(config, facts)
        ds: list[nn.Module] = [MLPDiscriminator(channels, coarsest, config.coarse_width // 2, config.depth)]
        ds += [DetailDiscriminator(channels, size, config.d_width) for size in finer]
        self.d = nn.ModuleList(regularised(d, config.spectral, config.weight_norm, config.d_dropout) for d in ds)
        self.referee = Referee(config)
        self.register_buffer("fixed_noise", noise.draw(SHOWN))
        g_lr, d_lr = learning_rates(config)
        for k, (g, d) in enumerate(zip(self.g.levels, self.d, strict=True)):
            self.player(f"D{k}", d, lr=d_lr, optimizer=adam(config.beta1, config.beta2))
            self.player(f"G{k}", g, lr=g_lr, optimizer=adam(config.beta1, config.beta2))

    @staticmethod
    def build(config: LAPGANConfig, facts: Facts) -> dict[str, Use]:
        coarsest, *finer = sizes(config, facts)
        channels = facts.channels["image"]
        levels: list[nn.Module] = [MLPGenerator(config.latent, channels, coarsest, config.coarse_width, config.depth)]
        levels += [DetailGenerator(channels, config.width) for _ in finer]
        lengths = [config.latent, *(size**2 for size in finer)]
        return {"sample": Use(Pyramid(levels, lengths), (Noise(sum(lengths), config.noise),), "image")}

    def networks(self) -> dict[str, nn.Module]:
        return {
            f"{player}{k}": x for player, levels in (("g", self.g.levels), ("d", self.d)) for k, x in enumerate(levels)
        }

    def step(self, batches: Iterator[Batch]) -> Scalars:
        image = next(batches)["image"]
        scalars: Scalars = {}
        games = zip(self.g.levels, self.g.lengths, self.d, laplacian(image, len(self.d)), strict=True)
        for k, (g, length, d, (real, enlarged)) in enumerate(games):
            fake = generate(g, Noise(length, self.config.noise).draw(len(real), real.device), enlarged)
            d_loss, measures = self.referee.judge(d, real, fake)
            self.move(f"D{k}", d_loss)
            g_loss = self.referee.fool(d, fake, real)
            self.move(f"G{k}", g_loss)
            scalars |= {f"g{k}_gan": g_loss, f"d{k}": d_loss} | {f"d{k}_{name}": x for name, x in measures.items()}
            if enlarged is not None:
                energies = (x.sub(enlarged).square().mean() for x in (real, fake))
                scalars |= dict(zip((f"h{k}", f"h{k}_drawn"), energies, strict=True))

        if self.watch:
            with torch.no_grad():
                scalars["diversity"] = diversity(self.g(self.fixed_noise[: len(image)]), image)
        return {name: x.detach() for name, x in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"": self.g(self.fixed_noise)}


def sizes(config: LAPGANConfig, facts: Facts) -> list[int]:
    """Return the side of the images at each level, from coarse to fine.

    Raises:
        ConfigError: if the size cannot be halved so often.
    """
    most = 2 ** (config.levels - 1)
    if facts.size % most:
        raise ConfigError(f"--size {facts.size} cannot be halved {config.levels - 1} times; use a multiple of {most}.")
    return [facts.size // 2**k for k in reversed(range(config.levels))]
