"""The benchmark of batch equalization judges as it should: whoever cheats, or hides biology, does not pass."""

import sys
from pathlib import Path

import numpy as np
import pytest

from img2img.lab.synthetic import nuclei

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_module():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import equalize
    finally:
        sys.path.remove(str(BENCHMARKS))
    return equalize


@pytest.fixture(scope="module")
def fields(benchmark_module):
    """Ten sources with four crops each: 40 crops."""
    rng = np.random.default_rng(0)
    return [[benchmark_module.Field(*nuclei(rng, 96, 10), f"source {i}") for _ in range(4)] for i in range(10)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::img2img.lab.equalizer.LabWarning")
def test_cheats_and_per_image_methods_fail_the_gates(benchmark_module, fields):
    rows = benchmark_module.run_balanced("B", fields, 0, ["tone"], min_images=4)
    passed = {name for name, row in rows.items() if row["passed"]}
    assert {"do nothing", "batch moments", "tone", "the truth"} <= passed
    assert not passed & {
        "per-image z-score",
        "per-image match_histograms",
        "cheat: constant image",
        "cheat: random reference image",
    }
    assert rows["the truth"]["psnr"] > rows["tone"]["psnr"] > rows["do nothing"]["psnr"]


@pytest.mark.parametrize("name", ["0", "B", "N", "K", "X: foci in the source"])
def test_no_source_is_in_fit_and_test(benchmark_module, fields, name):
    fit, test = benchmark_module.scenario(name, fields, 0)
    assert set(fit.group) and set(test.group) and not set(fit.group) & set(test.group)
    assert len(fit.images) + len(test.images) == 40
    assert set(fit.batch) == set(test.batch) == set("ABCD")


def test_whole_sources_lie_in_one_batch_where_densities_differ(benchmark_module, fields):
    fit, _ = benchmark_module.scenario("N", fields, 0)
    assert all(len({b for b, g in zip(fit.batch, fit.group, strict=True) if g == group}) == 1 for group in fit.group)


def test_planted_spots_are_found(benchmark_module, fields):
    fit, _ = benchmark_module.scenario("X: foci in the source", fields, 0)
    counts = {
        batch: np.mean([len(benchmark_module.foci(image, mask)) for image, _, mask in fit.of(batch)]) for batch in "AB"
    }
    assert counts["B"] > 10 * max(counts["A"], 0.1)
