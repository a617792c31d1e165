"""Bounded, local edits towards one reference class: a small adversarial network of our own that can sharpen, blur and
denoise, but cannot draw anything larger than its field of view or stronger than its bound.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core.method import Batch, Image, Label, Method, Scalars, Use, adam
from img2img.core.needs import Facts, Needs
from img2img.core.objectives import OBJECTIVES
from img2img.core.options import WEIGHT, DDropout, Decay, LambdaGP, Objective, Spectral, WeightNorm
from img2img.core.penalties import gradient_penalty
from img2img.errors import ConfigError, choose
from img2img.networks.layers import ConditionalConv, ReflectPad, he_init
from img2img.options.declared import Options, Within
from img2img.translation import options as o
from img2img.translation.build import build_discriminator

RANGE = 2.0  # from -1 to 1


@dataclass(frozen=True)
class LocalConfig(Options):
    """The options of `Local`."""

    needs: ClassVar[Needs] = Needs(labels=True, balanced=True)

    reference: Annotated[
        str, "Class towards which the others are edited; its own images are unchanged. Default: the first class."
    ] = ""
    max_change: Annotated[float, "Maximum change of a pixel, as a fraction of the fitted range.", Within(0, 1)] = 0.10
    width: o.Width = 32
    discriminator: o.Discriminator = "patch_16"
    d_width: o.DWidth = 32
    norm: o.Norm = "none"
    objective: Objective = "wasserstein"
    lambda_gp: LambdaGP = 10.0
    spectral: Spectral = False
    weight_norm: WeightNorm = False
    d_dropout: DDropout = 0.0
    lambda_mean: Annotated[float, "Weight of the local mean of the edit; preserves intensities.", WEIGHT] = 1.0
    lambda_edit: Annotated[float, "Weight of the squared edit.", WEIGHT] = 0.003
    lr: o.LearningRate = 1e-3
    beta1: o.Beta1 = 0.5
    decay: Decay = 0.5


def _reference(config: LocalConfig, facts: Facts) -> int:
    names = {name: index for index, name in enumerate(facts.classes)}
    return choose("--reference", config.reference, names) if config.reference else 0


class Bounded(nn.Module):
    """x + limit tanh(layers(x mirrored at the border)).

    Attributes:
        radius: pixels to each side that a pixel of the output depends on.
    """

    multiple = 1

    def __init__(self, layers: nn.Module, limit: float, radius: int) -> None:
        super().__init__()
        self.layers, self.limit, self.radius = layers, limit, radius
        self.pad = ReflectPad(radius)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.limit * torch.tanh(self.layers(self.pad(x)))
        return out


class Generator(nn.Module):
    """g(x, b) = x + max_change R tanh(f(x, b)): image x (N, C, H, W) of class b (N,), in [-1, 1] or slightly beyond.

    Four 3x3 convolutions without norms: a pixel depends on the 9x9 around it. b sets the biases of the first three.
    The last layer starts at zero, so the generator starts as the identity. Images of the `reference` class are
    returned unchanged.
    """

    multiple = 1
    receptive_field = 9
    reference: Tensor

    def __init__(self, channels: int, batches: int, reference: int, max_change: float, width: int = 32) -> None:
        super().__init__()
        self.limit = max_change * RANGE
        self.radius = self.receptive_field // 2
        self.register_buffer("reference", torch.tensor(reference))
        self.pad = ReflectPad(self.radius)
        self.first = ConditionalConv(batches, channels, width, 3)
        self.second = ConditionalConv(batches, width, width, 3)
        self.third = ConditionalConv(batches, width, width, 3)
        self.last = nn.Conv2d(width, channels, 3)
        he_init(self)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        h = self.pad(x)
        for conv in (self.first, self.second, self.third):
            h = F.relu(conv(h, batch))
        edit = self.limit * torch.tanh(self.last(h))
        return x + edit * (batch != self.reference)[:, None, None, None]

    def bind(self, batch: int) -> Bounded:
        """Return the network of one class other than the reference, as a function of the image alone."""
        convs = [conv.bind(batch) for conv in (self.first, self.second, self.third)]
        layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
        return Bounded(nn.Sequential(*layers, copy.deepcopy(self.last)), self.limit, self.radius).requires_grad_(False)


class Critic(nn.Module):
    """A patch discriminator of texture, t(x) = asinh((x - h * x) / s), h a binomial low pass of 7x7 pixels.

    The texture no longer holds intensities, which are the tone curve's task. s, per channel, is the scale of the
    reference's own texture: noise comes out at about 1, and edges, a hundred times stronger, at a few. Without it, a
    critic of bounded slope would see edges alone.

    Maps textures to logits. `see` computes the texture of images (N, C, H, W), 6 pixels smaller.
    """

    low: Tensor
    scale: Tensor
    seen: Tensor

    def __init__(self, patches: nn.Module, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 6.0, 15.0, 20.0, 15.0, 6.0, 1.0]) / 64
        self.register_buffer("low", (row[:, None] * row).expand(channels, 1, 7, 7).clone(), persistent=False)
        self.register_buffer("scale", torch.zeros(channels, 1, 1))
        self.register_buffer("seen", torch.tensor(0))
        self.patches = patches
        self.min_size = getattr(patches, "min_size", 1) + 6
        he_init(patches)

    def forward(self, texture: Tensor) -> Tensor:
        logits: Tensor = self.patches(texture)
        return logits

    @torch.no_grad()
    def learn(self, reference: Tensor) -> None:
        """Add patches of the reference to the mean of s: the median of |x - h * x|, as a standard deviation."""
        sizes = self._split(reference)[1].abs().transpose(0, 1).flatten(1).quantile(0.5, 1) / 0.6745
        self.seen += 1
        self.scale += (sizes[:, None, None].clamp_min(1e-4) - self.scale) / self.seen

    def see(self, x: Tensor) -> Tensor:
        return torch.asinh(self._split(x)[1] / self.scale)

    def sizes(self, edit: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[(h * e)^2] and E[e^2], in units of s^2."""
        low, _ = self._split(edit)
        return (low / self.scale).square().mean(), (edit / self.scale).square().mean()

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split images into the smooth part and the rest."""
        low = F.conv2d(x, self.low, groups=x.shape[1])
        return low, x[:, :, 3:-3, 3:-3] - low


class Local(Method):
    r"""One generator g(x, b) of class b's images, and one discriminator that tells them from the reference's.

        L_D = E[D(t(g(x, b)))] - E[D(t(r))] + lambda_gp E[(|grad D| - 1)^2]            r: images of the reference
        L_G = -E[D(t(g(x, b)))] + lambda_mean E[(h * e)^2] + lambda_edit E[e^2]        e = g(x, b) - x

    In the lab, classes are batches, and images come through their batch's tone curve, which is where g starts. The
    texture t and the low pass h are the `Critic`'s; e is measured in units of the reference's texture. The low-pass
    term holds intensities to the curve, which leaves sharpness and noise to g.

    An adversary matches distributions; it does not restore. If a class has less noise than the reference, long training
    amplifies the little there is: more steps are not better.
    """

    Config = LocalConfig
    batch_size = 12

    def __init__(self, config: LocalConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.gan = choose("objective", config.objective, OBJECTIVES)
        if self.gan.relative:
            raise ConfigError(f"local cannot use the objective {config.objective}, which compares; use wasserstein.")
        self.reference = _reference(config, facts)
        self.g = self.uses["translate"].network
        self.d = Critic(build_discriminator(config, facts.channels["image"]), facts.channels["image"])
        self.player("G", self.g, lr=config.lr, optimizer=adam(config.beta1))
        self.player("D", self.d, lr=config.lr, optimizer=adam(config.beta1))

    @staticmethod
    def build(config: LocalConfig, facts: Facts) -> dict[str, Use]:
        channels, classes = facts.channels["image"], len(facts.classes)
        g = Generator(channels, classes, _reference(config, facts), config.max_change, config.width)
        return {"translate": Use(g, (Image("image"), Label(classes)), "image")}

    def step(self, batches: Iterator[Batch]) -> Scalars:
        c, gan, batch = self.config, self.gan, next(batches)
        image, source = batch["image"], batch["label"]
        is_reference = source == self.reference
        x, b, real = image[~is_reference], source[~is_reference], image[is_reference]

        self.d.learn(real)
        fake = self.g(x, b)
        seen_real, seen_fake = self.d.see(real), self.d.see(fake)
        d_loss = gan.d(self.d(seen_real), self.d(seen_fake.detach()))
        if gan.penalised:
            rows = torch.arange(len(fake), device=real.device) % len(real)
            d_loss = d_loss + c.lambda_gp * gradient_penalty(self.d, seen_real[rows], seen_fake)
        self.move("D", d_loss)

        g_gan = gan.g(self.d(seen_fake))
        mean, size = self.d.sizes(fake - x)
        self.move("G", g_gan + c.lambda_mean * mean + c.lambda_edit * size)

        scalars = {"g_gan": g_gan, "mean": mean, "edit": size, "d": d_loss}
        return {name: x.detach() for name, x in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        x = batch["image"]
        out = self.g(x, batch["label"])
        return {"image": x, "→ reference": out, "edit, of the bound": (out - x) / self.g.limit}
