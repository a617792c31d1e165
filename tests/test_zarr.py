"""OME-Zarr: images and plates of formats 0.4 and 0.5, and stores that are damaged or hostile."""

import json
import math
import shutil
import struct
import sys
import tracemalloc

import numcodecs
import numpy as np
import pytest
from conftest import refused
from helpers import over
from stores import NAMES, checksum, packed, put, volume, write_json, write_plate, write_store
from zarr import codecs, create_array

from img2img import BatchEqualizer
from img2img.data import zarr
from img2img.data.images import read_header, read_image
from img2img.errors import ConfigError, DataError
from img2img.lab.tables import sources
from img2img.lab.tables.manifest import Manifest
from img2img.lab.tables.results import transform


@over(
    "version codec options",
    [
        *(("0.4", codec, {}) for codec in ("blosc", "zstd", "gzip", "zlib", "lz4", None)),
        *(("0.5", codec, {}) for codec in ("blosc", "zstd", "gzip", None)),
        *(("0.5", codec, {"shard": True}) for codec in ("blosc", None)),
    ],
)
def test_an_image(tmp_path, version, codec, options):
    values = volume()
    folder = write_store(tmp_path / "x.zarr", values, version, codec=codec, **options)
    header, picture = read_header(folder), read_image(folder)
    assert (header.channels, header.pages, header.width, header.height) == (2, 3, 37, 20)
    np.testing.assert_array_equal(picture.array, values.transpose(1, 2, 3, 0))
    assert picture.source.stated == header.stated
    assert header.stated.channels == NAMES and header.stated.pixel_size == (0.25, 0.5)
    assert header.stated.axes == (("Z", 3),) and header.stated.lost == ("the other levels of the image",)


def test_other_axes_types_and_chunks_that_are_not_there(tmp_path):
    values = volume(1)
    folder = write_store(tmp_path / "x", values.astype(">u2").view("<u2"), dtype=">u2", axes=list("czyx"))
    np.testing.assert_array_equal(read_image(folder).array, values[:, 0].transpose(1, 2, 0))
    (folder / "0" / "1.0.0.0").unlink()
    (folder / "0" / "1.0.1.1").unlink()
    array = read_image(folder).array
    assert not array[:16, :16, 1].any() and array[16:, :16, 1].any() and (array[..., 0] == values[0, 0]).all()
    flat = write_store(tmp_path / "y", values[:, 0], axes=[{"name": "y"}, {"name": "x"}], chunks=(1, 16, 16))
    assert "has the axes y, x of shape" in refused(DataError, read_header, flat)


HOSTILE = {
    "no metadata": (lambda x: (x / "0" / ".zarray").unlink(), "does not hold a Zarr array"),
    "no image": (lambda x: put(x, "0.4", multiscales=[]), "holds no image of OME-Zarr"),
    "other metadata": (lambda x: put(x, "0.4", multiscales=3), "does not hold the metadata of OME-Zarr 0.4 or 0.5"),
    "deep": (lambda x: (x / ".zattrs").write_text("[" * 10**5), "does not hold the metadata of OME-Zarr"),
    "pickle": ({"filters": [{"id": "pickle"}]}, "uses the codec 'pickle'; img2img reads blosc, zstd"),
    "objects": ({"dtype": "|O"}, "holds object values"),
    "void": ({"dtype": "|V9999999"}, "values; img2img supports"),
    "pixels": ({"shape": [2, 1, 10**6, 10**6], "chunks": [1, 1, 10**6, 200]}, "which exceeds the limit"),
    "many chunks": ({"shape": [2, 1, 10**4, 10**4]}, "too many or too large"),
    "large chunks": ({"chunks": [2**14, 1, 2**14, 2**14]}, "too many or too large"),
    "no chunks": ({"chunks": [0, 1, 16, 16]}, "is damaged: its header cannot be decoded (OME-Zarr)"),
    "negative": ({"shape": [2, 1, -5, 20]}, "is damaged: its header"),
    "few chunks": ({"chunks": [1, 16, 16]}, "its chunks have the shape"),
    "fill": ({"fill_value": "NaN"}, "is damaged: its header"),
    "large fill": ({"fill_value": 1e9}, "is damaged: its header"),
    "type": ({"dtype": "<f8"}, "is damaged: its pixels"),
    "bomb": (lambda x: (x / "0" / "0.0.0.0").write_bytes(packed("zstd", b"\0" * 10**6)), "is damaged: its pixels"),
    "long": (lambda x: (x / "0" / "0.0.0.0").write_bytes(b"\0" * 3 * 10**6), "is larger than the values it should"),
    "short": (lambda x: (x / "0" / "0.0.0.0").write_bytes(packed("zstd", b"\0" * 10)), "is damaged: its pixels"),
    "garbage": (lambda x: (x / "0" / "0.0.0.0").write_bytes(b"\xff" * 99), "is damaged: its pixels"),
    "copied in part": (
        lambda x: [path.unlink() for path in (x / "0").glob("*.0*")],
        "holds none of its chunks; it may",
    ),
    "link": (lambda x: _linked(x / "0" / "0.0.0.0"), "leads outside of its store; copy the file there"),
    "folder": (lambda x: (x / "0" / "0.0.0.0").unlink() or (x / "0" / "0.0.0.0").mkdir(), "is not a regular file"),
    "linked level": (lambda x: _linked(x / "0"), "names the path '0', which leads outside of it"),
}


