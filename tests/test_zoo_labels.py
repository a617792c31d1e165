"""Papers with labels or codes: their equations, at values that are known."""

import json
import pickle
from math import log

import numpy as np
import pytest
import torch
from conftest import refused
from scipy.special import ndtr
from torch import nn

import img2img
from img2img.core.method import truncated
from img2img.core.needs import Facts, Needs
from img2img.data.finding import find_domains
from img2img.data.options import LabelledConfig, PartlyLabelledConfig
from img2img.data.samples import open_samples
from img2img.errors import ConfigError
from img2img.methods import METHODS
from img2img.networks.residual import (
    Attention,
    ConditionalBatchNorm,
    DeepDownBlock,
    DeepUpBlock,
    ProjectionDiscriminator,
    ResidualGenerator,
    attended,
)
from img2img.networks.stacked import Augmentation
from img2img.training.ema import Ema
from img2img.zoo.biggan import orthogonality
from img2img.zoo.stackgan import another, kl

CLASSES = ("x", "y", "z")
SEMI = Needs(labels=True, unlabelled=True)


@pytest.fixture(autouse=True)
def double(request):
    """All in double precision, except for what is trained."""
    precise = "slow" not in request.keywords
    torch.set_default_dtype(torch.float64 if precise else torch.float32)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(name, **options):
    """A method of a few units."""
    torch.manual_seed(0)
    config = METHODS[name].Config(**dict(network="mlp", latent=3, width=4, d_width=4) | options)
    return METHODS[name](config, Facts(4, {"image": 2}, CLASSES * config.needs.labels))


def batch_of(n=6):
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(n, 2, 4, 4, generator=draw) * 2 - 1
    return {"image": image, "label": torch.arange(n) % 3}


POINTS = {"north": (0.0, 0.7), "east": (0.7, 0.0), "south": (0.0, -0.7), "west": (-0.7, 0.0)}


def around_points():
    """Images of one pixel around four points of the plane, 200 of each, and the names of their points."""
    labels = [name for _ in range(200) for name in POINTS]
    data = np.array([POINTS[name] for name in labels]) + 0.03 * np.random.default_rng(0).normal(size=(800, 2))
    return data.reshape(-1, 1, 1, 2).astype(np.float32), labels


