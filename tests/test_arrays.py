"""Arrays, tensors, PIL images and paths at every door: where channels lie, which way is up, what is no number."""

import json

import numpy as np
import pytest
import torch
from conftest import refused
from helpers import over
from PIL import Image, ImageCms
from safetensors.torch import load_file, save_file

import img2img
from img2img.data.axes import images_in
from img2img.data.domain import from_arrays
from img2img.data.holes import fill, holes_of, put_back
from img2img.data.images import read_image, write_image
from img2img.data.picture import Picture
from img2img.errors import ConfigError, DataError, ModelFileError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 48, 40, 3), dtype=np.uint8)
CELLS = RNG.integers(0, 2**16, (6, 32, 40, 12), dtype=np.uint16)  # of twelve channels
SMALL = {"size": 32, "width": 4, "d_width": 4, "discriminator": "patch_16", "generator": "resnet_3", "steps": 1}
SMALL |= {"augment": "none", "device": "cpu", "quiet": True}
DRAWN = {"size": 32, "width": 4, "d_width": 4, "steps": 1, "batch_size": 2, "device": "cpu", "quiet": True}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def taken(images, axis=None):
    return [
        x if isinstance(x, np.ndarray) else read_image(x.path).array
        for x in from_arrays("a", images_in("a", images, axis))
    ]


def test_images_are_the_same_however_they_are_handed_in(tmp_path):
    for i, image in enumerate(COLOUR):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    first = COLOUR.transpose(0, 3, 1, 2)
    ways = {
        "array": COLOUR,
        "list of arrays": list(COLOUR),
        "channels first": (first, 1),
        "list, channels first": (list(first), 0),
        "channels in the middle": (COLOUR.transpose(0, 1, 3, 2), 2),
        "counted from the end": (first, -3),
        "tensor": torch.from_numpy(first),
        "list of tensors": list(torch.from_numpy(first)),
        "tensor, channels last": (torch.from_numpy(COLOUR), -1),
        "gradient": torch.from_numpy(first.astype(np.float32)).requires_grad_(),
        "PIL": [Image.fromarray(x) for x in COLOUR],
        "paths": [tmp_path / f"{i}.png" for i in range(6)],
        "names": tuple(str(tmp_path / f"{i}.png") for i in range(6)),
        "mixed": [COLOUR[0], torch.from_numpy(first[1]), *(tmp_path / f"{i}.png" for i in range(2, 6))],
        "generator": (x for x in COLOUR),
    }
    for name, way in ways.items():
        found = taken(*way) if isinstance(way, tuple) and isinstance(way[-1], int) else taken(way)
        np.testing.assert_array_equal(np.stack(found), COLOUR, err_msg=name)
    assert [x.shape for x in taken(COLOUR[..., 0])] == [(48, 40, 1)] * 6
    assert [x.shape for x in taken(torch.from_numpy(COLOUR[..., 0]))] == [(48, 40, 1)] * 6
    assert [x.shape for x in taken(CELLS)] == [(32, 40, 12)] * 6


@over(
    "images, axis, words",
    [
        (COLOUR.transpose(0, 3, 1, 2), None, "looks like channels first; give channel_axis=1"),
        (list(COLOUR.transpose(0, 3, 1, 2)), None, "looks like channels first; give channel_axis=0"),
        (CELLS.transpose(0, 3, 1, 2)[:, :4], None, "looks like channels first"),
        (COLOUR, 4, "channel_axis=4 is not an axis of a"),
        (COLOUR[..., 0], 1, "(N, H, W): it has no channel axis"),
        (COLOUR[0, :, :, 0], None, "not an array of shape (48, 40)"),
        (COLOUR[None], None, "not an array of shape (1, 6, 48, 40, 3)"),
        (Image.fromarray(COLOUR[0]), None, "not Image"),
        (3, None, "not int"),
        ([Image.new("HSV", (3, 3)), object()], None, "Array 1 of domain a is object"),
        (["nowhere.png"], None, "nowhere.png"),
        ([torch.zeros(3, 4, 4, dtype=torch.bfloat16)], None, "A tensor of torch.bfloat16 cannot be used"),
    ],
)
def test_what_is_no_image_is_a_sentence(images, axis, words):
    assert words in refused(DataError, taken, images, axis)


