"""An adversarial objective: the binary one, in which D gains nothing beyond a margin."""

import torch.nn.functional as F
from torch import Tensor

from img2img.extending import Objective

LIMIT = 2.0  # the logit beyond which D is sure enough


def margin_d(real: Tensor, fake: Tensor) -> Tensor:
    """Return D's loss of logits: -log D(x) and -log(1 - D(g)), each down to where the logit reaches the limit."""
    enough = F.softplus(real.new_tensor(-LIMIT))
    return (F.softplus(-real) - enough).relu().mean() + (F.softplus(fake) - enough).relu().mean()


def margin_g(fake: Tensor) -> Tensor:
    """Return G's loss of logits: -log D(g)."""
    return F.softplus(-fake).mean()


MARGIN = Objective(margin_d, margin_g)
