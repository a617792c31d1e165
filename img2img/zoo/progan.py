"""Progressive growing: Karras, Aila, Laine, Lehtinen, "Progressive Growing of GANs for Improved Quality, Stability, and
Variation", ICLR 2018, arXiv:1710.10196.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from img2img.core import options as o
from img2img.core.method import Batch, Noise, Scalars, Use
from img2img.core.needs import Facts
from img2img.core.noise import FromNoise
from img2img.networks.growing import LEVEL, GrowingDiscriminator, GrowingGenerator
from img2img.options.declared import Within


@dataclass(frozen=True)
class ProGANConfig(o.NoiseConfig):
    """The options of progressive growing, with the defaults of appendix A."""

    unused: ClassVar[tuple[str, ...]] = ("network", "depth", "norm", "d_norm", "spectral", "weight_norm")

    growing: Annotated[
        float, "Share of the run over which the networks grow; 0 begins with the whole size.", Within(0, 1, below=True)
    ] = 0.8
    area: Annotated[int, "Channels of a map times its side in pixels.", Within(1, 2**20)] = 2**14
    lambda_drift: Annotated[float, "Weight of D(x)^2 of real images in D's loss.", o.WEIGHT] = 0.001
    objective: o.Objective = "wasserstein"
    latent: o.Latent = 512
    width: Annotated[int, "Generator: channels of a map at most.", o.CHANNELS] = 512
    d_width: Annotated[int, "Discriminator: channels of a map at most.", o.CHANNELS] = 512
    d_norm: o.DNorm = "none"
    lr: o.LearningRate = 1e-3
    beta1: o.Beta1 = 0.0
    beta2: o.Beta2 = 0.99


class ProGAN(FromNoise):
    r"""Both networks grow from 4x4 to the whole image, a level after another, which fades in: alpha goes from 0 to 1.

        G = (1 - alpha) up(rgb_l(y_l)) + alpha rgb_{l+1}(y_{l+1}),  y_{l+1} = block_{l+1}(up(y_l))        figure 2
        x = (1 - alpha) up(down(x_{l+1})) + alpha x_{l+1},          and D mirrors G                       appendix A
        L_D = E[D(G(z))] - E[D(x)] + 10 E[(|grad D| - 1)^2] + 0.001 E[D(x)^2]                             appendix A

    In place of norms, weights are equalised and G's maps normalised at each pixel; D also sees the deviation within its
    batch (sections 3 and 4). Levels stay and fade for equal shares of the run; Adam forgets at each change.
    """

    Config = ProGANConfig
    kinds = dict(FromNoise.kinds) | {"level": "schedule"}
    g: GrowingGenerator
    d: GrowingDiscriminator

    @staticmethod
    def build(config: ProGANConfig, facts: Facts) -> dict[str, Use]:
        g = GrowingGenerator(config.latent, facts.channels["image"], facts.size, config.area, config.width)
        return {"sample": Use(g, (Noise(config.latent, config.noise),), "image")}

    def build_d(self) -> nn.Module:
        c, f = self.config, self.facts
        return GrowingDiscriminator(c.pack * f.channels["image"], f.size, c.area, c.d_width)

    def proceed(self, step: int, steps: int) -> None:
        super().proceed(step, steps)
        before, after = self.g.growth, grown(self.progress, len(self.g.blocks), self.config.growing)
        if phase(before) != phase(after):
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
        self.g.growth = self.d.growth = after

    def step(self, batches: Iterator[Batch]) -> Scalars:
        scalars = super().step(batch | {"image": self.g.faded(batch["image"])} for batch in batches)
        return scalars | {"level": torch.full_like(scalars["d"], self.g.growth / LEVEL)}

    def d_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        logits: list[Tensor] = []

        def d(x: Tensor) -> Tensor:
            logits.append(self.d(x))
            return logits[-1]

        loss, scalars = self.referee.judge(d, batch["image"], fake)
        drift = logits[0].square().mean()  # of real images, which are judged first
        return loss + self.config.lambda_drift * drift, scalars | {"drift": drift}


def grown(progress: float, levels: int, share: float) -> int:
    """Return level + alpha, in units of `LEVEL`, at a progress in [0, 1): levels stay, and the next one fades in, by
    turns.
    """
    if not share:
        return (levels - 1) * LEVEL
    level, turn = divmod(2 * (levels - 1) * progress / share, 2)
    return min(round((level + max(turn - 1, 0)) * LEVEL), (levels - 1) * LEVEL)


def phase(growth: int) -> tuple[int, int]:
    """Return the levels that are in use: one that stays, or two of which the second fades in."""
    return growth // LEVEL, -(-growth // LEVEL)
