"""Image files: what is written is read back, and what a file says of itself is what it holds."""

import itertools
import logging
import os
import re
import shutil
import socket
import struct
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile
from helpers import over
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from img2img.data.folders import find_images, skipped_note
from img2img.data.images import FORMATS, READ_ONLY, SUFFIXES, read_header, read_image, resize, write_image
from img2img.data.picture import DTYPES, Picture
from img2img.errors import ConfigError, DataError

ORIENTATION = 0x0112
SOME = ("uint8", "uint16", "float32")

# What each format holds without loss.
ANY = [(dtype, (1, 2, 3, 5)[i % 4]) for i, dtype in enumerate(DTYPES)] + [("uint8", 3), ("uint16", 5), ("float32", 1)]
LOSSLESS = {
    ".png": [("uint8", 1), ("uint8", 3), ("uint16", 1), ("uint16", 3)],
    ".bmp": [("uint8", 1), ("uint8", 3)],
    ".tif": ANY,
    ".npy": ANY,
    ".npz": ANY,
}
KINDS = [(suffix, dtype, channels) for suffix, kinds in LOSSLESS.items() for dtype, channels in kinds]
REFUSED = [
    (suffix, dtype, channels)
    for suffix in (".png", ".bmp", ".jpg", ".webp")
    for dtype in DTYPES
    for channels in (1, 2, 3, 5)
    if (dtype, channels) not in LOSSLESS.get(suffix, [("uint8", 1), ("uint8", 3)])
]

# From the stored rows and columns to the upright image, by the table of the EXIF standard (tag 274).
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def pixels(dtype="uint8", channels=3, height=6, width=9, seed=0, pages=None):
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if pages is None else (pages, height, width, channels)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def arrays(dtype, channels, pages=False):
    sides = [st.integers(1, 12), st.integers(1, 12), st.just(channels)]
    shape = st.tuples(*([st.integers(2, 4)] if pages else []), *sides)
    elements = st.floats(-6e4, 6e4, width=16) if np.dtype(dtype).kind == "f" else None
    return hnp.arrays(dtype, shape, elements=elements)


def equal(picture, other):
    """Whether two pictures have the same pixels, type included."""
    for one, two in ((picture.array, other.array), (picture.alpha, other.alpha)):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_array_equal(one, two, strict=True)
    return True


def again(path, **changes):
    """The file written anew under another name from what was read, as translating does."""
    out = path.with_name(f"again-{path.name}")
    picture = read_image(path)
    write_image(out, replace(picture, **changes) if changes else picture)
    return out


