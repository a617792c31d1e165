"""Models in from and out to other programs, against a re-creation of the published networks from their description."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import over
from safetensors import safe_open
from torch import nn

import img2img
from img2img.data.scale import Scale
from img2img.errors import ConfigError, Img2ImgError, ModelFileError, install_hint
from img2img.interchange import export, layout, onnx_graph
from img2img.interchange.info import model_info
from img2img.interchange.layout import standard_names
from img2img.methods import METHODS
from img2img.model.file import ModelCard, load_use, read_card, save_model
from img2img.networks import GENERATORS

# The published networks, put together from the tables of their layout: which module sits where in which sequence.

NORMS = {
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "none": lambda channels: nn.Identity(),
}


class PublishedBlock(nn.Module):
    def __init__(self, channels, norm, dropout, padding):
        super().__init__()
        pad = {"reflect": [nn.ReflectionPad2d(1)], "replicate": [nn.ReplicationPad2d(1)], "zero": []}[padding]

        def conv():
            return nn.Conv2d(channels, channels, 3, padding=int(padding == "zero"), bias=norm == "instance")

        drop = [nn.Dropout(0.5)] if dropout else []
        self.conv_block = nn.Sequential(
            *pad, conv(), NORMS[norm](channels), nn.ReLU(True), *drop, *pad, conv(), NORMS[norm](channels)
        )

    def forward(self, x):
        return x + self.conv_block(x)


class PublishedResNet(nn.Module):
    def __init__(self, c_in, c_out, width, norm, blocks, dropout=False, padding="reflect"):
        super().__init__()
        bias = norm == "instance"

        def then(layer, channels):
            return [layer, NORMS[norm](channels), nn.ReLU(True)]

        w, up = width, partial(nn.ConvTranspose2d, stride=2, padding=1, output_padding=1, bias=bias)
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *then(nn.Conv2d(c_in, w, 7, bias=bias), w),
            *then(nn.Conv2d(w, 2 * w, 3, 2, 1, bias=bias), 2 * w),
            *then(nn.Conv2d(2 * w, 4 * w, 3, 2, 1, bias=bias), 4 * w),
            *[PublishedBlock(4 * w, norm, dropout, padding) for _ in range(blocks)],
            *then(up(4 * w, 2 * w, 3), 2 * w),
            *then(up(2 * w, w, 3), w),
            nn.ReflectionPad2d(3),
            nn.Conv2d(w, c_out, 7),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)


class PublishedSkip(nn.Module):
    """A level of the U-Net around the next: what goes in is put beside what comes out, but for the outermost."""

    def __init__(self, outer, inner, norm, c_in=None, sub=None, outermost=False, dropout=False):
        super().__init__()
        bias, self.outermost = norm == "instance", outermost
        down = nn.Conv2d(c_in or outer, inner, 4, 2, 1, bias=bias)
        up = nn.ConvTranspose2d(2 * inner if sub else inner, outer, 4, 2, 1, bias=bias or outermost)
        if outermost:
            layers = [down, sub, nn.ReLU(True), up, nn.Tanh()]
        elif sub is None:
            layers = [nn.LeakyReLU(0.2, True), down, nn.ReLU(True), up, NORMS[norm](outer)]
        else:
            layers = [nn.LeakyReLU(0.2, True), down, NORMS[norm](inner), sub, nn.ReLU(True), up, NORMS[norm](outer)]
            layers += [nn.Dropout(0.5)] if dropout else []
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        out = self.model(x)
        return out if self.outermost else torch.cat([x, out], 1)


class PublishedUNet(nn.Module):
    def __init__(self, c_in, c_out, width, norm, depth, dropout=False):
        super().__init__()
        w = [width * min(2**level, 8) for level in range(depth)]
        block = None
        for level in range(depth - 1, 0, -1):
            drop = dropout and 4 <= level < depth - 1
            block = PublishedSkip(w[level - 1], w[level], norm, sub=block, dropout=drop)
        self.model = PublishedSkip(c_out, w[0], norm, c_in=c_in, sub=block, outermost=True)

    def forward(self, x):
        return self.model(x)


def published(kind, number, c_in=3, c_out=3, width=4, norm="instance", seed=0, **choices):
    """A published generator with weights that are not those it starts with."""
    build = {"resnet": PublishedResNet, "unet": PublishedUNet}[kind]
    network = build(c_in, c_out, width, norm, number, **choices)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in network.state_dict().items():
            if x.is_floating_point():
                gain = x.ndim == 1 and name.endswith("weight")
                x.copy_(torch.randn(x.shape, generator=random) * (0.1 if x.ndim == 1 else 0.15) + gain)
    return network


@torch.no_grad()
def as_published(network, x):
    """The output as the published test computes it: training mode without dropout, one image at a time."""
    network = copy.deepcopy(network).train()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    return torch.cat([network(image[None]) for image in x])


def noise(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def pth(tmp_path):
    """Saves a published network, or any state, as latest_net_G.pth."""

    def save(content, name="latest_net_G.pth", **kwargs):
        path = tmp_path / name
        torch.save(content.state_dict() if isinstance(content, nn.Module) else content, path, **kwargs)
        return path

    return save


@pytest.fixture
def taken(pth, tmp_path):
    """Saves and imports; returns the generator of the model file and its card."""

    def take(content, **kwargs):
        out = img2img.import_model(pth(content), tmp_path / "model.safetensors", overwrite=True, **kwargs)
        card = read_card(out)
        return load_use(out, card, next(iter(card.directions))).network, card

    return take


# The layout at full size


@over(
    "kind number norm tensors parameters",
    [
        ("resnet", 9, "instance", 48, 11_378_179),
        ("resnet", 6, "instance", 36, 7_837_699),
        ("resnet", 9, "batch", 140, 11_383_427),
        ("unet", 8, "batch", 82, 54_413_955),
        ("unet", 8, "instance", 32, 54_409_603),
        ("unet", 7, "batch", 70, 41_828_995),
    ],
)
def test_full_size_layouts_have_the_published_tensors(kind, number, norm, tensors, parameters):
    name = f"resnet_{number}" if kind == "resnet" else f"unet_{2**number}"
    with torch.device("meta"):
        ours = GENERATORS[name](3, 3, width=64, norm=norm, dropout=0.0)
        theirs = {"resnet": PublishedResNet, "unet": PublishedUNet}[kind](3, 3, 64, norm, number)
    state = theirs.state_dict()
    assert len(state) == tensors and sum(p.numel() for p in theirs.parameters()) == parameters
    kept = {key: x.shape for key, x in state.items() if "running_" not in key and "num_batches" not in key}
    names, shapes = standard_names(ours), {key: x.shape for key, x in ours.state_dict().items()}
    assert {theirs: shapes[ours] for ours, theirs in names.items()} == kept
    options, *channels = layout.infer(dict(theirs.named_parameters()))
    assert (options["generator"], options["norm"], options["width"], channels) == (name, norm, 64, [3, 3])


def test_names_of_the_listing():
    resnet = set(PublishedResNet(3, 3, 4, "instance", 9).state_dict())
    assert resnet >= {"model.10.conv_block.5.bias", "model.19.weight", "model.22.weight", "model.26.bias"}
    unet = set(PublishedUNet(3, 3, 4, "batch", 8).state_dict())
    assert unet >= {
        "model.model.1.model.3.model.3.model.3.model.3.model.3.model.3.model.4.num_batches_tracked",
        "model.model.1.model.3.model.5.weight",
        "model.model.3.bias",
    }


# Import


CASES = {
    "unet batch dropout": ("unet", 5, dict(norm="batch", dropout=True)),
    "unet batch": ("unet", 6, dict(norm="batch", c_in=2, c_out=5)),
    "unet instance": ("unet", 5, dict(norm="instance")),
    "unet none": ("unet", 5, dict(norm="none")),
    "resnet instance": ("resnet", 6, dict(norm="instance")),
    "resnet instance dropout": ("resnet", 9, dict(norm="instance", dropout=True)),
    "resnet batch": ("resnet", 6, dict(norm="batch", c_in=1, c_out=4, width=6)),
    "resnet batch dropout": ("resnet", 3, dict(norm="batch", dropout=True)),
    "resnet none": ("resnet", 3, dict(norm="none")),
    "resnet zero": ("resnet", 3, dict(padding="zero")),
    "resnet zero dropout": ("resnet", 6, dict(padding="zero", norm="batch", dropout=True)),
}


ROUNDING = 1.1e-5 if torch.__version__.startswith("2.6.") else 1e-5  # of fp32; PyTorch 2.6 gave 1.03e-5


@over(case=CASES)
def test_an_imported_generator_gives_the_published_output(taken, case):
    kind, number, choices = CASES[case]
    original = published(kind, number, **choices)
    generator, card = taken(original)
    spec = card.directions["a2b"]
    assert (spec.in_channels, spec.out_channels) == (choices.get("c_in", 3), choices.get("c_out", 3))
    assert spec.scale_in == spec.scale_out == Scale(0, 255, "uint8")
    assert card.config["norm"] == choices.get("norm", "instance")
    assert card.config["width"] == choices.get("width", 4)
    assert card.config["generator"] == (f"resnet_{number}" if kind == "resnet" else f"unet_{2**number}")
    if kind == "resnet":
        assert card.config["padding"] == choices.get("padding", "reflect")
        assert card.config["dropout"] == (0.5 if choices.get("dropout") else 0.0)
    for batch, height, width in ((1, 64, 64), (4, 64, 128)):
        x = noise(batch, spec.in_channels, height, width)
        for dtype, tolerance in ((torch.float32, ROUNDING), (torch.float64, 1e-10)):
            wanted = as_published(original.to(dtype), x.to(dtype))
            assert wanted.std() > 0.01
            with torch.no_grad():
                assert (generator.to(dtype)(x.to(dtype)) - wanted).abs().max() <= tolerance


@over(
    wrap=[
        lambda state: {"state_dict": state},
        lambda state: {"netG": state, "epoch": 7},
        lambda state: {"netG": {"state_dict": state}},
        lambda state: {f"module.{name}": x for name, x in state.items()},
        lambda state: {f"_orig_mod.{name}": x for name, x in state.items()},
        lambda state: {f"module._orig_mod.{name}": x for name, x in state.items()},
        lambda state: {f"generator.{name}": x for name, x in state.items()},
        lambda state: {"state_dict": {f"model.{name}": x for name, x in state.items()}},
        lambda state: (
            {f"netG.{name}": x for name, x in state.items()} | {"netD.model.0.weight": torch.zeros(4, 3, 4, 4)}
        ),
        lambda state: {"state_dict": {f"module.{name}": x for name, x in state.items()}},
        lambda state: {name: x.half() for name, x in state.items()},
        lambda state: {name: x.requires_grad_() if x.is_floating_point() else x for name, x in state.items()},
    ],
    kind=["resnet", "unet"],
)
def test_wrappers_prefixes_and_types(taken, kind, wrap):
    original = published(kind, 6, norm="batch")
    plain, _ = taken(original)
    wrapped, _ = taken(wrap(dict(original.state_dict())))
    half = next(iter(wrap(dict(original.state_dict())).values()))
    for name, x in wrapped.state_dict().items():
        expected = plain.state_dict()[name]
        same = expected.half().float() if isinstance(half, torch.Tensor) and half.dtype == torch.half else expected
        assert torch.equal(x, same)


def test_old_files_with_statistics_of_instance_norms(taken):
    original = published("resnet", 6)
    state = dict(original.state_dict())
    for name, layer in original.named_modules():
        if isinstance(layer, nn.InstanceNorm2d):
            for kind in ("running_mean", "running_var"):
                state[f"{name}.{kind}"] = torch.randn(layer.num_features)
            state[f"{name}.num_batches_tracked"] = torch.tensor(3)
    assert len(state) > len(original.state_dict())
    generator, card = taken(state)
    assert card.config["norm"] == "instance"
    x = noise(1, 3, 32, 32)
    with torch.no_grad():
        assert (generator(x) - as_published(original, x)).abs().max() <= 1e-5


def test_running_averages_of_batch_norms_do_not_matter(taken):
    original = published("unet", 5, norm="batch")
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        before = taken(original)[0](x)
        for name, value in original.state_dict().items():
            if "running_" in name:
                value.fill_(3.0)
        assert torch.equal(taken(original)[0](x), before)


def test_files_of_old_torch_are_read(pth, tmp_path):
    path = pth(published("resnet", 3), _use_new_zipfile_serialization=False)
    assert img2img.import_model(path, tmp_path / "m.safetensors").exists()


@over(
    "norm kind method",
    [("batch", "unet", "pix2pix"), ("batch", "resnet", "pix2pix"), ("instance", "resnet", "cyclegan")],
)
def test_the_card_of_an_import(taken, norm, kind, method):
    generator, card = taken(published(kind, 6, norm=norm), size=512, direction="b2a")
    assert (card.method, card.size, card.step, card.version) == (method, 512, 0, img2img.__version__)
    assert list(card.directions) == ["b2a"]
    dropped = ", without the running averages of its batch norms" * (norm == "batch")
    assert card.source == f"imported from latest_net_G.pth{dropped}"
    assert not generator.training


def test_two_files_make_one_model(pth, tmp_path):
    there = published("resnet", 6, c_in=3, c_out=1, seed=1)
    back = published("resnet", 6, c_in=1, c_out=3, seed=2)
    a, b = pth(there, "latest_net_G_A.pth"), pth(back, "latest_net_G_B.pth")
    out = img2img.import_model(a, tmp_path / "m.safetensors", b2a=b)
    card = read_card(out)
    assert card.method == "cyclegan" and list(card.directions) == ["a2b", "b2a"]
    assert card.source == "imported from latest_net_G_A.pth and latest_net_G_B.pth"
    for name, original, channels in (("a2b", there, 3), ("b2a", back, 1)):
        x = noise(2, channels, 32, 32)
        with torch.no_grad():
            assert (load_use(out, card, name).network(x) - as_published(original, x)).abs().max() <= 1e-5


@over(dropout=[False, True], padding=["zero", "replicate"])
def test_the_layout_of_other_paddings(padding, dropout):
    """The published code pads the blocks so, and always mirrors the image itself."""
    original = published("resnet", 3, norm="batch", padding=padding, dropout=dropout)
    network = GENERATORS["resnet_3"](3, 3, width=4, norm="batch", padding=padding, dropout=0.5 * dropout).eval()
    weights = dict(original.named_parameters())
    options, *_ = layout.infer(weights)
    # what the tensors show; the replicating kind has to be stated, see below
    assert options["padding"] == ("zero" if padding == "zero" else "reflect") and options["dropout"] == 0.5 * dropout
    network.load_state_dict(layout.fit(weights, network))
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        assert (network(x) - as_published(original, x)).abs().max() <= 1e-5


def test_an_imported_model_translates_arrays(pth, tmp_path):
    original = published("unet", 5, norm="batch", dropout=True)
    out = img2img.import_model(pth(original), tmp_path / "m.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    result = img2img.load(out, device="cpu", precision="fp32")(image)
    x = torch.from_numpy(image.transpose(2, 0, 1)).float()[None] / 127.5 - 1
    wanted = ((as_published(original, x)[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    assert result.shape == image.shape and result.dtype == np.uint8
    assert np.abs(result - wanted).max() <= 1


def test_replicate_padding_goes_out_and_comes_back(command_line, pth, tmp_path):
    path = model(tmp_path / "m.safetensors", "resnet_3", padding="replicate")
    code, out, _ = command_line("export", path, "--out", tmp_path / "net.pth")
    assert code == 0 and "give img2img import --padding replicate" in out
    back = img2img.import_model(tmp_path / "net.pth", tmp_path / "back.safetensors", padding="replicate")
    images = np.random.default_rng(0).integers(100, 4000, (2, 32, 32, 3), dtype=np.uint16)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)) / 2000 - 1
    original, again = (load_use(p, read_card(p), "a2b").network for p in (path, back))
    with torch.no_grad():
        assert torch.equal(original(x), again(x)) and original(x).std() > 0.01
        plain = img2img.import_model(tmp_path / "net.pth", tmp_path / "plain.safetensors")
        assert not torch.equal(original(x), load_use(plain, read_card(plain), "a2b").network(x))
    assert "replicate: --padding of img2img import" in command_line("info", plain)[1]
    assert "replicate: --padding" not in command_line("info", back)[1]
    for name, network in (("zero", published("resnet", 3, padding="zero")), ("unet", published("unet", 5))):
        with pytest.raises(ConfigError, match=r"pads with zeros.* leave --padding out"):
            img2img.import_model(pth(network), tmp_path / f"{name}.safetensors", padding="replicate")


def test_what_tensors_do_not_show_is_said(command_line, pth, tmp_path):
    exported = {
        ("resnet_3", 0.0): (),
        ("resnet_3", 0.5): (),
        ("resnet_3", 0.3): ("the file says dropout, but not that it was 0.3: both programs take 0.5",),
        ("unet_32", 0.0): (),
        ("unet_32", 0.5): ("the file does not say that the U-Net was trained with dropout 0.5",),
    }
    for (generator, dropout), notes in exported.items():
        path = model(tmp_path / "m.safetensors", generator, dropout=dropout)
        assert img2img.export_model(path, tmp_path / "net.pth", overwrite=True).notes == notes
        assert img2img.export_model(path, tmp_path / "net.pt", overwrite=True).notes == ()
    file = tmp_path / "u.safetensors"
    _, out, _ = command_line("import", pth(published("unet", 5, norm="batch")), "--out", file)
    assert re.search(r"training size +not known *\n", out) and "whether it was trained with dropout" in out
    assert "without the running averages of its batch norms" in out
    _, out, _ = command_line("import", tmp_path / "net.pth", "--out", file, "--size", 64, "--overwrite")
    assert re.search(r"training size +64 px, as stated at the import *\n", out) and "running averages" not in out


# Refusals of import


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@over(zipped=[True, False])
def test_a_malicious_file_is_refused_and_not_executed(pth, tmp_path, zipped):
    state = dict(published("resnet", 3).state_dict())
    path = pth(state | {"x": Malicious(tmp_path / "harm")}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError, match="holds more than tensors, which could execute code"):
        img2img.import_model(path, tmp_path / "m.safetensors")
    assert not (tmp_path / "harm").exists() and not (tmp_path / "m.safetensors").exists()


def test_a_malicious_bare_pickle_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "harm")))
    with pytest.raises(ModelFileError):
        img2img.import_model(path, tmp_path / "m.safetensors")
    assert not (tmp_path / "harm").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "x.pth")
    with pytest.raises(ModelFileError, match=r"Save only the generator's state_dict\(\)"):
        img2img.import_model(tmp_path / "x.pth", tmp_path / "m.safetensors")


def shifted(state):
    """CUT's numbering: a blur after each layer that halves or doubles."""
    return {re.sub(r"model\.(\d+)", lambda m: f"model.{int(m[1]) + 2}", name, count=1): x for name, x in state.items()}


