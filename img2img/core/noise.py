"""The unconditional game, of a generator of images from noise against a discriminator; such papers are cases of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from img2img.core.method import Batch, Method, Scalars
from img2img.core.options import UnconditionalConfig
from img2img.core.referee import Referee, learning_rates, regularised
from img2img.errors import ConfigError, choose
from img2img.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from img2img.networks.layers import init_weights
from img2img.networks.mlp import MLPDiscriminator, MLPGenerator

SHOWN = 64  # images of the sample grid
NOISES: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "normal": lambda z, generator: z.normal_(generator=generator),
    "uniform": lambda z, generator: z.uniform_(-1, 1, generator=generator),
}


class Unconditional(Method):
    """g: noise -> images, and d: images -> logits.

    Attributes:
        fixed_noise: what the sample grid is drawn from, the same at every step.
    """

    layout = UnconditionalConfig.layout
    rows = 1
    batch_size = 64
    generators = {"sample": ("noise", "image", "g")}
    fixed_noise: Tensor

    def __init__(self, config: Any, channels: dict[str, int]) -> None:
        super().__init__(config, channels | {"noise": config.latent})
        self.draws = config.n_critic
        self.g = self.build_generator(config, config.latent, channels["image"])
        self.d = regularised(build_discriminator(config, channels["image"]), config.spectral)
        self.referee = Referee(config, config.d_norm if config.network == "dcgan" else "none", option="--d-norm")
        self.register_buffer("fixed_noise", draw_noise(config, SHOWN))
        g_lr, d_lr = learning_rates(config)
        self.add_player("G", self.g, lr=g_lr, beta1=config.beta1, beta2=config.beta2)
        self.add_player("D", self.d, lr=d_lr, beta1=config.beta1, beta2=config.beta2)

    @staticmethod
    def resolve(config: Any, size: int) -> Any:
        if config.image_size not in (0, size):
            raise ConfigError(f"--image-size {config.image_size} is not --size {size}; leave it out.")
        return replace(config, image_size=size)

    @staticmethod
    def build_generator(config: Any, in_channels: int, out_channels: int) -> nn.Module:
        network: nn.Module
        if config.network == "mlp":
            return MLPGenerator(in_channels, out_channels, config.image_size, config.width, config.depth)
        network = DCGANGenerator(in_channels, out_channels, config.image_size, config.width, config.norm)
        init_weights(network)
        return network

    def critic_moves(self, step: int) -> int:
        """Moves of D in one step."""
        moves: int = self.config.n_critic
        return moves

    def step(self, batches: Iterator[Batch]) -> Scalars:
        # D moves k times, each time on fresh images and fresh noise (Goodfellow et al. 2014, Algorithm 1) ...
        for _ in range(self.critic_moves(self.step_number)):
            x = next(batches)["image"]
            with torch.no_grad():
                fake = self.g(self._z(x))
            d_loss, says = self.referee.judge(self.d, x, fake)
            self.update("D", d_loss)

        # ... then G moves once.
        fake = self.g(self._z(x))
        g_loss = self.referee.fool(self.d, fake, x)
        self.update("G", g_loss)

        scalars = {"g_gan": g_loss, "d": d_loss} | {f"d_{name}": value for name, value in says.items()}
        if self.watch:
            scalars["diversity"] = diversity(fake, x)
        return {name: value.detach() for name, value in scalars.items()}

    def _z(self, like: Tensor) -> Tensor:
        return draw_noise(self.config, len(like), like.device)

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"": self.g(self.fixed_noise)}


@torch.no_grad()
def diversity(fake: Tensor, real: Tensor) -> Tensor:
    """Mean distance between two generated images of a batch, as a share of that between two real ones; 1 is right."""
    return pairwise(fake) / pairwise(real).clamp_min(1e-12)


def pairwise(x: Tensor) -> Tensor:
    """Mean Euclidean distance between two of the images (N, ...); 0 if there is one."""
    return torch.pdist(x.detach().flatten(1)).sum() / max(len(x) * (len(x) - 1) / 2, 1)


def build_discriminator(config: Any, channels: int) -> nn.Module:
    if config.network == "mlp":
        return MLPDiscriminator(channels, config.image_size, config.d_width, config.depth)
    network = DCGANDiscriminator(channels, config.image_size, config.d_width, config.d_norm)
    init_weights(network)
    return network


def draw_noise(
    config: Any, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Noise (n, latent, 1, 1), of the global generator unless another is given."""
    return choose("noise", config.noise, NOISES)(torch.empty(n, config.latent, 1, 1, device=device), generator)
