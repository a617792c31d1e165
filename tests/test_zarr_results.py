"""OME-Zarr out: images and plates that are written like their originals, whole or not at all."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tifffile
import zarr
from conftest import refused
from helpers import over, there
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from stores import NAMES, documents, levels, put, store, volume, write_json, write_plate, write_store
from zarr import codecs as v3

import img2img
from img2img.data.folders import find_images
from img2img.data.images import not_kept, read_header, read_image, write_image
from img2img.data.levels import smaller
from img2img.data.ome_zarr import copy_group
from img2img.data.picture import DTYPES, Picture
from img2img.errors import ConfigError, DataError
from img2img.model.plan import Plan
from img2img.runtime.files import remove_stale

OLD, NEW = "0.4", "0.5"
TOLERANCE = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-14}  # of sums in another order
LENGTHS = {"t": 2, "c": 3, "z": 2}


def again(source, target, change=lambda x: x):
    picture = read_image(source)
    write_image(target, replace(picture, array=change(picture.array)))
    return target


PACKING = {
    OLD: [
        {"compressors": None},
        {"order": "F"},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}},
    ],
    NEW: [
        {"compressors": None},
        {"compressors": v3.BloscCodec(cname="lz4", clevel=3, shuffle="bitshuffle", typesize=2)},
        {"compressors": [v3.ZstdCodec(level=7, checksum=True), v3.Crc32cCodec()]},
        {"serializer": v3.BytesCodec(endian="big"), "compressors": v3.GzipCodec(level=2)},
        {"shards": True, "compressors": v3.ZstdCodec(level=1)},
    ],
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trips(tmp_path, data):
    """Whatever was read is written with the same values, metadata, chunks and compression, and its levels anew."""
    version = data.draw(st.sampled_from([OLD, NEW]))
    letters = "".join(x for x in "tcz" if data.draw(st.booleans())) + "yx"
    dtype = data.draw(st.sampled_from(DTYPES))
    sides = [data.draw(st.integers(9, 40)) for _ in "yx"]
    lead = [LENGTHS[x] for x in letters[:-2]]
    shapes = [(*lead, *sides)]
    for _ in range(data.draw(st.integers(0, 2))):
        factor, up = data.draw(st.sampled_from([1.7, 2, 3])), data.draw(st.integers(0, 1))
        shapes.append((*lead, *(max(1, int((n + up) // factor)) for n in shapes[-1][-2:])))
    chunks = [data.draw(st.integers(1, 3)) for _ in lead] + [data.draw(st.integers(5, 50)) for _ in "yx"]
    options = dict(data.draw(st.sampled_from(PACKING[version])))
    if options.pop("shards", False):
        options["shards"] = [data.draw(st.integers(1, 2)) for _ in letters]
    if version == OLD and data.draw(st.booleans()) and np.dtype(dtype).itemsize > 1:
        dtype = np.dtype(dtype).newbyteorder(">")
    shutil.rmtree(tmp_path / "x.zarr", ignore_errors=True)
    shutil.rmtree(tmp_path / "y.zarr", ignore_errors=True)
    source = store(tmp_path / "x.zarr", letters, version, shapes, dtype, chunks, **options)
    target = again(source, tmp_path / "y.zarr")
    assert documents(target) == documents(source)
    before, after = levels(source), levels(target)
    np.testing.assert_array_equal(after[0], before[0])
    for large, small in pairwise(after):
        np.testing.assert_allclose(small, shrunk(large, small.shape), rtol=TOLERANCE.get(large.dtype.name, 0))
    one, two = read_image(source), read_image(target)
    assert one.source.stated == two.source.stated and one.array.dtype == two.array.dtype
    np.testing.assert_array_equal(one.array, two.array)
    assert read_header(target).stated == read_header(source).stated


def shrunk(values, shape):
    """Means over blocks, pixel by pixel."""
    edges = []
    for n, m in zip(values.shape[-2:], shape[-2:], strict=True):
        factor = max(1, round(n / m))
        exact = m in (n // factor, -(-n // factor))
        cut = m * factor if m == n // factor else n
        edges.append([min(i * factor, cut) if exact else i * n // m for i in range(m)] + [cut if exact else n])
    out = np.empty(shape, np.float64)
    for i in range(shape[-2]):
        for j in range(shape[-1]):
            block = values[..., edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]].astype(np.float64)
            out[..., i, j] = block.mean((-2, -1))
    return (np.rint(out) if values.dtype.kind in "iu" else out).astype(values.dtype)


@settings(max_examples=60, deadline=None)
@given(
    sides=st.lists(st.integers(1, 30), min_size=2, max_size=2),
    small=st.lists(st.integers(1, 30), min_size=2, max_size=2),
    dtype=st.sampled_from(DTYPES),
)
def test_a_smaller_level(sides, small, dtype):
    values = np.random.default_rng(0).integers(0, 120, (2, *sides)).astype(dtype)
    shape = (2, *map(min, zip(sides, small, strict=True)))
    out = smaller(values, shape)
    assert out.shape == shape and out.dtype == values.dtype
    np.testing.assert_allclose(out, shrunk(values, shape), rtol=TOLERANCE.get(dtype, 0))
    np.testing.assert_array_equal(smaller(np.full_like(values, 7), shape), np.full(shape, 7, dtype))


@over(version=[OLD, NEW])
def test_planes_shrink_too(tmp_path, version):
    source = store(tmp_path / "x", "zyx", version, [(6, 20, 20), (3, 10, 10)], "float32", (1, 20, 20))
    one, two = levels(again(source, tmp_path / "y"))
    np.testing.assert_allclose(two, one.reshape(3, 2, 10, 2, 10, 2).mean((1, 3, 5)))


@over(version=[OLD, NEW], dtype=["uint16", "float32"], channels=[2, 4])
def test_results_of_another_kind(tmp_path, version, dtype, channels):
    """Of another type, the range of the display is new; of other channels, their names and colours are left out."""
    compressor = {} if version == OLD else {"compressors": v3.BloscCodec(typesize=1), "shards": (1, 1, 1)}
    source = store(tmp_path / "x.zarr", "cyx", version, [(2, 9, 9), (2, 4, 4)], "uint8", (1, 9, 9), **compressor)
    target = again(source, tmp_path / "y.zarr", lambda x: np.repeat(x, channels // 2, axis=2).astype(dtype) + 300)
    found = read_image(target)
    assert found.array.shape == (9, 9, channels) and found.array.dtype == dtype and found.array.min() >= 300
    assert [x.shape for x in levels(target)] == [(channels, 9, 9), (channels, 4, 4)]
    ome = documents(target)["zarr.json"]["attributes"]["ome"] if version == NEW else documents(target)[".zattrs"]
    if channels == 2:
        assert found.source.stated.channels == ("c0", "c1")
        high = 65535 if dtype == "uint16" else found.array.max()
        assert {channel["window"]["max"] for channel in ome["omero"]["channels"]} == {high}
    else:
        assert "omero" not in ome
    if version == NEW:
        text = json.dumps(documents(target)["0/zarr.json"])
        assert f'"typesize": {np.dtype(dtype).itemsize}' in text


@over(version=[OLD, NEW])
def test_an_axis_of_channels_that_the_original_lacks(tmp_path, version):
    source = store(tmp_path / "x.zarr", "yx", version, [(9, 9)], "uint8", (9, 9))
    target = again(source, tmp_path / "y.zarr", lambda x: np.repeat(x, 3, axis=2))
    np.testing.assert_array_equal(read_image(target).array, np.repeat(read_image(source).array, 3, axis=2))
    assert read_image(target).source.stated.pixel_size == (0.5, 0.5)
    assert (".zattrs" in documents(target)) == (version == OLD)


def test_new_images_have_levels_names_and_sizes(tmp_path):
    folder = store(tmp_path / "x.zarr", "tczyx", NEW, [(2, 3, 2, 20, 30)], "uint16", (1, 1, 1, 20, 30))
    tif = again(folder, tmp_path / "x.ome.tif")
    target = again(tif, tmp_path / "y.zarr")
    one, two = read_image(folder), read_image(target)
    np.testing.assert_array_equal(one.array, two.array)
    assert replace(one.source.stated, lost=()) == two.source.stated
    assert documents(target)[".zattrs"]["multiscales"][0]["version"] == OLD
    large = tmp_path / "large.zarr"
    write_image(large, Picture(np.full((513, 300, 1), 9, np.uint8)))
    assert [x.shape for x in levels(large)] == [(513, 300), (257, 150), (129, 75)]
    assert all((x == 9).all() for x in levels(large)) and read_image(large).array.shape == (513, 300, 1)


def test_sizes_along_z_reach_a_tiff(tmp_path):
    folder = write_store(tmp_path / "x.zarr", volume(3))
    with tifffile.TiffFile(again(folder, tmp_path / "x.ome.tif")) as tiff:
        assert 'PhysicalSizeZ="3.0"' in tiff.ome_metadata and 'Name="ER"' in tiff.ome_metadata


def test_pages_of_other_axes_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 9, 9, 1), np.uint8))
    says = refused(DataError, again, tmp_path / "x.npy", tmp_path / "x.zarr")
    assert "ZARR cannot hold pages along P; write " in says and "TIFF" in says
    assert not (tmp_path / "x.zarr").exists()


def test_metadata_of_both_formats(tmp_path):
    folder = store(tmp_path / "x.zarr", "yx", NEW, [(9, 9)], "uint8", (9, 9))
    put(folder, OLD, multiscales=[])
    target = again(folder, tmp_path / "y.zarr")
    assert list(documents(target)) == ["zarr.json", "0/zarr.json"] and read_image(target).array.any()


def test_an_image_of_zeros_is_not_taken_for_half_a_copy(tmp_path):
    folder = write_store(tmp_path / "x.zarr", volume(1))
    assert not read_image(again(folder, tmp_path / "y.zarr", np.zeros_like)).array.any()


# Hostile metadata


def edit(folder, change, name=".zattrs"):
    record = json.loads((folder / name).read_text())
    change(record)
    write_json(folder / name, record)


LEVELS = {
    "not there": {"path": "7"},
    "outside": {"path": "../../1"},
    "absolute": {"path": "/etc"},
    "twice": {"path": "0"},
    "larger": {"path": "large"},
    "of other axes": {"path": "flat"},
    "of objects": {"path": "pickle"},
}


@over(fault=list(LEVELS))
def test_levels_that_cannot_be_read_are_left_out(tmp_path, fault):
    folder = store(tmp_path / "x.zarr", "cyx", OLD, [(2, 9, 9), (2, 4, 4)], "uint8", (1, 9, 9))
    array = json.loads((folder / "0/.zarray").read_text())
    write_json(folder / "large/.zarray", array | {"shape": [2, 2**20, 2**20], "chunks": [2, 2**13, 2**13]})
    write_json(folder / "flat/.zarray", array | {"shape": [9, 9], "chunks": [9, 9]})
    write_json(folder / "pickle/.zarray", array | {"filters": [{"id": "pickle"}]})
    edit(folder, lambda x: x["multiscales"][0]["datasets"].insert(1, LEVELS[fault]))
    target = again(folder, tmp_path / "y.zarr")
    assert not_kept(read_image(folder), target) == ("the other levels of the image",) * (fault != "twice")
    assert not_kept(read_image(target), target) == () != not_kept(read_image(target), tmp_path / "y.tif")
    names = {path.name for path in target.iterdir()}
    assert names == {"0", "1", ".zattrs", ".zgroup"}
    np.testing.assert_array_equal(levels(target)[0], levels(folder)[0])
    paths = [x["path"] for x in documents(target)[".zattrs"]["multiscales"][0]["datasets"]]
    assert paths in (["0", "1"], ["0", "0", "1"])


HOSTILE = {
    "codec": {"compressor": {"id": "blosc", "cname": "evil", "clevel": 5, "shuffle": 1}},
    "level": {"compressor": {"id": "zstd", "level": "high"}},
    "class": {"compressor": {"id": "zlib", "level": 10**9}},
}


@over(fault=list(HOSTILE))
def test_codecs_that_cannot_be_written_leave_nothing(tmp_path, fault):
    folder = write_store(tmp_path / "x.zarr", volume(1), codec=HOSTILE[fault]["compressor"]["id"])
    edit(folder / "0", lambda x: x.update(HOSTILE[fault]), ".zarray")
    says = refused(DataError, again, folder, tmp_path / "y.zarr")
    assert "y.zarr cannot be written as ZARR: the metadata of its original does not fit" in says
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]


def test_an_unknown_setting_of_a_codec_is_not_handed_on(tmp_path):
    folder = write_store(tmp_path / "x.zarr", volume(1), codec="zstd")
    edit(folder / "0", lambda x: x.update(compressor={"id": "zstd", "level": 3, "path": "/etc/passwd"}), ".zarray")
    target = again(folder, tmp_path / "y.zarr")
    assert documents(target)["0/.zarray"]["compressor"].keys() <= {"id", "level", "checksum"}


def test_metadata_outside_of_a_store_are_not_copied(tmp_path):
    secret = tmp_path / "secret.json"
    write_json(secret, {"multiscales": [{"datasets": [{"path": "0"}]}], "password": "x"})
    folder = write_store(tmp_path / "x.zarr", volume(1))
    (folder / ".zgroup").symlink_to(secret)
    assert "x.zarr/.zgroup leads outside of its store; copy the file there" in refused(DataError, read_image, folder)
    plate = write_plate(tmp_path / "P.zarr", wells=["A/1"], fields=1)
    (plate / "A" / ".zattrs").symlink_to(secret)
    assert "leads outside of its store" in refused(DataError, copy_group, plate / "A", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_are_said_not_to_be_kept(tmp_path):
    folder = write_store(tmp_path / "x.zarr", volume(1))
    put(folder / "labels", OLD, labels=["nuclei"])
    assert read_header(folder).stated.lost == ("the other levels of the image", "the labels inside the image")


# Whole or not at all


KILLED = """
import os, signal, sys
from pathlib import Path
from img2img.data import zarr
from img2img.data.images import read_image, write_image
write, seen = zarr.write_array, []
def killed(folder, *more):
    write(folder, *more)
    seen.append(folder)
    if len(seen) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
