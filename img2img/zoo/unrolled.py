"""Unrolled GAN: Metz, Poole, Pfau, Sohl-Dickstein, "Unrolled Generative Adversarial Networks", ICLR 2017,
arXiv:1611.02163.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from img2img.core import options as o
from img2img.core.method import Batch, Scalars
from img2img.core.noise import FromNoise
from img2img.options.declared import Choice, Within
from img2img.runtime.device import second_derivatives

Weights = dict[str, Tensor]
Rule = Callable[[Weights, Weights], Weights]  # weights and their gradients, to the weights after a step
SMALLEST = 1e-16  # added under the root, whose slope at 0 is infinite


@dataclass(frozen=True)
class UnrolledConfig(o.NoiseConfig):
    """The options of an unrolled GAN, with the value function of eq. 1 for both sides."""

    unused: ClassVar[tuple[str, ...]] = ("penalty", "lambda_gp")

    objective: o.Objective = "minimax"
    penalty: o.Penalty = "none"
    unroll: Annotated[int, "Steps of D that G looks ahead; 0 is the plain game.", Within(0, 1000)] = 5
    unroll_rule: Annotated[
        str, "How D steps in them: adam, with a copy of its moments, or sgd.", Choice(("adam", "sgd"))
    ] = "adam"
    unroll_lr: Annotated[float, "Learning rate of these steps.", Within(0, 1000, special=(0, "D's own"))] = 0.0


class Unrolled(FromNoise):
    r"""G moves against the D that there would be after K more steps, and the gradient goes through them.

        w_0 = w,    w_{k+1} = w_k - eta grad_w L_D(w_k, G)                        section 2.2
        L_G = f_G(w_K(G), G)

    f_G is the objective's loss of G; that of "minimax" is -L_D as a whole, since w_K depends on G on real images too.
    D itself moves by one step as ever (section 2.3). All K steps see the images of G's move and of D's last one.
    """

    Config = UnrolledConfig

    def d_loss_at(self, w: Weights, batch: Batch, fake: Tensor) -> Tensor:
        """Return L_D of D with the weights `w`, differentiable in them and in the generated images."""
        see, given = self.referee.seen, self.conditions(batch)
        logits = (functional_call(self.d, w, (see(x), *given)) for x in (batch["image"], fake))
        return self.referee.weigh(*logits)[0]

    def g_loss(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Scalars]:
        if not self.config.unroll:
            return super().g_loss(batch, fake)
        d = dict[str, Tensor](self.d.named_parameters())
        with second_derivatives():
            w = unrolled(lambda w: self.d_loss_at(w, batch, fake), d, self.rule(), self.config.unroll)
            ahead = self.d_loss_at(w, batch, fake)
            if self.config.objective == "minimax":
                loss = -ahead
            else:
                loss = self.referee.fool(
                    lambda *x: functional_call(self.d, w, x), fake, batch["image"], *self.conditions(batch)
                )
        return loss, {"g_gan": loss, "d_ahead": ahead}

    def rule(self) -> Rule:
        """Return one step of D as a differentiable function."""
        (group,) = self.optimizers["D"].param_groups
        lr = self.config.unroll_lr or group["lr"]
        if self.config.unroll_rule == "sgd":
            return lambda w, gradient: {name: x - lr * gradient[name] for name, x in w.items()}
        return Adam(self.optimizers["D"].state, dict(self.d.named_parameters()), lr, *group["betas"])


def unrolled(loss: Callable[[Weights], Tensor], w: Weights, rule: Rule, steps: int) -> Weights:
    """Return the weights after so many steps down the `loss`, as a differentiable function of what it depends on."""
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(w), list(w.values()), create_graph=True)
        w = rule(w, dict(zip(w, gradients, strict=True)))
    return w


class Adam:
    """Steps of Adam (Kingma and Ba 2015) as differentiable functions, from a copy of an optimizer's moments."""

    def __init__(self, state: Any, parameters: Weights, lr: float, beta1: float, beta2: float) -> None:
        self.lr, self.betas = lr, (beta1, beta2)
        known = {name: state.get(p, {}) for name, p in parameters.items()}
        self.t = int(max(one.get("step", 0) for one in known.values()))
        self.m = {name: one.get("exp_avg", torch.zeros_like(parameters[name])) for name, one in known.items()}
        self.v = {name: one.get("exp_avg_sq", torch.zeros_like(parameters[name])) for name, one in known.items()}

    def __call__(self, w: Weights, gradient: Weights) -> Weights:
        (b1, b2), self.t = self.betas, self.t + 1
        self.m = {name: torch.lerp(gradient[name], m, b1) for name, m in self.m.items()}
        self.v = {name: torch.lerp(gradient[name].square(), v, b2) for name, v in self.v.items()}
        rate, share = self.lr / (1 - b1**self.t), 1 - b2**self.t
        return {name: x - rate * self.m[name] / (self.v[name] / share + SMALLEST).sqrt() for name, x in w.items()}