class Table(nn.Module):
    """A discriminator that gives what it is told, call by call."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, x):
        return self.outputs.pop(0) + 0 * x.flatten(1).sum(1, keepdim=True)


def entropy(logits, label):
    """Cross-entropy by its definition, in numpy."""
    p = np.exp(logits.numpy())
    return -np.log(p[np.arange(len(p)), label] / p.sum(1)).mean()


# AC-GAN.


def test_acgan_adds_the_cross_entropies_of_real_and_fake_images_to_both_sides():
    method, batch = tiny("acgan", lambda_class=0.5), batch_of()
    real, fake, third = torch.randn(3, 6, 4)
    label = batch["label"].numpy()
    method.d = Table(real, fake)
    d_loss, scalars = method.d_loss(batch, batch["image"])
    game = np.log1p(np.exp(-real[:, 0].numpy())).mean() + np.log1p(np.exp(fake[:, 0].numpy())).mean()
    classes = entropy(real[:, 1:], label) + entropy(fake[:, 1:], label)
    assert d_loss.item() == pytest.approx(game + 0.5 * classes, abs=1e-12)
    assert scalars["class"].item() == pytest.approx(classes, abs=1e-12)
    assert scalars["real_class"] == np.mean(real[:, 1:].argmax(1).numpy() == label)
    method.d = Table(third)
    g_loss, scalars = method.g_loss(batch, batch["image"])
    assert scalars["g_class"].item() == pytest.approx(entropy(third[:, 1:], label), abs=1e-12)
    g_gan = np.log1p(np.exp(-third[:, 0].numpy())).mean()
    assert g_loss.item() == pytest.approx(g_gan + 0.5 * entropy(third[:, 1:], label), abs=1e-12)


def test_acgan_that_knows_nothing_is_log_k_from_each_side():
    method, batch = tiny("acgan"), batch_of()
    method.d = Table(*torch.zeros(3, 6, 4))
    assert method.d_loss(batch, batch["image"])[0].item() == pytest.approx(2 * log(2) + 2 * log(3), abs=1e-12)
    assert method.g_loss(batch, batch["image"])[0].item() == pytest.approx(log(2) + log(3), abs=1e-12)


@pytest.mark.parametrize("objective", ["relativistic", "wasserstein", "hinge"])
def test_heads_are_read_from_the_right_images(objective):
    """Whatever else D is shown for the objective or its penalty."""
    method, batch = tiny("acgan", objective=objective), batch_of()
    fake, label = torch.rand_like(batch["image"]), batch["label"]
    _, scalars = method.d_loss(batch, fake)
    said = [entropy(method.d(x)[:, 1:].detach(), label) for x in (batch["image"], fake)]
    assert scalars["class"].item() == pytest.approx(sum(said), abs=1e-12)
    assert method.g_loss(batch, fake)[1]["g_class"].item() == pytest.approx(said[1], abs=1e-12)


def test_acgan_tells_the_class_to_the_generator_alone():
    method, batch = tiny("acgan"), batch_of()
    told = []
    for network in (method.g, method.d):
        network.register_forward_hook(lambda _m, given, _y: told.append(len(given)))
    method.step(iter([batch]))
    assert told == [2, 1, 1, 2, 1] and method.d(batch["image"]).shape == (6, 1 + 3)


@pytest.mark.slow
def test_acgan_draws_the_class_that_is_asked_for(tmp_path, monkeypatch):
    """Images of one pixel, of four classes around four points of the plane."""
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    data, labels = around_points()
    model = img2img.train(
        "acgan", data=data, labels=labels, out=tmp_path / "run", size=1,
        network="mlp", latent=4, width=64, d_width=64, batch_size=64, lr=1e-3, steps=600, device="cpu",
        precision="fp32", quiet=True,
    )  # fmt: skip
    for name, centre in POINTS.items():
        drawn = model(200, label=name).reshape(-1, 2)
        assert np.mean(np.linalg.norm(drawn - centre, axis=1) < 0.3) > 0.95, name


# InfoGAN.


def codes(method, n=500):
    torch.manual_seed(1)
    batch = {"image": torch.zeros(n, 2, 4, 4)}
    method.fake(batch)
    return batch


def test_information_is_0_where_q_knows_nothing_and_log_k_where_it_knows_the_code():
    method = tiny("infogan", codes=5, continuous=2)
    batch = codes(method)
    number = batch["noise"][:, 3:]
    nothing = torch.zeros(500, 7)
    assert [x.item() for x in method.information(batch, nothing)[1].values()] == pytest.approx([0, 0], abs=1e-12)
    everything = torch.cat([1e3 * torch.eye(5)[batch["code"]], number], 1)
    total, parts = method.information(batch, everything)
    assert parts["mi_code"].item() == pytest.approx(log(5), abs=1e-12)
    assert parts["mi_continuous"].item() == pytest.approx(number.square().sum(1).mean().item() / 2, abs=1e-12)
    assert 0.28 < parts["mi_continuous"] < 0.38  # two numbers, each E[c^2] / 2 = 1/6
    assert total == parts["mi_code"] + parts["mi_continuous"]
    wrong = torch.cat([1e3 * torch.eye(5)[(batch["code"] + 1) % 5], -number], 1)
    assert max(method.information(batch, wrong)[1].values()) < 0


def test_information_is_in_the_losses_of_both_sides():
    plain, method = tiny("infogan", lambda_info=0.0), tiny("infogan", lambda_info=0.5)
    batch = codes(method, 6)
    fake = torch.rand_like(batch["image"])
    information = method.information(batch, method.d(fake)[:, 1:])[0]
    for side in ("d_loss", "g_loss"):
        less = getattr(plain, side)(batch, fake)[0] - getattr(method, side)(batch, fake)[0]
        assert less.item() == pytest.approx(0.5 * information.item(), abs=1e-12), side


def test_codes_are_what_the_generator_is_given():
    method, given = tiny("infogan"), []
    method.g.register_forward_hook(lambda _m, x, _y: given.append(x))
    batch = codes(method, 200)
    assert torch.equal(given[0][0], batch["noise"]) and torch.equal(given[0][1], batch["code"])
    assert batch["noise"].shape == (200, 3 + 2) and batch["noise"].abs().max() <= 1
    assert set(batch["code"].tolist()) == set(range(10))
    method.preview(batch)
    assert all(torch.equal(z, given[1][0]) for z, _ in given[1:])  # a row of the grid has one noise
    assert [code.unique().tolist() for _, code in given[1:]] == [[k] for k in range(10)]


@pytest.mark.slow
def test_infogan_finds_the_classes_without_labels(tmp_path, monkeypatch):
    """Images of one pixel around four points of the plane: each code draws one of them."""
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    data, _ = around_points()
    centres = np.array(list(POINTS.values()))
    model = img2img.train(
        "infogan", data=data, out=tmp_path / "run", size=1, codes=4,
        continuous=0, network="mlp", latent=4, width=64, d_width=64, batch_size=64, steps=1000, device="cpu",
        precision="fp32", quiet=True,
    )  # fmt: skip
    found = []
    for code in model.classes:
        distance = np.linalg.norm(model(200, label=code).reshape(-1, 1, 2) - centres, axis=2)
        found.append(int(np.bincount(distance.argmin(1)).argmax()))
        assert np.mean(distance[:, found[-1]] < 0.3) > 0.9, code
    assert sorted(found) == [0, 1, 2, 3]


# SemiGAN.


def test_the_log_sum_exp_is_the_logit_of_k_plus_1_classes():
    method, batch = tiny("semigan"), batch_of()
    logits = 3 * torch.randn(6, 3)
    method.d = Said(logits)
    with_generated = torch.cat([logits, torch.zeros(6, 1)], 1).softmax(1)
    real = torch.sigmoid(method.realness(batch["image"]))
    torch.testing.assert_close(real[:, 0], with_generated[:, :3].sum(1), atol=1e-14, rtol=0)
    torch.testing.assert_close(1 - real[:, 0], with_generated[:, 3], atol=1e-14, rtol=0)


class Said(nn.Module):
    """A classifier that always says the same of its images, one by one, and has given features."""

    def __init__(self, logits, features=None):
        super().__init__()
        self.logits, self.features = logits, features

    def forward(self, x):
        return self.logits[: len(x)], self.features


def test_images_without_a_label_add_nothing_to_the_classes_and_they_alone_play():
    method, batch = tiny("semigan", lambda_game=0.5), batch_of()
    batch["label"] = torch.tensor([0, -1, 2, -1, -1, 1])
    logits = torch.randn(6, 3)
    method.d = Said(logits)
    fake = batch["image"].flip(0)
    loss, scalars = method.d_loss(batch, fake)
    known = torch.tensor([0, 2, 5])
    classes = entropy(logits[known], batch["label"][known].numpy())
    assert scalars["class"].item() == pytest.approx(classes, abs=1e-12)
    v = np.log(np.exp(logits.numpy()).sum(1))
    game = np.log1p(np.exp(-v[[1, 3, 4]])).mean() + np.log1p(np.exp(v)).mean()  # three images have no label
    assert loss.item() == pytest.approx(classes + 0.5 * game, abs=1e-12)
    right = (logits.argmax(1) == batch["label"])[known].double().mean()
    assert scalars["class_right"] == right
    batch["label"] = torch.full((6,), -1)
    assert method.d_loss(batch, batch["image"])[1]["class"] == 0


def test_features_are_matched_in_the_mean():
    method, batch = tiny("semigan", d_dropout=0.0), batch_of()
    same = batch["image"].flip(0)
    assert method.g_loss(batch, same)[0].item() == pytest.approx(0, abs=1e-24)  # the order of a batch is no matter
    fake = torch.rand_like(same)
    f = [method.d(x)[1].detach().numpy() for x in (batch["image"], fake)]
    expected = np.square(f[0].mean(0) - f[1].mean(0)).mean()
    assert method.g_loss(batch, fake)[0].item() == pytest.approx(expected, abs=1e-14)
    fooled = tiny("semigan", match_features=False, d_dropout=0.0)
    v = fooled.realness(fake).detach().numpy()
    assert fooled.g_loss(batch, fake)[0].item() == pytest.approx(np.log1p(np.exp(-v)).mean(), abs=1e-12)


def test_labels_may_be_unknown_and_images_with_one_take_every_other_turn():
    labels = [-1] * 20 + ["a", "b", -1, "b"]
    images = [np.full((4, 4), i, np.uint8) for i in range(24)]
    opened = open_samples(SEMI, PartlyLabelledConfig(size=4), data=images, labels=labels)
    assert opened.train.classes == ("a", "b")
    batch = opened.train.fetch(range(24))
    assert (batch["label"][::2] >= 0).all() and (batch["label"][1::2] >= 0).sum() <= 3
    shown = [int(x) for x in opened.train.fetch(range(48))["image"][1::2, 0, 0, 0].mul(1000)]
    assert len(set(shown)) == 24  # the other turns show every image
    assert opened.train.domains["image"].labels == (-1,) * 20 + (0, 1, -1, 1)


def test_labelled_keeps_so_many_labels_of_each_class():
    images, labels = [np.zeros((4, 4, 1), np.uint8)] * 30, ["a", "b", "b"] * 10
    config = PartlyLabelledConfig(size=4, labelled=3)
    kept = find_domains(SEMI, config, data=images, labels=labels).train["image"].labels
    assert (kept.count(0), kept.count(1), kept.count(-1)) == (3, 3, 24)
    assert all(k in (-1, "ab".index(name)) for k, name in zip(kept, labels, strict=True))
    assert kept == find_domains(SEMI, config, data=images, labels=labels).train["image"].labels
    text = refused(
        ConfigError, find_domains, SEMI, PartlyLabelledConfig(size=4, labelled=11), data=images, labels=labels
    )
    assert text == "--labelled 11 is more than the 10 labelled images of a."
    plain = find_domains(Needs(labels=True), LabelledConfig(size=4), data=images, labels=[-1, *labels[1:]])
    assert plain.classes == ("-1", "a", "b")  # elsewhere it is a name as any other


@pytest.mark.slow
def test_semigan_learns_from_few_labels_and_classifies(tmp_path, monkeypatch):
    """Images of one pixel around four points of the plane: two labels of each, and the rest follows."""
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    data, labels = around_points()
    model = img2img.train(
        "semigan", data=data, labels=labels, labelled=2, val_fraction=0.2, validate_every=300, metrics="drift",
        out=tmp_path / "run", size=1, network="mlp", latent=4, width=64, d_width=64, d_dropout=0.1, batch_size=64,
        lr=1e-3, steps=300, device="cpu", precision="fp32", quiet=True,
    )  # fmt: skip
    said = model.classify(data)
    assert np.mean([a == b for a, b in zip(said, labels, strict=True)]) > 0.95
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    held_out = [row["class_error"] for row in rows if "class_error" in row]
    assert len(held_out) == 1 and held_out[0] < 0.05
    text = refused(ConfigError, model.classify, np.zeros((1, 2, 2, 2)))
    assert text == "images of shape (1, 2, 2, 2): this model classifies images (N, 1, 1, 2)."
    assert pickle.loads(pickle.dumps(model)).classify(data[:5]) == said[:5] and model.directions == ["sample"]


# SAGAN and BigGAN.


def residual(name, **options):
    torch.manual_seed(0)
    config = METHODS[name].Config(**dict(latent=6, width=4, d_width=4) | options)
    return METHODS[name](config, Facts(16, {"image": 2}, CLASSES))


def test_attention_is_the_identity_at_first_and_its_weights_sum_to_1():
    torch.manual_seed(0)
    attention, x = Attention(8), torch.randn(2, 8, 6, 4)
    assert torch.equal(attention(x), x)
    weights = attention.weights(x)
    assert weights.shape == (2, 24, 6)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 24), atol=1e-14, rtol=0)
    nn.init.constant_(attention.gamma, 0.5)
    theta, phi, h, out = (
        layer.weight[:, :, 0, 0] for layer in (attention.theta, attention.phi, attention.h, attention.out)
    )
    pool = nn.MaxPool2d(2)
    keys, values = (pool(torch.einsum("oc,nchw->nohw", w, x)).flatten(2) for w in (phi, h))
    scores = torch.einsum("oc,ncp,nok->npk", theta, x.flatten(2), keys)
    o = torch.einsum("oc,nck,npk->nop", out, values, torch.exp(scores) / torch.exp(scores).sum(2, keepdim=True))
    torch.testing.assert_close(attention(x), x + 0.5 * o.view_as(x), atol=1e-12, rtol=0)


def test_conditional_norm_is_batch_norm_where_classes_are_equal():
    x, label = torch.randn(6, 3, 4, 4), torch.arange(6) % 3
    norm = ConditionalBatchNorm(3, lambda channels: nn.Embedding(3, channels))
    nn.init.constant_(norm.gain.weight, 0.5)
    nn.init.constant_(norm.shift.weight, -2)
    plain = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x, label), 1.5 * plain - 2, atol=1e-12, rtol=0)
    with torch.no_grad():
        norm.gain.weight[1], norm.shift.weight[1] = 1, 3
    expected = torch.where((label == 1)[:, None, None, None], 2 * plain + 3, 1.5 * plain - 2)
    torch.testing.assert_close(norm(x, label), expected, atol=1e-12, rtol=0)


def test_the_class_is_projected_onto_the_features():
    torch.manual_seed(0)
    d, x = ProjectionDiscriminator(2, 3, 16, 4, 8), torch.randn(5, 2, 16, 16)
    phi = d.phi(x).sum((2, 3))
    y, other = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 0, 2, 0])
    vectors = d.e.weight.T  # (classes, features)
    between = ((vectors[y] - vectors[other]) * phi).sum(1, keepdim=True)
    torch.testing.assert_close(d(x, y) - d(x, other), between, atol=1e-12, rtol=0)
    nn.init.zeros_(d.e.weight)
    assert torch.equal(d(x, y), d(x, other)) and torch.equal(d(x, y), d.w(phi))


def test_hinge_losses_of_a_projecting_discriminator():
    method, batch = residual("sagan", spectral=False), batch_of()
    image, fake, label = torch.randn(6, 2, 16, 16), torch.randn(6, 2, 16, 16), batch["label"]
    real_logits, fake_logits = (method.d(x, label).detach().numpy() for x in (image, fake))
    batch = {"image": image, "label": label}
    expected = np.maximum(0, 1 - real_logits).mean() + np.maximum(0, 1 + fake_logits).mean()
    assert method.d_loss(batch, fake)[0].item() == pytest.approx(expected, abs=1e-12)
    assert method.g_loss(batch, fake)[0].item() == pytest.approx(-fake_logits.mean(), abs=1e-12)


def test_attention_is_on_the_largest_map_that_is_allowed():
    sides = {(size, most): attended(size, most) for size in (8, 16, 32, 128) for most in (0, 8, 20, 32, 256)}
    assert [sides[32, most] for most in (0, 8, 20, 32, 256)] == [0, 8, 16, 16, 16]
    assert [sides[128, most] for most in (0, 8, 20, 32, 256)] == [0, 8, 16, 32, 64]
    assert sides[8, 32] == 0 and sides[16, 32] == 8
    for network in (ResidualGenerator(6, 3, 2, 32, 4, 32), ProjectionDiscriminator(2, 3, 32, 4, 32)):
        inside = [layer for layer in network.modules() if isinstance(layer, Attention)]
        seen = []
        inside[0].register_forward_hook(lambda _m, x, _y, seen=seen: seen.append(x[0].shape[-1]))
        given = torch.randn(2, 6) if isinstance(network, ResidualGenerator) else torch.randn(2, 2, 32, 32)
        network(given, torch.tensor([0, 1]))
        assert len(inside) == 1 and seen == [16]


def test_both_networks_have_spectral_norm_and_its_vectors_are_not_averaged():
    method = residual("sagan")
    for network in (method.g, method.d):
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        for _ in range(60):  # power iteration
            network.train()
            norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2) for layer in layers]
        assert max(abs(norm.item() - 1) for norm in norms) < 1e-3
    ema = Ema([method.g], 0.5)
    batch = {"image": torch.randn(6, 2, 16, 16), "label": torch.arange(6) % 3}
    for step in (1, 2):
        method.proceed(step, 4)
        method.step(iter([batch] * 2))
        ema.update()
    vectors = [x.clone() for name, x in method.g.named_buffers() if name.endswith(("._u", "._v"))]
    with ema.applied():
        now = [x for name, x in method.g.named_buffers() if name.endswith(("._u", "._v"))]
        assert vectors and all(map(torch.equal, vectors, now))
    assert len(ema.average) > len(list(method.g.parameters()))  # the running averages of norms are


def test_orthogonality_is_0_for_orthogonal_rows_and_its_gradient_is_known():
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(5, 5))[0][:3]
    assert orthogonality([2 * q, q.view(3, 5, 1, 1)]).item() == pytest.approx(0, abs=1e-24)
    w = torch.randn(3, 2, 2, 1, requires_grad=True)
    rows = w.detach().view(3, 4)
    product = rows @ rows.T * (1 - torch.eye(3))
    loss = orthogonality([w])
    loss.backward()
    assert loss.item() == pytest.approx(product.square().sum().item(), abs=1e-12)
    torch.testing.assert_close(w.grad.view(3, 4), 4 * product @ rows, atol=1e-12, rtol=0)


def test_the_vectors_of_the_classes_are_not_regularised():
    method, batch = residual("biggan", lambda_ortho=0.5), batch_of()
    batch = {"image": torch.randn(6, 2, 16, 16), "label": batch["label"]}
    weights = [p for name, p in method.g.named_parameters() if p.ndim > 1 and p is not method.g.embedding.weight]
    fake = method.fake(batch)
    loss, scalars = method.g_loss(batch, fake)
    assert scalars["ortho"].item() == pytest.approx(orthogonality(weights).item(), rel=1e-12)
    assert loss.item() == pytest.approx((scalars["g_gan"] + 0.5 * scalars["ortho"]).item(), rel=1e-9)
    assert not isinstance(method.g.embedding, type(method.g.first)) and method.g.embedding.weight.shape == (3, 128)


def test_each_part_of_the_noise_enters_one_block():
    method = residual("biggan", spectral=False, attention=0)
    g, z, label = method.g.eval(), torch.randn(1, 6), torch.tensor([1])
    seen = []
    for block in g.blocks:
        block.register_forward_hook(lambda _m, given, _y: seen.append(given[1]))
    g(z, label)
    assert g.parts == 3 and len(seen) == 2
    for k, c in enumerate(seen, 1):
        assert torch.equal(c, torch.cat([g.embedding(label), z[:, 2 * k : 2 * k + 2]], 1))
    text = refused(ConfigError, residual, "biggan", latent=7)
    assert text == "--latent 7 is not divisible by 3, the parts for --size 16."
    text = refused(ConfigError, ResidualGenerator, 6, 3, 2, 24, 4, 0)
    assert text == "residual networks do not support --size 24; use one of 8, 16, 32, 64, 128, 256."


def test_shortcuts_of_biggan_deep_drop_and_append_channels():
    """What a block gives whose last convolution is 0."""
    torch.manual_seed(0)
    up = DeepUpBlock(8, 4, lambda channels: nn.Linear(3, channels, bias=False), up=True)
    down = DeepDownBlock(4, 9, down=True)
    assert [conv.weight.shape for conv in up.convs] == [(2, 8, 1, 1), (2, 2, 3, 3), (2, 2, 3, 3), (4, 2, 1, 1)]
    assert [conv.weight.shape for conv in down.convs] == [(2, 4, 1, 1), (2, 2, 3, 3), (2, 2, 3, 3), (9, 2, 1, 1)]
    for block in (up, down):
        nn.init.zeros_(block.convs[3].weight)
        nn.init.zeros_(block.convs[3].bias)
    x = torch.randn(5, 8, 2, 2)
    assert torch.equal(up(x, torch.randn(5, 3)), x[:, :4].repeat_interleave(2, 2).repeat_interleave(2, 3))
    x = torch.randn(5, 4, 6, 6)
    halved = x.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
    torch.testing.assert_close(down(x), torch.cat([halved, down.more(halved)], 1))
    same = DeepDownBlock(4, 4, down=False)
    y = x
    for conv in same.convs:
        y = conv(torch.relu(y))
    assert same.more is None and torch.equal(same(x), y + x)


def test_all_of_the_noise_enters_each_block_of_biggan_deep():
    method = residual("biggan", spectral=False, deep=True, latent=7)
    g, z, label = method.g.eval(), torch.randn(2, 7), torch.tensor([1, 2])
    seen = []
    for chain in g.blocks:
        for block in chain:
            block.register_forward_hook(lambda _m, given, _y: seen.append(given[1]))
    g.first.register_forward_hook(lambda _m, given, _y: seen.append(given[0]))
    assert g(z, label).shape == (2, 2, 16, 16)
    condition = torch.cat([g.embedding(label), z], 1)
    assert len(seen) == 5 and all(torch.equal(c, condition) for c in seen)
    features = []
    method.d.phi.register_forward_hook(lambda _m, _x, y: features.append(y))
    assert method.d(torch.randn(2, 2, 16, 16), label).shape == (2, 1) and features[0].shape == (2, 8, 4, 4)
    method.step(iter([batch_of() | {"image": torch.randn(6, 2, 16, 16)}] * 2))


@pytest.mark.parametrize(("deep", "width", "g", "d"), [(False, 96, 70.43, 87.98), (True, 128, 50.24, 34.59)])
def test_parameters_of_biggan_at_128_px(deep, width, g, d):
    """In millions. The plain ones are those of the authors' code; for the deep ones the paper has 50.4 and 34.6."""
    with torch.device("meta"):
        config = METHODS["biggan"].Config(deep=deep, width=width, d_width=width, latent=128 if deep else 120)
        method = METHODS["biggan"](config, Facts(128, {"image": 3}, tuple(map(str, range(1000)))))
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (method.g, method.d)]
    assert counts == [pytest.approx(g, abs=0.005), pytest.approx(d, abs=0.005)]


