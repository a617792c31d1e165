"""Writing OME-Zarr: with the metadata, chunks, compression and levels of the original, or as a new image of 0.4.

The smaller levels are means over blocks of the result, of the sizes that the levels of the original have.
"""

import json
from pathlib import Path

from img2img.data.levels import smaller
from img2img.data.ome_metadata import AXES
from img2img.data.picture import Array, Picture, Stated
from img2img.data.zarr_layout import document, group_of, like
from img2img.errors import DataError, install_hint


def write(path: Path, picture: Picture, kind: str, quality: int) -> None:
    """Write an image as a folder.

    Raises:
        DataError: if zarr is not installed.
    """
    try:
        from img2img.data.zarr import write_array  # imported late: it needs the extra [zarr]
    except ModuleNotFoundError as error:
        raise DataError(install_hint("Writing OME-Zarr", "zarr", "zarr")) from error
    stated = picture.source.stated if picture.source else Stated()
    values, sizes = _arranged(picture, stated)
    given = picture.source.options.get("layout") if picture.source and picture.source.kind == "zarr" else None
    layout, array = like(given, sizes, stated), picture.array
    values = values.reshape([sizes[axis] for axis in AXES if axis in layout.letters])
    for name, shape in layout.shapes_of(sizes).items():
        values = smaller(values, shape)
        write_array(path / name, values, document(layout.levels[name], shape, str(array.dtype)))
    group = group_of(layout, sizes["c"], str(array.dtype), lambda: (float(array.min()), float(array.max())))
    for name, content in group.items():
        (path / name).write_text(json.dumps(content, indent=4), encoding="utf-8")


def _arranged(picture: Picture, stated: Stated) -> tuple[Array, dict[str, int]]:
    """Return the values of a picture in the order t, c, z, y, x, and the length of each."""
    several = picture.array.ndim == 4
    array = picture.array if several else picture.array[None]
    lengths = {axis.lower(): n for axis, n in stated.axes} if several else {}
    stack = array.reshape(*lengths.values(), *array.shape[1:])
    if list(lengths) == ["z", "t"]:
        stack = stack.swapaxes(0, 1)
    sizes = dict.fromkeys(AXES, 1) | lengths | dict(zip("yxc", array.shape[1:], strict=True))
    stack = stack.reshape(*(sizes[axis] for axis in "tzyxc"))
    return stack.transpose(0, 4, 1, 2, 3), {axis: sizes[axis] for axis in AXES}
