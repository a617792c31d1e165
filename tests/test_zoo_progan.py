"""Progressive growing: networks, losses and schedule in closed form."""

from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from torch import nn

from img2img.core.needs import Facts
from img2img.errors import ConfigError
from img2img.interchange.onnx_graph import onnx_model
from img2img.networks.growing import (
    LEVEL,
    GrowingDiscriminator,
    GrowingGenerator,
    MinibatchDeviation,
    PixelNorm,
    equalized,
    fade,
    widths,
)
from img2img.training.ema import Ema
from img2img.zoo.progan import ProGAN, ProGANConfig, grown


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(size=16, **options):
    torch.manual_seed(0)
    config = ProGANConfig(**{"latent": 5, "width": 3, "d_width": 4} | options)
    return ProGAN(config, Facts(size, {"image": 2})).train()


def batches(size=16):
    draw = torch.Generator().manual_seed(1)
    while True:
        yield {"image": torch.rand(8, 2, size, size, generator=draw) * 2 - 1}


def at(network, growth, x):
    """What a network gives at a growth in levels."""
    network.growth = round(growth * LEVEL)
    return network(x)


def halved(x):
    return x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))


def doubled(x, factor=2):
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def test_levels_stay_and_fade_in_for_equal_shares():
    shares = {0: 0, 0.1: 0, 0.2: 0, 0.25: 0.25, 0.4: 1, 0.5: 1, 0.6: 1, 0.75: 1.75, 0.8: 2, 0.99: 2}
    assert {p: grown(p, 3, 0.8) / LEVEL for p in shares} == shares
    assert grown(0, 3, 0) == grown(0.5, 3, 0) == 2 * LEVEL and grown(0.3, 1, 0.8) == 0
    courses = [[grown(step / 1000, levels, 0.8) for step in range(1000)] for levels in (1, 2, 4, 9)]
    assert all(course == sorted(course) for course in courses)
    assert [course[-1] // LEVEL for course in courses] == [0, 1, 3, 8]


def test_images_fade_from_a_level_to_the_next():
    g, z = tiny().g, torch.randn(3, 5)
    low, high = at(g, 1, z), at(g, 2, z)
    assert low.shape == (3, 2, 8, 8) and high.shape == (3, 2, 16, 16)
    torch.testing.assert_close(at(g, 1.25, z), 0.75 * doubled(low) + 0.25 * high, atol=1e-14, rtol=0)
    assert all((at(g, end, z) - x).abs().max() < 1e-5 for end, x in ((1 + 1e-6, doubled(low)), (2 - 1e-6, high)))


def test_what_is_kept_draws_the_whole_size_at_every_level():
    g, z = tiny().g, torch.randn(3, 5)
    for growth, factor in ((0, 4), (0.5, 2), (1, 2), (1.5, 1), (2, 1)):
        small = at(g.train(), growth, z)
        assert torch.equal(g.eval()(z), doubled(small, factor)) and g(z).shape == (3, 2, 16, 16)


def test_levels_of_two_types_fade():
    a, b = torch.zeros(2, dtype=torch.bfloat16), torch.ones(2)
    assert torch.equal(fade(a, b, 0.25), torch.full((2,), 0.25, dtype=torch.bfloat16))
    assert torch.equal(fade(b, a, 0.25), torch.full((2,), 0.75))


def test_real_images_fade_alike():
    g, x = tiny().g, torch.rand(3, 2, 16, 16)
    middle = halved(x)
    small = halved(middle)
    for growth, expected in (
        (0, small),
        (0.75, 0.25 * doubled(small) + 0.75 * middle),
        (1, middle),
        (1.5, 0.5 * doubled(middle) + 0.5 * x),
        (2, x),
    ):
        g.growth = round(growth * LEVEL)
        torch.testing.assert_close(g.faded(x), expected, atol=1e-15, rtol=0)


def test_the_discriminator_fades_alike():
    d, x = tiny().d, torch.rand(4, 2, 16, 16)
    low, high = at(d, 1, halved(x)), at(d, 2, x)
    assert low.shape == (4, 1) and not torch.allclose(low, high)
    assert all((at(d, end, x) - y).abs().max() < 1e-5 for end, y in ((1 + 1e-6, low), (2 - 1e-6, high)))
    d.blocks[1], d.blocks[0] = nn.Identity(), nn.Flatten()  # what follows the fade
    expected = 0.75 * at(d, 1, halved(x)) + 0.25 * at(d, 2, x)
    torch.testing.assert_close(at(d, 1.25, x), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("layer", [lambda: nn.Conv2d(7, 3, 3), lambda: nn.Linear(63, 3)])
def test_an_equalized_layer_is_one_drawn_by_he_whose_steps_are_scaled(layer):
    torch.manual_seed(0)
    layer, c = equalized(layer()), sqrt(2 / 63)
    x = torch.randn(1, 7, 3, 3) if layer.weight.ndim == 4 else torch.randn(1, 63)
    drawn = layer.parametrizations.weight.original
    assert drawn.std().item() == pytest.approx(1, abs=0.1) and not layer.bias.any()
    torch.testing.assert_close(layer(x).flatten(), (drawn * x).flatten(1).sum(1) * c)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(x).sum().backward()
    optimizer.step()
    moved = before - layer.weight.detach()
    torch.testing.assert_close(moved, 0.1 * c * x.sign().expand_as(moved), atol=1e-6, rtol=0)


def test_gains():
    method = tiny()
    gains = {
        method.g.first[1]: sqrt(2) / 4,
        method.g.rgb[1]: 1,
        method.g.blocks[1][1]: sqrt(2),
        method.d.rgb[1][0]: sqrt(2),
        method.d.blocks[0][-3]: sqrt(2),
        method.d.blocks[0][-1]: 1,
    }
    for layer, gain in gains.items():
        weight = layer.weight / layer.parametrizations.weight.original
        torch.testing.assert_close(weight, torch.full_like(weight, gain / sqrt(weight[0].numel())))


def test_pixels_and_noise_are_normalised():
    x = torch.randn(2, 5, 3, 4) * torch.tensor([1e3, 2.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(PixelNorm()(x).square().mean(1), torch.ones(2, 3, 4), atol=1e-7, rtol=0)
    assert PixelNorm()(torch.full((1, 2), 1e-4)).tolist() == [[pytest.approx(sqrt(0.5))] * 2]
    g, z = tiny().g, torch.randn(3, 5)
    torch.testing.assert_close(g(1000 * z), g(z), atol=1e-6, rtol=0)


def test_the_deviation_of_a_group_is_a_channel():
    layer, x = MinibatchDeviation(), torch.randn(8, 3, 2, 2)
    out = layer(x)
    assert out.shape == (8, 4, 2, 2) and torch.equal(out[:, :3], x)
    for k in range(2):  # images 0, 2, 4, 6, then the others
        deviation = (x[k::2].var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[k::2, 3], deviation.expand(4, 2, 2))
    assert layer(x[:5])[:, 3].unique().tolist() == [pytest.approx(1e-4)]  # 5 images: groups of one
    assert layer(x[:6])[0, 3, 0, 0].item() == pytest.approx((x[:6:2].var(0, correction=0) + 1e-8).sqrt().mean().item())


def test_the_deviation_of_equal_images_has_a_gradient():
    x = torch.ones(4, 3, 2, 2, requires_grad=True)
    out = MinibatchDeviation()(x)
    assert out[:, 3].unique().tolist() == [pytest.approx(1e-4)]
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_losses_of_a_critic_with_slope_3():
    """E[D(G)] - E[D(x)] + 10 (3 - 1)^2 + 0.001 E[D(x)^2]."""
    method, batch = tiny(), next(batches())
    fake = torch.randn(8, 2, 16, 16)
    v = F.normalize(torch.randn(2 * 16 * 16), dim=0)
    method.d.forward = lambda x: 2 + 3 * x.flatten(1) @ v
    real_logits, fake_logits = method.d.forward(batch["image"]), method.d.forward(fake)
    loss, scalars = method.d_loss(batch, fake)
    expected = fake_logits.mean() - real_logits.mean() + 40 + 0.001 * real_logits.square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(scalars["drift"], real_logits.square().mean())
    torch.testing.assert_close(method.g_loss(batch, fake)[0], -fake_logits.mean())


def test_adam_forgets_when_a_level_begins_to_fade_in_and_when_it_has():
    method, stream = tiny(), batches()
    counts, seen, steps = [], [], 10
    for step in range(1, steps + 1):
        method.proceed(step, steps)
        scalars = method.step(stream)
        seen.append(round(scalars["level"].item(), 6))
        first = method.g.first[1].bias  # is moved in every step
        counts.append(int(method.optimizers["G"].state[first]["step"]))
    assert seen == [0, 0, 0, 0.5, 1, 1, 1, 1.5, 2, 2]
    assert counts == [1, 2, 3, 1, 1, 2, 3, 1, 1, 2]
    assert method.g.growth == method.d.growth == 2 * LEVEL


def test_growth_is_saved_and_is_not_averaged():
    method, z = tiny(), torch.randn(2, 5)
    ema = Ema([method.g], 0.5)
    method.g.growth = LEVEL + LEVEL // 3
    ema.update()
    with ema.applied():
        assert method.g.growth == LEVEL + LEVEL // 3
    other = tiny()
    other.g.load_state_dict(method.g.state_dict())
    assert other.g.growth == method.g.growth and torch.equal(other.g(z), method.g(z))


def test_widths_and_parameters_of_the_paper():
    assert widths(1024, 2**14, 512) == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    with torch.device("meta"):
        networks = GrowingGenerator(512, 3, 1024, 2**14, 512), GrowingDiscriminator(3, 1024, 2**14, 512)
    for network in networks:  # table 2, without the colors of smaller images
        whole = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in network.rgb[:-1].parameters())
        assert whole / 1e6 == pytest.approx(23.1, abs=0.05)


def test_sizes():
    text = refused(ConfigError, widths, 24, 2**14, 512)
    assert text == "growing networks do not support --size 24; use one of 4, 8, 16, 32, 64, 128, 256, 512, 1024."
    method = tiny(4)
    method.proceed(3, 4)
    assert method.step(batches(4))["level"] == 0 and widths(8, 20, 4) == [4, 2] and widths(16, 8, 4) == [2, 1, 1]


def test_a_grown_generator_has_a_form_in_onnx():
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    g, z = tiny().g.float().eval(), torch.randn(3, 5).float()
    g.growth = 2 * LEVEL
    model = onnx_model(onnx, g, {"noise": z}, {}).SerializeToString()
    (images,) = runtime.InferenceSession(model).run(None, {"noise": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(images), g(z), atol=1e-4, rtol=0)