def without(state, *names):
    return {name: x for name, x in state.items() if name not in names}


RESNET = dict(published("resnet", 6).state_dict())
UNET = dict(published("unet", 5, norm="batch").state_dict())
PATCH = {"model.0.weight": torch.zeros(4, 6, 4, 4), "model.0.bias": torch.zeros(4)}
PIXEL = {"net.0.weight": torch.zeros(4, 6, 1, 1), "net.0.bias": torch.zeros(4)}
LOOKS = "looks like resnet_{} (width 4, norm instance, padding {}, dropout 0.0, channels 3 to 3), but {}"
SIX = partial(LOOKS.format, 6, "reflect")
REFUSED = {
    "patch discriminator": (PATCH, "is a discriminator, which cannot translate; import the generator"),
    "pixel discriminator": (PIXEL, "is a discriminator"),
    "blur of CUT": (
        shifted(RESNET) | {"model.6.filt": torch.zeros(8, 1, 3, 3)},
        "has the blur filters of CUT's networks",
    ),
    "shifted": (shifted(RESNET), "has its first residual block at model.12, where the standard one is at model.10"),
    "other names": ({"generator.a": torch.zeros(1)}, "uses unknown tensor names (generator.a, ...)"),
    "PyTorch-GAN": (
        {name.replace(".conv_block.", ".block."): x for name, x in RESNET.items()},
        "uses unknown tensor names (model.10.block.1.weight, model.10.block.1.bias, ",
    ),
    "two generators": (
        {f"{owner}.{name}": x for owner in ("netG_A", "netG_B") for name, x in RESNET.items()},
        "holds several generators, netG_A., netG_B.. Save the state_dict() of only one.",
    ),
    "spectral norm": (
        {name.replace("weight", "weight_orig"): x for name, x in RESNET.items()},
        "was trained with spectral norm, which img2img cannot import; save it after torch.nn.utils.",
    ),
    "spectral norm of today": (
        dict(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)).state_dict(prefix="model.1.")),
        "was trained with spectral norm",
    ),
    "no first layer": (without(RESNET, "model.1.weight"), "lacks model.1.weight, which every standard generator"),
    "no last layer": (without(RESNET, "model.23.weight"), "lacks model.23.weight, which every standard generator"),
    "no middle layer": (without(RESNET, "model.7.weight"), SIX("it lacks model.7.weight")),
    "one too many": (
        RESNET | {"model.99.weight": torch.zeros(1, 1, 1, 1)},
        SIX("it has an additional model.99.weight"),
    ),
    "other shape": (
        RESNET | {"model.7.weight": torch.zeros(2, 8, 3, 3)},
        SIX("its model.7.weight has the shape (2, 8, 3, 3) instead of (16, 8, 3, 3)"),
    ),
    "no convolution": (
        RESNET | {"model.1.weight": torch.zeros(4)},
        "has model.1.weight with the shape (4,), which is not that of a convolution",
    ),
    "odd blocks": (
        {name.replace("block.5", "block.9"): x for name, x in RESNET.items()},
        "has residual blocks with convolutions at [1, 9]",
    ),
    "12 blocks": (
        dict(published("resnet", 12).state_dict()),
        "contains a ResNet of 12 blocks; img2img has resnet_3, resnet_6",
    ),
    "10 levels": (
        dict(published("unet", 10, width=1).state_dict()),
        "contains a U-Net of 10 levels; img2img has resnet_3",
    ),
    "affine instance norm": (
        UNET | {"model.model.0.bias": torch.zeros(4)},
        "has norms with learned gains after convolutions with biases, as InstanceNorm2d(affine=True) creates",
    ),
    "broken training": (
        RESNET | {"model.1.bias": torch.full((4,), torch.nan)},
        "has infinite or NaN values in model.1.bias",
    ),
    "optimizer": ({"optimizer": {"lr": 1.0}}, "is not a dict of tensors"),
    "nothing": ({}, "is not a dict of tensors"),
    "list": ([torch.zeros(1)], "is not a dict of tensors"),
}


