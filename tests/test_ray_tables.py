"""Tables equalized by Ray: the files and the list of one process, whoever is killed; and what a user can get wrong."""

import json
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from helpers import fit_plates, there, write_plates

from img2img import BatchEqualizer
from img2img.bulk.workers import TRIES, Begun, Worker
from img2img.errors import ConfigError, InputError
from img2img.lab import Manifest, spreading, store
from img2img.lab.tables.destination import Destination
from img2img.lab.tables.listing import Listing
from img2img.lab.tables.results import Rows
from img2img.lab.transforming import Equalizing
from img2img.model.record import RECORD


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def equalizer(table, tmp_path_factory):
    return fit_plates(table, tmp_path_factory.mktemp("equalizer") / "eq")


@pytest.fixture(scope="module")
def whole(equalizer, table, tmp_path_factory):
    """The results of one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    frame = BatchEqualizer.load(equalizer).transform_table(table, None, out)
    assert frame.status.value_counts().to_dict() == {"done": 22, "failed": 2}
    return contents(out)


def contents(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".lock"}


def rows_of(equalizer, table, out, function=Equalizing, **options):
    """The rows of a table, as `transform` has them, the pieces that workers are given, and the list of results."""
    loaded, manifest = BatchEqualizer.load(equalizer), Manifest.open(table, **options)
    p, fitted = loaded._parameters, loaded.fitted_
    fitted.expect(manifest)
    assert manifest.readable and manifest.channels == ["DNA", "ER"]
    destination = Destination(manifest, out)
    listing = Listing(destination, store.makers(fitted, p.out_dtype, manifest.batch))
    listing.begin(overwrite=False)
    made = function(p, fitted, manifest, "error", True)
    known = zip(manifest.files, destination.targets, manifest.batch, manifest.group, strict=True)
    makers = dict(zip(manifest.batch, store.makers(fitted, p.out_dtype, manifest.batch), strict=True))
    return Rows(manifest, destination, made, False, makers, 1), [pickle.dumps((*row, {})) for row in known], listing


def of_worker(rows, pieces, numbers, begun):
    """What a worker answers that is given rows, and ends as often as Ray would start it again."""
    ends, copied = 0, pickle.dumps(spreading.Table(rows, 2))
    while True:
        try:
            batch = {"number": numbers, "piece": [pieces[i] for i in numbers]}
            answer = Worker(pickle.loads(copied), begun, str(Path.cwd()))(batch)
        except SystemExit:
            ends += 1
            continue
        return ends, [(n, kind, pickle.loads(value)) for n, kind, value in zip(*answer.values(), strict=True)]


def test_workers_in_any_order_give_the_same_bytes(equalizer, table, whole, tmp_path):
    rows, pieces, listing = rows_of(equalizer, table, tmp_path / "out")
    begun = Begun()
    for numbers in ([3, 5, 1], range(14, 24), range(6, 14), [0, 2, 4]):
        ends, found = of_worker(rows, pieces, list(numbers), begun)
        assert ends == 0 and {kind for _, kind, _ in found} == {"result"}
        listing.notes.update({n: note for n, _, note in found})
    listing.save()
    assert contents(tmp_path / "out") == whole
    assert "has pixels of 1 µm, but" in whole["equalized.csv"].decode() and "7-ER.ome.tif" in str(listing.notes[7])


def test_a_worker_equalizes_by_region_too(equalizer, table, tmp_path):
    small = {"max_megapixels": 0.0005, "where": "Metadata_Well in ['A01', 'A02']"}
    alone = BatchEqualizer.load(equalizer).transform_table(table, None, tmp_path / "alone", **small)
    rows, pieces, listing = rows_of(equalizer, table, tmp_path / "out", **small)
    listing.notes.update({n: note for n, _, note in of_worker(rows, pieces, [3, 1, 0, 2], Begun())[1]})
    listing.save()
    assert alone.status.tolist() == ["done"] * 4 and contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_workers_agree_on_what_files_state(equalizer, table, tmp_path):
    rows, pieces, _ = rows_of(equalizer, table, tmp_path / "out")
    begun = Begun()
    notes = {n: note for numbers in ([20], [3]) for n, _, note in of_worker(rows, pieces, numbers, begun)[1]}
    assert notes[20]["status"] == "done" and notes[3]["status"] == "failed"
    assert "has pixels of 0.5 µm, but" in notes[3]["error"]


class Deadly(Equalizing):
    def __call__(self, i, image):
        if i == 2:
            raise SystemExit
        return super().__call__(i, image)


def test_a_row_that_ends_every_worker_is_reported(equalizer, table, tmp_path):
    rows, pieces, _ = rows_of(equalizer, table, tmp_path / "out", Deadly)
    ends, found = of_worker(rows, pieces, [1, 2, 4], Begun())
    assert ends == 1 + TRIES and [note["status"] for _, _, note in found] == ["done", "failed", "done"]
    reason = "2-DNA.ome.tif: the process that worked on it ended each time; is there enough memory?"
    assert found[1][2]["error"].endswith(reason)


def test_a_worker_that_sees_another_disk_or_another_equalizer_is_refused(equalizer, table, tmp_path):
    rows, *_ = rows_of(equalizer, table, tmp_path / "out")
    work = spreading.Table(rows, 1)
    (tmp_path / "out" / RECORD).write_text(json.dumps({"equalizer": "other"}))
    says = refused(ConfigError, work.join, Begun())
    assert says.startswith("Another command has begun to write other results into")
    (tmp_path / "out" / RECORD).unlink()
    assert refused(ConfigError, work.join, Begun()).endswith("must be on a disk that all machines share.")
    (tmp_path / "out" / RECORD).write_text(json.dumps(work.record))
    work.way = spreading._way("cpu") | {"processor": "AVX9"}
    says = refused(ConfigError, work.join, Begun())
    assert "would compute differently than the process that gave the job: processor was AVX9, now" in says


# Ray


@pytest.mark.slow
@pytest.mark.nightly
def test_the_command_is_killed_and_started_again(equalizer, table, tmp_path, monkeypatch, command_line):
    pytest.importorskip("ray")
    frame = pd.read_csv(table)
    frame = frame[frame.index % 20 != 3]
    parts = []
    for k in range(10):  # so many that the job is not done before the signal comes
        shutil.copytree(table.parent, tmp_path / "in" / f"{k}")
        parts.append(frame.assign(**{c: f"{k}/" + frame[c] for c in frame if c.startswith("FileName_")}))
    pd.concat(parts).to_csv(tmp_path / "in" / "plates.csv", index=False)
    BatchEqualizer.load(equalizer).transform_table(tmp_path / "in" / "plates.csv", None, tmp_path / "alone")
    words = [sys.executable, "-m", "img2img", "equalize", "transform", equalizer, "in/plates.csv", "--out", "out"]
    words += ["--ray", "local", "--ray-workers", "2"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not there(tmp_path / "out", "*.tif") and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == -9 and "Traceback" not in said, said
    assert len(there(tmp_path / "out", "*.tif")) < 420
    monkeypatch.chdir(tmp_path)
    code, out, err = command_line(*words[3:-4])  # without Ray
    assert code == 1 and ", 10 failed" in out, err
    found, alone = (contents(tmp_path / name) for name in ("out", "alone"))
    assert {name: x for name, x in found.items() if name.endswith(".tif")} == {
        name: x for name, x in alone.items() if name.endswith(".tif")
    }
    columns = [pd.read_csv(tmp_path / name / "equalized.csv").drop(columns="error") for name in ("out", "alone")]
    pd.testing.assert_frame_equal(*(x.replace("kept", "done") for x in columns))


# Mistakes


def test_mistakes_in_options(equalizer, table, tmp_path, command_line):
    loaded = BatchEqualizer.load(equalizer)
    says = refused(InputError, loaded.transform, np.zeros((2, 2, 24, 24), "uint16"), batch="P1", ray="local")
    assert says == "ray= is for a Manifest; the results of arrays are returned."
    says = refused(ConfigError, loaded.transform_table, table, None, tmp_path / "out", ray_workers=2)
    assert says == "--ray-workers has no effect without --ray."
    words = ["equalize", "transform", equalizer, table, "--out", tmp_path / "out"]
    code, _, text = command_line(*words, "--ray", "local", "--jobs", "2")
    assert code == 2 and "--jobs has no effect with --ray, whose workers have --ray-cpus threads each;" in text
    code, _, text = command_line(*words, "--ray", "127.0.0.1:1")
    assert code == 2 and "there is no Ray cluster at this address: Connection refused." in text
    assert not (tmp_path / "out").exists()
