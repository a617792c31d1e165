"""Bounds on slopes: terms added to the loss of the discriminator or the generator, and clipped weights."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.runtime.device import second_derivatives

Critic = Callable[[Tensor], Tensor]


def slopes(critic: Critic, x: Tensor) -> Tensor:
    """Return |grad D(x)| of each image, (N,), differentiable with respect to the critic's parameters.

    Args:
        critic: maps images (N, ...) to logits of any shape (N, ...); a map of logits is averaged per image. It must not
            mix the images of a batch, which rules out batch norm.
        x: images (N, ...).
    """
    x = x.detach().requires_grad_()
    with second_derivatives():
        logits = critic(x)
    score = logits.reshape(len(x), -1).mean(1).sum()  # sum over images: each gradient stays its own image's
    gradient: Tensor
    (gradient,) = torch.autograd.grad(score, x, create_graph=True)
    slope: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return slope


def between(real: Tensor, fake: Tensor) -> Tensor:
    """Return a random point between each real and each generated image, (N, ...)."""
    t = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    return torch.lerp(fake.detach(), real.detach(), t)


# Gulrajani et al. 2017, eq. 3: E[(|grad D| - 1)^2] between real and fake.
def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return (slopes(critic, between(real, fake)) - 1).square().mean()


# The one-sided form (section 4 there; Petzka et al. 2018): slopes below 1 cost nothing.
def one_sided_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return (slopes(critic, between(real, fake)) - 1).clamp_min(0).square().mean()


# Mescheder et al. 2018, eq. 9 and 10: E[|grad D|^2] / 2 on real images (R1), or on generated ones (R2).
def r1(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return slopes(critic, real).square().mean() / 2


def r2(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return slopes(critic, fake).square().mean() / 2


# Kodali et al. 2017 (DRAGAN), in the common form: around the data, x + u std(x) / 2 with u uniform, mixed with x.
def dragan(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    near = real + 0.5 * real.std() * torch.rand_like(real)
    return (slopes(critic, between(real, near)) - 1).square().mean()


PENALTIES: dict[str, Callable[[Critic, Tensor, Tensor], Tensor]] = {
    "gp": gradient_penalty,
    "gp_one_sided": one_sided_penalty,
    "r1": r1,
    "r2": r2,
    "dragan": dragan,
}


def stretches(g: Callable[..., Tensor], z: Tensor, *conditions: Tensor) -> Tensor:
    """Return Q = |g(z + d) - g(z)| / |d| of each image, (N,), for random steps d of length 1 of the noise z (N, length)
    (Odena et al. 2018, Algorithm 1, with epsilon 1).

    Both go through `g` in one pass, so that batch norm shifts and scales them alike.
    """
    d = F.normalize(torch.randn_like(z))
    images = g(torch.cat([z, z + d]), *(torch.cat([y, y]) for y in conditions))
    near, far = images.flatten(1).chunk(2)
    stretch: Tensor = torch.linalg.vector_norm(far - near, dim=1)
    return stretch


def clamping(q: Tensor, low: float, high: float) -> Tensor:
    """Return E[max(Q - high, 0)^2 + max(low - Q, 0)^2] of stretches (N,) (Odena et al. 2018, Algorithm 1)."""
    return ((q - high).clamp_min(0).square() + (low - q).clamp_min(0).square()).mean()


@torch.no_grad()
def clip_weights(parameters: Iterable[nn.Parameter], bound: float) -> None:
    """Clip every weight to [-bound, bound] (Arjovsky et al. 2017, Algorithm 1, line 7)."""
    for p in parameters:
        p.clamp_(-bound, bound)
