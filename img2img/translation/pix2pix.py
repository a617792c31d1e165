"""pix2pix: Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017,
arXiv:1611.07004.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core.method import Batch, Method, Scalars
from img2img.core.referee import Referee, learning_rates
from img2img.translation.build import build_discriminator, build_generator
from img2img.translation.options import Pix2PixConfig


class Pix2Pix(Method):
    """One generator g: A -> B, and one discriminator that sees input and output together.

        G* = arg min_G max_D L_cGAN(G, D) + lambda L_L1(G)              eq. 4
        L_cGAN(G, D) = E[log D(a, b)] + E[log(1 - D(a, G(a)))]          eq. 1, the noise z being dropout
        L_L1(G) = E[|b - G(a)|]                                         eq. 3

    D moves first, then G, which maximises log D(a, G(a)) instead (section 3.3). The learning rate falls to zero over
    the second half, as in the authors' PyTorch code; the paper keeps it constant (--decay 0).
    """

    Config = Pix2PixConfig
    generators = {"a2b": ("a", "b", "g")}
    layout = Pix2PixConfig.layout

    def __init__(self, config: Pix2PixConfig, channels: dict[str, int]) -> None:
        super().__init__(config, channels)
        a, b = channels["a"], channels["b"]
        self.referee = Referee(config, config.norm, weight=0.5)  # half, to slow D (section 3.3)
        self.g = build_generator(config, a, b)
        self.d = build_discriminator(config, a + b)
        g_lr, d_lr = learning_rates(config)
        self.add_player("G", self.g, lr=g_lr, beta1=config.beta1)
        self.add_player("D", self.d, lr=d_lr, beta1=config.beta1)

    @staticmethod
    def resolve(config: Pix2PixConfig, size: int) -> Pix2PixConfig:
        """The deepest U-Net up to unet_256 whose multiple divides `size`."""
        if config.generator != "auto":
            return config
        depth = next((m for m in (256, 128, 64, 32, 16) if size % m == 0), None)
        return replace(config, generator=f"unet_{depth}" if depth else "resnet_9")

    @staticmethod
    def build_generator(config: Pix2PixConfig, in_channels: int, out_channels: int) -> nn.Module:
        return build_generator(config, in_channels, out_channels)

    def step(self, batches: Iterator[Batch]) -> Scalars:
        c, referee, batch = self.config, self.referee, next(batches)
        a, b = batch["a"], batch["b"]

        fake_b = self.g(a)
        real_pair, fake_pair = torch.cat([a, b], 1), torch.cat([a, fake_b], 1)
        d_loss, says = referee.judge(self.d, real_pair, fake_pair)
        self.update("D", d_loss)

        adversarial = referee.fool(self.d, fake_pair, real_pair)
        l1 = F.l1_loss(fake_b, b)
        self.update("G", adversarial + c.lambda_l1 * l1)

        scalars = {"g_gan": adversarial, "l1": l1, "d": d_loss} | {f"d_{kind}": x for kind, x in says.items()}
        return {name: x.detach() for name, x in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"a": batch["a"], "a → b": self.g(batch["a"]), "b": batch["b"]}
