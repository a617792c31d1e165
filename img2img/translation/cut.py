"""CUT and FastCUT: Park, Efros, Zhang, Zhu, "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020,
arXiv:2007.15651.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.core.method import Batch, Image, Method, Scalars, Use, adam
from img2img.core.needs import Facts
from img2img.core.options import CHANNELS, WEIGHT, Decay, Objective
from img2img.core.referee import Referee, learning_rates, measured
from img2img.errors import ConfigError
from img2img.networks.layers import each, init_weights
from img2img.options.declared import Within
from img2img.translation import options as o
from img2img.translation.build import build_discriminator, build_generator, published_resnet

LambdaNCE = Annotated[float, "Weight of the contrastive loss between an image and its translation.", WEIGHT]
LambdaIdentity = Annotated[float, "Weight of the contrastive loss between b and g(b); 0 disables it.", WEIGHT]
Flip = Annotated[bool, "Translate mirrored images in half of the steps, and compare them mirrored back."]


@dataclass(frozen=True)
class CUTConfig(o.TranslationConfig):
    """CUT's options, with the defaults of section 4 and of the authors' code."""

    objective: Objective = "lsgan"
    lambda_nce: LambdaNCE = 1.0
    lambda_identity: LambdaIdentity = 1.0
    flip: Flip = False
    places: Annotated[int, "Number of places of each map whose features are compared.", Within(2, 10**6)] = 256
    head_width: Annotated[int, "Length of the features that are compared.", CHANNELS] = 256
    temperature: Annotated[float, "Temperature of the contrastive loss.", Within(0, 1000, above=True)] = 0.07


@dataclass(frozen=True)
class FastCUTConfig(CUTConfig):
    """FastCUT's options: a heavier contrastive loss, and mirrored images, in place of the identity."""

    decay: Decay = 0.25
    lambda_nce: LambdaNCE = 10.0
    lambda_identity: LambdaIdentity = 0.0
    flip: Flip = True


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of finding each query's own key among all keys of its image (eq. 3), averaged.

    Args:
        queries: features (N, P, C) at P places.
        keys: those at the same places of another image; they get no gradient.
        temperature: tau.
    """
    v, k = F.normalize(queries, dim=2), F.normalize(keys.detach(), dim=2)
    similarity = v @ k.transpose(1, 2) / temperature  # (N, P, P)
    own = torch.arange(v.shape[1], device=v.device).repeat(len(v))
    return F.cross_entropy(similarity.flatten(0, 1), own)


class CUT(Method):
    r"""One generator g: A -> B, whose own encoder must find each place of an image again in its translation.

        L = L_GAN(g, d) + lambda_X L_NCE(a) + lambda_Y L_NCE(b)                                     eq. 5
        L_NCE(x) = mean over maps l and places s of l(H_l(e_l(g(x)))_s, H_l(e_l(x))_s, the others)  eq. 4
        l(v, v+, v-) = -log(exp(v v+ / tau) / (exp(v v+ / tau) + sum_n exp(v v-_n / tau)))          eq. 3

    e_l(x) are maps of g's encoder: the pixels, both halvings and two blocks; the others are other places of the same
    image. As in the authors' code, keys carry no gradient, two contrastive losses are averaged, D moves first and at
    half weight, and one Adam drives g and H.
    """

    Config: ClassVar[type] = CUTConfig
    kinds = measured("d")
    referee: Referee
    g: Any

    def __init__(self, config: CUTConfig, facts: Facts) -> None:
        a, b = facts.channels["a"], facts.channels["b"]
        if a != b:
            raise ConfigError(
                f"One encoder compares images of both domains, but A has {a} channels and B has {b}. Use cyclegan."
            )
        super().__init__(config, facts)
        self.referee = Referee(config, config.norm, weight=0.5)
        self.g, self.d = self.uses["a2b"].network, build_discriminator(config, b)
        if not hasattr(self.g, "encode"):
            raise ConfigError(
                f"The generator '{config.generator}' has no method encode(x), which returns a list of maps inside it; "
                "cut and fastcut compare those."
            )
        edge = 4 * self.g.multiple  # any size: only the channels of the maps matter
        with torch.no_grad():
            maps = self.g.encode(torch.zeros(1, a, edge, edge))
        n = config.head_width
        heads = (nn.Sequential(nn.Linear(x.shape[1], n), nn.ReLU(), nn.Linear(n, n)) for x in maps)
        self.h = init_weights(nn.ModuleList(heads))
        g_lr, d_lr = learning_rates(config)
        self.player("G", self.g, self.h, lr=g_lr, optimizer=adam(config.beta1))
        self.player("D", self.d, lr=d_lr, optimizer=adam(config.beta1))

    @staticmethod
    def resolve(config: CUTConfig, facts: Facts) -> CUTConfig:
        return replace(config, generator=published_resnet(facts.size)) if config.generator == "auto" else config

    @staticmethod
    def build(config: CUTConfig, facts: Facts) -> dict[str, Use]:
        return {"a2b": Use(build_generator(config, facts.channels["a"], facts.channels["b"]), (Image("a"),), "b")}

    def nce(self, x: Tensor, translated: Tensor, mirrored: bool = False) -> Tensor:
        """Return L_NCE between images and their translations, `mirrored` or not, at places drawn anew for each map."""
        queries, losses = self.g.encode(translated), []
        with torch.no_grad():
            keys = self.g.encode(x)
        for q, k, head in zip(queries, keys, self.h, strict=True):
            q = q.flip(3) if mirrored else q
            s = torch.randperm(q[0, 0].numel(), device=q.device)[: self.config.places]
            q, k = (head(m.flatten(2)[:, :, s].transpose(1, 2)) for m in (q, k))  # (N, P, C)
            losses.append(contrast(q, k, self.config.temperature))
        return torch.stack(losses).mean()

    def step(self, batches: Iterator[Batch]) -> Scalars:
        c, referee, batch = self.config, self.referee, next(batches)
        a, b = batch["a"], batch["b"]
        mirrored = c.flip and bool(torch.rand(()) < 0.5)

        x = a.flip(3) if mirrored else a
        fake_b, *same_b = each(self.g, x, b) if c.lambda_identity else [self.g(x)]
        d_loss, measures = referee.judge(self.d, b, fake_b)
        self.move("D", d_loss)

        scalars = {"g_gan": referee.fool(self.d, fake_b, b), "nce": self.nce(a, fake_b, mirrored)}
        contrastive = c.lambda_nce * scalars["nce"]
        for y in same_b:
            scalars["nce_b"] = self.nce(b, y)
            contrastive = (contrastive + c.lambda_identity * scalars["nce_b"]) / 2
        self.move("G", scalars["g_gan"] + contrastive)

        scalars |= {"d": d_loss} | {f"d_{name}": value for name, value in measures.items()}
        return {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a, b = batch["a"], batch["b"]
        return {"a": a, "a → b": self.g(a), "b": b, "b → b": self.g(b)}


class FastCUT(CUT):
    """CUT without the identity, for speed: L = L_GAN(g, d) + 10 L_NCE(a), of images mirrored in half of the steps."""

    Config = FastCUTConfig
