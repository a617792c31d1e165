"""From a model file to translated arrays and folders."""

import json
import sys
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import img2img
from img2img import cli
from img2img.data.images import Picture, read_image, write_image
from img2img.errors import ConfigError, DataError, ModelFileError
from img2img.inference.engine import translate_folder

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


@pytest.fixture
def model(folder):
    return img2img.load(folder, device="cpu", precision="fp32")


class Identity(nn.Module):
    multiple = 4

    def forward(self, x):
        assert x.shape[2] % 4 == x.shape[3] % 4 == 0
        return x


def close(x, y):
    return x.shape == y.shape and x.dtype == y.dtype and np.abs(x.astype(int) - y.astype(int)).max() <= 1


# Arrays


@pytest.mark.parametrize(("height", "width"), [(32, 32), (1, 1), (7, 45), (33, 64), (50, 3)])
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
    assert all(close(x, model(image)) for x, image in zip(together, images, strict=True))
    assert model([]) == []


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_batch_of_n_is_n_batches_of_one(model, direction):
    images = [pixels(seed=i) for i in range(4)]
    together = model.translate_batch(images, direction)
    assert all(
        close(x, model.translate_batch([image], direction)[0]) for x, image in zip(together, images, strict=True)
    )


def test_directions_differ(model, folder):
    image = pixels()
    assert model.directions == ["a2b", "b2a"] and model.direction == "a2b"
    assert not np.array_equal(model(image), model(image, direction="b2a"))
    backwards = img2img.load(folder, device="cpu", precision="fp32", direction="b2a")
    np.testing.assert_array_equal(backwards(image), model(image, direction="b2a"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_identity_network_returns_the_input_at_any_size(model, height, width, seed):
    model.network = lambda direction: Identity()
    image = pixels(height, width, seed=seed)
    np.testing.assert_array_equal(model(image), image, strict=True)
    other = pixels(width, height, seed=seed + 1)
    for x, y in zip(model([image, other, image]), [image, other, image], strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


@pytest.mark.parametrize("image", [pixels(channels=1), pixels(channels=4), pixels(dtype="uint16"), pixels()[..., 0]])
def test_wrong_kind_is_refused(model, image):
    with pytest.raises(DataError, match=r"takes \(H, W, 3\) uint8 images; this one is .*Convert it first"):
        model(image)


def test_empty_image_is_refused(model):
    with pytest.raises(DataError, match="no pixels"):
        model(np.zeros((0, 5, 3), np.uint8))


@pytest.mark.parametrize("shape", [(), (5,), (1, 32, 32, 3)])
def test_array_of_other_dimensions_is_refused(model, shape):
    with pytest.raises(DataError):
        model(np.zeros(shape, np.uint8))


def test_bad_batch_size(model, tmp_path):
    with pytest.raises(ConfigError, match="batch_size"):
        model([pixels()], batch_size=0)
    with pytest.raises(ConfigError, match="--batch-size"):
        translate_folder(model, tmp_path, tmp_path / "out", batch_size=0)


def test_calls_do_not_train_or_remember(model):
    image = pixels()
    first = model(image)
    model([pixels(seed=3)] * 2)
    np.testing.assert_array_equal(model(image), first)
    assert not model.network("a2b").training


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
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_folder_is_mirrored(model, source, tmp_path):
    out = tmp_path / "out"
    seen = []
    summary = translate_folder(
        model, source, out, batch_size=2, progress=lambda done, total: seen.append((done, total))
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
    summary = translate_folder(model, source, tmp_path / "out", report=reported.__setitem__)
    assert summary.translated == 5
    assert {path.name for path, _ in summary.failed} == {"broken.png", "grey.png"}
    assert reported == dict(summary.failed)
    assert "broken.png" in reported[source / "broken.png"]
    assert "1 channels of uint8; this model takes 3 of uint8" in reported[source / "grey.png"]
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


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["img2img", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, *capsys.readouterr()


def test_command_counts_failures_in_its_exit_code(folder, source, tmp_path, monkeypatch, capsys):
    words = ["translate", folder, source, "--out", tmp_path / "out", "--device", "cpu", "--precision", "fp32"]
    (source / "broken.png").write_bytes(b"")
    code, out, err = command(monkeypatch, capsys, *words)
    assert code == 1
    assert "5 images translated" in out and "1 failed" in out and "broken.png" in err
    code, out, _ = command(monkeypatch, capsys, *words)
    assert code == 1 and "0 images translated" in out and "5 were there already" in out
    (source / "broken.png").unlink()
    code, out, _ = command(monkeypatch, capsys, *words, "--overwrite")
    assert code in (0, None) and "5 images translated" in out


# The model file


def test_model_file_holds_tensors_and_json_only(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    card = json.loads(header.pop("__metadata__")["img2img"])
    assert card["method"] == "cyclegan" and set(card["directions"]) == {"a2b", "b2a"}
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
    for content in (b"", b"text", b"\x80\x02}q\x00."):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"bad\.safetensors is damaged or not a safetensors file"):
            img2img.load(tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError, match=r"last\.pt is damaged or not"):
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
    with pytest.raises(ConfigError, match=r"no direction in this model 'a2bb'.*Did you mean 'a2b'"):
        img2img.load(folder, device="cpu", direction="a2bb")
    with pytest.raises(ConfigError, match=r"no direction in this model 'b2a'.*Choose from: a2b"):
        img2img.load(deep_folder, device="cpu", direction="b2a")
    with pytest.raises(ConfigError, match="no direction"):
        model(pixels(), direction="c2d")
