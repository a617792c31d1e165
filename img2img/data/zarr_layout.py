"""How an image of OME-Zarr is stored: its metadata, for writing another like it, and those of a new image."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from img2img.data.ome_metadata import AXES
from img2img.data.picture import Stated

KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
CHUNK, SMALLEST = 1024, 256  # pixels: the side of a new chunk, and of an image that needs no smaller level
SETTINGS = (  # of codecs
    *("cname", "clevel", "shuffle", "blocksize", "typesize"),
    *("level", "checksum", "acceleration", "endian", "order"),
)
NESTED = ("codecs", "index_codecs")
NONE: dict[str, float] = {}  # in place of what is displayed as black and as white


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

    def shapes_of(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each level of an image of these sizes, by its path."""
        anew = {axis: sizes[axis] for axis in "tc"}
        return {path: tuple(anew.get(x, n) for x, n in shape.items()) for path, shape in self.shapes().items()}

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Return whether an image of these sizes can be written in this layout: its channels may be more or fewer."""
        first = next(iter(self.shapes().values()))
        return all(first.get(axis, 1) == size for axis, size in sizes.items() if axis != "c" or "c" not in first)


def like(given: Layout | None, sizes: Mapping[str, int], stated: Stated) -> Layout:
    """Return the layout of an image of these sizes: `given`, if it can hold it, or a new one of the same version."""
    if given and given.holds(sizes):
        return given
    return _new("0.5" if given and "zarr.json" in given.group else "0.4", sizes, stated)


def document(files: Mapping[str, dict[str, Any]], shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """Return the metadata of an array, for an array of another shape and type."""
    array, name = dict(files.get("zarr.json") or files[".zarray"]), dtype
    before = str(array.get("data_type") or np.dtype(array["dtype"]).name)
    array["shape"] = list(shape)
    if name != before:
        array["fill_value"] = 0
    if "zarr.json" in files:
        size = np.dtype(name).itemsize if name != before else 0
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


def group_of(
    layout: Layout, channels: int, dtype: str, limits: Callable[[], tuple[float, float]]
) -> dict[str, dict[str, Any]]:
    """Return the content of the files of an image: the levels that there are, and no settings of other channels.

    Args:
        layout: of the image, or of one like it.
        channels, dtype: of the pixels.
        limits: finds the smallest and the largest value, if they are displayed as black and white.
    """
    group = copy.deepcopy(layout.group)
    first = next(iter(layout.levels.values()))
    array = first.get("zarr.json") or first[".zarray"]
    ome = group["zarr.json"]["attributes"]["ome"] if "zarr.json" in group else group[".zattrs"]
    image = ome["multiscales"][0]
    ome["multiscales"] = [image | {"datasets": [x for x in image["datasets"] if x["path"] in layout.levels]}]
    if channels != next(iter(layout.shapes().values())).get("c", 1):
        ome.pop("omero", None)
        return group
    shown = ome.get("omero", {}).get("channels", ())
    if str(array.get("data_type") or np.dtype(array["dtype"]).name) != dtype:
        shown = [channel | {"window": NONE} for channel in shown]
    if any(channel.get("window") == NONE for channel in shown):
        known = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
        low, high = (known.min, known.max) if known else limits()
        window = {"min": low, "max": high, "start": low, "end": high}
        ome["omero"]["channels"] = [c | ({"window": window} if c.get("window") == NONE else {}) for c in shown]
    return group


def _new(version: str, sizes: Mapping[str, int], stated: Stated) -> Layout:
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
        ome["omero"] = {"channels": [{"label": x, "color": "FFFFFF", "window": NONE} for x in stated.channels]}
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
