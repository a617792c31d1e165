"""What the equalizer costs: nothing is measured twice, the quality table is quick or left out, memory is used again."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import over
from scipy import ndimage

from img2img import BatchEqualizer
from img2img.lab import fitted as fitted_module, sham
from img2img.lab.curves import measuring, tone
from img2img.lab.curves.measuring import Remembered
from img2img.lab.design import GB
from img2img.lab.judgement import case as case_module, features, probes, quality
from img2img.lab.judgement.case import STEPS_OF_MEASURING, Case
from img2img.lab.judgement.judge import evaluate
from img2img.lab.judgement.scores import FEATURES_ONLY
from img2img.lab.lazy import KeptImages, LazyImages
from img2img.lab.synthetic import Effect, expose, nuclei
from img2img.lab.tables import results
from img2img.lab.tables.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
ROOT = Path(__file__).parents[1]


def field(seed, times=1):
    """A field of 64 pixels of a side, or times as many, of shuffled parts of it."""
    rng = np.random.default_rng(seed)
    parts = [nuclei(rng, 64, 6)[0] for _ in range(min(times, 3))]
    return np.block([[parts[rng.integers(len(parts))] for _ in range(times)] for _ in range(times)])


def slides(effects, n=8, first=0, times=1):
    """n fields under every lamp, (n B, 1, H, W), and the names of the lamps."""
    fields = [field(i, times) for i in range(first, first + n)]
    X = [
        expose(signal, effect, np.random.default_rng([i, b]))
        for b, effect in enumerate(effects.values())
        for i, signal in enumerate(fields)
    ]
    return np.stack(X)[:, None], np.repeat(list(effects), n)


LAMPS = {"A": Effect(), "B": Effect(gain=0.6, offset=80)}
TILTED = {"A": Effect(), "B": Effect(gain=0.7, gradient=0.35)}


def fitted(effects=LAMPS, **options):
    X, batch = slides(effects, n=12)
    return BatchEqualizer(target="A", **options).fit(X, batch=batch)


# Features


def test_quick_features_see_what_single_pixels_show():
    """Noise and a slight blur vanish in the means of blocks of four pixels."""
    signal = field(0, 16)
    scale = np.array([[400, 4000]])

    def fine(effect):
        found = features.quick_features(expose(signal, effect, np.random.default_rng(1))[None], scale)
        return found[len(features.PLANE_NAMES) :]

    plain, noisy, blurred = fine(Effect()), fine(Effect(read=30)), fine(Effect(blur=1.3))
    assert len(plain) == features.FINE
    assert noisy[1] - plain[1] > 0.15 and blurred[3] < plain[3] - 0.02


@over(shape=[(1, 1, 1), (2, 3, 5), (1, 512, 33), (9, 520, 530)])
def test_quick_features_are_finite_and_of_one_length(shape):
    rng, channels = np.random.default_rng(0), shape[0]
    found = features.quick_features(rng.integers(0, 255, shape).astype(np.uint8), np.array([[0, 200]] * channels))
    pairs = channels * (channels - 1) if channels <= features.PAIRED else 0
    assert np.isfinite(found).all()
    assert len(found) == channels * (len(features.PLANE_NAMES) + features.FINE) + pairs


def test_quick_features_of_small_images_begin_with_all_features():
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        image, scale = rng.integers(0, 4000, (channels, 64, 80)).astype(np.uint16), np.array([[100, 3000]] * channels)
        whole, quick = features.image_features(image, scale), features.quick_features(image, scale)
        assert np.array_equal(quick[: len(whole)], whole) and len(quick) == len(whole) + features.FINE * channels


def test_blocks_hold_all_that_is_known_of_a_channel():
    found = np.array([[10, 11, 20, 21, 30, 31, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]])
    assert quality._blocks(found, 3)[:, 0].tolist() == [[10 * c, 10 * c + 1, c, c, c, c] for c in (1, 2, 3)]
    assert np.array_equal(quality._blocks(found, 1), found[None])


def test_means_of_blocks_are_those_of_numpy():
    image = np.random.default_rng(0).integers(0, 65535, (2, 14, 19)).astype(np.uint16)
    expected = image[:, :12, :16].reshape(2, 3, 4, 4, 4).mean((2, 4))
    assert features._averaged(image, 4) == pytest.approx(expected, rel=1e-6)
    assert features._averaged(image, 1) is image


@over(n=[1, 2, 5, 1000], dtype=["float32", "float64"])
def test_quantiles_are_those_of_numpy(n, dtype):
    x = np.random.default_rng(0).normal(size=(n, 1)).astype(dtype)
    assert features._quantiles(x, features.LEVELS) == pytest.approx(np.quantile(x, features.LEVELS), rel=1e-5)


# Familiarity


def test_a_feature_that_hardly_varies_does_not_decide():
    """The darkest pixel of a camera is often the same whole number in all images but one."""
    rng = np.random.default_rng(0)
    known = np.concatenate([rng.normal(size=(40, 6)), np.full((40, 1), 0.1)], 1)
    known[3, 6] += 1e-5
    familiarity = quality.Familiarity.of(known, np.repeat([0, 1], 20), channels=1)
    assert familiarity.limit < 20
    strange = known[0] + np.array([8, 8, 8, 0, 0, 0, 0])
    assert familiarity.distance(strange, 0) > familiarity.limit


def test_the_cost_of_familiarity_grows_with_the_channels_alone():
    rng, sizes = np.random.default_rng(0), {}
    for channels in (5, 8, 9, 20):
        scale = np.array([[0, 1]] * channels)
        known = np.stack([features.quick_features(rng.random((channels, 16, 16)), scale) for _ in range(10)])
        familiarity = quality.Familiarity.of(known, np.repeat([0, 1], 5), channels)
        sizes[channels] = familiarity.precision.size / channels
        assert np.isfinite(familiarity.distance(known[0], 0)) and familiarity.limit > 0
    assert sizes[20] == sizes[9] < sizes[5] < sizes[8]


def test_an_equalizer_of_version_0_1_0_judges_images_by_the_features_it_was_fitted_with():
    saved = sorted((Path(__file__).parent / "data" / "equalizers").iterdir())
    assert saved
    for folder in saved:
        equalizer, images = BatchEqualizer.load(folder), np.load(folder / "images.npz")["before"]
        table = equalizer.transform(images, batch=["A", "B", "B"], return_quality=True)[1]
        assert table.unfamiliar.to_numpy() == pytest.approx([0.25197, 0.203101, 0.211163], rel=1e-4)


def test_large_images_are_told_apart_by_focus_and_noise():
    X, batch = slides(LAMPS, n=10, times=9)
    equalizer = BatchEqualizer(target="A").fit(X, batch=batch)
    image = slides({"B": LAMPS["B"]}, n=1, first=30, times=9)[0]
    noisy = (image + np.random.default_rng(0).normal(0, 40, image.shape)).clip(0).astype(np.uint16)
    strange = np.concatenate([image, ndimage.gaussian_filter(image, (0, 0, 3, 3)), noisy])
    found = equalizer.transform(strange, batch="B", return_quality=True)[1].unfamiliar
    assert found[0] < 1 < found[1] and found[2] > 1


# The table of quality


def test_a_curve_changes_nothing_that_it_does_not_explain(monkeypatch):
    calls = []
    monkeypatch.setattr(fitted_module, "largest_change", lambda *args: calls.append(1) or 0.25)
    X, batch = slides(LAMPS)
    assert (fitted().transform(X, batch=batch, return_quality=True)[1].change == 0).all() and not calls
    X, batch = slides(TILTED)
    found = fitted(TILTED, model="tone+field").transform(X, batch=batch, return_quality=True)[1].change
    assert (found[batch == "A"] == 0).all() and (found[batch == "B"] == 0.25).all()


def test_the_change_of_large_images_is_seen_on_a_grid():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 1000, (1, 600, 700)).astype(np.uint16)
    after = before.astype(float)
    after[0, :60, :70] += 300  # a hundredth of the image
    assert quality.largest_change(before, after, np.array([[0, 1000]])) == pytest.approx(0.3, abs=0.02)
    assert quality.largest_change(before, before * 2.0, np.array([[0, 1000]])) < 1e-6


@over(effects=[LAMPS, TILTED], model=["tone", "tone+field"], lamp=[Effect(gain=30), Effect(gain=0.01, offset=-400)])
def test_clipping_is_exact_where_results_lie_at_an_end(effects, model, lamp):
    equalizer = fitted(effects, model=model)
    X = slides({"B": lamp}, n=3, first=20)[0]
    table = equalizer.transform(X, batch="B", return_quality=True)[1]
    values = np.stack([equalizer.fitted_.values(image, "B") for image in X])
    assert table.clipped.to_numpy() == pytest.approx(((values > 65535.5) | (values < -0.5)).mean((1, 2, 3)))


@pytest.fixture
def table(tmp_path):
    """A table of sixteen images of two channels, each in a file of its own."""
    X, batch = slides(LAMPS)
    rows = []
    for i, (image, plate) in enumerate(zip(X[:, 0], batch, strict=True)):
        row = {"Metadata_Plate": plate, "Metadata_Well": f"A{i:02d}"}
        for channel in ("DNA", "ER"):
            row[f"FileName_{channel}"] = f"{plate}{i}_{channel}.tif"
            tifffile.imwrite(tmp_path / row[f"FileName_{channel}"], image)
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "plates.csv", index=False)
    return tmp_path / "plates.csv"


def test_the_table_of_quality_can_be_left_out(table, tmp_path, monkeypatch):
    equalizer = BatchEqualizer(target="A").fit_table(table)
    monkeypatch.setattr(fitted_module.Fitted, "quality", lambda *args: pytest.fail("measured"))
    found = equalizer.transform_table(table, None, tmp_path / "out", quality=False)
    assert not {"clipped", "saturated", "unfamiliar", "change", "flags"} & set(found) and (found.status == "done").all()


# Starting


def test_curves_do_without_torch(table, tmp_path):
    """Its import takes longer than a small table."""
    BatchEqualizer(target="A", min_images=2).fit(Manifest.open(table)).save(tmp_path / "equalizer")
    script = f"""if True:
        import sys
        from img2img.lab import BatchEqualizer, Manifest
        manifest = Manifest.open({str(table)!r})
        BatchEqualizer().check(manifest)
        BatchEqualizer.load({str(tmp_path / "equalizer")!r}).transform(manifest, out_dir={str(tmp_path / "out")!r})
        sys.exit("torch was imported" if "torch" in sys.modules else 0)
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=ROOT)


