"""OME-Zarr, 0.4 and 0.5: images and plates in folders, of which the largest level is read.

Axes named c are channels, as in a TIFF, and t and z are pages. Names of channels come from `omero`, the size of a pixel
from the scale of the level. A result is written as OME-Zarr again, by `zarr_write`, or as another format, of which
OME-TIFF keeps both.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from img2img.data.descriptions import MICROMETRES, all_names, ome_xml, size_of
from img2img.data.ome_metadata import (
    AXES,
    GROUP3,
    Axis,
    Ome,
    Scale,
    documents,
    inside,
    is_array,
    is_zarr,
    metadata_of,
)
from img2img.data.picture import Header, Picture, Source, Stated
from img2img.data.tiff_write import described
from img2img.data.zarr_layout import Layout
from img2img.errors import DataError, install_hint, quote
from img2img.runtime.files import atomic

MAX_WELLS, MAX_FIELDS, MAX_LEVELS = 10_000, 100_000, 32
WELL = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9]+")
LEVELS, LABELS = "the other levels of the image", "the labels inside the image"
ABOUT = "OME"  # a folder beside the images of a file with several, about all of them


def is_plate(folder: Path) -> bool:
    """Return whether a folder is a plate by its metadata.

    Raises:
        DataError: if they are damaged.
    """
    return is_zarr(folder) and metadata_of(folder).plate is not None


def is_image(folder: Path) -> bool:
    """Return whether a folder is an image by its metadata; one with damaged metadata is not."""
    try:
        return is_zarr(folder) and bool(metadata_of(folder).multiscales)
    except DataError:
        return False


def images_of(plate: Path) -> list[tuple[str, str, str]]:
    """Return the images of a plate, in the order of its metadata: their paths in it, wells such as A01, and fields.

    Raises:
        DataError: if the metadata of the plate or a well are missing or damaged, or a path leaves the plate.
    """
    known = metadata_of(plate).plate
    if known is None or not known.wells or len(known.wells) > MAX_WELLS:
        wells = 0 if known is None else len(known.wells)
        raise DataError(f"{quote(plate)} is not a plate of 1 to {MAX_WELLS} wells: it names {wells}.")
    images: list[tuple[str, str, str]] = []
    for well in known.wells:
        if not re.fullmatch(WELL, well.path):
            raise DataError(f"{quote(plate)} names a well {well.path[:60]!r}, which is not a row and a column.")
        row, column = well.path.split("/")
        fields = metadata_of(inside(plate, well.path)).well
        for image in [] if fields is None else fields.images:
            inside(plate / well.path, image.path)
            images.append((f"{well.path}/{image.path}", f"{row}{column:0>2}", image.path))
        if len(images) > MAX_FIELDS:
            raise DataError(f"{quote(plate)} names over {MAX_FIELDS} images, too many for a plate.")
    return images


def images_in(folder: Path) -> list[Path] | None:
    """Return the images of a folder of Zarr: itself, or those of a plate or a well, in the order of its metadata.

    One whose metadata are damaged counts as an image, so that reading it reports what is wrong. An array that belongs
    to no image has none. None means that the images of a group are found by looking into its folders.
    """
    try:
        if is_array(folder):
            return []
        ome = metadata_of(folder) if any((folder / name).is_file() for name in (".zattrs", *GROUP3)) else Ome()
        if ome.multiscales:
            return [folder]
        if ome.plate is not None:
            return [folder / path for path, _, _ in images_of(folder)]
        if ome.well is not None:
            return [inside(folder, image.path) for image in ome.well.images[:MAX_FIELDS]]
    except DataError:
        return [folder]
    return None


@dataclass(frozen=True)
class Opened:
    """An image whose metadata have been checked: its largest level.

    Attributes:
        array: a `ZarrArray`.
        letters: names of its axes.
        sizes: length of each of t, c, z, y and x.
        steps: distance of pixels along each axis in micrometres.
        paths: of all levels.
        stated: what it says of its pixels.
    """

    array: Any
    letters: str
    sizes: dict[str, int]
    steps: dict[str, float]
    paths: list[str]
    stated: Stated


def opened(folder: Path, by_region: bool = False) -> Opened:
    """Check the metadata of an image and of its largest level, which may be larger if it is read `by_region`.

    Raises:
        DataError: if the folder holds none, or one of axes or values that are not read, or zarr is not installed.
    """
    try:
        from img2img.data.zarr import ZarrArray  # imported late: it needs the extra [zarr]
    except ModuleNotFoundError as error:
        raise DataError(install_hint("Reading OME-Zarr", "zarr", "zarr")) from error
    ome = metadata_of(folder)
    if ome.plate is not None:
        images_of(folder)
        raise DataError(f"{quote(folder)} is a plate of images, not an image; give it as the table.")
    if not ome.multiscales or not ome.multiscales[0].datasets:
        raise DataError(f"{quote(folder)} holds no image of OME-Zarr.")
    image = ome.multiscales[0]
    array = ZarrArray.open(inside(folder, image.datasets[0].path), by_region)
    axes = [Axis(axis) if isinstance(axis, str) else axis for axis in image.axes]
    letters = "".join(axis.name for axis in axes)
    if len(axes) != len(array.shape) or not re.fullmatch("t?c?z?yx", letters):
        names = ", ".join(axis.name[:9] for axis in axes)
        raise DataError(
            f"{quote(folder)} has the axes {names[:60]} of shape {array.shape}, not t, c, z, y, x in this order."
        )
    sizes = dict.fromkeys(AXES, 1) | dict(zip(letters, array.shape, strict=True))
    steps = _steps(axes, [*image.datasets[0].coordinateTransformations, *image.coordinateTransformations])
    lost = (LEVELS,) if len(image.datasets) > 1 else ()
    stated = Stated(
        all_names([channel.label for channel in ome.omero.channels], sizes["c"]),
        size_of([steps["x"], steps["y"]]) if steps.get("x") and steps.get("y") else None,
        tuple((axis.upper(), sizes[axis]) for axis in "tz" if sizes[axis] > 1),
        (*lost, LABELS) if (folder / "labels").is_dir() else lost,
    )
    return Opened(array, letters, sizes, steps, [level.path for level in image.datasets], stated)


@contextmanager
def open_image(folder: Path) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open the largest level of an image; yield its header, and a function that reads it.

    Raises:
        DataError: as `opened` does.
    """
    image = opened(folder)
    sizes, stated, pages = image.sizes, image.stated, image.sizes["t"] * image.sizes["z"]
    header = Header(folder, sizes["x"], sizes["y"], sizes["c"], image.array.dtype, pages, stated)

    def load() -> Picture:
        values = image.array.read().reshape([sizes[axis] for axis in AXES]).transpose(0, 2, 3, 4, 1)
        values = np.ascontiguousarray(values).reshape(pages, *values.shape[2:])
        layout = layout_of(folder, image)
        details = described(stated, ome_xml(stated.channels, stated.pixel_size, image.steps.get("z")))
        source = Source("zarr", options={"layout": layout}, details=details, stated=stated)
        return Picture(values if pages > 1 else values[0], None, source)

    yield header, load


