"""Writing OME-Zarr: with the metadata, chunks, compression and levels of the original, or as a new image of 0.4.

The smaller levels are means over blocks of the result, of the sizes that the levels of the original have.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.levels import smaller
from img2img.data.ome_metadata import AXES
from img2img.data.picture import Array, Picture, Stated
from img2img.errors import DataError, install_hint

KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
CHUNK, SMALLEST = 1024, 256  # pixels: the side of a new chunk, and of an image that needs no smaller level
SETTINGS = (  # of codecs
    *("cname", "clevel", "shuffle", "blocksize", "typesize"),
    *("level", "checksum", "acceleration", "endian", "order"),
)
NESTED = ("codecs", "index_codecs")


@dataclass(frozen=True)
class Layout:
    """The metadata of an image of OME-Zarr.

    Attributes:
        letters: names of the axes of its arrays.
        group: the content of the files of its folder, by name.
        levels: the same of the folder of each level, by its path, the largest first.
        complete: whether these are all levels.
    """

    letters: str
    group: dict[str, dict[str, Any]]
    levels: dict[str, dict[str, dict[str, Any]]]
    complete: bool = True

    def shapes(self) -> dict[str, dict[str, int]]:
        """Return the length of every axis of each level, by its path."""
        arrays = {path: files.get("zarr.json") or files[".zarray"] for path, files in self.levels.items()}
        return {path: dict(zip(self.letters, array["shape"], strict=True)) for path, array in arrays.items()}

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Return whether an image of these sizes can be written in this layout: its channels may be more or fewer."""
        first = next(iter(self.shapes().values()))
        return all(first.get(axis, 1) == size for axis, size in sizes.items() if axis != "c" or "c" not in first)


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
    layout = given or _new("0.4", sizes, stated, picture.array)
    if not layout.holds(sizes):
        layout = _new("0.5" if "zarr.json" in layout.group else "0.4", sizes, stated, picture.array)
    shapes = layout.shapes()
    values = values.reshape([sizes[axis] for axis in AXES if axis in layout.letters])
    for name, shape in shapes.items():
        shape |= {axis: sizes[axis] for axis in "tc" if axis in shape}
        values = smaller(values, tuple(shape.values()))
        write_array(path / name, values, _document(layout.levels[name], values))
    for name, content in _group(layout, sizes["c"], picture.array).items():
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


# Metadata


def _document(files: Mapping[str, dict[str, Any]], values: Array) -> dict[str, Any]:
    """Return the metadata of an array, for an array of these values."""
    array, name = dict(files.get("zarr.json") or files[".zarray"]), str(values.dtype)
    before = str(array.get("data_type") or np.dtype(array["dtype"]).name)
    array["shape"] = list(values.shape)
    if name != before:
        array["fill_value"] = 0
    if "zarr.json" in files:
        size = values.dtype.itemsize if name != before else 0
        return array | {"data_type": name, "codecs": [_codec(codec, size) for codec in array["codecs"]]}
    order: Any = ">" if array["dtype"].startswith(">") else "<"
    return array | {
        "dtype": np.dtype(name).newbyteorder(order).str,
        "compressor": array["compressor"] and _safe(array["compressor"], {"id": array["compressor"]["id"]}),
        "filters": [_safe(codec, {"id": codec["id"]}) for codec in array.get("filters") or ()] or None,
        "attributes": files.get(".zattrs", {}),
    }


def _codec(codec: dict[str, Any], size: int) -> dict[str, Any]:
    """Return a codec, for values of `size` bytes if that is new."""
    given = dict(codec.get("configuration") or {})
    if size and "typesize" in given:
        given["typesize"] = size
    if codec["name"] == "sharding_indexed":
        inner = {kind: [_codec(one, size) for one in given[kind]] for kind in NESTED}
        return {"name": codec["name"], "configuration": given | inner}
    settings = _safe(given, {"endian": "little"} if codec["name"] == "bytes" else {})
    return {"name": codec["name"], "configuration": settings}


