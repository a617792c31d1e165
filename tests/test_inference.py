"""From a model file to translated arrays and folders."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import refused
from helpers import over
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import img2img
from img2img.data.images import read_image, write_image
from img2img.data.picture import Picture
from img2img.errors import ConfigError, DataError, ModelFileError, TrainingError
from img2img.model import backends, folder as engine
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.report.page import page
from img2img.runtime.files import _host, remove_stale

TINY = {
    "size": 32,
    "width": 4,
    "d_width": 4,
    "discriminator": "patch_16",
    "steps": 2,
    "augment": "none",
    "device": "cpu",
    "precision": "fp32",
    "quiet": True,
}


def pixels(height=32, width=32, channels=3, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder of CycleGAN, colour to colour."""
    out = tmp_path_factory.mktemp("cyclegan") / "run"
    a, b = ([pixels(seed=k + i) for i in range(3)] for k in (0, 50))
    img2img.train("cyclegan", a=a, b=b, out=out, generator="resnet_3", **TINY)
    return out


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory):
    """A run folder of pix2pix, 8-bit colour to 16-bit grey."""
    out = tmp_path_factory.mktemp("pix2pix") / "run"
    a, b = [pixels(seed=i) for i in range(3)], [pixels(channels=1, dtype="uint16", seed=i) for i in range(3)]
    img2img.train("pix2pix", a=a, b=b, out=out, generator="unet_32", **TINY)
    return out


@pytest.fixture(scope="module")
def grey_folder(tmp_path_factory):
    """A run folder of CycleGAN, 16-bit grey to the same."""
    out = tmp_path_factory.mktemp("grey") / "run"
    a, b = ([pixels(channels=1, dtype="uint16", seed=k + i) for i in range(3)] for k in (0, 50))
    img2img.train("cyclegan", a=a, b=b, out=out, generator="resnet_3", **TINY)
    return out


@pytest.fixture
def grey_model(grey_folder):
    return img2img.load(grey_folder, device="cpu")


@pytest.fixture
def model(folder):
    return img2img.load(folder, device="cpu", precision="fp32")


SIZES = [(8, 12), (32, 32), (244, 252), (500, 500), (300, 300), (100, 64), (33, 45), (250, 301)]
SIZES_32 = [(32, 32), (96, 160), (64, 224), (33, 45), (250, 300)]


class Identity(nn.Module):
    multiple = 4

    def forward(self, x):
        assert x.shape[2] % 4 == x.shape[3] % 4 == 0
        return x


def translate_folder(model, source, out, **options):
    return img2img.translate(model, source, out, **options)


def close(x, y):
    return x.shape == y.shape and x.dtype == y.dtype and np.abs(x.astype(int) - y.astype(int)).max() <= 1


# Arrays


@over("height, width", [(32, 32), (1, 1), (7, 45), (33, 64), (50, 3)])
def test_any_size_comes_back(model, height, width):
    image = pixels(height, width)
    before = image.copy()
    out = model(image)
    assert out.shape == image.shape and out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_other_channels_and_type_on_the_way_out(deep_folder):
    model = img2img.load(deep_folder, device="cpu", precision="fp32")
    out = model(pixels(40, 21))
    assert out.shape == (40, 21, 1) and out.dtype == np.uint16
    assert model.directions == ["a2b"]


def test_read_only_and_strided_arrays(model):
    image = pixels(32, 32)
    image.flags.writeable = False
    model(image)
    view = pixels(32, 40)[:, ::-1]
    np.testing.assert_array_equal(model(view), model(view.copy()))


def test_list_in_list_out_in_order(model):
    images = [pixels(h, w, seed=h) for h, w in ((32, 32), (20, 33), (32, 32), (9, 9), (31, 30))]
    together = model(images, batch_size=2)
    assert isinstance(together, list)
    assert all(np.array_equal(x, model(image)) for x, image in zip(together, images, strict=True))
    assert model([]) == []


@over(direction=["a2b", "b2a"])
def test_batch_of_n_is_n_batches_of_one(model, direction):
    images = [pixels(seed=i) for i in range(4)]
    together = model.towards(direction).translate_batch(images)
    for x, image in zip(together, images, strict=True):
        np.testing.assert_array_equal(x, model.towards(direction).translate_batch([image])[0])


