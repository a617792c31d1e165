"""Drawing images with a trained model: arrays, files, pictures, the command line, mistakes."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from helpers import over
from PIL import Image
from safetensors.torch import load_file, save_file

import img2img
from img2img.api.models import sample
from img2img.cli import main as cli
from img2img.data.folders import find_images
from img2img.data.images import read_image
from img2img.errors import ConfigError, DataError, ModelFileError, TrainingError
from img2img.interchange.export import export_model
from img2img.model.file import read_card
from img2img.model.samples import GRID_IMAGES, WALKS
from img2img.model.sampling import Sampler

ROOT = Path(cli.__file__).parents[1]
OPTIONS = dict(steps=2, batch_size=3, latent=3, width=8, d_width=2, device="cpu", precision="fp32", quiet=True)
CPU = dict(device="cpu", precision="fp32")
KINDS = {  # method, type, lowest and highest value, (H, W, C), options
    "uint8": ("gan", np.uint8, 0, 255, (4, 4, 3), {}),
    "uint16": ("wgan_gp", np.uint16, 100, 60000, (4, 4, 1), {"network": "mlp"}),
    "float": ("wgan", np.float32, -3.0, 5.0, (4, 4, 2), {"network": "mlp", "noise": "uniform"}),
    "dcgan": ("dcgan", np.uint8, 0, 255, (16, 16, 1), {"noise": "uniform", "width": 2}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Run folders of barely trained models, one for each kind of image."""
    folders, rng = {}, np.random.default_rng(0)
    patch = pytest.MonkeyPatch()
    patch.setattr("img2img.training.journal.write_report", lambda *_: None)  # takes longer than such a run
    for name, (method, dtype, low, high, shape, options) in KINDS.items():
        data = rng.uniform(low, high, (5, *shape)).astype(dtype)
        data[0].flat[:2] = low, high
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        img2img.train(method, out=folders[name], data=data, size=shape[0], **OPTIONS | options)
    patch.undo()
    return folders


@pytest.fixture(scope="module")
def samplers(models):
    return {name: Sampler(str(folder), **CPU) for name, folder in models.items()}


def assert_same(name, a, b):
    """Equal up to the order in which products of other batch sizes are added up."""
    assert a.shape == b.shape and a.dtype == b.dtype
    atol = {"uint16": 1, "float": 1e-5}.get(name, 0)
    np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=0, atol=atol)


# Arrays.


@over(name=KINDS)
def test_an_image_depends_on_the_seed_and_its_number_alone(name, samplers):
    model = samplers[name]
    images = model(9)
    for batch_size in (1, 2, 7, 100):
        assert_same(name, model(9, batch_size=batch_size), images)
    assert_same(name, model(3, start=4, batch_size=2), images[4:7])
    assert_same(name, model(20, batch_size=6)[:9], images)
    assert not np.array_equal(model(9, seed=1), images)
    assert len({image.tobytes() for image in images}) > 1


def test_threads_that_draw_at_once_get_what_one_gets(samplers):
    model = samplers["float"]
    expected = [model(1, 5, start=i, batch_size=1) for i in range(60)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: model(1, 5, start=i, batch_size=1), range(60)))
    finally:
        sys.setswitchinterval(switch)
    assert all(map(np.array_equal, found, expected))


def test_a_job_that_was_stopped_draws_the_same_bytes(models, tmp_path, monkeypatch):
    """Each image among the same neighbours in its batch, whatever was there already."""
    model = Sampler(models["float"], **CPU)
    network = model._network
    model._network = lambda noise: network(noise) + noise.mean()  # as if the rounding told who the neighbours were
    for parts in ([11], [3, 7, 11]):
        for n in parts:
            sample(model, n, out=tmp_path / str(parts), batch_size=4)
    (tmp_path / "[3, 7, 11]" / "000002.tif").unlink()
    sample(model, 11, out=tmp_path / "[3, 7, 11]", batch_size=4)
    whole, cut = ({p.name: p.read_bytes() for p in (tmp_path / name).glob("*.tif")} for name in ("[11]", "[3, 7, 11]"))
    assert whole == cut and len(cut) == 11


@over(name=KINDS)
def test_images_are_like_those_of_the_training(name, samplers):
    _, dtype, low, high, shape, _ = KINDS[name]
    images = samplers[name](6)
    assert images.shape == (6, *shape) and images.dtype == dtype
    assert images.min() >= low and images.max() <= high
    scale = samplers[name].spec().scale_out
    assert (scale.low, scale.high, scale.dtype) == (low, high, np.dtype(dtype).name)


def test_drawing_leaves_the_random_state_alone(samplers):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    samplers["uint8"](3)
    assert torch.equal(torch.rand(3), expected)


