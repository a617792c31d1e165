"""Files of microscopes: CZI as pylibCZIrw writes it, and ND2 written here, chunk by chunk, since nothing else does."""

import struct
import sys
import zlib
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import tifffile
from conftest import refused
from helpers import over
from hypothesis import HealthCheck, given, settings, strategies as st

import img2img
from img2img.data.images import read_header, read_image, write_image
from img2img.errors import DataError
from img2img.lab.tables.manifest import Manifest
from img2img.lab.tables.results import transform

czi = pytest.importorskip("pylibCZIrw.czi")
pytest.importorskip("nd2")
NAMES = ("DNA", "ER", "Actin")
SCALE = (0.25, 0.5, 3.0)


def stack(axes, dtype="uint16", seed=0):
    """Values of the axes S, T, Z, C, Y, X and colours, which are as long as `axes` says."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, [axes.get(axis, 1) for axis in "STZCYXK"]).astype(dtype)


def write_czi(path, values, names=NAMES, tile=None, scale=SCALE, **options):
    """Write scenes (S, T, Z, C, Y, X, K) side by side; colours are stored blue first."""
    height, width = values.shape[4:6]
    tile = tile or max(height, width)
    with czi.create_czi(str(path), exist_ok=True, **options) as file:
        for s, t, z, c in product(*map(range, values.shape[:4])):
            for top, left in product(range(0, height, tile), range(0, width, tile)):
                part = values[s, t, z, c, top : top + tile, left : left + tile, ::-1]
                place = (7 + s * (width + 10) + left, 3 + top)
                plane = {"T": t, "Z": z, "C": c}
                file.write(np.ascontiguousarray(part), plane=plane, scene=s, location=place)
        x, y, z = (1e-6 * side for side in scale)
        channels = dict(enumerate(names[: values.shape[3]]))
        file.write_metadata("x", channel_names=channels, scale_x=x, scale_y=y, scale_z=z)
    return path


# An ND2 is chunks with names, and a list of them at the end. Metadata are records of type, name and value.
TYPES = {bool: (1, "<?"), int: (3, "<I"), float: (6, "<d")}


def record(name, value):
    title = bytes([len(name) + 1]) + f"{name}\0".encode("utf-16-le")
    if isinstance(value, dict):
        items = b"".join(record(*item) for item in value.items())
        length = 1 + len(title) + 12 + len(items)
        return b"\x0b" + title + struct.pack("<IQ", len(value), length) + items + bytes(8 * len(value))
    if isinstance(value, str):
        return b"\x08" + title + f"{value}\0".encode("utf-16-le")
    number, form = TYPES[type(value)]
    return bytes([number]) + title + struct.pack(form, value)


def chunk(name, data, length=None):
    length = length or len(name)
    return struct.pack("<IIQ", 0x0ABECEDA, length, len(data)) + name.ljust(length, b"\0") + data


LOOPS = {
    "T": (1, {"dStart": 0.0, "dPeriod": 1.0, "dDuration": 9.0}),
    "Z": (4, {"dZLow": 0.0, "dZHigh": 9.0, "dZStep": SCALE[2]}),
}


def experiment(loops):
    """The loops of an experiment, each inside the one before it."""
    if not loops:
        return {}
    (axis, count), *inner = loops
    if axis == "P":
        kind, parts = 2, {"Points": {f"i{i}": {"dPosX": float(i), "dPosY": 0.0} for i in range(count)}}
    else:
        kind, parts = LOOPS[axis]
    level = {"eType": kind, "uLoopPars": {"uiCount": count, **parts}}
    return level | ({"ppNextLevelEx": {"i0000000000": experiment(inner)}} if inner else {})


def write_nd2(path, values, order="PTZ", names=NAMES, lossless=False, pad=0, calibrated=True, packed=(), **changes):
    """Write positions (P, T, Z, C, Y, X, K) as frames, which the loops of `order` number."""
    sizes = dict(zip("PTZ", values.shape[:3], strict=True))
    height, width, colours = values.shape[4:]
    size, planes, components = values.dtype.itemsize, values.shape[3], values.shape[3] * colours
    attributes = {
        "uiWidth": width, "uiWidthBytes": width * components * size + pad, "uiHeight": height, "uiComp": components,
        "uiBpcInMemory": 8 * size, "uiBpcSignificant": 8 * size, "uiSequenceCount": int(np.prod(values.shape[:3])),
        "eCompression": 0 if lossless else 2,
    } | changes  # fmt: skip
    probe = {"pFluorescentProbe": {"m_sName": "x"}}
    channels = {f"a{i}": {"sDescription": names[i], "uiCompCount": colours, **probe} for i in range(planes)}
    picture = {"bCalibrated": calibrated, "dCalibration": SCALE[0]}
    picture |= {"sPicturePlanes": {"uiCount": planes, "sPlaneNew": channels}}
    loops = [(axis, sizes[axis]) for axis in order if sizes[axis] > 1]
    metadata = {
        b"ImageAttributesLV!": record("SLxImageAttributes", attributes),
        b"ImageMetadataSeqLV|0!": record("SLxPictureMetadata", picture),
        b"ImageMetadataLV!": record("SLxExperiment", experiment(loops)) if loops else b"",
    }
    for name in packed:
        metadata[name] = b"\x4c\0" + bytes(10) + zlib.compress(metadata[name])
    frames = values.transpose(*("PTZ".index(axis) for axis in order), 4, 5, 3, 6).reshape(
        -1, height, width * components
    )
    parts, content = {}, chunk(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0".ljust(64, b"\0"))
    for name, data in metadata.items():
        parts[name] = len(content)
        content += chunk(name, data)
    for i, frame in enumerate(frames):
        rows = b"".join(row.tobytes() + bytes(pad) for row in frame)
        parts[b"ImageDataSeq|%d!" % i] = len(content)
        content += chunk(b"ImageDataSeq|%d!" % i, bytes(8) + (zlib.compress(rows) if lossless else rows), 4072)
    listing = b"".join(name + struct.pack("<QQ", place, 9) for name, place in parts.items())
    end = b"ND2 CHUNK MAP SIGNATURE 0000001!"
    place = len(content)
    content += chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", listing + end + struct.pack("<Q", place))
    path.write_bytes(content if content[-40:-8] == end else content + end + struct.pack("<Q", place))
    return path


def pages(values):
    """What `read_image` should return: pages, with channels and colours last."""
    array = values.transpose(0, 1, 2, 4, 5, 3, 6)
    array = array.reshape(-1, *array.shape[3:5], array.shape[5] * array.shape[6])
    return array if len(array) > 1 else array[0]


AXES = st.fixed_dictionaries({axis: st.integers(1, 3) for axis in "STZC"} | {axis: st.integers(2, 30) for axis in "YX"})


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(axes=AXES, dtype=st.sampled_from(["uint8", "uint16", "float32"]), tile=st.sampled_from([None, 16]))
def test_czi(tmp_path, axes, dtype, tile):
    values = stack(axes, dtype)
    agrees(write_czi(tmp_path / "x.czi", values, tile=tile), values)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axes=AXES,
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    order=st.permutations("STZ").map("".join),
    lossless=st.booleans(),
    pad=st.sampled_from([0, 4]),
)
def test_nd2(tmp_path, axes, dtype, order, lossless, pad):
    values = stack(axes, dtype)
    path = write_nd2(tmp_path / "x.nd2", values, order.replace("S", "P"), lossless=lossless, pad=pad)
    agrees(path, values)


def agrees(path, values):
    """Check the pixels and the statements of a file, also after it has become an OME-TIFF."""
    header, picture = read_header(path), read_image(path)
    np.testing.assert_array_equal(picture.array, pages(values), strict=True)
    sizes = dict(zip("STZ", values.shape[:3], strict=True))
    names = {"S": "series"}
    stated = picture.source.stated
    assert header.stated == stated and (header.height, header.width) == values.shape[4:6]
    assert stated.axes == tuple((names.get(axis, axis), sizes[axis]) for axis in "STZ" if sizes[axis] > 1)
    assert stated.channels == NAMES[: values.shape[3]]
    np.testing.assert_allclose(stated.pixel_size, SCALE[:2] if path.suffix == ".czi" else (SCALE[0],) * 2)
    tif = path.with_suffix(".ome.tif")
    write_image(tif, picture)
    again = read_image(tif)
    np.testing.assert_array_equal(again.array, picture.array, strict=True)
    np.testing.assert_allclose(again.source.stated.pixel_size, stated.pixel_size)
    assert again.source.stated.channels == stated.channels
    if sizes["S"] == 1:
        assert again.source.stated.axes == stated.axes
    with tifffile.TiffFile(tif) as tiff:
        if sizes["Z"] > 1 and path.suffix == ".nd2":
            assert 'PhysicalSizeZ="3.0"' in tiff.ome_metadata


@over(write=[write_czi, write_nd2], dtype=["uint8", "uint16"])
def test_colours(tmp_path, write, dtype):
    values = stack({"T": 2, "Y": 9, "X": 12, "K": 3}, dtype)
    picture = read_image(write(tmp_path / "x", values))
    np.testing.assert_array_equal(picture.array, pages(values), strict=True)
    assert picture.source.stated.channels == ()


@over(options=["zstd0:ExplicitLevel=3", "zstd1:ExplicitLevel=2;PreProcess=HiLoByteUnpack"])
def test_compressed_czi(tmp_path, options):
    values = stack({"C": 2, "Y": 40, "X": 30})
    path = write_czi(tmp_path / "x.czi", values, compression_options=options)
    np.testing.assert_array_equal(read_image(path).array, pages(values))


def test_statements_that_are_not_there(tmp_path):
    bare = tmp_path / "x.czi"
    with czi.create_czi(str(bare)) as file:
        file.write(np.ones((9, 9, 1), np.uint8), plane={"C": 0})
    assert read_header(bare).stated == replace(read_header(bare).stated, channels=(), pixel_size=None, axes=())
    path = write_nd2(tmp_path / "x.nd2", stack({"C": 2, "Y": 9, "X": 9}), calibrated=False, names=("A", "A"))
    assert read_header(path).stated.pixel_size is None and read_header(path).stated.channels == ()
    small = write_nd2(tmp_path / "y.nd2", stack({"Y": 9, "X": 9}), packed=[b"ImageMetadataSeqLV|0!"])
    assert read_header(small).stated.channels == ("DNA",)


# Files that are damaged, or more than they seem


def test_scenes_and_planes_that_do_not_fit(tmp_path, monkeypatch):
    path = tmp_path / "x.czi"
    with czi.create_czi(str(path)) as file:
        file.write(np.ones((9, 9, 1), np.uint8), scene=0, location=(0, 0))
        file.write(np.ones((9, 12, 1), np.uint8), scene=1, location=(50, 0))
    assert "holds scenes of different sizes (9x9, 12x9)" in refused(DataError, read_header, path)
    with czi.create_czi(str(path), exist_ok=True) as file:
        file.write(np.ones((9, 9, 1), np.uint8), plane={"C": 0})
        file.write(np.ones((9, 9, 1), np.uint16), plane={"C": 1})
    assert "holds Gray16, Gray8 pixels; img2img reads one of Gray8" in refused(DataError, read_header, path)
    with czi.create_czi(str(path), exist_ok=True) as file:
        file.write(np.ones((9, 9, 1), np.uint8), plane={"C": 0, "T": 0})
        file.write(np.ones((9, 9, 1), np.uint8), plane={"C": 1, "T": 1})
    assert "lacks some of the planes it declares" in refused(DataError, read_header, path)
    box = {"T": (0, 1), "Z": (0, 1), "C": (0, 1), "V": (0, 2), "X": (0, 9), "Y": (0, 9)}
    monkeypatch.setattr(czi.CziReader, "total_bounding_box_no_pyramid", box)  # pylibCZIrw writes no such file
    assert "has the axes V of 2; img2img reads C, T, Z and scenes" in refused(DataError, read_header, path)


def test_limits_come_before_pixels(tmp_path):
    far = tmp_path / "x.czi"
    with czi.create_czi(str(far)) as file:
        for place in (0, 2**29):
            file.write(np.ones((9, 9, 1), np.uint8), location=(place, place))
    assert "which exceeds the limit" in refused(DataError, read_image, far)
    values = stack({"Y": 9, "X": 9})
    huge = write_nd2(tmp_path / "x.nd2", values, uiWidth=2**20, uiHeight=2**20, uiWidthBytes=2**21)
    assert "which exceeds the limit" in refused(DataError, read_image, huge)


@over(share=[0.0, 0.1, 0.5, 0.9, 0.99], write=[write_czi, write_nd2])
def test_truncated_files(tmp_path, share, write):
    path = write(tmp_path / "whole", stack({"C": 2, "Y": 30, "X": 30}))
    content = path.read_bytes()
    path.write_bytes(content[: 16 + int(len(content) * share)])
    refused(DataError, read_image, path)


# What byte of a tile's first entry in the directory, or of its segment, is changed to what, and what is said.
CLAIMS = {
    "place of the directory": ("file", 84, b"\xff" * 7, "it ends too early"),
    "number of tiles": ("directory", 32, b"\xff\xff\xff\x7f", "it has a directory of 2147483647 tiles"),
    "place of a tile": ("entry", 6, b"\xff" * 6, "it ends too early"),
    "number of axes": ("entry", 28, b"\xff\xff\xff\x7f", "it ends too early"),
    "width": ("entry", 40, b"\xff\xff\x00\x00", "a tile and the directory disagree on its size"),
    "first channel": ("entry", 119, b"\xca", "it ends too early"),  # which libCZI would count up to
    "bytes of pixels": ("tile", 47, b"\x80", "a tile is longer than the file"),  # which libCZI would allocate
    "bytes of metadata": ("metadata", 35, b"\x7f", "its metadata are longer than the file"),
}


@over(claim=list(CLAIMS))
def test_claims_of_czi_are_checked_before_libczi_believes_them(tmp_path, monkeypatch, claim):
    path = write_czi(tmp_path / "x.czi", stack({"C": 2, "Y": 20, "X": 30}))
    content = bytearray(path.read_bytes())
    names = {"tile": b"ZISRAWSUBBLOCK", "directory": b"ZISRAWDIRECTORY", "metadata": b"ZISRAWMETADATA"}
    places = {name: content.index(title) for name, title in names.items()} | {"file": 0}
    places["entry"] = places["directory"] + 160
    where, offset, value, sentence = CLAIMS[claim]
    start = places[where] + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)
    monkeypatch.setattr(czi, "open_czi", None)
    assert f"x.czi is damaged: {sentence}" in refused(DataError, read_image, path)


ODD = {
    "missing frame": ({"uiHeight": 9}, {"drop": b"ImageDataSeq|1!"}, "lacks some of the planes"),
    "short frame": ({"uiHeight": 9000}, {}, "lacks some of the planes"),
    "long rows": ({"uiWidthBytes": 2**30}, {}, "has rows of 1073741824 bytes, and its pixels take 18"),
    "short rows": ({"uiWidthBytes": 2}, {}, "has rows of 2 bytes"),
    "bomb": ({"lossless": True, "uiHeight": 3}, {}, "has a frame that is larger than"),
    "packed": ({"packed": [b"ImageAttributesLV!"]}, {"limit": 8}, "compressed metadata, which is too much"),
}


@over(fault=list(ODD))
def test_frames_of_nd2_that_are_not_what_they_should_be(tmp_path, monkeypatch, fault):
    changes, more, sentence = ODD[fault]
    path = write_nd2(tmp_path / "x.nd2", stack({"T": 2, "Y": 9, "X": 9}), **changes)
    if "drop" in more:
        path.write_bytes(path.read_bytes().replace(more["drop"], b"ImageDataSeq|7!"))
    if "limit" in more:
        monkeypatch.setattr("img2img.data.nd2.MAX_PACKED", more["limit"])
    assert sentence in refused(DataError, read_image, path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 10**6), min_size=1, max_size=8), byte=st.integers(0, 255))
@pytest.mark.filterwarnings("ignore")
def test_damaged_nd2_is_read_or_refused_in_a_sentence(tmp_path, places, byte):
    path = tmp_path / "x.nd2"
    if not (tmp_path / "whole.nd2").exists():
        write_nd2(tmp_path / "whole.nd2", stack({"T": 2, "C": 2, "Y": 9, "X": 9}), lossless=True)
    content = bytearray((tmp_path / "whole.nd2").read_bytes())
    for place in places:
        content[place % len(content)] = byte
    path.write_bytes(content)
    with suppress(DataError):
        read_image(path)


@over("package, suffix, what", [("pylibCZIrw", ".czi", "CZI"), ("nd2", ".nd2", "ND2")])
def test_without_the_extra(tmp_path, monkeypatch, package, suffix, what):
    write = {".czi": write_czi, ".nd2": write_nd2}[suffix]
    path = write(tmp_path / f"x{suffix}", stack({"Y": 9, "X": 9}))
    monkeypatch.setitem(sys.modules, package, None)
    says = refused(DataError, read_image, path)
    assert says == f"Reading {what} needs {package}. Install it with: pip install 'img2img-gan[microscopes]'."


# Where they are used


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of two channels of 16 bits, trained on a CZI and an ND2 of two images each."""
    folder = tmp_path_factory.mktemp("microscopes")
    for i in range(2):
        for name in "ab":
            (folder / name).mkdir(exist_ok=True)
        write_czi(folder / "a" / f"{i}.czi", stack({"C": 2, "Y": 32, "X": 32}, seed=i))
        write_nd2(folder / "b" / f"{i}.nd2", stack({"C": 2, "Y": 32, "X": 32}, seed=i))
    options = {"size": 32, "width": 4, "d_width": 4, "discriminator": "patch_16", "generator": "resnet_3", "steps": 1}
    options |= {"device": "cpu", "precision": "fp32", "quiet": True, "augment": "none"}
    img2img.train("pix2pix", a=folder / "a", b=folder / "b", out=folder / "run", **options)
    return folder / "run"


