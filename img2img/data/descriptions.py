"""The descriptions that OME and ImageJ put into a TIFF: names of channels, and the size of a pixel."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

MICROMETRES = {
    **dict.fromkeys(("µm", "μm", "\\u00B5m", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "Å": 1e-4},
    **{"nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6, "picometer": 1e-6, "angstrom": 1e-4},
}
OF_A_FILE = re.compile(r"\b[czt]:\d+/\d+|\.\w{3,5}$|^\d*$")  # a label that names a slice or a file, not a channel

PixelSize = tuple[float, float]


def ome_of(text: str | bytes | None) -> Any:
    """Return the root of OME-XML, or None if the text is not XML."""
    with suppress(ElementTree.ParseError):
        return ElementTree.fromstring(text) if text else None
    return None


def pixels_of(root: Any) -> Any:
    """Return the first Pixels element of OME-XML, or None."""
    return None if root is None else next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)


def claimed_pages(root: Any) -> float:
    """Return the number of pages that OME-XML speaks of."""
    total = 0.0
    for element in root.iter():
        get = element.attrib.get
        if element.tag.endswith("Pixels"):
            total += math.prod(max(1, int(get(f"Size{axis}", 1))) for axis in "CZT")
        elif element.tag.endswith("TiffData"):
            total += int(get("PlaneCount", get("NumPlanes", 1)))
        elif "Along" in element.tag and "Start" in element.attrib:
            total += (float(get("End", 0)) - float(get("Start", 0))) / float(get("Step", 1))
    return total


def ome_names(root: Any, count: int) -> tuple[str, ...]:
    """Return the names of the channels in OME-XML; empty unless it names each of `count` channels, and differently."""
    pixels = pixels_of(root)
    return all_names([] if pixels is None else [e.get("Name") for e in pixels if e.tag.endswith("}Channel")], count)


def ome_pixel_size(root: Any) -> PixelSize | None:
    """Return the width and height of a pixel in micrometres by OME-XML; None if it does not say."""
    pixels = pixels_of(root)
    if pixels is None:
        return None
    sides = []
    for axis in "XY":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        with suppress(ValueError):
            sides += [float(size) * MICROMETRES[unit]] if size and unit in MICROMETRES else []
    return size_of(sides)


def ome_xml(names: Sequence[str], pixel_size: PixelSize | None, depth: float | None = None) -> bytes:
    """Return the names of channels, and the sides of a pixel in micrometres, as OME-XML."""
    root = ElementTree.Element("{ome}OME")
    pixels = ElementTree.SubElement(root, "{ome}Pixels")
    for axis, size in zip("XYZ", (*(pixel_size or (None, None)), depth), strict=True):
        if size and 0 < size < math.inf:
            pixels.attrib |= {f"PhysicalSize{axis}": repr(float(size)), f"PhysicalSize{axis}Unit": "µm"}
    for name in names:
        ElementTree.SubElement(pixels, "{ome}Channel", Name=name)
    return bytes(ElementTree.tostring(root, "utf-8"))


def imagej_names(metadata: dict[str, Any], count: int) -> tuple[str, ...]:
    """Return the labels of an ImageJ file as names of its channels, unless they are names of slices or files."""
    labels = metadata.get("Labels")
    names = [str(label).strip() for label in labels] if isinstance(labels, list) else []
    return () if any(OF_A_FILE.search(name) for name in names) else all_names(names, count)


def imagej_pixel_size(metadata: dict[str, Any], resolution: Any) -> PixelSize | None:
    """Return the width and height of a pixel in micrometres, from the pixels per unit of an ImageJ file."""
    unit = MICROMETRES.get(str(metadata.get("unit", "")).strip())
    return None if unit is None else size_of([unit * d / n for n, d in resolution])


def all_names(names: list[Any], count: int) -> tuple[str, ...]:
    """Return the names if there are `count`, all different."""
    known = tuple(str(name).strip() for name in names if name and str(name).strip())
    return known if len(known) == len(names) == count == len(set(known)) else ()


def size_of(sides: list[float]) -> PixelSize | None:
    """Return width and height from the sides of a pixel that are positive and finite; None if there is none."""
    usable = [side for side in sides if 0 < side < math.inf]
    return (usable[0], usable[-1]) if usable else None
