"""Adversarial objectives: the losses of the discriminator and the generator, as functions of logits.

Logits have any shape: one number per image, or a map of patches. Every function returns the mean over all of them.
Real logits come first. To add an objective: its two functions, and one entry in `OBJECTIVES`.
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from img2img.plugins import Table


class Objective(NamedTuple):
    """A pair of pure functions, both to be minimised: `d(real_logits, fake_logits)` and `g(fake_logits)`.

    `boundary` is the logit above which the discriminator calls an image real; a critic that only ranks has none.
    `penalised` objectives are meaningless without a bound on the critic's slope (a penalty, or clipped weights).
    `binary` objectives read the logit as that of P(real), so labels can be smoothed.
    `relative` objectives compare both sides: their `g` is `g(fake_logits, real_logits)`.
    """

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[..., Tensor]
    boundary: float | None = 0.0
    penalised: bool = False
    binary: bool = False
    relative: bool = False


# Goodfellow et al. 2014, eq. 1; the logit's sigmoid is P(real).
# -log sigmoid(x) = softplus(-x)   and   -log(1 - sigmoid(x)) = softplus(x)
def binary_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


# The game of eq. 1 as it stands: G minimises log(1 - D), which is flat where D is sure of the fakes: G learns nothing.
def minimax_g(fake: Tensor) -> Tensor:
    return -F.softplus(fake).mean()


# Section 3: G maximises log D instead, which is steep where D is sure.
def nonsaturating_g(fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()


# Mao et al. 2017 (LSGAN), eq. 2: D aims at b for real and a for fake, G at c. Without their factor 1/2, as CycleGAN has
# it. With b - c = 1 and b - a = 2 it is Pearson's chi-squared (their eq. 8).
def least_squares(a: float, b: float, c: float) -> Objective:
    return Objective(
        d=lambda real, fake: (real - b).square().mean() + (fake - a).square().mean(),
        g=lambda fake: (fake - c).square().mean(),
        boundary=(a + b) / 2,
    )


# Lim and Ye 2017, eq. 12; Miyato et al. 2018, eq. 16 and 17.
def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


# Arjovsky et al. 2017, eq. 2 and 3: the critic's estimate of the Wasserstein distance, negated.
def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def mean_g(fake: Tensor) -> Tensor:
    return -fake.mean()


# Jolicoeur-Martineau 2019 (relativistic average GAN), eq. 5 and 6: is a real image more real than the mean fake?
def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()


def relativistic_g(fake: Tensor, real: Tensor) -> Tensor:
    return relativistic_d(fake, real)


# Nowozin et al. 2016 (f-GAN), eq. 6: D maximises E[T(x)] - E[f*(T(g(z)))] with T = activation(logit), which reaches the
# f-divergence; G minimises it. `conjugate` here is f*(activation(v)), written out. D calls an image real where
# T > f'(1), which is at the logit `boundary`.
def f_gan(activation: Callable[[Tensor], Tensor], conjugate: Callable[[Tensor], Tensor], boundary: float) -> Objective:
    return Objective(
        d=lambda real, fake: conjugate(fake).mean() - activation(real).mean(),
        g=lambda fake: -conjugate(fake).mean(),
        boundary=boundary,
    )


OBJECTIVES = Table(
    "objectives",
    {
        "nonsaturating": Objective(binary_d, nonsaturating_g, binary=True),
        "minimax": Objective(binary_d, minimax_g, binary=True),
        "lsgan": least_squares(a=0, b=1, c=1),
        "lsgan_pearson": least_squares(a=-1, b=1, c=0),
        "hinge": Objective(hinge_d, mean_g),
        "wasserstein": Objective(wasserstein_d, mean_g, boundary=None, penalised=True),
        "relativistic": Objective(relativistic_d, relativistic_g, relative=True),
        # Nowozin et al. 2016, tables 2 and 6. Those with an exponential overflow where D is unbounded and sure.
        "f_kl": f_gan(lambda v: v, lambda v: (v - 1).exp(), boundary=1.0),
        "f_reverse_kl": f_gan(lambda v: -(-v).exp(), lambda v: v - 1, boundary=0.0),
        "f_pearson": f_gan(lambda v: v, lambda v: v.square() / 4 + v, boundary=0.0),
        "f_hellinger": f_gan(lambda v: 1 - (-v).exp(), lambda v: v.exp() - 1, boundary=0.0),
        "f_js": f_gan(lambda v: log(2) - F.softplus(-v), lambda v: F.softplus(v) - log(2), boundary=0.0),
        "f_gan": f_gan(lambda v: -F.softplus(-v), F.softplus, boundary=0.0),
    },
)


def smoothed(objective: Objective, share: float) -> Objective:
    """Smooth labels on one side (Salimans et al. 2016, section 3.4): D aims at P(real) = 1 - `share` for real images.

    -(1 - share) log D - share log(1 - D) = softplus(-x) + share x
    """
    return objective._replace(d=lambda real, fake: objective.d(real, fake) + share * real.mean())
