"""Image files: what is written is read back, and what a file says of itself is what it holds."""

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from img2img.data.images import Picture, find_images, read_header, read_image, resize, write_image
from img2img.errors import DataError

# What each format holds without loss.
LOSSLESS = {
    ".png": [("uint8", 1), ("uint8", 3), ("uint16", 1), ("uint16", 3)],
    ".bmp": [("uint8", 1), ("uint8", 3)],
    ".tif": [(dtype, channels) for dtype in ("uint8", "uint16", "float32") for channels in (1, 3, 5)],
}
KINDS = [(suffix, dtype, channels) for suffix, kinds in LOSSLESS.items() for dtype, channels in kinds]
REFUSED = [
    (suffix, dtype, channels)
    for suffix in (".png", ".bmp", ".jpg", ".webp")
    for dtype in ("uint8", "uint16", "float32")
    for channels in (1, 3, 5)
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


def pixels(dtype="uint8", channels=3, height=6, width=9, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(size=(height, width, channels)).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def arrays(dtype, channels):
    shape = st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(channels))
    elements = st.floats(-1e6, 1e6, width=32) if dtype == "float32" else None
    return hnp.arrays(dtype, shape, elements=elements)


def agrees(path):
    """The picture of a file, after checking that its header announces it."""
    header, picture = read_header(path), read_image(path)
    said = (header.height, header.width, header.channels, header.dtype)
    assert said == (*picture.array.shape, str(picture.array.dtype))
    assert header.path == path
    assert picture.array.dtype.isnative
    return picture


def png(path, rows, colour_type, bits=16):
    """A PNG written by hand: `rows` (H, W, samples)."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = rows.shape[:2]
    raw = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(("suffix", "dtype", "channels"), KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_written_is_read_back(suffix, dtype, channels, data):
    array = data.draw(arrays(dtype, channels))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write_image(path, Picture(array))
        picture = agrees(path)
        assert [p.name for p in Path(folder).iterdir()] == [path.name]
    np.testing.assert_array_equal(picture.array, array, strict=True)
    assert picture.alpha is None


@pytest.mark.parametrize(("suffix", "dtype", "channels"), KINDS)
def test_upper_case_suffix(tmp_path, suffix, dtype, channels):
    array, path = pixels(dtype, channels), tmp_path / f"IMAGE{suffix.upper()}"
    write_image(path, Picture(array))
    np.testing.assert_array_equal(agrees(path).array, array, strict=True)
    assert find_images(tmp_path) == [path]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_look_like_alpha_are_kept_or_refused(tmp_path, suffix, dtype, channels):
    array, path = pixels(dtype, channels), tmp_path / f"x{suffix}"
    try:
        write_image(path, Picture(array))
    except DataError:
        assert list(tmp_path.iterdir()) == []
    else:
        np.testing.assert_array_equal(agrees(path).array, array, strict=True)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_written_and_kept_apart(tmp_path, suffix, dtype, channels):
    array, alpha = pixels(dtype, channels), pixels(dtype, 1, seed=1)
    path = tmp_path / f"x{suffix}"
    write_image(path, Picture(array, alpha))
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, array, strict=True)
    np.testing.assert_array_equal(picture.alpha, alpha, strict=True)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_formats_without_alpha_drop_it(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_image(path, Picture(pixels(), pixels(channels=1)))
    picture = agrees(path)
    assert picture.array.shape == (6, 9, 3) and picture.alpha is None


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_come_close(tmp_path, suffix, channels):
    ramp = np.linspace(20, 230, 32)
    array = np.repeat((ramp[:, None] * 0.5 + ramp[None] * 0.5)[..., None], channels, axis=2).astype(np.uint8)
    path = tmp_path / f"x{suffix}"
    write_image(path, Picture(array))
    out = agrees(path).array
    assert out.shape[:2] == (32, 32)
    assert np.abs(out.astype(int) - array).mean() < 3


# Orientation


@pytest.mark.parametrize("orientation", UPRIGHT)
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


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint16", 1), ("float32", 1)])
def test_tiff_orientation_is_applied(tmp_path, orientation, dtype, channels):
    stored = pixels(dtype, channels)
    path = tmp_path / "x.tif"
    kind = "rgb" if channels == 3 else "minisblack"
    array = stored if channels == 3 else stored[..., 0]
    tifffile.imwrite(path, array, photometric=kind, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(agrees(path).array, UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_palette_tiff_orientation_is_applied(tmp_path, orientation):
    stored = Image.fromarray(pixels()).quantize(16)
    path = tmp_path / "x.tif"
    stored.save(path, tiffinfo={274: orientation})
    expected = UPRIGHT[orientation](np.asarray(stored.convert("RGB")))
    np.testing.assert_array_equal(agrees(path).array, expected)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_png_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    Image.fromarray(pixels()).save(path, exif=exif)
    np.testing.assert_array_equal(agrees(path).array, UPRIGHT[orientation](pixels()))


# Kinds of pixels


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
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


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_one_bit_becomes_eight_bit_grey(tmp_path, suffix):
    bits = pixels(channels=1)[..., 0] > 127
    path = tmp_path / f"x{suffix}"
    Image.fromarray(bits).save(path)
    np.testing.assert_array_equal(agrees(path).array[..., 0], bits * np.uint8(255), strict=True)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # cyan alone
    path = tmp_path / f"x{suffix}"
    Image.merge("CMYK", [Image.fromarray(plane) for plane in ink.transpose(2, 0, 1)]).save(path)
    picture = agrees(path)
    assert picture.array.shape == (16, 16, 3) and picture.alpha is None
    np.testing.assert_allclose(picture.array.astype(int), np.broadcast_to([0, 255, 255], (16, 16, 3)), atol=6)


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_of_others_files_is_kept_apart(tmp_path, mode, channels, suffix):
    array = pixels(channels=channels + 1)
    path = tmp_path / f"x{suffix}"
    image = Image.fromarray(array)
    assert image.mode == mode
    image.save(path)
    picture = agrees(path)
    np.testing.assert_array_equal(picture.array, array[..., :-1], strict=True)
    np.testing.assert_array_equal(picture.alpha, array[..., -1:], strict=True)


@pytest.mark.parametrize(("colour_type", "channels", "has_alpha"), [(0, 1, 0), (2, 3, 0), (4, 1, 1), (6, 3, 1)])
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


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_either_byte_order(tmp_path, byteorder):
    array = pixels("uint16", 1)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array[..., 0], byteorder=byteorder)
    np.testing.assert_array_equal(agrees(path).array, array, strict=True)


def test_tiff_of_an_unknown_type_is_refused_by_name(tmp_path):
    path = tmp_path / "wide.tif"
    tifffile.imwrite(path, np.zeros((4, 4), np.int32))
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=r"wide\.tif.*int32"):
            read(path)


def test_tiff_stack_is_refused_by_name(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((7, 8, 8), np.uint8), photometric="minisblack", metadata={"axes": "ZYX"})
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=r"stack\.tif.*axes"):
            read(path)


# Damage


def whole(suffix, dtype, channels):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write_image(path, Picture(pixels(dtype, channels, 64, 64)))
        return path.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [*KINDS, (".jpg", "uint8", 3), (".webp", "uint8", 3)],
)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_file_is_refused_by_name(tmp_path, suffix, dtype, channels, share):
    data = whole(suffix, dtype, channels)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\."):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("content", [b"", b"this is a text\n" * 20], ids=["empty", "text"])
@pytest.mark.parametrize("read", [read_header, read_image])
def test_no_image_at_all_is_refused_by_name(tmp_path, suffix, content, read):
    path = tmp_path / f"bogus{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="bogus"):
        read(path)


@pytest.mark.parametrize("read", [read_header, read_image])
def test_missing_file_is_refused_by_name(tmp_path, read):
    with pytest.raises(DataError, match="nowhere"):
        read(tmp_path / "nowhere.png")


# Writing


@pytest.mark.parametrize(("suffix", "dtype", "channels"), REFUSED)
def test_what_a_format_cannot_hold_is_refused(tmp_path, suffix, dtype, channels):
    with pytest.raises(DataError, match="TIFF"):
        write_image(tmp_path / f"x{suffix}", Picture(pixels(dtype, channels)))
    assert list(tmp_path.iterdir()) == []


def test_failing_write_leaves_nothing_and_spares_the_old_file(tmp_path, monkeypatch):
    old = tmp_path / "old.png"
    write_image(old, Picture(pixels()))
    before = old.read_bytes()

    def full_disk(self, fp, *args, **kwargs):
        Path(fp).write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
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


# Finding


def test_find_images_goes_deep_skips_hidden_and_sorts(tmp_path):
    names = ["b.png", "a/z.JPG", "a/deep/er/x.tiff", "c.webp", "d.BMP", "e.tif", "f.jpeg"]
    for name in [*names, ".hidden.png", "a/.x.jpg", "notes.txt", "png", "g.gif"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_images(tmp_path) == sorted(tmp_path / name for name in names)


def test_find_images_says_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "file.png").touch()
    with pytest.raises(DataError, match=r"file\.png is not a folder"):
        find_images(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image.*png"):
        find_images(tmp_path / "empty")


# Resizing


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_resize_keeps_type_and_channels(dtype, channels):
    array = pixels(dtype, channels, 12, 20)
    before = array.copy()
    out = resize(array, 7, 25)
    assert out.shape == (7, 25, channels) and out.dtype == dtype
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(resize(array, 12, 20), array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
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
