"""WGAN: Arjovsky, Chintala, Bottou, "Wasserstein GAN", ICML 2017, arXiv:1701.07875."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from img2img.core import options as o
from img2img.core.method import Optimizer
from img2img.core.needs import Facts
from img2img.core.noise import FromNoise
from img2img.core.optimizers import RMSprop
from img2img.core.penalties import clip_weights
from img2img.options.declared import Within

WARM_STEPS, WARM_MOVES, AGAIN = 25, 100, 500  # of the authors' code


@dataclass(frozen=True)
class WGANConfig(o.NoiseConfig):
    """WGAN's options, with the defaults of Algorithm 1; RMSprop has no betas."""

    unused: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    objective: o.Objective = "wasserstein"
    penalty: o.Penalty = "none"
    weight_clip: Annotated[
        float, "The critic's weights are clipped to plus or minus this.", Within(0, 10**6, above=True)
    ] = 0.01
    warm_up: Annotated[
        bool, f"As in the authors' code, {WARM_MOVES} critic moves in the first {WARM_STEPS} steps and every {AGAIN}th."
    ] = False
    n_critic: o.NCritic = 5
    lr: o.LearningRate = 5e-5


class WGAN(FromNoise):
    r"""A critic f, K-Lipschitz, estimates the Wasserstein distance of real and generated images; g lessens it.

        max_{|f|_L <= K} E[f(x)] - E[f(g(z))]                           eq. 2, 3

    f is kept K-Lipschitz by clipping its weights, and has no sigmoid. Algorithm 1: n_critic moves of f, then one of g,
    both by RMSprop, since momentum made the critic unstable.
    """

    Config = WGANConfig

    def __init__(self, config: WGANConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        clip_weights(self.d.parameters(), config.weight_clip)

    def optimizer(self) -> Optimizer:
        return RMSprop

    def move(self, player: str, loss: Tensor) -> None:
        super().move(player, loss)
        if player == "D":  # Algorithm 1, line 7
            clip_weights(self.d.parameters(), self.config.weight_clip)

    def critic_moves(self, step: int) -> int:
        warm = self.config.warm_up and (step <= WARM_STEPS or (step - 1) % AGAIN == 0)
        return WARM_MOVES if warm else super().critic_moves(step)

    def draws_until(self, step: int) -> int:
        if not self.config.warm_up:
            return super().draws_until(step)
        warm = min(step, WARM_STEPS) + max(step - 1, 0) // AGAIN
        return warm * WARM_MOVES + (step - warm) * self.draws
