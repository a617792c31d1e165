"""`model="stain"`: two stains on white, with known colours, amounts and light, of several batches."""

import numpy as np
import pytest
from conftest import refused
from helpers import over
from scipy import ndimage

from img2img import BatchEqualizer
from img2img.errors import ConfigError, InputError, ModelFileError
from img2img.lab.curves.stain import StainCorrection, find_stains
from img2img.lab.judgement import objects, probes
from img2img.lab.judgement.case import _followed

BLUE, PINK = np.array([0.65, 0.70, 0.29]), np.array([0.10, 0.95, 0.30])
WASHED, PALE = np.array([0.75, 0.60, 0.28]), np.array([0.30, 0.85, 0.43])
# Colours of the two stains, how much of each, and the light.
LABS = {
    "A": ((BLUE, PINK), (1.0, 1.0), (245, 240, 242)),
    "B": ((WASHED, PALE), (1.5, 0.7), (250, 225, 235)),
    "C": ((BLUE, PINK), (0.6, 1.3), (232, 236, 240)),
}
N, SIZE = 12, 64

pytestmark = pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")


def amounts(rng, tissue=0.7):
    """Amounts of two stains (2, H, W): nuclei in tissue, beside a part without any."""
    spots = ndimage.gaussian_filter((rng.random((SIZE, SIZE)) < 0.01).astype(float), 2)
    texture = ndimage.gaussian_filter(rng.random((SIZE, SIZE)), 1.5)
    inside = np.arange(SIZE) < tissue * SIZE
    nuclei = np.clip(spots * 40, 0, 1.6) * (1 + 0.1 * texture) * inside
    return np.stack([nuclei, (0.3 + 0.8 * texture) * np.exp(-2 * nuclei) * inside])


def seen(stained, lab, rng=None):
    """What a lab records of these amounts: RGB (3, H, W), uint8."""
    colours, gain, light = LABS[lab]
    unit = np.stack(colours) / np.linalg.norm(colours, axis=1, keepdims=True)
    density = np.einsum("s,shw,sc->chw", gain, stained, unit)
    noise = 0 if rng is None else rng.normal(0, 1, density.shape)
    return np.clip(np.array(light)[:, None, None] * np.exp(-density) + noise, 0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def labs():
    """Images, their truth in lab A, and labs; every lab has sources of its own."""
    sources = {(lab, i): amounts(np.random.default_rng([ord(lab), i])) for lab in LABS for i in range(N)}
    images = [seen(x, lab, np.random.default_rng([7, ord(lab), i])) for (lab, i), x in sources.items()]
    return images, [seen(x, "A") for x in sources.values()], [lab for lab, _ in sources]


@pytest.fixture(scope="module")
def fitted(labs):
    return BatchEqualizer("stain", target="A").fit(labs[0], batch=labs[2])


def error(images, truth, lab, labs):
    pairs = [pair for pair, name in zip(zip(images, truth, strict=True), labs, strict=True) if name == lab]
    return float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]))


@over(lab=["B", "C"])
def test_another_lab_looks_as_the_target_would_have_recorded_it(labs, fitted, lab):
    images, truth, names = labs
    tone = BatchEqualizer("tone", target="A").fit(images, batch=names)
    before = error(images, truth, lab, names)
    after = error(fitted.transform(images, batch=names), truth, lab, names)
    assert after < before / 3 and after < error(tone.transform(images, batch=names), truth, lab, names)


def test_the_target_is_returned_bit_for_bit_and_white_becomes_its_white(labs, fitted):
    images, _, names = labs
    result = fitted.transform(images, batch=names)
    assert all(np.array_equal(a, b) for a, b, lab in zip(result, images, names, strict=True) if lab == "A")
    for lab in "BC":
        blank = np.broadcast_to(np.array(LABS[lab][2], np.uint8)[:, None, None], (3, 8, 8))
        [out], quality = fitted.transform([blank], batch=lab, return_quality=True)
        assert np.abs(out.astype(int) - np.array(LABS["A"][2])[:, None, None]).max() <= 4
        assert "no tissue" in quality["flags"][0]
        _, quality = fitted.transform(images[-1:], batch=lab, return_quality=True)
        assert "no tissue" not in quality["flags"][0]


def test_stains_are_found_whatever_their_shares():
    rng = np.random.default_rng(0)
    unit = np.stack([v / np.linalg.norm(v) for v in (BLUE, PINK)])
    for share in (0.1, 0.5, 0.9):
        first = rng.random(5000) < share
        mixed = np.where(first[:, None], [1, 0.05], [0.05, 1]) * rng.uniform(0.3, 2, (5000, 1)) @ unit
        found = find_stains(mixed)
        angles = np.degrees(np.arccos(np.clip((found[:2] * unit).sum(1), -1, 1)))
        assert (angles < 3).all() and np.allclose(found[2] @ found[:2].T, 0)


def test_an_image_counts_no_more_where_its_slide_has_many(labs):
    images, _, names = labs
    slides = [f"{name}{i % N // 6}" for i, name in enumerate(names)]
    number = np.array([ord(name) - ord("A") for name in names])
    once = StainCorrection.fit(images, number, slides, 0)
    first = [i for i in range(len(images)) if i % N < 6]  # the first slide of each lab three times
    again = StainCorrection.fit(
        images + [images[i] for i in first * 2],
        np.r_[number, number[first], number[first]],
        slides + [slides[i] for i in first * 2],
        0,
    )
    assert np.allclose(once.mean[:, :2], again.mean[:, :2], rtol=0.01)


