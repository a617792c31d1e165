"""The theory that examples/ and docs/gan.md draw: densities, the optimal D, slopes of losses, distances of segments."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import over
from torch import nn

from img2img.core.options import NoiseConfig
from img2img.core.referee import Referee
from img2img.core.wgan_gp import WGANGPConfig
from img2img.evaluation.modes import Mixture, grid, line, ring


@pytest.fixture(scope="module")
def one_dimension(examples):
    import one_dimension

    return one_dimension


@pytest.fixture(scope="module")
def losses(examples):
    import losses

    return losses


@pytest.fixture(scope="module")
def examples():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "examples")
        yield
    for name in ("one_dimension", "losses"):
        sys.modules.pop(name, None)


def test_numbers_on_a_line():
    data = line(modes=3, spacing=2.0, std=0.1)
    assert data.centres.ravel().tolist() == [-2, 0, 2]
    numbers = data.sample(5000)
    assert numbers.shape == (5000, 1, 1, 1) and numbers.dtype == np.float32
    scores = data.score(numbers)
    assert (scores.modes, scores.of) == (3, 3)
    assert scores.high_quality == pytest.approx(math.erf(3 / math.sqrt(2)), abs=0.003)  # within 3 sd on a line


def test_densities_in_closed_form():
    x = np.linspace(-4, 4, 4001)
    assert (line(3).density(x) * (x[1] - x[0])).sum() == pytest.approx(1)
    assert line(1, std=0.5).density([[0.5]]) == pytest.approx([math.exp(-0.5) / (0.5 * math.sqrt(2 * math.pi))])
    centres = grid().density(grid().centres)  # the neighbours are 40 sd away
    assert centres == pytest.approx(np.full(25, 1 / (25 * 2 * math.pi * 0.05**2)))
    assert ring().density(ring().sample(10)).shape == (10,)


def test_the_optimal_d_of_two_gaussians_is_a_logistic_curve(one_dimension):
    x, std, a, b = one_dimension.X, 0.3, 0.4, -0.2
    p, q = (Mixture(np.array([[mean]]), std).density(x) for mean in (a, b))
    d = one_dimension.optimal(p, q)
    logit = ((a - b) * x - (a**2 - b**2) / 2) / std**2  # log p - log q
    assert d == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    assert one_dimension.optimal(np.zeros(1), np.zeros(1)) == 0.5
    assert one_dimension.distances(p, q, d)[1] == pytest.approx(0) and one_dimension.distances(p, p, d)[0] == 0


def test_no_d_does_better_than_the_optimal_one_which_reaches_js(one_dimension):
    x = np.linspace(-3, 3, 3001)
    p, q = (Mixture(np.array([[mean]]), 0.3).density(x) for mean in (0.4, -0.2))

    def value(d):  # eq. 1
        return (p * np.log(d) + q * np.log(1 - d)).sum() * (x[1] - x[0])

    best, m = one_dimension.optimal(p, q), (p + q) / 2
    js = (p * np.log(p / m) + q * np.log(q / m)).sum() * (x[1] - x[0]) / 2
    assert value(best) == pytest.approx(2 * js - math.log(4), abs=1e-6)  # theorem 1
    for change in (-0.02, 0.02, 0.02 * np.sin(5 * x)):
        assert value(np.clip(best + change, 1e-9, 1 - 1e-9)) < value(best)


def test_slopes_of_the_generators_losses(losses):
    v = torch.linspace(-10, 10, 41, dtype=torch.float64)
    expected = {
        "minimax": torch.sigmoid(v),
        "nonsaturating": torch.sigmoid(-v),
        "lsgan": 2 * (v - 1).abs(),
        "hinge": torch.ones_like(v),
        "wasserstein": torch.ones_like(v),
    }
    for name, slope in expected.items():
        torch.testing.assert_close(losses.slopes(name, v), slope, msg=name)


@over(t=[0.25, -1.0], weight=[1.0, 10.0])
def test_the_best_linear_critic_of_two_segments(t, weight, losses):
    real, fake = losses.segment(0), losses.segment(t)
    referee = Referee(WGANGPConfig(network="mlp", lambda_gp=weight))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))

    def judged(slope):
        with torch.no_grad():
            critic[1].weight.copy_(torch.tensor([[slope, 0.0]]))
        loss, measures = referee.judge(critic, real, fake)
        return loss.item(), measures["distance"].item()

    sign = -math.copysign(1, t)  # real ones are at 0
    assert judged(sign) == pytest.approx((-abs(t), abs(t)), abs=1e-6)  # slope 1: no penalty, and W
    best = 1 + abs(t) / (2 * weight)
    loss, distance = judged(sign * best)
    assert distance == pytest.approx(losses.penalised(t, weight), abs=1e-6)
    assert loss < min(judged(sign * (best + 0.05))[0], judged(sign * (best - 0.05))[0])


def test_the_loss_of_a_certain_d_is_that_of_js_log_2_for_any_shift(losses):
    referee = Referee(NoiseConfig(network="mlp"))
    for t in (0.25, 1.0):
        real, fake = losses.segment(0).double(), losses.segment(t).double()
        loss, _ = referee.judge(lambda x, t=t: 50 * (t / 2 - x[:, :1, 0, 0]), real, fake)
        assert math.log(2) - loss.item() / 2 == pytest.approx(math.log(2), abs=2e-3)
    loss, _ = referee.judge(lambda x: 0 * x[:, :1, 0, 0], real, fake)
    assert math.log(2) - loss.item() / 2 == pytest.approx(0)  # a D that knows nothing


@pytest.mark.slow
def test_games_learn_what_theory_says(losses, one_dimension):
    critic, w = losses.against(-0.5, critic=True)
    assert w == pytest.approx(losses.penalised(0.5), abs=0.02)
    assert losses.pull(critic, "wasserstein", -0.5) == pytest.approx(1, abs=0.1)
    discriminator, js = losses.against(-0.5, critic=False)
    assert js == pytest.approx(math.log(2), abs=0.01)
    assert losses.pull(discriminator, "minimax", -0.5) < 1e-2
    (flat, _), (steep, _) = (next(losses.struggle(name, plain=True)) for name in ("minimax", "nonsaturating"))
    assert 100 * flat < steep
    torch.manual_seed(0)
    gan, stream = one_dimension.game(), one_dimension.batches(one_dimension.ONE)
    p = one_dimension.ONE.density(one_dimension.X)
    for _ in range(150):
        gan.step(stream)
    variation, error = one_dimension.distances(p, one_dimension.generated(gan), one_dimension.judged(gan))
    assert variation < 0.35 and error < 0.1
