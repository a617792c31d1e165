"""What a lab would use instead, in the table of the report: percentiles, z-scores of features, other packages."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from helpers import over

from img2img import BatchEqualizer
from img2img.lab import synthetic
from img2img.lab.judgement import probes, rivals
from img2img.lab.judgement.baselines import BASELINES, Statistics
from img2img.lab.judgement.case import Case
from img2img.lab.judgement.judge import FEATURES_ONLY
from img2img.lab.judgement.normalised import FEWEST, measure_zscored_features

pytestmark = pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
N = 8


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(probes, "PERMUTATIONS", 2)
    monkeypatch.setattr(probes, "TREES", 5)


def plates(n=N, size=48, seed=0):
    """n images (1, H, W) of each of two plates, uint16; their plates and wells."""
    rng = np.random.default_rng(seed)
    batch = np.repeat(["P1", "P2"], n).tolist()
    effects = {"P1": synthetic.Effect(), "P2": synthetic.Effect(gain=0.6, offset=80)}
    images = [synthetic.expose(synthetic.nuclei(rng, size, 5)[0], effects[b], rng)[None] for b in batch]
    return images, batch, [f"{seed}{b}{i // 2}" for i, b in enumerate(batch)]


def coloured(n=N, size=32):
    rng = np.random.default_rng(0)
    return [rng.integers(60, 250, (3, size, size), dtype=np.uint8) for _ in range(n)]


def test_percentiles_of_batches_are_moved_onto_the_targets():
    images, batch, _ = plates()
    images = [*images, np.full((1, 48, 48), 7, np.uint16)]
    statistics = Statistics.of(images, [*batch, "flat"], reference="P1", example=images[0])
    moved = BASELINES["batch percentiles"](images, [*batch, "flat"], statistics)
    assert all(a is b for a, b in zip(moved[:N], images[:N], strict=True))
    was, wanted, found = (np.quantile(np.stack(x), (0.01, 0.99)) for x in (images[N:-1], images[:N], moved[N:-1]))
    assert (np.abs(found - wanted) < 0.02 * np.abs(was - wanted) + 2).all()
    assert np.ptp(moved[-1]) == 0  # one value is only shifted


def test_the_row_of_normalised_features_is_reached_from_evaluate():
    images, batch, group = plates()
    equalizer = BatchEqualizer(target="P1").fit(images, batch=batch, group=group)
    images, batch, group = plates(seed=1)
    evaluation = equalizer.evaluate(images, batch=batch, group=group)
    rows = evaluation.rows
    assert rows[FEATURES_ONLY]["batch_linear"] < rows["do nothing"]["batch_linear"]
    assert not evaluation.passed(FEATURES_ONLY) and rows[FEATURES_ONLY]["psnr"] is None


def test_no_image_is_normalised_by_its_own_group():
    images, batch, group = plates(n=20)
    case = Case(images, batch=batch, reference="P1", scale=np.array([[400.0, 7000.0]]), group=group)
    scores = measure_zscored_features(case)
    assert scores["batch_linear"] is not None and not case.problems
    few = [i % 20 < FEWEST for i in range(40)]
    for wells, control in ((group, few), ([group[0] if b == "P1" else group[-1] for b in batch], None)):
        case = Case(images, batch=batch, reference="P1", scale=case.scale, group=wells, control=control)
        assert measure_zscored_features(case) is None and f"fewer than {FEWEST}" in str(case.problems)


class Normalizer:
    """Inverts images, and fails on constant ones."""

    def __init__(self, backend):
        self.fitted = False

    def fit(self, target):
        self.fitted = True

    def normalize(self, I, stains=False):  # noqa: E741
        assert self.fitted
        if I.std() == 0:
            raise RuntimeError("linalg.eigh: the input is not finite")
        return 255 - I.permute(1, 2, 0)


class BaSiC:
    """Divides by the mean over the images."""

    def __init__(self, get_darkfield):
        assert not get_darkfield

    def fit(self, images):
        self.flat = images.mean(0) / images.mean()

    def transform(self, images, use_tqdm):
        return images / self.flat


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins of the other packages."""
    torchstain, basicpy = ModuleType("torchstain"), ModuleType("basicpy")
    torchstain.normalizers = SimpleNamespace(ReinhardNormalizer=Normalizer, MacenkoNormalizer=Normalizer)
    basicpy.BaSiC = BaSiC
    for module in (torchstain, basicpy):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(rivals, "find_spec", lambda name: name in sys.modules)


def test_without_the_packages_there_are_no_such_rows(monkeypatch):
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    for images in (coloured(), plates()[0]):
        statistics = Statistics.of(images[:2], ["A", "B"], reference="A", example=images[0])
        assert rivals.installed(statistics, print) == {}


@over(name=["per-image torchstain Reinhard", "per-image torchstain Macenko"])
def test_torchstain_is_used_and_its_failures_are_said(packages, name):
    images, notes = [*coloured(4), np.full((3, 32, 32), 240, np.uint8)], []
    statistics = Statistics.of(images[:4], [*"AABB"], reference="A", example=images[0])
    outputs = rivals.installed(statistics, notes.append)[name](images, [*"AABBB"], statistics)
    assert all(np.array_equal(a, 255 - b) for a, b in zip(outputs[:4], images[:4], strict=True))
    assert np.array_equal(outputs[4], images[4]) and len(notes) == 1
    assert "failed on 1 image, left unchanged" in notes[0]


def test_basic_flattens_and_matches_percentiles(packages):
    light = np.linspace(0.5, 1.5, 32)
    rng = np.random.default_rng(0)
    signal = rng.uniform(500, 1000, (12, 1, 32, 32))
    images = [(s * (light if i < 6 else 0.5)).astype(np.uint16) for i, s in enumerate(signal)]
    batch, notes = [*"AAAAAABBBBBB"], []
    statistics = Statistics.of(images, batch, reference="A", example=images[0])
    methods = rivals.installed(statistics, notes.append)
    assert list(methods) == ["BaSiCPy and percentiles"]
    outputs = methods["BaSiCPy and percentiles"](images, batch, statistics)
    flat = np.stack(outputs[:6]).mean((0, 1, 2))
    assert flat.std() / flat.mean() < 0.1  # from 0.3
    ends = [np.quantile(np.stack(part), (0.01, 0.99)) for part in (outputs[:6], outputs[6:])]
    assert np.abs(ends[0] - ends[1]).max() <= 2
    methods["BaSiCPy and percentiles"]([images[0], images[1][:, :16]], ["A", "B"], statistics)
    assert "one size" in notes[0]


def test_torchstain_itself():
    pytest.importorskip("torchstain")
    images, notes = coloured(), []
    statistics = Statistics.of(images, [*"AAAABBBB"], reference="A", example=images[0])
    for method in rivals.installed(statistics, notes.append).values():
        outputs = method(images, [*"AAAABBBB"], statistics)
        assert all(a.shape == b.shape and a.dtype == np.uint8 for a, b in zip(outputs, images, strict=True))
