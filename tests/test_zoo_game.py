"""Options of the game that have papers of their own: packs of images (PacGAN), Jacobian clamping, dropout and weight
normalisation in the discriminators.
"""

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import refused
from torch import nn

import img2img
from img2img.core.gan import GAN
from img2img.core.needs import Facts
from img2img.core.noise import FromNoise
from img2img.core.penalties import clamping, stretches
from img2img.core.referee import WeightNorm, regularised
from img2img.errors import ConfigError
from img2img.methods import METHODS
from img2img.options.declared import refuse_idle

SMALL = {
    "latent": 3, "width": 8, "d_width": 2, "generator": "unet_16", "discriminator": "patch_16", "dropout": 0.0,
}  # fmt: skip
FROM_NOISE = [name for name, method in METHODS.items() if issubclass(method, FromNoise)]
CLASSES = ("x", "y", "z")


def tiny(name, **options):
    torch.manual_seed(0)
    method = METHODS[name]
    known = {field.name for field in fields(method.Config)}
    config = method.Config(**{key: x for key, x in (SMALL | options).items() if key in known})
    facts = Facts(16, dict.fromkeys(config.needs.domains, 2), CLASSES * config.needs.labels)
    return method(method.resolve(config, facts), facts).train()


def batches_of(method, n=4):
    draw = torch.Generator().manual_seed(0)
    while True:
        batch = {name: torch.rand(n, 2, 16, 16, generator=draw) * 2 - 1 for name in method.facts.channels}
        yield batch | ({"label": torch.arange(n) % 3} if method.needs.labels else {})


def offering(option, names=METHODS):
    """The methods that have an option, and with which it has an effect."""
    configs = {name: METHODS[name].Config for name in names}
    return [x for x, c in configs.items() if option in {f.name for f in fields(c)} and option not in c.unused]


# Packs.


def test_a_pack_is_consecutive_images_as_channels():
    method, x = tiny("cgan", pack=2), torch.rand(6, 2, 16, 16)
    batch, fake = method.packed({"image": x, "label": torch.tensor([0, 1, 2, 0, 1, 2])}, -x)
    assert set(batch) == {"image", "label"} and batch["image"].shape == (3, 4, 16, 16)
    for i in range(3):
        assert torch.equal(batch["image"][i], torch.cat([x[2 * i], x[2 * i + 1]]))
    assert torch.equal(batch["label"], torch.tensor([[0, 1], [2, 0], [1, 2]]))
    assert torch.equal(fake, -batch["image"]) and method.d(batch["image"], batch["label"]).shape == (3, 1)


def test_a_pack_of_one_is_the_plain_game():
    method, batch, fake = tiny("gan"), {"image": torch.rand(3, 2, 16, 16)}, torch.rand(3, 2, 16, 16)
    assert method.packed(batch, fake) == (batch, fake)


@pytest.mark.parametrize("name", offering("pack", FROM_NOISE))
def test_packs_train_and_only_layers_of_images_grow(name):
    plain, method = tiny(name), tiny(name, pack=2)
    for step in (1, 2):
        method.proceed(step, 10)
        assert all(torch.isfinite(x) for x in method.step(batches_of(method)).values())
    assert [p.shape for p in plain.g.parameters()] == [p.shape for p in method.g.parameters()]
    sizes = [(p.numel(), q.numel()) for p, q in zip(plain.d.parameters(), method.d.parameters(), strict=True)]
    grown = [after / before for before, after in sizes if after != before]
    assert grown and set(grown) == {2.0}  # the layer that takes images, and in an autoencoder the one that gives them


def test_packs_refuse_a_batch_that_they_do_not_divide(tmp_path):
    options = {"data": np.zeros((9, 16, 16, 3), np.uint8), "batch_size": 8, "pack": 3, "device": "cpu", "quiet": True}
    text = refused(ConfigError, img2img.train, "gan", out=tmp_path / "run", size=16, **options)
    assert text == "--batch-size 8 makes no packs of 3 images; use a multiple of 3." and not list(tmp_path.iterdir())


def test_packs_refuse_augmentation():
    text = refused(ConfigError, tiny, "gan", pack=3, diffaugment="color")
    assert text == "--diffaugment changes single images, and --pack 3 makes several one; leave one out."


@pytest.mark.parametrize("penalty", ["gp", "r1", "dragan"])
def test_a_penalty_is_on_whole_packs(penalty):
    """The critic is linear with a slope of sqrt(2 * pixels) for a pack, and has one score per pack."""
    method = tiny("gan", pack=2, penalty=penalty, network="mlp")
    method.d.forward = lambda x: x.flatten(1).sum(1, keepdim=True)
    batch, fake = method.packed(next(batches_of(method)), torch.rand(4, 2, 16, 16))
    slope = (2 * 2 * 16 * 16) ** 0.5
    expected = slope**2 / 2 if penalty == "r1" else (slope - 1) ** 2
    assert method.referee.slope(method.d, batch["image"], fake).item() == pytest.approx(10 * expected, rel=1e-4)


# Jacobian clamping.


class Scaling(nn.Module):
    """G(z) = c z, whose Jacobian stretches every step by c."""

    def __init__(self, c):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c, dtype=torch.double))

    def forward(self, z, *_):
        return self.c * z


