"""Tables of images in stores, and results that go to one: the files and the list of a disk; and what is refused."""

import io
import tempfile

import pandas as pd
import pytest
from conftest import refused
from fsspec.implementations.memory import MemoryFileSystem
from helpers import fit_plates, write_plates

from img2img import BatchEqualizer
from img2img.errors import ConfigError, DataError
from img2img.lab import Manifest
from img2img.model.record import RECORD


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Plates without the row whose pixels others are compared with; the files of one row cannot be read."""
    table = write_plates(tmp_path_factory.mktemp("plates"))
    frame = pd.read_csv(table)
    frame[frame.index % 20 != 3].to_csv(table, index=False)
    return table


@pytest.fixture(scope="module")
def equalizer(table, tmp_path_factory):
    return fit_plates(table, tmp_path_factory.mktemp("equalizer") / "eq")


@pytest.fixture(scope="module")
def whole(equalizer, table, tmp_path_factory):
    """The results of the same table on a disk."""
    out = tmp_path_factory.mktemp("whole") / "out"
    BatchEqualizer.load(equalizer).transform_table(table, None, out)
    return {
        p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".lock"
    }


@pytest.fixture
def store(table, monkeypatch, tmp_path):
    """A store in memory that holds the plates and their table, emptied afterwards; and a place for what is brought."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fs = MemoryFileSystem()
    fs.put(f"{table.parent}/", "/plates/", recursive=True)
    yield fs
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    assert list(tmp_path.glob(".*.img2img-part")) == []  # nothing stays on this disk


def results(place="/out"):
    below = [x for x in MemoryFileSystem.store if x.startswith(f"{place}/")]
    return {x[len(place) + 1 :]: MemoryFileSystem().cat_file(x) for x in below}


def rows(content):
    return pd.read_csv(io.BytesIO(content), dtype=str).drop(columns="error")


def test_files_and_list_are_those_of_a_disk(equalizer, table, whole, store, command_line):
    words = ("equalize", "transform", equalizer, "memory://plates/plates.csv", "--out", "memory://out", "--jobs", "1")
    code, out, err = command_line(*words)
    assert code == 1 and "21 images equalized into memory://out, 1 failed;" in out, err
    assert "listed in memory://out/equalized.csv\n" in out
    assert "failed: memory://plates/P1/7-ER.ome.tif is not in a format" in err and ".img2img-part" not in out + err
    found = results()
    pd.testing.assert_frame_equal(rows(found.pop("equalized.csv")), rows(whole["equalized.csv"]))
    assert found == {name: content for name, content in whole.items() if name != "equalized.csv"}
    code, out, err = command_line(*words)
    assert code == 1 and "0 images equalized into memory://out, 21 existed already, 1 failed;" in out, err
    store.rm_file("/out/P1/5-ER.ome.tif")
    with store.open("/plates/P2/13-DNA.ome.tif", "ab") as file:
        file.write(b"changed")
    code, out, err = command_line(*words)
    assert code == 1 and "2 images equalized into memory://out, 19 existed already, 1 failed;" in out, err
    assert results()["P1/5-ER.ome.tif"] == whole["P1/5-ER.ome.tif"]


def test_parts_have_lists_of_their_own(equalizer, table, whole, store, tmp_path):
    """The table lies on a disk, and names URLs; --root says what the names of results are relative to."""
    loaded, frame = BatchEqualizer.load(equalizer), pd.read_csv(table)
    named = frame.assign(**{c: "memory://plates/" + frame[c] for c in frame if c.startswith("FileName_")})
    for part in ("1/3", "2/3", "3/3"):
        loaded.transform_table(named, "memory://plates", "memory://out", shard=part)
    found = results()
    lists = [found.pop(f"equalized.{part}-of-3.csv") for part in (1, 2, 3)]
    assert sum(len(rows(content)) for content in lists) == len(frame)
    assert found == {name: content for name, content in whole.items() if name != "equalized.csv"}
    again = loaded.transform_table(named, "memory://plates", "memory://out")
    assert again.status.value_counts().to_dict() == {"kept": 21, "failed": 1}
    disk = loaded.transform_table(named, "memory://plates", tmp_path / "disk")
    assert (tmp_path / "disk" / "P1" / "0-ER.ome.tif").read_bytes() == whole["P1/0-ER.ome.tif"]
    assert disk.status.value_counts().to_dict() == {"done": 21, "failed": 1}


def test_a_fit_reads_from_a_store(equalizer, store, tmp_path):
    fit_plates("memory://plates/plates.csv", tmp_path / "eq")
    assert (tmp_path / "eq" / "weights.safetensors").read_bytes() == (equalizer / "weights.safetensors").read_bytes()


def test_what_is_refused(equalizer, table, store, tmp_path):
    loaded = BatchEqualizer.load(equalizer)

    def says(place="memory://out", kind=ConfigError, source="memory://plates/plates.csv", **options):
        return refused(kind, loaded.transform_table, source, None, place, **options)

    assert says("memory://plates") == "memory://plates is the folder of the originals; give another for the results."
    assert says(ray="local") == "memory://out is in the memory of one process; give a place that all workers see."
    absent = says(kind=DataError, source="memory://plates/absent.csv")
    assert absent == "memory://plates/absent.csv cannot be read: it does not exist."
    frame = pd.read_csv(table).assign(PathName_DNA="memory://key:word@plates")
    assert refused(ConfigError, Manifest.open, frame).startswith("memory://plates: a table, and files in one, are")
    secret = refused(ConfigError, Manifest.open, "memory://key:word@plates/plates.csv")
    assert secret.startswith("memory://plates: a table,") and "word" not in secret
    assert len(Manifest.open(f"file://{table}", f"file://{table.parent}")) == 22
    store.pipe_file("/out/P1/4-DNA.ome.tif", b"foreign")
    assert says().startswith("memory://out/P1/4-DNA.ome.tif already exists and is listed in no equalized.csv there;")
    store.rm("/out", recursive=True)
    found = loaded.transform_table("memory://plates/plates.csv", None, "memory://out", max_megapixels=0.0001)
    assert set(found.status) == {"failed"} and "has to be read by region, which files on a disk" in found.error[0]
    of_disk = loaded.transform_table(table, None, "memory://out", max_megapixels=0.0001)
    assert set(of_disk.status) == {"failed"} and "it has to be written by region, which a disk" in of_disk.error[0]
    assert set(results()) == {RECORD, "equalized.csv"}
