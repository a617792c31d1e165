"""Many batches, one generator: StarGAN-style, after Choi, Choi, Kim, Ha, Kim, Choo, "StarGAN: Unified Generative
Adversarial Networks for Multi-Domain Image-to-Image Translation", CVPR 2018, arXiv:1711.09020, and Qian et al., "Batch
equalization with a generative adversarial network", Bioinformatics 36, 2020. The exact loss is our own.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core.method import Batch, Image, Label, Method, Scalars, Use, adam
from img2img.core.needs import Facts, Needs
from img2img.core.objectives import OBJECTIVES
from img2img.core.options import WEIGHT, Decay, LambdaGP, NCritic
from img2img.core.penalties import gradient_penalty
from img2img.networks.layers import UPSAMPLINGS, ConditionalConv, ReflectPad, he_init
from img2img.networks.resnet import ResidualBlock
from img2img.options.declared import Options, Within
from img2img.translation import options as o


@dataclass(frozen=True)
class StarGANConfig(Options):
    """StarGAN's options, with the defaults of the published code of both papers."""

    needs: ClassVar[Needs] = Needs(labels=True)

    width: o.Width = 64
    blocks: Annotated[int, "Residual blocks of the generator.", Within(0, 1000)] = 6
    d_width: o.DWidth = 64
    d_layers: Annotated[int, "Layers of the discriminator, each halving the image.", Within(1, 16)] = 6
    n_critic: NCritic = 5
    lambda_gp: LambdaGP = 10.0
    lambda_cls: Annotated[float, "Weight of the classification loss.", WEIGHT] = 1.0
    lambda_rec: Annotated[float, "Weight of the reconstruction loss.", WEIGHT] = 10.0
    lambda_variance: Annotated[float, "Weight of the variance of the edit between images of one class.", WEIGHT] = 100.0
    lr: o.LearningRate = 1e-4
    beta1: o.Beta1 = 0.5
    decay: Decay = 0.5


class Residual(nn.Module):
    """x + layers(x), of images (N, C, H, W) whose sides divide by `multiple`."""

    def __init__(self, layers: nn.Module, multiple: int) -> None:
        super().__init__()
        self.layers, self.multiple = layers, multiple

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Generator(nn.Module):
    """g(x, t) = x + f(x, t): image x (N, C, H, W) as class t (N,) would show it.

    t enters in the first layer. The last layer starts at zero, so the generator starts as the identity. Its output is
    not bounded. Height and width must be multiples of `multiple`.
    """

    multiple = 4

    def __init__(self, channels: int, batches: int, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        up, w = UPSAMPLINGS["resize"], width
        self.pad, self.head = ReflectPad(3), ConditionalConv(batches, channels, w, 7)
        self.body = nn.Sequential(
            nn.ReLU(),
            ReflectPad(1), nn.Conv2d(w, 2 * w, 4, stride=2), nn.ReLU(),
            ReflectPad(1), nn.Conv2d(2 * w, 4 * w, 4, stride=2), nn.ReLU(),
            *(ResidualBlock(4 * w, "none", "reflect", 0.0) for _ in range(blocks)),
            up(4 * w, 2 * w, 3, True), nn.ReLU(),
            up(2 * w, w, 3, True), nn.ReLU(),
            ReflectPad(3), nn.Conv2d(w, channels, 7),
        )  # fmt: skip
        he_init(self)
        for module in self.body:
            if isinstance(module, ResidualBlock):  # each block would double the variance otherwise
                _start_at_zero(module.body)
        _start_at_zero(self.body)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        out: Tensor = x + self.body(self.head(self.pad(x), target))
        return out

    def bind(self, target: int) -> Residual:
        """Return the network towards one class, as a function of the image alone."""
        layers = nn.Sequential(self.pad, self.head.bind(target), *self.body)
        return Residual(copy.deepcopy(layers), self.multiple).requires_grad_(False)


def _start_at_zero(layers: nn.Sequential) -> None:
    *_, last = (layer for layer in layers if isinstance(layer, nn.Conv2d))
    nn.init.zeros_(last.weight)


class Discriminator(nn.Module):
    """Logits (N, 1 + classes) of images (N, C, H, W): the first for real or fake, the others for the class.

    The last feature map is averaged, so images of any size from `min_size` up can be judged.
    """

    def __init__(self, channels: int, batches: int, width: int = 64, layers: int = 6) -> None:
        super().__init__()
        widths = [channels, *(width * 2**k for k in range(layers))]
        halvings = (
            nn.Sequential(nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.01)) for a, b in pairwise(widths)
        )
        self.layers = nn.Sequential(*halvings)
        self.logits = nn.Linear(widths[-1], 1 + batches)
        self.min_size = 2**layers
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.layers(x).mean((2, 3)))
        return logits


