"""Exports of networks with several inputs, and of those that a format cannot hold."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import img2img
from img2img.core.method import Image, Label, Method, Noise, Use
from img2img.data.scale import Scale
from img2img.errors import ConfigError, Img2ImgError
from img2img.interchange.export import examples, input_names
from img2img.interchange.onnx_graph import onnx_model
from img2img.methods import METHODS
from img2img.model.file import ModelCard, load_use, save_model

CLASSES = ("x", "y", "z")
UINT8 = Scale(0, 255, "uint8")


class Attention(nn.Module):
    """A convolution and self-attention over all pixels."""

    multiple = 1

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        flat = self.first(x).flatten(2)
        weights = F.softmax(flat.transpose(1, 2) @ flat, -1)
        return torch.tanh(x + (flat @ weights.transpose(1, 2)).view_as(x))


class Shifted(nn.Module):
    """An image and a class, which is a colour in one-hot planes of one pixel, and a factor that is learned."""

    multiple = 4

    def __init__(self):
        super().__init__()
        self.colour, self.layer = nn.Linear(3, 3), nn.Conv2d(3, 3, 3, padding=1)
        self.factor = nn.Parameter(torch.full((1, 3, 1, 1), 0.7))

    def forward(self, x, label):
        shift = self.colour(F.one_hot(label, 3).to(x)).unsqueeze(-1).unsqueeze(-1)
        return torch.tanh(self.factor * self.layer(x) + 0.5 * shift - 0.25)


def fake_method(network, inputs):
    class Fake(Method):
        Config = METHODS["gan"].Config

        @staticmethod
        def build(config, facts):
            return {"use": Use(network(), inputs, "image")}

    return Fake


FAKES = {
    "attentive": fake_method(Attention, (Image("image"),)),
    "shifted": fake_method(Shifted, (Image("image"), Label(3))),
}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Model files of small networks, by method."""
    monkeypatch.setattr("img2img.model.file.METHODS", dict(METHODS) | FAKES)

    def save(name, **options):
        method = (dict(METHODS) | FAKES)[name]
        config = method.Config(**options)
        path, classes = tmp_path / f"{name}.safetensors", CLASSES if name in ("cgan", "shifted", "stargan") else ()
        known = dict(size=16, channels={"image": 3}, scales={"image": UINT8}, step=1, version="0", classes=classes)
        card = ModelCard(name, asdict(config), uses={}, **known)
        torch.manual_seed(0)
        built = method.build(config, card.facts)
        for network in (use.network for use in built.values()):
            with torch.no_grad():
                for x in network.state_dict().values():
                    if x.is_floating_point():
                        x.add_(torch.rand_like(x) * 0.1)
        save_model(path, ModelCard(name, asdict(config), uses={n: n for n in built}, **known), {
            name: use.network for name, use in built.items()
        })  # fmt: skip
        return path

    return save


def reader(path):
    """An exported file as a function of arrays, and the facts in it."""
    if path.suffix == ".pt":
        facts = {"img2img.json": ""}
        with warnings.catch_warnings(action="ignore"):
            run = torch.jit.load(path, _extra_files=facts)
        return lambda *x: run(*map(torch.from_numpy, x)).numpy(), json.loads(facts["img2img.json"])
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    names = [x.name for x in session.get_inputs()]
    facts = session.get_modelmeta().custom_metadata_map
    return lambda *x: session.run(["output"], dict(zip(names, x, strict=True)))[0], facts