# Measuring


@over(n_jobs=[1, 3])
def test_a_fit_measures_every_image_once(monkeypatch, n_jobs):
    seen = []
    real = tone.foreground
    monkeypatch.setattr(tone, "foreground", lambda plane, sign: seen.append(sign) or real(plane, sign))
    X, batch = slides(LAMPS)
    equalizer = BatchEqualizer(target="A", n_jobs=n_jobs).fit(X, batch=batch)
    assert equalizer.sham_ is not None and len(seen) == len(X)  # once, to vote on the sign and to be measured
    seen.clear()
    BatchEqualizer(n_jobs=n_jobs).fit(5000 - X, batch=batch)
    assert seen.count(1) == seen.count(-1) == len(X)  # a dark foreground is another


@over("model, most", [("tone", 12), ("tone+field", 24)], n_jobs=[1, 3])
def test_images_beyond_the_memory_are_read_again_and_give_the_same_fit(tmp_path, n_jobs, model, most):
    X, batch = slides(LAMPS)
    rows = [{"FileName_DNA": f"{b}{i}.tif", "Metadata_Batch": b} for i, b in enumerate(batch)]
    for image, row in zip(X, rows, strict=True):
        tifffile.imwrite(tmp_path / row["FileName_DNA"], image[0])

    def fit(gigabytes):
        manifest = Manifest.open(pd.DataFrame(rows), tmp_path)
        seen = []
        manifest.read = lambda i: seen.append(i) or Manifest.read(manifest, i)
        equalizer = BatchEqualizer(model, target="A", n_jobs=n_jobs, memory=gigabytes).fit(manifest)
        return equalizer, [seen.count(i) for i in range(len(X))]

    (whole, once), (part, again) = fit(1), fit(4 * X[0].nbytes / GB)
    assert once == [1] * len(X) and sorted(again)[:4] == [1] * 4 and 1 < max(again) <= most  # half of it by the sham
    for name in ("curves", "fields", "levels"):
        assert np.array_equal(getattr(whole.correction_, name), getattr(part.correction_, name))
    assert whole.sham_ == part.sham_ and whole.notes_ == part.notes_


