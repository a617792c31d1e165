"""The networks: golden sizes, and contracts over the tables of generators and discriminators."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from helpers import over
from torch import nn

from img2img.errors import ConfigError
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.networks.convolutions import MOST_POSITIONS
from img2img.networks.dcgan import SIZES as DCGAN_SIZES, DCGANDiscriminator, DCGANGenerator
from img2img.networks.layers import UPSAMPLINGS, Conv2d, ConvTranspose2d, ReflectPad, each, init_weights
from img2img.networks.mlp import MLPDiscriminator, MLPGenerator
from img2img.networks.norms import BatchNorm, InstanceNorm, RunningBatchNorm, norm_layer
from img2img.networks.patchgan import PatchGAN


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def count(network):
    return sum(p.numel() for p in network.parameters())


@over(
    "name, norm, parameters",
    [
        ("resnet_9", "instance", 11378179),
        ("resnet_6", "instance", 7837699),
        ("resnet_9", "batch", 11383427),
        ("unet_256", "batch", 54413955),
        ("unet_256", "instance", 54409603),
        ("unet_128", "batch", 41828995),
    ],
)
def test_generators_are_the_published_ones(name, norm, parameters):
    with torch.device("meta"):
        assert count(GENERATORS[name](3, 3, norm=norm)) == parameters


@over(
    "name, channels, norm, parameters",
    [
        ("patch_70", 3, "instance", 2764737),
        ("patch_70", 6, "batch", 2768705),
        ("pixel", 6, "batch", 9024),
        ("patch_286", 3, "instance", 11154369),
    ],
)
def test_discriminators_are_the_published_ones(name, channels, norm, parameters):
    with torch.device("meta"):
        assert count(DISCRIMINATORS[name](channels, norm=norm)) == parameters


def test_default_discriminator_is_patch_70():
    with torch.device("meta"):
        assert count(PatchGAN(3)) == 2764737


@over(
    "name, field",
    [("pixel", 1), ("patch_16", 16), ("patch_34", 34), ("patch_70", 70), ("patch_142", 142), ("patch_286", 286)],
)
def test_receptive_field(name, field):
    network = DISCRIMINATORS[name](1, width=1, norm="none").double()
    for p in network.parameters():
        nn.init.constant_(p, 0.1)  # nothing cancels
    x = torch.ones(1, 1, 2 * field + 2, 2 * field + 2, dtype=torch.float64, requires_grad=True)
    logits = network(x)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    for seen in (x.grad[0, 0].abs().sum(0), x.grad[0, 0].abs().sum(1)):
        (touched,) = torch.nonzero(seen, as_tuple=True)
        assert len(touched) == int(touched[-1] - touched[0]) + 1 == field


def test_every_discriminator_has_a_receptive_field_above():
    assert set(DISCRIMINATORS) == {"pixel", "patch_16", "patch_34", "patch_70", "patch_142", "patch_286"}


@over("size, side", [(256, 30), (128, 14)])
def test_logit_map_of_patch_70(size, side):
    with torch.device("meta"):
        assert PatchGAN(3)(torch.empty(2, 3, size, size)).shape == (2, 1, side, side)


@over(name=DISCRIMINATORS)
def test_discriminators(name):
    network = DISCRIMINATORS[name](5, width=2)
    size = getattr(network, "min_size", 6)
    logits = network(torch.randn(2, 5, size, size))
    assert logits.shape[:2] == (2, 1)
    if name == "pixel":
        assert logits.shape[2:] == (size, size)
    logits.square().mean().backward()
    for p in network.parameters():
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()


# Generators.


def build(name, channels=(2, 5), **options):
    return GENERATORS[name](*channels, width=2, **options)


def smallest(network):
    return max(network.multiple, 8)  # a ResNet mirrors pixels at a quarter of the size


@over(name=GENERATORS)
def test_generators(name):
    network = build(name)
    size = smallest(network)
    out = network(torch.randn(1, 2, size, size))
    assert out.shape == (1, 5, size, size)
    assert out.abs().max() <= 1
    out.square().mean().backward()
    for parameter, p in network.named_parameters():
        assert p.grad is not None, parameter
        assert torch.isfinite(p.grad).all(), parameter
        if p.ndim == 4:
            assert p.grad.abs().max() > 0, parameter


@over(norm=["instance", "batch", "none"], name=["resnet_3", "unet_16"])
def test_generators_with_every_norm(name, norm):
    network = build(name, norm=norm)
    size = 16
    out = network(torch.randn(2, 2, size, size))
    out.square().mean().backward()
    assert out.shape == (2, 5, size, size)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@over(factors=[(3, 1), (3, 5)], name=["resnet_3", "unet_16", "unet_32"])
def test_odd_multiples(name, factors):
    network = build(name)
    unit = smallest(network) if factors[1] == 1 else network.multiple
    shape = tuple(unit * k for k in factors)
    assert network(torch.randn(1, 2, *shape)).shape == (1, 5, *shape)


@over(padding=["reflect", "replicate", "zero"])
def test_paddings_of_a_resnet(padding):
    network = build("resnet_3", padding=padding)
    assert network(torch.randn(1, 2, 12, 12)).shape == (1, 5, 12, 12)


@over(name=["resnet_3", "unet_16"])
def test_resize_upsampling(name):
    network = build(name, upsample="resize")
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in network.modules())
    assert network(torch.randn(1, 2, 16, 32)).shape == (1, 5, 16, 32)


@over(name=UPSAMPLINGS, kernel=[3, 4])
def test_upsampling_doubles(name, kernel):
    layer = UPSAMPLINGS[name](3, 2, kernel, True)
    assert layer(torch.randn(2, 3, 5, 7)).shape == (2, 2, 10, 14)
    assert any(p.ndim == 1 for p in layer.parameters())
    assert all(p.ndim == 4 for p in UPSAMPLINGS[name](3, 2, kernel, False).parameters())


def test_dropout_of_a_unet_sits_in_the_three_layers_after_the_innermost():
    with torch.device("meta"):
        network = GENERATORS["unet_256"](3, 3)
    levels = [i for i, up in enumerate(network.up) if any(isinstance(m, nn.Dropout) for m in up)]
    assert levels == [4, 5, 6]


@over(name=["resnet_3", "unet_64"])
def test_dropout_only_in_training(name):
    network = build(name, dropout=0.5)
    x = torch.randn(1, 2, 64, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@over(name=["resnet_3", "unet_16"])
def test_a_batch_is_as_many_single_images_in_evaluation(name):
    network = build(name, norm="batch").eval()
    x = torch.randn(4, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.cat([network(i) for i in x.split(1)]), atol=1e-5, rtol=1e-5)


def test_init_weights():
    network = GENERATORS["unet_64"](3, 3, width=16)
    init_weights(network)
    weights = torch.cat([p.flatten() for p in network.parameters() if p.ndim == 4])
    assert weights.mean().abs() < 1e-4
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    norms = [m for m in network.modules() if isinstance(m, BatchNorm)]
    gains = torch.cat([m.weight for m in norms])
    assert gains.mean().item() == pytest.approx(1, abs=0.01)
    assert gains.std().item() == pytest.approx(0.02, rel=0.2)
    assert all((m.bias == 0).all() for m in norms)


# Networks that draw from noise.


def test_dcgan_has_the_size_of_the_published_one():
    """64 px, width 64, noise of 100, 3 channels: 4x4 kernels, two numbers for each channel of a batch norm."""
    up, kernel = [100, 512, 256, 128, 64, 3], 4 * 4
    convolutions = [a * b * kernel for a, b in pairwise(up)]
    norms = [2 * channels for channels in up[1:-1]]
    assert sum(convolutions) + sum(norms) == 3576704  # of PyTorch's example, which has no bias
    down = [3, 64, 128, 256, 512, 1]
    judged = sum(a * b * kernel for a, b in pairwise(down)) + sum(2 * c for c in down[2:-1])
    assert judged == 2765568
    with torch.device("meta"):
        assert count(DCGANGenerator(100, 3, 64)) == 3576704 + 3
        assert count(DCGANDiscriminator(3, 64)) == judged + 64 + 1


@over("size, last", [(16, 2), (32, 4), (64, 8), (128, 16), (256, 16)])
def test_widths_of_dcgan_double_up_to_the_papers(size, last):
    with torch.device("meta"):
        generator, discriminator = DCGANGenerator(7, 3, size, width=4), DCGANDiscriminator(3, size, width=4)
    assert generator.layers[0].out_channels == discriminator.layers[-1].in_channels == 4 * last
    assert generator.layers[-2].in_channels == discriminator.layers[0].out_channels == 4


@over(norm=["batch", "none"], size=DCGAN_SIZES)
def test_dcgan_draws_its_size(size, norm):
    network = DCGANGenerator(5, 3, size, width=1, norm=norm)
    images = network(torch.randn(2, 5, 1, 1))
    assert images.shape == (2, 3, size, size) and images.abs().max() <= 1
    images.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@over(norm=["batch", "instance", "none"], size=DCGAN_SIZES)
def test_dcgan_judges_its_size(size, norm):
    network = DCGANDiscriminator(3, size, width=1, norm=norm)
    logits = network(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@over(size=[0, 4, 20, 48, 512])
def test_dcgan_refuses_other_sizes(size):
    for network in (lambda: DCGANGenerator(5, 3, size), lambda: DCGANDiscriminator(3, size)):
        with pytest.raises(ConfigError, match=rf"do not support --size {size}; use one of 8, 16, 32, 64, 128, 256\.$"):
            network()


def test_dcgan_refuses_other_norms():
    with pytest.raises(ConfigError, match=r"Unknown --norm 'instance'\. Choose from: batch, none"):
        DCGANGenerator(5, 3, 16, norm="instance")
    with pytest.raises(ConfigError, match=r"Unknown --d-norm 'bach'\. Did you mean 'batch'\?"):
        DCGANDiscriminator(3, 16, norm="bach")


@over("channels, size", [(2, 1), (1, 5), (3, 16)])
def test_mlp(channels, size):
    generator, discriminator = MLPGenerator(7, channels, size, width=6), MLPDiscriminator(channels, size, width=6)
    images = generator(torch.randn(4, 7, 1, 1))
    assert images.shape == (4, channels, size, size) and images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (4, 1)
    logits.sum().backward()
    for p in (*generator.parameters(), *discriminator.parameters()):
        assert torch.isfinite(p.grad).all()
    values = channels * size * size
    assert count(generator) == (7 * 6 + 6) + (6 * 6 + 6) + (6 * values + values)
    assert count(discriminator) == (values * 6 + 6) + (6 * 6 + 6) + (6 + 1)


# Layers.

SIZES = [(1, 1), (2, 2), (5, 3), (8, 8), (9, 16), (20, 17)]  # on both sides of MOST_POSITIONS


def test_sizes_lie_on_both_sides():
    assert min(h * w for h, w in SIZES) < MOST_POSITIONS < max((h // 2) * (w // 2) for h, w in SIZES)


def gradients(layer, x, *inputs):
    x = x.clone().requires_grad_()
    out = layer(x)
    torch.manual_seed(1)
    return out, torch.autograd.grad((out * torch.randn(out.shape, dtype=out.dtype)).sum(), [x, *layer.parameters()])


@over(
    "kernel, stride, padding", [(4, 2, 1), (4, 1, 1), (3, 1, 1), (3, 2, 1), (1, 1, 0)], bias=[True, False], size=SIZES
)
def test_conv_equals_pytorch(kernel, stride, padding, size, bias):
    if min(size) + 2 * padding < kernel:
        size = tuple(max(n, kernel - 2 * padding) for n in size)
    mine = Conv2d(3, 5, kernel, stride, padding, bias=bias).double()
    theirs = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias).double()
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(gradients(mine, x), gradients(theirs, x))


@over("kernel, extra", [(4, 0), (3, 1)], bias=[True, False], size=SIZES)
def test_transposed_conv_equals_pytorch(kernel, extra, size, bias):
    options = dict(stride=2, padding=1, output_padding=extra, bias=bias)
    mine, theirs = (kind(3, 5, kernel, **options).double() for kind in (ConvTranspose2d, nn.ConvTranspose2d))
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(gradients(mine, x), gradients(theirs, x))


def test_instance_norm_equals_pytorch():
    x = 5 * torch.randn(3, 4, 7, 6) + 2
    torch.testing.assert_close(InstanceNorm(4)(x), nn.InstanceNorm2d(4)(x), atol=1e-5, rtol=1e-5)


def test_instance_norm_of_one_pixel_is_zero():
    assert torch.equal(InstanceNorm(4)(torch.randn(2, 4, 1, 1)), torch.zeros(2, 4, 1, 1))


def batch_norm():
    norm = BatchNorm(4)
    nn.init.normal_(norm.weight, 1)
    nn.init.normal_(norm.bias)
    return norm


def test_batch_norm_equals_pytorch_in_training():
    mine, theirs = batch_norm(), nn.BatchNorm2d(4)
    theirs.load_state_dict(mine.state_dict(), strict=False)
    x = 5 * torch.randn(3, 4, 7, 6) + 2
    torch.testing.assert_close(gradients(mine, x), gradients(theirs, x), atol=1e-4, rtol=1e-4)


@over(size=[(1, 1), (1, 2), (7, 6)])
def test_batch_norm_evaluates_as_it_trains_at_batch_one(size):
    norm = batch_norm()
    x = torch.randn(1, 4, *size)
    trained = norm(x)
    torch.testing.assert_close(norm.eval()(x), trained, atol=1e-5, rtol=1e-5)


def test_batch_norm_evaluates_every_image_by_itself():
    norm = batch_norm().eval()
    x = torch.randn(3, 4, 7, 6)
    torch.testing.assert_close(norm(x), torch.cat([norm(i) for i in x.split(1)]))


def running_batch_norm(channels=4):
    norm = RunningBatchNorm(channels)
    nn.init.normal_(norm.weight, 1)
    nn.init.normal_(norm.bias)
    return norm


@over(size=[(1, 1), (7, 6)])
def test_running_batch_norm_equals_pytorch(size):
    mine, theirs = running_batch_norm(), nn.BatchNorm2d(4)
    theirs.load_state_dict(mine.state_dict(), strict=False)
    x = 5 * torch.randn(3, 4, *size) + 2
    torch.testing.assert_close(gradients(mine, x), gradients(theirs, x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.running_mean, theirs.running_mean)
    n = x.numel() / 4  # theirs estimates the variance of all data, ours is that of the batch
    torch.testing.assert_close((mine.running_var - 0.9) * n / (n - 1), theirs.running_var - 0.9, atol=1e-4, rtol=1e-4)
    theirs.load_state_dict(mine.state_dict(), strict=False)
    torch.testing.assert_close(mine.eval()(x), theirs.eval()(x))


def test_running_averages_approach_those_of_the_data():
    norm = running_batch_norm()
    mean, std = torch.tensor([-3.0, 0.0, 1.0, 8.0]), torch.tensor([0.1, 1.0, 2.0, 5.0])
    far = [(norm.running_mean - mean).abs(), (norm.running_var - std**2).abs()]
    for _ in range(100):
        norm(mean.view(-1, 1, 1) + std.view(-1, 1, 1) * torch.randn(32, 4, 8, 8))
    near = [(norm.running_mean - mean).abs(), (norm.running_var - std**2).abs()]
    assert (near[0] < 0.05 * std + 1e-3).all() and (near[1] < 0.1 * std**2).all()
    assert all((b <= a + 0.05).all() for a, b in zip(far, near, strict=True))


@over(trained=[True, False])
def test_running_batch_norm_evaluates_every_image_by_itself(trained):
    norm, x = running_batch_norm(), 5 * torch.randn(3, 4, 7, 6) + 2
    if trained:
        norm(x)
    before = [buffer.clone() for buffer in norm.buffers()]
    norm.eval()
    torch.testing.assert_close(norm(x), torch.cat([norm(i) for i in x.split(1)]))
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))


def test_running_batch_norm_keeps_differences_between_images():
    """What `BatchNorm` would take away: an image of one value stays one of its own."""
    norm = running_batch_norm().eval()
    dark, bright = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert not torch.allclose(norm(dark), norm(bright))


@over(padding=[1, 3])
def test_reflect_pad_has_a_deterministic_twin(padding):
    layer, x = ReflectPad(padding), torch.randn(2, 3, 6, 5)
    expected = F.pad(x, (padding,) * 4, mode="reflect")
    fast = gradients(layer, x)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        slices = gradients(layer, x)
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.equal(fast[0], expected)
    assert torch.equal(slices[0], expected)
    torch.testing.assert_close(slices[1], fast[1])


# Mistakes.


@over("norm, calls", [("instance", 1), ("none", 1), ("batch", 2)])
def test_each_takes_one_pass_where_no_norm_mixes_images(norm, calls):
    torch.manual_seed(0)
    network, seen = GENERATORS["resnet_3"](3, 3, width=4, norm=norm).train(), []
    a, b = torch.randn(2, 2, 3, 16, 16)
    expected = network(a), network(b)
    network.register_forward_hook(lambda *_: seen.append(1))
    for x, y in zip(each(network, a, b), expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    assert len(seen) == calls
    assert [len(x) for x in each(network, a, b[:1])] == [2, 1]


def test_unknown_norm():
    with pytest.raises(
        ConfigError, match=r"Unknown --norm 'instanse'. Did you mean 'instance'\? Choose from: instance, batch"
    ):
        norm_layer("instanse")


@over(name=["resnet_3", "unet_16"])
def test_unknown_upsampling(name):
    with pytest.raises(ConfigError, match=r"Unknown --upsample 'rezize'. Did you mean 'resize'\?"):
        build(name, upsample="rezize")


def test_unknown_padding():
    with pytest.raises(ConfigError, match=r"Unknown --padding 'mirror'"):
        build("resnet_3", padding="mirror")


def test_a_unet_has_no_padding():
    with pytest.raises(ConfigError, match="A U-Net pads with zeros; --padding reflect"):
        build("unet_16", padding="reflect")


@over("layers, smallest", [(1, 6), (2, 12), (3, 24)])
def test_discriminator_refuses_small_images(layers, smallest):
    network = PatchGAN(3, layers=layers, width=2)
    network(torch.zeros(1, 3, smallest, smallest))
    with pytest.raises(ConfigError, match=rf"at least {smallest} px, not {smallest}x{smallest - 1}"):
        network(torch.zeros(1, 3, smallest - 1, smallest))