DRAWING = {
    "gan": dict(latent=5, width=4),
    "wgan": dict(latent=5, width=4),
    "dcgan": dict(latent=5, width=4),
    "cgan": dict(latent=5, width=4),
}


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_generators_of_noise_and_of_labels_are_exported(saved, tmp_path, suffix):
    rng, wrong = np.random.default_rng(0), []
    for name, options in DRAWING.items():
        path = saved(name, **options)
        made = img2img.export_model(path, tmp_path / f"{name}{suffix}")
        run, facts = reader(made.path)
        card = img2img.interchange.export.read_card(path)
        use = load_use(path, card, "sample")
        inputs = ["noise", "label"] if name == "cgan" else ["noise"]
        assert json.loads(facts["inputs"]) == inputs and facts["noise"] == use.inputs[0].kind, name
        assert json.loads(facts["classes"]) if name == "cgan" else "classes" not in facts, name
        for n in (1, 4, 7):
            given = [rng.normal(size=(n, 5)).astype(np.float32), rng.integers(0, 3, n)][: len(inputs)]
            with torch.inference_mode():
                expected = use.network(*map(torch.from_numpy, given)).numpy()
            out = run(*given)
            if out.shape != expected.shape or np.abs(out - expected).max() > 2e-5:
                wrong.append((name, n))
    assert not wrong


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_a_class_is_an_input_or_fixed(saved, tmp_path, suffix):
    path, x = saved("shifted"), np.random.default_rng(0).uniform(-1, 1, (2, 3, 20, 24)).astype(np.float32)
    whole, facts = reader(img2img.export_model(path, tmp_path / f"all{suffix}").path)
    assert json.loads(facts["inputs"]) == ["input", "label"] and json.loads(facts["classes"]) == list(CLASSES)
    outputs = [whole(x, np.full(2, label)) for label in range(3)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    try:
        fixed, facts = reader(img2img.export_model(path, tmp_path / f"y{suffix}", label="y").path)
    except ConfigError as error:
        assert suffix == ".onnx" and str(error).endswith("export it as TorchScript (.pt).")
    else:
        assert "inputs" not in facts and np.abs(fixed(x) - outputs[1]).max() < 2e-5


def test_what_a_format_cannot_hold_is_one_sentence(saved, tmp_path):
    path = saved("attentive")
    with pytest.raises(
        ConfigError, match=r"^Attention has a step without a form in ONNX here \(.*\); export it as Tor"
    ):
        img2img.export_model(path, tmp_path / "x.onnx")
    assert img2img.export_model(path, tmp_path / "x.pt").difference < 1e-5
    with pytest.raises(ConfigError, match="draws from noise, and the published code has no such networks; export it"):
        img2img.export_model(saved("gan", latent=5, width=4), tmp_path / "x.pth")
    assert not (tmp_path / "x.onnx").exists() and not (tmp_path / "x.pth").exists()


class Branching(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x


class TwoOutputs(nn.Module):
    def forward(self, x):
        return x, x


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x)


def test_every_step_without_a_form_in_onnx_is_a_sentence(tmp_path):
    onnx = pytest.importorskip("onnx")
    networks = {
        "a branch": Branching(),
        "two outputs": TwoOutputs(),
        "a layer": nn.Sequential(nn.PixelShuffle(2)),
        "a layer of several inputs": nn.Sequential(nn.MultiheadAttention(4, 2)),
        "a function": Attention(),
        "a name that is missing": nn.Bilinear(3, 3, 3),
    }
    for name, network in networks.items():
        with pytest.raises(Img2ImgError) as caught:
            onnx_model(onnx, network.eval(), {"input": torch.rand(1, 4, 8, 8)}, {})
        text = str(caught.value)
        assert "without a form in ONNX" in text and text.endswith("export it as TorchScript (.pt)."), (name, text)
        assert "\n" not in text, name


def test_inputs_have_names_of_their_own():
    assert input_names((Image("a"), Image("b"), Noise(3), Label(2))) == ["input", "input2", "noise", "label"]
    use = Use(Shifted(), (Image("image"), Label(3)), "image")
    shapes = [tuple(x["input"].shape) for x in examples(use, {"image": 3})]
    assert shapes == [(1, 3, 64, 64), (1, 3, 68, 64), (2, 3, 64, 68), (3, 3, 64, 64)]