def test_kept_images_fill_the_memory_that_they_are_given():
    read = []
    images = KeptImages(LazyImages(6, lambda i: read.append(i) or np.full((1, 4, 4), i, np.uint8)), 3 * 16)
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            assert [int(x.max()) for x in pool.map(images.__getitem__, range(6))] == list(range(6))
    assert len(images.kept) == 3 and images.left == 0 and all(read.count(i) == 1 for i in images.kept)
    last = next(i for i in range(6) if i not in images.kept)
    read.clear()
    assert [images[last].max() for _ in range(3)] == [last] * 3 and read == [last]  # it is at hand


def test_parts_of_remembered_images_share_what_was_measured():
    calls = []

    def scaled(image, factor):
        calls.append(factor)
        return image.mean() * factor

    images = Remembered([np.full((1, 2, 2), i) for i in range(5)])
    for some, i in ((images, 3), (images.part([1, 3]), 1), (images.part([3, 4]).part([0]), 0)):
        assert measuring.remembered(some, i, scaled, 2) == 6
    assert measuring.remembered(images, 3, scaled, 5) == 15 and calls == [2, 5]
    assert len(images.part([1, 3])) == 2 and images.part([1, 3])[1].max() == 3


def test_the_sham_change_of_large_images_is_that_of_bands_of_their_rows():
    rng = np.random.default_rng(0)
    images = [rng.normal(1000, 200, (1, 600, 40)) for _ in range(2)]
    change = [
        sham._change(lambda image, batch, place: image + place.origin[0], image, np.ones((1, 1, 1)), (0, 0))
        for image in images
    ]
    assert change == pytest.approx([(600 - sham.BAND) / 2] * 2, rel=0.01)
    assert sham._change(
        lambda image, batch, place: image * 2, images[0][:, :50], np.full((1, 1, 1), 1000.0), (0, 0)
    ) == (pytest.approx(images[0][:, :50].mean() / 1000))


