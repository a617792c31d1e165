"""Terms added to the discriminator's loss that bound its slope."""

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E[(|grad D(x)| - 1)^2] on random points between real and fake images (Gulrajani et al. 2017, eq. 3).

    Args:
        critic: maps images (N, C, H, W) to logits of any shape (N, ...); a map of logits is averaged per image.
            It must not mix the images of a batch, so no batch norm.
        real: real images (N, C, H, W).
        fake: as many generated images.

    Returns:
        A scalar that can be differentiated with respect to the critic's parameters.
    """
    t = torch.rand(len(real), 1, 1, 1, device=real.device)
    x = torch.lerp(fake.detach(), real.detach(), t).requires_grad_()
    score = critic(x).reshape(len(x), -1).mean(1).sum()  # sum over images: each gradient stays its own image's
    gradient: Tensor
    (gradient,) = torch.autograd.grad(score, x, create_graph=True)
    slope: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (slope - 1).square().mean()