def test_truncated_noise_is_normal_noise_cut_at_the_limit():
    torch.manual_seed(0)
    z = torch.randn(100_000)
    for limit in (0.3, 1.0, 2.0):
        cut = truncated(z, limit)
        assert cut.abs().max() <= limit
        inside = np.clip(np.linspace(-limit, limit, 7), -limit, limit)
        share = (ndtr(inside) - ndtr(-limit)) / (ndtr(limit) - ndtr(-limit))
        found = [(cut <= x).double().mean().item() for x in inside]
        assert found == pytest.approx(share, abs=0.01), limit
        assert torch.equal(cut.argsort(), z.argsort())
    torch.testing.assert_close(truncated(z, 1e3), z, atol=1e-9, rtol=0)
    extreme = truncated(torch.tensor([-40.0, 0.0, 40.0], dtype=torch.float32), 0.5)
    assert extreme.tolist() == [-0.5, 0.0, 0.5] and extreme.dtype == torch.float32


@pytest.mark.slow
def test_truncation_is_an_option_of_drawing(tmp_path):
    data, labels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8), ["a", "b"] * 6
    options = dict(size=8, width=2, d_width=2, latent=4, steps=1, device="cpu", quiet=True, batch_size=4)
    model = img2img.train("biggan", data=data, labels=labels, out=tmp_path / "run", **options)
    assert (model.cut(0.1).noise(3).abs() <= 0.1).all() and model.noise(3).abs().max() > 0.1
    assert np.array_equal(model(3, truncation=50), model(3)) and not np.array_equal(model(3, truncation=0.1), model(3))
    img2img.sample(model, 3, out=tmp_path / "cut", truncation=0.1)
    assert json.loads((tmp_path / "cut" / "samples.json").read_text())["truncation"] == 0.1
    assert "truncation" in refused(ConfigError, img2img.sample, model, 3, out=tmp_path / "cut")
    uniform = img2img.train("cgan", data=data, labels=labels, out=tmp_path / "cgan", network="mlp", **options)
    text = refused(ConfigError, uniform, 3, truncation=0.5)
    assert text == "--truncation is for normal noise, and this model draws uniform noise."


