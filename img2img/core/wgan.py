"""WGAN: Arjovsky, Chintala, Bottou, "Wasserstein GAN", ICML 2017, arXiv:1701.07875."""

import torch
from torch import Tensor

from img2img.core import noise as u
from img2img.core.options import AGAIN, WARM_MOVES, WARM_STEPS, WGANConfig
from img2img.core.penalties import clip_weights
from img2img.core.referee import learning_rates


class WGAN(u.Unconditional):
    r"""A critic f, K-Lipschitz, estimates the Wasserstein distance between real and generated images; g lessens it.

        max_{|f|_L <= K} E[f(x)] - E[f(g(z))]                           eq. 2, 3

    f is kept K-Lipschitz by cutting its weights, and has no sigmoid. Algorithm 1: n_critic moves of f, then one of g,
    both by RMSprop, since momentum made the critic unstable.
    """

    Config = WGANConfig

    def __init__(self, config: WGANConfig, channels: dict[str, int]) -> None:
        super().__init__(config, channels)
        clip_weights(self.d.parameters(), config.weight_clip)
        for (player, optimizer), lr in zip(self.optimizers.items(), learning_rates(config), strict=True):
            self.optimizers[player] = torch.optim.RMSprop(optimizer.param_groups[0]["params"], lr=lr)

    def critic_moves(self, step: int) -> int:
        warm = self.config.warm_up and (step <= WARM_STEPS or (step - 1) % AGAIN == 0)
        return WARM_MOVES if warm else super().critic_moves(step)

    def draws_until(self, step: int) -> int:
        if not self.config.warm_up:
            return super().draws_until(step)
        warm = min(step, WARM_STEPS) + max(step - 1, 0) // AGAIN
        return warm * WARM_MOVES + (step - warm) * self.draws

    def update(self, player: str, loss: Tensor) -> None:
        super().update(player, loss)
        if player == "D":  # Algorithm 1, line 7
            clip_weights(self.d.parameters(), self.config.weight_clip)
