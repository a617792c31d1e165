"""Results of a table that come in parts, from several processes, or from another equalizer."""

import json
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import refused
from helpers import over

from img2img import BatchEqualizer
from img2img.errors import ConfigError
from img2img.lab import store
from img2img.lab.tables import listing
from img2img.lab.tables.manifest import Manifest
from img2img.lab.tables.results import transform
from img2img.model.record import RECORD

CONTROL = "Metadata_Use == 'control'"


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """Two plates of eight images, of which P2 is darker, in a folder with a table."""
    root, rows = tmp_path_factory.mktemp("plates"), []
    for k, plate in enumerate(("P1", "P2", "P3")):
        (root / plate).mkdir()
        for well in range(8):
            image = np.random.default_rng(len(rows)).normal(200, 5, (24, 24))
            image[4:12, 5:14] += 500
            tifffile.imwrite(root / plate / f"{well}.tif", (image * (1 - 0.2 * k)).astype("uint16"))
            rows.append({"FileName_DNA": f"{plate}/{well}.tif", "Metadata_Plate": plate, "Metadata_Well": f"A{well}"})
    pd.DataFrame(rows).assign(Metadata_Use="control", Metadata_Dose="010").to_csv(root / "plates.csv", index=False)
    return root / "plates.csv"


def fitted(plates, target="P1", plate_names=("P1", "P2"), **options):
    where = f"Metadata_Plate in {list(plate_names)}"
    return BatchEqualizer(target=target, **options).fit_table(plates, control=CONTROL, where=where)


@pytest.fixture(scope="module")
def to_p1(plates):
    return fitted(plates)


@pytest.fixture(scope="module")
def to_p2(plates):
    return fitted(plates, "P2")


def only(plate):
    return f"Metadata_Plate == '{plate}'"


BOTH = "Metadata_Plate in ['P1', 'P2']"


def listed(out):
    return pd.read_csv(out / "equalized.csv", dtype=str, keep_default_na=False)


# Parts


def test_parts_of_a_table_one_after_another(plates, to_p1, tmp_path):
    whole = to_p1.transform_table(plates, None, tmp_path / "whole", where=BOTH)
    for plate in ("P2", "P1", "P2"):
        part = to_p1.transform_table(plates, None, tmp_path / "parts", where=only(plate))
        assert set(part.Metadata_Plate) == {plate}
    assert part.status.eq("kept").all()
    parts = listed(tmp_path / "parts").sort_values("FileName_DNA", ignore_index=True)
    expected = listed(tmp_path / "whole").assign(status=["done"] * 8 + ["kept"] * 8)
    pd.testing.assert_frame_equal(parts, expected)  # "010", and numbers to the last digit
    again = to_p1.transform_table(plates, None, tmp_path / "parts", where=BOTH)
    assert again.status.eq("kept").all() and again.change.tolist() == whole.change.tolist()