def agrees(path):
    """The picture of a file, after checking that its header announces it."""
    header, picture = read_header(path), read_image(path)
    said = (header.height, header.width, header.channels, header.dtype)
    assert said == (*picture.array.shape[-3:], str(picture.array.dtype))
    assert header.pages == (len(picture.array) if picture.array.ndim == 4 else 1)
    if picture.alpha is not None:
        assert picture.alpha.shape == (*picture.array.shape[:-1], 1)
    assert header.path == path
    assert picture.array.dtype.isnative
    return picture


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path, rows, colour_type, bits=16, before=b"", after=b""):
    """A PNG written by hand: `rows` (H, W, samples)."""

    height, width = rows.shape[:2]
    raw = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(raw)) + after + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@over("suffix, dtype, channels", KINDS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_written_is_read_back(suffix, dtype, channels, data):
    """Pixels, alpha and pages: once as a picture without a source, and again with the source that reading gave."""
    holds = FORMATS[suffix]
    array = data.draw(arrays(dtype, channels, pages=holds.pages and data.draw(st.booleans())))
    has_alpha = holds.alpha and data.draw(st.booleans())
    alpha = data.draw(hnp.arrays(dtype, (*array.shape[:-1], 1), elements=st.just(1))) if has_alpha else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write_image(path, Picture(array, alpha))
        picture = agrees(path)
        assert equal(picture, Picture(array, alpha))
        assert equal(agrees(again(path)), picture)
        assert len(list(Path(folder).iterdir())) == 2


@over(suffix=[".tif", ".npy", ".npz"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_another_kind_of_result_is_written_too(suffix, data):
    """The engine replaces the array: another type, another number of channels, the pages as they were."""
    kinds = st.tuples(st.sampled_from(DTYPES), st.sampled_from([1, 2, 3, 4, 5]))
    (dtype, channels), (new_dtype, new_channels) = data.draw(kinds), data.draw(kinds)
    pages = data.draw(st.sampled_from([None, 2, 3]))
    result = pixels(new_dtype, new_channels, pages=pages, seed=1)
    alpha = pixels("uint8", 1, pages=pages) if suffix == ".tif" and data.draw(st.booleans()) else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write_image(path, Picture(pixels(dtype, channels, pages=pages), alpha))
        picture = agrees(again(path, array=result))
    np.testing.assert_array_equal(picture.array, result, strict=True)
    assert (picture.alpha is None) == (alpha is None)


@over("suffix, dtype, channels", KINDS)
def test_upper_case_suffix(tmp_path, suffix, dtype, channels):
    array, path = pixels(dtype, channels), tmp_path / f"IMAGE{suffix.upper()}"
    write_image(path, Picture(array))
    np.testing.assert_array_equal(agrees(path).array, array, strict=True)
    assert find_images(tmp_path) == [path]


@over(suffix=SUFFIXES, dtype=SOME, channels=[2, 4])
def test_channels_that_look_like_alpha_are_kept_or_refused(tmp_path, suffix, dtype, channels):
    array, path = pixels(dtype, channels), tmp_path / f"x{suffix}"
    try:
        write_image(path, Picture(array))
    except DataError:
        assert list(tmp_path.iterdir()) == []
    else:
        np.testing.assert_array_equal(agrees(path).array, array, strict=True)


@over(
    "suffix, dtype, channels",
    [(".png", d, c) for d in ("uint8", "uint16") for c in (1, 3)] + [(".tif", d, c) for d in DTYPES for c in (1, 3, 5)],
)
def test_alpha_is_written_and_kept_apart(tmp_path, suffix, dtype, channels):
    array, alpha = pixels(dtype, channels), pixels(dtype, 1, seed=1)
    path = tmp_path / f"x{suffix}"
    write_image(path, Picture(array, alpha))
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, array, strict=True)
    np.testing.assert_array_equal(picture.alpha, alpha, strict=True)


@over(suffix=[".jpg", ".jpeg", ".webp"], channels=[1, 3])
def test_lossy_formats_come_close(tmp_path, suffix, channels):
    ramp = np.linspace(20, 230, 32)
    array = np.repeat((ramp[:, None] * 0.5 + ramp[None] * 0.5)[..., None], channels, axis=2).astype(np.uint8)
    path = tmp_path / f"x{suffix}"
    write_image(path, Picture(array))
    out = agrees(path).array
    assert out.shape[:2] == (32, 32)
    assert np.abs(out.astype(int) - array).mean() < 3


# Orientation


@over(orientation=UPRIGHT)
def test_jpeg_orientation_is_applied(tmp_path, orientation):
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8] = 255
    stored[:8, 16:, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.jpg"
    Image.fromarray(stored).save(path, quality=95, exif=exif)
    with Image.open(path) as image:
        plain = np.asarray(image)
    np.testing.assert_array_equal(agrees(path).array, UPRIGHT[orientation](plain))


@over("dtype, channels", [("uint8", 3), ("uint16", 1), ("float32", 1)], orientation=UPRIGHT)
def test_tiff_orientation_is_applied(tmp_path, orientation, dtype, channels):
    stored = pixels(dtype, channels)
    path = tmp_path / "x.tif"
    kind = "rgb" if channels == 3 else "minisblack"
    array = stored if channels == 3 else stored[..., 0]
    tifffile.imwrite(path, array, photometric=kind, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(agrees(path).array, UPRIGHT[orientation](stored))


@over(orientation=UPRIGHT)
def test_palette_tiff_orientation_is_applied(tmp_path, orientation):
    stored = Image.fromarray(pixels()).quantize(16)
    path = tmp_path / "x.tif"
    stored.save(path, tiffinfo={274: orientation})
    expected = UPRIGHT[orientation](np.asarray(stored.convert("RGB")))
    np.testing.assert_array_equal(agrees(path).array, expected)


@over(orientation=UPRIGHT)
def test_png_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    Image.fromarray(pixels()).save(path, exif=exif)
    np.testing.assert_array_equal(agrees(path).array, UPRIGHT[orientation](pixels()))


# Kinds of pixels


@over(suffix=[".png", ".bmp", ".tif"])
def test_palette_becomes_colours(tmp_path, suffix):
    image = Image.fromarray(pixels()).quantize(16)
    path = tmp_path / f"x{suffix}"
    image.save(path)
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, np.asarray(image.convert("RGB")), strict=True)
    assert picture.alpha is None


def test_palette_with_transparency_has_colours_and_alpha(tmp_path):
    index = np.array([[0, 1], [2, 0]], np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    path = tmp_path / "x.png"
    image.save(path, transparency=bytes([0, 128, 255]))
    picture = agrees(path)
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    np.testing.assert_array_equal(picture.array, table[index])
    np.testing.assert_array_equal(picture.alpha[..., 0], np.array([0, 128, 255], np.uint8)[index])


@over(suffix=[".png", ".bmp", ".tif"])
def test_one_bit_becomes_eight_bit_grey(tmp_path, suffix):
    bits = pixels(channels=1)[..., 0] > 127
    path = tmp_path / f"x{suffix}"
    Image.fromarray(bits).save(path)
    np.testing.assert_array_equal(agrees(path).array[..., 0], bits * np.uint8(255), strict=True)


@over(suffix=[".jpg", ".tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # cyan alone
    path = tmp_path / f"x{suffix}"
    Image.merge("CMYK", [Image.fromarray(plane) for plane in ink.transpose(2, 0, 1)]).save(path)
    picture = agrees(path)
    assert picture.array.shape == (16, 16, 3) and picture.alpha is None
    np.testing.assert_allclose(picture.array.astype(int), np.broadcast_to([0, 255, 255], (16, 16, 3)), atol=6)


@over("mode, channels", [("LA", 1), ("RGBA", 3)], suffix=[".png", ".tif"])
def test_alpha_of_others_files_is_kept_apart(tmp_path, mode, channels, suffix):
    array = pixels(channels=channels + 1)
    path = tmp_path / f"x{suffix}"
    image = Image.fromarray(array)
    assert image.mode == mode
    image.save(path)
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, array[..., :-1], strict=True)
    np.testing.assert_array_equal(picture.alpha, array[..., -1:], strict=True)


@over("colour_type, channels, has_alpha", [(0, 1, 0), (2, 3, 0), (4, 1, 1), (6, 3, 1)])
def test_deep_png_keeps_its_bits(tmp_path, colour_type, channels, has_alpha):
    rows = pixels("uint16", channels + has_alpha)
    path = tmp_path / "x.png"
    png(path, rows, colour_type)
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, rows[..., :channels], strict=True)
    if has_alpha:
        np.testing.assert_array_equal(picture.alpha, rows[..., channels:], strict=True)
    else:
        assert picture.alpha is None


@over(byteorder=["<", ">"])
def test_tiff_of_either_byte_order(tmp_path, byteorder):
    array = pixels("uint16", 1)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array[..., 0], byteorder=byteorder)
    np.testing.assert_array_equal(agrees(path).array, array, strict=True)


def read_with_pillow(path):
    """(H, W, C) as Pillow has it, in the colours we promise."""
    with Image.open(path) as image:
        has_alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
        grey = image.mode in ("1", "L", "LA")
        return np.atleast_3d(np.array(image.convert(("L" if grey else "RGB") + "A" * has_alpha)))


@over(
    mode=["1", "L", "LA", "RGB", "RGBA", "P", "CMYK"],
    suffix=[".png", ".jpg", ".webp", ".bmp", ".tif"],
    orientation=UPRIGHT,
)
def test_every_kind_of_every_format_is_upright(tmp_path, mode, suffix, orientation):
    """Pillow's reading of the same pixels stored upright is the judge."""
    array = pixels(channels=4, height=16, width=24)
    image = Image.fromarray(array)
    image = image.convert("RGB").convert(mode) if mode in ("CMYK", "P") else image.convert(mode)
    path, plain = tmp_path / f"x{suffix}", tmp_path / f"plain{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {".tif": {"tiffinfo": {ORIENTATION: orientation}}, ".bmp": {}}.get(suffix, {"exif": exif})
    try:
        image.save(plain)
    except OSError:
        pytest.skip(f"Pillow does not write {mode} as {suffix}")
    image.save(path, **options)
    expected = UPRIGHT[1 if suffix == ".bmp" else orientation](read_with_pillow(plain))
    picture = agrees(path)
    whole = picture.array if picture.alpha is None else np.concatenate([picture.array, picture.alpha], axis=2)
    if mode == "RGBA" and suffix == ".bmp":
        expected = expected[..., :3]  # a BMP of 32 bits is read as Pillow does, without alpha
    assert whole.shape == expected.shape
    assert np.abs(whole.astype(int) - expected).max() <= (mode == "CMYK")
    out = again(path)
    if suffix not in (".jpg", ".webp"):
        assert equal(agrees(out), picture)
    with Image.open(out) as image:
        assert image.getexif().get(ORIENTATION, 1) == 1


@over(bits=[1, 2, 4])
def test_few_bits_span_the_eight(tmp_path, bits):
    values, path = np.arange(2**bits, dtype=np.uint8)[None].repeat(4, axis=0), tmp_path / "x.tif"
    stored = values.astype(bool) if bits == 1 else values
    try:
        tifffile.imwrite(path, stored, bitspersample=bits, photometric="minisblack")
    except NotImplementedError:
        pytest.skip("imagecodecs before 2026.3 cannot write such files")
    np.testing.assert_array_equal(agrees(path).array[0, :, 0], np.linspace(0, 255, 2**bits).astype(np.uint8))


@over(dtype=["uint8", "uint16"])
def test_white_is_zero_becomes_black_is_zero(tmp_path, dtype):
    array, path = pixels(dtype, 1), tmp_path / "x.tif"
    tifffile.imwrite(path, array[..., 0], photometric="miniswhite")
    expected = np.iinfo(dtype).max - array
    np.testing.assert_array_equal(agrees(path).array, expected, strict=True)
    np.testing.assert_array_equal(agrees(again(path)).array, expected, strict=True)


def test_premultiplied_alpha_is_divided_out(tmp_path):
    stored = np.array([[[50, 100, 0, 128], [0, 0, 0, 0], [7, 8, 9, 255]]], np.uint8)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["assocalpha"])
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array[0], [[100, 199, 0], [0, 0, 0], [7, 8, 9]])
    assert equal(agrees(again(path)), picture)


@over(photometric=["cielab", "icclab"])
def test_other_colour_spaces_are_refused(tmp_path, photometric):
    path = tmp_path / "lab.tif"
    tifffile.imwrite(path, pixels(), photometric=photometric)
    for read in (read_header, read_image):
        with pytest.raises(
            DataError,
            match=r"lab\.tif uses the colour space .*LAB, which img2img does not read; save it as grey or RGB",
        ):
            read(path)


