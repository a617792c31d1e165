"""OME-Zarr, 0.4 and 0.5: images and plates in folders, of which the largest level is read.

Axes named c are channels, as in a TIFF, and t and z are pages. Names of channels come from `omero`, the size of a pixel
from the scale of the level. Results are written as OME-TIFF with both.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from img2img.data.descriptions import MICROMETRES, all_names, size_of
from img2img.data.picture import Header, Picture, Source, Stated
from img2img.data.tiff_write import DESCRIPTION, Details
from img2img.errors import DataError, ModelFileError, install_hint, quote
from img2img.runtime.records import from_json, read_text

AXES = "tczyx"
MAX_WELLS, MAX_FIELDS = 10_000, 100_000
WELL = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9]+")
LEVELS = "the other levels of the image"


@dataclass(frozen=True)
class _Scale:
    type: str
    scale: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Axis:
    name: str
    unit: str = ""


@dataclass(frozen=True)
class _Level:
    path: str
    coordinateTransformations: list[_Scale] = field(default_factory=list)  # noqa: N815


@dataclass(frozen=True)
class _Multiscale:
    datasets: list[_Level]
    axes: list[_Axis | str] = field(default_factory=lambda: list(AXES))
    coordinateTransformations: list[_Scale] = field(default_factory=list)  # noqa: N815


@dataclass(frozen=True)
class _Channel:
    label: str | None = None


@dataclass(frozen=True)
class _Omero:
    channels: list[_Channel] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    path: str


@dataclass(frozen=True)
class _Plate:
    wells: list[_Place]


@dataclass(frozen=True)
class _Well:
    images: list[_Place]


@dataclass(frozen=True)
class _Ome:
    """What the metadata of a folder say: of an image, a plate or a well."""

    multiscales: list[_Multiscale] = field(default_factory=list)
    omero: _Omero = _Omero()
    plate: _Plate | None = None
    well: _Well | None = None


@dataclass(frozen=True)
class _Ome5:
    """The attributes of a folder in Zarr 3."""

    ome: _Ome = _Ome()


@dataclass(frozen=True)
class _Group3:
    """The content of zarr.json."""

    attributes: _Ome5 = _Ome5()


def is_zarr(folder: Path) -> bool:
    """Return whether a folder holds the metadata of a Zarr group."""
    return any((folder / name).is_file() for name in (".zgroup", ".zattrs", "zarr.json"))


def is_plate(folder: Path) -> bool:
    """Return whether a folder is a plate by its metadata.

    Raises:
        DataError: if they are damaged.
    """
    return is_zarr(folder) and _metadata(folder).plate is not None


def images_of(plate: Path) -> list[tuple[str, str, str]]:
    """Return the images of a plate, in the order of its metadata: their paths in it, wells such as A01, and fields.

    Raises:
        DataError: if the metadata of the plate or a well are missing or damaged, or a path leaves the plate.
    """
    known = _metadata(plate).plate
    if known is None or not known.wells or len(known.wells) > MAX_WELLS:
        wells = 0 if known is None else len(known.wells)
        raise DataError(f"{quote(plate)} is not a plate of 1 to {MAX_WELLS} wells: it names {wells}.")
    images: list[tuple[str, str, str]] = []
    for well in known.wells:
        if not re.fullmatch(WELL, well.path):
            raise DataError(f"{quote(plate)} names a well {well.path[:60]!r}, which is not a row and a column.")
        row, column = well.path.split("/")
        fields = _metadata(_inside(plate, well.path)).well
        for image in [] if fields is None else fields.images:
            _inside(plate / well.path, image.path)
            images.append((f"{well.path}/{image.path}", f"{row}{column:0>2}", image.path))
        if len(images) > MAX_FIELDS:
            raise DataError(f"{quote(plate)} names over {MAX_FIELDS} images, too many for a plate.")
    return images


def _metadata(folder: Path) -> _Ome:
    for name, kind in (("zarr.json", _Group3), (".zattrs", _Ome)):
        if (folder / name).is_file():
            try:
                known: Any = from_json(kind, read_text(folder / name), name)
            except ModelFileError as error:
                raise DataError(f"{quote(folder / name)} does not hold the metadata of OME-Zarr 0.4 or 0.5.") from error
            ome: _Ome = known.attributes.ome if kind is _Group3 else known
            return ome
    raise DataError(f"{quote(folder)} holds no metadata of OME-Zarr.")


def _inside(folder: Path, path: str) -> Path:
    """Return the folder at a path of the metadata.

    Raises:
        DataError: if it lies outside of `folder`, by its name or through a link.
    """
    parts = path.split("/")
    found = folder.joinpath(*parts)
    strange = any(part in ("", ".", "..") or re.search(r"[\\:\0]", part) for part in parts)
    if strange or not found.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{quote(folder)} names the path {path[:60]!r}, which leads outside of it.")
    return found


@contextmanager
def open_image(folder: Path) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open the largest level of an image; yield its header, and a function that reads it.

    Raises:
        DataError: if the folder holds none, or one of axes or values that are not read, or zarr is not installed.
    """
    try:
        from img2img.data.zarr import ZarrArray  # imported late: it needs the extra [zarr]
    except ModuleNotFoundError as error:
        raise DataError(install_hint("Reading OME-Zarr", "zarr", "zarr")) from error
    ome = _metadata(folder)
    if ome.plate is not None:
        raise DataError(f"{quote(folder)} is a plate of images, not an image; give it as the table.")
    if not ome.multiscales or not ome.multiscales[0].datasets:
        raise DataError(f"{quote(folder)} holds no image of OME-Zarr.")
    image = ome.multiscales[0]
    array = ZarrArray.open(_inside(folder, image.datasets[0].path))
    axes = [_Axis(axis) if isinstance(axis, str) else axis for axis in image.axes]
    letters = "".join(axis.name for axis in axes)
    if len(axes) != len(array.shape) or not re.fullmatch("t?c?z?yx", letters):
        names = ", ".join(axis.name[:9] for axis in axes)
        raise DataError(
            f"{quote(folder)} has the axes {names[:60]} of shape {array.shape}, not t, c, z, y, x in this order."
        )
    sizes = dict.fromkeys(AXES, 1) | dict(zip(letters, array.shape, strict=True))
    paging = [axis for axis in "tz" if sizes[axis] > 1]
    stated = Stated(
        all_names([channel.label for channel in ome.omero.channels], sizes["c"]),
        _pixel_size(axes, [*image.datasets[0].coordinateTransformations, *image.coordinateTransformations]),
        tuple((axis.upper(), sizes[axis]) for axis in paging),
        (LEVELS,) if len(image.datasets) > 1 else (),
    )
    pages = sizes["t"] * sizes["z"]
    header = Header(folder, sizes["x"], sizes["y"], sizes["c"], array.dtype, pages, stated)

    def load() -> Picture:
        values = array.read().reshape([sizes[axis] for axis in AXES]).transpose(0, 2, 3, 4, 1)
        values = np.ascontiguousarray(values).reshape(pages, *values.shape[2:])
        lengths = {axis.upper(): sizes[axis] for axis in paging}
        details = Details(
            axes="CYX",
            letters="".join(lengths),
            pages=tuple(lengths.values()),
            tags={0: [(DESCRIPTION, 2, 0, _description(stated))]},
            structure="ome",
        )
        return Picture(values if pages > 1 else values[0], None, Source("tiff", details=details, stated=stated))

    yield header, load


