"""StackGAN: Zhang, Xu, Li, Zhang, Wang, Huang, Metaxas, "StackGAN: Text to Photo-realistic Image Synthesis with Stacked
Generative Adversarial Networks", ICCV 2017, arXiv:1612.03242.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core import options as o
from img2img.core.method import Batch, Label, Method, Noise, Scalars, Use, Vector, adam
from img2img.core.needs import Facts, Needs
from img2img.core.referee import Referee, learning_rates, measured, regularised
from img2img.networks import FROM_NOISE
from img2img.networks.conditional import LabelledDiscriminator
from img2img.networks.layers import init_weights
from img2img.networks.stacked import Augmentation, FirstStage, SecondStage, Stacked
from img2img.options.declared import Within


@dataclass(frozen=True)
class StackGANConfig(o.NetworksConfig):
    """StackGAN's options, with the defaults of section 4 and the authors' code."""

    needs: ClassVar[Needs] = Needs(labels=True, vectors=True)
    unused: ClassVar[tuple[str, ...]] = ("network", "depth", "noise")

    code: Annotated[int, "Length of the code of a class or vector.", Within(1, 2**16)] = 128
    blocks: Annotated[int, "Residual blocks of the second stage.", Within(0, 1000)] = 4
    first_stage: Annotated[
        float, "Share of the run for the first stage; the second has the rest.", Within(0, 1, above=True, below=True)
    ] = 0.5
    lambda_kl: Annotated[float, "Weight of the divergence of the codes from normal noise.", o.WEIGHT] = 2.0


class StackGAN(Method):
    r"""G_0 draws images of half the size; then it rests, and G makes them large. A D for each judges image and class.

        L_D = L(x, y), L(G(c), y) / 2, L(x, wrong y) / 2                                eq. 3 and 5
        L_G = -E[log D(G(c), y)] + lambda KL(N(mu(y), Sigma(y)) || N(0, I))             eq. 4 and 6
        c = mu(y) + sigma(y) e,  e ~ N(0, I)                                            section 3.2

    The condition y is the embedding of a text, or any vector, of which mu, sigma and D each see a linear map; or it is
    a class. A wrong y is that of another image, or another class. KL is a mean over the entries of c, as in the
    authors' code.
    """

    Config = StackGANConfig
    kinds = measured("d_small", "d")
    batch_size = 64
    referee: Referee

    def __init__(self, config: StackGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        k = facts.vector or len(facts.classes)
        code = config.code if facts.vector else 0
        channels = facts.channels["image"] + (code or k)
        self.g: Stacked = self.uses["sample"].network  # type: ignore[assignment]
        self.noise = Noise(config.latent + 2 * config.code)
        parts = config.spectral, config.weight_norm, config.d_dropout
        self.d_small, self.d = (
            LabelledDiscriminator(regularised(FROM_NOISE["dcgan"].d(channels, size, config), *parts), k, code)
            for size in (facts.size // 2, facts.size)
        )
        self.referee = Referee(config, config.d_norm, option="--d-norm")
        (g_lr, d_lr), optimizer = learning_rates(config), adam(config.beta1, config.beta2)
        self.player("G_small", self.g.first, lr=g_lr, optimizer=optimizer)
        self.player("D_small", self.d_small, lr=d_lr, optimizer=optimizer)
        self.player("G", self.g.second, lr=g_lr, optimizer=optimizer)
        self.player("D", self.d, lr=d_lr, optimizer=optimizer)

    @staticmethod
    def build(config: StackGANConfig, facts: Facts) -> dict[str, Use]:
        c, channels, k = config, facts.channels["image"], facts.vector or len(facts.classes)
        condition = k, c.code, bool(facts.vector)
        g = FROM_NOISE["dcgan"].g(c.latent + c.code, channels, facts.size // 2, c)
        second = init_weights(SecondStage(channels, Augmentation(*condition), c.code, c.width, c.blocks))
        first = FirstStage(g, init_weights(Augmentation(*condition)), c.code)
        inputs = (Noise(c.latent + 2 * c.code), Vector(k) if facts.vector else Label(k))
        return {"sample": Use(Stacked(first, second), inputs, "image")}

    def networks(self) -> dict[str, nn.Module]:
        """Return the stages apart, as they are trained."""
        return {"g_small": self.g.first, "d_small": self.d_small, "g": self.g.second, "d": self.d}

    def step(self, batches: Iterator[Batch]) -> Scalars:
        batch = next(batches)
        x, y = batch["image"], batch["label"]
        z, code = self.noise.draw(len(x), x.device), self.config.code
        if self.progress < self.config.first_stage:
            return self.play("_small", F.avg_pool2d(x, 2), y, self.g.first(z[:, :-code], y))
        with torch.no_grad():
            small = self.g.first(z[:, :-code], y)
        return self.play("", x, y, self.g.second(small, y, z[:, -code:]))

    def play(self, stage: str, x: Tensor, y: Tensor, fake: Tensor) -> Scalars:
        """Move D, then G, of a stage, on images (N, C, H, W) of its size and their classes (N,) or vectors."""
        referee, d = self.referee, getattr(self, f"d{stage}")
        real, seen = referee.seen(x), referee.seen(fake.detach())
        right = d(real, y)
        d_loss, measures = referee.weigh(right, d(seen, y))
        d_wrong, _ = referee.weigh(right, d(real, another(y, len(self.facts.classes))))
        penalty = referee.slope(d, real, seen, y)
        self.move(f"D{stage}", (d_loss + d_wrong) / 2 + (0 if penalty is None else penalty))

        divergence = kl(*(self.g.first if stage else self.g.second).code.moments(y))
        g_loss = referee.fool(d, fake, x, y)
        self.move(f"G{stage}", g_loss + self.config.lambda_kl * divergence)

        scalars = {"g_gan": g_loss, "kl": divergence, "d": d_loss, "d_wrong": d_wrong}
        scalars = {f"{name}{stage}": value.detach() for name, value in scalars.items()}
        return scalars | {f"d{stage}_{name}": value for name, value in measures.items()}


def another(label: Tensor, classes: int) -> Tensor:
    """Return another class than `label` (N,) for each image, each with the same chance; of vectors (N, length) one of
    another image that differs, if any does.
    """
    if label.is_floating_point():
        differs = (label[:, None] != label).any(2)
        return label[torch.multinomial((differs | ~differs.any(1, keepdim=True)).float(), 1)[:, 0]]
    return (label + torch.randint(1, classes, label.shape, device=label.device)) % classes


def kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence of N(mu, sigma^2) from N(0, 1), a mean over all entries."""
    return (mu.square() + log_variance.exp() - 1 - log_variance).mean() / 2
