"""The losses of the discriminator and the generator, with the tricks of the literature around them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import register_parametrization

from img2img.core.diffaugment import policy
from img2img.core.objectives import OBJECTIVES, Objective, smoothed
from img2img.core.options import Adversarial
from img2img.core.penalties import PENALTIES
from img2img.errors import ConfigError, choose

Critic = Callable[..., Tensor]  # images, then conditions, to logits
ACTIVATIONS = (nn.LeakyReLU, nn.ReLU, nn.ELU)


class Referee:
    """The losses of both sides, from an `Adversarial` config.

    `judge` and `fool` serve a discriminator that returns logits; `weigh` and `slope` are their parts, for one that
    returns more. Conditions, such as labels, are passed on as they are: neither augmented nor mixed with noise.

    Args:
        config: the options.
        norm: the norm of the discriminators; a penalty rules out one that mixes images.
        weight: factor of D's loss, except for the penalty.
        option: the option that chooses the norm.
        gan: an objective other than the one that `config` names.

    Attributes:
        progress: share of the run that is done, for schedules; set by the training loop.
    """

    def __init__(
        self,
        config: Adversarial,
        norm: str = "none",
        weight: float = 1.0,
        option: str = "--norm",
        gan: Objective | None = None,
    ) -> None:
        self.config, self.weight, self.progress = config, weight, 0.0
        self.gan = gan or choose("objective", config.objective, OBJECTIVES)
        chosen = ("gp" if self.gan.penalised else "none") if config.penalty == "auto" else config.penalty
        self.penalty = choose("penalty", chosen, {"none": None, **PENALTIES})
        if self.penalty is not None and norm == "batch":
            why = f"--objective {config.objective}" if config.penalty == "auto" else f"--penalty {config.penalty}"
            raise ConfigError(
                f"{why} needs a gradient penalty per image, and {option} batch mixes the images of a batch. "
                f"Use {option} instance or {option} none."
            )
        if config.smooth and not self.gan.binary:
            binary = ", ".join(name for name, gan in OBJECTIVES.own.items() if gan.binary)
            raise ConfigError(f"--smooth is for objectives with labels: {binary}.")
        if config.smooth:
            self.gan = smoothed(self.gan, config.smooth)
        self.transforms = policy(config.diffaugment)

    def seen(self, x: Tensor) -> Tensor:
        """Return what a discriminator sees of images (N, C, H, W) or points (N, D): the same for real and fake."""
        for transform in self.transforms:
            x = transform(x)
        # Sønderby et al. 2017, Arjovsky and Bottou 2017: noise on both sides makes their distributions overlap.
        sigma = self.config.instance_noise * (1 - self.progress)
        return x + sigma * torch.randn_like(x) if sigma else x

    def weigh(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return D's loss of these logits without a penalty, and how well it tells both sides apart.

        The latter is its accuracy on "real" and on "fake", each in [0, 1]; or for a critic that only ranks its estimate
        of the "distance" between both sides (Wasserstein, if its slope is bounded by 1).
        """
        loss = self.gan.d(real_logits, fake_logits) * self.weight
        boundary = self.gan.boundary
        if boundary is None:
            return loss, {"distance": (real_logits.mean() - fake_logits.mean()).detach()}
        if self.gan.relative:  # each side is judged from the mean of the other
            real_logits, fake_logits = real_logits - fake_logits.mean(), fake_logits - real_logits.mean()
        accuracy = {"real": (real_logits.detach() > boundary), "fake": (fake_logits.detach() <= boundary)}
        return loss, {name: right.float().mean() for name, right in accuracy.items()}

    def slope(self, d: Critic, real: Tensor, fake: Tensor, *conditions: Tensor) -> Tensor | None:
        """Return the weighted penalty on the slope of `d`, or None without one."""
        if self.penalty is None:
            return None
        return self.config.lambda_gp * self.penalty(lambda x: d(x, *conditions), real, fake)

    def judge(self, d: Critic, real: Tensor, fake: Tensor, *conditions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return D's loss on one batch of real and one of generated images, with its penalty, and the measures of
        `weigh`.
        """
        real, fake = self.seen(real), self.seen(fake.detach())
        loss, measures = self.weigh(d(real, *conditions), d(fake, *conditions))
        penalty = self.slope(d, real, fake, *conditions)
        return loss if penalty is None else loss + penalty, measures

    def fool(self, d: Critic, fake: Tensor, real: Tensor, *conditions: Tensor) -> Tensor:
        """Return the generator's loss; only objectives that compare look at `real`."""
        fake_logits = d(self.seen(fake), *conditions)
        if not self.gan.relative:
            return self.gan.g(fake_logits)
        return self.gan.g(fake_logits, d(self.seen(real), *conditions))


def measured(*players: str) -> dict[str, str]:
    """Return the kinds of the scalars that `Referee.judge` measures, for discriminators of these names."""
    kinds = {"real": "share", "fake": "share", "distance": "distance"}
    return {f"{player}_{name}": kind for player in players for name, kind in kinds.items()}


def regularised(network: nn.Module, spectral: bool, weight_norm: bool = False, dropout: float = 0.0) -> nn.Module:
    """Return `network`, with its weights in spectral or weight norm if asked for, and dropout after each activation."""
    if spectral and weight_norm:
        raise ConfigError("--spectral and --weight-norm both rescale the discriminator's weights; leave one out.")
    for module in list(network.modules()):
        if spectral and isinstance(module, nn.Conv2d | nn.Linear):
            register_parametrization(module, "weight", SpectralNorm(module.weight))
        if weight_norm and isinstance(module, nn.Conv2d | nn.Linear):
            register_parametrization(module, "weight", WeightNorm())
        for name, child in list(module.named_children()):
            if dropout and isinstance(child, ACTIVATIONS):
                setattr(module, name, nn.Sequential(child, nn.Dropout(dropout)))
    return network


class SpectralNorm(_SpectralNorm):
    """PyTorch's spectral norm, which does not iterate where there is nothing to iterate on, on the meta device.

    There, its fifteen first iterations take .1 s for each layer, for every model file that is opened.
    """

    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        if not weight_mat.is_meta:
            super()._power_method(weight_mat, n_power_iterations)


class WeightNorm(nn.Module):
    """A weight w = g v / |v| by its length g and direction v, for each output (Salimans and Kingma 2016, eq. 2).

    PyTorch's own has a wrong second derivative on a CPU (up to 2.14 at least), which penalties and unrolling need.
    """

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return g * v / _lengths(v)

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return _lengths(w), w


def _lengths(w: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(w, dim=tuple(range(1, w.dim())), keepdim=True)
    return lengths


def learning_rates(config: Any) -> tuple[float, float]:
    """Return those of the generators and of the discriminators (two time scales: Heusel et al. 2017)."""
    return config.lr, config.d_lr or config.lr