@over(
    compression=["jpeg", "lzw", "deflate", "zstd", "packbits", "jpeg2000", None],
    tile=[(16, 16), None],
    bigtiff=[False, True],
)
def test_storage_of_a_tiff_is_kept(tmp_path, compression, tile, bigtiff):
    path, array = tmp_path / "x.tif", pixels(height=40, width=50)
    options = {"compression": compression, "tile": tile, "bigtiff": bigtiff, "photometric": "rgb"}
    tifffile.imwrite(path, array, rowsperstrip=None if tile else 16, **options)
    picture = agrees(path)
    out = again(path)
    assert equal(agrees(out), picture)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        lossy = compression in ("jpeg", "jpeg2000")
        assert new.pages[0].compression == (8 if lossy else old.pages[0].compression)
        assert (new.is_bigtiff, new.pages[0].is_tiled) == (old.is_bigtiff, old.pages[0].is_tiled)
        assert new.pages[0].chunks == old.pages[0].chunks


def test_a_large_tiff_becomes_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr("img2img.data.tiff_write.CLASSIC_BYTES", 100)
    write_image(tmp_path / "x.tif", Picture(pixels()))
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(agrees(tmp_path / "x.tif").array, pixels())


@over(planarconfig=["contig", "separate"], channels=[2, 3, 4, 7], byteorder=["<", ">"])
def test_planes_and_byte_order_are_kept(tmp_path, planarconfig, channels, byteorder):
    path, array = tmp_path / "x.tif", pixels("uint16", channels)
    stored = array if planarconfig == "contig" else np.moveaxis(array, -1, 0)
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planarconfig, byteorder=byteorder)
    np.testing.assert_array_equal(agrees(path).array, array, strict=True)
    out = again(path)
    np.testing.assert_array_equal(agrees(out).array, array, strict=True)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        assert (new.byteorder, new.pages[0].planarconfig) == (byteorder, old.pages[0].planarconfig)
        assert (new.series[0].axes, new.series[0].shape) == (old.series[0].axes, old.series[0].shape)


def test_alpha_between_other_samples_is_found_and_put_back(tmp_path):
    stored, path = pixels(channels=6), tmp_path / "x.tif"
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig="contig", extrasamples=[0, 2, 0])
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, np.delete(stored, 4, axis=2))
    np.testing.assert_array_equal(picture.alpha, stored[..., 4:5])
    np.testing.assert_array_equal(tifffile.imread(again(path)), stored)


# Pages

AXES = [
    ("ZYX", (3, 6, 9), 1, 3),
    ("TZYX", (2, 3, 6, 9), 1, 6),
    ("TZCYX", (2, 3, 4, 6, 9), 4, 6),
    ("ZCYX", (3, 2, 6, 9), 2, 3),
    ("CYX", (5, 6, 9), 5, 1),
    ("ZYXS", (3, 6, 9, 3), 3, 3),
    ("QYX", (4, 6, 9), 1, 4),
    ("CZYX", (2, 3, 6, 9), 2, 3),
]


@over("axes, shape, channels, pages", AXES, flavour=["plain", "ome", "imagej"])
def test_axes_are_kept(tmp_path, axes, shape, channels, pages, flavour):
    if flavour == "imagej" and axes in ("QYX", "CZYX"):
        pytest.skip("ImageJ has its own order of axes")
    stored, path = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8), tmp_path / "x.tif"
    kind = "rgb" if axes.endswith("S") else "minisblack"
    options = {} if flavour == "plain" else {flavour: True}
    tifffile.imwrite(path, stored, photometric=kind, metadata={"axes": axes}, **options)
    picture = agrees(path)
    assert picture.array.shape == ((pages,) if pages > 1 else ()) + (6, 9, channels)
    if "C" not in axes[:-3] or axes == "CYX":
        np.testing.assert_array_equal(picture.array.ravel().sum(), stored.sum())
    if axes == "TZCYX":
        np.testing.assert_array_equal(picture.array[4], np.moveaxis(stored[1, 1], 0, -1))
    if axes == "CZYX":
        np.testing.assert_array_equal(picture.array[2], np.moveaxis(stored[:, 2], 0, -1))
    out = again(path)
    assert equal(agrees(out), picture)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        assert (new.is_ome, new.is_imagej) == (old.is_ome, old.is_imagej)
        assert [(s.axes, s.shape) for s in new.series] == [(s.axes, s.shape) for s in old.series]
        assert new.pages[0].description == old.pages[0].description
        np.testing.assert_array_equal(new.asarray(), stored)
    for result in (pixels("float32", 3, pages=None if pages == 1 else pages), picture.array.astype(np.uint16)):
        changed = again(path, array=result)
        np.testing.assert_array_equal(agrees(changed).array, result, strict=True)
        with tifffile.TiffFile(path) as old, tifffile.TiffFile(changed) as new:
            strip = str.maketrans("", "", "CS")
            assert new.series[0].axes.translate(strip) == old.series[0].axes.translate(strip)


@over("axes, shape, channels, pages", AXES)
def test_pages_as_channels(tmp_path, axes, shape, channels, pages):
    stored, path = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8), tmp_path / "x.tif"
    tifffile.imwrite(path, stored, photometric="rgb" if axes[-1] == "S" else "minisblack", metadata={"axes": axes})
    header, picture = read_header(path, "channels"), read_image(path, "channels")
    assert (header.pages, header.channels) == (1, channels * pages)
    assert picture.array.shape == (6, 9, channels * pages)
    out = tmp_path / "out.tif"
    write_image(out, picture)
    np.testing.assert_array_equal(tifffile.imread(out), stored)
    assert equal(read_image(out), read_image(path))


def test_pages_of_unknown_meaning(tmp_path):
    path, planes = tmp_path / "x.tif", pixels(channels=4)
    with tifffile.TiffWriter(path) as writer:
        for c in range(4):
            writer.write(planes[..., c], metadata=None, description=f"page {c}")
    assert read_header(path).pages == 4 and read_image(path).array.shape == (4, 6, 9, 1)
    np.testing.assert_array_equal(read_image(path, "channels").array, planes)
    with tifffile.TiffFile(again(path)) as tiff:
        assert [page.description for page in tiff.pages] == [f"page {c}" for c in range(4)]
    with pytest.raises(ConfigError, match="Did you mean 'channels'"):
        read_image(path, "channel")


@over(ome=[False, True])
def test_series_of_equal_shape_are_pages_and_of_others_refused(tmp_path, ome):
    path = tmp_path / "series.tif"
    stacks = [pixels("uint16", 1, pages=3, seed=seed)[..., 0] for seed in range(2)]
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for stack in stacks:
            writer.write(stack, metadata={"axes": "ZYX"}, photometric="minisblack")
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array[..., 0], np.concatenate(stacks))
    out = again(path)
    assert equal(agrees(out), picture)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        assert [(s.axes, s.shape) for s in new.series] == [(s.axes, s.shape) for s in old.series]
    with tifffile.TiffWriter(path, ome=ome) as writer:
        writer.write(stacks[0], metadata={"axes": "ZYX"}, photometric="minisblack")
        writer.write(stacks[0][:, :4], metadata={"axes": "ZYX"}, photometric="minisblack")
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=r"series\.tif holds images of different kinds .* separate files"):
            read(path)


def test_alpha_of_every_page(tmp_path):
    path, picture = tmp_path / "x.tif", Picture(pixels(pages=3), pixels(channels=1, pages=3, seed=1))
    write_image(path, picture)
    assert equal(agrees(path), picture) and equal(agrees(again(path)), picture)
    with pytest.raises(DataError, match="pages with alpha"):
        read_image(path, "channels")


