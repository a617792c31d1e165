"""The benchmark of translated digits measures what it says: frames, permuted classes, and no label of the target."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def digits():
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import digits
    finally:
        sys.path.remove(folder)
    return digits


class Shade(nn.Module):
    """Names an image by its grey: class k is (k - 4.5) / 5."""

    def forward(self, images):
        return -100 * (images.mean((1, 2, 3))[:, None] - (torch.arange(10) - 4.5) / 5).abs()


def shades(labels):
    return ((torch.from_numpy(labels) - 4.5) / 5).float().reshape(-1, 1, 1, 1).expand(-1, 1, 32, 32)


def test_digits_of_usps_get_the_margin_of_mnist_and_both_the_same_frame(digits):
    framed = digits.frame(np.full((2, 16, 16), 255, np.uint8), digits.MARGIN)
    assert framed.shape == (2, 32, 32)
    assert framed.dtype == np.uint8
    assert (framed[:, 6:26, 6:26] == 255).all()
    assert framed.sum() == 2 * 20 * 20 * 255
    plain = digits.crop(digits.frame(np.full((1, 16, 16), 255, np.uint8), 0))
    assert plain.shape == (1, 28, 28)
    assert (plain == 255).all()


def test_distorted_images_stay_in_range_and_their_surroundings_black(digits):
    torch.manual_seed(0)
    images = torch.full((50, 1, 32, 32), -1.0)
    assert torch.equal(digits.distort(images), images)
    images[:, :, 10:22, 10:22] = 1.0
    distorted = digits.distort(images)
    assert distorted.min() == -1
    assert distorted.max() <= 1
    areas = (distorted + 1).mean((1, 2, 3))
    assert areas.min() < 0.7 * areas.max()


def test_best_permutation_takes_each_class_once(digits):
    named = np.array([0, 0, 0, 1, 1, 2])
    labels = np.array([1, 1, 0, 1, 1, 3])  # 0 and 1 are both mostly 1, and only one of them can be
    chosen = digits.best_permutation(labels, named)
    assert sorted(chosen) == list(range(10))
    assert chosen[:3].tolist() == [0, 1, 3]


def test_translation_that_swaps_classes_is_permuted_but_neither_kept_nor_right(digits):
    rng = np.random.default_rng(0)
    y = {(domain, part): rng.integers(0, 10, 200) for domain in "ab" for part in ("train", "test")}
    x = {key: shades(labels) for key, labels in y.items()}
    same, mirrored = nn.Identity(), lambda images: -images  # the second makes class k class 9 - k
    right = digits.tested(Shade(), Shade(), Shade(), same, same, "a", "b", x, y)
    assert all(hits.all() for hits in right.values())
    right = digits.tested(Shade(), Shade(), Shade(), mirrored, mirrored, "a", "b", x, y)
    assert right["translated source"].all()  # this classifier is of real images
    assert right["permuted"].all()
    for what in ("translated target", "kept", "named", "agreed"):
        assert not right[what].any(), what


def test_measures_that_choose_a_setup_do_not_depend_on_labels_of_the_target(digits):
    rng = np.random.default_rng(0)
    y = {(domain, part): rng.integers(0, 10, 200) for domain in "ab" for part in ("train", "test")}
    x = {key: shades(labels) for key, labels in y.items()}
    narrowed = nn.Hardtanh(-0.5, 0.5)  # makes the extreme classes those beside them
    networks = (Shade(), Shade(), Shade(), narrowed, narrowed, "a", "b")
    before = digits.tested(*networks, x, y)
    after = digits.tested(*networks, x, y | {("b", part): y["b", part][::-1] for part in ("train", "test")})
    for what in ("agreed", "kept"):
        assert np.array_equal(before[what], after[what])
    assert before["both"].sum() > after["both"].sum()


def test_table_chooses_by_the_lesser_measure_and_names_jobs_that_failed(digits, capsys):
    def row(setup, agreed, kept):
        values = dict.fromkeys(digits.COLUMNS, 90.0) | {"agreed": agreed, "kept": kept}
        return {"setup": setup, "seed": 0} | {
            digits.way(s, t): dict.fromkeys(digits.CLASSIFIERS, values) for s, t in ("ab", "ba")
        }

    rows = [row("cyclegan", 95.0, 94.0), row("discogan", 100.0, 10.0), row("dualgan", 92.0, 99.0)]
    digits.table([*rows, {"setup": "dualgan", "seed": 1, "error": "exit code 1: out of memory"}])
    printed = capsys.readouterr().out
    assert printed.count("chosen without labels of the target: cyclegan") == 4
    assert "dualgan, seed 1: exit code 1: out of memory" in printed


def test_job_that_fails_is_a_row_of_the_results(digits, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["digits.py", str(tmp_path)])  # holds no data
    row = digits.run(Namespace(jobs=1), "untranslated", 3)
    assert (row["setup"], row["seed"]) == ("untranslated", 3)
    assert "exit code 1" in row["error"]
