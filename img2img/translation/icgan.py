"""IcGAN: Perarnau, van de Weijer, Raducanu, Alvarez, "Invertible Conditional GANs for Image Editing", 2016,
arXiv:1611.06355.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core import options as core
from img2img.core.method import Batch, Image, Label, Method, Noise, Scalars, Use, adam
from img2img.core.needs import Facts, Needs
from img2img.core.referee import Referee, learning_rates, measured, regularised
from img2img.networks import FROM_NOISE
from img2img.networks.conditional import LabelledDiscriminator, LabelledGenerator
from img2img.networks.encoder import Encoder
from img2img.networks.layers import init_weights
from img2img.options.declared import Within

E_BETA1 = 0.1  # of Adam for the encoders, in the authors' code


@dataclass(frozen=True)
class IcGANConfig(core.NetworksConfig):
    """IcGAN's options, with the defaults of the authors' code."""

    needs: ClassVar[Needs] = Needs(labels=True)

    e_width: Annotated[int, "Channels of the encoders' first layer.", core.CHANNELS] = 32
    e_lr: Annotated[float, "Learning rate of the encoders.", core.RATE] = 1e-4
    e_share: Annotated[
        float, "Final fraction of the run, in which the encoders learn and the others do not.", Within(0, 1, True, True)
    ] = 0.375
    lambda_rec: Annotated[
        float, "Weight of the L1 distance of real images from their reconstructions in E_z's loss.", core.WEIGHT
    ] = 0.0


class Editor(nn.Module):
    """Images (N, C, H, W), and what they would be as the class (N,): g(E_z(x), y).

    Args:
        g: a generator from noise and class to images of `size`.
        e_z: an encoder of such images, to noise.
        channels: C.
        size: side of the images in pixels; others are resized to it, and the results back.
    """

    multiple = 1

    def __init__(self, g: nn.Module, e_z: nn.Module, channels: int, size: int) -> None:
        super().__init__()
        self.g, self.e_z, self.in_channels, self.size = g, e_z, channels, size

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        small = F.interpolate(x.float(), (self.size, self.size), mode="bilinear", antialias=True)
        edited = self.g(self.e_z(small), label).float()  # resizing is not for bf16
        return F.interpolate(edited, x.shape[2:], mode="bilinear", antialias=True)


class IcGAN(Method):
    r"""A conditional GAN, and then two encoders that invert it: E_z finds the noise of an image, E_y its class.

        L_D  = L(D(x, y), real) + (L(D(g(z, y), y), fake) + L(D(x, y_wrong), fake)) / 2
        L_G  = L(D(g(z, y), y), real)
        L_Ez = E[|z - E_z(g(z, y))|^2],  L_Ey = E[-log E_y(y | x)]                          section 3.1
               (+ lambda E[|x - g(E_z(x), y)|], which is not in the paper)
        edit = g(E_z(x), y_new)

    D also rejects real images with a wrong class. The first part of the run is the game of g and D. In the second, g no
    longer changes, E_z learns from its images and E_y from real ones.
    """

    Config = IcGANConfig
    kinds = measured("d") | {"y_accuracy": "share"}
    batch_size = 64
    referee: Referee

    def __init__(self, config: IcGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        channels, classes, builders = facts.channels["image"], len(facts.classes), FROM_NOISE[config.network]
        self.referee = Referee(config, config.d_norm if config.network == "dcgan" else "none", option="--d-norm")
        editor: Any = self.uses["edit"].network
        self.g, self.e_z, self.noise = editor.g, editor.e_z, Noise(config.latent, config.noise)
        d = LabelledDiscriminator(builders.d(channels + classes, facts.size, config), classes)
        self.d = regularised(d, config.spectral, config.weight_norm, config.d_dropout)
        self.e_y = init_weights(Encoder(channels, classes, facts.size, config.e_width, "batch"))
        g_lr, d_lr = learning_rates(config)
        self.player("G", self.g, lr=g_lr, optimizer=adam(config.beta1, config.beta2))
        self.player("D", self.d, lr=d_lr, optimizer=adam(config.beta1, config.beta2))
        self.player("E", self.e_z, self.e_y, lr=config.e_lr, optimizer=adam(E_BETA1))

    @staticmethod
    def build(config: IcGANConfig, facts: Facts) -> dict[str, Use]:
        channels, classes = facts.channels["image"], len(facts.classes)
        g = FROM_NOISE[config.network].g(config.latent + classes, channels, facts.size, config)
        e_z = init_weights(Encoder(channels, config.latent, facts.size, config.e_width, "batch"))
        editor = Editor(LabelledGenerator(g, classes), e_z, channels, facts.size)
        return {"edit": Use(editor, (Image("image"), Label(classes)), "image")}

    def step(self, batches: Iterator[Batch]) -> Scalars:
        batch = next(batches)
        x, y = batch["image"], batch["label"]
        z = self.noise.draw(len(x), x.device)
        scalars = self.encode(x, y, z) if self.progress >= 1 - self.config.e_share else self.play(x, y, z)
        return {name: value.detach() for name, value in scalars.items()}

    def play(self, x: Tensor, y: Tensor, z: Tensor) -> Scalars:
        """Move D, then G."""
        referee, classes = self.referee, len(self.facts.classes)
        wrong = (y + torch.randint(1, max(classes, 2), y.shape, device=y.device)) % classes
        fake = self.g(z, y)
        real, seen = referee.seen(x), referee.seen(fake.detach())
        d_loss, measures = referee.weigh(self.d(real, y), torch.cat([self.d(seen, y), self.d(real, wrong)]))
        penalty = referee.slope(self.d, real, seen, y)
        d_loss = d_loss if penalty is None else d_loss + penalty
        self.move("D", d_loss)

        adversarial = referee.fool(self.d, fake, x, y)
        self.move("G", adversarial)
        return {"g_gan": adversarial, "d": d_loss} | {f"d_{name}": value for name, value in measures.items()}

    def encode(self, x: Tensor, y: Tensor, z: Tensor) -> Scalars:
        """Move both encoders, by a generator as it is used."""
        self.g.eval()
        with torch.no_grad():
            fake = self.g(z, y)
        z_error, logits = F.mse_loss(self.e_z(fake), z), self.e_y(x)
        y_loss = F.cross_entropy(logits, y)
        with torch.set_grad_enabled(self.config.lambda_rec > 0):
            rec = F.l1_loss(self.g(self.e_z(x), y), x)
        self.move("E", z_error + y_loss + self.config.lambda_rec * rec)
        self.g.train()
        accuracy = (logits.argmax(1) == y).float().mean()
        return {"z_error": z_error, "y_loss": y_loss, "y_accuracy": accuracy, "rec": rec}