def test_a_thumbnail_is_not_a_page(tmp_path):
    path, array = tmp_path / "x.tif", pixels()
    with tifffile.TiffWriter(path) as writer:
        writer.write(array, photometric="rgb")
        writer.write(array[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(agrees(path).array, array, strict=True)
    np.testing.assert_array_equal(agrees(again(path)).array, array, strict=True)


@over(suffix=[".png", ".webp"])
def test_animations_are_refused(tmp_path, suffix):
    path = tmp_path / f"moving{suffix}"
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=r"moving.* is an animation; save its frames as separate images"):
            read(path)


def test_a_cameras_jpeg_with_a_preview_is_its_main_picture(tmp_path):
    path = tmp_path / "x.jpg"
    main, preview = (Image.fromarray(pixels(height=h, width=h)) for h in (32, 16))
    main.save(path, format="MPO", save_all=True, append_images=[preview])
    assert agrees(path).array.shape == (32, 32, 3)


# NumPy's files


@over(
    suffix=[".npy", ".npz"],
    shape=[(6, 9), (6, 9, 1), (6, 9, 4), (1, 6, 9, 2), (3, 6, 9, 2)],
    order=["C", "F"],
    dtype=["<f4", ">f4", "|u1", ">i2"],
)
def test_arrays_come_back_in_their_own_shape(tmp_path, suffix, shape, order, dtype):
    array, path = np.arange(np.prod(shape)).reshape(shape).astype(dtype, order=order), tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, **{"a key": array})
    picture = agrees(path)
    assert picture.array.shape[-3:] == ((6, 9, 1) if len(shape) == 2 else shape[-3:])
    with again(path).open("rb") as file:
        out = np.load(file)
        out = out if suffix == ".npy" else out["a key"]
    np.testing.assert_array_equal(out, array)
    assert out.dtype == array.dtype.newbyteorder("=")


def test_other_arrays_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    for array, reason in [
        (np.zeros(4), r"shape \(4,\); img2img takes"),
        (np.zeros((2,) * 5), "shape"),
        (np.zeros((4, 4), np.int64), "int64 values; img2img supports uint8"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((4, 4), object), "object"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
    ]:
        np.save(path, array, allow_pickle=True)
        for read in (read_header, read_image):
            with pytest.raises(DataError, match=rf"x\.npy .*{reason}"):
                read(path)


def test_npz_has_exactly_one_array(tmp_path):
    path = tmp_path / "x.npz"
    for arrays_ in ({}, {"a": pixels(), "b": pixels()}):
        np.savez(path, **arrays_)
        with pytest.raises(DataError, match=rf"x\.npz has {len(arrays_)} .*exactly one array"):
            read_image(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.txt", "no array")
    with pytest.raises(DataError, match=r"x\.npz has 1 .*photo"):
        read_image(path)


@over(suffix=[".npy", ".npz"])
def test_opening_an_array_executes_nothing(tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    path, array = tmp_path / f"x{suffix}", np.array([[Trap()]], object)
    np.save(path, array, allow_pickle=True) if suffix == ".npy" else np.savez(path, array)
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="object"):
            read(path)
    assert not (tmp_path / "sprung").exists()


# Beside the pixels

ICC = {1: b"GRAY", 3: b"RGB ", 4: b"CMYK"}


def profile(channels):
    """Bytes that are told from a real profile by nobody here."""
    return bytes(16) + ICC[channels] + bytes(range(256)) * 2


def test_exif_resolution_and_profile_of_a_photo_are_kept(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F], exif[0x0132] = 6, "Maker", "2020:01:02 03:04:05"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = 48, 32
    exif.get_ifd(0x8825)[1] = "N"
    path = tmp_path / "x.jpg"
    image = Image.fromarray(pixels(height=32, width=48))
    image.save(path, exif=exif, dpi=(300, 200), icc_profile=profile(3), subsampling=1, progressive=True)
    for suffix in (".jpg", ".png", ".webp", ".tif", ".bmp"):
        out = tmp_path / f"out{suffix}"
        write_image(out, read_image(path))
        assert read_header(out).width == 32
        with Image.open(out) as image:
            if suffix != ".webp":
                assert image.info["dpi"] == pytest.approx((300, 200), abs=0.01)
            if suffix != ".bmp":
                assert image.info["icc_profile"] == profile(3)
            if suffix in (".jpg", ".png", ".webp"):
                kept = image.getexif()
                assert (kept[ORIENTATION], kept[0x010F]) == (1, "Maker")
                assert kept.get_ifd(0x8769)[0x829A] == 0.01 and kept.get_ifd(0x8825)[1] == "N"
                assert (kept.get_ifd(0x8769)[0xA002], kept.get_ifd(0x8769)[0xA003]) == (32, 48)
            if suffix == ".jpg":
                assert image.info["progressive"] and image.layer[0][1:3] == (2, 1)


@over(suffix=[".png", ".tif", ".jpg"])
def test_a_profile_for_other_channels_is_left_out(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(pixels()).save(path, icc_profile=profile(3))
    for array, kept in [(pixels(), profile(3)), (pixels(channels=1), None)]:
        with Image.open(again(path, array=array)) as image:
            assert image.info.get("icc_profile") == kept
    if suffix != ".png":
        Image.fromarray(pixels(channels=4)).convert("CMYK").save(path, icc_profile=profile(4))
        with Image.open(again(path)) as image:
            assert image.mode == "RGB" and "icc_profile" not in image.info


@over(channels=[1, 3])
def test_deep_png_keeps_what_a_shallow_one_does(tmp_path, channels):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 5, "Maker"
    beside = chunk(b"iCCP", b"x\0\0" + zlib.compress(profile(channels))) + chunk(
        b"pHYs", struct.pack(">IIB", 5000, 6000, 1)
    )
    for late in (False, True):  # EXIF may stand behind the pixels
        path, data = tmp_path / "x.png", chunk(b"eXIf", exif.tobytes()[6:])
        rows = pixels("uint16", channels)
        png(path, rows, 2 if channels == 3 else 0, 16, beside + data * (not late), data * late)
        out = again(path)
        np.testing.assert_array_equal(agrees(path).array, rows.swapaxes(0, 1))
        np.testing.assert_array_equal(agrees(out).array, rows.swapaxes(0, 1))
        with Image.open(out) as image:
            assert image.info["icc_profile"] == profile(channels)
            assert image.info["dpi"] == pytest.approx((127, 152.4))
            assert (image.getexif()[ORIENTATION], image.getexif()[0x010F]) == (1, "Maker")


@over(sampling=[0, 1, 2])
def test_quality_and_chroma_of_a_jpeg(tmp_path, sampling):
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels(height=64, width=64)).save(path, subsampling=sampling)
    picture, sizes = read_image(path), []
    for quality in (60, 95, 100):
        write_image(tmp_path / "out.jpg", picture, quality)
        sizes.append((tmp_path / "out.jpg").stat().st_size)
        with Image.open(tmp_path / "out.jpg") as new, Image.open(path) as old:
            assert new.layer == old.layer or [layer[1:3] for layer in new.layer] == [x[1:3] for x in old.layer]
    assert sizes == sorted(sizes)
    write_image(tmp_path / "default.jpg", picture)
    assert (tmp_path / "default.jpg").stat().st_size == sizes[1]
    for quality in (0, 101):
        with pytest.raises(ConfigError, match="1 to 100"):
            write_image(path, picture, quality)


@over(mode=["RGB", "RGBA"])
def test_lossless_webp_stays_lossless(tmp_path, mode):
    path = tmp_path / "x.webp"
    Image.fromarray(pixels(channels=len(mode), height=20, width=20)).save(path, lossless=True, exact=True)
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, pixels(channels=len(mode), height=20, width=20)[..., :3])
    assert equal(agrees(again(path)), picture)


def test_ome_names_and_sizes_are_kept(tmp_path):
    path, stored = tmp_path / "x.ome.tif", pixels("uint16", 3, pages=2).transpose(0, 3, 1, 2)
    names = ["DAPI", "GFP", "Größe"]
    metadata = {"axes": "ZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": 2.0}
    tifffile.imwrite(path, stored, ome=True, metadata=metadata | {"Channel": {"Name": names}})
    picture = agrees(path)
    for changes in ({}, {"array": picture.array.astype(np.float32)}, {"array": picture.array[..., :2]}):
        out = again(path, **changes)
        with tifffile.TiffFile(out) as tiff:
            described = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
            np.testing.assert_array_equal(tiff.asarray(), np.moveaxis(read_image(out).array, -1, 1))
            assert tiff.series[0].axes == "ZCYX"
        assert (described["PhysicalSizeX"], described["PhysicalSizeZ"]) == (0.25, 2.0)
        if changes.get("array", picture.array).shape[-1] == 3:
            assert [channel["Name"] for channel in described["Channel"]] == names


def test_imagej_metadata_and_pixel_size_are_kept(tmp_path):
    path, stored = tmp_path / "x.tif", pixels("uint16", 2, pages=3).transpose(0, 3, 1, 2)
    ranges, labels = [0.0, 100.0, 0.0, 200.0], [f"label {i}" for i in range(6)]
    metadata = {"axes": "ZCYX", "unit": "um", "spacing": 3.5, "Ranges": ranges, "Labels": labels, "Info": "hello"}
    tifffile.imwrite(path, stored, imagej=True, resolution=(4.0, 5.0), metadata=metadata)
    out = again(path)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        assert new.imagej_metadata == old.imagej_metadata and new.imagej_metadata["Info"] == "hello"
        assert new.pages[0].resolution == old.pages[0].resolution == (4.0, 5.0)
        np.testing.assert_array_equal(new.asarray(), stored)
    for result in (pixels("float32", 2, pages=3), pixels("uint16", 3, pages=3), pixels("uint8", 1, pages=3)):
        changed = again(path, array=result)
        np.testing.assert_array_equal(agrees(changed).array, result, strict=True)
        with tifffile.TiffFile(changed) as new:
            assert (new.imagej_metadata["spacing"], new.imagej_metadata["unit"]) == (3.5, "um")
            assert new.pages[0].resolution == (4.0, 5.0)


def test_tags_of_a_tiff_are_kept(tmp_path):
    path = tmp_path / "x.tif"
    geo = (33550, "d", 3, (1.5, 2.5, 0.0), True)
    texts = [(315, "s", 0, "Artist", True), (33432, "s", 0, "Rights", True), (305, "s", 0, "Scanner 1", True)]
    tifffile.imwrite(
        path,
        pixels(),
        photometric="rgb",
        description="a plain text",
        metadata=None,
        software=False,
        resolution=(300, 200),
        resolutionunit="inch",
        iccprofile=profile(3),
        extratags=[geo, *texts],
    )
    for changes in ({}, {"array": pixels("uint16")}):
        with tifffile.TiffFile(again(path, **changes)) as tiff:
            page = tiff.pages[0]
            assert page.description == "a plain text" and page.iccprofile == profile(3)
            assert page.resolution == (300, 200) and page.resolutionunit == 2
            assert [page.tags[code].value for code in (315, 33432, 305)] == ["Artist", "Rights", "Scanner 1"]
            assert page.tags[33550].value == (1.5, 2.5, 0.0)


def test_broken_exif_does_not_spoil_the_picture(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels(height=16, width=16)).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert agrees(path).array.shape == (16, 16, 3)
    again(path)


def text_of(count):
    return zlib.compress(b" " * count)


# The passes of an interlaced PNG: the first row and column of each, and the steps to the next.
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
BESIDE = {
    "zTXt of 3 MB": chunk(b"zTXt", b"prompt\0\0" + text_of(3_000_000)),
    "iTXt of 3 MB": chunk(b"iTXt", b"x\0\1\0\0\0" + text_of(3_000_000)),
    "zTXt of 40 MB with an orientation": chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + text_of(40_000_000)),
    "iCCP that is too large": chunk(b"iCCP", b"x\0\0" + text_of(20_000_000)),
    "iCCP that is broken": chunk(b"iCCP", b"x\0\0garbage"),
    "iCCP of another method": chunk(b"iCCP", b"x\0\7" + text_of(9)),
    "a wrong checksum": chunk(b"tEXt", b"x\0y")[:-1] + b"?",
    "gAMA that is short": chunk(b"gAMA", b"\0"),
    "pHYs that is short": chunk(b"pHYs", b"\0"),
    "an unknown chunk": chunk(b"exTr", b"?" * 100)[:-1] + b"!",
    "a text of a dangerous name": chunk(b"tEXt", b"transparency\0what"),
}


