"""DualGAN, CUT, and losses in features: the papers' equations at values known in closed form."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from torch import nn

from img2img.core.needs import Facts
from img2img.core.optimizers import RMSprop
from img2img.errors import ConfigError, ModelFileError
from img2img.methods import METHODS
from img2img.networks import GENERATORS
from img2img.networks.vgg import RELUS, VGG16, open_lpips_weights
from img2img.options.declared import refuse_idle
from img2img.runtime.device import Runtime
from img2img.translation import cut
from img2img.translation.cut import contrast
from img2img.translation.features import match_means, match_pairs, perceptual


def tiny(name, **options):
    torch.manual_seed(0)
    config = dict(generator="resnet_3", discriminator="patch_16", width=4, d_width=4, dropout=0.0) | options
    return METHODS[name](METHODS[name].Config(**config), Facts(16, {"a": 3, "b": 3})).double()


def batches_of(count, n=2):
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield {domain: torch.rand(n, 3, 16, 16, generator=draw, dtype=torch.float64) * 2 - 1 for domain in "ab"}


def spied(method, monkeypatch):
    """The losses that players move on, by player, as they come."""
    losses, move = {player: [] for player in method.optimizers}, method.move
    monkeypatch.setattr(method, "move", lambda player, x: losses[player].append(x.detach()) or move(player, x))
    return losses


# DualGAN.


def test_identical_domains_leave_dualgan_the_critics_alone(monkeypatch):
    method = tiny("dualgan")
    zero = 0 * sum(p.sum() for p in method.parameters_of("G"))
    method.g_ab.forward = method.g_ba.forward = lambda x: x + zero
    losses = spied(method, monkeypatch)
    scalars = method.step(batches_of(2))
    assert scalars["cycle"] == 0 and losses["G"] == [scalars["g_gan"]]


def test_the_critics_of_dualgan_estimate_distances_on_fresh_batches(monkeypatch):
    """With critics that give the mean of an image, L_D is the difference of means, real minus generated, negated."""
    method, batches = tiny("dualgan", n_critic=3, lambda_cycle=0.0), list(batches_of(3))

    def zero(player):
        return 0 * sum(p.sum() for p in method.parameters_of(player))

    method.d_a.forward = method.d_b.forward = lambda x: x.mean((1, 2, 3)) + zero("D")
    method.g_ab.forward, method.g_ba.forward = lambda x: x / 2 + zero("G"), lambda x: x + 1 + zero("G")
    losses = spied(method, monkeypatch)
    method.step(iter(batches))
    means = [(x["a"].mean(), x["b"].mean()) for x in batches]
    torch.testing.assert_close(losses["D"], [b + 1 - a + a / 2 - b for a, b in means])
    a, b = means[-1]  # G moves on the last batch
    torch.testing.assert_close(losses["G"], [-(b + 1) - a / 2])


def test_the_weights_of_dualgans_critics_stay_clipped_and_momentum_is_none():
    method = tiny("dualgan", weight_clip=0.01, lr=0.1)
    for x in (0, 1):
        assert max(p.abs().max() for p in method.parameters_of("D")) <= 0.01, x
        method.step(batches_of(2))
    assert max(p.abs().max() for p in method.parameters_of("G")) > 0.01
    assert {type(x) for x in method.optimizers.values()} == {RMSprop}
    free = tiny("dualgan", weight_clip=0.0, lr=0.1)
    free.step(batches_of(2))
    assert max(p.abs().max() for p in free.parameters_of("D")) > 0.1


# The distance of the cycle.


def test_the_distance_is_that_of_the_cycle_and_of_the_identity():
    for distance, size in (("l1", 0.5), ("l2", 0.25)):
        method = tiny("cyclegan", distance=distance)
        zero = 0 * sum(p.sum() for p in method.parameters_of("G"))
        method.g_ab.forward, method.g_ba.forward = lambda x, z=zero: x + 0.5 + z, lambda x, z=zero: x + z
        scalars = method.step(batches_of(1))
        assert scalars["cycle"].item() == pytest.approx(2 * size), distance
        assert scalars["identity"].item() == pytest.approx(size), distance


# CUT.


def test_contrast_of_equal_features_among_orthogonal_ones():
    for places, tau in ((2, 1.0), (5, 0.07), (8, 0.5)):
        x = 3 * torch.eye(8, dtype=torch.float64)[:places].expand(2, -1, -1)  # of any length
        own = math.exp(1 / tau)
        assert contrast(x, x, tau).item() == pytest.approx(-math.log(own / (own + places - 1))), (places, tau)


def test_contrast_is_equation_3_within_each_image():
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 4, 3, generator=draw, dtype=torch.float64)
    q.requires_grad_(), k.requires_grad_()
    loss, expected = contrast(q, k, 0.2), []
    for n in range(2):
        for s in range(4):
            e = [torch.exp(torch.cosine_similarity(q[n, s], k[n, t], 0) / 0.2) for t in range(4)]
            expected.append(-torch.log(e[s] / sum(e)))
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert k.grad is None and q.grad.abs().sum() > 0


def test_the_encoder_is_the_first_layers_of_the_generator():
    x, resnet, small, unet = (
        torch.rand(1, 3, 32, 32),
        *(GENERATORS[n](3, 3, width=4) for n in ("resnet_9", "resnet_3", "unet_32")),
    )
    for network, places in ((resnet, (0, 4, 7, 10, 14)), (small, (0, 4, 7, 10, 12))):
        maps = network.encode(x)
        assert [m.shape[1] for m in maps] == [3, 8, 16, 16, 16]
        assert all(torch.equal(m, network.layers[: i + 1](x)) for m, i in zip(maps, places, strict=True))
    maps = unet.encode(x)
    assert torch.equal(maps[0], x) and [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
    assert torch.equal(maps[2], unet.down[1](unet.down[0](x)))


def test_encoders_run_in_the_precision_of_the_run():
    x = torch.rand(1, 3, 16, 16)
    for network in (GENERATORS["resnet_3"](3, 3, width=4), GENERATORS["unet_16"](3, 3, width=4)):
        exact = network.encode(x)[-1]
        Runtime(torch.device("cpu"), torch.bfloat16).place(network)
        rounded = network.encode(x)[-1]
        assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)


def test_cut_averages_its_contrastive_losses_and_fastcut_has_one(monkeypatch):
    method = tiny("cut", lambda_nce=2.0, lambda_identity=4.0)
    losses = spied(method, monkeypatch)
    s = method.step(batches_of(1))
    torch.testing.assert_close(losses["G"], [s["g_gan"] + (2 * s["nce"] + 4 * s["nce_b"]) / 2])
    method = tiny("fastcut")
    losses = spied(method, monkeypatch)
    s = method.step(batches_of(1))
    assert "nce_b" not in s
    torch.testing.assert_close(losses["G"], [s["g_gan"] + 10 * s["nce"]])


def test_places_are_drawn_for_each_map_and_are_those_of_the_keys(monkeypatch):
    """An image is its own translation: every query is its own key, at the number of places asked for."""
    method, seen = tiny("cut", places=20), []
    monkeypatch.setattr(cut, "contrast", lambda q, k, tau: seen.append((q, k)) or contrast(q, k, tau))
    x = next(batches_of(1))["a"]
    method.nce(x, x)
    assert [q.shape[1] for q, _ in seen] == [20, 20, 16, 16, 16]  # or as many as there are
    assert all(torch.equal(q, k) and q.requires_grad for q, k in seen)


def test_features_of_a_mirrored_image_are_compared_mirrored_back(monkeypatch):
    method, seen = tiny("fastcut", places=10**6), []
    monkeypatch.setattr(cut, "contrast", lambda q, k, tau: seen.append((q, k)) or contrast(q, k, tau))
    monkeypatch.setattr(method.g, "encode", lambda x: [x.mean(1, keepdim=True).expand(-1, c, -1, -1) for c in (3, 8)])
    monkeypatch.setattr(method, "h", method.h[:2])
    x = next(batches_of(1))["a"]
    method.nce(x, x.flip(3), mirrored=True)
    assert all(torch.equal(q, k) for q, k in seen) and len(seen) == 2


def test_half_of_the_images_are_mirrored_in_fastcut(monkeypatch):
    method, batch, given = tiny("fastcut"), next(batches_of(1)), []
    monkeypatch.setattr(method, "nce", lambda *x: given.append(x) or x[1].square().mean())
    for _ in range(12):
        with torch.no_grad():
            plain, turned = method.g(batch["a"]), method.g(batch["a"].flip(3))
        method.step(iter([batch]))
        x, translated, mirrored = given[-1]
        assert torch.equal(x, batch["a"]) and torch.equal(translated, turned if mirrored else plain)
    assert {mirrored for *_, mirrored in given} == {True, False}


@pytest.mark.nightly
def test_cut_learns_to_tint_and_keeps_what_is_shown():
    """Without pairs: b is smooth pictures in another light. The answer for an unseen a is known, a + tint."""
    tint = torch.tensor([0.6, 0.0, -0.6]).view(3, 1, 1)
    method = tiny("cut", places=64, lr=1e-3, width=8, d_width=8).float()

    def pictures(n):
        return 0.4 * F.interpolate(torch.rand(n, 3, 4, 4) * 2 - 1, size=(16, 16), mode="bicubic").clamp(-1, 1)

    for _ in range(400):
        method.step(iter([{"a": pictures(4), "b": pictures(4) + tint}]))
    unseen = pictures(32)
    with torch.no_grad():
        error = F.l1_loss(method.eval().g(unseen), unseen + tint)
    assert error < 0.15  # the unchanged input is off by 0.4


# Features of discriminators.


class Maps(nn.Module):
    """A discriminator whose maps are its input and twice its input."""

    def encode(self, x):
        return [1 * x, 2 * x]


def test_pairs_are_matched_place_by_place_and_means_as_sets():
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    assert match_pairs(Maps(), x, x) == match_means(Maps(), x, x) == 0
    assert match_pairs(Maps(), x, x + 0.5).item() == pytest.approx(0.5 + 1)
    assert match_means(Maps(), x, x + 0.5).item() == pytest.approx(0.25 + 1)
    other = x.flip(0).flip(3)  # the same features, elsewhere
    assert match_means(Maps(), x, other).item() == pytest.approx(0, abs=1e-30)
    assert match_pairs(Maps(), x, other) > 0.1
    real, fake = x.clone().requires_grad_(), other.clone().requires_grad_()
    match_pairs(Maps(), real, fake).backward()
    assert real.grad is None and fake.grad is not None


def test_feature_matching_is_part_of_the_generators_loss(monkeypatch):
    for name, rest in (
        ("cyclegan", lambda s: 10 * s["cycle"] + 5 * s["identity"]),
        ("pix2pix", lambda s: 100 * s["l1"]),
    ):
        method = tiny(name, lambda_feature=3.0, norm="instance")
        losses = spied(method, monkeypatch)
        s = method.step(batches_of(1))
        torch.testing.assert_close(losses["G"], [s["g_gan"] + rest(s) + 3 * s["feature"]])
        assert s["feature"] > 0


def test_maps_of_discriminators_are_those_after_each_activation():
    method = tiny("pix2pix", discriminator="patch_34")
    x = torch.rand(1, 6, 16, 16, dtype=torch.float64)
    maps = method.d.encode(x)
    assert [m.shape[1] for m in maps] == [4, 8, 16]
    assert torch.equal(maps[-1], method.d.layers[:-1](x)) and torch.equal(maps[0], method.d.layers[:2](x))


# Features of a classifier.


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights, as torchvision names them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({f"features.{name}": x for name, x in VGG16().layers.state_dict().items()}, path)
    return path


def distance(weights, kind, *channels):
    config = SimpleNamespace(lambda_perceptual=1.0, perceptual=kind, perceptual_weights=str(weights))
    return perceptual(config, *channels)


def features(weights, x):
    """VGG16's maps in torchvision's own words."""
    from torchvision.transforms.functional import normalize

    x = normalize((x.expand(-1, 3, -1, -1) + 1) / 2, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = VGG16().layers
    network.load_state_dict({k.removeprefix("features."): v for k, v in torch.load(weights).items()})
    return {name: network[: i + 1](x) for name, i in RELUS.items()}


def test_the_perceptual_loss_is_the_mean_square_at_relu3_3(weights):
    content = distance(weights, "vgg16", 3, 1)
    for channels in (1, 3):
        x, y = torch.rand(2, 2, channels, 32, 32) * 2 - 1
        x.requires_grad_()
        loss = content(x, y)
        expected = (features(weights, x)["relu3_3"] - features(weights, y)["relu3_3"]).square().mean()
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert x.grad.abs().sum() > 0 and content(y, y) == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_is_that_of_its_package(weights):
    import lpips

    package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    names = {name: f"features.{name.partition('.')[2]}" for name in package.net.state_dict()}
    state = torch.load(weights)
    package.net.load_state_dict({name: state[key] for name, key in names.items()})
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    ours = distance(weights, "lpips", 3)
    torch.testing.assert_close(ours(x, y), package(x, y).mean(), rtol=1e-4, atol=1e-7)
    black = (-torch.ones(1, 3, 32, 32)).requires_grad_()
    ours(black, y[:1]).backward()
    assert torch.isfinite(black.grad).all() and [w.shape[1] for w in open_lpips_weights()] == [64, 128, 256, 512, 512]


def test_the_classifier_is_frozen_and_no_part_of_the_method(weights, monkeypatch):
    for name in ("pix2pix", "cyclegan"):
        method = tiny(name, lambda_perceptual=2.0, perceptual_weights=str(weights), norm="instance", lambda_feature=0.0)
        method.float()
        assert not any("vgg" in key or "perceptual" in key for key in method.state_dict())
        losses = spied(method, monkeypatch)
        s = method.step({k: x.float() for k, x in batch.items()} for batch in batches_of(1))
        rest = 100 * s["l1"] if name == "pix2pix" else 10 * s["cycle"] + 5 * s["identity"]
        torch.testing.assert_close(losses["G"], [s["g_gan"] + rest + 2 * s["perceptual"]])
    assert not any(p.requires_grad for p in VGG16().parameters()) and not VGG16().training


def test_what_is_wrong_with_the_perceptual_loss_is_said(tmp_path, weights):
    text = refused(ModelFileError, distance, tmp_path / "none.pth", "vgg16", 3)
    assert "none.pth" in text
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    text = refused(ModelFileError, distance, tmp_path / "other.pth", "vgg16", 3)
    assert "does not hold the weights of torchvision's vgg16" in text
    assert "RGB and grey images, not for 2 channels" in refused(ConfigError, distance, weights, "vgg16", 2)
    assert "Unknown --perceptual 'alex'" in refused(ConfigError, distance, weights, "alex", 3)
    config = METHODS["pix2pix"].Config(perceptual="lpips")
    assert "--lambda-perceptual" in refused(ConfigError, refuse_idle, "pix2pix", ["perceptual"], config)


def test_a_perceptual_distance_is_measured_between_rgb_translations_of_any_source(weights):
    options = dict(
        lambda_perceptual=1.0, perceptual_weights=str(weights), generator="unet_16", discriminator="patch_16"
    )
    config = METHODS["pix2pix"].Config(width=4, d_width=4, **options)
    METHODS["pix2pix"](config, Facts(16, {"a": 7, "b": 3}))
