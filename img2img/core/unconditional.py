"""The unconditional game, of a generator of images from noise against a discriminator; such papers are cases of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from img2img.core.game import Batch, Method, Scalars
from img2img.core.referee import Adversarial, Referee, learning_rates, regularised
from img2img.errors import ConfigError, choose
from img2img.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from img2img.networks.layers import init_weights
from img2img.networks.mlp import MLPDiscriminator, MLPGenerator

SHOWN = 64  # images of the sample grid
NETWORKS = ("mlp", "dcgan")
NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda z: z.normal_(),
    "uniform": lambda z: z.uniform_(-1, 1),
}

ImageSize = Annotated[int, "Side of the generated images in pixels; 0: that of --size."]
Network = Annotated[str, f"Networks: {', '.join(NETWORKS)}."]
Latent = Annotated[int, "Length of the noise."]
Noise = Annotated[str, f"Distribution of the noise: {', '.join(NOISES)}."]
Width = Annotated[int, "Generator: channels of dcgan's last map, or units of mlp's hidden layers."]
DWidth = Annotated[int, "Discriminator: channels of dcgan's first map, or units of mlp's hidden layers."]
Depth = Annotated[int, "Hidden layers of mlp's networks."]
Norm = Annotated[str, "Norm in dcgan's generator: batch or none."]
DNorm = Annotated[str, "Norm in dcgan's discriminator: batch, instance or none."]
NCritic = Annotated[int, "Moves of the discriminator per move of the generator."]
LearningRate = Annotated[float, "Learning rate."]
Beta1 = Annotated[float, "Adam's beta 1."]
Beta2 = Annotated[float, "Adam's beta 2."]
Decay = Annotated[float, "Share of the run, at its end, over which the learning rate falls linearly towards zero."]


@dataclass(frozen=True)
class UnconditionalConfig(Adversarial):
    """The options of the unconditional methods; a paper's file has its own defaults."""

    image_size: ImageSize = 0
    network: Network = "dcgan"
    latent: Latent = 100
    noise: Noise = "normal"
    width: Width = 64
    d_width: DWidth = 64
    depth: Depth = 2
    norm: Norm = "batch"
    d_norm: DNorm = "batch"
    n_critic: NCritic = 1
    lr: LearningRate = 2e-4
    beta1: Beta1 = 0.5
    beta2: Beta2 = 0.999
    decay: Decay = 0.0


class Unconditional(Method):
    """g: noise -> images, and d: images -> logits.

    Attributes:
        fixed_noise: what the sample grid is drawn from, the same at every step.
    """

    layout = "images"
    rows = 1
    batch_size = 64
    generators = {"sample": ("noise", "image", "g")}
    fixed_noise: Tensor

    def __init__(self, config: Any, channels: dict[str, int]) -> None:
        super().__init__(config, channels | {"noise": config.latent})
        if config.n_critic < 1 or config.latent < 1 or config.depth < 1:
            raise ConfigError("--n-critic, --latent and --depth are at least 1.")
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
        choose("network", config.network, dict.fromkeys(NETWORKS))
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


def draw_noise(config: Any, n: int, device: torch.device | None = None) -> Tensor:
    """Noise (n, latent, 1, 1)."""
    return choose("noise", config.noise, NOISES)(torch.empty(n, config.latent, 1, 1, device=device))
