"""OME-Zarr that is too large to be held: read, translated and written by region, with the bytes of the whole."""

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from conftest import refused
from helpers import make_model, over, picture
from stores import documents, levels, put, store, write_array, write_json, write_plate

import img2img
from img2img.data import zarr_blocks
from img2img.data.images import read_image, write_image
from img2img.data.ome_zarr import LABELS, LEVELS
from img2img.data.regions import open_regions
from img2img.data.zarr import ZarrArray
from img2img.errors import ConfigError, TrainingError

AXES = [{"name": axis} | ({"unit": "micrometer"} if axis != "c" else {}) for axis in "cyx"]
SCALE = [{"type": "scale", "scale": [1, 0.5, 0.5]}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of two channels of 16 bits, with random weights."""
    return make_model(tmp_path_factory.mktemp("model") / "m.safetensors", 2, "uint16")


def image(folder, array, version="0.4", steps=(1, 2, 4), chunks=(1, 64, 48), **options):
    """Write an image (H, W, C) with levels."""
    datasets = [{"path": str(i), "coordinateTransformations": SCALE} for i in range(len(steps))]
    names = [{"label": f"c{i}"} for i in range(array.shape[2])]
    put(folder, version, multiscales=[{"axes": AXES, "datasets": datasets}], omero={"channels": names})
    for i, step in enumerate(steps):
        small = np.ascontiguousarray(array.transpose(2, 0, 1)[:, ::step, ::step])
        write_array(folder / str(i), small, version, chunks=chunks, **options)
    return folder


def slide(height=203, width=277, seed=0):
    return picture(height, width, 2, seed).astype(np.uint16) * 257


def translate(model, source, out, tiles=8, **options):
    loading = {} if isinstance(model, img2img.Translator) else {"device": "cpu", "precision": "fp32"}
    options = loading | {"statistics": tiles, "tile": "64"} | options
    return img2img.translate(model, source, out, **options)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_files(one, two):
    one, two = files(one), files(two)
    assert one.keys() == two.keys() and [name for name in one if one[name] != two[name]] == []


FORMS = {
    "chunks": ("cyx", [(2, 203, 277), (2, 102, 139), (2, 51, 70)], (1, 64, 50), {}),
    "chunks of all channels": ("cyx", [(2, 130, 130), (2, 65, 65)], (2, 64, 50), {}),
    "one chunk": ("cyx", [(2, 100, 120), (2, 50, 60)], (1, 100, 120), {}),
    "small chunks": ("cyx", [(2, 90, 70), (2, 30, 24)], (1, 7, 9), {}),
    "planes": ("czyx", [(2, 3, 80, 90), (2, 2, 40, 45)], (1, 2, 32, 32), {}),
    "times": ("tczyx", [(2, 2, 3, 80, 90), (2, 2, 3, 40, 45)], (1, 2, 1, 50, 64), {}),
    "odd levels": ("cyx", [(2, 100, 90), (2, 59, 53), (2, 20, 18)], (1, 32, 32), {}),
    "no levels": ("cyx", [(2, 80, 70)], (1, 64, 64), {}),
    "not compressed": ("cyx", [(2, 80, 70), (2, 40, 35)], (1, 32, 32), {"compressors": None}),
    "shards": ("cyx", [(2, 150, 140), (2, 75, 70)], (1, 20, 20), {"shards": (2, 3, 2)}),
}


@over(version=["0.4", "0.5"], name=list(FORMS))
def test_results_have_the_bytes_of_those_written_whole(tmp_path, model, version, name):
    letters, shapes, chunks, options = FORMS[name]
    if "shards" in options and version == "0.4":
        pytest.skip("Zarr 2 has no shards")
    source = store(tmp_path / "x.zarr", letters, version, shapes, "uint16", chunks, **options)
    assert translate(model, source, tmp_path / "out").translated == 1
    before, after = read_image(source), read_image(tmp_path / "out" / "x.zarr")
    assert np.abs(after.array.astype(int) - before.array).mean() > 100
    write_image(tmp_path / "whole" / "x.zarr", replace(before, array=after.array))
    assert_same_files(tmp_path / "out" / "x.zarr", tmp_path / "whole" / "x.zarr")
    assert documents(tmp_path / "out" / "x.zarr") == documents(source)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name != "x.zarr"] == [".img2img.json"]


def test_pixels_are_those_of_the_same_image_as_a_tiff(tmp_path):
    """Of one block size, the computation is one; of others, it differs by the rounding of kernels."""
    model, rgb = make_model(tmp_path / "m.safetensors"), picture(203, 277)
    image(tmp_path / "x.zarr", rgb, chunks=(3, 64, 64))
    tifffile.imwrite(tmp_path / "x.tif", rgb, tile=(64, 64), photometric="rgb")
    for name in ("x.zarr", "x.tif"):
        for tile in ("64", "1024"):
            assert translate(model, tmp_path / name, tmp_path / tile, tile=tile).translated == 1
    found = {
        tile: [read_image(tmp_path / tile / name).array for name in ("x.zarr", "x.tif")] for tile in ("64", "1024")
    }
    for one, two in found.values():
        np.testing.assert_array_equal(one, two)
    assert np.abs(found["64"][0].astype(int) - found["1024"][0]).max() <= 1


def test_with_all_tiles_the_result_is_that_of_the_whole(tmp_path, model):
    source = image(tmp_path / "x.zarr", slide(512, 300), "0.5")
    translate(model, source, tmp_path / "out", tiles=100)
    whole = img2img.load(model, device="cpu", precision="fp32")(source).astype(int)
    assert np.abs(read_image(tmp_path / "out" / "x.zarr").array - whole).max() <= 257


def test_a_chunk_much_larger_than_a_block_is_computed_in_parts(tmp_path, model):
    source = image(tmp_path / "x.zarr", slide(256, 256), steps=(1,), chunks=(1, 256, 256))
    translate(model, source, tmp_path / "one", tile="256")
    translate(model, source, tmp_path / "parts", tile="50")
    one, parts = (read_image(tmp_path / name / "x.zarr").array.astype(int) for name in ("one", "parts"))
    assert np.abs(one - parts).max() <= 2 and (one != parts).any()


@over(version=["0.4", "0.5"])
def test_each_page_is_what_it_is_alone(tmp_path, model, version):
    """With the statistics of its own, whether or not chunks hold several."""
    shape = (2, 2, 3, 90, 70)
    source = store(tmp_path / "x.zarr", "tczyx", version, [shape], "uint16", (1, 1, 2, 64, 64), seed=3)
    assert translate(model, source, tmp_path / "out").translated == 1
    pages = read_image(source).array
    for i, page in enumerate(pages):
        alone = store(tmp_path / str(i) / "x.zarr", "cyx", version, [(2, 90, 70)], "uint16", (1, 64, 64))
        write_image(alone, replace(read_image(alone), array=page))
        translate(model, alone, tmp_path / f"out{i}")
        expected = read_image(tmp_path / f"out{i}" / "x.zarr").array
        np.testing.assert_array_equal(read_image(tmp_path / "out" / "x.zarr").array[i], expected)


def test_many_channels_and_another_number_of_them(tmp_path):
    many = make_model(tmp_path / "many.safetensors", 7, "uint16")
    fewer = make_model(tmp_path / "fewer.safetensors", 7, "uint16", out=3, generator="unet_16")
    source = store(tmp_path / "x.zarr", "cyx", "0.5", [(7, 90, 70), (7, 45, 35)], "uint16", (4, 64, 64))
    assert translate(many, source, tmp_path / "many").translated == 1
    assert documents(tmp_path / "many" / "x.zarr") == documents(source)
    assert translate(fewer, source, tmp_path / "few").translated == 1
    assert [x.shape for x in levels(tmp_path / "few" / "x.zarr")] == [(3, 90, 70), (3, 45, 35)]
    assert "omero" not in documents(tmp_path / "few")["x.zarr/zarr.json"]["attributes"]["ome"]


def test_what_lies_inside_and_cannot_be_kept_is_said(tmp_path, model):
    source = image(tmp_path / "x.zarr", slide())
    (source / "labels").mkdir()
    (source / "2" / ".zarray").write_text("{}")
    loaded = img2img.load(model, device="cpu", precision="fp32")
    assert translate(loaded, source, tmp_path / "out").translated == 1
    notes = " ".join(loaded.notes)
    assert LABELS in notes and LEVELS in notes
    assert [x.shape for x in levels(tmp_path / "out" / "x.zarr")] == [(2, 203, 277), (2, 102, 139)]


def test_empty_blocks_are_copied(tmp_path):
    model, rgb = make_model(tmp_path / "m.safetensors"), picture(512, 512)
    source = image(tmp_path / "x.zarr", rgb, chunks=(3, 64, 64))
    translate(model, source, tmp_path / "out", skip_empty=True)
    after = read_image(tmp_path / "out" / "x.zarr").array
    np.testing.assert_array_equal(rgb[:64], after[:64])
    assert np.abs(rgb[200:300, 200:300].astype(int) - after[200:300, 200:300]).mean() > 5


# Formats


def test_a_tiff_becomes_zarr_and_back(tmp_path, model):
    array = slide()
    source = tmp_path / "x.ome.tif"
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "Channel": {"Name": ["DNA", "ER"]}}
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    tifffile.imwrite(source, planes, tile=(64, 64), photometric="minisblack", metadata=about)
    for name in ("out", "tif"):
        assert translate(model, source, tmp_path / name, format="zarr" if name == "out" else None).translated == 1
    found, tiff = read_image(tmp_path / "out" / "x.ome.zarr"), read_image(tmp_path / "tif" / "x.ome.tif")
    np.testing.assert_array_equal(found.array.shape, tiff.array.shape)
    assert np.abs(found.array.astype(int) - tiff.array).max() <= 257  # in blocks of other sizes
    assert found.source.stated.channels == ("DNA", "ER") and found.source.stated.pixel_size == (0.5, 0.25)
    window = documents(tmp_path / "out" / "x.ome.zarr")[".zattrs"]["omero"]["channels"][0]["window"]
    assert window["max"] == 65535 and len(levels(tmp_path / "out" / "x.ome.zarr")) == 2
    write_image(tmp_path / "whole" / "x.ome.zarr", replace(read_image(source), array=found.array))
    assert_same_files(tmp_path / "out" / "x.ome.zarr", tmp_path / "whole" / "x.ome.zarr")
    source = image(tmp_path / "y.zarr", array)
    assert translate(model, source, tmp_path / "back", format="tif").translated == 1
    with open_regions(tmp_path / "back" / "y.ome.tif") as result:
        assert result.stated.channels == ("c0", "c1") and result.stated.pixel_size == (0.5, 0.5)
        assert [(x.height, x.width) for x in result.levels] == [(203, 277), (102, 139), (51, 70)]
    with open_regions(source) as one:
        assert one.channels == 2 and one.levels[1].downsample == pytest.approx(203 / 102)


def test_limits_of_the_display_of_floats_are_those_of_the_result(tmp_path):
    model = make_model(tmp_path / "m.safetensors", 2, "float32", high=1)
    about = {"axes": "CYX", "Channel": {"Name": ["DNA", "ER"]}}
    values = np.random.default_rng(0).random((2, 90, 80)).astype("float32")
    tifffile.imwrite(tmp_path / "x.ome.tif", values, tile=(64, 64), photometric="minisblack", metadata=about)
    assert translate(model, tmp_path / "x.ome.tif", tmp_path / "out", format="zarr").translated == 1
    found = read_image(tmp_path / "out" / "x.ome.zarr").array
    window = documents(tmp_path / "out" / "x.ome.zarr")[".zattrs"]["omero"]["channels"][1]["window"]
    assert (window["min"], window["max"]) == (found.min(), found.max())


def test_pages_do_not_go_into_a_tiff(tmp_path, model):
    source = store(tmp_path / "x.zarr", "czyx", "0.4", [(2, 3, 40, 40)], "uint16", (1, 1, 32, 32))
    ((_, reason),) = translate(model, source, tmp_path / "out", format="tif").failed
    assert "has several pages, and is written as OME-Zarr alone; leave out --format" in reason
    assert "--format" in refused(ConfigError, translate, model, source, tmp_path / "out", format="png")


@over(version=["0.4", "0.5"])
def test_plates(tmp_path, model, version):
    """A plate, a well, and a field of it: groups are copied, and the fields are written like those held whole."""
    source = write_plate(tmp_path / "P1.zarr", version, wells=("A/1", "B/2"))
    assert translate(model, source, tmp_path / "out").translated == 4
    img2img.translate(model, source, tmp_path / "whole", device="cpu", precision="fp32")
    assert files(tmp_path / "out").keys() == files(tmp_path / "whole").keys()
    assert translate(model, source / "A/1/1", tmp_path / "one").translated == 1
    assert_same_files(tmp_path / "one" / "1", tmp_path / "out" / "P1.zarr/A/1/1")


# Faults


def stopped(monkeypatch, after, error, function, *args, **options):
    """Run until chunks were written a number of times, and fail in the middle of the next."""
    put_here, count = zarr_blocks.put, []

    def counted(folder, array, where, values):
        if len(count) == after:
            array[tuple(where)] = np.zeros([s.stop - s.start for s in where], values.dtype)
            raise error
        count.append(put_here(folder, array, where, values))

    monkeypatch.setattr(zarr_blocks, "put", counted)
    try:
        return function(*args, **options)
    finally:
        monkeypatch.setattr(zarr_blocks, "put", put_here)


@over(version=["0.4", "0.5"], after=[0, 4, 24, 25])
def test_a_stopped_job_continues_with_the_same_bytes(tmp_path, model, monkeypatch, version, after):
    """In the middle of blocks, and of levels."""
    source = image(tmp_path / "x.zarr", slide(), version)
    translate(model, source, tmp_path / "once")
    with pytest.raises(KeyboardInterrupt):
        stopped(monkeypatch, after, KeyboardInterrupt, translate, model, source, tmp_path / "twice")
    work = tmp_path / "twice" / ".x.zarr.img2img-blocks"
    assert len(list(work.glob("*.done"))) == min(after, 24) and not (tmp_path / "twice" / "x.zarr").exists()
    (work / "store" / "0" / "0.deadbeef.partial").write_bytes(b"x")  # as of a process that was killed inside zarr
    assert translate(model, source, tmp_path / "twice").translated == 1
    assert_same_files(tmp_path / "once", tmp_path / "twice")
    assert translate(model, source, tmp_path / "twice").skipped == 1


KILLED = """
import os, signal, sys; import img2img; from img2img.data import zarr_blocks
put, count = zarr_blocks.put, [0]
def counted(*given):
    put(*given); count[0] += 1
    if count[0] == int(sys.argv.pop()): os.kill(os.getpid(), signal.SIGKILL)
    sys.argv.append(words)
words = sys.argv[-1]
zarr_blocks.put = counted
img2img.translate(*sys.argv[1:4], device="cpu", precision="fp32", statistics=8, tile="64")
"""


@pytest.mark.slow
def test_a_killed_job_continues_with_the_same_bytes(tmp_path, model):
    source = image(tmp_path / "x.zarr", slide(), "0.5")
    translate(model, source, tmp_path / "once")
    for times in (5, 20):
        words = [sys.executable, "-c", KILLED, str(model), str(source), str(tmp_path / "twice"), str(times)]
        assert subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    work = tmp_path / "twice" / ".x.zarr.img2img-blocks"
    assert len(list(work.glob("*.done"))) == 24 and not (tmp_path / "twice" / "x.zarr").exists()
    assert translate(model, source, tmp_path / "twice").translated == 1
    assert_same_files(tmp_path / "once", tmp_path / "twice")


def test_blocks_of_another_content_are_not_mixed_in(tmp_path, model, monkeypatch):
    source = image(tmp_path / "x.zarr", slide())
    with pytest.raises(KeyboardInterrupt):
        stopped(monkeypatch, 3, KeyboardInterrupt, translate, model, source, tmp_path / "out")
    image(tmp_path / "x.zarr", slide(seed=1))
    loaded = img2img.load(model, device="cpu", precision="fp32")
    assert translate(loaded, source, tmp_path / "out").translated == 1
    assert any("another content of the slide" in note for note in loaded.notes)
    translate(model, source, tmp_path / "again")
    assert_same_files(tmp_path / "out", tmp_path / "again")


def test_a_full_disk_ends_the_job_and_keeps_the_blocks(tmp_path, model, monkeypatch):
    source, full = image(tmp_path / "x.zarr", slide()), OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(TrainingError, match="The disk is full"):
        stopped(monkeypatch, 3, full, translate, model, source, tmp_path / "out")
    assert len(list((tmp_path / "out" / ".x.zarr.img2img-blocks").glob("*.done"))) == 3
    assert translate(model, source, tmp_path / "out").translated == 1
    refusing = OSError(errno.EACCES, "Permission denied")
    summary = stopped(monkeypatch, 0, refusing, translate, model, source, tmp_path / "more")
    assert "cannot be written: Permission denied" in summary.failed[0][1]
    assert [path.name for path in (tmp_path / "more").iterdir()] == [".img2img.json"]


def test_a_broken_chunk_ends_its_image_and_the_others_go_on(tmp_path, model, command_line):
    for name in "ab":
        image(tmp_path / "in" / f"{name}.zarr", slide())
    (tmp_path / "in" / "a.zarr" / "0" / "1.2.3").write_bytes(b"\xff" * 50)
    words = ("translate", model, tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu", "--tile", 64)
    code, text, err = command_line(*words, "--statistics", 8)
    assert code == 1 and "1 image translated" in text and "a.zarr is damaged: it cannot be decoded near row" in err
    assert not (tmp_path / "out" / "a.zarr").exists() and (tmp_path / "out" / "b.zarr").exists()


def test_an_image_over_the_limit_is_told_of_the_option(tmp_path, model, command_line):
    image(tmp_path / "in" / "a.zarr", slide())
    code, _, err = command_line(
        "translate", model, tmp_path / "in", "--out", tmp_path / "out", "--max-megapixels", 0.01, "--device", "cpu"
    )
    assert code == 1 and "With --statistics 64, it is translated in blocks" in err


def test_results_replace_older_ones_and_no_files(tmp_path, model):
    source = image(tmp_path / "x.zarr", slide())
    translate(model, source, tmp_path / "out")
    first = files(tmp_path / "out" / "x.zarr")
    (tmp_path / "out" / "x.zarr" / "stray").touch()
    assert translate(model, source, tmp_path / "out", overwrite=True).translated == 1
    assert files(tmp_path / "out" / "x.zarr") == first
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.zarr").write_text("mine")
    ((_, reason),) = translate(model, source, tmp_path / "other", overwrite=True).failed
    assert "is a file, not a folder" in reason and (tmp_path / "other" / "x.zarr").read_text() == "mine"


HOSTILE = {
    "a huge plane": ({"shape": [2, 2**31, 2**31], "chunks": [2, 2**31, 2**31]}, "too many or too large"),
    "many chunks": ({"shape": [2, 2**18, 2**18]}, "too many or too large"),
    "large chunks": ({"shape": [2, 2**16, 2**16], "chunks": [1, 2**13, 2**13]}, "too large to read regions of"),
    "large planes": ({"shape": [2, 2**19, 2**19], "chunks": [1, 2**12, 2**12]}, "too large to read regions of"),
    "a bomb": (None, "is damaged: it cannot be decoded near row 0"),
    "no chunks": ("empty", "holds none of its chunks"),
    "a codec that cannot be written": ({"compressor": {"id": "zstd", "level": "high"}}, "the metadata of its original"),
    "deep chunks": ({"shape": [2**20, 9, 9], "chunks": [2**20, 4, 4]}, "channels"),
}


@over(fault=list(HOSTILE))
def test_hostile_stores_are_refused_in_a_sentence(tmp_path, model, fault):
    change, says = HOSTILE[fault]
    source = image(tmp_path / "x.zarr", slide(90, 70), steps=(1,))
    if change == "empty":
        for path in (source / "0").glob("[0-9]*"):
            path.unlink()
    elif change is None:
        array = np.zeros((1, 4096, 4096), np.uint16)
        write_array(tmp_path / "bomb", array, chunks=array.shape)
        (tmp_path / "bomb" / "0.0.0").replace(source / "0" / "0.0.0")
    else:
        write_json(source / "0/.zarray", json.loads((source / "0/.zarray").read_text()) | change)
    loaded = img2img.load(model, device="cpu", precision="fp32")
    tracemalloc.start()
    ((_, reason),) = translate(loaded, source, tmp_path / "out").failed
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in reason and peak < 2**24, (reason, peak)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".img2img.json"]


def test_a_region_of_a_shard_decodes_the_chunks_that_it_touches(tmp_path, monkeypatch):
    values = np.arange(4 * 64 * 64, dtype=np.uint16).reshape(4, 64, 64)
    write_array(tmp_path / "x", values, "0.5", chunks=(1, 16, 16), shard=True)
    array, decoded = ZarrArray.open(tmp_path / "x", by_region=True), []
    load = ZarrArray._chunk
    monkeypatch.setattr(
        ZarrArray, "_chunk", lambda self, number, size: decoded.append(size) or load(self, number, size)
    )
    place = (slice(1, 3), slice(20, 30), slice(30, 40))
    np.testing.assert_array_equal(array.part(place), values[place])
    assert decoded == [(1, 16, 16)] * 4
