"""EBGAN and BEGAN: their losses in closed form, BEGAN's equilibrium, and discriminators that are autoencoders."""

import math
from dataclasses import asdict

import pytest
import torch
from conftest import refused
from torch import nn

from img2img.core.energy import EnergyGame
from img2img.core.needs import Facts
from img2img.errors import ConfigError
from img2img.methods import METHODS
from img2img.networks.began import BEGANEncoder, BEGANGenerator
from img2img.options.declared import refuse_idle
from img2img.report.advice import REMEDIES, remedies
from img2img.training.config import TrainConfig
from img2img.zoo.began import BEGAN, BEGANConfig
from img2img.zoo.ebgan import EBGAN, EBGANConfig, pulling_away

DOUBLE = {"dtype": torch.double}
ENERGY = [name for name, method in METHODS.items() if issubclass(method, EnergyGame)]


class Coder(nn.Module):
    """Reconstructs what it sees as `scale` times as much, with codes that it is given."""

    def __init__(self, scale, codes):
        super().__init__()
        self.scale, self.codes = nn.Parameter(torch.tensor(scale, **DOUBLE)), codes

    def forward(self, x):
        return self.scale * x, self.codes[: len(x)]


def tiny(kind, network="mlp", codes=None, **options):
    """A method whose D reconstructs nothing, so that the energy of x is that of its distance from 0."""
    torch.manual_seed(0)
    config = kind.Config(**{"network": network, "latent": 3, "width": 4, "d_width": 4, "code": 2} | options)
    method = kind(config, Facts(16, {"image": 1}))
    method.d = Coder(0.0, codes if codes is not None else torch.eye(8, 2, **DOUBLE))
    return method


def images(*values):
    return torch.tensor(values, **DOUBLE).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)


# EBGAN.


@pytest.mark.parametrize(("fake", "hinge"), [(0.5, 0.75), (1.0, 0.0), (2.0, 0.0)])
def test_ebgan_raises_energies_up_to_the_margin(fake, hinge):
    """|x|^2 is 0.25, 1 and 4; that of the real image is 0.09."""
    loss, measures = tiny(EBGAN, margin=1.0).d_loss({"image": images(0.3)}, images(fake))
    assert loss.item() == pytest.approx(0.09 + hinge) and measures["inside"] == (hinge > 0)
    assert measures["energy_real"].item() == pytest.approx(0.09)
    assert measures["energy_fake"].item() == pytest.approx(fake**2)


def test_the_margin_is_per_image():
    """Energies of 0 and 2 m cost m / 2; their mean, m, would cost nothing."""
    loss, _ = tiny(EBGAN, margin=8.0).d_loss({"image": images(0.0, 0.0)}, images(0.0, 4.0))
    assert loss.item() == pytest.approx(4.0)


def test_ebgan_generates_low_energy_and_codes_that_differ():
    codes = torch.tensor([[1.0, 0.0], [math.cos(0.3), math.sin(0.3)]], **DOUBLE)
    loss, scalars = tiny(EBGAN, codes=codes, lambda_pt=0.5).g_loss({}, images(1.0, 2.0))
    assert scalars["g_gan"].item() == pytest.approx(2.5)
    assert scalars["pt"].item() == pytest.approx(math.cos(0.3) ** 2)
    assert loss.item() == pytest.approx(2.5 + 0.5 * math.cos(0.3) ** 2)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([[1, 0], [0, 1]], 0), ([[1, 1], [1, 1]], 1), ([[1, 2], [-1, -2]], 1), ([[5, 0], [0.1, 0.1]], 0.5),
        ([[1, 0], [1, 0], [0, 1]], 1 / 3), ([[1, 2]], 0), ([[0, 0], [1, 0]], 0),
    ],
)  # fmt: skip
def test_pulling_away_is_the_mean_squared_cosine_of_two(codes, expected):
    codes = torch.tensor(codes, **DOUBLE, requires_grad=True)
    assert pulling_away(codes).item() == pytest.approx(expected, abs=1e-12)
    assert pulling_away(7 * codes).item() == pytest.approx(expected, abs=1e-12)
    pulling_away(codes).backward()
    assert torch.isfinite(codes.grad).all()


def test_pulling_away_learns():
    codes = torch.tensor([[1.0, 0.2], [1.0, -0.1]], **DOUBLE, requires_grad=True)
    before = pulling_away(codes)
    (gradient,) = torch.autograd.grad(before, codes)
    assert pulling_away(codes - 0.1 * gradient) < before


# BEGAN.


def test_began_weighs_generated_images_by_k():
    method = tiny(BEGAN)
    for k, expected in ((0.0, 0.4), (0.25, 0.2), (1.0, -0.4)):
        method.k.fill_(k)
        loss, measures = method.d_loss({"image": images(0.4)}, images(-0.8))
        assert loss.item() == pytest.approx(expected)
        assert [x.item() for x in measures.values()] == pytest.approx([0.4, 0.8])
    assert method.g_loss({}, images(0.5, -1.5))[0].item() == pytest.approx(1.0)  # a mean of absolute values