# StackGAN.


def stacked(**options):
    torch.manual_seed(0)
    config = METHODS["stackgan"].Config(**dict(latent=3, code=2, width=4, d_width=4, blocks=1) | options)
    return METHODS["stackgan"](config, Facts(16, {"image": 2}, CLASSES))


def test_the_divergence_of_codes_is_that_of_normal_distributions():
    assert kl(torch.zeros(4, 3), torch.zeros(4, 3)) == 0
    mu, log_variance = torch.randn(2, 5, 3)
    found = [kl(m, v).item() for m, v in zip(mu.flatten(), log_variance.flatten(), strict=True)]
    apart = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(torch.tensor(found), apart.flatten(), atol=1e-12, rtol=0)
    assert kl(mu, log_variance).item() == pytest.approx(apart.mean().item(), abs=1e-12)


def test_a_code_is_its_mean_plus_noise_of_its_deviation():
    torch.manual_seed(0)
    code, label, e = Augmentation(3, 2), torch.tensor([2, 0]), torch.randn(2, 2)
    rows = code.table.weight[label]
    assert torch.equal(code(label, torch.zeros(2, 2)), rows[:, :2])
    torch.testing.assert_close(code(label, e), rows[:, :2] + rows[:, 2:].exp().sqrt() * e, atol=1e-14, rtol=0)


