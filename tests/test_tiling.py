"""Images in tiles: the same output as the whole image, in bounded memory."""

import gc
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import img2img
from img2img.data.scale import Scale
from img2img.errors import ConfigError, TrainingError
from img2img.methods import METHODS
from img2img.model import tiling, translator
from img2img.model.file import ModelCard, save_model
from img2img.model.lazy import Lazy, Memory, source
from img2img.model.options import TranslateOptions
from img2img.model.tiling import NotInTilesError
from img2img.networks import GENERATORS
from img2img.networks.layers import init_weights
from img2img.runtime.device import Runtime

CPU = torch.device("cpu")


def lazily(x, memory, asked=None):
    def read(rows, columns):
        if asked is not None:
            asked.append((rows, columns))
        return x[:, :, slice(*rows), slice(*columns)]

    return source(tuple(x.shape), read, memory)


def in_tiles(network, x, memory, *conditions):
    def read(rows, columns):
        return x[:, :, slice(*rows), slice(*columns)]

    with torch.inference_mode():
        return tiling.in_tiles(network, tuple(x.shape), read, memory, *conditions)


def whole(network, x):
    with torch.inference_mode():
        return network(x)


def picture(height, width, channels=2):
    """Left half dark and flat, right half bright and busy, so that tiles differ from the whole."""
    x = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0)) * 0.2 - 1
    x[..., width // 2 :] = x[..., width // 2 :] * 5 + 5
    return x.clamp(-1, 1)


NETWORKS = {
    "resnet": ("resnet_3", {}),
    "resnet, zero, batch": ("resnet_3", {"padding": "zero", "norm": "batch"}),
    "resnet, replicate, resize": ("resnet_3", {"padding": "replicate", "upsample": "resize"}),
    "resnet, no norm": ("resnet_3", {"norm": "none"}),
    "unet": ("unet_32", {}),
    "unet, instance, resize": ("unet_16", {"norm": "instance", "upsample": "resize"}),
}


def build(name, width=8):
    generator, choices = NETWORKS[name]
    torch.manual_seed(0)
    network = GENERATORS[generator](2, 3, width=width, **choices)
    init_weights(network, std=0.1)
    return network.eval()


@pytest.mark.parametrize("free", [2**30, 0], ids=["maps kept", "nothing kept"])
@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_equal_the_whole(name, free):
    network, x = build(name), picture(96, 160)
    out = in_tiles(network, x, Memory(16, free, CPU))
    assert out.shape == (1, 3, 96, 160)
    assert float((out - whole(network, x)).abs().max()) < 2e-5  # rounding, 1.2e-5 by the kernels of some CPUs


@pytest.mark.parametrize("size", [(32, 33 * 4), (17 * 4, 64), (128, 128)])
@pytest.mark.parametrize("tile", [16, 20, 50])
def test_sizes_that_tiles_do_not_divide(size, tile):
    network, x = build("resnet"), picture(*size)
    assert float((in_tiles(network, x, Memory(tile, 2**30, CPU)) - whole(network, x)).abs().max()) < 1e-5


def test_tiles_alone_would_be_wrong():
    """The picture is one on which the statistics of a tile are not those of the whole: the tests above can fail."""
    network, x = build("resnet"), picture(96, 160)
    alone = torch.cat([whole(network, part) for part in x.chunk(2, 3)], 3)
    assert float((alone - whole(network, x)).abs().mean()) > 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_under_autocast(dtype):
    network, x = build("unet"), picture(96, 96)
    with torch.autocast("cpu", dtype):
        expected = whole(network, x)
        out = in_tiles(network, x, Memory(16, 2**30, CPU))
    assert float((out.float() - expected.float()).abs().mean()) < 0.01


def test_operations_work_after_autocast_has_ended():
    network, x = build("resnet, no norm"), picture(64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        out = network(lazily(x, Memory(4, 0, CPU)))
    with torch.inference_mode():
        assert out.collect(CPU).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_kept_maps_stay_within_the_limit_and_are_let_go(name):
    network, x = build(name), picture(128, 128)
    memory = Memory(16, 2**19, CPU)
    least = []
    take = memory.take
    memory.take = lambda owner, count: (take(owner, count), least.append(memory.free))[0]
    out = in_tiles(network, x, memory)
    gc.collect()
    assert memory.free == 2**19 and min(least) >= 0 and min(least) < 2**19
    assert float((out - whole(network, x)).abs().max()) < 1e-5


def test_no_tile_is_much_larger_than_asked_for():
    asked = []
    network, x = build("unet"), picture(512, 512)
    with torch.inference_mode():
        network(lazily(x, Memory(32, 2**30, CPU), asked)).collect(CPU)
    assert max(rows[1] - rows[0] for rows, _ in asked) <= 2 * 32 + 8


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_no_line_at_tile_borders(name):
    network, x = build(name), torch.rand(1, 2, 256, 256) * 2 - 1
    step = in_tiles(network, x, Memory(32, 2**30, CPU)).diff(dim=3).abs().mean((0, 1, 2))
    border = np.zeros(255, bool)
    border[31::32] = True
    at_borders, elsewhere = float(step[border].mean()), float(step[~border].mean())
    expected = whole(network, x).diff(dim=3).abs().mean((0, 1, 2))
    assert at_borders / elsewhere == pytest.approx(float(expected[border].mean() / expected[~border].mean()), rel=1e-3)


def test_sampled_statistics_are_close(monkeypatch):
    """A map too deep and too large to visit whole: the mean over a sample of its tiles is near the true one."""
    monkeypatch.setattr(tiling, "SAMPLE", 32)
    monkeypatch.setattr(tiling, "EXACT_DEPTH", 2)
    network, x = build("resnet", width=4), picture(320, 320)
    out, expected = in_tiles(network, x, Memory(16, 0, CPU)), whole(network, x)
    assert 0 < float((out - expected).abs().mean()) < 0.05


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.Conv2d(2, 3, 4, padding=1, stride=2, bias=False),
        nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(2, 3, (1, 5), padding=(0, 2)),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1),
        nn.ConvTranspose2d(2, 4, 5, stride=3, padding=2, output_padding=2, groups=2),
        nn.ReflectionPad2d((3, 1, 0, 7)),
        nn.ReplicationPad2d(4),
        nn.ZeroPad2d((1, 2, 3, 4)),
        nn.Upsample(scale_factor=2),
        nn.LeakyReLU(0.2),
        nn.Tanh(),
    ],
    ids=lambda layer: str(layer).replace(" ", ""),
)
def test_every_region_of_every_layer(layer):
    x = torch.rand(1, 2, 45, 38, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected, out = layer(x), layer(lazily(x, Memory(2, 0, CPU)))
        assert isinstance(out, Lazy) and out.shape == expected.shape
        assert float((out.collect(CPU) - expected).abs().max()) < 1e-5
        height, width = expected.shape[2:]
        for rows, columns in (((0, 1), (0, 1)), ((height - 1, height), (width - 1, width)), ((5, 9), (3, 15))):
            part = out.read(rows, columns)
            assert float((part - expected[:, :, slice(*rows), slice(*columns)]).abs().max()) < 1e-5


def test_a_small_image_with_large_maps_is_cut_up_all_the_same():
    """The image itself may be no larger than a tile's maps; the maps of the layers are."""
    largest = []
    conv = nn.Conv2d(1, 64, 3, padding=1)
    network = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(64, 1, 3, padding=1)).eval()
    x, memory = torch.rand(1, 1, 128, 128), Memory(16, 0, CPU)
    assert x.numel() <= memory.small
    with torch.inference_mode():
        hidden = conv(lazily(x, memory))
        read = hidden.read
        hidden.read = lambda rows, columns: (largest.append(rows[1] - rows[0]), read(rows, columns))[1]
        out = network[1:](hidden).collect(CPU)
    assert float((out - whole(network, x)).abs().max()) < 1e-5
    assert len(largest) > 1 and max(largest) <= 18


