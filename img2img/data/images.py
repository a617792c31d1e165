"""Reading and writing image files: 8 and 16 bit and float, any number of channels.

What a file holds is what you get, as an array (height, width, channels) of its own type, with these exceptions,
the same everywhere: the EXIF orientation is applied; a palette becomes the colours it stands for; 1-bit images
become 8-bit grey; CMYK and other colour spaces become RGB; alpha is kept apart from the colours.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from img2img.errors import DataError

Array = NDArray[Any]

PILLOW = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TIFF = (".tif", ".tiff")
SUFFIXES = (*PILLOW, *TIFF)
JPEG_QUALITY = 95

# Pillow's modes that are taken as they are: array type and number of channels without alpha.
KEPT_MODES: dict[str, tuple[str, int]] = {
    "L": ("uint8", 1),
    "LA": ("uint8", 1),
    "RGB": ("uint8", 3),
    "RGBA": ("uint8", 3),
    "I;16": ("uint16", 1),
    "I;16B": ("uint16", 1),
    "F": ("float32", 1),
}
CONVERTED_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}  # every other mode becomes RGB


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are read; `channels` does not count alpha."""

    path: Path
    width: int
    height: int
    channels: int
    dtype: str


@dataclass(frozen=True)
class Picture:
    """The pixels of one image: `array` (H, W, C), and `alpha` (H, W, 1) of the same type where the file has it."""

    array: Array
    alpha: Array | None = None


def find_images(folder: Path) -> list[Path]:
    """Every image below `folder`, at any depth, in the order of their names; hidden files are left out.

    Raises:
        DataError: if the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder." if folder.exists() else f"There is no folder {folder}.")
    found = [
        Path(where) / name
        for where, folders, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise DataError(f"{folder} holds no image. img2img reads {', '.join(s[1:] for s in SUFFIXES)}.")
    return sorted(found)


def read_header(path: Path) -> Header:
    """Size, channels and type of a file, without decoding it.

    Raises:
        DataError: if the file is not a readable image.
    """
    header: Header = _open(path, _tiff_header, _deep_png_header, _pillow_header)
    return header


def read_image(path: Path) -> Picture:
    """Decodes a file.

    Raises:
        DataError: if the file is damaged or not a readable image.
    """
    picture: Picture = _open(path, _read_tiff, _read_deep_png, _read_pillow)
    return picture


def _open(
    path: Path, tiff: Callable[[Path], Any], deep_png: Callable[[Path], Any], pillow: Callable[[Path], Any]
) -> Any:
    try:
        if path.suffix.lower() in TIFF and _tiff_is_plain(path):
            return tiff(path)
        if _is_deep_png(path):
            return deep_png(path)
        return pillow(path)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged input
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as an image: {reason}") from error


# Pillow: everything with 8 bits, and grey with 16 or float


def _target_mode(image: Image.Image) -> str:
    if image.mode in KEPT_MODES and "transparency" not in image.info:
        return image.mode
    if image.mode == "I":  # how older Pillow opens a 16-bit grey PNG
        return "I;16"
    if "transparency" in image.info:
        return "LA" if image.mode in ("1", "L") else "RGBA"
    return CONVERTED_MODES.get(image.mode, "RGB")


def _pillow_header(path: Path) -> Header:
    with Image.open(path) as image:
        width, height = image.size
        if _lies_on_its_side(image, path):
            width, height = height, width
        dtype, channels = KEPT_MODES[_target_mode(image)]
        return Header(path, width, height, channels, dtype)


def _lies_on_its_side(image: Image.Image, path: Path) -> bool:
    """Whether the EXIF orientation exchanges width and height."""
    lies = bool(image.getexif().get(0x0112, 1) >= 5)
    if lies and image.format == "TIFF":  # Pillow turns some of these by itself, and some wrongly
        raise DataError(f"{path} is a turned TIFF of mode {image.mode}; save it upright.")
    return lies


def _read_pillow(path: Path) -> Picture:
    with Image.open(path) as image:
        mode = _target_mode(image)
        _lies_on_its_side(image, path)
        upright = ImageOps.exif_transpose(image)
    if mode == "I;16":
        array = np.asarray(upright)
        if array.min() < 0 or array.max() > 65535:
            raise DataError(f"{path} has values outside 0..65535; save it as a float TIFF.")
        return Picture(array.astype(np.uint16)[..., None])
    array = np.array(upright if upright.mode == mode else upright.convert(mode))
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return _split_alpha(np.atleast_3d(array), mode in ("LA", "RGBA"))


def _split_alpha(array: Array, has_alpha: bool) -> Picture:
    return Picture(array[..., :-1], array[..., -1:]) if has_alpha else Picture(array)


# PNG with 16 bits per colour, which Pillow would cut to 8


def _is_deep_png(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(26)
    is_png = start[:8] == b"\x89PNG\r\n\x1a\n"
    return is_png and len(start) == 26 and start[24] == 16 and start[25] in (2, 4, 6)


def _deep_png_header(path: Path) -> Header:
    start = path.read_bytes()[:26]
    width, height = (int.from_bytes(start[i : i + 4], "big") for i in (16, 20))
    return Header(path, width, height, 1 if start[25] == 4 else 3, "uint16")


def _read_deep_png(path: Path) -> Picture:
    import imagecodecs

    header = _deep_png_header(path)
    if header.width * header.height > 2 * (Image.MAX_IMAGE_PIXELS or 2**40):
        raise DataError(f"{path} claims {header.width}x{header.height} pixels, which is more than the limit.")
    array = np.atleast_3d(imagecodecs.png_decode(path.read_bytes()))
    return _split_alpha(array, array.shape[2] in (2, 4))


# TIFF


def _tiff_is_plain(path: Path) -> bool:
    """Whether tifffile's array is the image, or indexes its palette; CMYK and 1-bit are for Pillow to convert."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        return page.photometric in (1, 2, 3) and page.bitspersample >= 8


