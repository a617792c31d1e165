"""BicycleGAN: its losses in closed form, what its encoder learns from, and many results of one image."""

import math

import numpy as np
import pytest
import torch
from conftest import refused, write_images

import img2img
from img2img.core.needs import Facts
from img2img.data.images import read_image
from img2img.errors import ConfigError
from img2img.networks.conditional import NoisyGenerator
from img2img.networks.encoder import Encoder
from img2img.translation.bicyclegan import BicycleGAN, BicycleGANConfig, divergence

SMALL = dict(generator="unet_16", discriminator="patch_16", width=4, d_width=4, e_width=4, latent=3)


def tiny(**options):
    torch.manual_seed(0)
    return BicycleGAN(BicycleGANConfig(**SMALL | options), Facts(16, {"a": 2, "b": 3})).double()


def batch_of(n=2):
    draw = torch.Generator().manual_seed(1)
    sides = {"a": 2, "b": 3}
    return {k: torch.rand(n, c, 16, 16, generator=draw, dtype=torch.float64) * 2 - 1 for k, c in sides.items()}


def test_the_divergence_from_normal_noise():
    zero = torch.zeros(4, 8, dtype=torch.float64)
    assert divergence(zero, zero) == 0
    m, v = 0.7, 0.3
    expected = 8 * (m * m + v - 1 - math.log(v)) / 2  # summed over the code, averaged over images
    assert divergence(zero + m, zero + math.log(v)).item() == pytest.approx(expected)


def test_noise_enters_as_planes():
    seen = []

    class Spy(torch.nn.Module):
        multiple = 1

        def forward(self, x):
            seen.append(x)
            return x[:, :2]

    x, z = torch.rand(2, 2, 8, 8), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert torch.equal(NoisyGenerator(Spy(), 2)(x, z), x) and torch.equal(seen[0][:, :2], x)
    assert torch.equal(seen[0][:, 2:], z[:, :, None, None].expand(2, 3, 8, 8))


def test_an_encoder_takes_every_size_down_to_a_vector():
    for size, halvings in ((16, 2), (32, 3), (40, 4), (64, 4)):
        network = Encoder(3, 5, size, width=4)
        assert network(torch.rand(2, 3, size, size)).shape == (2, 5)
        assert sum(isinstance(layer, torch.nn.Conv2d) for layer in network.layers) == halvings, size


def test_the_loss_is_the_sum_of_both_halves(monkeypatch):
    method, losses = tiny(lambda_l1=2.0, lambda_kl=3.0, lambda_latent=5.0), []
    move = method.move
    monkeypatch.setattr(method, "move", lambda player, x: losses.append(x.detach()) or move(player, x))
    s = method.step(iter([batch_of()]))
    expected = s["g_code"] + s["g_noise"] + 2 * s["l1"] + 3 * s["kl"] + 5 * s["latent"]
    torch.testing.assert_close(losses, [expected, s["d_code"] + s["d_noise"]])


def gradients(**options):
    """The gradients of g and of E in the first step."""
    method, found = tiny(lambda_kl=0.0, **options), {}
    hook = method.optimizers["G"].register_step_pre_hook
    hook(lambda *_: found.update({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}))
    torch.manual_seed(3)
    method.step(iter([batch_of()]))
    return [{name: x for name, x in found.items() if name.startswith(part)} for part in ("g.", "e.")]


def test_codes_found_in_results_move_the_generator_alone():
    (g, e), (g_with, e_with) = gradients(lambda_latent=0.0), gradients(lambda_latent=50.0)
    torch.testing.assert_close(e, e_with, rtol=0, atol=0)
    assert all(not torch.allclose(g[name], g_with[name]) for name in g if name.endswith("weight"))
    assert all(x.abs().sum() > 0 for name, x in e.items() if name.endswith("weight"))


