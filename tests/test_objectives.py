"""The adversarial objectives and the gradient penalty against their closed forms."""

from math import e, log, log1p

import pytest
import torch
from torch import nn

from img2img.core.objectives import OBJECTIVES
from img2img.core.penalties import gradient_penalty

REAL, FAKE = 2.0, -0.5
D = {  # at the real logit 2 and the fake logit -0.5
    "lsgan": (REAL - 1) ** 2 + FAKE**2,
    "vanilla": log(1 + e**-REAL) + log(1 + e**FAKE),
    "hinge": 0.0 + 0.5,
    "wasserstein": FAKE - REAL,
}
D_WRONG = {  # at the real logit -0.5 and the fake logit 2: what the formula says on the other side
    "lsgan": (FAKE - 1) ** 2 + REAL**2,
    "vanilla": log(1 + e**-FAKE) + log(1 + e**REAL),
    "hinge": 1.5 + 3.0,
    "wasserstein": REAL - FAKE,
}
G = {  # at the fake logits -0.5 and 2
    "lsgan": ((FAKE - 1) ** 2, (REAL - 1) ** 2),
    "vanilla": (log1p(e**-FAKE), log1p(e**-REAL)),
    "hinge": (0.5, -2.0),
    "wasserstein": (0.5, -2.0),
}


def logits(value):
    return torch.full((2, 1, 3, 5), value, dtype=torch.float64)


def test_every_objective_has_its_closed_form_here():
    assert set(D) == set(D_WRONG) == set(G) == set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_discriminator_closed_form(name):
    d = OBJECTIVES[name].d
    assert d(logits(REAL), logits(FAKE)).item() == pytest.approx(D[name], abs=1e-12)
    assert d(logits(FAKE), logits(REAL)).item() == pytest.approx(D_WRONG[name], abs=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_generator_closed_form(name):
    g = OBJECTIVES[name].g
    assert g(logits(FAKE)).item() == pytest.approx(G[name][0], abs=1e-12)
    assert g(logits(REAL)).item() == pytest.approx(G[name][1], abs=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_mean_over_all_patches(name):
    objective = OBJECTIVES[name]
    real, fake = torch.randn(3, 1, 4, 5).double(), torch.randn(3, 1, 4, 5).double()
    each_d = [objective.d(r, f) for r, f in zip(real.flatten(), fake.flatten(), strict=True)]
    each_g = [objective.g(f) for f in fake.flatten()]
    torch.testing.assert_close(objective.d(real, fake), torch.stack(each_d).mean())
    torch.testing.assert_close(objective.g(fake), torch.stack(each_g).mean())
    assert objective.d(real, fake).shape == objective.g(fake).shape == ()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("size", [1000.0, -1000.0])
def test_stable_at_large_logits(name, size):
    objective = OBJECTIVES[name]
    for loss_of in (lambda x: objective.d(x, -x), objective.g):
        x = torch.full((2, 1, 2, 2), size, requires_grad=True)
        loss = loss_of(x)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()


def test_vanilla_at_large_logits_is_linear_on_the_wrong_side():
    objective = OBJECTIVES["vanilla"]
    assert objective.g(torch.tensor(-1000.0)).item() == pytest.approx(1000.0)
    assert objective.g(torch.tensor(1000.0)).item() == 0.0
    assert objective.d(torch.tensor(-1000.0), torch.tensor(1000.0)).item() == pytest.approx(2000.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_direction(name):
    objective = OBJECTIVES[name]
    low, high = logits(-0.5), logits(0.9)  # judged fake, judged nearly real
    assert objective.g(high) < objective.g(low)
    assert objective.d(high, low) < objective.d(low, low)
    assert objective.d(high, low) < objective.d(high, high)
    assert objective.d(high, low) < objective.d(low, high)


def test_boundaries():
    assert {name: o.boundary for name, o in OBJECTIVES.items()} == {
        "lsgan": 0.5,
        "vanilla": 0.0,
        "hinge": 0.0,
        "wasserstein": None,
    }
    assert [name for name, o in OBJECTIVES.items() if o.penalised] == ["wasserstein"]


class Linear(nn.Module):
    """D(x) = <w, x>, whose gradient is w everywhere; logits (N, 1)."""

    def __init__(self, norm):
        super().__init__()
        w = torch.randn(3, 8, 8)
        self.w = nn.Parameter(w * norm / w.norm())

    def forward(self, x):
        return (x * self.w).sum((1, 2, 3))[:, None]


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic(norm):
    critic = Linear(norm)
    real, fake = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    penalty = gradient_penalty(critic, real, fake)
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)
    penalty.backward()  # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    expected = 2 * (norm - 1) * critic.w.detach() / norm
    torch.testing.assert_close(critic.w.grad, expected, atol=1e-5, rtol=1e-4)


def test_gradient_penalty_averages_a_map_of_logits_per_image():
    critic = Linear(2.0)

    def patches(x):  # a map of 5 equal logits per image has the slope of one of them
        return critic(x).view(-1, 1, 1, 1).expand(-1, 1, 1, 5)

    assert gradient_penalty(patches, torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8)).item() == pytest.approx(1.0)


def test_gradient_penalty_takes_one_number_per_image():
    critic = Linear(3.0)
    x = torch.randn(2, 3, 8, 8)
    assert gradient_penalty(lambda images: critic(images)[:, 0], x, -x).item() == pytest.approx(4.0, abs=1e-5)


def test_gradient_penalty_is_per_image():
    def quadratic(x):  # slope at x is |x|
        return x.square().sum((2, 3)) / 2

    x = torch.zeros(2, 1, 2, 2)
    x[0] = 1.0  # |x| = 2, and 0 for the second image
    assert gradient_penalty(quadratic, x, x).item() == pytest.approx(((2 - 1) ** 2 + (0 - 1) ** 2) / 2)


def test_gradient_penalty_leaves_the_images_without_gradient():
    fake = torch.randn(2, 3, 8, 8, requires_grad=True)
    gradient_penalty(Linear(3.0), torch.randn(2, 3, 8, 8), fake).backward()
    assert fake.grad is None
