"""Writing TIFF: page by page like the original if the picture is of the same kind, otherwise with plain axes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.descriptions import ome_of, pixels_of
from img2img.data.levels import Size, reduced, whole_factors
from img2img.data.picture import UNKNOWN_AXES, Array, Picture, Stated, fitting_profile, with_alpha

DEFLATE = 8
LOSSLESS = (1, 5, DEFLATE, 32773, 32946, 34925, 50000)  # none, LZW, deflate, PackBits, old deflate, LZMA, Zstandard
PREDICTED = (5, DEFLATE, 32946, 50000)
DESCRIPTION, RESERVED = 270, (50838, 50839)  # the latter are ImageJ's
IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
IMAGEJ_KEPT = ("unit", "yunit", "zunit", "spacing", "finterval", "fps", "loop")
OF_SAMPLES = ("photometric", "planarconfig", "extrasamples")  # options that say what the samples of a page are
Tag = tuple[int, int, int, bytes]  # code, type, count, bytes
CLASSIC_BYTES = 2**32 - 2**25  # a TIFF with 32-bit offsets, less space for its directories


@dataclass(frozen=True)
class Details:
    """The layout of a TIFF; the defaults are those of a new file."""

    axes: str = ""  # names of the axes of one series
    order: tuple[int, ...] = ()  # indices of the axes in the order of reading: pages, Y, X, C, S
    series: int = 1  # number of series in the file
    letters: str = ""  # names of the page axes, including one for the series if there are several
    pages: tuple[int, ...] = ()  # their lengths
    c_and_s: tuple[int, ...] = ()  # lengths of those of the axes C and S that the file has, including alpha
    channels: int = 0  # number of channels of the array
    dtype: str = ""  # type of the array
    page_axes: str = ""  # axes of one page
    page_order: tuple[int, ...] = ()  # directory of each page; empty if the file cannot be written like the original
    alpha: int | None = None  # index of the sample that is the opacity
    tags: dict[int, list[Tag]] = field(default_factory=dict)  # the preserved ones of each directory
    structure: str = ""  # "ome", "imagej" or ""
    described: bool = False  # whether the description states how the pages are arranged
    colours: dict[str, Any] = field(default_factory=dict)  # options of the writer for the meaning of the samples,
    resolution: dict[str, Any] = field(default_factory=dict)  # for pixels per unit,
    storage: dict[str, Any] = field(default_factory=dict)  # and for compression, tiles and strips
    byteorder: Any = None  # "<" or ">"
    big: bool = False  # whether offsets have 64 bits
    levels: tuple[tuple[Size, int], ...] = ()  # size of each smaller copy, and its factor from the one before
    nested: bool = False  # whether they are in SubIFDs


def described(stated: Stated, description: bytes) -> Details:
    """Return the layout of an OME-TIFF for a picture from a file that is none, which OME-XML describes."""
    letters = "".join(UNKNOWN_AXES[0] if axis == "series" else axis for axis, _ in stated.axes)
    lengths = tuple(length for _, length in stated.axes)
    tags: dict[int, list[Tag]] = {0: [(DESCRIPTION, 2, 0, description)]}
    series = dict(stated.axes).get("series", 1)
    return Details(axes="CYX", series=series, letters=letters, pages=lengths, tags=tags, structure="ome")


def write(path: Path, picture: Picture, kind: str, quality: int) -> None:
    """Write a TIFF; lossy compression becomes deflate, and files larger than 4 GB become BigTIFF."""
    import tifffile

    source = picture.source
    details = source.details if source and isinstance(source.details, Details) else Details()
    count = len(picture.array) if picture.array.ndim == 4 else 1
    if count != np.prod(details.pages, dtype=int):
        details = Details()
    big = details.big or picture.array.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes) > CLASSIC_BYTES
    same_kind = (details.channels, details.dtype) == (picture.array.shape[-1], str(picture.array.dtype))
    same_kind = same_kind and bool(details.page_order) and (details.alpha is None) == (picture.alpha is None)
    writes = _like_original(picture, details) if same_kind else _plain(picture, details, source and source.dpi)
    ome = not same_kind and details.structure == "ome"
    imagej = not same_kind and not big and _fits_imagej(picture, details)
    size = picture.array.shape[-3:-1]
    fits = not imagej and whole_factors([size, *(smaller for smaller, _ in details.levels)]) == list(details.levels)
    levels = details.levels if fits else ()
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=details.byteorder, ome=ome, imagej=imagej) as writer:
        for data, options in writes:
            inside: dict[str, Any] = {"subifds": len(levels)} if levels and details.nested else {}
            writer.write(data, software=False, contiguous=False, **inside, **details.storage, **options)
            shaped = bool(options.get("metadata")) and not ome
            more: dict[str, Any] = {"subfiletype": 1, "metadata": {} if shaped else None} | details.storage
            more |= {name: options[name] for name in OF_SAMPLES if name in options}
            for smaller in _smaller(data, size, levels):
                tags = shape_tags(options.get("extratags", ()), smaller.shape)
                writer.write(smaller, software=False, contiguous=False, extratags=tags, **more)


def shape_tags(tags: Iterable[Any], shape: Sequence[int]) -> list[Any]:
    """Return the tag that states the shape of a level, if those of its image have one, as tifffile writes it."""
    stated = any(tag[0] == DESCRIPTION and bytes(tag[3]).startswith(b'{"shape"') for tag in tags)
    return [(DESCRIPTION, 2, 0, json.dumps({"shape": list(shape)}), True)] if stated else []


def _smaller(data: Array, size: Size, levels: Iterable[tuple[Size, int]]) -> Iterator[Array]:
    """Yield the levels of images (..., H, W) or (..., H, W, S) of `size`, each made from the one before."""
    interleaved = data.shape[-3:-1] == size
    samples = data.shape[-1:] if interleaved else ()
    before = data.shape[: data.ndim - 2 - interleaved]
    stack = data.reshape(-1, *size, *(samples or (1,)))
    for smaller, factor in levels:
        stack = np.stack([reduced(image, factor, smaller) for image in stack])
        yield stack.reshape(*before, *smaller, *samples)


def _fits_imagej(picture: Picture, details: Details) -> bool:
    simple = picture.alpha is None and set(details.letters) <= set("TZ")
    return details.structure == "imagej" and simple and str(picture.array.dtype) in IMAGEJ_DTYPES


def storage_of(page: Any) -> dict[str, Any]:
    """Return the options that store another page like this one, without loss."""
    import tifffile

    number = int(page.compression) if int(page.compression) in LOSSLESS else DEFLATE
    return {
        "compression": tifffile.COMPRESSION(number) if number != 1 else None,
        "predictor": (int(page.predictor) > 1 and number in PREDICTED) or None,
        "tile": (page.tilelength, page.tilewidth) if page.is_tiled else None,
        "rowsperstrip": None if page.is_tiled else int(page.rowsperstrip),
    }


def _like_original(picture: Picture, details: Details) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Yield the pages in the order of the original, in one block up to the next page that has its own tags."""
    array, k = with_alpha(picture), details.alpha
    if k is not None:
        array = np.concatenate([array[..., :k], array[..., -1:], array[..., k:-1]], axis=-1)
    height, width = array.shape[-3:-1]
    stack = array.reshape(details.series, *details.pages[details.series > 1 :], height, width, *details.c_and_s)
    stack = stack.transpose(0, *(1 + i for i in np.argsort(details.order)))
    lengths = {"S": -1, "Y": height, "X": width}
    pages = stack.reshape(len(details.page_order), *(lengths[axis] for axis in details.page_axes))
    options = details.colours | details.resolution | {"iccprofile": picture.source.icc, "metadata": None}
    if (order := np.argsort(details.page_order).tolist()) != sorted(order):
        pages = pages[order]  # a copy
    starts = [i for i in range(len(pages)) if i == 0 or details.tags.get(i)]
    for start, end in zip(starts, [*starts[1:], len(pages)], strict=True):
        run = pages[start:end] if end - start > 1 else pages[start]
        tags = [(*tag, True) for tag in details.tags.get(start, ())]
        yield np.ascontiguousarray(run), options | {"extratags": tags}


