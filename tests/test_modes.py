"""Yardsticks: scores of samples whose coverage is known, and the classifier."""

import numpy as np
import pytest
from helpers import over

import img2img
from img2img.errors import DataError
from img2img.evaluation.judge import Classifier
from img2img.evaluation.modes import grid, ring, stacked


@over("mixture, modes", [(ring(), 8), (grid(), 25), (ring(modes=3), 3)])
def test_the_data_cover_all_modes(mixture, modes):
    points = mixture.sample(5000)
    assert points.shape == (5000, 1, 1, 2) and points.dtype == np.float32
    scores = mixture.score(points)
    assert scores.modes == scores.of == modes and scores.kl < 0.01
    assert scores.high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.005)  # of a round Gaussian within 3 sd
    assert not np.array_equal(points, mixture.sample(5000, seed=1))
    assert np.array_equal(points, mixture.sample(5000))


def test_a_collapsed_generator_has_one_mode():
    mixture = ring()
    scores = mixture.score(np.repeat(mixture.centres[3:4], 100, 0))
    assert (scores.modes, scores.high_quality) == (1, 1.0) and scores.kl == pytest.approx(np.log(8))


def test_points_between_modes_are_of_no_quality():
    scores = ring().score(np.zeros((10, 2)))
    assert (scores.modes, scores.high_quality) == (0, 0.0)
    half = grid().score(np.concatenate([grid().centres, grid().centres + 1.0]))
    assert half.modes == 25 and half.high_quality == pytest.approx(0.5)


def test_geometry():
    assert np.linalg.norm(ring(radius=2.0).centres, axis=1) == pytest.approx(np.full(8, 2.0))
    assert sorted({*grid().centres[:, 0].tolist()}) == [-4, -2, 0, 2, 4]


def test_stacked_digits():
    digits = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 5, 6), np.uint8)
    images = stacked(digits, 200)
    assert images.shape == (200, 5, 6, 3) and images.dtype == np.uint8
    assert len({tuple(image[0, 0]) for image in images}) > 40  # of 64
    assert np.array_equal(images, stacked(digits, 200)) and (np.ptp(images, axis=(1, 2)) == 0).all()


def test_a_classifier_knows_plain_classes_and_counts_them():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    images = (80 * labels[:, None, None] + rng.integers(0, 40, (300, 8, 8))).astype(np.uint8)
    judge = Classifier(images, labels, epochs=8)
    assert judge.accuracy > 0.95
    coverage = judge.coverage(images[labels != 1])
    assert coverage.present == 2 and coverage.shares == pytest.approx([0.5, 0, 0.5], abs=0.02)
    assert coverage.shares.sum() == pytest.approx(1) and coverage.confident > 0.5
    with pytest.raises(DataError, match="a label for each, not 300 and 2"):
        Classifier(images, [0, 1])


def test_modes_are_a_public_name():
    assert img2img.modes.ring is ring
