"""Measure what a generator can learn from when the discriminator is sure: losses that saturate, distances that do not.

    python examples/losses.py [FOLDER]

gan_saturation.png: the slope of G's loss at each logit of D, for the objectives of img2img, and the gradient that G
gets in two games on the line that differ in nothing else. A strong D takes all from one of them, and G stays.

gan_distance.png: example 1 of Arjovsky et al. 2017 (arXiv:1701.07875). Real points are (0, u), generated ones (t, u), u
uniform. JS is log 2 for any shift t but 0, so a D that reaches it says nothing about t. The Wasserstein distance is
|t|, and a critic's slope leads back at the same rate from anywhere.

It takes about a minute on one core.
"""

import math
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from one_dimension import batches, game
from torch import Tensor

from img2img.core.gan import GAN, GANConfig
from img2img.core.needs import Facts
from img2img.core.noise import FromNoise
from img2img.core.objectives import OBJECTIVES
from img2img.core.wgan_gp import WGANGP, WGANGPConfig
from img2img.evaluation.modes import Mixture

FAR = Mixture(np.array([[0.7]]), std=0.05)  # G begins around 0, and hardly ever draws such a number
COLOURS = {
    "minimax": "#c23b22", "nonsaturating": "#2a7f3f", "wasserstein": "#1f5fa8", "lsgan": "#aaa", "hinge": "#444",
}  # fmt: skip
NETWORKS = {"network": "mlp", "latent": 1, "width": 8, "d_width": 64, "lr": 1e-3, "beta1": 0.0, "beta2": 0.9}


def slopes(objective: str, logits: Tensor) -> Tensor:
    """Return |d loss of G / d v| at each logit v of a generated image."""
    v = logits.clone().requires_grad_()
    OBJECTIVES[objective].g(v).mul(len(v)).backward()  # the loss is a mean
    return v.grad.abs()


def struggle(objective: str, plain: bool, steps: int = 100, ahead: int = 400) -> Iterator[tuple[float, float]]:
    """Let D move some steps ahead; then yield the norm of G's gradient in each step, and the mean of G's numbers.

    A `plain` G takes steps of gradient descent. Those of Adam, which divides the gradient by its own size, hardly
    depend on it.
    """
    torch.manual_seed(0)
    gan, stream = game(objective=objective), batches(FAR)
    if plain:
        gan.player("G", gan.g, lr=1e-3, optimizer=torch.optim.SGD)
    for _ in range(ahead):
        batch = next(stream)
        gan.move("D", gan.d_loss(batch, gan.fake(batch))[0])
    for _ in range(steps):
        gan.step(stream)
        yield gan.gradient_norms["G"].item(), gan.g(gan.fixed_noise).mean().item()


def segment(shift: float, n: int = 128) -> Tensor:
    """Draw points (shift, u), u uniform in 0 to 1, as images (n, 2, 1, 1)."""
    return torch.stack([torch.full((n,), shift), torch.rand(n)], 1).reshape(n, 2, 1, 1)


def against(shift: float, critic: bool, steps: int = 300) -> tuple[FromNoise, float]:
    """Train a critic, or a discriminator, on two segments; return the game, and its estimate of W, or of JS."""
    torch.manual_seed(0)
    facts, measured = Facts(size=1, channels={"image": 2}), []
    gan = WGANGP(WGANGPConfig(**NETWORKS), facts) if critic else GAN(GANConfig(**NETWORKS), facts)
    for _ in range(steps):
        loss, seen = gan.d_loss({"image": segment(0)}, segment(shift))
        gan.move("D", loss)
        # W is the difference of the means, and V(D*) = -loss = 2 JS - log 4 (theorem 1 of the GAN paper)
        measured.append(seen["distance"].item() if critic else math.log(2) - loss.item() / 2)
    return gan, float(np.mean(measured[-50:]))