@over(bits=[8, 16], late=[False, True])
def test_chunks_beside_sound_pixels_do_not_spoil_a_png(tmp_path, bits, late):
    rows, path = pixels(f"uint{bits}", 3), tmp_path / "x.png"
    for what, data in BESIDE.items():
        png(path, rows, 2, bits, data * (not late), data * late)
        assert np.array_equal(agrees(path).array, rows), what
        assert np.array_equal(agrees(again(path)).array, rows), what


def test_a_large_profile_of_a_png_is_kept(tmp_path):
    path, icc = tmp_path / "x.png", profile(3) + bytes(3_000_000)
    png(path, pixels(), 2, 8, chunk(b"iCCP", b"x\0\0" + zlib.compress(icc)))
    assert read_image(again(path)).source.icc == icc


def test_orientation_in_a_text_of_a_png_is_applied(tmp_path):
    xmp = b'<x:xmpmeta><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    path = tmp_path / "x.png"
    for packed, text in ((b"\0", xmp), (b"\1", zlib.compress(xmp))):
        png(path, pixels(), 2, 8, chunk(b"iTXt", b"XML:com.adobe.xmp\0" + packed + b"\0\0\0" + text))
        np.testing.assert_array_equal(agrees(path).array, UPRIGHT[6](pixels()))


@over(bits=[8, 16])
def test_chunks_that_say_which_colours_are_meant_are_kept(tmp_path, bits):
    kept = [
        chunk(b"cICP", bytes([9, 16, 0, 1])),
        chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
        chunk(b"sRGB", b"\1"),
    ]
    path, rows = tmp_path / "x.png", pixels(f"uint{bits}", 3)
    png(path, rows, 2, bits, b"".join(kept))
    out = again(path)
    np.testing.assert_array_equal(agrees(out).array, rows)
    assert all(out.read_bytes().count(data) == 1 for data in kept)
    write_image(tmp_path / "x.tif", read_image(path))
    write_image(tmp_path / "x.jpg", Picture(pixels(), None, read_image(path).source))


@over(bits=[8, 16])
def test_pixels_of_a_png_that_changed_are_noticed(tmp_path, bits):
    path = tmp_path / "x.png"
    png(path, pixels(f"uint{bits}", 3), 2, bits)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.png is damaged: a checksum of its pixel data is wrong"):
        read_image(path)


