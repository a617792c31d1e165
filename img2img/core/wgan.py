"""WGAN: Arjovsky, Chintala, Bottou, "Wasserstein GAN", ICML 2017, arXiv:1701.07875."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from img2img.core import unconditional as u
from img2img.core.penalties import clip_weights
from img2img.core.referee import Objective, Penalty, learning_rates
from img2img.errors import ConfigError

WARM_STEPS, WARM_MOVES, AGAIN = 25, 100, 500  # of the authors' code


@dataclass(frozen=True)
class WGANConfig(u.UnconditionalConfig):
    """WGAN's options, with the defaults of Algorithm 1."""

    objective: Objective = "wasserstein"
    penalty: Penalty = "none"
    weight_clip: Annotated[float, "The critic's weights are cut to plus or minus this."] = 0.01
    warm_up: Annotated[
        bool, f"As in the authors' code, {WARM_MOVES} critic moves in the first {WARM_STEPS} steps and every {AGAIN}th."
    ] = False
    n_critic: u.NCritic = 5
    lr: u.LearningRate = 5e-5


class WGAN(u.Unconditional):
    r"""A critic f, K-Lipschitz, estimates the Wasserstein distance between real and generated images; g lessens it.

        max_{|f|_L <= K} E[f(x)] - E[f(g(z))]                           eq. 2, 3

    f is kept K-Lipschitz by cutting its weights, and has no sigmoid. Algorithm 1: n_critic moves of f, then one of g,
    both by RMSprop, since momentum made the critic unstable. beta1 and beta2 are not used.
    """

    Config = WGANConfig

    def __init__(self, config: WGANConfig, channels: dict[str, int]) -> None:
        super().__init__(config, channels)
        if config.weight_clip <= 0:
            raise ConfigError(f"--weight-clip is above 0, not {config.weight_clip}; without clipping, use wgan_gp.")
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