def test_discriminators_see_results_alone_one_those_of_codes_and_one_those_of_noise():
    method, made, seen = tiny(), [], {"d_code": [], "d_noise": []}
    method.g.register_forward_hook(lambda _m, _x, y: made.append(y.detach()))
    for name in seen:
        getattr(method, name).register_forward_hook(lambda _m, x, _y, name=name: seen[name].append(x[0].detach()))
    batch = batch_of()
    method.step(iter([batch]))
    for name, fake in zip(seen, made, strict=True):
        for x, expected in zip(seen[name], (fake, batch["b"], fake), strict=True):
            assert torch.equal(x, expected), name


# Many results of one image.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run, and images to translate."""
    root = tmp_path_factory.mktemp("bicycle")
    sides = {side: write_images(root / side, 4, (16, 16), seed) for seed, side in enumerate("ab")}
    quick = dict(size=16, steps=2, augment="none", device="cpu", precision="fp32", quiet=True, val_fraction=0)
    img2img.train("bicyclegan", out=root / "run", **sides, **SMALL, **quick)
    return root / "run", sides["a"]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_several_results_have_a_folder_each(run, tmp_path, command_line):
    model, source = run
    code, text, _ = command_line("translate", model, source, "--out", tmp_path / "two", "--n-outputs", 2)
    assert code == 0 and "8 images translated" in text
    two = contents(tmp_path / "two")
    assert sorted(two) == [f"{k:03}/{path.name}" for k in (0, 1) for path in sorted(source.iterdir())]
    assert two["000/000.png"] != two["001/000.png"]
    seen = []
    summary = img2img.translate(model, source, tmp_path / "two", n_outputs=3, progress=seen.append)
    assert (summary.translated, summary.skipped) == (4, 8)  # more results of the same seed
    assert [(x.done, x.total) for x in seen] == [(k, 12) for k in range(1, 13)]
    three = contents(tmp_path / "two")
    assert {name: three[name] for name in two} == two and len(three) == 12
    one = tmp_path / "one"
    img2img.translate(model, source, one)  # the first of the seed, without a folder of its own
    assert contents(one) == {name.removeprefix("000/"): x for name, x in two.items() if name.startswith("000/")}


def test_a_result_depends_on_the_seed_and_its_number_alone(run, tmp_path):
    model, source = img2img.load(run[0], device="cpu", precision="fp32"), run[1]
    outcomes = list(img2img.translate_folder(model, source, tmp_path / "out", n_outputs=2, seed=7))
    assert {x.status for x in outcomes} == {"translated"}
    for number in (0, 1):
        files = sorted(source.iterdir())
        for file, image in zip(files, model.with_noise(number, 7)(files), strict=True):
            assert np.array_equal(read_image(tmp_path / "out" / f"{number:03}" / file.name).array, image)
    assert not np.array_equal(model.with_noise(0, 7)(files[0]), model(files[0]))
    assert np.array_equal(model.with_noise(0, 0)(files[0]), model(files[0]))
    text = refused(ConfigError, img2img.translate, model, source, tmp_path / "out", n_outputs=2, seed=8)
    assert "seed was 7, now 8" in text


def test_what_cannot_have_several_results_says_so(run, tmp_path):
    model, source = run
    text = refused(ConfigError, img2img.translate, model, source, source / "out", n_outputs=2)
    assert "must not be inside" in text
    assert "from 1 to 1000" in refused(ConfigError, img2img.translate, model, source, tmp_path / "out", n_outputs=0)
    sides = {side: write_images(tmp_path / side, 2, (16, 16), 0) for side in "ab"}
    quick = dict(size=16, steps=1, generator="unet_16", discriminator="patch_16", width=4, d_width=4, val_fraction=0)
    plain = img2img.train("pix2pix", out=tmp_path / "plain", **sides, **quick, device="cpu", quiet=True)
    for options in ({"n_outputs": 2}, {"seed": 1}):
        text = refused(ConfigError, img2img.translate, plain, source, tmp_path / "out", **options)
        assert "takes no noise" in text