def test_labs_that_do_not_differ_are_hardly_changed(labs):
    images = [seen(amounts(np.random.default_rng(i)), "A", np.random.default_rng(i)) for i in range(2 * N)]
    names = ["A", "B"] * N
    equalizer = BatchEqualizer("stain", target="A").fit(images, batch=names)
    result = equalizer.transform(images, batch=names)
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(result, images, strict=True)]) < 1
    assert equalizer.sham_ < 0.01 and any("of the differences in stain are corrected" in n for n in equalizer.notes_)


def test_saved_and_extended(labs, fitted, tmp_path):
    images, truth, names = labs
    fitted.save(tmp_path / "all")
    again = BatchEqualizer.load(tmp_path / "all")
    wanted = fitted.transform(images, batch=names)
    assert all(map(np.array_equal, again.transform(images, batch=names), wanted))
    two = BatchEqualizer("stain", target="A").fit(images[: 2 * N], batch=names[: 2 * N])
    two.add_batch("C", images[2 * N :])
    result = two.transform(images[2 * N :], batch="C")
    assert error(result, truth[2 * N :], "C", ["C"] * N) < error(images, truth, "C", names) / 3
    weights = tmp_path / "all" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "damaged" in refused(ModelFileError, BatchEqualizer.load, tmp_path / "all")


def test_floats_are_what_is_rounded(labs, fitted):
    images, _, names = labs
    exact = BatchEqualizer("stain", target="A", out_dtype="float32").fit(images, batch=names)
    [values], [result] = exact.transform(images[N : N + 1], batch="B"), fitted.transform(images[N : N + 1], batch="B")
    assert values.dtype == np.float32 and np.array_equal(values.clip(0, 255).round().astype(np.uint8), result)


def test_a_batch_without_tissue_is_left_unchanged_with_a_note(labs):
    images, _, names = labs
    rng = np.random.default_rng(0)
    grey = [rng.integers(80, 200, (1, SIZE, SIZE)).repeat(3, 0).astype(np.uint8) for _ in range(N)]
    empty = [np.clip(240 + rng.normal(0, 1, (3, SIZE, SIZE)), 0, 255).astype(np.uint8) for _ in range(N)]
    names = names[: 2 * N] + ["empty"] * N + ["grey"] * N
    images = images[: 2 * N] + empty + grey
    equalizer = BatchEqualizer("stain", target="A").fit(images, batch=names)
    assert any("empty, grey: too little tissue" in note for note in equalizer.notes_)
    result = equalizer.transform(images, batch=names)
    assert all(map(np.array_equal, result[2 * N :], images[2 * N :]))
    assert "another target" in refused(InputError, BatchEqualizer("stain", target="empty").fit, images, batch=names)


@over(images=[np.zeros((20, 3, 16, 16), np.uint16), np.zeros((20, 2, 16, 16), np.uint8)])
def test_other_images_are_refused(images):
    images = images + np.arange(16, dtype=images.dtype)
    assert "RGB images of 8 bits" in refused(InputError, BatchEqualizer("stain").fit, images, batch=["A", "B"] * 10)


def test_little_tissue_in_the_target_leaves_the_sham_unmeasured(labs):
    images = labs[0]
    blank = [np.clip(240 + np.random.default_rng(i).normal(0, 1, (3, SIZE, SIZE)), 0, 255) for i in range(N)]
    target = [blank[0].astype(np.uint8), *(image.astype(np.uint8) for image in blank[1:-1]), images[0]]
    equalizer = BatchEqualizer("stain", target="B").fit(target + images[N : 2 * N], batch=["B"] * N + ["C"] * N)
    assert equalizer.sham_ is None


def test_there_is_no_mean_of_stains(labs):
    equalizer = BatchEqualizer("stain", target="mean")
    assert "name a batch for stain" in refused(ConfigError, equalizer.fit, labs[0], batch=labs[2])


def test_tone_says_that_stain_exists_and_never_chooses_it(labs, fitted):
    tone = BatchEqualizer("tone").fit(labs[0], batch=labs[2])
    assert tone.fitted_.model == "tone" and any("model='stain'" in note for note in tone.notes_)
    assert not any("model='stain'" in note or "differences in stain" in note for note in fitted.notes_)
    grey = BatchEqualizer("tone").fit([image[:1] for image in labs[0]], batch=labs[2])
    assert not any("model='stain'" in note for note in grey.notes_)


def test_it_is_judged_beside_reinhard(fitted, monkeypatch):
    monkeypatch.setattr(probes, "PERMUTATIONS", 2)
    monkeypatch.setattr(probes, "TREES", 5)
    rng = np.random.default_rng(9)
    names = [lab for lab in LABS for _ in range(6)]
    held_out = [seen(amounts(rng), lab, rng) for lab in names]
    evaluation = fitted.evaluate(held_out, batch=names)
    assert {"stain", "per-batch Reinhard"} < evaluation.rows.keys()
    assert evaluation.rows["stain"]["px_shift"] == 0  # other colours are no other place


def test_a_moved_image_is_not_explained_by_a_mixture_of_its_channels(labs):
    image = labs[0][N]
    for moved in (np.roll(image, 1, 2), np.stack([image[0], np.roll(image[1], 1, 1), image[2]])):
        assert max(objects.shift(*pair) for pair in _followed(image, moved)) > 0.5
