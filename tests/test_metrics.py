"""Metrics of single images, of label maps and of pixels, against independent formulas; and what holds for the table."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import refused
from helpers import over, seeded, smooth, spoiled
from scipy import ndimage
from skimage.metrics import structural_similarity
from sklearn.metrics import confusion_matrix, jaccard_score

from img2img.errors import ConfigError, DataError
from img2img.metrics.drift import Moments, drift
from img2img.metrics.labels import Palette, classes, confusion, mean_iou, pixel_accuracy, read_palette
from img2img.metrics.options import MetricOptions
from img2img.metrics.paired import l1, ms_ssim, psnr, ssim
from img2img.metrics.score import Score
from img2img.metrics.scorer import Scorer, ScoreRow
from img2img.metrics.structure import structure
from img2img.metrics.table import METRICS, base_name

IMAGE = [name for name, metric in METRICS.items() if metric.kind == "image" and metric.network is None]
FREE = [
    name for name, metric in METRICS.items() if metric.network is None and metric.kind not in ("features", "logits")
]
SIDE = {"ms_ssim": 176}


@pytest.fixture(scope="module")
def images():
    real = torch.rand(4, 3, 24, 20, generator=seeded(0)) * 2 - 1
    amounts = torch.tensor([0.02, 0.1, 0.3, 0.6]).reshape(4, 1, 1, 1)
    return real, (real + torch.randn(real.shape, generator=seeded(1)) * amounts).clamp(-1, 1)


def unit(x):
    return (x.numpy().astype(np.float64) + 1) / 2


# Against independent formulas


def test_l1(images):
    real, fake = images
    expected = np.abs(unit(real) - unit(fake)).mean(axis=(1, 2, 3))
    assert l1(real, fake).tolist() == pytest.approx(expected, rel=1e-6)
    assert l1(torch.ones(2, 3, 8, 8), -torch.ones(2, 3, 8, 8)).tolist() == [1, 1]
    assert l1(real, real).tolist() == [0] * 4


def test_psnr(images):
    real, fake = images
    errors = ((unit(real) - unit(fake)) ** 2).mean(axis=(1, 2, 3))
    assert psnr(real, fake).tolist() == pytest.approx(10 * np.log10(1 / errors), rel=1e-6)
    half = torch.zeros(1, 1, 8, 8)
    assert float(psnr(half, half + 0.2)) == pytest.approx(20.0, abs=1e-4)  # an error of 0.1 on [0, 1]
    assert psnr(real, real).tolist() == [math.inf] * 4


def skimage_ssim(x, y):
    """Of images (C, H, W) in [0, 1]: its map leaves out a border of 5 px, which is here the mirrored one."""
    x, y = (np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect") for image in (x, y))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(x, y, data_range=1.0, channel_axis=0, **options)


def test_ssim_equals_scikit_image(images):
    for real, fake in (images, (smooth(2), spoiled(smooth(2), 0.1))):
        expected = [skimage_ssim(x, y) for x, y in zip(unit(real), unit(fake), strict=True)]
        assert ssim(real, fake).tolist() == pytest.approx(expected, abs=1e-5)
    assert ssim(real, real).tolist() == pytest.approx([1] * 2, abs=1e-5)


def numpy_ms_ssim(x, y):
    """Wang et al. 2003, equation 7, of images (C, H, W) in [0, 1]; contrast within the image, luminance mirrored."""
    total, weights = 1.0, [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]

    def blur(z):
        return ndimage.gaussian_filter(z, (0, 1.5, 1.5), mode="mirror", truncate=3.5)

    for scale, weight in enumerate(weights):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        contrast = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
        luminance = (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)
        last = scale == len(weights) - 1
        term = (luminance * contrast).mean() if last else contrast[:, 5:-5, 5:-5].mean()
        total *= max(term, 0) ** weight
        c, h, w = x.shape
        x, y = (z[:, : h // 2 * 2, : w // 2 * 2].reshape(c, h // 2, 2, w // 2, 2).mean((2, 4)) for z in (x, y))
    return total


def test_ms_ssim_against_the_paper():
    real = smooth(2, 178, wide=190)
    fake = spoiled(real, 0.2)
    expected = [numpy_ms_ssim(x, y) for x, y in zip(unit(real), unit(fake), strict=True)]
    assert ms_ssim(real, fake).tolist() == pytest.approx(expected, abs=1e-5)


def test_structure_against_scipy(images):
    def edges(x):
        plane = unit(x).mean(0)
        return np.hypot(*(ndimage.sobel(plane, axis=a)[1:-1, 1:-1] for a in (0, 1))).ravel()

    real, fake = images
    expected = [np.corrcoef(edges(x), edges(y))[0, 1] for x, y in zip(real, fake, strict=True)]
    assert structure(real, fake).tolist() == pytest.approx(expected, abs=1e-5)


def test_structure_asks_where_edges_are():
    x, flat = smooth(2), torch.full((2, 3, 24, 24), 0.3)
    assert structure(x, -0.5 * x + 0.1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert structure(x, x.mean(1, keepdim=True)).tolist() == pytest.approx([1, 1], abs=1e-5)  # 3 channels to 1
    assert structure(x, flat).tolist() == [0, 0] and structure(flat, -flat).tolist() == [1, 1]
    assert structure(x, x.flip(3)).abs().max() < 0.5


def test_drift_against_numpy():
    real, fake = smooth(3, channels=5), smooth(4, 16, channels=5, seed=2) * 0.7 + 0.1
    moments = Moments(5), Moments(5)
    for of, images in zip(moments, (real, fake), strict=True):
        for x in images:
            of.add(x[None])
    a, b = (unit(x).transpose(1, 0, 2, 3).reshape(5, -1) for x in (real, fake))
    expected = np.mean(np.hypot(a.mean(1) - b.mean(1), a.std(1) - b.std(1)))
    assert drift(*moments) == pytest.approx(expected, rel=1e-9)


# Label maps

COLOURS = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [10, 20, 250]]) / 127.5 - 1


def label_maps(n=3, seed=0):
    truth, said = (torch.randint(0, 4, (n, 12, 10), generator=seeded(seed + i)) for i in (0, 1))
    said = torch.where(torch.rand(truth.shape, generator=seeded(9)) < 0.7, truth, said)
    return truth, said, *(COLOURS[x].movedim(-1, 1) for x in (truth, said))


def test_labels_against_scikit_learn():
    truth, said, real, fake = label_maps()
    counts = confusion(real, spoiled(fake, 0.05), COLOURS)
    assert np.array_equal(counts, confusion_matrix(truth.ravel(), said.ravel()))
    expected = jaccard_score(truth.ravel(), said.ravel(), average=None)
    found = mean_iou(counts)
    assert [found[f"iou[{k}]"].value for k in range(4)] == pytest.approx(expected, rel=1e-12)
    assert found["mean_iou"].value == pytest.approx(expected.mean(), rel=1e-12)
    assert pixel_accuracy(counts)["pixel_accuracy"].value == pytest.approx(float((truth == said).double().mean()))


def test_a_class_that_is_nowhere_has_no_value():
    found = mean_iou(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert found == {"mean_iou": Score((3 / 4 + 4 / 5) / 2), "iou[0]": Score(3 / 4), "iou[1]": Score(4 / 5)}


def test_nearest_colour_by_hand():
    pixels = torch.rand(2, 3, 9, 7, generator=seeded(4)) * 2 - 1
    distance = (pixels.movedim(1, -1)[..., None, :] - COLOURS).square().sum(-1)
    assert torch.equal(classes(pixels, COLOURS), distance.argmin(-1))


def test_the_palette_is_that_of_the_real_images(tmp_path):
    _, _, real, fake = label_maps()
    file = tmp_path / "colours.txt"
    file.write_text("0 0 0\n\n#ff0000\n0, 255, 0\n10 20 250\n")
    assert torch.allclose(read_palette(file, 3).float(), COLOURS)
    scores = []
    for options in (MetricOptions(), MetricOptions(palette=str(file))):
        scorer = Scorer(["mean_iou", "pixel_accuracy"], options)
        scorer.prepare(lambda: [real[:2], real[2:]])
        row = scorer.row()
        row.add(real=real, fake=fake)
        scores.append(row.scores())
    assert scores[0]["mean_iou"].value == pytest.approx(scores[1]["mean_iou"].value) and set(scores[0]) == set(
        scores[1]
    )
    assert list(scores[0]) == ["mean_iou", *(f"iou[{k}]" for k in range(4)), "pixel_accuracy"]


def test_sixteen_bit_labels_of_one_channel():
    palette = Palette(1)
    palette.add(torch.tensor([0.5, -1, 0.5, 0.2]).reshape(1, 1, 2, 2))
    assert palette.colours.flatten().tolist() == pytest.approx([-1, 0.2, 0.5])


def test_photographs_are_no_label_maps(images):
    text = refused(DataError, Scorer(["mean_iou"]).prepare, lambda: [images[0]])
    assert "more than 64 distinct colours" in text and "--palette" in text


@over(
    "text, words",
    [
        ("0 0 0\n300 0 0\n", "line 2: '300 0 0' is not a colour"),
        ("red\n", "line 1: 'red' is not a colour"),
        ("#12\n", "line 1: '#12' has 1 numbers, the images have 3 channels"),
        ("\n", "holds no colours"),
        ("1 2 3\n#010203\n", "holds the colour 1 2 3 twice"),
        (None, "cannot be read"),
    ],
)
def test_palettes_that_are_none(tmp_path, text, words):
    file = tmp_path / "colours.txt"
    file.unlink(missing_ok=True)
    if text is not None:
        file.write_text(text)
    assert words in refused(ConfigError, Scorer, ["mean_iou"], MetricOptions(palette=str(file)))


# Over the table


def scored(name, batches, prepared=None):
    """The score of a metric that needs no network, from batches: dicts of images."""
    scorer = Scorer([name], channels=batches[0]["fake"].shape[1])
    real = prepared if prepared is not None else [batch["real"] for batch in batches]
    scorer.prepare(lambda: real)
    row = scorer.row()
    for batch in batches:
        row.add(**batch)
    return row.scores()[name].value


def example(name, amount, n=5, seed=0, channels=3):
    """Images that a metric compares, the second of them spoiled by `amount`."""
    if METRICS[name].kind == "labels":
        _, _, clean, _ = label_maps(n, seed)
    else:
        clean = smooth(n, SIDE.get(name, 24), channels, seed)
    given = dict.fromkeys(("source", "real", "fake", "cycled", "identity"), clean)
    worse = clean * (1 - amount) + amount / 2 if METRICS[name].kind == "pixels" else spoiled(clean, amount, seed + 7)
    return given | {kind: worse for kind in METRICS[name].on[1:]}


@over("name", FREE)
def test_better_images_score_better(name):
    levels = (0.05, 0.15, 0.4) if METRICS[name].kind == "pixels" else (0.1, 0.4, 0.9)
    levels = (0.9, 1.4, 2.5) if METRICS[name].kind == "labels" else levels
    scores = [scored(name, [example(name, amount)]) for amount in levels]
    assert all(map(math.isfinite, scores))
    assert scores == sorted(scores, reverse=METRICS[name].better == "higher") and len(set(scores)) == 3


@over("name", FREE)
def test_value_depends_neither_on_batches_nor_on_order(name):
    every = example(name, 0.5)
    whole = scored(name, [every])

    def alone(order):
        return scored(name, [{kind: x[i : i + 1] for kind, x in every.items()} for i in order])

    assert alone([0, 1, 2, 3, 4]) == pytest.approx(whole, rel=1e-6)
    assert alone([3, 0, 4, 2, 1]) == pytest.approx(alone([0, 1, 2, 3, 4]), rel=1e-9)


@over("name, amount", itertools.product(FREE, (0.1, 2.0)))
def test_values_lie_in_the_stated_range(name, amount):
    low, high = {"-1 to 1": (-1, 1), "0 to 1": (0, 1), "0 dB to infinity": (0, math.inf)}[METRICS[name].range]
    assert low <= scored(name, [example(name, amount)]) <= high


@over("name, channels", itertools.product([name for name in FREE if METRICS[name].kind != "labels"], (1, 5)))
def test_any_number_of_channels_and_symmetry(name, channels):
    every = example(name, 0.3, n=2, channels=channels)
    turned = dict(zip(METRICS[name].on, [every[kind] for kind in reversed(METRICS[name].on)], strict=True))
    assert scored(name, [every]) == pytest.approx(scored(name, [every | turned]), rel=1e-5)


@over("name", [name for name in IMAGE if name not in SIDE])
def test_small_images_have_a_score(name):
    """Training sizes start at 16 px; a validation must not fail there."""
    x = torch.rand(1, 3, 16, 16, generator=seeded(3)) * 2 - 1
    assert math.isfinite(METRICS[name].fn(x, -x))


@over("name", METRICS)
def test_every_entry_is_complete(name):
    metric = METRICS[name]
    assert metric.kind in {"image", "labels", "features", "logits", "pixels"}
    assert set(metric.on) <= {"source", "real", "fake", "cycled", "identity"} and metric.range
    assert metric.text.endswith(".") and metric.fn.__doc__ and "[" not in name
    assert not metric.paired or metric.on == ("real", "fake")
    assert all(hasattr(MetricOptions(), option) for option in metric.options)


# The scorer


def test_names_of_scores():
    names = {"l1": "l1", "kid[encoder]": "kid", "iou[3]": "mean_iou", "lpips[alex]": "lpips"}
    assert {key: base_name(key) for key in names} == names


def test_a_metric_without_its_images_is_skipped(images):
    real, fake = images
    scorer = Scorer(["l1", "cycle", "identity", "structure", "drift", "pixel_accuracy"])
    scorer.palette = COLOURS
    scorer.prepare(lambda: [real])
    row = scorer.row()
    assert row.scores() == {}
    row.add(source=real, fake=fake)
    assert set(row.scores()) == {"structure", "drift"}
    row.add(real=real[:2], identity=fake[:2])
    row.add(source=real, cycled=fake)
    assert set(row.scores()) == {"structure", "drift", "identity", "cycle"}
    assert row.per_image["structure"] == pytest.approx(structure(real, fake).tolist())


def test_real_images_are_read_only_where_needed(images):
    def never():
        raise AssertionError("a pass over the real images")

    Scorer(["l1", "ssim", "cycle"]).prepare(never)
    passes = []
    Scorer(["drift"]).prepare(lambda: passes.append(1) or [images[0]])
    assert passes == [1]


def test_rows_are_separate(images):
    scorer = Scorer(["l1"])
    rows: list[ScoreRow] = [scorer.row(), scorer.row()]
    rows[0].add(real=images[0], fake=images[0])
    rows[1].add(real=images[0], fake=images[1])
    assert rows[0].scores()["l1"].value == 0 < rows[1].scores()["l1"].value


def test_nothing_random_is_drawn_from_the_training(images):
    before = torch.get_rng_state()
    scorer = Scorer([*FREE[:3], "drift"])
    scorer.prepare(lambda: [images[0]])
    scorer.row().add(real=images[0], fake=images[1])
    assert torch.equal(before, torch.get_rng_state())


@over(
    "given, words",
    [
        ({"real": torch.zeros(2, 3, 8, 8), "fake": torch.zeros(1, 3, 8, 8)}, "not 2 real, 1 fake"),
        ({"real": torch.zeros(1, 3, 8, 8), "fake": torch.zeros(1, 3, 8, 6)}, "real is 3×8×8, fake 3×8×6"),
        ({"fake": torch.zeros(1, 1, 8, 8)}, "The fake images are 1×1×8×8; expected N×3×H×W"),
        ({"fake": torch.full((1, 3, 8, 8), math.nan)}, "The fake images hold values that are not finite"),
        ({"real": torch.zeros(1, 3, 5, 9), "fake": torch.zeros(1, 3, 5, 9)}, "at least 6×6 px, not 9×5"),
    ],
)
def test_images_that_do_not_fit(given, words):
    assert words in refused(DataError, Scorer(["ssim"]).row().add, **given)


def test_ms_ssim_says_how_large_images_must_be(images):
    text = refused(DataError, ms_ssim, *images)
    assert text == "ms_ssim needs images of at least 176×176 px, not 20×24. Use ssim."
    ms_ssim(torch.zeros(1, 1, 176, 176), torch.zeros(1, 1, 176, 176))


def test_mistakes_in_options():
    assert "Did you mean 'psnr'?" in refused(ConfigError, Scorer, ["pnsr"])
    assert "--subset-size takes a whole number from 2" in refused(ConfigError, MetricOptions, subset_size=1)
    assert "no real images" in refused(DataError, Scorer(["drift"]).prepare, list)