def _tiff_layout(tiff: Any, path: Path) -> tuple[Any, str, bool, int]:
    series = tiff.series[0]
    axes = "".join(axis for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX")
    if axes not in ("YX", "YXS", "SYX", "CYX", "YXC"):
        raise DataError(f"{path} has the axes {series.axes}; only two-dimensional images with channels can be read.")
    page = tiff.pages.first
    has_alpha = any(sample in (1, 2) for sample in page.extrasamples)
    orientation = page.tags.get(274)
    return series, axes, has_alpha, int(orientation.value) if orientation else 1


def _tiff_header(path: Path) -> Header:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series, _, has_alpha, orientation = _tiff_layout(tiff, path)
        sizes = dict(zip(series.axes, series.shape, strict=True))
        width, height = sizes["X"], sizes["Y"]
        if orientation >= 5:
            width, height = height, width
        if tiff.pages.first.colormap is not None:
            return Header(path, width, height, 3, "uint8")
        channels = sizes.get("S", 1) * sizes.get("C", 1) - has_alpha
        return Header(path, width, height, channels, _known_dtype(path, series.dtype))


def _known_dtype(path: Path, dtype: Any) -> str:
    name = str(np.dtype(dtype).name)
    if name not in ("uint8", "uint16", "float32"):
        raise DataError(f"{path} holds {name} values; img2img takes uint8, uint16 and float32.")
    return name


def _read_tiff(path: Path) -> Picture:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series, axes, has_alpha, orientation = _tiff_layout(tiff, path)
        array = np.squeeze(series.asarray(), tuple(i for i, a in enumerate(series.axes) if a not in axes))
        colormap = tiff.pages.first.colormap
    if colormap is not None:  # 16 bits per colour, (3, colours)
        array, axes = (colormap.T[array] >> 8).astype(np.uint8), "YXS"
    array = array.astype(_known_dtype(path, array.dtype), copy=False)
    array = np.moveaxis(array, 0, -1) if axes[0] in "SC" else array
    array = array if array.ndim == 3 else array[..., None]
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    # the turns and mirrors of the EXIF standard, after the exchange of rows and columns above
    array = array[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
    return _split_alpha(np.ascontiguousarray(array), has_alpha)


# Writing


def write_image(path: Path, picture: Picture) -> None:
    """Writes `picture` in the format of `path`'s suffix; the file appears whole or not at all.

    Raises:
        DataError: if the format cannot hold the array's type or number of channels.
    """
    array, alpha = picture.array, picture.alpha
    suffix = path.suffix.lower()
    if suffix not in TIFF and array.shape[2] not in (1, 3):
        raise DataError(f"{path.name}: {suffix} cannot hold {array.shape[2]} channels; write TIFF.")
    if alpha is not None and suffix not in (".jpg", ".jpeg", ".bmp"):
        array = np.concatenate([array, _alpha_as(alpha, array.dtype)], axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        if suffix in TIFF:
            _write_tiff(temporary, array, alpha is not None)
        elif suffix == ".png" and array.dtype == np.uint16 and array.shape[2] > 1:
            _write_deep_png(temporary, array)
        else:
            _write_pillow(temporary, array, path)


def _alpha_as(alpha: Array, dtype: Any) -> Array:
    """The same opacity in another type: opaque is 255, 65535 or 1."""
    full = {"uint8": 255, "uint16": 65535, "float32": 1}
    share = alpha.astype(np.float64) / full[alpha.dtype.name] * full[np.dtype(dtype).name]
    return alpha if alpha.dtype == dtype else (np.rint(share) if np.dtype(dtype).kind == "u" else share).astype(dtype)


class atomic:  # noqa: N801 - used as a function: `with atomic(path) as temporary:`
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes when it does not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(prefix=".", suffix=f".part{self.path.suffix}", dir=self.path.parent)
        os.close(handle)
        self.temporary = Path(name)
        return self.temporary

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            with suppress(OSError):
                self.temporary.unlink()
            return
        mask = os.umask(0)
        os.umask(mask)
        self.temporary.chmod(0o666 & ~mask)
        self.temporary.replace(self.path)


def _write_tiff(path: Path, array: Array, has_alpha: bool) -> None:
    import tifffile

    colours = array.shape[2] - has_alpha
    if array.shape[2] == 1:
        tifffile.imwrite(path, array[..., 0], photometric="minisblack")
    elif colours in (1, 3):
        extra = ["unassalpha"] if has_alpha else None
        kind = "rgb" if colours == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=kind, planarconfig="contig", extrasamples=extra)
    else:
        tifffile.imwrite(path, np.moveaxis(array, -1, 0), photometric="minisblack", metadata={"axes": "CYX"})


def _write_deep_png(path: Path, array: Array) -> None:
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))


def _write_pillow(path: Path, array: Array, target: Path) -> None:
    if array.dtype == np.uint16 and array.shape[2] == 1 and path.suffix.lower() == ".png":
        Image.fromarray(array[..., 0]).save(path)
        return
    if array.dtype != np.uint8 or array.shape[2] not in (1, 2, 3, 4):
        kind = f"{array.shape[2]} channels of {array.dtype}"
        raise DataError(f"{target.name}: {target.suffix} cannot hold {kind}; write TIFF.")
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    options: dict[str, Any] = {"quality": JPEG_QUALITY} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    image.save(path, **options)


def resize(array: Array, height: int, width: int) -> Array:
    """Bicubic with antialiasing, channel by channel, in the array's own type; overshoot is cut to the type's range."""
    if array.shape[:2] == (height, width):
        return array
    size = (width, height)
    if array.dtype == np.uint8 and array.shape[2] == 3:
        return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC))
    planes = [
        np.asarray(Image.fromarray(array[..., c].astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
        for c in range(array.shape[2])
    ]
    out = np.stack(planes, axis=2)
    if array.dtype.kind == "u":
        out = np.clip(np.rint(out), 0, np.iinfo(array.dtype).max)
    return out.astype(array.dtype)
