"""Networks of the user's own: passed to train, and taken from a trained model as plain modules."""

import pickle

import numpy as np
import pytest
import torch
from conftest import refused
from helpers import cyclegan_run, dcgan_run
from torch import nn

import img2img
from img2img import plugins
from img2img.errors import ConfigError, DataError, ModelFileError

RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8) for name in "ab"}
TINY = dict(size=16, steps=1, val_fraction=0, augment="none", device="cpu", precision="fp32", quiet=True)


class Own(nn.Module):
    """A generator with weights of its own: the output is 0.5 everywhere before training."""

    def __init__(self, in_channels, out_channels, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.Conv2d(width, out_channels, 1))
        nn.init.zeros_(self.layers[1].weight)
        nn.init.constant_(self.layers[1].bias, 0.5)

    def forward(self, x):
        return self.layers(x)


def own_critic(in_channels):
    return nn.Conv2d(in_channels, 1, 4, stride=2)


def strange_shape(in_channels, out_channels):
    return nn.Conv2d(in_channels, out_channels, 3)


def no_module(in_channels, out_channels):
    return "a network"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)  # takes longer than such a run
    yield
    plugins._PASSED.clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a generator and a discriminator that were passed."""
    folder = tmp_path_factory.mktemp("own") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("img2img.training.journal.write_report", lambda *_: None)
        options = TINY | dict(generator=Own, discriminator=own_critic, lr=1e-9)
        img2img.train("cyclegan", **IMAGES, out=folder, **options)
    plugins._PASSED.clear()
    return folder


def test_a_network_of_ones_own_is_trained_and_loaded_by_passing_it(run):
    text = refused(ModelFileError, img2img.load, run, device="cpu")
    assert f"The generator '{__name__}:Own' is a class or function of a program" in text
    assert "pass it again: generator=Own." in text
    model = img2img.load(run, device="cpu", generator=Own)
    assert isinstance(model.network("b2a"), Own)
    image = IMAGES["a"][0]
    assert np.abs(model(image).astype(int) - round(1.5 / 2 * 255)).max() <= 2  # its own first weights were kept


def test_a_pickled_model_brings_its_network(run):
    model = img2img.load(run, device="cpu", generator=Own)
    content = pickle.dumps(model)
    plugins._PASSED.clear()
    np.testing.assert_array_equal(pickle.loads(content)(IMAGES["a"][0]), model(IMAGES["a"][0]))


def test_a_run_is_resumed_by_passing_the_same(run, tmp_path):
    options = TINY | dict(generator=Own, discriminator=own_critic, lr=1e-9)
    longer = options | dict(resume=True, steps=2)
    assert img2img.train("cyclegan", **IMAGES, out=run, **longer).card.step == 2
    plugins._PASSED.clear()
    nothing = refused(ModelFileError, img2img.train, "cyclegan", **IMAGES, out=run, resume=True)
    assert f"generator '{__name__}:Own'" in nothing
    other = refused(ConfigError, img2img.train, "cyclegan", **IMAGES, out=run, **longer | {"generator": strange_shape})
    assert "holds a run with other options: generator was" in other
    named = f"nowhere:{Own.__qualname__}"  # the class has moved to another module
    assert plugins.take("generator", Own, named) == named


def test_mistakes_are_sentences(tmp_path):
    small = TINY | dict(generator="unet_16", discriminator="pixel")

    def asked(**options):
        return refused(ConfigError, img2img.train, "pix2pix", **IMAGES, out=tmp_path / "x", **small | options)

    assert "not an Own: each network that a method needs is made anew" in asked(generator=Own(3, 3))
    assert "a lambda has none" in asked(generator=lambda a, b: Own(a, b))
    assert "(1, 3, 16, 16) into (1, 3, 14, 14); for a2b it must return (1, 3, 16, 16)" in asked(generator=strange_shape)
    assert f"The generator '{__name__}:no_module' made a str, and not a torch.nn.Module." in asked(generator=no_module)
    assert "--padding has no effect here" in asked(generator=Own, padding="zero")
    assert "--d-width has no effect here" in asked(discriminator=own_critic, d_width=8)
    assert "is a class or function of a program" in asked(generator="somewhere:Net")
    text = refused(ConfigError, img2img.train, "cut", **IMAGES, out=tmp_path / "x", **small | {"generator": Own})
    assert "has no method encode(x)" in text
    assert not (tmp_path / "x").exists()


def test_what_needs_nothing_passed_refuses_it(tmp_path):
    folder = cyclegan_run(tmp_path / "run")
    assert "has the generator 'resnet_3', which needs nothing passed" in refused(
        ConfigError, img2img.load, folder, generator=Own
    )
    assert "has no network" in refused(ConfigError, img2img.load, folder, network=Own)


class Drawing:
    """Networks between noise and images, as `network=` takes them."""

    @staticmethod
    def g(latent, channels, size, options):
        network = nn.Sequential(
            nn.Linear(latent, channels * size * size), nn.Tanh(), nn.Unflatten(1, (channels, size, size))
        )
        network.multiple = 1
        return network

    @staticmethod
    def d(channels, size, options, outputs=1):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, outputs))


def test_networks_from_noise_are_passed_as_a_pair(tmp_path):
    options = TINY | dict(network=Drawing, latent=3, batch_size=2)
    model = img2img.train("dcgan", data=IMAGES["a"], out=tmp_path / "run", **options)
    drawn = model(2, seed=1)
    plugins._PASSED.clear()
    assert "network=Drawing" in refused(ModelFileError, img2img.load, tmp_path / "run")
    np.testing.assert_array_equal(img2img.load(tmp_path / "run", device="cpu", network=Drawing)(2, seed=1), drawn)


# Networks of trained models


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return img2img.load(cyclegan_run(tmp_path_factory.mktemp("network") / "run"), device="cpu", precision="fp32")


def test_a_call_is_encode_network_decode(translator):
    image = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for direction in translator.directions:
        spec, network = translator.spec(direction), translator.network(direction)
        x = spec.scale_in.encode(image)[None]
        assert x.shape == (1, 3, 24, 32) and x.dtype == torch.float32 and x.abs().max() <= 1
        with torch.no_grad():
            y = network(x)
        assert y.shape == x.shape and y.abs().max() <= 1
        np.testing.assert_array_equal(spec.scale_out.decode(y[0]), translator(image, direction))
    assert not torch.equal(*(next(translator.network(name).parameters()) for name in translator.directions))


def test_it_is_a_plain_module_and_the_callers_own(translator):
    network, image = translator.network(), RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    before = translator(image)
    assert isinstance(network, nn.Module) and not network.training and translator.network() is not network
    assert not any(p.requires_grad for p in network.parameters())
    with torch.no_grad():
        for p in network.requires_grad_(True).parameters():
            p.zero_()
    np.testing.assert_array_equal(translator(image), before)
    assert "Unknown direction" in refused(ConfigError, translator.network, "c2d")
    assert "takes no class" in refused(ConfigError, translator.network, label="x")


@pytest.mark.slow
def test_it_can_be_exported_and_compiled(translator):
    program = torch.export.export(translator.network(), (torch.zeros(1, 3, 16, 16),))
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(program.module()(x), translator.network()(x))


def test_the_network_of_a_sampler_takes_noise(tmp_path):
    sampler = img2img.load(dcgan_run(tmp_path / "run"), device="cpu")
    with torch.no_grad():
        y = sampler.network()(sampler.noise(4, seed=2))
    np.testing.assert_array_equal(sampler.spec().scale_out.decode(y[0]), sampler(1, seed=2, start=4)[0])


# Data sets


class Slices(torch.utils.data.Dataset):
    """A data set that answers any number, as those that compute their images do."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        return torch.from_numpy(IMAGES["a"][number % 3]).permute(2, 0, 1)


def test_a_torch_dataset_of_images_trains(tmp_path):
    options = TINY | dict(generator="unet_16", discriminator="pixel", width=2, d_width=2)
    one = img2img.train("pix2pix", a=Slices(), b=IMAGES["b"], out=tmp_path / "one", **options)
    two = img2img.train("pix2pix", **IMAGES, out=tmp_path / "two", **options)
    assert one.digest() == two.digest()
    labelled = torch.utils.data.TensorDataset(torch.zeros(3, 3, 16, 16), torch.zeros(3))
    text = refused(DataError, img2img.train, "pix2pix", a=labelled, b=IMAGES["b"], out=tmp_path / "x", **options)
    assert "a[0] is a tuple; give the images alone" in text
