import numpy as np
import pytest
from conftest import refused

from img2img import demo
from img2img.errors import ConfigError


def mean_score(images):
    return float(np.mean([demo.score(animal, image) for animal, image in images]))


def test_doing_nothing_fails_and_the_answer_passes():
    animals = demo.held_out()
    assert mean_score((a, a.plain) for a in animals) < 0.1
    assert mean_score((a, a.striped) for a in animals) > 0.95
    assert mean_score((a, np.full_like(a.plain, 128)) for a in animals) < 0.5


def test_score_falls_with_the_ground_spoiled_and_with_the_stripes_blurred():
    animal = demo.held_out()[0]
    spoiled, blurred = animal.striped.copy(), animal.striped.copy()
    spoiled[~animal.coat] = 255 - spoiled[~animal.coat]
    blurred[animal.coat] = blurred[animal.coat].mean(0)
    assert demo.score(animal, spoiled) < 0.8 * demo.score(animal, animal.striped)
    assert demo.score(animal, blurred) < 0.3


def test_no_image_is_on_both_sides(tmp_path):
    demo.write_data(tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    assert len({file.read_bytes() for file in files}) == len(files) == 2 * (demo.TRAINING + demo.HELD_OUT)


def test_the_picture_names_its_rows():
    animals = demo.held_out()[:2]
    plain, striped = [a.plain for a in animals], [a.striped for a in animals]
    sheet = demo._sheet({"input": plain, "img2img": striped, "truth": striped}).astype(int)
    margin = sheet[:, : sheet.shape[1] - 2 * (2 * demo.SIZE + 4) - 4]
    names = [part.min(axis=(0, 2)) < 128 for part in np.array_split(margin, 3)]  # columns with ink
    assert all(20 < name.sum() < margin.shape[1] for name in names) and len({name.tobytes() for name in names}) == 3
    assert (sheet[-4:] == 255).all() and (sheet[:, -4:] == 255).all()


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(demo, "TRAINING", 8)


@pytest.mark.slow
def test_the_command_says_what_it_does_and_where_to_look(tmp_path, command_line, few):
    out = tmp_path / "demo"
    code, text, told = command_line("demo", "--out", out, "--steps", 2)
    report = out / demo.RUN / "report.html"
    assert code == 0 and text.splitlines()[-1] == f"open {report}" and "0 is the unchanged plain animal" in text
    doing = ("loading PyTorch", "drawing 64 animals", "training CycleGAN for 2 steps", "translating 24 animals")
    assert [told.index(words) for words in doing] == sorted(told.index(words) for words in doing)
    assert "<title>plain2striped: img2img run</title>" in report.read_text()


@pytest.mark.parametrize("name", ["data/trainA/000.png", "data/trainA/mine.png", "translated/000.png", "notes.txt"])
def test_the_demo_replaces_nothing_of_others(name, tmp_path, few):
    if name.startswith("data"):
        demo.write_data(tmp_path / "data")  # as far as a demo had come
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_bytes(b"mine")
    text = refused(ConfigError, demo.run, tmp_path, 1)
    said = "translated" if name.startswith("translated") else name
    assert f"is not the folder of a demo: it contains {tmp_path / said}. " in text
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.nightly
def test_the_demo_learns_stripes(tmp_path):
    result = demo.run(tmp_path)
    assert result.picture.is_file() and result.report.is_file()
    assert result.scores["the unchanged input"] < 0.1
    assert result.scores["the model"] > 0.7
    assert result.scores["the ground truth"] > 0.95