@pytest.mark.parametrize(
    ("real", "fake", "gamma", "k", "after", "convergence"),
    [
        (1.0, 0.5, 0.5, 0.3, 0.3, 1.0),  # at the equilibrium k rests, and M is L(x)
        (1.0, 0.25, 0.5, 0.3, 0.3 + 0.1 * 0.25, 1.25),
        (1.0, 1.0, 0.5, 0.3, 0.3 - 0.1 * 0.5, 1.5),
        (1.0, 1.0, 0.5, 0.01, 0.0, 1.5),  # k stays within 0 ...
        (1.0, 0.0, 1.0, 0.95, 1.0, 2.0),  # ... and 1
    ],
)
def test_the_equilibrium(real, fake, gamma, k, after, convergence):
    method = tiny(BEGAN, gamma=gamma, lambda_k=0.1)
    zero = 0 * sum(p.sum() for p in method.g.parameters())
    method.g.forward = lambda z: images(fake).expand(len(z), -1, -1, -1) + zero
    method.move = lambda player, loss: None
    method.k.fill_(k)
    scalars = method.step(iter([{"image": images(real, -real)}]))
    assert method.k.item() == scalars["k"].item() == pytest.approx(after, abs=1e-7)
    assert scalars["convergence"].item() == pytest.approx(convergence)


def test_k_begins_at_0_and_is_part_of_the_state():
    method, other = tiny(BEGAN), tiny(BEGAN)
    assert method.k == 0
    method.k.fill_(0.25)
    other.load_state_dict(method.state_dict())
    assert other.k == 0.25


def test_k_follows_the_mean_of_all_processes(monkeypatch):
    """Processes whose balances differ keep the same k."""
    asked = []
    monkeypatch.setattr("img2img.zoo.began.averaged", lambda x: asked.append(x.item()) or torch.tensor(0.5))
    method = tiny(BEGAN, lambda_k=0.1)
    method.g.forward = lambda z: images(0.0).expand(len(z), -1, -1, -1)
    method.move = lambda player, loss: None
    method.step(iter([{"image": images(1.0)}]))
    assert asked == [0.5] and method.k.item() == pytest.approx(0.05)


def test_began_has_the_published_networks():
    """n = 128, h = 64, 64 px, by hand: two convolutions per size, and one that halves and widens."""

    def conv(c_in, c, k=3):
        return c_in * c * k * k + c

    n, h = 128, 64
    decoder = (h + 1) * 64 * n + 4 * 2 * conv(n, n) + conv(n, 3)
    encoder = conv(3, n) + (64 * 4 * n + 1) * h
    encoder += sum(2 * conv(k * n, k * n) for k in (1, 2, 3, 4)) + sum(conv(k * n, (k + 1) * n) for k in (1, 2, 3))
    with torch.device("meta"):
        g, e = BEGANGenerator(h, 3, 64, n), BEGANEncoder(3, 64, n, h)
    assert sum(p.numel() for p in g.parameters()) == decoder
    assert sum(p.numel() for p in e.parameters()) == encoder


@pytest.mark.parametrize("size", [16, 32, 64])
def test_sizes_of_began(size):
    g, e = BEGANGenerator(5, 2, size, 3), BEGANEncoder(2, size, 3, 7)
    images = g(torch.randn(2, 5))
    assert images.shape == (2, 2, size, size) and e(images).shape == (2, 7)


def test_began_refuses_other_sizes():
    answer = "began networks do not support --size 48; use one of 8, 16, 32, 64, 128, 256."
    assert refused(ConfigError, BEGANGenerator, 5, 2, 48) == refused(ConfigError, BEGANEncoder, 2, 48) == answer


# Both.


@pytest.mark.parametrize("name", ENERGY)
@pytest.mark.parametrize("network", ["mlp", "dcgan", "began"])
@pytest.mark.parametrize("d_norm", ["batch", "instance", "none"])
def test_the_discriminator_is_an_autoencoder(name, network, d_norm):
    config = METHODS[name].Config(network=network, d_norm=d_norm, latent=3, width=2, d_width=4, code=5, pack=2)
    method = METHODS[name](config, Facts(16, {"image": 3}))
    reconstruction, code = method.d(torch.rand(4, 6, 16, 16))
    assert reconstruction.shape == (4, 6, 16, 16) and code.shape == (4, 5)
    energies, _ = method.energies(torch.rand(4, 6, 16, 16))
    assert energies.shape == (4,) and (energies > 0).all()


@pytest.mark.parametrize("name", ENERGY)
def test_what_is_for_logits_is_refused_and_not_advised(name):
    config = METHODS[name].Config()
    for option in ("objective", "penalty", "lambda_gp", "smooth"):
        text = refused(ConfigError, refuse_idle, name, [option], config)
        assert text == f"--{option.replace('_', '-')} has no effect on {name}; leave it out."
    options = {k: x for k, x in (asdict(config) | asdict(TrainConfig())).items() if k not in config.unused}
    told = " ".join(text for kind in REMEDIES for text in remedies(kind, options))
    assert "--pack 2" in told and "--lr" in told
    assert not any(f"--{word}" in told for word in ("objective", "penalty", "smooth"))


def test_defaults_are_those_of_the_papers():
    began, ebgan = BEGANConfig(), EBGANConfig()
    assert (began.gamma, began.lambda_k, began.latent, began.code, began.noise) == (0.5, 0.001, 64, 64, "uniform")
    assert (began.lr, began.width, BEGAN.batch_size, began.network) == (1e-4, 128, 16, "began")
    assert (ebgan.lambda_pt, ebgan.lr) == (0.1, 1e-3)