def _linked(path):
    outside = path.parents[1] / "elsewhere"
    path.rename(outside)
    path.symlink_to(outside)


@over(fault=list(HOSTILE))
def test_hostile_images_are_refused_in_a_sentence(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(zarr, "MAX_CHUNKS", 10**5)
    change, says = HOSTILE[fault]
    folder = write_store(tmp_path / "x.zarr", volume(1))
    if isinstance(change, dict):
        write_json(folder / "0/.zarray", json.loads((folder / "0/.zarray").read_text()) | change)
    else:
        change(folder)
    text = refused(DataError, read_image, folder)
    assert says in text and str(folder) in text


def peak_of_refusal(folder):
    """The megabytes that are allocated at once before the pixels of an image are refused."""
    read_header(folder)
    tracemalloc.start()
    try:
        assert "is damaged: its pixels" in refused(DataError, read_image, folder)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@over(codec=["blosc", "zstd", "gzip", "zlib", "lz4"], shard=[False, True])
def test_a_chunk_becomes_no_larger_than_the_metadata_say(tmp_path, codec, shard):
    version = "0.5" if shard else "0.4"
    folder = write_store(tmp_path / "x", volume(1), version, codec=codec, shard=shard)
    chunk = folder / ("0/c/0/0/0/0" if shard else "0/0.0.0.0")
    bomb = packed(codec, bytes(2**26))
    if shard:
        content = chunk.read_bytes()
        index = struct.pack("<QQ", 0, len(bomb)) + content[-16 * 11 - 4 : -4]
        bomb += index + checksum(index)
    chunk.write_bytes(bomb)
    assert chunk.stat().st_size < 2**20 and peak_of_refusal(folder) < 16


def test_the_chunks_of_a_shard_may_overlap(tmp_path):
    grid = {"name": "regular", "configuration": {"chunk_shape": [2, 1, 512, 512]}}  # of which the image needs a quarter
    folder = write_store(tmp_path / "x", np.ones((2, 1, 256, 256), "uint16"), "0.5", shard=True, chunk_grid=grid)
    index = struct.pack("<QQ", 0, 2**20) * 2 * 32 * 32
    (folder / "0/c/0/0/0/0").write_bytes(bytes(2**20) + index + checksum(index))
    assert peak_of_refusal(folder) < 16


def test_large_chunks_are_read_one_at_a_time(tmp_path, monkeypatch):
    folder = write_store(tmp_path / "x", volume(), codec="blosc")
    monkeypatch.setattr(zarr, "MAX_CHUNK", 256)
    np.testing.assert_array_equal(read_image(folder).array, volume().transpose(1, 2, 3, 0))


@over("fill value", [(7, 7), ("0x40400000", 3), ("NaN", math.nan)])
def test_what_is_not_there_is_filled(tmp_path, fill, value):
    folder = write_store(tmp_path / "x", volume(1).astype("float32"), "0.5", fill_value=fill)
    (folder / "0/c/0/0/0/0").unlink()
    array = read_image(folder).array
    np.testing.assert_array_equal(array[:16, :16, 0], value)
    assert (array[..., 1] == volume(1)[1, 0]).all()


@over(
    "version dtype options",
    [
        (2, "uint8", {"order": "F", "compressors": numcodecs.Blosc()}),
        (2, ">i2", {"filters": [numcodecs.Zlib()], "compressors": numcodecs.LZ4(), "fill_value": None}),
        (3, "float16", {"compressors": [codecs.ZstdCodec(checksum=True), codecs.Crc32cCodec()], "fill_value": 1.5}),
        (3, "int32", {"filters": codecs.TransposeCodec(order=(3, 0, 2, 1)), "shards": (2, 1, 40, 32)}),
        (3, "uint16", {"serializer": codecs.BytesCodec(endian="big"), "shards": (1, 2, 20, 16), "compressors": None}),
    ],
)
def test_what_zarr_writes(tmp_path, version, dtype, options):
    values = volume(4).astype(dtype)
    values[0, :, :10] = 0
    folder = write_store(tmp_path / "x", values)
    shutil.rmtree(folder / "0")
    array = {"shape": values.shape, "dtype": dtype, "chunks": (1, 1, 10, 16), "zarr_format": version, "fill_value": 0}
    create_array(folder / "0", **array | options)[...] = values
    found = read_image(folder).array
    np.testing.assert_array_equal(found, values.transpose(1, 2, 3, 0))
    assert found.dtype == np.dtype(dtype).newbyteorder("=")


def test_without_the_package(tmp_path, monkeypatch):
    folder = write_store(tmp_path / "x", volume(1))
    monkeypatch.delitem(sys.modules, "img2img.data.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert "Reading OME-Zarr needs zarr. Install it with: pip install" in refused(DataError, read_image, folder)


@over(path=["../y", "/etc", "..", "0/../../y", "0\\..\\y", "C:/x", "", "0//0"])
def test_no_path_leaves_the_store(tmp_path, path):
    write_store(tmp_path / "y", volume(1))
    folder = write_store(tmp_path / "x", volume(1), path=path)
    assert "which leads outside of it" in refused(DataError, read_image, folder)
    plate = write_plate(tmp_path / "p.zarr", wells=["A/1"], fields=1)
    put(plate / "A/1", "0.4", well={"images": [{"path": path}]})
    assert "which leads outside of it" in refused(DataError, Manifest.open, plate)
    put(plate, "0.4", plate={"wells": [{"path": path}]})
    assert "is not a row and a column" in refused(DataError, Manifest.open, plate)


@over(
    "names says",
    [
        (["numcodecs.pickle"], "uses the codec 'numcodecs.pickle'"),
        (["zstd", "bytes"], "is damaged: its header"),
        ([], "is damaged: its header"),
        (["bytes", "bytes"], "is damaged: its header"),
        ([{"name": "transpose", "configuration": {"order": [0, 0, 1, 2]}}, "bytes"], "is damaged: its header"),
        ([{"name": "sharding_indexed"}], "is damaged: its header"),
    ],
)
def test_codecs_that_are_not_read(tmp_path, names, says):
    given = [name if isinstance(name, dict) else {"name": name, "configuration": {}} for name in names]
    folder = write_store(tmp_path / "x", volume(1), "0.5", codecs=given)
    assert says in refused(DataError, read_image, folder)


def test_shards_that_lie(tmp_path):
    folder = write_store(tmp_path / "x", volume(1), "0.5", shard=True)
    chunk = folder / "0/c/0/0/0/0"
    content, record = chunk.read_bytes(), json.loads((folder / "0/zarr.json").read_text())
    index = content[-16 * 12 - 4 : -4]
    longer = index[:-16] + struct.pack("<QQ", 2**62, 2**62)
    for wrong in (content[: -len(longer) - 4] + longer + checksum(longer), content[:-4] + b"\0" * 4, content[:30]):
        chunk.write_bytes(wrong)
        assert "is damaged: its pixels" in refused(DataError, read_image, folder)
    chunk.write_bytes(content)
    shard = record["codecs"][0]["configuration"]
    for wrong, says in (
        ({"chunk_shape": [1, 1, 1, 1]}, "too many or too large"),
        ({"codecs": record["codecs"]}, "uses the codec 'sharding_indexed'"),
        (
            {"index_codecs": [{"name": "bytes"}, {"name": "gzip"}]},
            "is a variant of OME-Zarr that img2img cannot decode",
        ),
    ):
        given = [{"name": "sharding_indexed", "configuration": shard | wrong}]
        write_json(folder / "0/zarr.json", record | {"codecs": given})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zarr, "MAX_CHUNKS", 1000)
            assert says in refused(DataError, read_image, folder)


# Plates


def names_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@over(version=["0.4", "0.5"])
def test_plates_are_a_table(tmp_path, version):
    for name in ("P1.zarr", "P2.ome.zarr"):
        write_plate(tmp_path / "screen" / name, version)
    manifest = Manifest.open(tmp_path / "screen", control="Metadata_Well in ['A01', 'A02']")
    assert manifest.batch == ["P1"] * 6 + ["P2"] * 6 and manifest.group[2] == "P1/A02"
    assert manifest.frame.Metadata_Site.tolist() == ["0", "1"] * 6 and manifest.control.sum() == 8
    assert manifest.channels == list(NAMES) and manifest.read(0).shape == (2, 24, 24)
    assert manifest.agreement.pixel_size[0] == (0.25, 0.5)
    assert Manifest.open(tmp_path / "screen" / "*.zarr").files == manifest.files
    assert "*.zarr is not a file; leave out ::x." in refused(ConfigError, Manifest.open, f"{tmp_path}/screen/*.zarr::x")
    says = refused(ConfigError, Manifest.open, tmp_path / "screen", channels="ER")
    assert "the only one is FileName_Image, whose files have the channels DNA, ER; leave channels out." in says
    assert Manifest.open(tmp_path / "screen", channels="DNA,ER").channels == list(NAMES)
    one = Manifest.open(tmp_path / "screen" / "P1.zarr")
    assert one.files == manifest.files[:6] and one.root == tmp_path / "screen"
    named = manifest.frame.assign(Metadata_Batch="b")  # a table that names the images of plates
    assert Manifest.open(named, tmp_path / "screen").read(7).shape == (2, 24, 24)


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
@over(version=["0.4", "0.5"])
def test_plates_are_equalized_into_plates(tmp_path, version):
    for name, gain in (("P1", 1.0), ("P2", 0.5)):
        write_plate(tmp_path / "screen" / f"{name}.zarr", version, gain=gain)
    equalizer = BatchEqualizer(target="P1", min_images=2).fit_table(tmp_path / "screen")
    assert equalizer.channels_ == list(NAMES)
    out = tmp_path / "out"
    result = equalizer.transform_table(tmp_path / "screen", None, out)
    assert set(result.status) == {"done"} and set(result.not_kept) == {"the other levels of the image"}
    assert result.FileName_Image[3] == "P1.zarr/A/2/1" and result.Metadata_Well[3] == "A02"
    again = read_image(out / "P1.zarr/A/2/1")
    np.testing.assert_array_equal(again.array, read_image(tmp_path / "screen/P1.zarr/A/2/1", "channels").array)
    assert again.source.stated.channels == NAMES and again.source.stated.pixel_size == (0.25, 0.5)
    transform(Manifest.open(tmp_path / "screen"), lambda i, image: (image + 1, {}), tmp_path / "more")
    np.testing.assert_array_equal(read_image(tmp_path / "more/P1.zarr/A/2/1").array, again.array + 1)
    assert {name for name in names_of(out) if name.startswith("P")} == names_of(tmp_path / "screen")
    assert (
        Manifest.open(out)
        .frame.drop(columns="FileName_Image")
        .equals(Manifest.open(tmp_path / "screen").frame.drop(columns="FileName_Image"))
    )
    assert set(equalizer.transform_table(out / "equalized.csv", out, tmp_path / "twice").status) == {"done"}
    image = tmp_path / "screen/P2.zarr/A/1/0"
    shutil.rmtree(image)
    shutil.copytree(tmp_path / "screen/P2.zarr/A/2/0", image)
    (tmp_path / "screen/P2.zarr/A/1/1/0" / ("zarr.json" if version == "0.5" else ".zarray")).unlink()
    result = equalizer.transform_table(tmp_path / "screen", None, out)
    assert result.status.tolist() == ["kept"] * 6 + ["done", "failed"] + ["kept"] * 4
    assert "P2.zarr/A/1/1/0 does not hold a Zarr array" in result.error[7]
    assert result.FileName_Image[6] == "P2.zarr/A/1/0"


def test_planes_of_a_plate_need_the_option_and_stay_pages(tmp_path):
    plate = write_plate(tmp_path / "P1.zarr", wells=["A/1"], fields=1)
    write_store(plate / "A/1/0", volume(3))
    manifest = Manifest.open(plate)
    assert "has 3 planes of Z, and an image has one of each" in refused(DataError, manifest.read, 0)
    manifest = Manifest.open(plate, pages="channels")
    assert set(transform(manifest, lambda i, image: (image, {}), tmp_path / "out").status) == {"done"}
    result = read_image(tmp_path / "out" / "P1.zarr/A/1/0")
    np.testing.assert_array_equal(result.array, volume(3).transpose(1, 2, 3, 0))
    assert result.source.stated.axes == (("Z", 3),) and result.source.stated.channels == NAMES


def test_plates_that_are_none(tmp_path, monkeypatch):
    plate = write_plate(tmp_path / "P1.zarr", wells=["A/1"], fields=1)
    assert "is a plate of images, not an image; give it as the table" in refused(DataError, read_image, plate)
    (tmp_path / "t.csv").write_text("FileName_DNA\nx\n")
    says = refused(ConfigError, Manifest.open, tmp_path / "*")
    assert "matches both tables and OME-Zarr plates; give a pattern of one kind" in says
    put(plate, "0.4", plate={"wells": []})
    assert "is not a plate of 1 to 10000 wells: it names 0" in refused(DataError, Manifest.open, plate)
    monkeypatch.setattr("img2img.data.ome_zarr.MAX_FIELDS", 3)
    write_plate(tmp_path / "P2.zarr")
    assert "names over 3 images" in refused(DataError, Manifest.open, tmp_path / "P2.zarr")
    (plate / ".zattrs").write_text("{")
    assert "does not hold the metadata of OME-Zarr" in refused(DataError, Manifest.open, tmp_path)
    assert sources.plates_in(tmp_path / "P2.zarr" / "A") == []
