"""The adversarial objectives against their closed forms, and against the divergences that theory promises."""

from math import e, log, log1p

import pytest
import torch
from helpers import over
from torch import nn

from img2img.core.objectives import OBJECTIVES, smoothed
from img2img.core.penalties import clip_weights

REAL, FAKE = 2.0, -0.5
BINARY = log1p(e**-REAL) + log1p(e**FAKE)
BINARY_WRONG = log1p(e**-FAKE) + log1p(e**REAL)
D = {  # at the real logit 2 and the fake logit -0.5
    "nonsaturating": BINARY,
    "minimax": BINARY,
    "lsgan": (REAL - 1) ** 2 + FAKE**2,
    "lsgan_pearson": (REAL - 1) ** 2 + (FAKE + 1) ** 2,
    "hinge": 0.0 + 0.5,
    "wasserstein": FAKE - REAL,
    "relativistic": 2 * log1p(e ** (FAKE - REAL)),
    "f_kl": e ** (FAKE - 1) - REAL,
    "f_reverse_kl": (FAKE - 1) + e**-REAL,
    "f_pearson": FAKE**2 / 4 + FAKE - REAL,
    "f_hellinger": (e**FAKE - 1) - (1 - e**-REAL),
    "f_js": BINARY - 2 * log(2),
    "f_gan": BINARY,
}
D_WRONG = {  # at the real logit -0.5 and the fake logit 2: what the formula says on the other side
    "nonsaturating": BINARY_WRONG,
    "minimax": BINARY_WRONG,
    "lsgan": (FAKE - 1) ** 2 + REAL**2,
    "lsgan_pearson": (FAKE - 1) ** 2 + (REAL + 1) ** 2,
    "hinge": 1.5 + 3.0,
    "wasserstein": REAL - FAKE,
    "relativistic": 2 * log1p(e ** (REAL - FAKE)),
    "f_kl": e ** (REAL - 1) - FAKE,
    "f_reverse_kl": (REAL - 1) + e**-FAKE,
    "f_pearson": REAL**2 / 4 + REAL - FAKE,
    "f_hellinger": (e**REAL - 1) - (1 - e**-FAKE),
    "f_js": BINARY_WRONG - 2 * log(2),
    "f_gan": BINARY_WRONG,
}
G = {  # at the fake logits -0.5 and 2; real images are at the other one
    "nonsaturating": (log1p(e**-FAKE), log1p(e**-REAL)),
    "minimax": (-log1p(e**FAKE), -log1p(e**REAL)),
    "lsgan": ((FAKE - 1) ** 2, (REAL - 1) ** 2),
    "lsgan_pearson": (FAKE**2, REAL**2),
    "hinge": (0.5, -2.0),
    "wasserstein": (0.5, -2.0),
    "relativistic": (2 * log1p(e ** (REAL - FAKE)), 2 * log1p(e ** (FAKE - REAL))),
    "f_kl": (-(e ** (FAKE - 1)), -(e ** (REAL - 1))),
    "f_reverse_kl": (1 - FAKE, 1 - REAL),
    "f_pearson": (-(FAKE**2) / 4 - FAKE, -(REAL**2) / 4 - REAL),
    "f_hellinger": (1 - e**FAKE, 1 - e**REAL),
    "f_js": (log(2) - log1p(e**FAKE), log(2) - log1p(e**REAL)),
    "f_gan": (-log1p(e**FAKE), -log1p(e**REAL)),
}
ABSOLUTE = [name for name, objective in OBJECTIVES.items() if not objective.relative]
EXPONENTIAL = {"f_kl", "f_reverse_kl", "f_hellinger"}


def logits(value):
    return torch.full((2, 1, 3, 5), value, dtype=torch.float64)


def g_loss(name, fake, real):
    objective = OBJECTIVES[name]
    return objective.g(fake, real) if objective.relative else objective.g(fake)


def test_every_objective_has_its_closed_form_here():
    assert set(D) == set(D_WRONG) == set(G) == set(OBJECTIVES)