@over(case=REFUSED)
def test_what_is_no_standard_generator_is_refused_in_one_sentence(pth, case):
    content, sentence = REFUSED[case]
    path = pth(content)
    with pytest.raises(ModelFileError) as error:
        img2img.import_model(path, path.with_name("m.safetensors"))
    assert str(error.value).startswith(f"{path} {sentence}") and "\n" not in str(error.value)
    assert list(path.parent.iterdir()) == [path]


@over(content=[b"", b"text", b"\x80\x05garbage"])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        img2img.import_model(path, tmp_path / "m.safetensors")


def test_a_truncated_file_and_another_archive_are_refused(pth, tmp_path):
    path = pth(published("resnet", 3))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelFileError, match="damaged"):
        img2img.import_model(path, tmp_path / "m.safetensors")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(ModelFileError, match="damaged"):
        img2img.import_model(path, tmp_path / "m.safetensors")


def test_refusals_of_import_that_are_not_the_files(pth, tmp_path):
    path, out = pth(published("resnet", 3)), tmp_path / "m.safetensors"
    other = pth(published("unet", 5), "other.pth")
    narrow = pth(published("resnet", 3, c_in=1), "narrow.pth")
    for sentence, words in {
        "Unknown --direction 'a2c'. Did you mean": dict(direction="a2c"),
        "leave --direction out": dict(direction="b2a", b2a=path),
        "the two generators of a model must match. Import each one separately": dict(b2a=other),
        "is resnet_3 (width 4, norm instance, padding reflect, dropout 0.0, channels 1 to 3)": dict(b2a=narrow),
        "--size takes a whole number from 1": dict(size=0),
    }.items():
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            img2img.import_model(path, out, **words)
        assert not out.exists()
    with pytest.raises(ModelFileError, match="There is no file"):
        img2img.import_model(tmp_path / "nowhere.pth", out)
    with pytest.raises(ConfigError, match="is also the input file; choose another"):
        img2img.import_model(path, path, overwrite=True)
    with pytest.raises(ConfigError, match="is a folder; give the name"):
        img2img.import_model(path, tmp_path)
    with pytest.raises(ConfigError, match="Cannot write"):
        img2img.import_model(path, path / "m.safetensors")


