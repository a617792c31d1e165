"""What the discriminator and the generator minimise, with the tricks of the literature around it."""

from typing import Any

import torch
from torch import Tensor, nn

from img2img.core.diffaugment import policy
from img2img.core.objectives import OBJECTIVES, smoothed
from img2img.core.options import Adversarial
from img2img.core.penalties import PENALTIES
from img2img.errors import ConfigError, choose


class Referee:
    """Losses of both sides, from an `Adversarial` config.

    Args:
        config: the options.
        norm: what norm the discriminators have; a penalty cannot do with one that mixes images.
        option: that chooses the norm.
        weight: of D's part, without the penalty.

    Attributes:
        progress: share of the run that is done, for schedules; the training loop moves it.
    """

    def __init__(self, config: Adversarial, norm: str = "none", weight: float = 1.0, option: str = "--norm") -> None:
        self.config, self.weight, self.progress = config, weight, 0.0
        self.gan = choose("objective", config.objective, OBJECTIVES)
        chosen = ("gp" if self.gan.penalised else "none") if config.penalty == "auto" else config.penalty
        self.penalty = choose("penalty", chosen, {"none": None, **PENALTIES})
        if self.penalty is not None and norm == "batch":
            why = f"--objective {config.objective}" if config.penalty == "auto" else f"--penalty {config.penalty}"
            raise ConfigError(
                f"{why} needs a gradient penalty per image, and {option} batch mixes the images of a batch. "
                f"Use {option} instance or {option} none."
            )
        if config.smooth and not self.gan.binary:
            binary = ", ".join(name for name, gan in OBJECTIVES.items() if gan.binary)
            raise ConfigError(f"--smooth is for objectives with labels: {binary}.")
        if config.smooth:
            self.gan = smoothed(self.gan, config.smooth)
        self.transforms = policy(config.diffaugment)

    def seen(self, x: Tensor) -> Tensor:
        """What a discriminator sees of images (N, C, H, W), or of points (N, D): the same for real and fake."""
        for transform in self.transforms:
            x = transform(x)
        # Sønderby et al. 2017, Arjovsky and Bottou 2017: noise on both sides makes their distributions overlap.
        sigma = self.config.instance_noise * (1 - self.progress)
        return x + sigma * torch.randn_like(x) if sigma else x

    def judge(self, d: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What `d` minimises on one batch of real and one of generated images.

        Returns:
            The loss with its penalty; and its accuracy on "real" and on "fake", each in [0, 1], or for a critic that
            only ranks its estimate of the "distance" between both sides (Wasserstein, if its slope is bounded by 1).
        """
        real, fake = self.seen(real), self.seen(fake.detach())
        real_logits, fake_logits = d(real), d(fake)
        loss = self.gan.d(real_logits, fake_logits) * self.weight
        if self.penalty is not None:
            loss = loss + self.config.lambda_gp * self.penalty(d, real, fake)
        at = self.gan.boundary
        if at is None:
            return loss, {"distance": (real_logits.mean() - fake_logits.mean()).detach()}
        if self.gan.relative:  # each side is judged from the mean of the other
            real_logits, fake_logits = real_logits - fake_logits.mean(), fake_logits - real_logits.mean()
        accuracy = {"real": (real_logits.detach() > at), "fake": (fake_logits.detach() <= at)}
        return loss, {name: right.float().mean() for name, right in accuracy.items()}

    def fool(self, d: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """What the generator minimises; `real` is only looked at by objectives that compare."""
        fake_logits = d(self.seen(fake))
        return self.gan.g(fake_logits, d(self.seen(real))) if self.gan.relative else self.gan.g(fake_logits)


def regularised(d: nn.Module, spectral: bool) -> nn.Module:
    """`d`, with spectral norm on its weights if that is wanted."""
    if spectral:
        for module in list(d.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                torch.nn.utils.parametrizations.spectral_norm(module)
    return d


def learning_rates(config: Any) -> tuple[float, float]:
    """Of the generators and of the discriminators (two time scales: Heusel et al. 2017)."""
    return config.lr, config.d_lr or config.lr
