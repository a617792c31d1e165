"""The equalizer's adversarial models: their contracts and bounds, what they are shown, and how they run."""

import json
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import over

from img2img.core.needs import Facts
from img2img.errors import ConfigError, Interrupted
from img2img.lab.networks.applying import apply, bind, build_generator
from img2img.lab.networks.models import NETWORKS
from img2img.lab.networks.patches import Patches, Sides
from img2img.lab.networks.training import train_generator
from img2img.model.file import load_resume
from img2img.translation.local import Critic, Local, LocalConfig
from img2img.translation.stargan import ConditionalConv, edit_variance

SMALL = {
    "local": dict(width=4, d_width=4, discriminator="patch_16", batch_size=3, patch=24),
    "stargan": dict(width=4, blocks=1, d_width=4, d_layers=3, n_critic=2, batch_size=3, patch=24),
    "cyclegan": dict(width=4, d_width=4, discriminator="patch_16", batch_size=1, patch=24, pool=3),
}
CONDITIONED = ("local", "stargan")
NAMES = {"local": ["A", "B", "C"], "stargan": ["A", "B", "C"], "cyclegan": ["A", "B"]}
RHYTHM = dict(log_every=2, save_every=2, sample_every=2)


def tiny(model, channels=2, seed=0, **options):
    """A conditioned method with networks of a few channels, of three batches."""
    torch.manual_seed(seed)
    method = NETWORKS[model].method
    known = {k: v for k, v in SMALL[model].items() if k in method.Config.__dataclass_fields__}
    return method(method.Config(**known | options), Facts(24, {"image": channels}, ("A", "B", "C")))


