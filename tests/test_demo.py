import numpy as np
import pytest

from img2img import demo


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


@pytest.mark.slow
def test_the_demo_learns_stripes(tmp_path):
    result = demo.run(tmp_path)
    assert result.picture.is_file()
    assert result.scores["doing nothing"] < 0.1
    assert result.scores["the model"] > 0.6
    assert result.scores["the true answer"] > 0.95