def _safe(given: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a codec that are known."""
    return settings | {name: given[name] for name in SETTINGS if name in given}


def _group(layout: Layout, channels: int, values: Array) -> dict[str, dict[str, Any]]:
    """Return the content of the files of an image: the levels that there are, and no settings of other channels."""
    group = copy.deepcopy(layout.group)
    first = next(iter(layout.levels.values()))
    array = first.get("zarr.json") or first[".zarray"]
    ome = group["zarr.json"]["attributes"]["ome"] if "zarr.json" in group else group[".zattrs"]
    image = ome["multiscales"][0]
    ome["multiscales"] = [image | {"datasets": [x for x in image["datasets"] if x["path"] in layout.levels]}]
    if channels != next(iter(layout.shapes().values())).get("c", 1):
        ome.pop("omero", None)
    elif str(array.get("data_type") or np.dtype(array["dtype"]).name) != str(values.dtype):
        for channel in ome.get("omero", {}).get("channels", ()):
            channel["window"] = _window(values)
    return group


def _window(values: Array) -> dict[str, float]:
    """Return the values that are displayed as black and as white, at first and at most."""
    limits = np.iinfo(values.dtype) if values.dtype.kind in "iu" else None
    low, high = (limits.min, limits.max) if limits else (float(values.min()), float(values.max()))
    return {"min": low, "max": high, "start": low, "end": high}


def _new(version: str, sizes: Mapping[str, int], stated: Stated, values: Array) -> Layout:
    """Return the layout of a new image, halved until it is small."""
    letters = "".join(axis for axis in AXES if axis in "yx" or sizes[axis] > 1)
    steps = dict(zip("xy", stated.pixel_size, strict=True)) if stated.pixel_size else {}
    axes: list[dict[str, str]] = [
        {"name": axis, "type": KINDS[axis]} | ({"unit": "micrometer"} if axis in steps else {}) for axis in letters
    ]
    levels: dict[str, dict[str, dict[str, Any]]] = {}
    datasets, shape = list[dict[str, Any]](), {axis: sizes[axis] for axis in letters}
    while not levels or max(shape["y"], shape["x"]) > SMALLEST:
        if levels:
            shape |= {axis: -(-shape[axis] // 2) for axis in "yx"}
        name, factor = str(len(levels)), 2 ** len(levels)
        scale = [steps.get(axis, 1.0) * (factor if axis in "yx" else 1) for axis in letters]
        datasets.append({"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        levels[name] = _new_array(version, shape)
    ome: dict[str, Any] = {"multiscales": [{"axes": axes, "datasets": datasets, "type": "mean"}]}
    if stated.channels and len(stated.channels) == sizes["c"]:
        ome["omero"] = {
            "channels": [{"label": name, "color": "FFFFFF", "window": _window(values)} for name in stated.channels]
        }
    if version == "0.5":
        attributes = {"ome": {"version": version, **ome}}
        return Layout(
            letters, {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": attributes}}, levels
        )
    ome["multiscales"][0]["version"] = version
    return Layout(letters, {".zgroup": {"zarr_format": 2}, ".zattrs": ome}, levels)


def _new_array(version: str, shape: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the metadata of a new array, by the name of their file; its type is filled in when it is written."""
    lengths, chunks = list(shape.values()), [min(CHUNK, n) if axis in "yx" else 1 for axis, n in shape.items()]
    if version == "0.4":
        array = {"zarr_format": 2, "shape": lengths, "chunks": chunks, "dtype": "|u1", "order": "C", "fill_value": 0}
        blosc = {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1}
        return {".zarray": array | {"compressor": blosc, "filters": None, "dimension_separator": "/"}}
    array = {"zarr_format": 3, "node_type": "array", "shape": lengths, "data_type": "uint8", "fill_value": 0}
    blosc = {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 5, "shuffle": "shuffle"}}
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    array |= {"chunk_grid": grid, "chunk_key_encoding": {"name": "default"}, "codecs": [{"name": "bytes"}, blosc]}
    return {"zarr.json": array | {"dimension_names": list(shape), "attributes": {}}}