def test_overwrite(pth, tmp_path):
    path, out = pth(published("resnet", 3)), tmp_path / "m.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"already exists\. Use --overwrite"):
        img2img.import_model(path, out)
    assert out.read_bytes() == b"mine"
    img2img.import_model(path, out, overwrite=True)
    assert read_card(out).method == "cyclegan"


# Export


def model(path, generator, norm="instance", channels=(3, 3), method="cyclegan", directions=("a2b",), **choices):
    """A model file of one small generator per direction."""
    config = METHODS[method].Config(generator=generator, width=4, norm=norm, **choices)
    torch.manual_seed(0)
    domains, deep = dict(zip(directions[0].split("2"), channels, strict=True)), Scale(100, 4000, "uint16")
    uses = {name: name for name in directions}
    card = ModelCard(method, asdict(config), 64, domains, dict.fromkeys(domains, deep), uses, 5, "0.1.0")
    built = METHODS[method].build(config, card.facts)
    networks = {name: built[name].network for name in directions}
    for network in networks.values():
        with torch.no_grad():
            for x in network.parameters():
                x.add_(torch.randn_like(x) * 0.1)
    save_model(path, card, networks)
    return path


def original_of(generator, norm, channels=(3, 3), **choices):
    kind, number = generator.split("_")
    number = int(number) if kind == "resnet" else int(number).bit_length() - 1
    return published(kind, number, *channels, norm=norm, seed=9, **choices)