@over(name=OBJECTIVES)
def test_discriminator_closed_form(name):
    d = OBJECTIVES[name].d
    assert d(logits(REAL), logits(FAKE)).item() == pytest.approx(D[name], abs=1e-12)
    assert d(logits(FAKE), logits(REAL)).item() == pytest.approx(D_WRONG[name], abs=1e-12)


@over(name=OBJECTIVES)
def test_generator_closed_form(name):
    assert g_loss(name, logits(FAKE), logits(REAL)).item() == pytest.approx(G[name][0], abs=1e-12)
    assert g_loss(name, logits(REAL), logits(FAKE)).item() == pytest.approx(G[name][1], abs=1e-12)


@over(name=ABSOLUTE)
def test_mean_over_all_patches(name):
    objective = OBJECTIVES[name]
    real, fake = torch.randn(3, 1, 4, 5).double(), torch.randn(3, 1, 4, 5).double()
    each_d = [objective.d(r, f) for r, f in zip(real.flatten(), fake.flatten(), strict=True)]
    each_g = [objective.g(f) for f in fake.flatten()]
    torch.testing.assert_close(objective.d(real, fake), torch.stack(each_d).mean())
    torch.testing.assert_close(objective.g(fake), torch.stack(each_g).mean())
    assert objective.d(real, fake).shape == objective.g(fake).shape == ()


def test_relativistic_compares_each_with_the_mean_of_the_others():
    objective = OBJECTIVES["relativistic"]
    real, fake = torch.tensor([3.0, -1.0, 0.5]).double(), torch.tensor([1.0, -2.0]).double()
    p_real = torch.sigmoid(real - fake.mean())  # eq. 5: that a real image is more real than the mean fake
    p_fake = torch.sigmoid(fake - real.mean())
    d = -p_real.log().mean() - (1 - p_fake).log().mean()
    g = -p_fake.log().mean() - (1 - p_real).log().mean()
    torch.testing.assert_close(objective.d(real, fake), d)
    torch.testing.assert_close(objective.g(fake, real), g)
    torch.testing.assert_close(objective.d(real + 7, fake + 7), d)
    assert [name for name, o in OBJECTIVES.items() if o.relative] == ["relativistic"]


@over(name=OBJECTIVES, sign=[1, -1])
def test_stable_at_large_logits(name, sign):
    size = sign * (30.0 if name in EXPONENTIAL else 1000.0)
    for loss_of in (lambda x: OBJECTIVES[name].d(x, -x), lambda x: g_loss(name, x, -x)):
        x = torch.full((2, 1, 2, 2), size, requires_grad=True)
        loss = loss_of(x)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()


def test_nonsaturating_at_large_logits_is_linear_on_the_wrong_side():
    objective = OBJECTIVES["nonsaturating"]
    assert objective.g(torch.tensor(-1000.0)).item() == pytest.approx(1000.0)
    assert objective.g(torch.tensor(1000.0)).item() == 0.0
    assert objective.d(torch.tensor(-1000.0), torch.tensor(1000.0)).item() == pytest.approx(2000.0)


def test_minimax_is_flat_where_the_discriminator_is_sure_and_nonsaturating_is_steep():
    slope = {}
    for name in ("minimax", "nonsaturating"):
        x = torch.tensor(-20.0, requires_grad=True)
        OBJECTIVES[name].g(x).backward()
        slope[name] = x.grad.item()
    assert slope["nonsaturating"] == pytest.approx(-1)
    assert -1e-8 < slope["minimax"] < 0


@over(name=OBJECTIVES)
def test_direction(name):
    d = OBJECTIVES[name].d
    low, middle, high = logits(-0.5), logits(0.3), logits(0.9)
    assert g_loss(name, middle, high) < g_loss(name, low, high)
    assert d(high, low) < d(low, low)
    assert d(high, low) < d(high, high)
    assert d(high, low) < d(low, high)


def test_generator_of_lsgan_pearson_aims_between_both_labels():
    assert OBJECTIVES["lsgan_pearson"].g(logits(0.0)) == 0


