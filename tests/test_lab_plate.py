"""Trends along a plate: found in the controls, and corrected by the well of each image."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import refused

from img2img import BatchEqualizer
from img2img.errors import ConfigError, InputError
from img2img.lab import synthetic
from img2img.lab.curves import trend
from img2img.lab.tables.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
ROWS, COLUMNS = 8, 12
CONTROLS = [(r, c) for r in range(0, ROWS, 2) for c in (1, 5, 10)] * 2
EDGES = [(r, c) for r in (1, 4, 7) for c in (0, COLUMNS - 1)]
DRIFT = 0.6  # log brightness along the columns of P2, from the first to the last


def plate(name, wells, seed, drift=DRIFT, size=64):
    """Images of wells of a plate, what they would be without its trend and gain, and the names of the wells."""
    rng, at_p2 = np.random.default_rng(seed), name != "P1"
    images, truth, groups = [], [], []
    for row, column in wells:
        signal = synthetic.nuclei(rng, size, 6)[0]
        share = drift * (column / (COLUMNS - 1) - 0.5)
        for into, gain in ((images, 0.7 * np.exp(share) if at_p2 else 1.0), (truth, 1.0)):
            into.append(synthetic.expose(signal, synthetic.Effect(gain=gain), np.random.default_rng(seed))[None])
        groups.append(f"{name}/{'ABCDEFGH'[row]}{column + 1:02d}")
    return images, truth, groups


def fitted(*names, wells=CONTROLS, drift=DRIFT, **options):
    parts = [plate(name, wells, seed, drift) for seed, name in enumerate(names)]
    images, group = [x for part in parts for x in part[0]], [g for part in parts for g in part[2]]
    batch = [g.split("/")[0] for g in group]
    equalizer = BatchEqualizer(**{"target": "P1", "plate_position": True} | options)
    return equalizer.fit(images, batch=batch, group=group, control=[True] * len(group))


def tilt(images, truth):
    """Return how much brighter the last column of `EDGES` is than the first, as a log ratio, less than the truth's."""
    level = [np.log((x.astype(float) - synthetic.PEDESTAL).mean()) for x in images]
    known = [np.log((x.astype(float) - synthetic.PEDESTAL).mean()) for x in truth]
    return float((np.array(level) - known).reshape(-1, 2).mean(0) @ [-1, 1])


@pytest.fixture(scope="module")
def drifting():
    return fitted("P1", "P2")


@pytest.mark.parametrize("model", ["tone", "tone+field"])
def test_a_trend_is_corrected_by_the_well_of_each_image(model):
    images, truth, group = plate("P2", EDGES, 7)
    assert tilt(images, truth) == pytest.approx(DRIFT, abs=0.05)
    left = {}
    for with_position in (True, False):
        equalizer = fitted("P1", "P2", model=model, plate_position=with_position)
        left[with_position] = abs(tilt(equalizer.transform(images, batch="P2", group=group), truth))
    assert left[True] < 0.1 and left[False] > 0.4


def test_the_level_of_a_plate_is_that_of_its_middle():
    """Controls that all lie on one side tell of the other side too."""
    images, truth, group = plate("P2", EDGES, 7)
    left = [(r, c) for r in range(ROWS) for c in range(5)]
    out = fitted("P1", "P2", wells=left).transform(images, batch="P2", group=group)
    assert abs(tilt(out, truth)) < 0.2


def test_a_table_brings_the_wells(drifting, tmp_path):
    images, _, group = plate("P2", EDGES, 7)
    for g, image in zip(group, images, strict=True):
        tifffile.imwrite(tmp_path / f"{g.replace('/', '_')}.tif", image[0])
    table = pd.DataFrame(
        {"FileName_0": [f"{g.replace('/', '_')}.tif" for g in group], "Metadata_Plate": "P2"}
        | {"Metadata_Well": [g.split("/")[1] for g in group]}
    )
    drifting.transform(Manifest.open(table, tmp_path), out_dir=tmp_path / "out")
    expected = drifting.transform(images, batch="P2", group=group)
    for g, image in zip(group, expected, strict=True):
        assert np.array_equal(tifffile.imread(tmp_path / "out" / f"{g.replace('/', '_')}.tif"), image[0])


def test_trends_are_kept_with_the_equalizer(drifting, tmp_path):
    images, _, group = plate("P2", EDGES, 7)
    drifting.save(tmp_path / "equalizer")
    again = BatchEqualizer.load(tmp_path / "equalizer")
    rows = again.corrections_[["row_trend", "column_trend"]]
    assert rows.equals(drifting.corrections_[["row_trend", "column_trend"]])
    assert again.fitted_.plate == (ROWS, COLUMNS) and rows.column_trend[1] == pytest.approx(np.exp(DRIFT), rel=0.2)
    for a, b in zip(*(e.transform(images, batch="P2", group=group) for e in (again, drifting)), strict=True):
        assert np.array_equal(a, b)


def test_a_plate_that_is_added_has_its_own_trend():
    images, truth, group = plate("P3", EDGES, 7)
    equalizer = fitted("P1", "P2", drift=0.0)
    controls, _, wells = plate("P3", CONTROLS, 3)
    equalizer.add_batch("P3", controls, group=wells)
    assert abs(tilt(equalizer.transform(images, batch="P3", group=group), truth)) < 0.15


def test_the_targets_own_trend_is_corrected_too():
    images, truth, group = plate("P2", EDGES, 7)
    equalizer = fitted("P1", "P2", target="P2")
    assert abs(tilt(equalizer.transform(images, batch="P2", group=group), truth)) < 0.1
    assert not equalizer.fitted_.correction.is_identity(1)


def test_few_wells_have_no_trend_and_that_is_said():
    equalizer = fitted("P1", "P2", wells=CONTROLS[: trend.FEWEST - 1] * 2)
    assert not equalizer.fitted_.correction.trends.any()
    assert any(f"fewer than {trend.FEWEST} wells" in note for note in equalizer.notes_)


def test_slopes_that_could_be_chance_are_reduced_and_clear_ones_hardly():
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (16, 2))
    noise = rng.normal(0, 0.1, (200, 16))

    def share(slope):
        return np.mean([trend._plane(places, places @ [slope, 0] + e)[0] for e in noise]) / slope

    assert 0.3 < share(0.05) < 0.8 and share(0.5) > 0.95
    assert trend._plane(np.column_stack([places[:, 0], np.zeros(16)]), places[:, 0])[1] == 0  # all in one column


def test_what_has_no_positions_is_refused(drifting):
    images, _, group = plate("P2", EDGES, 7)
    assert "no groups were given" in refused(InputError, drifting.transform, images, batch="P2")
    assert "but a is none" in refused(InputError, drifting.transform, images, batch="P2", group=["a"] * len(images))
    nameless, batch = BatchEqualizer(plate_position=True), ["A", "B"] * 12
    assert "is none" in refused(InputError, nameless.fit, images * 4, batch=batch, control=[True] * 24)
    assert "name the controls" in refused(InputError, nameless.fit, images * 4, batch=batch, group=group * 4)
    for model in ("stain", "local"):
        assert model in refused(ConfigError, fitted, "P1", "P2", model=model)