@over(given=["folder", "file", "model"])
def test_sample_takes_a_model_or_its_path(given, models, samplers):
    model = {"folder": models["uint8"], "file": str(models["uint8"] / "model.safetensors"), "model": samplers["uint8"]}
    options = {} if given == "model" else CPU
    assert np.array_equal(sample(model[given], 4, seed=3, batch_size=3, **options), samplers["uint8"](4, seed=3))


@over(name=["uint8", "float", "dcgan"])
def test_a_walk_leads_from_one_image_to_another(name, samplers):
    model = samplers[name]
    walk = model.walk(2, 5, 7, seed=1)
    assert len(walk) == 7
    assert_same(name, walk[0], model(6, seed=1)[2])
    assert_same(name, walk[-1], model(6, seed=1)[5])


def test_a_walk_to_the_same_image_stays(samplers):
    for name in ("uint8", "float"):
        for image in samplers[name].walk(3, 3, 4):
            assert_same(name, image, samplers[name](4)[3])


def test_a_walk_keeps_the_length_of_normal_noise(samplers, monkeypatch):
    model, seen = samplers["uint8"], []
    monkeypatch.setattr(model, "images_of", lambda noise, _: seen.append(noise.norm(dim=1)))
    model.walk(0, 1, 9)
    ends = sorted([seen[0][0].item(), seen[0][-1].item()])
    assert 0.8 * ends[0] <= seen[0].min() and seen[0].max() <= 1.2 * ends[1]


# Files.


def read(folder, suffix=".png"):
    return {path.name: read_image(path).array for path in sorted(folder.glob(f"0*{suffix}"))}


@over("name, suffix", [("uint8", ".png"), ("uint16", ".png"), ("float", ".tif"), ("dcgan", ".png")])
def test_files_hold_the_images(name, suffix, samplers, tmp_path):
    written = sample(samplers[name], 5, out=tmp_path / "out", batch_size=2, seed=4)
    assert (written.drawn, written.skipped, written.pictures) == (5, 0, [])
    files, images = read(tmp_path / "out", suffix), samplers[name](5, seed=4)
    assert list(files) == [f"{i:06}{suffix}" for i in range(5)]
    for image, array in zip(images, files.values(), strict=True):
        assert_same(name, array, image)


@over(format=["npy", "tif", ".npy"])
def test_formats(format, samplers, tmp_path):
    sample(samplers["float"], 2, out=tmp_path, format=format)
    files = read(tmp_path, f".{format.lstrip('.')}")
    assert len(files) == 2
    assert_same("float", files[min(files)], samplers["float"](1)[0])