@pytest.mark.parametrize("method", ["cyclegan", "dcgan"])
def test_training_takes_channels_where_they_are(method, tmp_path):
    """Of channels first, no network of as many channels as an image has columns."""
    options = SMALL if method == "cyclegan" else DRAWN
    images = [np.ascontiguousarray(x.transpose(2, 0, 1)[:, :32, :32]) for x in COLOUR]

    def train(given, out, **more):
        places = {"a": given, "b": given} if method == "cyclegan" else {"data": given}
        return img2img.train(method, out=tmp_path / out, **places, **options, **more).card

    assert "looks like channels first" in refused(DataError, train, np.stack(images), "no")
    assert not (tmp_path / "no").exists()
    cards = [train(np.stack(images), "axis", channel_axis=1), train(torch.from_numpy(np.stack(images)), "tensor")]
    for card in cards:
        assert [d.out_channels for d in card.directions.values()] == [3] * len(card.directions)
    assert "channel_axis is for arrays" in refused(
        ConfigError, img2img.train, method, out=tmp_path / "no", data="x", channel_axis=1, **options
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """CycleGANs of colours, and of floats."""
    folder = tmp_path_factory.mktemp("runs")
    floats = (COLOUR / 255).astype(np.float32)
    img2img.train("cyclegan", a=COLOUR, b=COLOUR[::-1], out=folder / "colour", **SMALL | {"precision": "fp32"})
    img2img.train("cyclegan", a=floats, b=floats[::-1], out=folder / "float", **SMALL)
    return folder


def test_evaluating_takes_channels_where_they_are(runs):
    model, first = img2img.load(runs / "colour", device="cpu"), COLOUR.transpose(0, 3, 1, 2)
    rows = img2img.evaluate(model, a=COLOUR, b=COLOUR, metrics="drift").rows
    for given, axis in ((first, 1), (torch.from_numpy(first), None), ([Image.fromarray(x) for x in COLOUR], None)):
        assert img2img.evaluate(model, a=given, b=given, metrics="drift", channel_axis=axis).rows == rows
    text = refused(DataError, img2img.evaluate, model, a=first, b=first, metrics="drift")
    assert "a has the shape (6, 3, 48, 40), which looks like channels first; give channel_axis=1" in text


def test_a_model_is_asked_with_channels_where_they_are(runs):
    model = img2img.load(runs / "colour", device="cpu")
    text = refused(DataError, model, COLOUR[0].transpose(2, 0, 1))
    assert "(3, 48, 40), which looks like channels first; give channel_axis=0" in text


# PIL images


@over(orientation=range(1, 9))
def test_pil_images_are_turned_as_files_are(runs, tmp_path, orientation):
    model, exif = img2img.load(runs / "colour", device="cpu"), Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "kept"
    Image.fromarray(COLOUR[0]).save(tmp_path / "x.png", exif=exif, icc_profile=SRGB, dpi=(300, 150))
    with Image.open(tmp_path / "x.png") as image:
        dpi, out = image.info["dpi"], model(image)
        assert image.getexif()[0x0112] == orientation and image.size == (40, 48)
    np.testing.assert_array_equal(np.asarray(out), model(tmp_path / "x.png"))
    assert out.size == ((48, 40) if orientation > 4 else (40, 48))
    assert out.info["icc_profile"] == SRGB and out.info["dpi"] == pytest.approx(dpi)
    assert out.getexif()[0x0112] == 1 and out.getexif()[0x010E] == "kept"
    np.testing.assert_array_equal(taken([Image.open(tmp_path / "x.png")])[0], read_image(tmp_path / "x.png").array)


@over(mode=["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_pil_images_of_every_mode_are_taken_as_files_of_that_kind(runs, tmp_path, mode):
    model = img2img.load(runs / "colour", device="cpu")
    image = Image.fromarray(COLOUR[0])
    if mode == "PA":
        image = image.convert("P").convert("PA")
    else:
        image = image.convert(mode)
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(Image.fromarray(COLOUR[1, ..., 0]))
    path = tmp_path / ("x.jpg" if mode in ("CMYK", "YCbCr") else "x.png")
    (image.convert("RGBA") if mode == "PA" else image).save(path, quality=100)
    with Image.open(path) as from_file:
        opened = image if mode == "PA" else from_file.copy()
    expected = read_image(path)
    np.testing.assert_array_equal(taken([opened])[0], expected.array)
    out = model(opened, channels="convert")
    colour = "L" if mode in ("1", "L", "LA") else "RGB"
    assert out.mode == colour + "A" * (expected.alpha is not None) and out.size == opened.size
    np.testing.assert_array_equal(np.asarray(out.convert(colour)), model(expected.array, channels="convert").squeeze())
    if expected.alpha is not None:
        np.testing.assert_array_equal(np.asarray(out)[..., -1], expected.alpha[..., 0])


def test_palettes_with_a_transparent_colour(runs):
    image = Image.fromarray(COLOUR[0]).quantize(16)
    image.info["transparency"] = 3
    out = img2img.load(runs / "colour", device="cpu")(image)
    assert out.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(out)[..., 3] == 0, np.asarray(image) == 3)


def test_a_profile_of_other_channels_is_dropped(runs):
    image = Image.fromarray(COLOUR[0]).convert("CMYK")
    image.info["icc_profile"] = bytes(16) + b"CMYK" + bytes(108)
    assert "icc_profile" not in img2img.load(runs / "colour", device="cpu")(image).info


# Precision


@over(method=["cyclegan", "dcgan"], dtype=["uint8", "uint16", "float32"])
def test_auto_trains_in_bf16_for_8_bits_alone(method, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("img2img.runtime.device.multiplies_bf16", lambda device: True)
    found = []

    def stop(built, train, heldout, config, run, runtime, *rest):
        found.append(runtime.dtype)
        raise KeyboardInterrupt

    monkeypatch.setattr("img2img.api.training.Trainer", stop)
    images = COLOUR[:, :32, :32].astype(dtype)
    places = {"a": images, "b": images} if method == "cyclegan" else {"data": images}
    options = SMALL if method == "cyclegan" else DRAWN
    for asked in ("auto", "bf16"):
        with pytest.raises(KeyboardInterrupt):
            img2img.train(method, out=tmp_path / asked, precision=asked, **places, **options)
    assert found == [torch.bfloat16 if dtype == "uint8" else torch.float32, torch.bfloat16]


# Values that are no numbers


@over(value=[np.nan, np.inf, -np.inf])
def test_an_image_with_a_pixel_that_is_no_number_is_refused_and_named(runs, tmp_path, value):
    good, model = (COLOUR / 255).astype(np.float32), img2img.load(runs / "float", device="cpu")
    bad = good.copy()
    bad[3, 5, 6, 1] = value
    place = f"{'NaN' if np.isnan(value) else 'infinity'} in row 5, column 6, channel 1 (1 such value in all)"
    for i, image in enumerate(bad):
        write_image(tmp_path / "in" / f"{i}.tif", Picture(image))
    summary = img2img.translate(model, tmp_path / "in", tmp_path / "out")
    assert summary.translated == 5
    [(path, reason)] = summary.failed
    assert path.name == "3.tif" and f"3.tif: It has {place}; repair it, or use --nan mask" in reason
    assert f"It has {place}; repair it" in refused(DataError, model, bad[3])
    assert f"It has {place}; repair it" in refused(DataError, model, list(bad))
    places = {"b": str(tmp_path / "in"), "out": tmp_path / "run"}
    write_image(tmp_path / "good" / "0.tif", Picture(good[0]))
    write_image(tmp_path / "good" / "1.tif", Picture(good[1]))
    text = refused(DataError, img2img.train, "cyclegan", a=str(tmp_path / "good"), **places, **SMALL)
    assert f"3.tif has {place}; repair it or remove it" in text and not (tmp_path / "run").exists()
    text = refused(DataError, img2img.train, "cyclegan", a=good, b=bad, out=tmp_path / "run", **SMALL)
    assert f"array 3 of domain B has {place}; repair it or remove it" in text and not (tmp_path / "run").exists()
    text = refused(DataError, img2img.train, "dcgan", data=bad[:, :32, :32], out=tmp_path / "run", **DRAWN)
    assert f"array 3 of domain data has {place}; repair it or remove it" in text
    text = refused(DataError, img2img.evaluate, real=str(tmp_path / "in"), fake=str(tmp_path / "in"), size=32)
    assert f"3.tif has {place}; repair it or remove it" in text
    text = refused(DataError, img2img.evaluate, real=list(bad), fake=list(good), size=32)
    assert f"array 3 of domain A has {place}" in text


@over(value=[np.nan, np.inf, -np.inf], channels=["exact", "convert"])
def test_values_that_are_no_numbers_are_masked_on_demand(runs, tmp_path, value, channels):
    model = img2img.load(runs / "float", device="cpu")
    image = (COLOUR[0] / 255).astype(np.float32)
    image = image[..., :1] if channels == "convert" else image
    hole = np.zeros(image.shape, bool)
    hole[5, 6, -1] = hole[7, 8, 0] = True
    filled = image.copy()
    for c in range(image.shape[2]):
        filled[..., c][hole[..., c]] = np.median(image[..., c][~hole[..., c]])
    bad = np.where(hole, np.float32(value), image)
    before = bad.copy()
    out = model(bad, nan="mask", channels=channels)
    assert np.array_equal(bad, before, equal_nan=True)
    assert np.array_equal(out, np.where(hole, bad, model(filled, channels=channels)), equal_nan=True)
    write_image(tmp_path / "in" / "0.tif", Picture(bad))
    summary = img2img.translate(model, tmp_path / "in", tmp_path / "out", nan="mask", channels=channels)
    assert summary.translated == 1
    assert np.array_equal(read_image(tmp_path / "out" / "0.tif").array, out, equal_nan=True)


def test_holes_of_results_of_other_kinds():
    array = np.ones((2, 3, 2), np.float32)
    array[0, 1, 0] = np.inf
    out = put_back(np.zeros((2, 3, 1), np.float32), array, holes_of(array))
    assert np.isnan(out[0, 1, 0]) and np.isfinite(out).sum() == 5 and out.dtype == np.float32
    assert "cannot be put back into uint8 results" in refused(
        DataError, put_back, np.zeros((2, 3, 2), np.uint8), array, holes_of(array)
    )
    empty = np.full((2, 2, 1), np.nan)
    assert not fill(empty, holes_of(empty)).any() and holes_of(np.ones((2, 2, 1))) is None


def test_a_pixel_too_large_for_the_model_is_refused(runs, tmp_path):
    data = (runs / "float" / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    card = json.loads(header["__metadata__"]["img2img"])
    for scale in card["scales"].values():
        scale["dtype"] = "float64"
    path = tmp_path / "double.safetensors"
    save_file(load_file(runs / "float" / "model.safetensors"), path, metadata={"img2img": json.dumps(card)})
    image = COLOUR[0] / 255
    model = img2img.load(path, device="cpu")
    assert np.isfinite(model(image)).all()
    image[0, 0, 0] = 1e300
    assert "too large for the model" in refused(DataError, model, image)


def test_a_model_with_a_weight_that_is_no_number_is_refused(runs, tmp_path):
    source = runs / "colour" / "model.safetensors"
    data, tensors = source.read_bytes(), load_file(source)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = next(name for name in tensors if name.startswith("a2b."))
    tensors[name].flatten()[0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors", metadata=header["__metadata__"])
    text = refused(ModelFileError, img2img.load, tmp_path / "nan.safetensors", device="cpu")
    assert "holds weights that are not finite numbers" in text and "take an earlier model" in text
