"""Metrics of whole sets, of features and logits, against independent implementations."""

import itertools

import numpy as np
import pytest
import torch
from conftest import refused
from helpers import over, save_torchscript
from scipy.linalg import sqrtm
from sklearn.neighbors import NearestNeighbors

from img2img.errors import ConfigError, DataError
from img2img.metrics.distributions import SPLITS, fid, inception_score, kid
from img2img.metrics.manifold import coverage, density, precision, recall
from img2img.metrics.options import MetricOptions
from img2img.metrics.scorer import Scorer
from img2img.metrics.table import METRICS

SETS = [name for name, metric in METRICS.items() if metric.kind == "features"]


def points(n, dims=8, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((dims, dims))
    return torch.from_numpy((rng.standard_normal((n, dims)) @ mixing + shift).astype(np.float32))


REAL, ALIKE, OTHER = points(60), points(50, seed=1), points(50, shift=1.5, seed=2)


# Against independent implementations


@over("fake", [ALIKE, OTHER])
def test_fid_with_the_matrix_root_of_scipy(fake):
    a, b = REAL.double().numpy(), fake.double().numpy()
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sum(covariances) - 2 * root)
    assert fid(REAL, fake).value == pytest.approx(expected, rel=1e-9)
    assert fid(REAL, fake).std is None


def test_fid_of_gaussians_in_closed_form():
    """Equal covariances: |difference of the means|²; doubled deviations: tr Σ more."""
    assert fid(REAL, REAL + 0.5).value == pytest.approx(0.25 * 8, rel=1e-4)
    centred = REAL - REAL.mean(0)
    assert fid(centred, 2 * centred).value == pytest.approx(float(REAL.double().var(0).sum()), rel=1e-4)


def naive_mmd(x, y):
    """Bińkowski et al. 2018, equation 4, term by term, for as many x as y."""
    k = lambda a, b: (a @ b / len(a) + 1) ** 3  # noqa: E731
    n = len(x)
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / n**2


def test_kid_of_all_images_is_the_unbiased_mmd():
    real = REAL[:50]
    for fake in (ALIKE, OTHER):
        score = kid(real, fake)
        assert score.value == pytest.approx(naive_mmd(real.double().numpy(), fake.double().numpy()), rel=1e-9)
        assert score.std is None  # a single subset


def test_kid_over_subsets_is_near_that_of_all_and_has_a_spread():
    real, fake = points(400, seed=3), points(300, shift=1.0, seed=4)
    whole, score = kid(real[:300], fake), kid(real, fake, subsets=50, subset_size=60)
    assert score.std > 0 and abs(score.value - whole.value) < 3 * score.std
    assert kid(real, fake, 1, 60).std == 0


@over("k, fake", itertools.product((1, 3, 5), (ALIKE, OTHER)))
def test_precision_recall_density_coverage_with_scikit_learn(fake, k):
    def radii(x):
        return NearestNeighbors(n_neighbors=k).fit(x).kneighbors()[0][:, -1]  # without themselves

    real, fake = REAL.double().numpy(), fake.double().numpy()
    distances = np.sqrt(np.square(real[:, None] - fake).sum(2))
    in_real = distances <= radii(real)[:, None]
    in_fake = distances <= radii(fake)
    expected = in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum() / k / len(fake), in_real.any(1).mean()
    args = torch.from_numpy(real), torch.from_numpy(fake), k
    assert [fn(*args).value for fn in (precision, recall, density, coverage)] == pytest.approx(expected, rel=1e-12)


def test_distances_a_few_at_a_time_are_the_same(monkeypatch):
    whole = [fn(REAL, ALIKE) for fn in (precision, recall, density, coverage)]
    monkeypatch.setattr("img2img.metrics.manifold.DISTANCES_AT_ONCE", 130)
    assert [fn(REAL, ALIKE) for fn in (precision, recall, density, coverage)] == whole


def test_precision_and_recall_tell_fidelity_from_variety():
    sharp = REAL.mean(0) + 0.1 * points(50, seed=5)  # all in the middle
    wide = torch.cat([ALIKE, REAL.mean(0) + 10 * points(50, seed=6)])
    assert precision(REAL, sharp).value == 1 and recall(REAL, sharp).value < 0.2
    assert precision(REAL, wide).value < 0.7 < recall(REAL, wide).value
    assert density(REAL, sharp).value > 1