def test_a_resumed_call_draws_what_is_missing(samplers, tmp_path):
    model, steps = samplers["uint8"], []
    sample(model, 3, out=tmp_path)
    (tmp_path / "000001.png").unlink()
    kept = (tmp_path / "000000.png").stat().st_mtime_ns
    written = sample(model, 6, out=tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert (written.drawn, written.skipped) == (4, 2)
    assert steps == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert (tmp_path / "000000.png").stat().st_mtime_ns == kept
    assert np.array_equal(np.stack(list(read(tmp_path).values())), model(6))
    again = sample(model, 6, out=tmp_path)
    assert (again.drawn, again.skipped) == (0, 6)


def test_overwrite_draws_all(samplers, tmp_path):
    sample(samplers["uint8"], 3, out=tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "000002.png")
    written = sample(samplers["uint8"], 3, out=tmp_path, overwrite=True)
    assert (written.drawn, written.skipped) == (3, 0)
    assert np.array_equal(read(tmp_path)["000002.png"], samplers["uint8"](3)[2])


def test_images_of_another_model_or_seed_are_not_mixed(models, samplers, tmp_path):
    sample(samplers["uint8"], 2, out=tmp_path)
    for model, options in ((samplers["uint8"], {"seed": 1}), (samplers["dcgan"], {})):
        text = refused(ConfigError, sample, model, 4, out=tmp_path, **options)
        assert (
            "holds images of another model, seed, class, truncation or vectors; give another --out, or --overwrite them"
            in text
        )
    assert len(read(tmp_path)) == 2
    sample(samplers["uint8"], 2, out=tmp_path, seed=1, overwrite=True)
    assert np.array_equal(np.stack(list(read(tmp_path).values())), samplers["uint8"](2, seed=1))
    copy = shutil.copy(models["uint8"] / "model.safetensors", tmp_path / "copy.safetensors")
    assert sample(copy, 2, out=tmp_path, seed=1, **CPU).skipped == 2


def test_overwriting_fewer_images_leaves_no_old_ones(samplers, tmp_path):
    sample(samplers["uint8"], 4, out=tmp_path)
    sample(samplers["uint8"], 2, out=tmp_path, seed=1, overwrite=True)
    sample(samplers["uint8"], 4, out=tmp_path, seed=1)
    assert np.array_equal(np.stack(list(read(tmp_path).values())), samplers["uint8"](4, seed=1))


@over("n, columns, rows", [(1, 1, 1), (9, 3, 3), (12, 3, 4), (70, 8, 8)])
def test_the_grid(n, columns, rows, samplers, tmp_path):
    written = sample(samplers["uint8"], n, out=tmp_path, grid=True)
    assert written.pictures == [tmp_path / "grid.png"]
    images = samplers["uint8"](min(n, GRID_IMAGES))
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (4 + columns * 8, 4 + rows * 8)
        pixels = np.asarray(sheet)
    tiles = [
        pixels[top : top + 4, 4 + 8 * c : 8 + 8 * c] for r in range(rows) for c in range(columns) for top in [4 + 8 * r]
    ]
    for image, tile in zip(images, tiles, strict=True):
        assert np.abs(image.astype(int) - tile).max() <= 1


@over(name=KINDS)
def test_the_walks(name, samplers, tmp_path):
    written = sample(samplers[name], 2, out=tmp_path, interpolate=5, grid=True)
    assert written.pictures == [tmp_path / "grid.png", tmp_path / "walk.png"]
    side = KINDS[name][4][0]
    with Image.open(tmp_path / "walk.png") as sheet:
        assert sheet.size == (4 + 5 * (side + 4), 4 + WALKS * (side + 4))
    assert len(read(tmp_path, (KINDS[name][1] == np.float32 and ".tif") or ".png")) == 2


# Mistakes.


def test_sheets_are_no_samples(samplers, tmp_path):
    out, model = tmp_path / "drawn", samplers["uint8"]
    written = img2img.sample(model, 4, out=out, grid=True, interpolate=3)
    assert {path.name for path in written.pictures} == {"grid.png", "walk.png"} and all(
        p.exists() for p in written.pictures
    )
    assert [path.name for path in find_images(out)] == [f"{i:06}.png" for i in range(4)]
    assert [path.name for path in find_images(tmp_path)] == [f"{i:06}.png" for i in range(4)]  # also from above
    result = img2img.evaluate(real=str(out), fake=str(out), metrics="drift")
    assert result.protocol["images"] == 4 and result.scores["drift"] == 0
    (out / "samples.json").unlink()  # elsewhere these are names like any other
    assert [path.name for path in find_images(out)][-2:] == ["grid.png", "walk.png"]


def test_a_translation_model_is_refused_by_sample(unpaired, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    options = quick | dict(generator="resnet_3", steps=1, a=unpaired[0], b=unpaired[1])
    img2img.train("cyclegan", out=tmp_path / "run", **options)
    text = refused(ModelFileError, sample, tmp_path / "run", 1)
    assert text.endswith("is a cyclegan model, which translates; use img2img translate.")


def test_a_model_that_draws_is_refused_by_translate(models, unpaired, tmp_path):
    text = refused(ModelFileError, img2img.translate, models["uint8"], unpaired[0], tmp_path / "out")
    assert text.endswith("is a gan model, which generates from noise; use img2img sample.")
    assert not (tmp_path / "out").exists()


@over(suffix=["onnx", "pt"])
def test_a_model_that_draws_is_exported_or_refused(suffix, models, tmp_path):
    try:
        export_model(models["uint8"], tmp_path / f"model.{suffix}")
    except (ConfigError, ModelFileError):
        assert not (tmp_path / f"model.{suffix}").exists()


def test_a_model_that_draws_is_no_pth(models, tmp_path):
    text = refused(ConfigError, export_model, models["uint8"], tmp_path / "model.pth")
    assert "is a gan model, which draws from noise" in text


@over(
    "options, answer",
    [
        ({"n": 0}, "--n takes a whole number from 1 to 10^7, not 0."),
        ({"batch_size": 0}, "--batch-size takes a whole number from 1 to 65536, not 0."),
        ({"interpolate": 1}, "--interpolate takes a whole number from 2 to 10000, or 0, not 1."),
        ({"seed": -1}, "--seed takes a whole number from 0 to 2^63 - 1, not -1."),
        ({"format": "pgn"}, "Unknown format '.pgn'. Did you mean '.png'?"),
        ({"seeed": 1}, "Unknown option 'seeed' for sampling. Did you mean 'seed'?"),
    ],
)
def test_mistakes(options, answer, samplers, tmp_path):
    assert refused(ConfigError, sample, samplers["uint8"], out=tmp_path / "out", **options).startswith(answer)
    assert not (tmp_path / "out").exists()


@over(options=[{"n": 0}, {"n": 1, "start": -1}, {"n": 1, "batch_size": 0}, {"n": 1, "seed": -1}])
def test_mistakes_of_a_call(options, samplers):
    refused(ConfigError, samplers["uint8"], **options)


@over(
    "name, format, reason",
    [("uint16", "jpg", "JPEG cannot hold uint16"), ("float", "png", "PNG cannot hold 2 channels")],
)
def test_a_format_that_cannot_hold_the_images(name, format, reason, samplers, tmp_path):
    assert reason in refused(DataError, sample, samplers[name], 1, out=tmp_path, format=format)
    assert not list(tmp_path.glob("0*"))


def test_a_refused_format_leaves_the_folder_to_other_models(samplers, tmp_path):
    refused(DataError, sample, samplers["uint16"], 1, out=tmp_path, format="jpg")
    sample(samplers["uint8"], 1, out=tmp_path)


def test_a_file_for_a_folder(samplers, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in refused(ConfigError, sample, samplers["uint8"], 1, out=tmp_path / "file")
    refused(TrainingError, sample, samplers["uint8"], 1, out=tmp_path / "file" / "out")


def test_options_of_loading_are_refused_for_a_loaded_model(samplers):
    assert "fixed when the model is loaded" in refused(ConfigError, sample, samplers["uint8"], 1, device="cuda")


@over(change=["method", "option"])
def test_a_model_of_another_version_is_refused(change, models, tmp_path):
    card = read_card(models["uint8"] / "model.safetensors")
    weights = load_file(models["uint8"] / "model.safetensors")
    card = replace(card, method="biggan") if change == "method" else replace(card, config=card.config | {"shared": 1})
    header = json.dumps(asdict(card))
    save_file(weights, tmp_path / "new.safetensors", metadata={"img2img": header})
    refused((ConfigError, ModelFileError), Sampler, tmp_path / "new.safetensors", **CPU)


# The command line.


def test_command(models, samplers, command_line, tmp_path):
    words = ("sample", models["uint8"], "--out", tmp_path, "--n", 3, "--device", "cpu", "--precision", "fp32")
    code, out, err = command_line(*words)
    assert (code, out, err) == (0, f"3 images drawn into {tmp_path}\n", "")
    assert np.array_equal(np.stack(list(read(tmp_path).values())), samplers["uint8"](3))
    code, out, err = command_line(*words[:-5], 5, *words[-4:], "--grid", "--interpolate", 3, "--batch-size", 2)
    pictures = f"picture: {tmp_path / 'grid.png'}\npicture: {tmp_path / 'walk.png'}\n"
    note = f"note: Images are drawn in batches of 64, as those in {tmp_path} were: their rounding depends on it.\n"
    assert (code, out, err) == (0, f"2 images drawn into {tmp_path}, 3 already there\n{note}{pictures}", "")
    assert np.array_equal(np.stack(list(read(tmp_path).values())), samplers["uint8"](5))


MISTAKES = {
    "n": (["--n", 0], "--n takes"),
    "seed": (["--seed", -1], "--seed takes"),
    "format": (["--format", "pgn"], "Did you mean '.png'"),
    "device": (["--device", "cuda:99"], "no device 'cuda:99'"),
    "precision": (["--precision", "bf61"], "Did you mean 'bf16'"),
    "interpolate": (["--interpolate", 1], "--interpolate takes"),
}


@over("words, reason", MISTAKES.values())
def test_mistakes_are_one_line(words, reason, models, command_line, tmp_path):
    code, out, err = command_line("sample", models["uint8"], "--out", tmp_path / "out", *words)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("img2img: ") and reason in err


def test_no_model_is_one_line(command_line, tmp_path):
    code, out, err = command_line("sample", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 2 and out == "" and err.count("\n") == 1 and "nowhere" in err


def test_info_of_a_model_that_draws(models, command_line):
    code, out, _ = command_line("info", models["float"])
    assert code == 0 and "wgan" in out and "3 to 2 channels" in out


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom img2img.cli import main as cli\nsys.argv = ['img2img', 'sample', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "sys.exit(', '.join({'torch', 'numpy'} & set(sys.modules)) or 0)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "such as dcgan, or under a class" in done.stdout and "--interpolate" in done.stdout


@over(name=["000001.png", "grid.png"])
def test_files_of_others_are_not_replaced(name, samplers, tmp_path):
    (tmp_path / name).write_text("mine")
    assert "was not drawn by this command" in refused(
        ConfigError, sample, samplers["uint8"], 2, out=tmp_path, grid=True
    )
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_overwriting_removes_only_images_that_were_drawn(samplers, tmp_path):
    mine = [tmp_path / name for name in ("2024.png", "1.png", "0000001.png", "notes.txt", ".x.part.png")]
    sample(samplers["uint8"], 3, out=tmp_path)
    for path in mine:
        path.write_text("mine")
    sample(samplers["uint8"], 1, out=tmp_path, seed=1, overwrite=True)
    assert {path.name for path in tmp_path.glob("00000?.png")} == {"000000.png"}
    assert all(path.read_text() == "mine" for path in mine)
