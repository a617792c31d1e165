"""Unrolled GAN: the weights after K steps and their derivative in closed form, and against finite differences."""

import copy

import pytest
import torch
from conftest import refused
from torch.func import functional_call

from img2img.core.gan import GAN, GANConfig
from img2img.core.needs import Facts
from img2img.errors import ConfigError
from img2img.options.declared import refuse_idle
from img2img.zoo.unrolled import Adam, Unrolled, UnrolledConfig, unrolled

FACTS = Facts(16, {"image": 1})


@pytest.fixture(autouse=True)
def double():
    """Finite differences need double precision, also of noise."""
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(network="mlp", d_norm="batch", **options):
    torch.manual_seed(0)
    config = UnrolledConfig(**{"network": network, "latent": 3, "width": 4, "d_width": 3, "d_norm": d_norm} | options)
    return Unrolled(config, FACTS).train()


def batches(n=3):
    draw = torch.Generator().manual_seed(1)
    while True:
        yield {"image": torch.rand(n, 1, 16, 16, generator=draw) * 2 - 1}


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_steps_down_a_parabola(steps):
    """Down L(w) = w^2 / 2 - t w with rate h: w_K = t (1 - (1 - h)^K) + w_0 (1 - h)^K, and its derivative in t."""
    h, t = 0.3, torch.tensor(2.0, requires_grad=True)
    start = torch.tensor(5.0, requires_grad=True)
    w = unrolled(
        lambda w: w["w"].square() / 2 - t * w["w"],
        {"w": start},
        lambda w, gradient: {"w": w["w"] - h * gradient["w"]},
        steps,
    )["w"]
    kept = (1 - h) ** steps
    torch.testing.assert_close(w, t * (1 - kept) + start * kept)
    by_t, by_start = torch.autograd.grad(w, (t, start), allow_unused=True)
    assert by_start.item() == pytest.approx(kept) and (by_t.item() if steps else 0) == pytest.approx(1 - kept)


def test_the_first_step_of_adam_goes_by_the_sign():
    w, gradient = {"w": torch.zeros(3)}, {"w": torch.tensor([1e-4, -3.0, 0.0], requires_grad=True)}
    after = Adam({}, w, 0.1, 0.5, 0.999)(w, gradient)["w"]
    torch.testing.assert_close(after, torch.tensor([-0.1, 0.1, 0.0]), atol=1e-8, rtol=1e-6)
    (slope,) = torch.autograd.grad(after.sum(), gradient["w"])
    assert torch.isfinite(slope).all()  # also where the gradient, and so the root, is 0


def test_steps_of_adam_are_those_of_the_optimizer():
    """From moments that are there already, which are left as they are."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(5))
    optimizer, target = torch.optim.Adam([p], lr=0.05, betas=(0.5, 0.9)), torch.randn(5)

    def loss(x):
        return (x - target).pow(4).sum()

    def step():
        optimizer.zero_grad()
        loss(p).backward()
        optimizer.step()

    for _ in range(3):
        step()
    before = copy.deepcopy(optimizer.state_dict())
    rule = Adam(optimizer.state, {"p": p}, 0.05, 0.5, 0.9)
    ahead = unrolled(lambda w: loss(w["p"]), {"p": p}, rule, 4)["p"]
    assert all(torch.equal(x, optimizer.state[p][key]) for key, x in before["state"][0].items())
    for _ in range(4):
        step()
    torch.testing.assert_close(ahead.detach(), p.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("network", "d_norm", "objective", "options"),
    [
        ("mlp", "none", "minimax", {}), ("mlp", "none", "nonsaturating", {"smooth": 0.1}),
        ("dcgan", "none", "lsgan", {"pack": 3}), ("dcgan", "batch", "minimax", {}),
        ("dcgan", "none", "relativistic", {"weight_norm": True}),
    ],
)  # fmt: skip
def test_the_gradient_goes_through_all_steps(rule, network, d_norm, objective, options):
    """G's gradient is that of finite differences of its loss at w_K, where every w_k moves along."""
    method = tiny(network, d_norm, objective=objective, unroll=3, unroll_rule=rule, unroll_lr=0.05, lr=0.01, **options)
    stream = batches()
    method.step(stream)  # D has moments
    batch, z = next(stream), method.noise.draw(3)

    def loss():
        return method.g_loss(*method.packed(batch, method.g(z)))[0]

    parameters = list(method.g.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(2)) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()

    def moved(by):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=by)
        return loss().item()

    h = 1e-8  # so small that no unit changes its side
    up = moved(h)
    down = moved(-2 * h)
    assert (up - down) / (2 * h) == pytest.approx(expected, rel=2e-4, abs=1e-6)
    batch, fake = method.packed(batch, method.g(z))
    plain = torch.autograd.grad(method.referee.fool(method.d, fake, batch["image"]), parameters)
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(gradients, plain, strict=True))