def test_inception_score_by_hand():
    logits = 3 * points(40, seed=7)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    p = logits.double()[logits.double().sum(1).argsort()][order].softmax(1).numpy().reshape(SPLITS, 4, 8)
    divergence = (p * (np.log(p) - np.log(p.mean(1, keepdims=True)))).sum(2).mean(1)
    score = inception_score(logits)
    assert score.value == pytest.approx(np.exp(divergence).mean(), rel=1e-9)
    assert score.std == pytest.approx(np.exp(divergence).std(ddof=1), rel=1e-9)


def test_inception_score_in_closed_form():
    sure = 100 * torch.eye(10).repeat_interleave(200, 0)
    assert inception_score(sure).value == pytest.approx(10, rel=0.05)
    assert inception_score(torch.ones(40, 10)).value == pytest.approx(1)


# Over the table


@over("name", SETS)
def test_sets_that_are_alike_score_better(name):
    scores = [METRICS[name].fn(REAL, points(50, shift=shift, seed=1)).value for shift in (0, 1.5, 4)]
    assert scores == sorted(scores, reverse=METRICS[name].better == "higher") and scores[0] != scores[2]


@over("name", SETS)
def test_equal_sets_have_the_best_score(name):
    score = METRICS[name].fn(REAL, REAL).value
    if METRICS[name].better == "higher":
        assert score >= 1
    else:
        assert score < 1e-6


@over("name", [*SETS, "inception_score"])
def test_the_order_of_images_and_the_random_state_do_not_matter(name):
    metric = METRICS[name]
    sets = [ALIKE] if metric.kind == "logits" else [REAL, ALIKE]
    small = {"subsets": 3, "subset_size": 20} if name == "kid" else {}
    before, state = metric.fn(*sets, **small), torch.get_rng_state()
    torch.manual_seed(5)
    order = torch.get_rng_state()
    turned = metric.fn(*(x.flip(0) for x in sets), **small)
    assert turned.value == pytest.approx(before.value, rel=1e-9)
    assert (turned.std or 0) == pytest.approx(before.std or 0, rel=1e-9)
    assert torch.equal(order, torch.get_rng_state())
    torch.set_rng_state(state)


# In the scorer, with a network that gives the pixels


@pytest.fixture
def pixels(tmp_path):
    """The file of a network whose features are the pixels."""

    class Pixels(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)

    save_torchscript(Pixels(), torch.zeros(1, 8, 1, 1), tmp_path / "pixels.pt")
    return str(tmp_path / "pixels.pt")


def test_scores_of_networks_other_than_inception_say_so(pixels):
    names = [*SETS, "drift"]
    scorer = Scorer(names, MetricOptions(features=pixels, subset_size=20, subsets=5), channels=8)
    scorer.prepare(lambda: (x[..., None, None] for x in REAL.split(7)))
    values = []
    for size in (50, 1):
        row = scorer.row()
        for x in ALIKE.split(size):
            row.add(fake=x[..., None, None])
        values.append(row.scores())
    assert list(values[0]) == [*(f"{name}[pixels]" for name in SETS), "drift"]
    assert values[0]["fid[pixels]"].value == pytest.approx(fid(REAL, ALIKE).value, rel=1e-9)
    assert values[0]["kid[pixels]"] == kid(REAL, ALIKE, 5, 20)
    for key, score in values[0].items():
        assert values[1][key].value == pytest.approx(score.value, rel=1e-9)
    assert scorer.notes == []


def test_notes_say_what_few_images_mean(pixels):
    scorer = Scorer(["kid", "fid"], MetricOptions(features=pixels), channels=8)
    scorer.prepare(lambda: [REAL[:6, :, None, None]])
    for _ in range(2):
        row = scorer.row()
        row.add(fake=ALIKE[..., None, None])
        assert row.scores()["kid[pixels]"].std is not None
    assert scorer.notes == [
        "kid[pixels]: subsets of 6 images, which is all, instead of 1000",
        "fid[pixels]: 6 images are fewer than the 8 features; biased upwards, compare only at equal n",
    ]


def test_too_few_images_are_refused():
    assert refused(DataError, fid, REAL[:1], ALIKE) == "fid needs at least 2 real and 2 generated images, not 1 and 50."
    assert "kid needs at least 2" in refused(DataError, kid, REAL, ALIKE[:1])
    assert "more than --neighbours 5 images of each kind, not 5" in refused(DataError, precision, REAL[:5], ALIKE)
    assert "more than --neighbours 9" in refused(DataError, recall, REAL, ALIKE[:9], 9)
    assert "at least 20 images" in refused(DataError, inception_score, ALIKE[:19])


def test_a_network_without_classes_has_no_inception_score(pixels):
    for features in (pixels, "encoder"):
        text = refused(ConfigError, Scorer, ["inception_score"], MetricOptions(features=features))
        assert "needs a network with classes" in text and features in text