class Attention(nn.Module):
    """Every pixel looks at all others, which tiles cannot."""

    multiple = 1

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        flat = x.flatten(2)
        weights = F.softmax(flat.transpose(1, 2) @ flat, -1)
        return self.last(x + (flat @ weights.transpose(1, 2)).reshape(x.shape))


class Conditioned(nn.Module):
    """An image and a class: as planes, as a scale and a shift of each channel, and as numbers."""

    multiple = 1

    def __init__(self):
        super().__init__()
        self.film, self.layer = nn.Embedding(3, 10), nn.Conv2d(2 + 3, 5, 3, padding=1)

    def forward(self, x, label, strength=0.5):
        one_hot = F.one_hot(label, 3).to(x)
        x = self.layer(torch.cat([x, one_hot[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1))
        scale, shift = self.film(label)[:, :, None, None].chunk(2, 1)
        return torch.tanh(strength * (shift + x * scale) + x + 0.1)


WITHOUT_A_FORM = {
    "attention": Attention(),
    "a mean": lambda x: x + x.mean((2, 3), keepdim=True),
    "an arithmetic": lambda x: x - 1,
    "a slice": lambda x: x[..., ::2],
    "a pool": nn.AdaptiveAvgPool2d(1),
    "a norm of groups": nn.GroupNorm(1, 2),
    "dropout in training": nn.Dropout(0.5),
    "circular padding": nn.CircularPad2d(1),
    "bilinear upsampling": nn.Upsample(scale_factor=2, mode="bilinear"),
    "maps of two sizes": lambda x: x + F.pad(x, (1, 1, 1, 1)),
    "a map beside a single pixel": lambda x: x + F.conv2d(x, torch.ones(2, 2, 40, 40), None, (1, 1), (0, 0), (1, 1), 1),
    "no image": lambda x: (x, x),
}


def test_what_has_no_form_in_tiles_is_one_sentence():
    x, found = picture(40, 40), {}
    for name, network in WITHOUT_A_FORM.items():
        try:
            in_tiles(network, x, Memory(16, 0, CPU))
        except NotInTilesError as error:
            found[name] = str(error)
    assert found.keys() == WITHOUT_A_FORM.keys()
    for text in found.values():
        assert text.startswith("The network of this model cannot be computed in tiles (")
        assert text.endswith("); use --tile off.") and "\n" not in text
    assert "flatten has no form in tiles" in found["attention"]


def test_full_memory_is_not_taken_for_an_operation_without_a_form():
    def full(x):
        raise MemoryError

    with pytest.raises(MemoryError):
        in_tiles(full, picture(40, 40), Memory(16, 0, CPU))


def test_conditions_pass_unchanged():
    torch.manual_seed(0)
    network, x = Conditioned().eval(), picture(96, 60)
    wrong = []
    for label in range(3):
        for free in (0, 2**30):
            condition = torch.tensor([label])
            with torch.inference_mode():
                expected = network(x, condition, 0.3)
            out = in_tiles(network, x, Memory(16, free, CPU), condition, 0.3)
            if out.shape != expected.shape or float((out - expected).abs().max()) > 1e-5:
                wrong.append((label, free))
    assert not wrong


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_prepared_network_in_tiles(precision):
    network, x = build("unet"), picture(96, 96)
    Runtime(CPU, precision).place(network)
    out, expected = in_tiles(network, x, Memory(16, 2**30, CPU)), whole(network, x)
    assert out.dtype == expected.dtype == torch.float32
    assert float((out - expected).abs().mean()) < (0.01 if precision is torch.bfloat16 else 1e-5)


@pytest.fixture
def attentive(tmp_path, monkeypatch):
    """A translator whose network has attention in it."""
    torch.manual_seed(0)
    card = ModelCard(
        "cyclegan",
        asdict(METHODS["cyclegan"].Config(generator="resnet_3", width=4)),
        32,
        {"a": 2, "b": 2},
        {"a": Scale(0, 255, "uint8"), "b": Scale(0, 255, "uint8")},
        {"a2b": "a2b"},
        1,
        "0",
    )
    use = METHODS["cyclegan"].build(METHODS["cyclegan"].Config(generator="resnet_3", width=4), card.facts)["a2b"]
    save_model(tmp_path / "m.safetensors", card, {"a2b": use.network})
    model = img2img.load(tmp_path / "m.safetensors", device="cpu", precision="fp32")
    monkeypatch.setattr(model, "_networks", {("a2b", None): Attention().eval()})
    monkeypatch.setattr(model, "_fresh", lambda: model._networks["a2b", None])
    monkeypatch.setattr(translator, "TILE_FROM", 20 * 20)
    return model


def test_large_images_of_such_a_network_go_whole_by_themselves(attentive):
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 2), np.uint8)
    expected = attentive(image, tile="off")
    assert attentive.tile((30, 30), TranslateOptions()) == 512
    for _ in range(2):
        assert np.array_equal(attentive(image), expected)
    assert attentive.tile((30, 30), TranslateOptions()) == 0
    assert attentive.notes == [
        "Large images are not translated in tiles: the network of this model cannot be computed in tiles (flatten has "
        "no form in tiles)."
    ]
    with pytest.raises(ConfigError, match=r"cannot be computed in tiles \(.*\); use --tile off\."):
        attentive(image, tile=16)


def test_such_a_network_without_memory_is_one_sentence(attentive, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(attentive, "_whole", full)
    image = np.zeros((200, 200, 2), np.uint8)
    monkeypatch.setattr(translator, "TILE_FROM", 2**30)
    with pytest.raises(
        TrainingError, match="Not enough memory for an image of 200x200 pixels: the network of this model cannot"
    ):
        attentive(image)
    assert not attentive.notes