def test_directions_differ(model, folder):
    image = pixels()
    assert model.directions == ["a2b", "b2a"] and model.direction == "a2b"
    assert not np.array_equal(model(image), model(image, direction="b2a"))
    backwards = img2img.load(folder, device="cpu", precision="fp32", direction="b2a")
    np.testing.assert_array_equal(backwards(image), model(image, direction="b2a"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_identity_network_returns_the_input_at_any_size(model, height, width, seed):
    model._network = Identity
    image = pixels(height, width, seed=seed)
    np.testing.assert_array_equal(model(image), image, strict=True)
    other = pixels(width, height, seed=seed + 1)
    for x, y in zip(model([image, other, image]), [image, other, image], strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


@over(
    "image, sentence",
    [
        (pixels(channels=1), r"has 1 channel, but this model takes 3\. Use --channels convert"),
        (pixels()[..., 0], r"has 1 channel, but this model takes 3\. Use --channels convert"),
        (pixels(channels=4), r"has 4 channels, but this model takes 3\. Convert it first\."),
        (pixels(dtype="uint16"), r"has uint16 values, and this model was trained on uint8"),
    ],
)
def test_wrong_kind_is_refused(model, image, sentence):
    with pytest.raises(DataError, match=sentence):
        model(image)


def test_empty_image_is_refused(model):
    with pytest.raises(DataError, match="no pixels"):
        model(np.zeros((0, 5, 3), np.uint8))


@over(shape=[(), (5,), (1, 1, 32, 32, 3)])
def test_array_of_other_dimensions_is_refused(model, shape):
    with pytest.raises(DataError):
        model(np.zeros(shape, np.uint8))


def test_bad_batch_size(model, tmp_path):
    with pytest.raises(ConfigError, match="--batch-size"):
        model([pixels()], batch_size=-1)
    with pytest.raises(ConfigError, match="--batch-size"):
        translate_folder(model, tmp_path, tmp_path / "out", batch_size=-1)


def test_calls_do_not_train_or_remember(model):
    image = pixels()
    first = model(image)
    model([pixels(seed=3)] * 2)
    np.testing.assert_array_equal(model(image), first)
    assert not model.network().training


@over("fixture, sizes", [("model", SIZES), ("deep_folder", SIZES_32)])
def test_the_result_is_that_of_the_bare_network(fixture, sizes, request):
    """Sizes that divide go through as they are; others as docs/models.md says, on the network's grid."""
    model = request.getfixturevalue(fixture)
    model = model if fixture == "model" else img2img.load(model, device="cpu", precision="fp32")
    spec, network = model.spec(), model.network()
    limit = 1 if spec.scale_out.dtype == "uint8" else 10  # of 65,535
    for height, width in sizes:
        image = pixels(height, width)
        padded = np.pad(image, ((0, -height % network.multiple), (0, -width % network.multiple), (0, 0)), "reflect")
        with torch.no_grad():
            bare = spec.scale_out.decode(network(spec.scale_in.encode(padded)[None])[0])[:height, :width]
        assert np.abs(model(image).astype(int) - bare).max() <= limit, (height, width)


def test_padding_keeps_images_on_the_grid_of_the_network(model):
    """Inside, padding moves the result by a fraction of what a shift by half a stride does."""
    network, scale = model.network(), model.spec().scale_in
    ramp = np.linspace(0, 255, 163)[None, :, None] * np.linspace(0.5, 1, 159)[:, None, None]
    image = np.clip(ramp + np.random.default_rng(0).normal(0, 20, (159, 163, 3)), 0, 255).astype(np.uint8)

    def bare(array):
        with torch.no_grad():
            return scale.decode(network(scale.encode(array)[None])[0]).astype(float)

    def error(out):
        return np.abs(out - bare(image[:156, :160]))[24:-24, 24:-24].mean()

    shifted = bare(np.pad(image[:156, :160], ((2, 2), (2, 2), (0, 0)), "reflect"))[2:-2, 2:-2]
    assert error(model(image)[:156, :160]) < error(shifted) / 4


# What may be handed in


def test_channel_axis(model):
    image = pixels(20, 33)
    expected = model(image)
    np.testing.assert_array_equal(model(image.transpose(2, 0, 1), channel_axis=0), expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(model(image.transpose(0, 2, 1), channel_axis=1), expected.transpose(0, 2, 1))


def test_stack_of_images(model):
    stack = np.stack([pixels(24, 20, seed=i) for i in range(3)])
    out = model(stack, batch_size=2)
    assert out.shape == stack.shape
    assert all(close(x, model(image)) for x, image in zip(out, stack, strict=True))
    out = model(stack.transpose(0, 3, 1, 2), channel_axis=1)
    assert out.shape == (3, 3, 24, 20)
    assert model(stack[:0]).shape == (0, 24, 20, 3)


def test_tensors_have_their_channels_third_from_last(model):
    image = pixels(20, 33)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    before = tensor.clone()
    out = model(tensor)
    assert isinstance(out, torch.Tensor) and out.dtype == torch.uint8 and torch.equal(tensor, before)
    np.testing.assert_array_equal(out.permute(1, 2, 0).numpy(), model(image))
    assert model(tensor[None]).shape == (1, 3, 20, 33)


def test_pil_images_and_paths(model, tmp_path):
    image = pixels(20, 33)
    expected = model(image)
    for mode in ("RGB", "RGBA"):
        picture = Image.fromarray(image).convert(mode)
        out = model(picture)
        assert isinstance(out, Image.Image) and out.mode == mode and out.size == (33, 20)
        np.testing.assert_array_equal(np.asarray(out)[..., :3], expected)
    Image.fromarray(image).save(tmp_path / "x.png")
    np.testing.assert_array_equal(model(tmp_path / "x.png"), expected)
    np.testing.assert_array_equal(model([str(tmp_path / "x.png"), image])[1], expected)
    with pytest.raises(DataError, match="not int"):
        model(3)


def test_grey_through_a_model_of_colours(model):
    grey = pixels(20, 33, 1)
    out = model(grey, channels="convert")
    assert out.shape == grey.shape and out.dtype == np.uint8
    colours = model(np.repeat(grey, 3, axis=2)).astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(out[..., 0] - colours).max() <= 0.5
    assert model(grey[..., 0], channels="convert").shape == (20, 33)


def test_channels_one_by_one(grey_model):
    image = pixels(20, 33, 4, "uint16")
    out = grey_model(image, channels="each")
    assert out.shape == image.shape
    for c in range(4):
        assert np.abs(out[..., c].astype(int) - grey_model(image[..., c])).max() <= 3
    with pytest.raises(DataError, match=r"has 4 channels, but this model takes 1\. Use --channels each"):
        grey_model(image)
    with pytest.raises(ConfigError, match="Did you mean 'each'"):
        grey_model(image, channels="eech")


def test_several_threads(model):
    images = [pixels(20 + i, 33, seed=i) for i in range(6)]
    expected = [model(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for out, wanted in zip(pool.map(model, images), expected, strict=True):
            np.testing.assert_array_equal(out, wanted)


# Large images, ensembles, memory, precision


@over(fixture=["model", "grey_model"])
def test_tiles_give_the_whole_image(fixture, request):
    model = request.getfixturevalue(fixture)
    spec = model.spec()
    image = pixels(150, 203, spec.in_channels, spec.scale_in.dtype)
    whole, tiled = model(image, tile="off"), model(image, tile=32)
    assert tiled.shape == image.shape and tiled.dtype == image.dtype
    limit = 0 if spec.scale_in.dtype == "uint8" else 3  # of 65,535
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() <= max(limit, 1)


def test_large_images_go_in_tiles_by_themselves(model):
    assert model.tile((2048, 2048), TranslateOptions()) == 0
    assert model.tile((2048, 2304), TranslateOptions()) == 512
    assert model.tile((2048, 2304), TranslateOptions(tile="off")) == 0
    assert model.tile((300, 200), TranslateOptions(tile="256")) == 256
    assert model.tile((200, 200), TranslateOptions(tile="256")) == 0
    for wrong in ("8", "-64", "big", ""):
        with pytest.raises(ConfigError, match="--tile takes auto, off or a number"):
            TranslateOptions(tile=wrong)


def test_ensemble_is_the_mean_of_turns_and_mirrors(model):
    image = pixels(32, 32)
    turned = [np.rot90(model(np.rot90(image, k)), -k).astype(float) for k in range(4)]
    mirrored = [np.rot90(model(np.rot90(image[:, ::-1], k)), -k)[:, ::-1].astype(float) for k in range(4)]
    out = model(image, ensemble=True)
    assert np.abs(out - np.mean(turned + mirrored, axis=0)).max() <= 1.01
    assert not np.array_equal(out, model(image))
    again = model(np.rot90(image), ensemble=True)
    assert close(np.rot90(again, -1), out)
    assert model(pixels(20, 33), ensemble=True).shape == (20, 33, 3)


def test_smaller_batches_when_memory_is_full(model, monkeypatch):
    images = [pixels(seed=i) for i in range(5)]
    expected = model(images)
    whole = model._whole

    def full(arrays, size, together):
        if len(arrays) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(arrays, size, together)

    monkeypatch.setattr(model, "_whole", full)
    assert all(close(x, y) for x, y in zip(model(images, batch_size=5), expected, strict=True))
    assert model.notes == ["Out of memory with 5 images at once; continuing with 3.",
                           "Out of memory with 3 images at once; continuing with 2."]  # fmt: skip
    assert model.batch_size((32, 32), TranslateOptions(batch_size=5)) == 2


def test_tiles_when_memory_is_full(model, monkeypatch):
    image = pixels(200, 256)

    def full(arrays, size, together):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    expected = model(image)
    monkeypatch.setattr(model, "_whole", full)
    assert close(model(image), expected) and model.notes == ["Out of memory; continuing in tiles of 100 pixels."]
    with pytest.raises(TrainingError, match="Not enough memory for an image of 256x200"):
        model(image, tile="off")


def test_other_errors_are_not_taken_for_full_memory(model, monkeypatch):
    monkeypatch.setattr(model, "_whole", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        model(pixels())


def test_bf16_is_used_where_it_is_close_to_fp32(folder, monkeypatch):
    exact = img2img.load(folder, device="cpu", precision="fp32")(pixels())
    monkeypatch.setattr("img2img.runtime.device.multiplies_bf16", lambda device: True)
    model = img2img.load(folder, device="cpu")
    assert np.abs(model(pixels()).astype(int) - exact).mean() <= 2
    assert re.fullmatch(r"cpu, bf16, \d\.\d\d/255 from fp32", model.describe())


def test_bf16_is_not_used_where_it_is_not_close(folder, monkeypatch):
    exact = img2img.load(folder, device="cpu", precision="fp32")(pixels())
    monkeypatch.setattr("img2img.runtime.device.multiplies_bf16", lambda device: True)
    monkeypatch.setattr("img2img.model.backends.difference", lambda x, y: 0.1)
    model = img2img.load(folder, device="cpu")
    np.testing.assert_array_equal(model(pixels()), exact)
    assert model.describe() == "cpu, fp32, because bf16 was 12.75/255 away"
    asked = img2img.load(folder, device="cpu", precision="bf16")
    asked(pixels())
    assert asked.describe() == "cpu, bf16"


def test_16_bit_goes_through_fp32(deep_folder, monkeypatch):
    monkeypatch.setattr("img2img.runtime.device.multiplies_bf16", lambda device: True)
    assert img2img.load(deep_folder, device="cpu").describe() == "cpu, fp32"


@pytest.fixture
def with_bf16(monkeypatch):
    """A machine that multiplies bf16."""
    monkeypatch.setattr("img2img.runtime.device.multiplies_bf16", lambda device: True)


def test_precision_depends_on_the_model_alone(folder, with_bf16):
    """Whatever image comes first."""
    found = set()
    for first in (np.zeros((40, 24, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8), pixels(64, 64)):
        model = img2img.load(folder, device="cpu")
        model(first)
        found.add(model.describe())
    assert len(found) == 1 and torch.equal(backends.probe(3, 4), backends.probe(3, 4))
    assert backends.probe(1, 512).shape == (1, 1, 512, 512) and backends.probe(3, 4).abs().max() <= 1


@over(precision=["fp32", "bf16"])
def test_a_batch_gives_each_image_what_it_gets_alone(folder, precision):
    """To the bit, whatever kernels the batch would choose."""
    model = img2img.load(folder, device="cpu", precision=precision)
    for height, width in ((32, 32), (20, 33), (64, 64)):
        images = [pixels(height, width, seed=i) for i in range(7)]
        alone = [model.signals([image], TranslateOptions())[0] for image in images]
        for count in (2, 3, 4, 7):
            options = TranslateOptions(batch_size=count)
            together = [
                s for i in range(0, 7, count) for s in model.signals(images[i : i + count], options)
            ]  # fmt: skip
            assert all(map(torch.equal, together, alone)), (height, width, count)
    assert len(model._batches) == 12


@pytest.mark.parametrize(("off", "expected"), [(0.0, [3, 3, 1]), (1e-6, [1] * 7)])
def test_batches_that_change_nothing_are_used(model, monkeypatch, off, expected):
    sizes = []

    def forward(x):
        sizes.append(len(x))
        return x * 0.5 + (off if len(x) > 1 else 0)

    way = model._way(in_tiles=False)
    monkeypatch.setattr(model, "_way", lambda *_, **__: way._replace(forward=forward))
    model([pixels(seed=i) for i in range(3)], batch_size=3)
    sizes.clear()
    model([pixels(seed=i) for i in range(7)], batch_size=3)
    assert sizes == expected


@pytest.mark.slow
def test_compiled_draws_the_same(folder):
    expected = img2img.load(folder, device="cpu", precision="fp32")(pixels())
    model = img2img.load(folder, device="cpu", precision="fp32", backend="compile")
    assert close(model(pixels()), expected) and model.describe() == "cpu, fp32, compile"


def test_a_network_that_cannot_be_compiled(folder, monkeypatch):
    monkeypatch.setattr(backends, "COMPILER", no_compiler)
    model = img2img.load(folder, device="cpu", backend="compile")
    with pytest.raises(ConfigError, match="--backend compile does not work here: there is no C\\+\\+ compiler"):
        model(pixels())


def no_compiler(graph, inputs):
    raise RuntimeError("there is no C++ compiler\nand more")


def test_unknown_backend(folder):
    with pytest.raises(ConfigError, match=r"Unknown --backend 'complie'.*Did you mean 'compile'"):
        img2img.load(folder, device="cpu", backend="complie")


def test_results_of_a_backend_that_is_not_offered_any_more(folder, photos, tmp_path):
    out = tmp_path / "out"
    img2img.translate(folder, photos / "1.png", out, device="cpu")
    record = json.loads((out / ".img2img.json").read_text())
    (out / ".img2img.json").write_text(json.dumps(record | {"backend": "openvino"}))
    text = refused(ConfigError, img2img.translate, folder, photos, out, device="cpu")
    assert "computed differently: backend was openvino, now auto. Use --overwrite" in text
    with pytest.raises(ConfigError, match=r"Unknown --backend 'openvino'\. Choose from: auto, eager, compile"):
        img2img.load(folder, device="cpu", backend="openvino")


# Folders


@pytest.fixture
def source(tmp_path):
    """Images of several sizes and formats, one with alpha, in sub-folders."""
    source = tmp_path / "in"
    write_image(source / "x.png", Picture(pixels(32, 40)))
    write_image(source / "sub" / "y.TIF", Picture(pixels(17, 33, seed=1)))
    write_image(source / "sub" / "deep" / "z.jpg", Picture(pixels(32, 32, seed=2)))
    write_image(source / "sub" / "w.bmp", Picture(pixels(32, 32, seed=3)))
    write_image(source / "alpha.png", Picture(pixels(30, 30, seed=4), pixels(30, 30, 1, seed=5)))
    return source


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}


def test_folder_is_mirrored(model, source, tmp_path):
    out = tmp_path / "out"
    seen = []
    summary = translate_folder(
        model, source, out, batch_size=2, progress=lambda outcome: seen.append((outcome.done, outcome.total))
    )
    assert (summary.translated, summary.skipped, summary.failed) == (5, 0, [])
    assert tree(out) == tree(source)
    assert seen == [(i, 5) for i in range(1, 6)]
    for name in ("x.png", "sub/y.TIF", "sub/w.bmp"):
        assert close(read_image(out / name).array, model(read_image(source / name).array))
    assert read_image(out / "sub/deep/z.jpg").array.shape == (32, 32, 3)
    np.testing.assert_array_equal(read_image(out / "alpha.png").alpha, read_image(source / "alpha.png").alpha)


def test_one_image_as_source(model, source, tmp_path):
    summary = img2img.translate(model, source / "x.png", tmp_path / "out")
    assert summary.translated == 1 and tree(tmp_path / "out") == {"x.png"}


def test_other_kind_of_pixels_in_a_folder(deep_folder, tmp_path):
    model = img2img.load(deep_folder, device="cpu", precision="fp32")
    write_image(tmp_path / "in" / "x.png", Picture(pixels(20, 40)))
    assert translate_folder(model, tmp_path / "in", tmp_path / "out").failed == []
    out = read_image(tmp_path / "out" / "x.png").array
    assert out.dtype == np.uint16 and out.shape == (20, 40, 1)


def test_alpha_does_not_break_another_type_on_the_way_out(deep_folder, tmp_path):
    model = img2img.load(deep_folder, device="cpu", precision="fp32")
    write_image(tmp_path / "in" / "x.png", Picture(pixels(20, 40), pixels(20, 40, 1)))
    summary = translate_folder(model, tmp_path / "in", tmp_path / "out")
    assert summary.failed == [] and summary.translated == 1
    assert read_image(tmp_path / "out" / "x.png").array.dtype == np.uint16


def test_bad_files_are_reported_and_the_rest_done(model, source, tmp_path):
    (source / "broken.png").write_bytes(b"no image")
    write_image(source / "grey.png", Picture(pixels(channels=1)))
    reported = {}
    summary = translate_folder(
        model, source, tmp_path / "out", progress=lambda outcome: reported.update({outcome.source: outcome.reason})
    )
    assert summary.translated == 5
    assert {path.name for path, _ in summary.failed} == {"broken.png", "grey.png"}
    assert {path: reason for path, reason in reported.items() if reason} == dict(summary.failed)
    assert "broken.png" in reported[source / "broken.png"]
    assert "grey.png: It has 1 channel, but this model takes 3." in reported[source / "grey.png"]
    assert tree(tmp_path / "out") == tree(source) - {"broken.png", "grey.png"}


def test_rerun_does_only_what_is_missing(model, source, tmp_path):
    out = tmp_path / "out"
    translate_folder(model, source, out)
    (out / "x.png").unlink()
    (out / "alpha.png").write_bytes(b"kept")
    again = translate_folder(model, source, out)
    assert (again.translated, again.skipped) == (1, 4)
    assert (out / "x.png").exists() and (out / "alpha.png").read_bytes() == b"kept"
    redone = translate_folder(model, source, out, overwrite=True)
    assert (redone.translated, redone.skipped) == (5, 0)
    assert (out / "alpha.png").read_bytes() != b"kept"


def test_results_inside_the_source_are_not_translated_again(model, source):
    out = source / "out"
    for translated, skipped in ((5, 0), (0, 5)):
        summary = translate_folder(model, source, out)
        assert (summary.translated, summary.skipped) == (translated, skipped)


def test_originals_are_never_overwritten(model, source, tmp_path):
    before = {name: (source / name).read_bytes() for name in tree(source)}
    link = tmp_path / "link"
    link.symlink_to(source)
    for images, out in ((source, source), (source, link), (source / "x.png", source)):
        with pytest.raises(ConfigError, match="overwrite the original"):
            translate_folder(model, images, out, overwrite=True)
    assert {name: (source / name).read_bytes() for name in tree(source)} == before
    with pytest.raises(ConfigError, match="is a file"):
        translate_folder(model, source, source / "x.png")
    with pytest.raises(DataError, match="no folder"):
        translate_folder(model, tmp_path / "nowhere", tmp_path / "out")


def test_command_counts_failures_in_its_exit_code(folder, source, tmp_path, command_line):
    words = ["translate", folder, source, "--out", tmp_path / "out", "--device", "cpu", "--precision", "fp32"]
    (source / "broken.png").write_bytes(b"")
    code, out, err = command_line(*words)
    assert code == 1
    assert "5 images translated" in out and "1 failed" in out and "broken.png" in err
    code, out, _ = command_line(*words)
    assert code == 1 and "0 images translated" in out and "5 already there" in out
    (source / "broken.png").unlink()
    code, out, _ = command_line(*words, "--overwrite")
    assert code == 0 and "5 images translated" in out


def test_stacks_go_page_by_page(model, tmp_path):
    stack = np.stack([pixels(24, 20, seed=i) for i in range(3)])
    write_image(tmp_path / "in" / "stack.npy", Picture(stack))
    write_image(tmp_path / "in" / "one.npy", Picture(stack[0]))
    assert translate_folder(model, tmp_path / "in", tmp_path / "out", batch_size=2).translated == 2
    out = read_image(tmp_path / "out" / "stack.npy").array
    assert out.shape == stack.shape and all(close(x, model(page)) for x, page in zip(out, stack, strict=True))
    assert read_image(tmp_path / "out" / "one.npy").array.shape == (24, 20, 3)


def test_pages_that_may_be_channels_and_what_is_not_kept_are_said(model, tmp_path):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "x.tif", np.moveaxis(pixels(24, 20), -1, 0), photometric="minisblack")
    translated = translate_folder(model, tmp_path / "in", tmp_path / "out")
    [(_, reason)] = translated.failed
    assert "Each of its 3 pages is taken for an image" in reason and "use --pages channels if" in reason
    assert translate_folder(model, tmp_path / "in", tmp_path / "channels", pages="channels").translated == 1
    for name in ("y", "z"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", pixels(24, 20), photometric="rgb", compression="jpeg2000")
    job = engine.Job(model, tmp_path / "in", tmp_path / "kept", TranslateOptions(), FolderOptions())
    list(job.run())
    notes = [note for note in job.translator.notes if note.startswith("Results do not keep JPEG2000 compression")]
    assert len(notes) == 1


def test_a_folder_of_equalized_images_is_refused(model, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".img2img.json").write_text('{"equalizer": "0123abcd"}')
    says = refused(ConfigError, translate_folder, model, source, tmp_path / "out")
    assert ".img2img.json is damaged, or the record of another command; choose another --out" in says


def test_outcomes_one_by_one(model, source, tmp_path):
    (source / "broken.png").write_bytes(b"")
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "x.png", Picture(pixels()))
    outcomes = list(img2img.translate_folder(model, source, tmp_path / "out"))
    assert {o.source.name: o.status for o in outcomes} == {
        "x.png": "skipped", "y.TIF": "translated", "z.jpg": "translated", "w.bmp": "translated",
        "alpha.png": "translated", "broken.png": "failed",
    }  # fmt: skip
    assert [o.done for o in outcomes] == list(range(1, 7)) and {o.total for o in outcomes} == {6}
    assert next(o for o in outcomes if o.status == "failed").reason.startswith(str(source / "broken.png"))


def test_another_format(model, source, tmp_path):
    summary = translate_folder(model, source, tmp_path / "out", format="PNG")
    assert summary.failed == [] and tree(tmp_path / "out") == {
        "x.png", "alpha.png", "sub/y.png", "sub/w.png", "sub/deep/z.png"
    }  # fmt: skip
    write_image(source / "x.bmp", Picture(pixels()))
    summary = translate_folder(model, source, tmp_path / "again", format=".tif")
    [(path, reason)] = summary.failed
    assert path.name == "x.png" and "its result would have the same path as that of" in reason and "x.bmp" in reason
    with pytest.raises(ConfigError, match=r"Unknown format 'pgn'.*Did you mean 'png'"):
        translate_folder(model, source, tmp_path / "out", format="pgn")


def test_quality_of_jpeg(model, source, tmp_path):
    sizes = {}
    for quality in (30, 95):
        translate_folder(model, source / "sub/deep", tmp_path / str(quality), quality=quality)
        sizes[quality] = (tmp_path / str(quality) / "z.jpg").stat().st_size
    assert sizes[30] < sizes[95]
    with pytest.raises(ConfigError, match="--quality takes a whole number from 1 to 100"):
        translate_folder(model, source, tmp_path / "out", quality=0)


def test_pixel_limit(model, source, tmp_path):
    summary = translate_folder(model, source, tmp_path / "out", max_megapixels=1000 / 1e6)
    assert {path.name for path, _ in summary.failed} == {"x.png", "z.jpg", "w.bmp"}  # 1,280 and 1,024 pixels
    assert all("exceeds the limit" in reason for _, reason in summary.failed)


def test_report(model, source, tmp_path):
    (source / "broken.png").write_bytes(b"")
    translate_folder(model, source, tmp_path / "out", report=tmp_path / "new" / "report.json")
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["translated"] == 5 and report["skipped"] == 0 and report["seconds"] > 0
    assert [entry["file"] for entry in report["failed"]] == [str(source / "broken.png")]
    assert report["direction"] == "a2b" and report["computed"] == "cpu, fp32"


def test_report_that_cannot_be_written_is_said_at_once(model, source, tmp_path):
    with pytest.raises(ConfigError, match=r"The report .*x\.png/report\.json cannot be written"):
        translate_folder(model, source, tmp_path / "out", report=source / "x.png" / "report.json")
    assert not (tmp_path / "out").exists()


def test_originals_behind_a_link_are_not_overwritten(model, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(source / "sub")
    before = (source / "sub" / "w.bmp").read_bytes()
    summary = translate_folder(model, source, tmp_path / "out", overwrite=True)
    assert (source / "sub" / "w.bmp").read_bytes() == before
    assert summary.translated == 2 and all("through a link" in reason for _, reason in summary.failed)


def test_an_image_too_large_for_the_memory_is_one_failure(model, tmp_path, monkeypatch):
    write_image(tmp_path / "in" / "large.npy", Picture(np.stack([pixels(96, 96)] * 3)))
    write_image(tmp_path / "in" / "small.png", Picture(pixels()))
    signals = model.signals

    def full(arrays, options):
        if arrays[0].shape[0] > 64:
            raise TrainingError("Not enough memory.")
        return signals(arrays, options)

    monkeypatch.setattr(model, "signals", full)
    summary = translate_folder(model, tmp_path / "in", tmp_path / "out", batch_size=2)
    assert summary.translated == 1
    assert summary.failed == [(tmp_path / "in" / "large.npy", f"{tmp_path / 'in' / 'large.npy'}: Not enough memory.")]


def test_values_outside_the_range_of_the_training_are_counted(grey_folder, tmp_path):
    narrow = {"low": 100, "high": 1000, "dtype": "uint16"}
    path = edited(grey_folder, tmp_path / "narrow.safetensors", lambda card: card["scales"].update(a=narrow))
    image = np.full((10, 10, 1), 500, np.uint16)
    image[0, :5], image[1, :3] = 1001, 99
    write_image(tmp_path / "in" / "x.tif", Picture(image))
    write_image(tmp_path / "in" / "y.tif", Picture(np.clip(image, 100, 1000)))
    summary = translate_folder(img2img.load(path, device="cpu"), tmp_path / "in", tmp_path / "out")
    assert summary.outside == [(tmp_path / "in" / "x.tif", 0.08)]


def test_full_disk_stops_the_job(model, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("img2img.model.folder.write_image", full)
    with pytest.raises(TrainingError, match=r"The disk is full; .* was not written. Make room"):
        translate_folder(model, source, tmp_path / "out")


def test_folder_that_cannot_be_written(model, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").write_text("a file")
    summary = translate_folder(model, source, tmp_path / "out")
    assert summary.translated == 2 and len(summary.failed) == 3


def test_what_a_killed_run_left_is_removed_later(model, source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    foreign = [
        out / name for name in (".abc.part.png", ".movie.part.rar", ".a.img2img-part.png", ".notes.img2img-part")
    ]
    living = out / f".{_host()}-{os.getpid()}-12345678.img2img-part.png"
    old, dead = living.with_name(living.name.replace("1234", "0000")), out / f".{_host()}-{2**30}-12345678.img2img-part"
    elsewhere = out / f".00000000-{2**30}-12345678.img2img-part.png"  # of another machine
    for path in (*foreign, living, old, dead, elsewhere):
        path.write_text("x")
    for path in (*foreign, old):
        os.utime(path, (1, 1))
    translate_folder(model, source, out)
    assert set(out.glob(".*")) == {*foreign, living, elsewhere, out / ".img2img.json"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not say which processes ended")
def test_what_a_process_left_that_nobody_has_waited_for_is_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        living, dead = (tmp_path / f".{_host()}-{pid}-12345678.img2img-part.png" for pid in (os.getpid(), ended.pid))
        for path in (living, dead):
            path.write_text("x")
        remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [living]


def test_stopping_early_leaves_whole_files_only(model, source, tmp_path):
    outcomes = img2img.translate_folder(model, source, tmp_path / "out", batch_size=1)
    next(outcomes)
    outcomes.close()
    written = tree(tmp_path / "out")
    assert written <= tree(source)
    for name in written:
        read_image(tmp_path / "out" / name)


def test_files_are_let_go_when_done(model, tmp_path, monkeypatch):
    """Memory does not grow with the number of files."""
    for i in range(100):
        write_image(tmp_path / "in" / f"{i}.png", Picture(pixels(8, 8, seed=i)))
    read = []

    def watched(*words):
        picture = read_image(*words)
        read.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr("img2img.model.folder.read_image", watched)
    alive = [
        sum(reference() is not None for reference in list(read))
        for _ in img2img.translate_folder(model, tmp_path / "in", tmp_path / "out", batch_size=2)
    ]
    assert len(read) == len(alive) == 100 and max(alive) <= 60 and alive[-1] <= 2


@over(width=[64, 1024])
def test_no_more_is_read_ahead_than_there_is_room_for(model, tmp_path, monkeypatch, width):
    """From the first image on, by the size that the headers say."""
    monkeypatch.setattr(engine, "LOOK_AHEAD_BYTES", 2**20)
    for i in range(24):
        write_image(tmp_path / "in" / f"{i:02}.png", Picture(pixels(128, width, seed=i)))
    lock, reading, most = threading.Lock(), 0, 0

    def watched(*words):
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        return read_image(*words)

    def let_go(*words):
        nonlocal reading
        with lock:
            reading -= 1
        return opened(*words)

    opened = engine.Job._open
    monkeypatch.setattr(engine, "read_image", watched)
    monkeypatch.setattr(engine.Job, "_open", let_go)
    assert translate_folder(model, tmp_path / "in", tmp_path / "out").translated == 24
    assert most == 2 if width == 1024 else 2 < most <= 16  # of 384 and 24 KiB


def test_a_folder_that_cannot_be_written_is_found_out_first(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "signals", lambda *_: pytest.fail("it has been computed"))
    monkeypatch.setattr(os, "access", lambda path, mode: path not in (tmp_path / "out", tmp_path / "out" / "sub"))
    (tmp_path / "out" / "sub").mkdir(parents=True)
    summary = translate_folder(model, source, tmp_path / "out")
    assert summary.translated == 0 and len(summary.failed) == 5
    reasons = {reason for _, reason in summary.failed}
    assert all("is write-protected" in reason for reason in reasons)
    (tmp_path / "file").write_text("x")
    text = refused(ConfigError, translate_folder, model, source, tmp_path / "file" / "out")
    assert "cannot be written: Not a directory; choose another --out" in text


def test_ctrl_c_is_one_line(folder, source, tmp_path, monkeypatch, command_line):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("img2img.api.translating.translate_on", stop)
    code, _, err = command_line("translate", folder, source, "--out", tmp_path / "out")
    assert code == 130 and err.strip() == "Stopped. Run the same command again to compute what is missing."


@pytest.mark.slow
def test_killed_command_leaves_nothing_broken_and_is_finished_by_the_next(folder, tmp_path):
    for i in range(200):
        write_image(tmp_path / "in" / f"{i:03}.png", Picture(pixels(64, 64, seed=i)))
    words = ["translate", str(folder), str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "img2img", *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("[!.]*.png"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = list((tmp_path / "out").glob("[!.]*.png"))
    assert 20 <= len(done) < 200
    for path in done:
        assert read_image(path).array.shape == (64, 64, 3)
    summary = img2img.translate(folder, tmp_path / "in", tmp_path / "out")
    assert (summary.translated, summary.skipped, summary.failed) == (200 - len(done), len(done), [])


# The same bytes, whatever the job


def test_small_images_depend_on_no_number_of_threads(folder, with_bf16, tmp_path, monkeypatch):
    """Not even without a record: each is computed on one."""
    for i in range(6):
        write_image(tmp_path / "in" / f"{i}.png", Picture(pixels(128, 96 + 4 * i, seed=i)))
    before, found = torch.get_num_threads(), []
    try:
        for cores in (1, 2, 3):
            torch.set_num_threads(cores)
            img2img.translate(folder, tmp_path / "in", tmp_path / str(cores), device="cpu", precision="bf16")
            assert torch.get_num_threads() == cores
            found.append(contents(tmp_path / str(cores)))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of three sizes, and what a job of all of them writes with PyTorch on one thread, in bf16."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(9):
        write_image(root / "in" / f"{i}.{'png' if i % 2 else 'tif'}", Picture(pixels(32 + i % 3 * 8, 40, seed=i)))
    return root / "in"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in tree(folder)}


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(9)),
    parts=st.integers(1, 4),
    batch=st.integers(0, 5),
    stop=st.integers(1, 9),  # where nothing is there, a restart is a job of its own
    threads=st.integers(1, 3),
    cores=st.integers(1, 3),
    precision=st.sampled_from(["auto", "fp32", "bf16"]),
    small=st.sampled_from([0, engine.SMALL]),
)
def test_files_are_equal_however_the_job_is_cut(
    folder,
    photos,
    tmp_path_factory,
    with_bf16,
    order,
    parts,
    batch,
    stop,
    threads,
    cores,
    precision,
    small,
    monkeypatch,
):
    """By order, part, batch, restart, threads that call, and the threads that PyTorch has after a restart."""
    monkeypatch.setattr(engine, "SMALL", small)
    out, names = tmp_path_factory.mktemp("out"), sorted(tree(photos))
    expected = WRITTEN.get((precision, small))
    if expected is None:
        img2img.translate(folder, photos, out / "all", device="cpu", precision=precision)
        expected = WRITTEN[precision, small] = contents(out / "all")
    begun = img2img.translate_folder(folder, photos, out / "x", device="cpu", precision=precision, batch_size=batch)
    for _ in range(stop):
        next(begun)
    begun.close()
    model = img2img.load(folder, device="cpu", precision=precision)
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for part in range(parts):
                jobs = [photos / names[i] for i in order[part::parts]]
                list(pool.map(lambda path: img2img.translate(model, path, out / "x", batch_size=batch), jobs))
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert contents(out / "x") == expected


WRITTEN = {}


def test_what_is_missing_is_computed_as_the_rest_was(folder, photos, tmp_path, monkeypatch, with_bf16):
    """In bf16, here, on a machine that would take fp32 by itself; and said so."""
    out = tmp_path / "out"
    first = img2img.translate(folder, photos, out, device="cpu")
    assert re.fullmatch(r"cpu, bf16, .* from fp32", first.computed)
    expected = contents(out)
    (out / "1.png").unlink()
    monkeypatch.setattr("img2img.runtime.device.multiplies_bf16", lambda device: False)
    model = img2img.load(folder, device="cpu")
    again = img2img.translate(model, photos, out)
    assert (again.translated, again.skipped, again.computed) == (1, 8, "cpu, bf16")
    assert contents(out) == expected and model.describe() == "cpu, fp32"
    record = json.loads((out / ".img2img.json").read_text())
    assert {k: record[k] for k in ("direction", "device", "precision", "backend", "threads")} == {
        "direction": "a2b", "device": "cpu", "precision": "bf16", "backend": "eager", "threads": 1,
    }  # fmt: skip


@over(
    "options, differing",
    [
        ({"precision": "bf16"}, "precision was fp32, now bf16"),
        ({"direction": "b2a"}, "direction was a2b, now b2a"),
        ({"ensemble": True}, "ensemble was False, now True"),
        ({"quality": 80, "tile": 64}, "tile was auto, now 64; quality was 95, now 80"),
        ({"backend": "compile"}, "backend was eager, now compile"),
    ],
)
def test_results_of_other_options_are_not_mixed(folder, photos, tmp_path, options, differing):
    img2img.translate(folder, photos / "1.png", tmp_path / "out", device="cpu", precision="fp32")
    before = contents(tmp_path / "out")
    text = refused(ConfigError, img2img.translate, folder, photos, tmp_path / "out", device="cpu", **options)
    assert f"were computed differently: {differing}. Use --overwrite to replace them" in text
    assert contents(tmp_path / "out") == before
    if "backend" not in options:
        img2img.translate(folder, photos / "1.png", tmp_path / "out", device="cpu", overwrite=True, **options)
        img2img.translate(folder, photos / "2.tif", tmp_path / "out", device="cpu", **options)


def test_results_of_another_model_or_device_are_not_mixed(folder, photos, tmp_path):
    out = tmp_path / "out"
    img2img.translate(folder, photos / "1.png", out, device="cpu", precision="fp32")
    other = edited(folder, tmp_path / "other.safetensors", lambda card: card.update(step=7))
    assert "the model is another" in refused(ConfigError, img2img.translate, other, photos, out, device="cpu")
    record = json.loads((out / ".img2img.json").read_text())
    (out / ".img2img.json").write_text(json.dumps(record | {"device": "NVIDIA X"}))
    text = refused(ConfigError, img2img.translate, folder, photos, out)
    assert "device was NVIDIA X, now " in text
    model = img2img.load(folder, device="cpu")  # asked for by name
    assert img2img.translate(model, photos, out).translated == 8
    assert model.notes == ["The existing results may be rounded differently: device was NVIDIA X, now cpu."]
    for damaged in ("{", "[]", "{}", json.dumps(record | {"precision": "evil"}), json.dumps(record | {"threads": -1})):
        (out / ".img2img.json").write_text(damaged)
        assert "is damaged" in refused(ConfigError, img2img.translate, folder, photos, out, device="cpu")


def test_replacing_that_was_stopped_is_told_from_results(folder, photos, tmp_path):
    out = tmp_path / "out"
    img2img.translate(folder, photos, out, device="cpu", precision="fp32")
    again = {"device": "cpu", "precision": "fp32", "ensemble": True}
    begun = img2img.translate_folder(folder, photos, out, overwrite=True, **again)
    next(begun)
    begun.close()
    assert "was interrupted; use --overwrite again" in refused(
        ConfigError, img2img.translate, folder, photos, out, **again
    )
    assert img2img.translate(folder, photos, out, overwrite=True, **again).translated == 9
    assert img2img.translate(folder, photos, out, **again).skipped == 9


def test_results_without_a_record_are_kept_and_it_is_said(folder, photos, tmp_path):
    write_image(tmp_path / "out" / "1.png", Picture(pixels()))
    model = img2img.load(folder, device="cpu")
    assert img2img.translate(model, photos, tmp_path / "out").skipped == 1
    assert model.notes == [
        f"{tmp_path / 'out'} has no record of how its results were computed; they are kept unchanged."
    ]


# The model file


def test_model_file_holds_tensors_and_json_only(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    card = json.loads(header.pop("__metadata__")["img2img"])
    assert card["method"] == "cyclegan" and set(card["uses"]) == {"a2b", "b2a"}
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert spans[0][0] == 0 and spans[-1][1] == len(data) - 8 - length  # nothing beside the tensors
    assert all(end == begin for (_, end), (begin, _) in pairwise(spans))
    assert not zipfile.is_zipfile(path)


def test_file_and_run_folder_are_the_same_model(folder, model):
    image = pixels()
    np.testing.assert_array_equal(
        img2img.load(folder / "model.safetensors", device="cpu", precision="fp32")(image), model(image)
    )
    moved = folder.parent / "elsewhere.safetensors"
    moved.write_bytes((folder / "model.safetensors").read_bytes())
    np.testing.assert_array_equal(img2img.load(str(moved), device="cpu", precision="fp32")(image), model(image))


def edited(folder, path, change):
    """A copy of the model file whose card went through `change`."""
    tensors = load_file(folder / "model.safetensors")
    data = (folder / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    card = json.loads(header["__metadata__"]["img2img"])
    change(card)
    save_file(tensors, path, metadata={"img2img": json.dumps(card)})
    return path


def test_files_that_are_no_model(folder, tmp_path):
    with pytest.raises(ModelFileError, match=r"no model or run folder .*nowhere"):
        img2img.load(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"holds no model\.safetensors"):
        img2img.load(tmp_path)
    damaged, foreign = "is damaged or not a safetensors file", "is a file of torch.save; .* first run img2img import"
    for content, said in ((b"", damaged), (b"text", damaged), (b"\x80\x02}q\x00.", foreign)):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(ModelFileError, match=rf"bad\.safetensors {said}"):
            img2img.load(tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError, match=r"last\.pt is what its run is resumed from; give the folder"):
        img2img.load(folder / "last.pt")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelFileError, match="not written by img2img"):
        img2img.load(tmp_path / "foreign.safetensors")
    data = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFileError, match=r"cut\.safetensors is damaged"):
        img2img.load(tmp_path / "cut.safetensors")


def test_model_of_the_future_is_refused(folder, tmp_path):
    path = edited(folder, tmp_path / "new.safetensors", lambda card: card.update(format=99, version="9.9"))
    with pytest.raises(ModelFileError, match=r"written by img2img 9\.9.*Upgrade"):
        img2img.load(path)


def test_model_without_the_promised_weights_is_refused(folder, tmp_path):
    path = edited(folder, tmp_path / "wide.safetensors", lambda card: card["config"].update(width=8))
    with pytest.raises(ModelFileError, match="does not hold the weights"):
        img2img.load(path)


def test_card_with_an_option_of_another_version_is_refused(folder, tmp_path):
    path = edited(folder, tmp_path / "odd.safetensors", lambda card: card["config"].update(no_such_option=1))
    with pytest.raises(ModelFileError):
        img2img.load(path)
    (tmp_path / "junk.safetensors").touch()
    save_file({"x": torch.zeros(2)}, tmp_path / "junk.safetensors", metadata={"img2img": "{not json"})
    with pytest.raises(ModelFileError):
        img2img.load(tmp_path / "junk.safetensors")


def test_unknown_direction(folder, deep_folder, model):
    with pytest.raises(ConfigError, match=r"Unknown direction in this model 'a2bb'.*Did you mean 'a2b'"):
        img2img.load(folder, device="cpu", direction="a2bb")
    with pytest.raises(ConfigError, match=r"Unknown direction in this model 'b2a'.*Choose from: a2b"):
        img2img.load(deep_folder, device="cpu", direction="b2a")
    with pytest.raises(ConfigError, match="Unknown direction"):
        model(pixels(), direction="c2d")


# Names and files of all kinds, on the command line

ESCAPES = "\x1b]0;title\x07"


@pytest.fixture
def odd(tmp_path):
    """A folder with a good image, a damaged one whose name a terminal would obey, and three of other formats."""
    write_image(tmp_path / "in" / "good.png", Picture(pixels()))
    (tmp_path / "in" / f"{ESCAPES}.png").write_bytes(b"text")
    for name in ("a.heic", "b.HEIC", "c.gif"):
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


def test_names_are_shown_so_that_no_terminal_obeys_them(folder, odd, tmp_path, command_line):
    code, out, err = command_line("translate", folder, odd, "--out", tmp_path / "out", "--precision", "fp32")
    assert code == 1 and "1 image translated" in out and "1 failed" in out
    assert "\x1b" not in out + err and "\x07" not in out + err
    line = next(line for line in err.splitlines() if line.startswith("failed: "))
    assert line.count("title") == 1 and "is not in a format" in line
    assert "3 files were skipped: 2 .heic, 1 .gif." in err.splitlines()


def test_a_stream_that_cannot_encode_a_name_ends_nothing(folder, tmp_path):
    write_image(tmp_path / "in" / "\u65e5\u672c.png", Picture(pixels()))
    words = ["translate", folder, tmp_path / "in", "--out", tmp_path / "out_\u65e5\u672c", "--precision", "fp32"]
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(Path(img2img.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-m", "img2img", *map(str, words)], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    assert rb"out_\u65e5\u672c" in done.stdout
    assert (tmp_path / "out_\u65e5\u672c" / "\u65e5\u672c.png").is_file()


def test_a_target_that_is_a_folder_and_an_out_that_leads_nowhere(folder, tmp_path, command_line):
    write_image(tmp_path / "in" / "x.png", Picture(pixels()))
    (tmp_path / "out" / "x.png").mkdir(parents=True)
    code, _, err = command_line("translate", folder, tmp_path / "in", "--out", tmp_path / "out", "--precision", "fp32")
    assert code == 1 and "x.png, which is a folder." in err
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json"] == ["x.png"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    code, _, err = command_line("translate", folder, tmp_path / "in", "--out", tmp_path / "link")
    assert code == 2 and "link is a broken link; give a folder." in err


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are text")
def test_names_that_are_no_text(folder, tmp_path, command_line):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_image(odd / "caf\udce9.png", Picture(pixels()))
    code, _, err = command_line("translate", folder, odd, "--out", odd.with_name("out\udce9"), "--precision", "fp32")
    assert code == 0, err
    assert read_image(odd.with_name("out\udce9") / "caf\udce9.png").array.shape == (32, 32, 3)
    assert page("caf\udce9", "").encode()
    shutil.copytree(folder, odd / "run")
    code, _, err = command_line("info", odd / "run")
    assert code == 2 and "cannot be opened: its name is not UTF-8; rename it or its folder." in err
    with pytest.raises(img2img.Img2ImgError, match="cannot hold a model: its name is not UTF-8; choose another --out"):
        img2img.train("dcgan", data=[pixels(seed=i) for i in range(3)], out=odd / "new", size=32, steps=1)
    assert not (odd / "new").exists()