def batch_of(n=6, channels=2, size=24, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {"image": torch.randn(n, channels, size, size, generator=draw) / 2, "label": torch.arange(n) % 3}


def batches_of(count):
    return iter([batch_of(seed=seed) for seed in range(count)])


def shaken(network, seed=0):
    """The network with weights as after a training: none is zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p += torch.randn_like(p) / 20
    return network


def images_of(count, channels=1, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((channels, size, size + 4 * (i % 2))).astype(np.float32) / 3 for i in range(count)]


def run(model, folder=None, steps=4, target=0, **options):
    names = NAMES[model]
    batch = [i % len(names) for i in range(6)]
    chosen = SMALL[model] | RHYTHM | {"steps": steps} | options
    return train_generator(model, images_of(6), batch, names, target, folder, chosen)


# Networks and what they start from.


@over(model=CONDITIONED)
def test_all_parameters_get_gradients(model):
    method = tiny(model)
    shaken(method.g)
    batch = batch_of()
    out = method.g(batch["image"], batch["label"])
    (out.square().sum() + method.d(batch["image"]).square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


@over(model=CONDITIONED)
def test_the_start_is_the_identity(model):
    batch = batch_of()
    assert torch.equal(tiny(model).g(batch["image"], batch["label"]), batch["image"])


@over(model=CONDITIONED)
def test_preview(model):
    batch = batch_of()
    columns = tiny(model).eval().preview(batch)
    assert torch.equal(columns["image"], batch["image"])
    assert all(x.shape == batch["image"].shape for x in columns.values())


@over(model=CONDITIONED)
def test_one_batchs_images_do_not_depend_on_the_others(model):
    """No statistics over the call, and none over the image: a far pixel changes nothing here."""
    network, batch = shaken(tiny(model).g).eval(), batch_of()
    together = network(batch["image"], batch["label"])
    alone = torch.cat([network(batch["image"][i : i + 1], batch["label"][i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone)
    assert not any("Norm" in type(module).__name__ for module in network.modules())


def test_a_bias_per_batch_is_a_one_hot_plane():
    """With the border mirrored, planes beside the image add a constant to each channel of the first layer."""
    conv, x = ConditionalConv(3, 2, 5, 3), torch.randn(1, 2, 8, 8)
    planes = F.one_hot(torch.tensor([1]), 3).float()[:, :, None, None].expand(1, 3, 8, 8)
    of_planes = torch.randn(5, 3, 3, 3)
    with torch.no_grad():
        conv.biases.copy_(of_planes.sum((2, 3)).t())
    both = F.pad(torch.cat([x, planes], 1), (1, 1, 1, 1), mode="reflect")
    expected = F.conv2d(both, torch.cat([conv.weight, of_planes], 1))
    out = conv(F.pad(x, (1, 1, 1, 1), mode="reflect"), torch.tensor([1]))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


# Local.


def test_local_keeps_its_bound_and_its_reference():
    batch = batch_of()
    network = shaken(tiny("local", reference="B", max_change=0.05).g)
    with torch.no_grad():
        network.last.weight *= 100
        change = (network(batch["image"], batch["label"]) - batch["image"]).abs().amax((1, 2, 3))
    is_reference = batch["label"] == 1
    assert (change[is_reference] == 0).all()
    assert (change[~is_reference] > 0.09).all() and (change <= 0.05 * 2 + 1e-6).all()


def network_of(config, facts):
    return Local.build(config, facts)["translate"].network


def test_local_sees_nine_pixels():
    network = shaken(network_of(LocalConfig(width=32), Facts(0, {"image": 1}, ("A", "B")))).eval()
    x = torch.randn(1, 1, 25, 25, requires_grad=True)
    network(x, torch.tensor([1]))[0, 0, 12, 12].backward()
    rows, columns = (x.grad[0, 0].abs() > 0).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 16, 8, 16)
    assert network.receptive_field == 9 and network.radius == 4
    many = network_of(LocalConfig(), Facts(0, {"image": 3}, tuple("ABCDEFGHIJ")))
    assert sum(p.numel() for p in many.parameters()) < 50_000


def test_the_critic_does_not_see_smooth_light():
    critic, noise = Critic(torch.nn.Identity(), 1), torch.randn(8, 1, 64, 64)
    critic.learn(0.01 * noise)
    critic.learn(0.03 * noise)
    assert critic.scale.item() == pytest.approx(0.02, rel=0.1)
    slope = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    torch.testing.assert_close(critic.see(slope), torch.zeros(1, 1, 58, 58), atol=1e-4, rtol=0)
    mean, size = critic.sizes(torch.full((1, 1, 32, 32), 0.02))
    assert mean.item() == pytest.approx(size.item(), rel=1e-4) == pytest.approx(1, rel=0.2)
    mean, size = critic.sizes(0.02 * noise)
    assert mean < 0.15 * size


def test_local_tells_the_reference_from_all_others():
    """The discriminator's real images are the reference's alone, and its fakes are all the others."""
    method, seen = tiny("local", reference="C"), []
    method.d.register_forward_hook(lambda _m, x, _y: seen.append(len(x[0])))
    method.step(iter([batch_of(9)]))
    assert seen[:2] == [3, 6]


# StarGAN.


def variance_case():
    """Two images of one batch, all pixels in one bin, edited by 0 and by 1; a third of another batch, edited by 5."""
    x = torch.zeros(3, 1, 4, 4)
    edit = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4), torch.full((1, 4, 4), 5.0)])
    return x, edit, torch.tensor([0, 0, 1])


def test_edit_variance_of_a_hand_made_edit():
    x, edit, batch = variance_case()
    assert edit_variance(x, edit, batch).item() == pytest.approx((0.25 + 0.25 + 0) / 3)
    assert edit_variance(x, edit, torch.tensor([0, 1, 2])).item() == 0


def test_edit_variance_is_zero_for_a_function_of_intensity():
    """Whatever the images show: dark ones here, bright ones there."""
    levels = torch.linspace(-0.95, 0.95, 16)
    draw = torch.Generator().manual_seed(0)
    x = torch.stack([levels[torch.randint(i, 10 + i, (1, 32, 32), generator=draw)] for i in range(4)])
    assert edit_variance(x, 0.3 * x**2 - 0.1 * x, torch.zeros(4, dtype=torch.long)).item() == pytest.approx(0, abs=1e-9)
    assert (
        edit_variance(x, 0.3 * x**2 + torch.arange(4.0).view(4, 1, 1, 1) / 10, torch.zeros(4, dtype=torch.long)) > 1e-3
    )


def test_edit_variance_allows_a_new_texture_and_has_a_gradient():
    x, _, batch = variance_case()
    edit = (torch.arange(16).view(4, 4) % 2 * 2.0 - 1).expand(3, 1, 4, 4).clone().requires_grad_()
    assert edit_variance(x, edit, batch).item() == 0
    edit_variance(x, edit + edit.detach().new_tensor([0.0, 1, 2]).view(3, 1, 1, 1), batch).backward()
    assert edit.grad.abs().sum() > 0


def test_stargan_leads_all_images_of_a_batch_to_one_target():
    method = tiny("stargan")
    source = torch.tensor([0, 0, 1, 2, 2, 1])
    for seed in range(5):
        torch.manual_seed(seed)
        target = method._targets(source)
        assert {len(set(target[source == b].tolist())) for b in range(3)} == {1}
        assert sorted({int(target[source == b][0]) for b in range(3)}) == [0, 1, 2]


def test_stargans_discriminator_takes_any_size():
    d = tiny("stargan").d
    assert d(torch.zeros(2, 2, 24, 24)).shape == d(torch.zeros(2, 2, 40, 56)).shape == (2, 4)


# Patches.


def fields(share, count, seed, size=64):
    """Dark images with bright rectangles over about `share` of them."""
    rng, images = np.random.default_rng(seed), []
    for _ in range(count):
        image = rng.normal(-0.9, 0.02, (1, size, size))
        for y, x in rng.integers(0, size - 10, (round(share * size**2 / 100), 2)):
            image[:, y : y + 10, x : x + 10] += 1
        images.append(image.clip(-1, 0.2).astype(np.float32))
    return images


def test_patches_show_as_much_foreground_of_every_batch():
    images = fields(0.1, 8, 0) + fields(0.5, 8, 1)
    index = [0] * 8 + [1] * 8
    patches = Patches(images, index, 16)
    shares = [[], []]
    for n in range(1200):
        shares[n % 2].append(patches.share[patches.draw(n, n % 2)[0]])
    everywhere = [np.mean([(im > -0.4).mean() for im in images[k : k + 8]]) for k in (0, 8)]
    assert everywhere[1] - everywhere[0] > 0.2
    assert abs(np.mean(shares[1]) - np.mean(shares[0])) < 0.05
    assert 0.1 < patches.overlap < 0.95


def test_batches_that_have_nothing_in_common_are_drawn_from_everywhere():
    empty, full = (np.full((1, 32, 32), v, np.float32) for v in (-0.9, 0.5))
    patches = Patches([empty, full], [0, 1], 16)
    assert patches.overlap == 0
    assert [patches[n]["image"].mean().item() for n in range(2)] == pytest.approx([-0.9, 0.5])


def test_a_sample_is_a_function_of_seed_and_number():
    images = images_of(6)
    index = [0, 1, 2] * 2
    first, again, other = Patches(images, index, 16), Patches(images, index, 16), Patches(images, index, 16, seed=1)
    samples = [first[n] for n in range(12)]
    for n in reversed(range(12)):
        assert torch.equal(again[n]["image"], samples[n]["image"])
        assert again[n]["label"] == n % 3
        assert samples[n]["image"].shape == (1, 16, 16)
    assert any(not torch.equal(other[n]["image"], samples[n]["image"]) for n in range(12))
    assert len(first) == 6


def test_a_patch_is_cut_from_its_batch():
    images = [np.full((1, 20, 20), float(i), np.float32) for i in range(4)]
    patches = Patches(images, [1, 0, 1, 0], 8)
    assert {(int(patches[n]["label"]), patches[n]["image"].mean().item() % 2) for n in range(40)} == {(0, 1), (1, 0)}
    sides = Sides(patches, target=0)
    assert all(sides[n]["b"].mean() % 2 == 1 and sides[n]["a"].mean() % 2 == 0 for n in range(20))


# Training and running.


@over(model=NETWORKS)
def test_four_steps_are_two_and_a_stop_and_two(model, tmp_path, monkeypatch):
    whole = run(model, tmp_path / "whole", ema=0.9, lr=2e-3)
    step, calls = NETWORKS[model].method.step, []

    def stops(self, batches):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(NETWORKS[model].method, "step", stops)
        with pytest.raises(Interrupted, match=r"Stopped and saved at step 2\. To resume: fit again with the same data"):
            run(model, tmp_path / "parts", ema=0.9, lr=2e-3)
    parts = run(model, tmp_path / "parts", ema=0.9, lr=2e-3)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    a, b = (load_resume(tmp_path / part / "last.pt")["method"] for part in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a if not k.endswith("_extra_state"))
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert names >= {"config.json", "log.jsonl", "samples", "report.html", "last.pt", "model.safetensors"}
    assert not whole.training


def test_training_leaves_the_global_random_state_and_the_images_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run("local", steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_run_in_the_folder_is_refused(tmp_path):
    run("local", tmp_path / "run", steps=1)
    with pytest.raises(ConfigError, match=r"holds a run with different options\. Use another folder"):
        run("local", tmp_path / "run", steps=1, lr=2e-3)
    with pytest.raises(ConfigError, match=r"holds a run with different target"):
        run("local", tmp_path / "run", steps=1, target=1)


@over(model=NETWORKS)
def test_weights_come_back(model):
    trained = run(model, steps=1)
    options = {k: v for k, v in (SMALL[model] | RHYTHM).items()}
    rebuilt = build_generator(model, options, 1, len(NAMES[model]))
    rebuilt.load_state_dict(trained.state_dict())
    x = images_of(1, size=40)[0]
    assert np.array_equal(apply(bind(model, trained, 1, 0), x), apply(bind(model, rebuilt, 1, 0), x))


@over(model=NETWORKS, shape=[(75, 61), (64, 33)])
def test_tiles_equal_the_whole(model, shape):
    network = bind(model, shaken(build_generator(model, SMALL[model], 2, len(NAMES[model]))), 1, 0)
    image = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32) / 3
    kept = image.copy()
    whole, tiled = apply(network, image), apply(network, image, tile=16)
    assert whole.shape == image.shape and whole.dtype == np.float32
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    assert np.array_equal(image, kept)


@over(model=CONDITIONED)
def test_binding_folds_the_condition_in(model):
    network = shaken(build_generator(model, SMALL[model], 2, 3)).eval()
    x = batch_of(1)["image"]
    for source in (1, 2):
        towards = 0 if model == "local" else 3 - source
        condition = torch.tensor([source if model == "local" else towards])
        torch.testing.assert_close(bind(model, network, source, towards)(x), network(x, condition))
    assert torch.equal(bind(model, network, 0, 0)(x), x)


# What is refused.


@over(
    "model names options sentence",
    [
        ("lokal", "AB", {}, r"Unknown adversarial model 'lokal'\. Did you mean 'local'\?"),
        ("local", "AB", {"widht": 3}, r"Unknown option of local 'widht'\. Did you mean 'width'\?"),
        ("local", "AB", {"reference": 1}, r"Unknown option of local 'reference'"),
        ("cyclegan", "ABC", {}, r"cyclegan equalizes exactly two batches, not 3\. Use local or stargan"),
        ("stargan", "A", {}, r"There is only one batch; an adversarial model"),
        ("local", "ABC", {"batch_size": 2}, r"batch_size 2 cannot hold a patch of each of the 3 batches"),
        (
            "stargan",
            "AB",
            {"patch": 18},
            r"patch 18 does not suit this method, which needs multiples of 4",
        ),
        ("local", "AB", {"patch": 11}, r"The discriminator patch_16 needs images of at least 12 px, not 11"),
        ("local", "AB", {"patch": 64}, r"Image 0 is 32x32 pixels, smaller than a patch of 64\. Use a smaller patch"),
    ],
)
def test_mistakes_are_sentences(model, names, options, sentence):
    images, index = images_of(6), [i % len(names) for i in range(6)]
    with pytest.raises(ConfigError, match=sentence):
        train_generator(model, images, index, list(names), 0, None, SMALL.get(model, {}) | {"steps": 1} | options)


def test_a_batch_without_images_is_refused():
    with pytest.raises(ConfigError, match="There are no images of C; leave the name out"):
        train_generator("local", images_of(2), [0, 1], ["A", "B", "C"], 0, None, {"steps": 1})


def test_where_there_are_many_batches_the_training_batch_grows(tmp_path):
    names = [f"plate {i}" for i in range(14)]
    options = SMALL["local"] | RHYTHM | {"steps": 1}
    del options["batch_size"]
    train_generator("local", images_of(14), list(range(14)), names, 3, tmp_path / "run", options)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["batch_size"] == 14


def test_local_leads_to_its_own_target_alone():
    with pytest.raises(ConfigError, match="This model moves to batch 2, not 0"):
        bind("local", tiny("local", reference="C").g, 1, 0)


# Learning.


@pytest.mark.slow
def test_local_removes_noise_that_the_reference_does_not_have():
    rng = np.random.default_rng(0)
    clean = [F.avg_pool2d(torch.from_numpy(rng.standard_normal((1, 68, 68))), 5, 1).numpy() * 0.5 for _ in range(24)]
    noise = (0.02, 0.08)
    images = [(x + noise[i % 2] * rng.standard_normal(x.shape)).astype(np.float32) for i, x in enumerate(clean)]
    options = dict(steps=150, patch=32, batch_size=8, width=8, d_width=8, ema=0.9, lr=2e-3)
    network = bind("local", train_generator("local", images, [0, 1] * 12, ["A", "B"], 0, None, options), 1, 0)
    error = [
        np.mean([np.square(f(images[i]) - clean[i]).mean() for i in range(1, 24, 2)])
        for f in (np.array, lambda x: apply(network, x))
    ]
    assert error[1] < 0.7 * error[0]
