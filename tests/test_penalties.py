"""What bounds the discriminator's slope, against closed forms on linear critics."""

import pytest
import torch
from helpers import over
from torch import nn

from img2img.core.penalties import PENALTIES, clip_weights, dragan, gradient_penalty, one_sided_penalty, r1, r2, slopes

SHAPES = {"images": (3, 8, 8), "points": (2,)}
CLOSED = {  # of a critic whose slope is k everywhere
    "gp": lambda k: (k - 1) ** 2,
    "gp_one_sided": lambda k: max(k - 1, 0) ** 2,
    "r1": lambda k: k**2 / 2,
    "r2": lambda k: k**2 / 2,
    "dragan": lambda k: (k - 1) ** 2,
}
SLOPES = {  # and what it changes by with k
    "gp": lambda k: 2 * (k - 1),
    "gp_one_sided": lambda k: 2 * max(k - 1, 0),
    "r1": lambda k: k,
    "r2": lambda k: k,
    "dragan": lambda k: 2 * (k - 1),
}


class Linear(nn.Module):
    """D(x) = <w, x>, whose gradient is w everywhere; logits (N, 1)."""

    def __init__(self, norm, shape=(3, 8, 8)):
        super().__init__()
        w = torch.randn(shape)
        self.w = nn.Parameter(w * norm / w.norm())

    def forward(self, x):
        return (x * self.w).flatten(1).sum(1)[:, None]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_every_penalty_has_its_closed_form_here():
    assert set(CLOSED) == set(SLOPES) == set(PENALTIES)


@over(norm=[0.25, 1.0, 3.0], shape=SHAPES.values(), name=PENALTIES)
def test_penalty_of_a_linear_critic(name, shape, norm):
    critic = Linear(norm, shape)
    penalty = PENALTIES[name](critic, torch.randn(4, *shape), torch.randn(4, *shape))
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(CLOSED[name](norm), abs=1e-5)
    penalty.backward()
    expected = SLOPES[name](norm) * critic.w.detach() / norm
    torch.testing.assert_close(critic.w.grad, expected, atol=1e-5, rtol=1e-4)


def quadratic(x):
    """A critic whose slope at x is |x|."""
    return x.square().flatten(1).sum(1)[:, None] / 2


def test_slopes_are_those_of_each_image():
    x = torch.randn(5, 2, 3, 3)
    torch.testing.assert_close(slopes(quadratic, x), x.flatten(1).norm(dim=1))


def test_a_map_of_logits_is_averaged_per_image():
    critic = Linear(2.0)

    def patches(x):  # a map of 5 equal logits per image has the slope of one of them
        return critic(x).view(-1, 1, 1, 1).expand(-1, 1, 1, 5)

    assert gradient_penalty(patches, torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8)).item() == pytest.approx(1.0)


def test_one_number_per_image_is_enough():
    critic = Linear(3.0)
    x = torch.randn(2, 3, 8, 8)
    assert gradient_penalty(lambda images: critic(images)[:, 0], x, -x).item() == pytest.approx(4.0, abs=1e-5)


@over(
    "penalty, expected",
    [
        (gradient_penalty, ((2 - 1) ** 2 + (0 - 1) ** 2) / 2),
        (one_sided_penalty, (2 - 1) ** 2 / 2),
        (r1, (2**2 + 0**2) / 2 / 2),
        (r2, (2**2 + 0**2) / 2 / 2),
    ],
)
def test_penalties_are_per_image(penalty, expected):
    x = torch.zeros(2, 1, 2, 2)
    x[0] = 1.0  # |x| = 2, and 0 for the second image
    assert penalty(quadratic, x, x).item() == pytest.approx(expected)


def test_r1_looks_at_real_images_and_r2_at_generated_ones():
    real, fake = torch.full((2, 1, 2, 2), 2.0), torch.full((2, 1, 2, 2), 0.5)
    assert r1(quadratic, real, fake).item() == pytest.approx(4**2 / 2)
    assert r2(quadratic, real, fake).item() == pytest.approx(1**2 / 2)


def looked_at(penalty, real, fake):
    points = []

    def critic(x):
        points.append(x.detach())
        return quadratic(x)

    penalty(critic, real, fake)
    (x,) = points
    return x


def test_the_gradient_penalty_looks_between_both_kinds():
    real, fake = torch.randn(64, 3, 2, 2), torch.randn(64, 3, 2, 2)
    x = looked_at(gradient_penalty, real, fake)
    t = ((x - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(t, t[:, :1].expand_as(t), atol=1e-3, rtol=1e-3)  # one point on each line
    assert t.min() >= 0 and t.max() <= 1
    assert len({round(float(ti), 4) for ti in t[:, 0]}) > 32


def test_dragan_looks_around_the_data():
    real = torch.randn(64, 3, 2, 2)
    away = looked_at(dragan, real, torch.full_like(real, 100.0)) - real
    assert away.min() >= 0 and 0.3 * real.std() < away.max() <= 0.5 * real.std()


@over(name=PENALTIES)
def test_no_gradient_reaches_the_images(name):
    real, fake = (torch.randn(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    PENALTIES[name](Linear(3.0), real, fake).backward()
    assert real.grad is None and fake.grad is None


def test_clipped_weights_lie_within_the_bound_and_the_others_stay():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[-2.0, 0.005], [0.01, -0.01], [0.5, -0.004]]))
    clip_weights(network.parameters(), 0.01)
    expected = torch.tensor([[-0.01, 0.005], [0.01, -0.01], [0.01, -0.004]])
    torch.testing.assert_close(network[0].weight.detach(), expected)
    assert all(p.abs().max() <= 0.01 and p.grad is None for p in network.parameters())