@over("colour_type, samples", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_interlaced_png_of_16_bits(tmp_path, colour_type, samples, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    path = tmp_path / "x.png"
    for height, width in ((13, 17), (1, 1), (2, 3), (8, 8), (1, 9), (5, 1)):
        rows, raw = pixels("uint16", samples, height, width), b""
        for top, left, down, across in ADAM7:
            part = rows[top::down, left::across]
            raw += b"".join(b"\0" + row.astype(">u2").tobytes() for row in part) if part.size else b""
        header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 1)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        picture = agrees(path)
        whole = picture.array if picture.alpha is None else np.concatenate([picture.array, picture.alpha], axis=2)
        np.testing.assert_array_equal(whole, rows)
    assert capfd.readouterr().err == ""


# From one format to another


@over(quality=[90, 94, 95, 100])
def test_progressive_jpegs_of_noise_are_written(tmp_path, quality, capfd):
    noise = np.random.default_rng(0).choice([0, 255], (300, 300, 3)).astype(np.uint8)
    path = tmp_path / "x.jpg"
    Image.fromarray(noise[:16, :16]).save(path, progressive=True, subsampling=0)
    picture = read_image(path)
    with ThreadPoolExecutor(4) as pool:
        write = [
            pool.submit(write_image, tmp_path / f"{i}.jpg", replace(picture, array=noise), quality) for i in range(8)
        ]
        for future in write:
            future.result()
    assert len({(tmp_path / f"{i}.jpg").read_bytes() for i in range(8)}) == 1
    with Image.open(tmp_path / "0.jpg") as image:
        assert image.info["progressive"] and image.layer[0][1:3] == (1, 1)
    assert ImageFile.MAXBLOCK == 2**16 and capfd.readouterr().err == ""


@over(suffix=[".jpg", ".jpeg", ".jpe", ".jfif", ".JFIF"])
def test_a_jpeg_of_any_suffix_has_full_colour_unless_its_original_had_not(tmp_path, suffix):
    array, path = pixels(height=32, width=32), tmp_path / "x.png"
    write_image(path, Picture(array))
    write_image(tmp_path / f"x{suffix}", read_image(path))
    with Image.open(tmp_path / f"x{suffix}") as image:
        assert image.format == "JPEG" and image.layer[0][1:3] == (1, 1)
    for old in (tmp_path / f"old{suffix}",):
        Image.fromarray(array).save(old, "JPEG", subsampling=2)
        with Image.open(again(old)) as image:
            assert image.format == "JPEG" and image.layer[0][1:3] == (2, 2)


SOME_PICTURES = [
    Picture(pixels(dtype, channels, pages=pages), pixels(dtype, 1, pages=pages) if has_alpha else None)
    for dtype, channels, pages, has_alpha in itertools.product(SOME, (1, 3, 5), (None, 2), (False, True))
]


@over(after=FORMATS, before=[".png", ".bmp", ".tif", ".npy"])
def test_conversion_is_whole_or_refused(tmp_path, before, after):
    path, out = tmp_path / f"x{before}", tmp_path / f"out{after}"
    for picture in SOME_PICTURES:
        for suffix, target in ((before, path), (after, out)):
            if FORMATS[suffix].lacks(picture):
                with pytest.raises(DataError, match=rf"{target.name}: .* cannot hold .*; write [A-Z]"):
                    write_image(target, picture)
                assert not target.exists()
                break
            write_image(target, picture)
            picture = read_image(target)
            remove(target)
        else:
            if FORMATS[after].kind not in ("jpeg", "webp"):
                write_image(out, picture)
                assert equal(agrees(out), picture)
                remove(out)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@over("suffix, side", [(".jpg", 65501), (".webp", 16384)])
def test_sides_too_long_for_a_format(tmp_path, suffix, side):
    with pytest.raises(DataError, match=r"cannot hold sides of more than .*; write PNG"):
        write_image(tmp_path / f"x{suffix}", Picture(np.zeros((1, side, 3), np.uint8)))


def test_suffixes_that_no_format_has(tmp_path):
    for name in ("x.gif", "x"):
        with pytest.raises(DataError, match=r"needs the suffix of a format img2img writes: \.png"):
            write_image(tmp_path / name, Picture(pixels()))


@over(dtype=DTYPES)
def test_alpha_takes_the_type_of_the_result(tmp_path, dtype):
    alpha = np.array([[[0], [51], [255]]], np.uint8)
    write_image(tmp_path / "x.tif", Picture(np.ones((1, 3, 3), dtype), alpha))
    out = read_image(tmp_path / "x.tif").alpha[0, :, 0].astype(float)
    top = 1 if dtype[0] == "f" else np.iinfo(dtype).max
    np.testing.assert_allclose(out / top, [0, 0.2, 1], atol=0.005)


# Damage and limits


def whole(suffix, dtype, channels):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write_image(path, Picture(pixels(dtype, channels, 64, 64)))
        return path.read_bytes()


@over("suffix, dtype, channels", [*KINDS, (".jpg", "uint8", 3), (".webp", "uint8", 3)], share=[0.3, 0.7, 0.95])
def test_truncated_file_is_refused_by_name(tmp_path, suffix, dtype, channels, share):
    data = whole(suffix, dtype, channels)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\."):
        read_image(path)


@over(suffix=SUFFIXES, content=[b"", b"this is a text\n" * 20], read=[read_header, read_image])
def test_no_image_at_all_is_refused_by_name(tmp_path, suffix, content, read):
    path = tmp_path / f"bogus{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="bogus"):
        read(path)


@over(read=[read_header, read_image])
def test_missing_file_is_refused_by_name(tmp_path, read):
    with pytest.raises(DataError, match="nowhere"):
        read(tmp_path / "nowhere.png")


BOASTS = {
    "SizeT": ('SizeT="1"', 'SizeT="1000000000"'),
    "PlaneCount": ('PlaneCount="1"', 'PlaneCount="1000000000"'),
    "NumPlanes": ('PlaneCount="1"', 'NumPlanes="1000000000"'),
    "Modulo": (
        "</OME>",
        '<StructuredAnnotations><X Namespace="modulo" ID="1"><V><M>'
        '<ModuloAlongT Start="0" End="1000000000"/></M></V></X></StructuredAnnotations></OME>',
    ),
}


@over(what=BOASTS)
def test_an_ome_tiff_that_speaks_of_pages_it_has_no_bytes_for(tmp_path, what):
    path, (old, new) = tmp_path / "x.tif", BOASTS[what]
    tifffile.imwrite(path, pixels(channels=1)[..., 0], ome=True, metadata={"axes": "YX"})
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
    assert old in text
    tifffile.imwrite(path, pixels(channels=1)[..., 0], description=text.replace(old, new), metadata=None)
    start = time.process_time()
    with pytest.raises(DataError, match=r"x\.tif lacks some of the pages it declares"):
        read_header(path)
    assert time.process_time() - start < 1


def set_tag(path, tag, dtype, count, value):
    """Changes a short tag of a little-endian TIFF in place."""
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<HII", data, at + 2, dtype, count, value)
    path.write_bytes(data)


def test_a_tiff_of_more_tiles_than_it_says_where(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(16, 16), compression="zlib", metadata=None)
    for tag in (256, 257):
        set_tag(path, tag, 4, 1, 16_000)
    for read in (read_header, read_image):
        start = time.process_time()
        with pytest.raises(DataError, match=r"x\.tif lacks some of the tiles or strips it declares"):
            read(path)
        assert time.process_time() - start < 1
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(64, 64), compression="zlib", metadata=None)
    for tag in (322, 323):
        set_tag(path, tag, 4, 1, 2**15)
    with pytest.raises(DataError, match=r"x\.tif has tiles of 1073741824 values, more than the whole image"):
        read_header(path)


