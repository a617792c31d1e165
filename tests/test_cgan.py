"""cGAN and its networks: the class enters one-hot, exact, and decides what is drawn."""

import numpy as np
import pytest
import torch
from torch import nn

import img2img
from img2img.core.needs import Facts
from img2img.networks.conditional import LabelledDiscriminator, LabelledGenerator
from img2img.zoo.cgan import CGAN, CGANConfig

CLASSES = ("x", "y", "z")


def tiny(**options):
    torch.manual_seed(0)
    config = dict(network="mlp", latent=3, width=4, d_width=4) | options
    return CGAN(CGANConfig(**config), Facts(16, {"image": 2}, CLASSES))


def batches(count, n=6):
    draw = torch.Generator().manual_seed(0)
    for k in range(count):
        yield {"image": torch.rand(n, 2, 16, 16, generator=draw) * 2 - 1, "label": (torch.arange(n) + k) % 3}


def planes_of(label, classes=3, size=16):
    """The closed form: plane k is 1 where the label is k, and 0 elsewhere."""
    return (label[:, None] == torch.arange(classes)).float()[:, :, None, None].expand(-1, -1, size, size)


def test_the_class_is_one_hot_beside_the_noise_and_as_planes_beside_the_image():
    z, x, label = torch.rand(4, 5), torch.rand(4, 2, 16, 16), torch.tensor([2, 0, 1, 2])
    beside_noise = LabelledGenerator(nn.Identity(), 3)(z, label)
    assert torch.equal(beside_noise, torch.cat([z, planes_of(label)[:, :, 0, 0]], 1))
    beside_image = LabelledDiscriminator(nn.Identity(), 3)(x, label)
    assert torch.equal(beside_image, torch.cat([x, planes_of(label)], 1))


def test_networks_take_and_give_the_channels_of_the_data():
    for network in ("mlp", "dcgan"):
        method = tiny(network=network)
        ours, theirs = (sum(p.numel() for p in module.parameters()) for module in (method.g, method.d))
        assert ours and theirs
        drawn = method.g(torch.rand(4, 3), torch.tensor([0, 1, 2, 0]))
        assert drawn.shape == (4, 2, 16, 16) and method.d(drawn, torch.tensor([0, 1, 2, 0])).shape[0] == 4


TRICKS = [{}, {"instance_noise": 0.5}, {"diffaugment": "color,translation,cutout"}, {"penalty": "r1"}]


@pytest.mark.parametrize("tricks", TRICKS, ids=str)
def test_fakes_take_the_labels_of_the_batch_and_conditions_stay_exact(tricks):
    """Whatever is done to the images that D sees, the planes beside them are those of the batch's labels."""
    method, asked, planes = tiny(n_critic=2, **tricks), [], []
    method.g.register_forward_hook(lambda _m, given, _y: asked.append(given[1]))
    method.d.d.register_forward_hook(lambda _m, given, _y: planes.append(given[0][:, 2:].detach()))
    taken = list(batches(2))
    method.proceed(1, 10)
    method.step(iter(taken))
    labels = [batch["label"] for batch in taken]
    assert [x.tolist() for x in asked] == [x.tolist() for x in (labels[0], labels[1], labels[1])]
    first, last = planes_of(labels[0]), planes_of(labels[1])
    per_move = len(planes) // 2  # D sees real and fake images, and those that a penalty asks for
    for i, seen in enumerate(planes):
        assert torch.equal(seen, first if i < per_move else last), i


def test_the_sample_grid_has_a_column_per_class_and_a_noise_per_row():
    method, asked = tiny().eval(), []
    method.g.register_forward_hook(lambda _m, given, _y: asked.append(given))
    assert list(method.preview(next(batches(1)))) == list(method.facts.classes)
    assert [set(label.tolist()) for _, label in asked] == [{0}, {1}, {2}]
    assert all(torch.equal(noise, asked[0][0]) for noise, _ in asked)
    assert len(asked[0][0].unique(dim=0)) == len(asked[0][0])


@pytest.mark.slow
def test_the_class_that_is_asked_for_is_drawn(tmp_path, monkeypatch):
    """Images of one pixel, of four classes around four points of the plane."""
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    rng = np.random.default_rng(0)
    centres = {"north": (0.0, 0.7), "east": (0.7, 0.0), "south": (0.0, -0.7), "west": (-0.7, 0.0)}
    labels = [name for name in centres for _ in range(200)]
    data = np.array([centres[name] for name in labels]) + 0.03 * rng.normal(size=(800, 2))
    model = img2img.train(
        "cgan", data=data.reshape(-1, 1, 1, 2).astype(np.float32), labels=labels, out=tmp_path / "run", size=1,
        network="mlp", latent=4, width=64, d_width=64, batch_size=64, lr=1e-3, steps=600, device="cpu",
        precision="fp32", quiet=True,
    )  # fmt: skip
    for name, centre in centres.items():
        drawn = model(200, label=name).reshape(-1, 2)
        assert np.mean(np.linalg.norm(drawn - centre, axis=1) < 0.3) > 0.95, name