zarr.write_array = killed
write_image(Path(sys.argv[2]), read_image(Path(sys.argv[1])))
"""


@over(after=[1, 2], before=[False, True])
def test_killed_while_writing(tmp_path, after, before):
    source = store(tmp_path / "x.zarr", "cyx", NEW, [(2, 9, 9), (2, 4, 4)], "uint8", (1, 9, 9))
    target = tmp_path / "out" / "x.zarr"
    if before:
        again(source, target, np.zeros_like)
    code = [sys.executable, "-c", KILLED, str(source), str(target), str(after)]
    assert subprocess.run(code, timeout=120).returncode == -signal.SIGKILL
    left = [path for path in target.parent.iterdir() if path != target]
    assert len(left) == 1 and left[0].name[0] == "." and find_images(tmp_path) == [target] * before + [source]
    assert target.exists() == before and (not before or not read_image(target).array.any())
    remove_stale(target.parent)
    assert [path.name for path in target.parent.iterdir()] == ["x.zarr"] * before
    again(source, target)
    np.testing.assert_array_equal(read_image(target).array, read_image(source).array)
    assert documents(target) == documents(source)


def test_a_failing_write_spares_what_was_there(tmp_path, monkeypatch):
    source = write_store(tmp_path / "x.zarr", volume(1))
    target = again(source, tmp_path / "out" / "y.zarr")
    before = read_image(target).array
    monkeypatch.setattr("img2img.data.zarr.write_array", lambda *x: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        again(source, target, np.zeros_like)
    np.testing.assert_array_equal(read_image(target).array, before)
    assert [path.name for path in target.parent.iterdir()] == ["y.zarr"]
    monkeypatch.undo()
    (tmp_path / "file.zarr").touch()
    with pytest.raises(OSError, match="is a file, not a folder"):
        again(source, tmp_path / "file.zarr")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "img2img.data.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    says = refused(DataError, write_image, tmp_path / "x.zarr", Picture(np.zeros((9, 9, 1), np.uint8)))
    assert "Writing OME-Zarr needs zarr. Install it with: pip install 'img2img-gan[zarr]'." in says
    assert list(tmp_path.iterdir()) == []


# Folders


def mixture(root, version=OLD):
    """A folder with a picture, an image, a plate of six fields, and two series as bioformats2raw writes them."""
    write_plate(root / "P1.zarr", version)
    if version == OLD:
        for folder in ("", "A", "A/1", "A/2", "B", "B/1"):
            write_json(root / "P1.zarr" / folder / ".zgroup", {"zarr_format": 2})
    else:
        for folder in "AB":
            write_json(root / "P1.zarr" / folder / "zarr.json", {"zarr_format": 3, "node_type": "group"})
    write_store(root / "deep" / "x.ome.zarr", volume(1), version)
    put(root / "series", version, **{"bioformats2raw.layout": 3})
    for i in range(2):
        write_store(root / "series" / str(i), volume(1), version)
    put(root / "series" / "OME", version, series=["0", "1"])
    (root / "series" / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    write_image(root / "a.tif", Picture(volume(1)[:, 0].transpose(1, 2, 0)))
    return root


FIELDS = [f"P1.zarr/{well}/{field}" for well in ("A/1", "A/2", "B/1") for field in (0, 1)]


@over(version=[OLD, NEW])
def test_stores_in_a_folder_count_as_files(tmp_path, version):
    root = mixture(tmp_path / "in", version)
    (root / "notes.txt").touch()
    (root / "deep" / "x.ome.zarr" / "ignored.png").touch()
    zarr.create_array(root / "alone.zarr", shape=(3,), dtype="u1", zarr_format=2 if version == OLD else 3)
    found = find_images(root)
    names = [path.relative_to(root).as_posix() for path in found]
    assert names == [*FIELDS, "a.tif", "deep/x.ome.zarr", "series/0", "series/1"]
    assert found.passed == {".txt": 1, ".zarr": 1}
    assert find_images(root / "P1.zarr") == found[:6] and find_images(found[0]) == [found[0]]
    assert find_images(root / "P1.zarr" / "A" / "2") == found[2:4]


def test_damaged_stores_are_listed_for_reading_to_say_so(tmp_path):
    root = mixture(tmp_path / "in")
    (root / "deep/x.ome.zarr/.zattrs").write_text("{")
    (root / "P1.zarr/A/2/.zattrs").unlink()
    found = find_images(root)
    assert [path.name for path in found] == ["P1.zarr", "a.tif", "x.ome.zarr", "0", "1"]
    assert "P1.zarr/A/2 holds no metadata of OME-Zarr" in refused(DataError, read_image, found[0])
    assert "does not hold the metadata of OME-Zarr 0.4 or 0.5" in refused(DataError, read_image, found[2])
    edit(root / "P1.zarr", lambda x: x["plate"]["wells"].insert(0, {"path": "../../etc"}))
    assert find_images(root)[0] == root / "P1.zarr"
    assert "is not a row and a column" in refused(DataError, read_image, root / "P1.zarr")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of two channels of 16 bits."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 1000, (3, 32, 32, 2)).astype(np.uint16) for _ in "ab")
    out = tmp_path_factory.mktemp("model") / "run"
    options = {"size": 32, "width": 4, "d_width": 4, "discriminator": "patch_16", "generator": "resnet_3", "steps": 1}
    options |= {"device": "cpu", "precision": "fp32", "quiet": True, "augment": "none", "lambda_identity": 0}
    img2img.train("cyclegan", a=a, b=b, out=out, **options)
    return out


@over(version=[OLD, NEW])
def test_a_folder_with_plates_is_translated(tmp_path, model, version, command_line):
    root, out = mixture(tmp_path / "in", version), tmp_path / "out"
    loaded = img2img.load(model, device="cpu")
    summary = img2img.translate(loaded, root, out)
    assert (summary.translated, summary.failed) == (10, [])
    assert any("Results do not keep the other levels of the image" in note for note in loaded.notes)  # they lack one
    before, after = documents(root), documents(out)
    arrays = {name for name, x in before.items() if name.endswith(".zarray") or x.get("node_type") == "array"}
    groups = {name for name in before.keys() - arrays if "multiscales" not in str(before[name])}
    assert len(groups) == (12 if version == OLD else 8)
    assert {name: after[name] for name in groups} == {name: before[name] for name in groups}
    assert after.keys() == before.keys()
    assert (out / "series/OME/METADATA.ome.xml").read_text() == "<OME/>"
    for path in find_images(root):
        result = read_image(out / path.relative_to(root))
        np.testing.assert_array_equal(result.array, loaded(path), strict=True)
        assert result.source.stated.channels == read_image(path).source.stated.channels
    shutil.rmtree(out / "P1.zarr/A/2/1")
    code, text, _ = command_line("translate", model, root, "--out", out, "--device", "cpu")
    assert code == 0 and "1 image translated" in text and "9 already there" in text
    (root / "P1.zarr/B/1/0/0" / (".zarray" if version == OLD else "zarr.json")).unlink()
    code, text, errors = command_line("translate", model, root, "--out", out, "--overwrite", "--device", "cpu")
    assert code == 1 and "P1.zarr/B/1/0/0 does not hold a Zarr array" in text + errors and "9 images translated" in text
    assert [path for path in out.rglob(".*img2img-part*")] == []


SLOW = """
import sys, time
from img2img.cli.main import main
from img2img.data import zarr
write = zarr.write_array
zarr.write_array = lambda *given: (time.sleep(0.5), write(*given))
sys.argv[0] = "img2img"
main()
"""


@pytest.mark.slow
def test_a_plate_that_was_killed_is_finished_by_the_same_command(tmp_path, model):
    source = write_plate(tmp_path / "P1.zarr", NEW, fields=4)
    words = ["translate", str(model), str(source), "--device", "cpu", "--out"]
    img2img.translate(model, source, tmp_path / "whole", device="cpu")
    running = subprocess.Popen([sys.executable, "-c", SLOW, *words, str(tmp_path / "out")], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not there(tmp_path / "out", "*/[0-9]/0/zarr.json") and time.monotonic() < deadline:
        time.sleep(0.05)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    again = img2img.translate(model, source, tmp_path / "out", device="cpu")
    assert again.failed == [] and again.translated + again.skipped == 12 and 0 < again.skipped < 12
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert all((tmp_path / "out" / x).read_bytes() == (tmp_path / "whole" / x).read_bytes() for x in files)


def test_a_plate_an_image_and_another_format(tmp_path, model):
    root = mixture(tmp_path / "in")
    assert img2img.translate(model, root / "P1.zarr", tmp_path / "one").translated == 6
    assert find_images(tmp_path / "one") == [tmp_path / "one" / name for name in FIELDS]
    assert img2img.translate(model, root / "deep/x.ome.zarr", tmp_path / "two").translated == 1
    assert find_images(tmp_path / "two") == [tmp_path / "two" / "x.ome.zarr"]
    loaded = img2img.load(model)
    assert img2img.translate(loaded, root, tmp_path / "tif", format="tif").translated == 10
    names = sorted(path.relative_to(tmp_path / "tif").as_posix() for path in find_images(tmp_path / "tif"))
    wells = [f"P1/{well}_s{field}.ome.tif" for well in ("A01", "A02", "B01") for field in (0, 1)]
    assert names == [*wells, "a.tif", "deep/x.ome.tif", "series/0.ome.tif", "series/1.ome.tif"]
    assert read_image(tmp_path / "tif" / names[0]).source.stated.channels == NAMES
    assert any("Results do not keep the other levels of the image" in note for note in loaded.notes)
    assert img2img.translate(model, root, tmp_path / "zarr", format="zarr").translated == 10
    assert (tmp_path / "zarr/a.zarr/.zattrs").exists() and (tmp_path / "zarr/P1.zarr/A/1/0/.zattrs").exists()
    assert img2img.load(model)(root / "deep/x.ome.zarr").shape == (20, 37, 2)


def test_plates_in_parts_are_the_same_and_not_mixed_with_others(tmp_path, model):
    root, options = write_plate(tmp_path / "in" / "P1.zarr").parent, {"device": "cpu"}
    assert img2img.translate(model, root, tmp_path / "whole", **options).translated == 6
    counts = [
        img2img.translate(model, root, tmp_path / "parts", shard=f"{k}/3", **options).translated for k in (2, 1, 3)
    ]
    assert sum(counts) == 6
    whole, parts = (
        {p.relative_to(tmp_path / x): p.read_bytes() for p in (tmp_path / x).rglob("*") if p.is_file()}
        for x in ("whole", "parts")
    )
    assert parts == whole
    says = refused(ConfigError, img2img.translate, model, root, tmp_path / "parts", direction="b2a", **options)
    assert "were computed differently: direction was a2b, now b2a" in says


def test_samples_may_be_zarr(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16), dtype=np.uint8)
    options = {"size": 16, "steps": 1, "width": 4, "d_width": 4, "device": "cpu", "precision": "fp32", "quiet": True}
    model = img2img.train("dcgan", data=images, out=tmp_path / "run", **options)
    for n in (3, 2):
        img2img.sample(model, n, out=tmp_path / "out", format="zarr", seed=n, overwrite=True)
        assert [path.name for path in find_images(tmp_path / "out")] == [f"00000{i}.zarr" for i in range(n)]
    assert read_image(tmp_path / "out" / "000001.zarr").array.shape == (16, 16, 1)


def test_results_never_replace_originals_or_other_folders(tmp_path, model):
    root = mixture(tmp_path / "in")
    for source in (root / "P1.zarr", root / "deep/x.ome.zarr"):
        says = refused(ConfigError, img2img.translate, model, source, source.parent)
        assert "would overwrite the original" in says
    (tmp_path / "out/deep/x.ome.zarr").mkdir(parents=True)
    (tmp_path / "out/deep/x.ome.zarr/diary.txt").touch()
    summary = img2img.translate(model, root, tmp_path / "out", overwrite=True)
    assert "x.ome.zarr, which is a folder" in summary.failed[0][1] and summary.translated == 9
    assert (tmp_path / "out/deep/x.ome.zarr/diary.txt").exists()


def test_a_plan_without_stores_reads_no_metadata(tmp_path, monkeypatch):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    plan = Plan(tmp_path, tmp_path / "out", None)
    monkeypatch.setattr("img2img.model.plan.copy_groups", lambda *places: pytest.fail(f"looked for groups: {places}"))
    plan.copy_groups(plan.sources[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_and_judging_on_stores(tmp_path, model):
    for name in "ab":
        for i in range(3):
            write_store(tmp_path / name / f"{i}.zarr", volume(1)[:, :, :, :20] + i, codec="zstd")
    options = {"size": 16, "width": 4, "d_width": 4, "discriminator": "patch_16", "generator": "resnet_3", "steps": 2}
    options |= {"device": "cpu", "precision": "fp32", "quiet": True, "augment": "dihedral", "save_every": 1}
    paths = {"a": tmp_path / "a", "b": tmp_path / "b", "out": tmp_path / "run"}
    img2img.train("pix2pix", **paths, **options)
    assert img2img.evaluate(tmp_path / "run", a=tmp_path / "a", b=tmp_path / "b", device="cpu").rows