@over(
    "generator choices theirs",
    [
        ("resnet_6", {}, {}),
        ("resnet_9", dict(dropout=0.3), dict(dropout=True)),
        ("resnet_3", {}, {}),
        ("unet_32", {}, dict(dropout=True)),
        ("unet_64", dict(channels=(2, 4)), dict(channels=(2, 4))),
    ],
    norm=["instance", "batch", "none"],
)
def test_the_published_networks_load_what_is_exported(tmp_path, norm, generator, choices, theirs):
    path = model(tmp_path / "m.safetensors", generator, norm, **choices)
    made = img2img.export_model(path, tmp_path / "net.pth")
    assert made.difference == 0 and made.format == "pth" and made.direction == "a2b" and len(made.checked) > 1
    original = original_of(generator, norm, **theirs)
    original.load_state_dict(torch.load(made.path, weights_only=True), strict=True)
    for name, x in original.state_dict().items():
        if kind := re.search("running_mean|running_var|num_batches_tracked", name):
            assert (x == (1 if kind[0] == "running_var" else 0)).all() and x.dtype == (
                torch.int64 if kind[0] == "num_batches_tracked" else torch.float32
            )
    card = read_card(path)
    x = noise(2, card.directions["a2b"].in_channels, 64, 64)
    with torch.no_grad():
        assert (load_use(path, card, "a2b").network(x) - as_published(original, x)).abs().max() <= 1e-5