OTHER_CONTENT = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "AVIF": b"\0\0\0\x1cftypavif",
    "GIF": b"GIF89a",
    "JPEG XL": b"\xff\n\0\0",
    "HTML or XML": b"<!DOCTYPE html><html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1",
}


@over(kind=OTHER_CONTENT)
def test_other_files_under_the_name_of_an_image_are_called_what_they_are(tmp_path, kind):
    path = tmp_path / "x.jpg"
    path.write_bytes(OTHER_CONTENT[kind] + bytes(100))
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=rf"x\.jpg holds {kind}, which img2img does not read; save it as PNG"):
            read(path)


@over(suffix=[".png", ".jpg", ".webp", ".bmp", ".tif", ".npy", ".npz"])
def test_reasons_are_sentences_of_ours(suffix, tmp_path):
    """What a decoder says in its own words is its cause, not its text."""
    good, path = whole(suffix, "uint8", 3), tmp_path / "x"
    ours = (
        r"is damaged: (its (header|pixels) cannot be decoded \(\w+\)|a checksum of its pixel data is wrong)\.|"
        r"is truncated\.|is a variant of \w+ that img2img cannot decode|is not in a format|has no pixels|"
        r"is .*exceeds the limit|"
        r"lacks some of the|has tiles of|holds images of different|has \d+ entries|holds an array|holds \w+ values|"
        r"uses version|uses the colour space|is an animation|has the axes|cannot be read: [A-Z][a-z ]+\."
    )
    rng, strange = np.random.default_rng(0), set()
    for _ in range(300):
        data = bytearray(good)
        for at in rng.integers(0, min(len(data), 600), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_image(path, max_pixels=10_000)
        except DataError as error:
            reason = str(error).removeprefix(str(path)).strip()
            strange |= set() if re.match(ours, reason) else {reason}
    assert not strange


# Writing


@over(value=[(0, 0), (0, 1), (1, 0)])
def test_a_resolution_that_is_none_does_not_spoil_a_tiff(tmp_path, value):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, pixels(), photometric="rgb", resolution=(72, 72), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("XResolution", "YResolution"):
            tiff.pages[0].tags[name].overwrite(value)
    assert read_image(path).source.dpi is None
    for changes in ({}, {"array": pixels("uint16", 2)}):
        array = changes.get("array", pixels())
        np.testing.assert_array_equal(agrees(again(path, **changes)).array, array, strict=True)
    write_image(tmp_path / "x.png", read_image(path))


@over("dtype, count, value", [(3, 1, 300), (4, 1, 300), (2, 4, 0x41414141), (1, 1, 7), (11, 1, 0)], tag=[282, 283, 296])
def test_a_resolution_of_another_type_does_not_spoil_a_tiff(tmp_path, tag, dtype, count, value):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, pixels(), photometric="rgb", resolution=(72, 72), metadata=None)
    set_tag(path, tag, dtype, count, value)
    for changes in ({}, {"array": pixels("uint16", 2)}):
        array = changes.get("array", pixels())
        np.testing.assert_array_equal(agrees(again(path, **changes)).array, array, strict=True)