def test_wrong_classes_are_never_right_and_all_others_occur():
    torch.manual_seed(0)
    label = torch.arange(4).repeat(200)
    wrong = another(label, 4)
    pairs = set(zip(label.tolist(), wrong.tolist(), strict=True))
    assert pairs == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert another(torch.tensor([0, 1]), 2).tolist() == [1, 0]


def test_losses_of_a_stage(monkeypatch):
    method, losses = stacked(lambda_kl=3.0), {}
    monkeypatch.setattr(method, "move", lambda player, loss: losses.update({player: loss.item()}))
    real, fake, wrong, fooled = torch.randn(4, 6, 1)
    method.d = Judged(real, fake, wrong, fooled)
    x, y = torch.randn(6, 2, 16, 16), torch.arange(6) % 3
    method.play("", x, y, torch.randn(6, 2, 16, 16))
    binary = [
        np.log1p(np.exp(sign * v.numpy())).mean() for sign, v in ((-1, real), (1, fake), (1, wrong), (-1, fooled))
    ]
    assert losses["D"] == pytest.approx(binary[0] + (binary[1] + binary[2]) / 2, abs=1e-12)
    divergence = kl(*method.g.second.code.moments(y)).item()
    assert losses["G"] == pytest.approx(binary[3] + 3 * divergence, abs=1e-12)
    assert [torch.equal(label, y) for label in method.d.labels] == [True, True, False, True]