@over(case=[case for case in CASES])
def test_import_then_export_gives_the_same_file_again(pth, tmp_path, case):
    kind, number, choices = CASES[case]
    original = published(kind, number, **choices)
    path = img2img.import_model(pth(original), tmp_path / "m.safetensors")
    again = torch.load(img2img.export_model(path, tmp_path / "again.pth").path, weights_only=True)
    assert again.keys() == original.state_dict().keys()
    for name, x in original.state_dict().items():
        if "running_" not in name:
            assert torch.equal(again[name], x), name


@over(generator=["resnet_3", "unet_32"], norm=["instance", "batch", "none"])
def test_export_then_import_is_bit_equal(tmp_path, generator, norm):
    path = model(tmp_path / "m.safetensors", generator, norm)
    back = img2img.import_model(
        img2img.export_model(path, tmp_path / "net.pth").path, tmp_path / "back.safetensors", size=64
    )
    with safe_open(path, "pt") as one, safe_open(back, "pt") as other:
        assert sorted(one.keys()) == sorted(other.keys())
        assert all(torch.equal(one.get_tensor(name), other.get_tensor(name)) for name in list(one.keys()))


EVERY = [
    (generator, norm, upsample, padding)
    for generator in GENERATORS
    for norm in ("instance", "batch", "none")
    for upsample in ("deconv", "resize")
    for padding in (("reflect", "replicate", "zero") if generator == "resnet_3" else ("auto",))
    if generator in ("resnet_3", "unet_32") or (norm, upsample) in (("batch", "deconv"), ("instance", "resize"))
]