def test_flags():
    boundaries = dict.fromkeys(OBJECTIVES, 0.0) | {"lsgan": 0.5, "wasserstein": None, "f_kl": 1.0}
    assert {name: o.boundary for name, o in OBJECTIVES.items()} == boundaries
    assert [name for name, o in OBJECTIVES.items() if o.penalised] == ["wasserstein"]
    assert [name for name, o in OBJECTIVES.items() if o.binary] == ["nonsaturating", "minimax"]


# Theory: D at its optimum, one logit for each of four points, on distributions whose divergences are known.

P, Q = [8, 6, 4, 2], [2, 4, 4, 10]  # in twentieths
DENSITIES = [(P, Q), (Q, P), ([5, 5, 5, 5], [1, 2, 3, 14]), (P, P)]


def seen(v, counts):
    """The logits of a batch with so many images at each point: a mean over it is an expectation."""
    return v.repeat_interleave(torch.tensor(counts))


def best_discriminator(loss_of, points=4):
    """One logit for each point, at the minimum of `loss_of`."""
    v = torch.linspace(-0.3, 0.4, points).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [v], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = loss_of(v)
        loss.backward()
        return loss

    optimizer.step(closure)
    return v.detach()


def best_of(name, p, q):
    """The best logits, and what D then minimises."""
    d = OBJECTIVES[name].d
    v = best_discriminator(lambda v: d(seen(v, p), seen(v, q)))
    return v, d(seen(v, p), seen(v, q)).item()


def densities(p, q):
    return torch.tensor(p).double() / sum(p), torch.tensor(q).double() / sum(q)


def kl(p, q):
    return (p * (p / q).log()).sum().item()


def jsd(p, q):
    return kl(p, (p + q) / 2) / 2 + kl(q, (p + q) / 2) / 2


VALUES = {  # what D's value, the negative of its loss, reaches
    "nonsaturating": lambda p, q: -log(4) + 2 * jsd(p, q),  # Goodfellow et al. 2014, theorem 1
    "minimax": lambda p, q: -log(4) + 2 * jsd(p, q),
    "f_gan": lambda p, q: -log(4) + 2 * jsd(p, q),
    # The f-divergences sum q f(p / q) of Nowozin et al. 2016, eq. 2 and table 1.
    "f_kl": kl,
    "f_reverse_kl": lambda p, q: kl(q, p),
    "f_pearson": lambda p, q: ((p - q) ** 2 / q).sum().item(),
    "f_hellinger": lambda p, q: ((p.sqrt() - q.sqrt()) ** 2).sum().item(),
    "f_js": lambda p, q: 2 * jsd(p, q),
    # With D* = p / (p + q) the loss is sum pq / (p + q); with D* = (p - q) / (p + q) four times as much.
    "lsgan": lambda p, q: -(p * q / (p + q)).sum().item(),
    "lsgan_pearson": lambda p, q: -(4 * p * q / (p + q)).sum().item(),
}


@over("p, q", DENSITIES, name=VALUES)
def test_the_best_discriminator_measures_the_divergence(name, p, q):
    _, loss = best_of(name, p, q)
    assert -loss == pytest.approx(VALUES[name](*densities(p, q)), rel=1e-5, abs=1e-8)


@over(name=[name for name in VALUES if name.startswith("f_") and name != "f_gan"])
def test_equal_distributions_have_no_divergence(name):
    assert best_of(name, P, P)[1] == pytest.approx(0, abs=1e-8)


@over(name=VALUES)
def test_the_boundary_is_where_both_are_equally_likely(name):
    v, _ = best_of(name, P, Q)
    p, q = densities(P, Q)
    at = OBJECTIVES[name].boundary
    assert torch.equal(v[p != q] > at, p[p != q] > q[p != q])
    assert v[p == q].tolist() == pytest.approx([at], abs=1e-4)