def test_g_sees_the_d_that_sgd_would_lead_to():
    """With the objective of the plain game, G's loss is that at a D which really took the steps."""
    method = tiny(objective="nonsaturating", unroll=2, unroll_rule="sgd", unroll_lr=0.5)
    batch = next(batches())
    fake = method.g(method.noise.draw(3))
    loss, scalars = method.g_loss(batch, fake)
    d = copy.deepcopy(method.d)
    descent = torch.optim.SGD(d.parameters(), lr=0.5)
    for _ in range(2):
        descent.zero_grad()
        method.referee.judge(d, batch["image"], fake)[0].backward()
        descent.step()
    torch.testing.assert_close(loss, method.referee.fool(d, fake, batch["image"]))
    torch.testing.assert_close(scalars["d_ahead"], method.referee.judge(d, batch["image"], fake)[0])
    here = method.referee.judge(method.d, batch["image"], fake)[0]
    assert scalars["d_ahead"] < here  # D ahead judges better than D now


def test_in_the_value_game_g_raises_the_whole_loss_of_d():
    method, batch = tiny(unroll=1), next(batches())
    loss, scalars = method.g_loss(batch, method.g(method.noise.draw(3)))
    assert loss == -scalars["d_ahead"]


def test_without_steps_it_is_the_first_gan_to_the_bit():
    options = {"network": "mlp", "latent": 3, "width": 4, "d_width": 3, "objective": "minimax", "noise": "normal"}
    methods, ends = [], []
    for kind, config in ((GAN, GANConfig(**options)), (Unrolled, UnrolledConfig(**options, unroll=0))):
        torch.manual_seed(0)
        method = kind(config, FACTS)
        stream = batches()
        for _ in range(3):
            method.step(stream)
        methods.append(method)
        ends.append([p.detach().clone() for p in method.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_looking_ahead_leaves_d_as_it_is(rule):
    method, stream = tiny(unroll=4, unroll_rule=rule), batches()
    method.step(stream)
    before = copy.deepcopy((method.d.state_dict(), method.optimizers["D"].state_dict()))
    loss, _ = method.g_loss(next(stream), method.g(method.noise.draw(3)))
    method.move("G", loss)
    after = method.d.state_dict(), method.optimizers["D"].state_dict()
    assert all(torch.equal(before[0][key], after[0][key]) for key in after[0])
    for key, moments in after[1]["state"].items():
        assert all(torch.equal(x, before[1]["state"][key][name]) for name, x in moments.items())
    assert all(p.grad is None for p in method.d.parameters())


def test_penalties_are_refused():
    for option in ("penalty", "lambda_gp"):
        text = refused(ConfigError, refuse_idle, "unrolled", [option], UnrolledConfig())
        assert text == f"--{option.replace('_', '-')} has no effect on unrolled; leave it out."


def test_functional_weights_are_those_of_the_network():
    method, x = tiny("dcgan"), next(batches())["image"]
    torch.testing.assert_close(functional_call(method.d, dict(method.d.named_parameters()), (x,)), method.d(x))