@over("generator norm upsample padding", EVERY)
def test_onnx_of_every_generator(tmp_path, generator, norm, upsample, padding):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    network = GENERATORS[generator](2, 3, width=2, norm=norm, upsample=upsample, padding=padding).eval()
    with torch.no_grad():
        for x in network.parameters():
            x.add_(torch.randn_like(x) * 0.05)
    m = max(network.multiple, 16)
    graph = onnx_graph.onnx_model(onnx, network, {"input": noise(1, 2, m, m)}, {"a": "b"})
    onnx.checker.check_model(graph, full_check=True)
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for shape in ((1, 2, m, m), (3, 2, 2 * m, m), (2, 2, m, 3 * m))[: 1 if m >= 256 else 3]:
            x = noise(*shape)
            out = session.run(None, {"input": x.numpy()})[0]
            assert np.abs(out - network(x).numpy()).max() <= 5e-5  # on AVX2 a U-Net rounds by 2.02e-5


@pytest.mark.parametrize(("format", "suffix"), [("onnx", ".onnx"), ("torchscript", ".pt")])
@pytest.mark.parametrize(("generator", "norm"), [("resnet_3", "instance"), ("unet_32", "batch")])
def test_exported_files_translate_any_size_and_batch(tmp_path, format, suffix, generator, norm):
    path = model(
        tmp_path / "m.safetensors", generator, norm, directions=("a2b", "b2a"), channels=(2, 2), lambda_identity=0
    )
    made = img2img.export_model(path, tmp_path / f"out{suffix}", direction="b2a")
    assert (made.format, made.direction) == (format, "b2a") and made.difference <= 2e-5
    assert len({shape[0] for shape in made.checked}) > 1 and len({shape[2:] for shape in made.checked}) > 1
    assert not list(tmp_path.glob(".*"))
    network = load_use(path, read_card(path), "b2a").network
    facts = {
        "method": "cyclegan",
        "direction": "b2a",
        "in_channels": "2",
        "out_channels": "2",
        "scale_in": '{"low": 100, "high": 4000, "dtype": "uint16"}',
        "scale_out": '{"low": 100, "high": 4000, "dtype": "uint16"}',
        "multiple": str(network.multiple),
        "img2img": img2img.__version__,
        "source": "",
    }
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(made.path)
        assert session.get_modelmeta().custom_metadata_map == facts
        assert [x.shape for x in session.get_inputs()] == [["batch", 2, "height", "width"]]

        def run(x):
            return torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])
    else:
        extra = {"img2img.json": ""}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *args, **kwargs: None)
            run = torch.jit.load(made.path, _extra_files=extra)
        assert json.loads(extra["img2img.json"]) == facts
    with torch.inference_mode():
        for shape in ((1, 2, 32, 32), (5, 2, 32, 96), (1, 2, 160, 32)):  # small maps take another way in ours
            x = noise(*shape)
            assert (run(x) - network(x)).abs().max() <= 2e-5


