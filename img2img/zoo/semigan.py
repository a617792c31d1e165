"""SemiGAN: Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, "Improved Techniques for Training GANs", NeurIPS 2016,
arXiv:1606.03498, section 5; and Odena, "Semi-Supervised Learning with Generative Adversarial Networks", 2016,
arXiv:1606.01583.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core import options as o
from img2img.core.method import CLASS, Batch, Image, Scalars, Use
from img2img.core.needs import Facts, Needs
from img2img.core.noise import FromNoise, drawing
from img2img.networks import FROM_NOISE


@dataclass(frozen=True)
class SemiGANConfig(o.GameConfig):
    """SemiGAN's options; learning rate and dropout are those of the authors' code for CIFAR."""

    needs: ClassVar[Needs] = Needs(labels=True, unlabelled=True)
    unused: ClassVar[tuple[str, ...]] = ("spectral", "weight_norm")

    match_features: Annotated[bool, "G matches the mean features of real images; otherwise it fools D."] = True
    lambda_game: Annotated[float, "Weight of real or fake in D's loss, beside that of the classes.", o.WEIGHT] = 0.5
    d_dropout: o.DDropout = 0.5
    noise: o.Noise = "uniform"
    d_norm: o.DNorm = "none"
    lr: o.LearningRate = 3e-4


class Classifier(nn.Module):
    """Logits (N, classes), and features (N, F) of the last hidden layer, of images (N, C, H, W); `d` has an output for
    each class.
    """

    multiple = 1

    def __init__(self, d: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = list(d.layers)  # type: ignore[arg-type]
        flat = [nn.Flatten()] if isinstance(layers[0], nn.Linear) else []
        self.body, self.head = nn.Sequential(*flat, *layers[:-1]), layers[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.head(features).flatten(1), features.flatten(1)


class SemiGAN(FromNoise):
    r"""D names the class of an image, or calls it generated: K + 1 classes, of which the last has the logit 0.

        L_D = -E[log p(y | x, y <= K)] of images with a label                         eq. of section 5
            - lambda (E[log (1 - p(K + 1 | x))] of images without + E[log p(K + 1 | G(z))])
        L_G = |E[f(x)] - E[f(G(z))]|^2 of D's features f                              section 3.1

    With v = log sum_k exp(l_k), D(x) = 1 - p(K + 1 | x) is the sigmoid of v, so v is the logit of a usual game. Every
    other image of a batch has a label. The classifier is kept, beside the generator.
    """

    Config = SemiGANConfig
    kinds = dict(FromNoise.kinds) | {"d_class_right": "share"}

    @staticmethod
    def build(config: SemiGANConfig, facts: Facts) -> dict[str, Use]:
        d = FROM_NOISE[config.network].d(facts.channels["image"], facts.size, config, len(facts.classes))
        classify = Use(Classifier(d), (Image("image"),), CLASS)
        return drawing(config, facts) | {"classify": classify}

    def build_d(self) -> nn.Module:
        return self.uses["classify"].network

    def conditions(self, batch: Batch) -> tuple[Tensor, ...]:
        return ()

    def realness(self, x: Tensor) -> Tensor:
        """Return v (N, 1), the logit of being real."""
        v: Tensor = self.d(x)[0].logsumexp(1, keepdim=True)
        return v

    def d_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        referee, label = self.referee, batch["label"]
        known = label >= 0
        real, fake = referee.seen(batch["image"]), referee.seen(fake.detach())
        logits, _ = self.d(real)
        playing = played(label)
        game, measures = referee.weigh(logits[playing].logsumexp(1, keepdim=True), self.realness(fake))
        penalty = referee.slope(self.realness, real, fake)
        classes = F.cross_entropy(logits, label, ignore_index=-1, reduction="sum") / known.sum().clamp_min(1)
        right = ((logits.argmax(1) == label) & known).sum() / known.sum().clamp_min(1)
        loss = classes + self.config.lambda_game * game
        return loss if penalty is None else loss + penalty, measures | {"class": classes, "class_right": right}

    def g_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        real = batch["image"][played(batch["label"])]
        if not self.config.match_features:
            loss = self.referee.fool(self.realness, fake, real)
            return loss, {"g_gan": loss}
        f_real, f_fake = (self.d(self.referee.seen(x))[1].mean(0) for x in (real, fake))
        loss = (f_real.detach() - f_fake).square().mean()
        return loss, {"g_features": loss}

    @torch.no_grad()
    def measure(self, batch: Batch) -> Scalars:
        return {"class_error": (self.d(batch["image"])[0].argmax(1) != batch["label"]).float().mean()}


def played(label: Tensor) -> Tensor:
    """Return which images of labels (N,) are in the game of real or fake: those without one; all if each has one."""
    return (label < 0) | (label >= 0).all()