def penalised(shift: float | np.ndarray, weight: float = 10.0) -> float | np.ndarray:
    """Return the estimate of W that is best under the penalty of WGAN-GP, which lets slopes exceed 1 a little.

    A critic of slope s gains s |t| - weight (s - 1)^2, which is largest at s = 1 + |t| / (2 weight).
    """
    return np.abs(shift) * (1 + np.abs(shift) / (2 * weight))


def pull(gan: FromNoise, objective: str, shift: float) -> float:
    """Return how fast G's loss falls as the shift becomes smaller."""
    t = torch.tensor(shift, requires_grad=True)
    OBJECTIVES[objective].g(gan.d(segment(0) + t * torch.tensor([1.0, 0.0]).reshape(2, 1, 1))).backward()
    return t.grad.item() * math.copysign(1, shift)


def saturation(picture: Path) -> None:
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    logits = torch.linspace(-10, 10, 201)
    for name in ("minimax", "nonsaturating", "lsgan", "hinge"):
        left.semilogy(logits, slopes(name, logits).clamp_min(1e-6), color=COLOURS[name], label=name)
    for name, plain in product(("minimax", "nonsaturating"), (True, False)):
        norms, means = zip(*struggle(name, plain), strict=True)
        label, style = f"{name}, {'SGD' if plain else 'Adam'}", "-" if plain else "--"
        for axis, values in ((middle, norms), (right, means)):
            axis.plot(values, style, color=COLOURS[name], label=label)
        print(
            f"{label}: G's gradient is {norms[0]:.1e} at first; its numbers are {means[-1]:.2f} in the mean at the end"
        )
    middle.set_yscale("log")
    right.axhline(0.7, color="#aaa", linestyle=":", label="real")
    left.set(title="slope of G's loss", xlabel="logit of D")
    middle.set(title="gradient of G against a strong D", xlabel="step")
    right.set(title="mean of G's numbers", xlabel="step")
    left.legend(fontsize="small")
    right.legend(fontsize="small")
    figure.savefig(picture, dpi=70)


def distance(picture: Path) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shifts = np.linspace(-1, 1, 9)
    critics, judges = ([against(t, critic) for t in shifts] for critic in (True, False))
    w, js = (np.array([estimate for _, estimate in games]) for games in (critics, judges))
    left.plot(shifts, np.abs(shifts), color="#1f5fa8", label="W = |t|")
    left.axhline(math.log(2), color="#c23b22", label="JS = log 2, but 0 at t = 0")
    left.plot(shifts, w, "o", color="#1f5fa8", label="learned by the critic of wgan_gp")
    left.plot(shifts, js, "s", color="#c23b22", label="learned by the discriminator of gan")
    for t, a, b in zip(shifts, w, js, strict=True):
        print(f"shift {t:5.2f}: W {a:.3f} by the critic, {penalised(t):.3f} expected of it; JS {b:.3f}")
    off, far = np.abs(w - penalised(shifts)).mean(), np.abs(w - np.abs(shifts)).mean()
    print(f"in the mean, the critic is off by {off:.4f} from what is expected, and by {far:.3f} from W")
    apart = shifts != 0
    for name, games in (("wasserstein", critics), ("nonsaturating", judges), ("minimax", judges)):
        pulls = [pull(gan, name, t) for (gan, _), t in zip(games, shifts, strict=True) if t]
        right.semilogy(shifts[apart], pulls, "o-", color=COLOURS[name], label=name)
        print(f"{name}: pull of {min(pulls):.2g} to {max(pulls):.2g}")
    left.set(title="distance of two segments", xlabel="shift t")
    right.set(title="pull on G towards the data", xlabel="shift t")
    left.set_ylim(-0.05, 1.5)
    left.legend(fontsize="small")
    right.legend(fontsize="small")
    figure.savefig(picture, dpi=70)


if __name__ == "__main__":
    out = Path(sys.argv[1] if sys.argv[1:] else ".")
    out.mkdir(parents=True, exist_ok=True)
    saturation(out / "gan_saturation.png")
    distance(out / "gan_distance.png")