def test_parts_at_the_same_time(plates, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "SAVE_EVERY", -1)
    barrier = threading.Barrier(3, timeout=30)

    def run(plate):
        manifest = Manifest.open(plates, where=only(plate))
        barrier.wait()
        transform(manifest, lambda i, image: (image, {"n": i}), tmp_path)

    threads = [threading.Thread(target=run, args=(plate,)) for plate in ("P1", "P2", "P3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frame = listed(tmp_path)
    assert sorted(frame.FileName_DNA) == [f"P{p}/{i}.tif" for p in (1, 2, 3) for i in range(8)]
    assert set(frame.status) == {"done"} and set(frame.Metadata_Dose) == {"010"}


def test_a_list_that_another_process_holds(plates, tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(listing, "PATIENCE", 0.1)
    manifest = Manifest.open(plates)
    with FileLock(tmp_path / listing.LOCK):
        says = refused(ConfigError, transform, manifest, lambda i, image: (image, {}), tmp_path)
    assert says == f"Another process holds {tmp_path / listing.LOCK}; end it, or wait for it."


def test_a_result_whose_original_has_changed_is_made_anew(plates, to_p1, tmp_path):
    root, frame = tmp_path / "root", pd.read_csv(plates, dtype=str)[:16]
    shutil.copytree(plates.parent, root)
    to_p1.transform_table(frame, root, tmp_path / "out")
    tifffile.imwrite(root / "P2" / "3.tif", tifffile.imread(root / "P2" / "3.tif") + 7)
    (root / "P1" / "2.tif").unlink()  # its result is still good
    table = to_p1.transform_table(frame, root, tmp_path / "out")
    assert table.status.tolist() == ["kept"] * 11 + ["done"] + ["kept"] * 4
    assert to_p1.transform_table(frame, root, tmp_path / "out").status.eq("kept").all()
    elsewhere = to_p1.transform_table(frame, plates.parent, tmp_path / "out")  # the same names below another root
    assert elsewhere.status.tolist() == ["kept"] * 11 + ["done"] + ["kept"] * 4


# Another equalizer


def test_rows_and_folder_say_which_equalizer_made_them(plates, to_p1, tmp_path):
    to_p1.save(tmp_path / "eq")
    table = to_p1.transform_table(plates, None, tmp_path / "out", where=BOTH)
    makers = store.makers(to_p1.fitted_, "same", ["P1"] * 8 + ["P2"] * 8)
    assert table.equalizer.tolist() == makers and len(set(makers)) == 2
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == {"equalizer": makers[0].partition("-")[0]}
    again = BatchEqualizer.load(tmp_path / "eq").transform_table(plates, None, tmp_path / "out", where=BOTH)
    assert again.status.eq("kept").all() and again.equalizer.tolist() == makers


@over(first=[only("P1"), only("P2"), BOTH], second=[only("P1"), only("P2"), BOTH])
def test_results_of_two_equalizers_are_never_mixed(plates, to_p1, to_p2, tmp_path, first, second):
    to_p1.transform_table(plates, None, tmp_path, where=first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    says = refused(ConfigError, to_p2.transform_table, plates, None, tmp_path, where=second)
    assert "is a result of equalizer " in says and "not of this one; give another folder, or replace" in says
    remain = first == BOTH != second or (first != second != BOTH)
    if remain:
        says = refused(ConfigError, to_p2.transform_table, plates, None, tmp_path, where=second, overwrite=True)
        assert says.endswith("or replace what is there (--overwrite with the whole table).")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    if not remain:
        table = to_p2.transform_table(plates, None, tmp_path, where=second, overwrite=True)
        assert table.status.eq("done").all() and set(listed(tmp_path).equalizer) == set(table.equalizer)


def test_replacing_that_was_stopped_resumes(plates, to_p1, to_p2, tmp_path):
    to_p1.transform_table(plates, None, tmp_path, where=BOTH)

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_p2.transform_table(plates, None, tmp_path, where=BOTH, overwrite=True, progress=stop)
    assert len(listed(tmp_path)) == 5
    table = to_p2.transform_table(plates, None, tmp_path, where=BOTH)
    assert table.status.tolist() == ["kept"] * 5 + ["done"] * 11


def test_a_folder_that_another_equalizer_has_begun(plates, to_p1, to_p2, tmp_path):
    to_p1.transform_table(plates, None, tmp_path, where=only("P1"))
    (tmp_path / "equalized.csv").write_text(",".join(listed(tmp_path).columns) + "\n")  # as if killed at once
    says = refused(ConfigError, to_p2.transform_table, plates, None, tmp_path, where=only("P1"))
    assert "is for the results of equalizer" in says
    (tmp_path / RECORD).write_text('{"model": "x"}')
    says = refused(ConfigError, to_p2.transform_table, plates, None, tmp_path, where=only("P1"))
    assert "is for the results of another command" in says


def test_an_equalizer_that_takes_a_folder_over_stops_the_other(plates, to_p1, to_p2, tmp_path):
    def take_over(done, total):
        if done == 1:
            to_p2.transform_table(plates, None, tmp_path, where=only("P1"), overwrite=True)

    says = refused(ConfigError, to_p1.transform_table, plates, None, tmp_path, where=only("P1"), progress=take_over)
    assert "are being replaced by another equalizer" in says


def test_a_list_of_version_0_1_0(plates, to_p1, tmp_path):
    to_p1.transform_table(plates, None, tmp_path, where=BOTH)
    listed(tmp_path).drop(columns="equalizer").to_csv(tmp_path / "equalized.csv", index=False)
    (tmp_path / RECORD).unlink()
    says = refused(ConfigError, to_p1.transform_table, plates, None, tmp_path, where=BOTH)
    assert "is a result of an unknown equalizer, not of this one" in says
    assert to_p1.transform_table(plates, None, tmp_path, where=BOTH, overwrite=True).status.eq("done").all()


def test_a_batch_that_is_added_leaves_results_comparable(plates, tmp_path):
    equalizer = fitted(plates)
    equalizer.transform_table(plates, None, tmp_path, where=BOTH)
    equalizer.add_batch("P3", Manifest.open(plates, where=only("P3")))
    table = equalizer.transform_table(plates, None, tmp_path)
    assert table.status.tolist() == ["kept"] * 16 + ["done"] * 8


def test_what_makes_an_equalizer_another_one(plates, to_p1, to_p2):
    def maker(equalizer, out_dtype="same"):
        return tuple(store.makers(equalizer.fitted_, out_dtype, ["P1", "P2", "P9"]))

    assert maker(to_p1) == maker(fitted(plates, n_jobs=2)) and maker(to_p1)[2].endswith("-unknown")
    others = [maker(to_p2), maker(to_p1, "float32"), maker(fitted(plates, "mean"))]
    assert len({maker(to_p1), *others}) == 4