def test_a_thread_uses_the_memory_of_its_images_again(table, tmp_path):
    manifest, seen = Manifest.open(table), {}

    def one(i, image):
        seen.setdefault(threading.get_ident(), set()).add(image.ctypes.data)
        return image, {}  # not even a copy

    results.transform(manifest, one, tmp_path / "out", n_jobs=2)
    assert sum(map(len, seen.values())) == len(seen) <= 2
    for files in manifest.files:
        for path in files:
            assert np.array_equal(tifffile.imread(tmp_path / "out" / path.name), tifffile.imread(path))


# The report


def test_threads_measure_methods_alike_and_tell_every_step(monkeypatch):
    monkeypatch.setattr(probes, "batch_predictability", lambda *args: {})
    X, batch = slides(LAMPS)
    outputs = {"brighter": [x + 50 for x in X], "itself": list(X)}
    rows = []
    for n_jobs in (1, 3):
        steps, case = [], Case(list(X), batch=batch, reference="A", scale=np.array([[400, 4000]]))
        found = evaluate(
            outputs, case, judged="brighter", n_jobs=n_jobs, progress=lambda *step, steps=steps: steps.append(step)
        )
        total = 3 * STEPS_OF_MEASURING
        assert steps == [(done, total) for done in range(total + 1)]
        rows.append(found.rows)
    assert list(rows[0]) == ["do nothing", "brighter", "itself", FEATURES_ONLY] and rows[0] == rows[1]
    assert rows[0]["itself"] == rows[0]["do nothing"] and rows[0]["brighter"]["change"] > 0


def test_unchanged_images_are_not_measured_again(monkeypatch):
    X, batch = slides(LAMPS)
    case = Case(list(X), batch=batch, reference="A", scale=np.array([[400, 4000]]))
    after = [x.copy() if b == "A" else x + 50 for x, b in zip(X, batch, strict=True)]
    expected = case_module.both_features(after, case.objects, case.scale)
    _ = case.features
    seen = []
    real = case_module.image_features
    monkeypatch.setattr(case_module, "image_features", lambda x, scale: seen.append(1) or real(x, scale))
    assert all(np.array_equal(*pair) for pair in zip(case.features_of(after), expected, strict=True))
    assert len(seen) == (batch == "B").sum()


# The benchmark


@pytest.mark.slow
@pytest.mark.nightly
def test_a_hundredth_of_a_screen(tmp_path):
    """It runs through every command, and keeps what a stopped run had done."""
    out = tmp_path / "results.json"
    words = ["--wells", 12, "--sites", 3, "--size", 108, "--rounds", 1, "--jobs", 2, "--folder", tmp_path, "--out", out]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "equalize_screen.py", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(out.read_text())["steps"]
    assert {"check", "fit", "fit, a quarter in memory", "copy", "transform", "resumed after a stop", "report"} <= {
        *steps
    }
    assert steps["transform"][0]["images"] == 36 and "speed after the start, as a share of copying" in done.stdout
