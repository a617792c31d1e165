"""Metrics against independent formulas, and their direction over the whole table."""

import math

import numpy as np
import pytest
import torch

from img2img.metrics import PAIRED_METRICS
from img2img.metrics.paired import l1, psnr, ssim


@pytest.fixture(scope="module")
def images():
    g = torch.Generator().manual_seed(0)
    real = torch.rand(4, 3, 24, 20, generator=g) * 2 - 1
    noise = torch.randn(4, 3, 24, 20, generator=g)
    amounts = torch.tensor([0.02, 0.1, 0.3, 0.6]).reshape(4, 1, 1, 1)
    return real, (real + noise * amounts).clamp(-1, 1)


def unit(x):
    return (x.numpy().astype(np.float64) + 1) / 2


def numpy_ssim(x, y):
    """Wang et al. 2004, equation 13, of two (H, W) images in [0, 1].

    Mirrored at the border, which is torchmetrics' protocol; the authors' code takes the windows inside the image alone.
    """
    x, y = (np.pad(image, 5, mode="reflect") for image in (x, y))
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 0.01**2, 0.03**2
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def test_l1(images):
    real, fake = images
    assert l1(real, fake) == pytest.approx(np.abs(unit(real) - unit(fake)).mean(), rel=1e-5)
    assert l1(torch.ones(2, 3, 8, 8), -torch.ones(2, 3, 8, 8)) == 1.0
    assert l1(real, real) == 0.0


def test_psnr(images):
    real, fake = images
    errors = ((unit(real) - unit(fake)) ** 2).mean(axis=(1, 2, 3))
    assert psnr(real, fake) == pytest.approx(np.mean(10 * np.log10(1 / errors)), rel=1e-5)
    half = torch.zeros(1, 1, 8, 8)
    assert psnr(half, half + 0.2) == pytest.approx(20.0, abs=1e-4)  # an error of 0.1 on [0, 1]
    assert psnr(real, real) == math.inf


def test_ssim_against_the_paper(images):
    real, fake = (x[::2, :2] for x in images)
    channels = zip(unit(real).reshape(-1, 24, 20), unit(fake).reshape(-1, 24, 20), strict=True)
    expected = [numpy_ssim(x, y) for x, y in channels]
    assert ssim(real, fake) == pytest.approx(np.mean(expected), abs=1e-3)


def test_ssim_of_identical_images_is_one(images):
    assert ssim(images[0], images[0]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", PAIRED_METRICS)
def test_value_does_not_depend_on_the_batch(name, images):
    real, fake = images
    fn = PAIRED_METRICS[name].fn
    alone = [fn(real[i : i + 1], fake[i : i + 1]) for i in range(len(real))]
    assert fn(real, fake) == pytest.approx(np.mean(alone), rel=1e-4)
    order = [2, 0, 3, 1]
    assert fn(real[order], fake[order]) == pytest.approx(fn(real, fake), rel=1e-5)


@pytest.mark.parametrize("name", PAIRED_METRICS)
def test_better_predictions_score_better(name, images):
    real, _ = images
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    metric = PAIRED_METRICS[name]
    scores = [metric.fn(real, (real + k * noise).clamp(-1, 1)) for k in (0.05, 0.2, 0.5, 1.0)]
    assert all(map(math.isfinite, scores))
    assert scores == sorted(scores, reverse=metric.higher_is_better) and len(set(scores)) == 4


@pytest.mark.parametrize("name", PAIRED_METRICS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels_and_symmetry(name, channels):
    g = torch.Generator().manual_seed(2)
    x, y = (torch.rand(2, channels, 16, 16, generator=g) * 2 - 1 for _ in range(2))
    fn = PAIRED_METRICS[name].fn
    assert fn(x, y) == pytest.approx(fn(y, x), rel=1e-4)


@pytest.mark.parametrize("name", PAIRED_METRICS)
def test_small_images_have_a_score(name):
    """Training sizes start at 16 px; a validation must not fail there."""
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert math.isfinite(PAIRED_METRICS[name].fn(x, -x))