def _steps(axes: list[Axis], scales: list[Scale]) -> dict[str, float]:
    """Return the distance of pixels along each axis in micrometres; empty if a scale does not fit, 0 without unit."""
    factors = [scale.scale for scale in scales if scale.type == "scale"]
    if not factors or any(len(factor) != len(axes) for factor in factors):
        return {}
    return {
        axis.name: math.prod(factor[i] for factor in factors) * MICROMETRES.get(axis.unit, 0)
        for i, axis in enumerate(axes)
    }


def layout_of(folder: Path, image: Opened, by_region: bool = False) -> Layout:
    """Return the layout of an image, for writing another like it; levels that cannot be read are left out."""
    from img2img.data.zarr import ZarrArray

    levels: dict[str, dict[str, dict[str, Any]]] = {}
    previous: tuple[int, ...] | None = None
    for path in image.paths[:MAX_LEVELS]:
        try:
            place = inside(folder, path)
            shape = ZarrArray.open(place, by_region).shape
            if len(shape) == len(image.letters) and (previous is None or _is_smaller(shape, previous)):
                levels[path], previous = documents(place), shape
        except Exception:  # damaged metadata raise anything; those of the first level have been checked
            continue
    return Layout(image.letters, documents(folder), levels, len(levels) == len(set(image.paths)))


def _is_smaller(shape: tuple[int, ...], previous: tuple[int, ...]) -> bool:
    return shape != previous and all(m <= n for m, n in zip(shape, previous, strict=True))


def copy_group(source: Path, target: Path) -> None:
    """Copy what a plate, a well or another group says of its images, unless it is there already.

    Raises:
        DataError: if its metadata are damaged.
        OSError: if they cannot be written.
    """
    contents = {name: json.dumps(content, indent=4).encode() for name, content in documents(source).items()}
    xml = source / "METADATA.ome.xml"
    if source.name == ABOUT and xml.is_file() and not xml.is_symlink() and xml.stat().st_size < 2**26:
        contents[xml.name] = xml.read_bytes()
    target.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if not (target / name).is_file() or (target / name).read_bytes() != content:
            with atomic(target / name) as temporary:
                temporary.write_bytes(content)
    if source.name != ABOUT and is_zarr(source / ABOUT):
        copy_group(source / ABOUT, target / ABOUT)


def copy_groups(base: Path, name: Path, out: Path) -> None:
    """Copy what the plate, the well and other groups below `base` that the image `name` lies in say of it to `out`.

    Raises:
        DataError: if metadata are damaged.
        OSError: if they cannot be written.
    """
    for above in name.parents[-2::-1]:
        if is_zarr(base / above):
            copy_group(base / above, out / above)


def result_name(path: PurePosixPath, suffix: str = ".ome.tif") -> str:
    """Return the name of the file that the result for an image of a store is written as, from its path.

    The path P1.zarr/A/1/0 of a field in a well becomes P1/A01_s0.ome.tif.
    """
    parts = [re.sub(r"(\.ome)?\.zarr$", "", part, flags=re.IGNORECASE) for part in path.parts]
    if len(parts) > 3 and re.fullmatch(r"[A-Z]{1,2}/\d{1,2}/\w+", "/".join(parts[-3:])):
        row, column, site = parts[-3:]
        parts[-3:] = [f"{row}{column:0>2}_s{site}"]
    return "/".join(parts) + suffix
