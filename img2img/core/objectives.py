"""Adversarial objectives: what the discriminator and the generator minimise, as functions of logits.

Logits have any shape: one number per image, or a map of patches. Every function returns the mean over all of them.
Real logits come first. To add an objective: its two functions, and one entry in `OBJECTIVES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Objective(NamedTuple):
    """A pair of pure functions: `d(real_logits, fake_logits)` and `g(fake_logits)`, both to be minimised.

    `boundary` is the logit above which the discriminator says "real"; a critic that only ranks has none.
    `penalised` objectives are meaningless without a bound on the critic's slope (a gradient penalty).
    """

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor], Tensor]
    boundary: float | None = 0.0
    penalised: bool = False


# Goodfellow et al. 2014, eq. 1, with the non-saturating generator of section 3; the logit's sigmoid is P(real).
# -log sigmoid(x) = softplus(-x)   and   -log(1 - sigmoid(x)) = softplus(x)
def vanilla_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def vanilla_g(fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()


# Mao et al. 2017 (LSGAN), with targets 1 for real and 0 for fake, and without their factor 1/2: CycleGAN's form.
def lsgan_d(real: Tensor, fake: Tensor) -> Tensor:
    return (real - 1).square().mean() + fake.square().mean()


def lsgan_g(fake: Tensor) -> Tensor:
    return (fake - 1).square().mean()


# Lim and Ye 2017, eq. 12; Miyato et al. 2018, eq. 16 and 17.
def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


# Arjovsky et al. 2017, eq. 2 and 3: the critic's estimate of the Wasserstein distance, negated.
def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def mean_g(fake: Tensor) -> Tensor:
    return -fake.mean()


OBJECTIVES = {
    "lsgan": Objective(lsgan_d, lsgan_g, boundary=0.5),
    "vanilla": Objective(vanilla_d, vanilla_g),
    "hinge": Objective(hinge_d, mean_g),
    "wasserstein": Objective(wasserstein_d, mean_g, boundary=None, penalised=True),
}
