"""Slides in formats that tifffile does not read, by OpenSlide: MIRAX, Trestle, DICOM, and others."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from img2img.data.descriptions import size_of
from img2img.data.picture import Array, Stated
from img2img.data.regions import Level, Regions, Span
from img2img.errors import DataError, first_line, install_hint, quote

TILE = 512  # of the result: OpenSlide does not say what the tiles of the slide are


@contextmanager
def open_slide(path: Path) -> Iterator[Regions]:
    """Open a slide by OpenSlide. Where the scanner saw nothing, it is of the slide's background colour, or white.

    Raises:
        DataError: if OpenSlide is not installed, or does not read the file.
    """
    try:
        import openslide
    except ModuleNotFoundError as error:
        raise DataError(install_hint(f"Reading {quote(path)}", "openslide-python", "slides")) from error
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise DataError(f"{quote(path)} is not a slide that OpenSlide reads: {first_line(error)}.") from error
    with slide:
        found = [slide.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
        colour = slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        background = np.frombuffer(bytes.fromhex(colour), np.uint8)
        sizes, factors, names = slide.level_dimensions, slide.level_downsamples, ", ".join(slide.associated_images)

        def fetch(level: int, rows: Span, columns: Span) -> Array:
            origin = round(columns[0] * factors[level]), round(rows[0] * factors[level])
            size = columns[1] - columns[0], rows[1] - rows[0]
            rgba = np.asarray(slide.read_region(origin, level, size))
            opacity = rgba[..., 3:].astype(np.uint16)
            mixed = (rgba[..., :3] * opacity + background * (255 - opacity) + 127) // 255
            return np.asarray(mixed.astype(np.uint8))

        yield Regions(
            path=path,
            levels=tuple(Level(h, w, factor) for (w, h), factor in zip(sizes, factors, strict=True)),
            channels=3,
            dtype="uint8",
            stated=Stated(
                pixel_size=size_of([float(side) for side in found if side]),
                lost=((f"the pictures beside the slide ({names})",) if names else ()),
            ),
            tile=(TILE, TILE),
            compression="JPEG" if slide.detect_format(path) != "generic-tiff" else "",
            layout=None,
            fetch=fetch,
        )