def test_best_probability_is_that_of_the_formula():
    v, _ = best_of("nonsaturating", P, Q)
    p, q = densities(P, Q)
    torch.testing.assert_close(torch.sigmoid(v), p / (p + q), rtol=1e-4, atol=0)  # Goodfellow et al. 2014, eq. 2


@over("p, q", DENSITIES)
def test_lsgan_pearson_is_pearsons_chi_squared(p, q):
    """Mao et al. 2017, eq. 8: 2 C(G) = chi^2(p + q || 2 q), where C has their 1/2 and real images as well.

    With D* = (p - q) / (p + q) and c = 0, both terms together are, without the 1/2, sum (p - q)^2 / (p + q).
    """
    g, (v, loss) = OBJECTIVES["lsgan_pearson"].g, best_of("lsgan_pearson", p, q)
    dp, dq = densities(p, q)
    torch.testing.assert_close(v, (dp - dq) / (dp + dq), rtol=0, atol=1e-5)
    chi_squared = ((2 * dq - (dp + dq)) ** 2 / (dp + dq)).sum().item()
    assert (g(seen(v, p)) + g(seen(v, q))).item() == pytest.approx(chi_squared, abs=1e-6)
    assert loss == pytest.approx(2 - chi_squared, abs=1e-6)


@over("p, q", DENSITIES)
def test_hinge_is_the_total_variation(p, q):
    """At each point D* is 1 or -1 (Lim and Ye 2017), so the loss is 2 sum min(p, q) = 2 - 2 TV."""
    v = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for step in range(600):  # flat pieces and kinks: plain descent, with ever smaller moves
        loss = OBJECTIVES["hinge"].d(seen(v, p), seen(v, q))
        (gradient,) = torch.autograd.grad(loss, v)
        with torch.no_grad():
            v -= 0.2 * 0.99**step * gradient.sign()
    dp, dq = densities(p, q)
    total_variation = (dp - dq).abs().sum().item() / 2
    assert loss.item() == pytest.approx(2 - 2 * total_variation, rel=1e-3)
    assert torch.equal(v[dp != dq] > 0, dp[dp != dq] > dq[dp != dq])


@over(r=[0.5, 3.0])
def test_wasserstein_is_the_distance_times_the_mass_moved(r):
    """Half of the mass lies elsewhere, at the distance r; f(x) = w x is 1-Lipschitz where |w| <= 1."""
    x, w = torch.tensor([0.0, r]), nn.Parameter(torch.tensor(0.1))
    optimizer = torch.optim.SGD([w], lr=0.1)
    for _ in range(100):
        loss = OBJECTIVES["wasserstein"].d(seen(w * x, [7, 3]), seen(w * x, [2, 8]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clip_weights([w], 1.0)
    assert -OBJECTIVES["wasserstein"].d(seen(w * x, [7, 3]), seen(w * x, [2, 8])).item() == pytest.approx(0.5 * r)
    assert OBJECTIVES["wasserstein"].d(seen(w * x, [7, 3]), seen(w * x, [7, 3])).item() == pytest.approx(0, abs=1e-6)


def test_relativistic_is_2_log_2_for_equal_distributions_and_less_for_others():
    equal, slightly, very = (
        best_of("relativistic", p, q)[1]
        for p, q in [(P, P), ([5, 5, 5, 5], [4, 5, 5, 6]), ([5, 5, 5, 5], [1, 2, 3, 14])]
    )
    assert equal == pytest.approx(2 * log(2), rel=1e-6)
    assert very < slightly - 0.01 < equal - 0.01


@over(share=[0.1, 0.3])
def test_smoothed_labels_are_the_best_probability(share):
    """Salimans et al. 2016, section 3.4: D* = (1 - share) p / (p + q)."""
    objective = smoothed(OBJECTIVES["nonsaturating"], share)
    v = best_discriminator(lambda v: objective.d(seen(v, P), seen(v, Q)))
    p, q = densities(P, Q)
    torch.testing.assert_close(torch.sigmoid(v), (1 - share) * p / (p + q), rtol=1e-4, atol=0)
    assert objective.g is OBJECTIVES["nonsaturating"].g