def test_a_file_that_differs_does_not_appear(tmp_path, monkeypatch):
    path = model(tmp_path / "m.safetensors", "resnet_3")
    for wrong in (lambda x: x + 0.01, lambda x: x * torch.nan):

        def read(path, network, wrong=wrong):
            return lambda x: wrong(network(x))

        monkeypatch.setitem(export.FORMATS, "pth", replace(export.FORMATS["pth"], read=read))
        with pytest.raises(ModelFileError, match="differs from the model by"):
            img2img.export_model(path, tmp_path / "x.pth")
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@over("missing has", [("onnx", "onnxruntime"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, missing, has):
    path = model(tmp_path / "m.safetensors", "resnet_3")
    monkeypatch.setitem(sys.modules, has, sys.modules.get(has) or pytest)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=re.escape(install_hint("Export to ONNX", missing, "onnx"))):
        img2img.export_model(path, tmp_path / "x.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_refusals_of_export(tmp_path):
    path = model(tmp_path / "m.safetensors", "unet_16")
    resized = model(tmp_path / "r.safetensors", "resnet_3", upsample="resize")
    for sentence, words in {
        "does not tell the format. Use a name that ends in .pth (pth), .onnx (onnx), .pt (torchscript)": (
            path,
            "x.bin",
        ),
        "Unknown format 'onx'. Did you mean 'onnx'": (path, "x.pth", "onx"),
        "the published code has no U-Net with fewer than 5 levels. Export it as onnx or torchscript": (path, "x.pth"),
        "the published code does not upsample by resizing": (resized, "x.pth"),
        "Unknown direction in this model 'b2a'": (path, "x.pth", "auto", "b2a"),
        "is also the input file": (path, "m.safetensors", "pth"),
        "r.safetensors already exists": (path, "r.safetensors", "pth"),
        "There is no model or run folder": (tmp_path / "nowhere", "x.pth"),
    }.items():
        source, out, *rest = words
        with pytest.raises(Img2ImgError, match=re.escape(sentence)):
            img2img.export_model(source, tmp_path / out, **dict(zip(("format", "direction"), rest, strict=False)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.safetensors", "r.safetensors"]


def test_the_resized_kinds_export_to_the_other_formats(tmp_path):
    path = model(tmp_path / "m.safetensors", "resnet_3", upsample="resize")
    for name in ("x.onnx", "x.pt"):
        assert img2img.export_model(path, tmp_path / name).difference <= 2e-5


# Info


def test_info_is_what_the_file_says(tmp_path):
    path = model(tmp_path / "model.safetensors", "resnet_3", directions=("a2b", "b2a"))
    info = model_info(tmp_path)
    assert info == model_info(path) and json.loads(json.dumps(info)) == info
    network = load_use(path, read_card(path), "a2b").network
    assert info["directions"]["b2a"] == {
        "in_channels": 3,
        "out_channels": 3,
        "scale_in": {"low": 100, "high": 4000, "dtype": "uint16"},
        "scale_out": {"low": 100, "high": 4000, "dtype": "uint16"},
        "labelled": False,
        "takes_images": True,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    assert (info["bytes"], info["step"], info["size"]) == (path.stat().st_size, 5, 64)
    assert info["config"]["generator"] == "resnet_3"


def test_a_card_without_a_source_is_read(tmp_path):
    from safetensors.torch import load_file, save_file

    path = model(tmp_path / "m.safetensors", "resnet_3")
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["img2img"])
    del card["source"]
    save_file(load_file(path), path, metadata={"img2img": json.dumps(card)})
    assert read_card(path).source == ""


# Command line


@over(command=["import", "export", "info"])
def test_help_does_not_wait_for_torch(command):
    code = (
        "import sys\nfrom img2img.cli import main as cli\n"
        f"sys.argv = ['img2img', '{command}', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_commands_from_end_to_end(command_line, pth, tmp_path):
    a, b = (pth(published("resnet", 6, seed=i), f"latest_net_G_{x}.pth") for i, x in enumerate("AB"))
    file = tmp_path / "m.safetensors"
    code, out, err = command_line("import", a, "--b2a", b, "--out", file, "--size", 128)
    assert (code, err) == (0, "") and "resnet_6" in out and str(file) in out
    code, out, _ = command_line("info", file)
    assert code == 0
    for words in (
        "cyclegan", "a2b", "b2a", "3 to 3 channels", "uint8 0 to 255", "128 px", "not known", "generator resnet_6",
        f"img2img {img2img.__version__}", "imported from latest_net_G_A.pth and latest_net_G_B.pth",
    ):  # fmt: skip
        assert words in out
    code, out, _ = command_line("info", file, "--json")
    assert code == 0 and json.loads(out) == model_info(file)
    for name, kind in (("x.pth", "pth"), ("x.onnx", "onnx"), ("x.pt", "torchscript")):
        code, out, err = command_line("export", file, "--format", kind, "--out", tmp_path / name, "--direction", "b2a")
        assert (code, err) == (0, "") and out.startswith(f"{kind}, b2a: {tmp_path / name}\nlargest difference")
    assert torch.equal(torch.load(tmp_path / "x.pth", weights_only=True)["model.1.bias"], torch.load(b)["model.1.bias"])


def test_mistakes_on_the_command_line_are_one_line_and_exit_code_2(command_line, pth, tmp_path):
    good, bad = pth(published("resnet", 3)), pth(PATCH, "latest_net_D.pth")
    file = img2img.import_model(good, tmp_path / "m.safetensors")
    for words, sentence in (
        (["import", tmp_path / "no.pth", "--out", tmp_path / "x"], "There is no file"),
        (["import", bad, "--out", tmp_path / "x"], "is a discriminator"),
        (["import", good, "--out", file], "already exists"),
        (["import", good, "--out", tmp_path / "x", "--direction", "there"], "Unknown --direction 'there'"),
        (["export", file, "--out", tmp_path / "x"], "does not tell the format"),
        (["export", file, "--out", tmp_path / "x", "--format", "caffe"], "Unknown format 'caffe'"),
        (["export", good, "--out", tmp_path / "x.onnx"], "first run img2img import"),
        (["translate", good, tmp_path, "--out", tmp_path / "x"], "first run img2img import"),
        (["import", good, "--out", tmp_path / "x", "--padding", "zero"], "Unknown --padding 'zero'"),
        (["info", tmp_path / "nowhere"], "no model or run folder"),
        (
            ["info", good],
            "is a file of torch.save; to use weights of the pix2pix and CycleGAN code, first run img2img import",
        ),
    ):
        code, out, err = command_line(*words)
        assert code == 2 and out == "" and err.startswith("img2img: ") and sentence in err and err.count("\n") == 1
    assert command_line("import", good)[0] == 2 and command_line("export", file)[0] == 2


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    path = model(tmp_path / "m.safetensors", "unet_32")

    def full(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(ConfigError, match=r"Cannot write .*x\.pth: the disk is full or does not take the file"):
        img2img.export_model(path, tmp_path / "x.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are POSIX")
@over(name=["x.pt", "x.pth", "x.onnx"])
def test_a_disk_that_is_full_for_real_does_not_end_the_process(tmp_path, name):
    path = model(tmp_path / "m.safetensors", "unet_32")
    code = (
        "import resource, sys\nfrom img2img.cli.main import main\nimport img2img.interchange.export\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"  # as a full disk: EFBIG in place of ENOSPC
        f"sys.argv = ['img2img', 'export', {str(path)!r}, '--out', {str(tmp_path / name)!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("img2img: Cannot write"), (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