def test_translated_into_ome_tiff(tmp_path, model, command_line):
    source = tmp_path / "in"
    source.mkdir()
    write_czi(source / "x.czi", stack({"Z": 3, "C": 2, "Y": 20, "X": 30}))
    write_nd2(source / "y.nd2", stack({"C": 2, "Y": 20, "X": 30}))
    write_image(source / "x.ome.tif", read_image(source / "y.nd2"))
    code, text, errors = command_line("translate", model, source, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 1 and "its result would have the same path as that of" in text + errors
    (source / "x.ome.tif").unlink()
    code, text, errors = command_line("translate", model, source, "--out", tmp_path / "out2", "--device", "cpu")
    assert code == 0 and "Results do not keep the other metadata of CZI" in text + errors
    assert sorted(path.name for path in (tmp_path / "out2").glob("*.*")) == [".img2img.json", "x.ome.tif", "y.ome.tif"]
    result = read_image(tmp_path / "out2" / "x.ome.tif")
    assert result.source.stated.channels == NAMES[:2] and result.source.stated.axes == (("Z", 3),)
    np.testing.assert_array_equal(result.array, img2img.load(model, device="cpu")(source / "x.czi"))
    says = refused(DataError, write_image, tmp_path / "x.czi", result)
    assert "needs the suffix of a format img2img writes" in says


def test_equalized_into_ome_tiff(tmp_path):
    root = tmp_path / "in"
    for name in ("b1", "b2"):
        (root / name).mkdir(parents=True)
        write_czi(root / name / "x.czi", stack({"C": 2, "Y": 20, "X": 30}))
        write_nd2(root / name / "y.nd2", stack({"C": 2, "Y": 20, "X": 30}))
        write_czi(root / name / "x.czi", stack({"C": 2, "Y": 20, "X": 30}), scale=(0.25, 0.25, 1))
    manifest = Manifest.open(root)
    assert manifest.channels == ["DNA", "ER"] and manifest.batch == ["b1", "b1", "b2", "b2"]
    result = transform(manifest, lambda i, image: (image, {}), tmp_path / "out")
    assert set(result.status) == {"done"} and result.FileName_Image[0] == "b1/x.ome.tif"
    np.testing.assert_array_equal(read_image(tmp_path / "out/b1/x.ome.tif").array, read_image(root / "b1/x.czi").array)
