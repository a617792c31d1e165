"""Watch games on the line, as figure 1 of Goodfellow et al. 2014 draws one (arXiv:1406.2661).

    python examples/one_dimension.py [PICTURE]

The images have one pixel of one channel: they are numbers. The density p of the data is then a known curve, that of the
generator's numbers q can be estimated, the discriminator D is a third curve, and proposition 1 says which D is best
against this generator: D* = p / (p + q). Three games are drawn as they proceed, each at five steps:

1. One Gaussian. D follows D*, and G follows D to the data, until D is 1/2 everywhere.
2. Two Gaussians. D follows D* as well as before, but G stays at the first one that it meets: D is flat around all that
   G draws, so nothing tells G about the other. This is mode collapse, and a better D is no cure.
3. The same, with a penalty on D's slope at the data (R1): D leads from one to the other, and G covers both.

It takes about a minute on one core.
"""

import sys
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from matplotlib.figure import Figure

import img2img
from img2img.core.gan import GAN, GANConfig
from img2img.core.needs import Facts
from img2img.evaluation.modes import Mixture

ONE, TWO = Mixture(np.array([[0.4]]), std=0.15), img2img.modes.line(modes=2, spacing=0.9, std=0.12)
GAMES = {"one Gaussian": (ONE, {}), "two": (TWO, {}), "two, R1": (TWO, {"penalty": "r1", "lambda_gp": 0.001})}
STEPS = (0, 30, 60, 150, 600)
X = np.linspace(-1, 1, 201)


def game(**options) -> GAN:
    """Build a generator from the line to the line, and a discriminator that moves five times as often."""
    config = {"latent": 1, "width": 64, "d_width": 64, "depth": 3, "n_critic": 5, "lr": 3e-4, "d_lr": 3e-3, "beta1": 0}
    return GAN(GANConfig(**config | options), Facts(size=1, channels={"image": 1}))


def batches(data: Mixture) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of numbers, as images (128, 1, 1, 1)."""
    return ({"image": torch.from_numpy(data.sample(128, seed))} for seed in count())


@torch.no_grad()
def generated(gan: GAN) -> np.ndarray:
    """Estimate q at `X`: each of 5,000 generated numbers counts as a narrow Gaussian."""
    samples, width = gan.g(gan.noise.draw(5000)).flatten().numpy(), 0.02
    return np.exp(-0.5 * ((X[:, None] - samples) / width) ** 2).mean(1) / (width * np.sqrt(2 * np.pi))


@torch.no_grad()
def judged(gan: GAN) -> np.ndarray:
    """Return D at `X`: the probability that such a number is real."""
    return torch.sigmoid(gan.d(torch.from_numpy(X).float().reshape(-1, 1, 1, 1))).flatten().numpy()


def optimal(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return D* = p / (p + q) (proposition 1), and 1/2 where there is neither."""
    return (p + 1e-9) / (p + q + 2e-9)


def distances(p: np.ndarray, q: np.ndarray, d: np.ndarray) -> tuple[float, float]:
    """Return the total variation of p and q, in [0, 1], and the mean of |D - D*| over all numbers that D sees."""
    seen = (p + q) / (p + q).sum()
    return np.abs(p - q).sum() * (X[1] - X[0]) / 2, (seen * np.abs(d - optimal(p, q))).sum()


def draw(axis, gan: GAN, p: np.ndarray, q: np.ndarray, d: np.ndarray) -> None:
    axis.fill_between(X, p / 2, color="#ddd", label="p / 2, real")
    axis.plot(X, q / 2, color="#2a7f3f", label="q / 2, generated")
    axis.plot(X, d, color="#1f5fa8", label="D")
    axis.plot(X, optimal(p, q), "--", color="#c23b22", linewidth=1, label="D* = p / (p + q)")
    z = torch.linspace(-1, 1, 31)[:, None]  # below: where G takes the noise, from the bottom to the line of x
    with torch.no_grad():
        axis.plot(np.stack([z.flatten(), gan.g(z).flatten()]), [-0.6, -0.1], color="#aaa", linewidth=0.5)
    axis.set(xlim=(-1, 1), ylim=(-0.65, 2), xticks=[], yticks=[0, 0.5, 1])


def main(picture: str) -> None:
    figure = Figure(figsize=(2.8 * len(STEPS), 2.7 * len(GAMES)), layout="constrained")
    panels = figure.subplots(len(GAMES), len(STEPS), sharey=True)
    for row, (name, (data, options)) in zip(panels, GAMES.items(), strict=True):
        torch.manual_seed(0)
        gan, stream, p = game(**options), batches(data), data.density(X)
        for step in range(STEPS[-1] + 1):
            if step in STEPS:
                axis, q, d = row[STEPS.index(step)], generated(gan), judged(gan)
                variation, error = distances(p, q, d)
                print(f"{name}, step {step}: p and q differ by {variation:.2f}, D and D* by {error:.2f}")
                draw(axis, gan, p, q, d)
                axis.set_title(f"{name}, step {step}", fontsize="medium")
            gan.step(stream)
    panels[0, 0].legend(fontsize="small")
    figure.savefig(picture, dpi=70)


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "one_dimension.png")
