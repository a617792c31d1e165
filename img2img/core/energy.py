"""The game of a generator against an autoencoder, which judges images by how well it draws them again."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from img2img.core import options as o
from img2img.core.noise import FromNoise
from img2img.networks import FROM_NOISE
from img2img.networks.autoencoder import Autoencoder


@dataclass(frozen=True)
class EnergyConfig(o.NoiseConfig):
    """The options of such games; what is for logits has no effect on them."""

    unused: ClassVar[tuple[str, ...]] = ("objective", "penalty", "lambda_gp", "smooth")

    code: Annotated[int, "Length of the code of the discriminator, an autoencoder.", o.CHANNELS] = 64


class EnergyGame(FromNoise):
    r"""g: noise -> images, and d: images -> reconstructions and codes. The energy of x is its distance from d(x).

    D lowers the energy of real images, and G that of its own. A paper states the `distance`, and both losses.
    """

    Config: ClassVar[Any] = EnergyConfig
    kinds = {"diversity": "variety"}  # an energy is neither right nor wrong

    def build_d(self) -> nn.Module:
        c, size, channels = self.config, self.facts.size, self.config.pack * self.facts.channels["image"]
        like_d = replace(c, width=c.d_width, norm="batch" if c.d_norm == "batch" else "none")
        networks = FROM_NOISE[c.network]
        return Autoencoder(networks.d(channels, size, c, c.code), networks.g(c.code, channels, size, like_d))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of two batches, per pixel and channel."""
        raise NotImplementedError

    def energies(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy of each image, (N,), a mean over pixels and channels, and its code (N, length)."""
        x = self.referee.seen(x)
        y, code = self.d(x)
        return self.distance(y, x).flatten(1).mean(1), code