class Judged(nn.Module):
    """A conditional discriminator that gives what it is told, call by call."""

    def __init__(self, *logits):
        super().__init__()
        self.logits, self.labels = list(logits), []

    def forward(self, x, label):
        self.labels.append(label)
        return self.logits.pop(0)


def test_the_first_stage_rests_while_the_second_learns():
    method, batch = stacked(first_stage=0.5), {"image": torch.randn(6, 2, 16, 16), "label": torch.arange(6) % 3}
    seen = []
    method.d_small.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    for step, moved in ((1, {"first", "d_small"}), (2, {"second", "d"})):
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        method.proceed(step, 2)
        method.step(iter([batch]))
        changed = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
        parts = {name.removeprefix("g.").partition(".")[0] for name in changed}
        assert parts == moved, step
    small = batch["image"].view(6, 2, 8, 2, 8, 2).mean((3, 5))
    torch.testing.assert_close(seen[0], small, atol=1e-14, rtol=0)


def test_both_stages_draw_from_one_noise():
    g = stacked().g.eval()
    z, label = torch.randn(2, 3 + 2 * 2), torch.tensor([0, 2])
    small = g.first(z[:, :5], label)
    assert small.shape == (2, 2, 8, 8) and g(z, label).shape == (2, 2, 16, 16)
    assert torch.equal(g(z, label), g.second(small, label, z[:, 5:]))