def _pixel_size(axes: list[_Axis], scales: list[_Scale]) -> tuple[float, float] | None:
    """Return the width and height of a pixel in micrometres; None if the unit or the scale is not stated."""
    factors = [scale.scale for scale in scales if scale.type == "scale"]
    if not factors or any(len(factor) != len(axes) for factor in factors):
        return None
    y, x = (math.prod(factor[i] for factor in factors) * MICROMETRES.get(axes[i].unit, 0) for i in (-2, -1))
    return size_of([x, y]) if x and y else None


def _description(stated: Stated) -> bytes:
    """Return the names of channels and the size of a pixel as OME-XML, in which they go into a TIFF."""
    root = ElementTree.Element("{ome}OME")
    pixels = ElementTree.SubElement(root, "{ome}Pixels")
    for axis, size in zip("XY", stated.pixel_size or (), strict=False):
        pixels.attrib |= {f"PhysicalSize{axis}": repr(size), f"PhysicalSize{axis}Unit": "µm"}
    for name in stated.channels:
        ElementTree.SubElement(pixels, "{ome}Channel", Name=name)
    return bytes(ElementTree.tostring(root, "utf-8"))


def result_name(path: PurePosixPath) -> str:
    """Return the name of the TIFF that the result for an image of a store is written as, from its path.

    The path P1.zarr/A/1/0 of a field in a well becomes P1/A01_s0.ome.tif.
    """
    parts = [re.sub(r"(\.ome)?\.zarr$", "", part, flags=re.IGNORECASE) for part in path.parts]
    if len(parts) > 3 and re.fullmatch(r"[A-Z]{1,2}/\d{1,2}/\w+", "/".join(parts[-3:])):
        row, column, site = parts[-3:]
        parts[-3:] = [f"{row}{column:0>2}_s{site}"]
    return "/".join(parts) + ".ome.tif"