def test_a_linear_generator_stretches_every_step_alike():
    g, z = Scaling(-3.0), torch.randn(5, 7, dtype=torch.double)
    torch.testing.assert_close(stretches(g, z), torch.full((5,), 3.0, dtype=torch.double))
    given = []
    g.forward = lambda z, y: given.append((z, y)) or z
    label = torch.arange(5)
    stretches(g, z, label)
    ((both, labels),) = given  # one pass, so that batch norm treats both alike
    assert torch.equal(both[:5], z) and torch.equal(labels, torch.cat([label, label]))
    torch.testing.assert_close((both[5:] - z).norm(dim=1), torch.ones(5, dtype=torch.double))


@pytest.mark.parametrize(("c", "expected"), [(0.25, 0.5625), (1.0, 0.0), (7.0, 0.0), (20.0, 0.0), (23.0, 9.0)])
def test_clamping_costs_the_square_of_what_is_out_of_bounds(c, expected):
    g = Scaling(c)
    loss = clamping(stretches(g, torch.randn(4, 3, dtype=torch.double)), 1, 20)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    slope = 2 * (c - 20) if c > 20 else 2 * (c - 1) if c < 1 else 0
    assert g.c.grad.item() == pytest.approx(slope, abs=1e-6)


def test_clamping_is_per_image():
    """Stretches of 0 and 21 cost (1 + 1) / 2; their mean is within the bounds."""
    assert clamping(torch.tensor([0.0, 21.0]), 1, 20) == 1


@pytest.mark.parametrize("name", offering("clamp", FROM_NOISE))
def test_clamping_trains_the_generator_alone(name):
    method = tiny(name, clamp=2.0, clamp_low=100.0, clamp_high=200.0)
    losses, move = {}, method.move
    method.move = lambda player, loss: losses.update({player: loss}) or move(player, loss)
    scalars = method.step(batches_of(method))
    assert scalars["clamp"] > 1 and 0 < scalars["stretch"] < 100
    own = scalars["g_features" if name == "semigan" else "g_gan"]
    torch.testing.assert_close(losses["G"], own + 2 * scalars["clamp"], rtol=1e-3, atol=0)


def test_bounds_of_clamping():
    assert refused(ConfigError, tiny, "gan", clamp=1.0, clamp_low=30.0) == "--clamp-low 30 is above --clamp-high 20."
    with pytest.raises(ConfigError, match="--clamp-low has no effect here: it is for runs with a --clamp"):
        refuse_idle("gan", ["clamp_low"], GAN.Config())


# Dropout and weight normalisation.


@pytest.mark.parametrize("name", offering("weight_norm"))
def test_d_is_normalised_or_drops_out(name):
    def matching(method, condition):
        kept = {id(x) for use in method.uses.values() for x in use.network.modules()}
        return [condition(x) for x in method.modules() if id(x) not in kept]

    def parametrised(x):
        return hasattr(x, "parametrizations")

    def drops(x):
        return isinstance(x, nn.Dropout) and x.p == 0.25

    for options, condition in (({"weight_norm": True}, parametrised), ({"d_dropout": 0.25}, drops)):
        method = tiny(name, **options)
        assert any(matching(method, condition)) and not any(matching(tiny(name), condition)), options
        assert not any(condition(x) for use in method.uses.values() for x in use.network.modules())
        assert all(torch.isfinite(x) for x in method.step(batches_of(method)).values())


def test_weight_norm_keeps_the_weights_that_were_drawn_and_splits_length_from_direction():
    d = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 1)).double()
    x, weight = torch.rand(4, 2, 2, 2, dtype=torch.double), d[0].weight.detach().clone()
    before = d(x)
    assert regularised(d, False, weight_norm=True) is d
    torch.testing.assert_close(d(x), before)
    g, v = (getattr(d[0].parametrizations.weight, f"original{i}") for i in (0, 1))
    torch.testing.assert_close(g.flatten(), weight.flatten(1).norm(dim=1))
    with torch.no_grad():
        v.mul_(5)
    torch.testing.assert_close(d(x), before)


def test_weight_norm_has_a_second_derivative():
    g, v = torch.rand(3, 1, dtype=torch.double), torch.randn(3, 4, dtype=torch.double)
    assert torch.autograd.gradgradcheck(WeightNorm(), (g.requires_grad_(), v.requires_grad_()))


def test_dropout_follows_every_activation_and_keeps_the_names():
    d = tiny("dcgan").d
    names = list(d.state_dict())
    regularised(d, False, dropout=0.5)
    activations = [x for x in d.modules() if isinstance(x, nn.LeakyReLU)]
    assert sum(isinstance(x, nn.Dropout) for x in d.modules()) == len(activations) > 0
    assert list(d.state_dict()) == names
    x = torch.rand(2, 2, 16, 16)
    assert not torch.equal(d(x), d(x)) and torch.equal(d.eval()(x), d(x))


def test_two_norms_of_weights_are_refused():
    text = refused(ConfigError, tiny, "gan", spectral=True, weight_norm=True)
    assert text == "--spectral and --weight-norm both rescale the discriminator's weights; leave one out."