def edit_variance(x: Tensor, edit: Tensor, batch: Tensor, bins: int = 16) -> Tensor:
    """Return how differently the images of one class are edited at equal intensity: the high-variance edits that Qian
    et al. penalise, in a form of our own.

        m_ik = mean of e over the n_ik pixels of image i whose x lies in bin k
        V    = sum_ik n_ik (m_ik - M_bk)^2 / sum_ik n_ik,    M_bk = n_ik-weighted mean of m_ik over class b

    It is zero if e is a function of the bin alone, whatever the pixels are, and blind to what e does within one image
    at equal intensity: removing noise, sharpening edges.

    Args:
        x: images (N, C, H, W); the bins divide [-1, 1], the outer ones are open-ended.
        edit: e = g(x, t) - x, of the same shape; all images of a class must have the same target t.
        batch: the class of each image, (N,) integers.

    Returns:
        A scalar, the mean over channels.
    """
    bin_of = ((x + 1) * (bins / 2)).floor().clamp(0, bins - 1).long()
    inside = F.one_hot(bin_of.flatten(2), bins).to(edit.dtype)  # (N, C, H * W, bins)
    count = inside.sum(2)
    mean = torch.einsum("ncpk,ncp->nck", inside, edit.flatten(2)) / count.clamp_min(1)
    together = (batch[:, None] == batch[None]).to(edit.dtype)  # (N, N): the images of each image's batch
    common = torch.einsum("nm,mck->nck", together, count * mean) / torch.einsum(
        "nm,mck->nck", together, count
    ).clamp_min(1)
    return (count * (mean - common).square()).sum() / count.sum()


class StarGAN(Method):
    r"""One generator g(x, t) towards every class t, and one discriminator that tells real from fake, and the class.

        L_adv = E[D_src(x)] - E[D_src(g(x, t))] - lambda_gp E[(|grad D_src| - 1)^2]     Choi et al., eq. 8
        L_cls = E[-log D_cls(s | x)] for D,  E[-log D_cls(t | g(x, t))] for G           eq. 2, 3
        L_rec = E[|x - g(g(x, t), s)|]                                                  eq. 4
        L_D   = -L_adv + lambda_cls L_cls                                               eq. 5
        L_G   =  L_adv + lambda_cls L_cls + lambda_rec L_rec + lambda_variance V        eq. 6, and `edit_variance`

    D moves `n_critic` times, each time on a fresh batch; G then moves on the last one.

    We know the idea of Qian et al. from their abstract; the code they name is StarGAN for faces, from which this
    departs. g has no instance norm, which would give every tile of an image its own contrast; it adds to its input
    instead of redrawing it through a tanh, upsamples by repetition and convolution, and mirrors borders. D averages its
    last feature map, so that patches may have any size. In each move, all images of a class go to the same target (a
    permutation of the classes, drawn anew), which makes the variance of the edit visible. The head for entangled
    biology is omitted. In the lab, the classes are the batches.
    """

    Config = StarGANConfig
    batch_size = 16

    def __init__(self, config: StarGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.draws = config.n_critic
        self.gan = OBJECTIVES["wasserstein"]
        self.g = self.uses["translate"].network
        self.d = Discriminator(facts.channels["image"], len(facts.classes), config.d_width, config.d_layers)
        self.player("G", self.g, lr=config.lr, optimizer=adam(config.beta1))
        self.player("D", self.d, lr=config.lr, optimizer=adam(config.beta1))

    @staticmethod
    def build(config: StarGANConfig, facts: Facts) -> dict[str, Use]:
        channels, classes = facts.channels["image"], len(facts.classes)
        g = Generator(channels, classes, config.width, config.blocks)
        return {"translate": Use(g, (Image("image"), Label(classes)), "image")}

    def _targets(self, source: Tensor) -> Tensor:
        return torch.randperm(len(self.facts.classes), device=source.device)[source]

    def _realness(self, x: Tensor) -> Tensor:
        logits: Tensor = self.d(x)
        return logits[:, :1]

    def step(self, batches: Iterator[Batch]) -> Scalars:
        c, gan = self.config, self.gan

        for _ in range(c.n_critic):
            batch = next(batches)
            x, source = batch["image"], batch["label"]
            with torch.no_grad():
                fake = self.g(x, self._targets(source))
            real_logits = self.d(x)
            d_gan = gan.d(real_logits[:, :1], self._realness(fake))
            d_cls = F.cross_entropy(real_logits[:, 1:], source)
            penalty = gradient_penalty(self._realness, x, fake)
            self.move("D", d_gan + c.lambda_cls * d_cls + c.lambda_gp * penalty)

        target = self._targets(source)
        fake = self.g(x, target)
        logits = self.d(fake)
        g_gan, g_cls = gan.g(logits[:, :1]), F.cross_entropy(logits[:, 1:], target)
        rec = F.l1_loss(self.g(fake, source), x)
        variance = edit_variance(x, fake - x, source)
        self.move("G", g_gan + c.lambda_cls * g_cls + c.lambda_rec * rec + c.lambda_variance * variance)

        scalars = {"g_gan": g_gan, "g_cls": g_cls, "rec": rec, "variance": variance}
        scalars |= {"d_gan": d_gan, "d_cls": d_cls, "gp": penalty}
        return {name: x.detach() for name, x in scalars.items()}
