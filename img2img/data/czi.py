"""CZI, the files of ZEISS microscopes, by pylibCZIrw: the largest level of all scenes, planes and time points.

Axes named C are channels, as in a TIFF; T, Z and scenes of equal size are pages. Tiles are put together where they lie,
over black. Results are OME-TIFF, with the names of the channels and the size of a pixel.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.czi_parts import check_parts
from img2img.data.descriptions import all_names, ome_of, ome_xml, size_of
from img2img.data.picture import MAX_TILE, Array, Header, Picture, Source, Stated
from img2img.data.tiff_write import described
from img2img.errors import DataError, install_hint, quote

PIXELS = {
    **{"Gray8": ("uint8", 1), "Gray16": ("uint16", 1), "Gray32Float": ("float32", 1)},
    **{"Bgr24": ("uint8", 3), "Bgr48": ("uint16", 3), "Bgr96Float": ("float32", 3)},
}
PAGES, AXES = "STZ", "STZC"  # the order of pages, and that of channels in them; S are scenes
LOST = "the other metadata of CZI"


@contextmanager
def open_czi(path: Path) -> Iterator[tuple[Header, Callable[[], Picture]]]:
    """Open a CZI; yield its header, and a function that reads it.

    Raises:
        DataError: if it has other axes or types, or lacks planes, or pylibCZIrw is not installed.
    """
    try:
        from pylibCZIrw import czi  # imported late: it is the extra [microscopes]
    except ModuleNotFoundError as error:
        raise DataError(install_hint("Reading CZI", "pylibCZIrw", "microscopes")) from error
    check_parts(path)
    with czi.open_czi(str(path)) as file:
        box, scenes = file.total_bounding_box_no_pyramid, file.scenes_bounding_rectangle_no_pyramid
        areas = [scenes[key] for key in sorted(scenes)] or [file.total_bounding_rectangle_no_pyramid]
        _refuse_odd(path, {axis: end - start for axis, (start, end) in box.items()}, areas)
        places = _places(path, file, areas[0].w * areas[0].h)
        sizes = {axis: len(numbers) for axis, numbers in places.items()}
        kinds = set(file.pixel_types.values())
        if len(kinds) != 1 or not kinds <= PIXELS.keys():
            found = ", ".join(sorted(map(str, kinds)))
            raise DataError(f"{quote(path)} holds {found or 'no'} pixels; img2img reads one of {', '.join(PIXELS)}.")
        dtype, colours = PIXELS[kinds.pop()]
        names, steps = _described(file.raw_metadata)
        channels, pages = sizes["C"] * colours, prod(sizes[axis] for axis in PAGES)
        stated = Stated(
            all_names(names, channels),
            size_of([steps["X"], steps["Y"]]) if steps.get("X") and steps.get("Y") else None,
            tuple(("series" if axis == "S" else axis, sizes[axis]) for axis in PAGES if sizes[axis] > 1),
            (LOST,),
        )
        header = Header(path, areas[0].w, areas[0].h, channels, dtype, pages, stated)

        def plane(scene: int, t: int, z: int, c: int) -> Array:
            area = areas[places["S"].index(scene)]
            plane = {"T": t, "Z": z, "C": c}
            pixels: Array = file.read(roi=area, plane=plane, scene=scene if scenes else None)
            return pixels[..., ::-1]  # blue is first

        def load() -> Picture:
            array = np.empty((pages, header.height, header.width, channels), dtype)
            for i, (s, t, z) in enumerate(product(*(places[axis] for axis in PAGES))):
                for k, c in enumerate(places["C"]):
                    array[i, :, :, k * colours : (k + 1) * colours] = plane(s, t, z, c)
            details = described(stated, ome_xml(stated.channels, stated.pixel_size, steps.get("Z")))
            return Picture(array if pages > 1 else array[0], None, Source("tiff", details=details, stated=stated))

        yield header, load


def _refuse_odd(path: Path, sizes: dict[str, int], areas: list[Any]) -> None:
    if other := [f"{axis} of {n}" for axis, n in sizes.items() if axis not in "CTZXYB" and n > 1]:
        raise DataError(f"{quote(path)} has the axes {', '.join(other)}; img2img reads C, T, Z and scenes.")
    if len(shapes := {(area.w, area.h) for area in areas}) > 1:
        listed = ", ".join(f"{width}x{height}" for width, height in sorted(shapes)[:5])
        raise DataError(f"{quote(path)} holds scenes of different sizes ({listed}); save them as separate files.")


def _places(path: Path, file: Any, area: int) -> dict[str, list[int]]:
    """Return the numbers of scenes, time points, planes and channels.

    Raises:
        DataError: if there is no tile for some combination, or one that is larger than an image.
    """
    found, largest = set[tuple[int, ...]](), 0

    def note(_: int, tile: Any) -> bool:
        nonlocal largest
        place = tile.coordinate.to_dict()
        found.add(tuple(place.get(axis, 0) for axis in AXES))
        largest = max(largest, tile.physicalSize.w * tile.physicalSize.h)
        return True

    file.enumerate_subblocks(note)
    if largest > max(MAX_TILE, area):
        raise DataError(f"{quote(path)} has tiles of {largest} values, more than the whole image; save it again.")
    places = {axis: sorted(set(numbers)) for axis, numbers in zip(AXES, zip(*found, strict=True), strict=True)}
    if prod(map(len, places.values())) != len(found):
        raise DataError(f"{quote(path)} lacks some of the planes it declares; save it again completely.")
    return places


def _described(text: str) -> tuple[list[str | None], dict[str, float]]:
    """Return the names of the channels, and the distance of pixels along each axis in micrometres."""
    root = ome_of(text)
    if root is None:
        return [], {}
    names = [channel.get("Name") for channel in root.findall(".//Information/Image/Dimensions/Channels/Channel")]
    steps = {}
    for distance in root.findall(".//Scaling/Items/Distance"):
        with suppress(ValueError):
            steps[distance.get("Id", "")] = float(distance.findtext("Value") or "") * 1e6
    return names, steps