def _plain(
    picture: Picture, details: Details, dpi: tuple[float, float] | None
) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Yield all pages at once, with our own axes: RGB for three channels, planes named C for two or more than three."""
    colours, has_alpha = picture.array.shape[-1], picture.alpha is not None
    array, imagej = with_alpha(picture), _fits_imagej(picture, details)
    letters, lengths = details.letters, details.pages
    if array.ndim == 4 and not letters:
        letters, lengths = "I", (len(array),)
    array = array.reshape(*lengths, *array.shape[-3:])
    options: dict[str, Any] = {"photometric": "rgb" if colours == 3 else "minisblack"}
    if array.shape[-1] == 1:
        array, axes = array[..., 0], "YX"
    elif has_alpha or (colours == 3 and "C" not in details.axes and not (imagej and array.dtype != np.uint8)):
        extra = array.shape[-1] - (3 if colours == 3 else 1)
        options |= {"planarconfig": "contig", "extrasamples": [0] * (extra - 1) + [2] if has_alpha else None}
        axes = "YXS"
    else:
        array, axes, options["photometric"] = np.moveaxis(array, -1, -3), "CYX", "minisblack"
    plain = not letters and axes != "CYX"
    tags = [tag for tag in details.tags.get(0, ()) if tag[0] not in (DESCRIPTION, *RESERVED)]
    if plain and not details.described:
        tags += [tag for tag in details.tags.get(0, ()) if tag[0] == DESCRIPTION]
    metadata: dict[str, Any] | None = None if plain else {"axes": letters + axes}
    if details.structure == "ome":
        metadata = {"axes": letters + axes} | _physical(details, colours)
    elif imagej:
        metadata = {"axes": letters + axes} | _calibration(details)
    options |= details.resolution or ({"resolution": dpi, "resolutionunit": 2} if dpi else {})
    options |= {
        "iccprofile": fitting_profile(picture),
        "metadata": metadata,
        "extratags": [(*tag, True) for tag in tags],
    }
    if details.structure == "ome" and details.series > 1 and letters:  # each with a description
        metadata = (metadata or {}) | {"axes": letters[1:] + axes}
        for part in array:
            yield np.ascontiguousarray(part), options | {"metadata": metadata}
    else:
        yield np.ascontiguousarray(array), options


def _description(details: Details) -> bytes:
    descriptions = (raw for code, _, _, raw in details.tags.get(0, ()) if code == DESCRIPTION)
    return next(descriptions, b"").rstrip(b"\0")


def _calibration(details: Details) -> dict[str, str]:
    """Return the spacing and units in an ImageJ description."""
    lines = (line.partition("=") for line in _description(details).decode("latin-1").splitlines())
    return {name: value for name, _, value in lines if name in IMAGEJ_KEPT and value.isascii()}


def _physical(details: Details, channels: int) -> dict[str, Any]:
    """Return the pixel size in an OME description, and the channel names if the number of channels is unchanged."""
    pixels = pixels_of(ome_of(_description(details)))
    if pixels is None:
        return {}
    sizes: dict[str, Any] = {}
    for name, value in pixels.attrib.items():
        if name.startswith("PhysicalSize"):
            with suppress(ValueError):
                sizes[name] = float(value) if not name.endswith("Unit") else value
    names = [e.get("Name") for e in pixels if e.tag.endswith("}Channel")]
    return sizes | ({"Channel": {"Name": names}} if len(names) == channels and all(names) else {})
