"""`distill`: pairs made by a teacher, and a student that learns them."""

import json

import numpy as np
import pytest
from conftest import refused
from helpers import over

import img2img
from img2img.data.images import read_image
from img2img.errors import ConfigError

SHORT = {"steps": 2, "pairs": 5, "quiet": True}


@pytest.fixture
def run(tmp_path, options):
    """A run of CycleGAN, beside nothing else."""
    img2img.train("cyclegan", out=tmp_path / "run", **options["cyclegan"])
    return tmp_path / "run"


def arrays_in(folder):
    return [read_image(path).array for path in sorted(folder.iterdir())]


def test_a_student_is_thin_and_like_its_teacher(run, tmp_path):
    student = img2img.distill(run, width=3, **SHORT)
    assert student.path == tmp_path / "run_distilled" / "model.safetensors"
    teacher = img2img.load(run)
    assert (student.card.method, student.card.config["width"]) == ("pix2pix", 3)
    for name in ("generator", "norm", "padding", "upsample"):
        assert student.card.config[name] == teacher.card.config[name]
    assert student.card.size == teacher.card.size
    assert student.card.config["dropout"] == 0


def test_pairs_are_samples_of_the_training_and_what_the_teacher_makes_of_them(run, tmp_path):
    img2img.distill(run, **SHORT)
    pairs, teacher = tmp_path / "run_distilled_pairs", img2img.load(run)
    inputs, outputs = arrays_in(pairs / "trainA"), arrays_in(pairs / "trainB")
    assert len(inputs) == len(outputs) == 5
    assert all(x.shape == (teacher.card.size, teacher.card.size, 3) for x in inputs)
    assert len({x.tobytes() for x in inputs}) == 5  # more than there are images: each is cut anew
    for x, y in zip(inputs, outputs, strict=True):
        assert np.array_equal(teacher(x), y)


def test_the_other_direction(run, tmp_path):
    img2img.distill(run, direction="b2a", **SHORT)
    pairs, teacher = tmp_path / "run_distilled_pairs", img2img.load(run, direction="b2a")
    for x, y in zip(arrays_in(pairs / "trainA"), arrays_in(pairs / "trainB"), strict=True):
        assert np.array_equal(teacher(x), y)


def test_the_same_call_resumes(run, tmp_path):
    img2img.distill(run, **SHORT)
    pairs = tmp_path / "run_distilled_pairs"
    lost = sorted((pairs / "trainB").iterdir())[2]
    content, times = lost.read_bytes(), {p: p.stat().st_mtime_ns for p in pairs.rglob("*.png") if p.name != lost.name}
    lost.unlink()
    student = img2img.distill(run, **SHORT)
    assert lost.read_bytes() == content
    assert times == {p: p.stat().st_mtime_ns for p in times}
    assert student.card.step == 2


@over(change=[{"pairs": 6}, {"direction": "b2a"}])
def test_pairs_of_something_else_are_refused(run, change):
    img2img.distill(run, overwrite=True, **SHORT)
    said = refused(ConfigError, img2img.distill, run, **SHORT | change)
    assert "holds pairs of another model, of other images or in another number. Use --overwrite" in said
    student = img2img.distill(run, overwrite=True, **SHORT | change)
    assert len(arrays_in(run.parent / "run_distilled_pairs" / "trainA")) == change.get("pairs", 5)
    assert student.card.step == 2


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    pairs = tmp_path / "run_distilled_pairs"
    pairs.mkdir()
    (pairs / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        said = refused(ConfigError, img2img.distill, run, overwrite=overwrite, **SHORT)
        assert "where the pairs would go, holds something else" in said
    assert [p.name for p in pairs.iterdir()] == ["notes.txt"]


def test_overwriting_removes_pairs_and_nothing_else(run, tmp_path):
    img2img.distill(run, **SHORT)
    pairs = tmp_path / "run_distilled_pairs"
    mine = [pairs / "notes.txt", pairs / "trainA" / "notes.txt", pairs / "mine" / "000000.png"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    img2img.distill(run, overwrite=True, **SHORT | {"pairs": 3})
    assert all(file.read_text() == "mine" for file in mine)
    assert len(list((pairs / "trainA").glob("*.png"))) == len(list((pairs / "trainB").glob("*.png"))) == 3


def test_images_of_ones_own(run, tmp_path, unpaired):
    (tmp_path / "alone").mkdir()
    model = tmp_path / "alone" / "model.safetensors"
    model.write_bytes((run / "model.safetensors").read_bytes())
    said = refused(ConfigError, img2img.distill, model, **SHORT)
    assert "is not the folder of a run; say on which images to imitate the model, with --images" in said
    student = img2img.distill(model, out=tmp_path / "student", images=str(unpaired[0]), **SHORT)
    assert student.card.config["width"] == 16


def test_a_run_on_arrays_needs_images(tmp_path, quick):
    images = [np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8) for i in range(3)]
    img2img.train("cyclegan", a=images, b=images, out=tmp_path / "run", **quick)
    said = refused(ConfigError, img2img.distill, tmp_path / "run", **SHORT)
    assert "was trained on arrays; say on which images" in said


def test_held_out_images_become_held_out_pairs(tmp_path, pairs, quick):
    img2img.train("pix2pix", ab=str(pairs), val_fraction=0.4, out=tmp_path / "run", **quick)
    img2img.distill(tmp_path / "run", **SHORT)
    made = tmp_path / "run_distilled_pairs"
    held = json.loads((made / "distilled.json").read_text())["images"]["test"]["images"]
    assert len(arrays_in(made / "testA")) == len(arrays_in(made / "testB")) == held > 0


def test_16_bits_stay_16_bits(tmp_path, quick):
    from img2img.data.images import write_image
    from img2img.data.picture import Picture

    rng = np.random.default_rng(0)
    for side in "ab":
        for i in range(3):
            image = rng.integers(200, 60000, (16, 16, 5)).astype(np.uint16)
            write_image(tmp_path / side / f"{i}.tif", Picture(image))
    img2img.train(
        "cyclegan",
        a=str(tmp_path / "a"),
        b=str(tmp_path / "b"),
        out=tmp_path / "run",
        augment="dihedral",
        **quick | {"size": 16, "generator": "unet_16"},
    )
    student = img2img.distill(tmp_path / "run", **SHORT)
    assert (student.spec().scale_in.dtype, student.spec().in_channels) == ("uint16", 5)
    inputs = arrays_in(tmp_path / "run_distilled_pairs" / "trainA")
    images = [np.rot90(y, k)[:, ::m] for y in arrays_in(tmp_path / "a") for k in range(4) for m in (1, -1)]
    assert all(any(np.array_equal(x, y) for y in images) for x in inputs)  # not rescaled, not rounded


def test_what_cannot_be_imitated(tmp_path, pairs, quick):
    img2img.train("bicyclegan", ab=pairs, out=tmp_path / "run", **quick | {"batch_size": 2, "generator": "unet_32"})
    said = refused(ConfigError, img2img.distill, tmp_path / "run", **SHORT)
    assert "bicyclegan translates by a class or by noise; distill imitates models of images alone" in said


def test_on_the_command_line(run, tmp_path, command_line):
    words = ["distill", str(run), "--width", "3", "--steps", "2", "--pairs", "4", "--out", str(tmp_path / "small")]
    code, out, _ = command_line(*words)
    assert (code, out.splitlines()[0]) == (0, f"model: {tmp_path / 'small' / 'model.safetensors'}")
    code, _, said = command_line("distill", tmp_path / "nothing")
    assert code == 2 and said.startswith("img2img: ") and said.count("\n") == 1