@over("old, new", [("<Pixels", "<Pixels <"), ('PhysicalSizeX="0.5"', 'PhysicalSizeX="half"'), ("</OME>", "<OME>")])
def test_damaged_ome_xml_does_not_spoil_a_tiff(tmp_path, old, new):
    path, stored = tmp_path / "x.tif", pixels(channels=2).transpose(2, 0, 1)
    tifffile.imwrite(path, stored, ome=True, metadata={"axes": "CYX", "PhysicalSizeX": 0.5}, photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
    assert old in text
    description = text.replace(old, new, 1)
    tifffile.imwrite(path, stored, description=description, metadata=None, photometric="minisblack")
    picture = agrees(path)
    for channels in (1, 3):
        result = pixels("uint16", channels, pages=len(picture.array) if picture.array.ndim == 4 else None)
        np.testing.assert_array_equal(agrees(again(path, array=result)).array, result, strict=True)


def test_whatever_a_writer_raises_is_one_failed_file(tmp_path, monkeypatch):
    for error in (ZeroDivisionError("Fraction(0, 0)"), IndexError("x"), OSError("broken data stream"), KeyError(3)):
        monkeypatch.setitem(FORMATS, ".png", replace(FORMATS[".png"], write=Mock(side_effect=error)))
        with pytest.raises(DataError, match=r"x\.png cannot be written as PNG: the metadata of its original"):
            write_image(tmp_path / "x.png", Picture(pixels()))
    monkeypatch.setitem(FORMATS, ".png", replace(FORMATS[".png"], write=Mock(side_effect=MemoryError())))
    with pytest.raises(DataError, match="not enough memory"):
        write_image(tmp_path / "x.png", Picture(pixels()))
    assert list(tmp_path.iterdir()) == []


@over("suffix, dtype, channels", REFUSED)
def test_what_a_format_cannot_hold_is_refused(tmp_path, suffix, dtype, channels):
    with pytest.raises(DataError, match="TIFF"):
        write_image(tmp_path / f"x{suffix}", Picture(pixels(dtype, channels)))
    assert list(tmp_path.iterdir()) == []


def test_failing_write_leaves_nothing_and_spares_the_old_file(tmp_path, monkeypatch):
    old = tmp_path / "old.png"
    write_image(old, Picture(pixels()))
    before = old.read_bytes()

    def full_disk(self, data):
        with self.open("wb") as file:
            file.write(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    for name in ("old.png", "new.png"):
        with pytest.raises(OSError, match="No space"):
            write_image(tmp_path / name, Picture(pixels(seed=1)))
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == before


def test_written_file_has_the_permissions_of_any_new_file(tmp_path):
    write_image(tmp_path / "x.png", Picture(pixels()))
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_makes_folders_and_leaves_the_array_alone(tmp_path):
    array = pixels()
    before = array.copy()
    write_image(tmp_path / "a" / "b" / "x.png", Picture(array))
    assert (tmp_path / "a" / "b" / "x.png").exists()
    np.testing.assert_array_equal(array, before)


@over(suffix=FORMATS)
def test_the_limit_counts_all_pixels_before_decoding(tmp_path, suffix):
    holds = FORMATS[suffix]
    pages = 3 if holds.pages and not holds.axes else None
    channels = 5 if holds.channels is None else 3
    path = tmp_path / f"big{suffix}"
    write_image(path, Picture(pixels(channels=channels, pages=pages)))
    count = 6 * 9 * (pages or 1)
    count = -(-count * max(channels, 4) // 4)
    read_image(path, max_pixels=count)
    for read in (read_header, read_image):
        for meaning in ("images", "channels"):
            with pytest.raises(DataError, match=r"big\..* is 9x6.*exceeds the limit of"):
                read(path, meaning, max_pixels=count - 1)


def test_claims_of_enormous_size_allocate_nothing(tmp_path):
    side = 2**20
    png_path, npy_path = tmp_path / "x.png", tmp_path / "x.npy"
    for bits in (8, 16):
        header = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0)
        late = chunk(b"eXIf", Image.Exif().tobytes()[6:])
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + late + chunk(b"IEND", b"")
        png_path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with pytest.raises(DataError, match="exceeds the limit"):
            read_image(png_path)
    for shape in ((side, side), (2**30, 2**30, 4)):
        with npy_path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with pytest.raises(DataError, match="exceeds the limit"):
            read_image(npy_path)


def test_sizes_above_pillows_own_limit_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif"):
        path = tmp_path / f"x{suffix}"
        write_image(path, Picture(pixels()))
        assert agrees(path).array.shape == (6, 9, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_reading_in_many_threads_leaves_pillow_and_warnings_alone(tmp_path):
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    paths = [tmp_path / f"{i}{suffix}" for i in range(8) for suffix in (".png", ".jpg", ".webp", ".tif")]
    for path in paths:
        write_image(path, Picture(pixels()))
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        assert all(p.array.shape == (6, 9, 3) for p in pool.map(read_image, paths * 4))
    assert warnings.filters == before and limit == Image.MAX_IMAGE_PIXELS


@over(compression=[None, "lzw", "zstd", "jpeg"], share=[0.3, 0.7, 0.97], pages=[1, 3])
def test_truncated_tiffs_never_come_half(tmp_path, compression, share, pages):
    path = tmp_path / "cut.tif"
    stack = pixels(height=64, width=64, pages=pages)
    tifffile.imwrite(path, stack, photometric="rgb", compression=compression, rowsperstrip=16)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.tif") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@over(suffix=[".png", ".jpg", ".webp", ".bmp", ".tif", ".npy", ".npz"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_of_one_line_or_a_whole_picture(suffix, data):
    damaged = bytearray(whole(suffix, "uint8", 3))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(damaged)
        for read in (read_header, read_image):
            try:
                read(path, max_pixels=10_000)
            except DataError as error:
                assert "x." in str(error) and "\n" not in str(error)


def test_progressive_jpeg_cut_short(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels(height=64, width=64)).save(path, progressive=True)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"x\.jpg"):
        read_image(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path):
    path = tmp_path / "x.png"
    write_image(path, Picture(pixels()))
    path.chmod(0)
    with pytest.raises(DataError, match=r"x\.png cannot be read: Permission denied"):
        read_image(path)


def test_permission_and_other_system_errors_are_sentences(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    write_image(path, Picture(pixels()))

    def denied(self, *args):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"x\.png cannot be read: Permission denied\.$"):
        read_image(path)


@over(kind=["fifo", "socket", "folder", "device"], read=[read_header, read_image])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path, kind, read, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("odd.png")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(DataError, match=r"odd\.png is not a regular file"):
        read(path)


@over(
    suffix=[".png", ".tif", ".npy"],
    stem=["two words", "größe 画像", "new\nline", "tab\tquote'\"", "-dash", "%s{0}", "\udcff"],
)
def test_names_of_all_kinds(tmp_path, suffix, stem):
    path = tmp_path / f"{stem}{suffix}"
    write_image(path, Picture(pixels()))
    assert find_images(tmp_path) == [path]
    np.testing.assert_array_equal(agrees(path).array, pixels())
    path.write_bytes(b"damaged beyond repair")
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@over("name, suffix", [("x.jpg", ".png"), ("x.png", ".tif"), ("x.tif", ".png"), ("x.bmp", ".npy")])
def test_content_decides_reading_and_the_suffix_writing(tmp_path, name, suffix):
    write_image(tmp_path / f"true{suffix}", Picture(pixels(height=32, width=32)))
    path = (tmp_path / f"true{suffix}").rename(tmp_path / name)
    np.testing.assert_array_equal(agrees(path).array, pixels(height=32, width=32))
    with Image.open(again(path)) as image:
        assert image.format == {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "bmp": "BMP"}[name[2:]]


# Finding


def test_find_images_goes_deep_skips_hidden_and_sorts(tmp_path):
    names = [
        "b.png",
        "a/z.JPG",
        "a/deep/er/x.tiff",
        "c.webp",
        "d.BMP",
        "e.tif",
        "f.jpeg",
        "g.npy",
        "a-b/h.npz",
        "a.png",
    ]
    for name in [*names, ".hidden.png", "a/.x.jpg", ".git/x.png", "notes.txt", "png", "g.gif", "x.png.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "in.png").touch()
    assert find_images(tmp_path) == sorted(tmp_path / name for name in [*names, "folder.png/in.png"])


def test_find_images_follows_links_but_not_in_circles(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.png").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a/b/x.png", "broken.png", "link/x.png"]
    with pytest.raises(DataError, match=r"broken\.png cannot be read: No such file"):
        read_header(tmp_path / "broken.png")


def test_find_images_says_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "file.png").touch()
    with pytest.raises(DataError, match=r"file\.png is not a folder"):
        find_images(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty contains no images.*png.*npz"):
        find_images(tmp_path / "empty")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"empty cannot be listed: Permission denied"):
        find_images(tmp_path / "empty")


def test_find_images_is_lean(tmp_path):
    """Measured: 0.5 s for 100,000 files; a status or two for each of them would show here."""
    for i in range(5000):
        (tmp_path / f"{i}.png").touch()
    start = time.process_time()
    assert len(find_images(tmp_path)) == 5000
    assert time.process_time() - start < 0.5


def test_find_images_counts_what_it_passes_over(tmp_path):
    for name in ("a.png", "b.JFIF", "c.jpe", "d.heic", "sub/e.HEIC", "sub/f.avif", "g", "h.two words", ".hidden.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert [path.name for path in found] == ["a.png", "b.JFIF", "c.jpe"]
    assert skipped_note(found.passed) == ("5 files were skipped: 2 .heic, 2 with other names, 1 .avif.",)
    assert skipped_note(Counter()) == ()
    with pytest.raises(DataError, match=r"sub contains no images.*2 files were skipped: 1 .avif, 1 .heic\."):
        find_images(tmp_path / "sub")


def test_links_that_multiply_are_refused(tmp_path):
    for level in range(40):  # each level doubles the ways to the next
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}" / name).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "40").mkdir()
    (tmp_path / "40" / "x.png").touch()
    with pytest.raises(DataError, match=r"Links below .* lead to .* in over 100 ways"):
        find_images(tmp_path / "0")


# Resizing


@over(dtype=["uint8", "uint16", "float32"], channels=[1, 3, 5])
def test_resize_keeps_type_and_channels(dtype, channels):
    array = pixels(dtype, channels, 12, 20)
    before = array.copy()
    out = resize(array, 7, 25)
    assert out.shape == (7, 25, channels) and out.dtype == dtype
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(resize(array, 12, 20), array)


@over(dtype=["uint8", "uint16"], channels=[1, 3])
def test_resize_keeps_constants_and_cuts_overshoot(dtype, channels):
    top = np.iinfo(dtype).max
    flat = np.full((10, 10, channels), top - 3, dtype)
    assert (resize(flat, 23, 17) == top - 3).all()
    edge = np.zeros((10, 10, channels), dtype)
    edge[:, 5:] = top
    out = resize(edge, 40, 40)
    assert (out[:, :12] < top // 4).all() and (out[:, 28:] > top - top // 4).all()  # nothing wraps around


def test_resize_treats_channels_alike():
    y, x = np.mgrid[:16, :16]
    array = np.stack([120 + 7 * x, 30 + 9 * y, 128 + 50 * np.sin(x / 3) * np.cos(y / 4)], axis=2).astype(np.uint8)
    together = resize(array, 9, 9)
    alone = np.concatenate([resize(array[..., c : c + 1], 9, 9) for c in range(3)], axis=2)
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1


@over(dtype=[d for d in DTYPES if d[0] != "f"])
def test_resize_of_any_integers_keeps_their_extremes(dtype):
    limits = np.iinfo(dtype)
    for value in (limits.min, limits.max):
        assert (resize(np.full((6, 6, 1), value, dtype), 4, 9) == value).all()


def test_header_and_picture_come_without_names_of_their_own():
    assert set(SUFFIXES) == set(FORMATS) | set(READ_ONLY)
