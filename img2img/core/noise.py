"""The game of a generator of images from noise against a discriminator; such papers are cases of it."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from img2img.core.method import Batch, Label, Method, Noise, Optimizer, Scalars, Use, adam
from img2img.core.needs import Facts
from img2img.core.options import GameConfig
from img2img.core.penalties import clamping, stretches
from img2img.core.referee import Referee, learning_rates, measured, regularised
from img2img.errors import ConfigError
from img2img.networks import FROM_NOISE
from img2img.networks.conditional import LabelledGenerator

SHOWN = 64  # images of the sample grid
ROWS, COLUMNS = 8, 32  # of the grid of a method with classes, which has a column for each


class FromNoise(Method):
    """g: noise -> images, and d: images -> logits. A paper changes the networks, the losses, or neither.

    Attributes:
        fixed_noise: what the sample grid is drawn from, the same at every step.
        pack: images that d judges as one, in a paper whose config offers it.
    """

    Config: ClassVar[Any] = GameConfig
    kinds = measured("d") | {"diversity": "variety"}
    rows = 1
    batch_size = 64
    referee: Referee
    fixed_noise: Tensor

    def __init__(self, config: Any, facts: Facts) -> None:
        super().__init__(config, facts)
        self.pack = getattr(config, "pack", 1)
        if self.pack > 1 and config.diffaugment != "none":
            raise ConfigError(
                f"--diffaugment changes single images, and --pack {self.pack} makes several one; leave one out."
            )
        if config.clamp_low > config.clamp_high:
            raise ConfigError(f"--clamp-low {config.clamp_low:g} is above --clamp-high {config.clamp_high:g}.")
        self.draws = config.n_critic
        self.g = self.uses["sample"].network
        self.noise: Noise = self.uses["sample"].inputs[0]  # type: ignore[assignment]
        self.d = regularised(self.build_d(), config.spectral, config.weight_norm, config.d_dropout)
        self.referee = Referee(config, config.d_norm if config.network == "dcgan" else "none", option="--d-norm")
        self.register_buffer("fixed_noise", self.noise.draw(SHOWN))
        self.register_load_state_dict_pre_hook(_flatten_noise)  # type: ignore[no-untyped-call]
        g_lr, d_lr = learning_rates(config)
        self.player("G", self.g, lr=g_lr, optimizer=self.optimizer())
        self.player("D", self.d, lr=d_lr, optimizer=self.optimizer())

    @staticmethod
    def build(config: Any, facts: Facts) -> dict[str, Use]:
        return drawing(config, facts)

    def build_d(self) -> nn.Module:
        """Build the discriminator, of `pack` images as one."""
        c = self.config
        return FROM_NOISE[c.network].d(self.pack * self.facts.channels["image"], self.facts.size, c)

    def optimizer(self) -> Optimizer:
        return adam(self.config.beta1, self.config.beta2)

    def conditions(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the conditions of a batch, in the order in which G and D take them after noise and images."""
        return (batch["label"],) if self.needs.labels else ()

    def d_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        """Return D's loss, and scalars for the log, whose names get the prefix "d_"."""
        return self.referee.judge(self.d, batch["image"], fake, *self.conditions(batch))

    def g_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        """Return G's loss, and scalars for the log."""
        loss = self.referee.fool(self.d, fake, batch["image"], *self.conditions(batch))
        return loss, {"g_gan": loss}

    def critic_moves(self, step: int) -> int:
        """Return the number of D's moves in a step."""
        moves: int = self.config.n_critic
        return moves

    def step(self, batches: Iterator[Batch]) -> Scalars:
        # D moves k times, each time on fresh images and fresh noise (Goodfellow et al. 2014, Algorithm 1) ...
        for _ in range(self.critic_moves(self.step_number)):
            batch = next(batches)
            with torch.no_grad():
                fake = self.fake(batch)
            d_loss, measures = self.d_loss(*self.packed(batch, fake))
            self.move("D", d_loss)

        # ... then G moves once.
        fake = self.fake(batch)
        g_loss, scalars = self.g_loss(*self.packed(batch, fake))
        if self.config.clamp:
            clamp, stretch = self.clamping(batch)
            g_loss, scalars = g_loss + self.config.clamp * clamp, scalars | {"clamp": clamp, "stretch": stretch}
        self.move("G", g_loss)

        scalars = scalars | {"d": d_loss} | {f"d_{name}": value for name, value in measures.items()}
        if self.watch:
            scalars["diversity"] = diversity(fake, batch["image"])
        return {name: value.detach() for name, value in scalars.items()}

    def fake(self, batch: Batch) -> Tensor:
        """Generate as many images as the batch has, under its conditions."""
        image = batch["image"]
        fake: Tensor = self.g(self.noise.draw(len(image), image.device), *self.conditions(batch))
        return fake

    def packed(self, batch: Batch, fake: Tensor) -> tuple[Batch, Tensor]:
        """Stack every `pack` images of a batch along their channels, and the labels of a pack in a row.

        D then judges independent images as one (Lin et al. 2018, PacGAN, arXiv:1712.04086): m images that lack modes
        differ more from m real ones than a single one does. Images (N, C, H, W) become (N / m, m C, H, W), labels (N,)
        become (N / m, m).
        """
        m, n = self.pack, len(fake)
        if m == 1:
            return batch, fake
        packs = {name: x.reshape(n // m, -1, *x.shape[2:]) for name, x in (batch | {"fake": fake}).items()}
        return packs, packs.pop("fake")

    def clamping(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the term that keeps G's answers to small steps of the noise within bounds, and their mean length."""
        image = batch["image"]
        q = stretches(self.g, self.noise.draw(len(image), image.device), *self.conditions(batch))
        return clamping(q, self.config.clamp_low, self.config.clamp_high), q.mean()

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Return images of the fixed noise; with classes, a column for each, whose rows have the same noise."""
        if not self.uses["sample"].labelled:
            return {"": self.g(self.fixed_noise)}
        noise, names = self.fixed_noise[:ROWS], self.facts.classes[:COLUMNS]
        return {name: self.g(noise, torch.full((ROWS,), k, device=noise.device)) for k, name in enumerate(names)}


def drawing(config: Any, facts: Facts, classes: int = 0, codes: int = 0) -> dict[str, Use]:
    """Build a generator from noise, whose last entries may be codes, and from the one-hot label where there are
    classes.
    """
    length, channels = config.latent + codes, facts.channels["image"]
    noise = Noise(length, config.noise)
    g = FROM_NOISE[config.network].g(length + classes, channels, facts.size, config)
    if not classes:
        return {"sample": Use(g, (noise,), "image")}
    return {"sample": Use(LabelledGenerator(g, classes), (noise, Label(classes)), "image")}


def _flatten_noise(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Read the noise (N, length, 1, 1) of runs that 0.1.0 began."""
    if f"{prefix}fixed_noise" in state:
        state[f"{prefix}fixed_noise"] = state[f"{prefix}fixed_noise"].flatten(1)


@torch.no_grad()
def diversity(fake: Tensor, real: Tensor) -> Tensor:
    """Return the mean distance of two generated images of a batch, as a share of that of two real ones; 1 is right."""
    return pairwise(fake) / pairwise(real).clamp_min(1e-12)


def pairwise(x: Tensor) -> Tensor:
    """Return the mean Euclidean distance of two of the images (N, ...); 0 if there is one."""
    return torch.pdist(x.detach().flatten(1)).sum() / max(len(x) * (len(x) - 1) / 2, 1)
