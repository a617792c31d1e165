"""The metadata of OME-Zarr, 0.4 and 0.5, which a folder holds as JSON, checked where they are read."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img2img.errors import DataError, ModelFileError, quote
from img2img.runtime.records import from_json, read_text

AXES = "tczyx"
GROUP2, GROUP3 = (".zgroup", ".zattrs"), ("zarr.json",)  # the files of a group in Zarr 2 and 3
FILES = (*GROUP2, *GROUP3, ".zarray")


@dataclass(frozen=True)
class Scale:
    """A transformation of the coordinates of an array; others than scales are not used."""

    type: str
    scale: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Axis:
    """An axis of an array; the unit is a word such as micrometer."""

    name: str
    unit: str = ""


@dataclass(frozen=True)
class _Level:
    path: str
    coordinateTransformations: list[Scale] = field(default_factory=list)  # noqa: N815


@dataclass(frozen=True)
class _Multiscale:
    datasets: list[_Level]
    axes: list[Axis | str] = field(default_factory=lambda: list(AXES))
    coordinateTransformations: list[Scale] = field(default_factory=list)  # noqa: N815


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
class Ome:
    """What the metadata of a folder say: of an image, a plate or a well."""

    multiscales: list[_Multiscale] = field(default_factory=list)
    omero: _Omero = _Omero()
    plate: _Plate | None = None
    well: _Well | None = None


@dataclass(frozen=True)
class _Ome5:
    """The attributes of a folder in Zarr 3."""

    ome: Ome = Ome()


@dataclass(frozen=True)
class _Group3:
    """The content of zarr.json."""

    attributes: _Ome5 = _Ome5()
    node_type: str = "group"


def is_zarr(folder: Path) -> bool:
    """Return whether a folder holds the metadata of a Zarr group."""
    return any((folder / name).is_file() for name in (*GROUP2, *GROUP3))


def is_array(folder: Path) -> bool:
    """Return whether a folder of Zarr is an array, and not a group.

    Raises:
        DataError: if its metadata are damaged.
    """
    if not (folder / "zarr.json").is_file():
        return (folder / ".zarray").is_file()
    group: _Group3 = _parsed(_Group3, folder / "zarr.json")
    return group.node_type == "array"


def metadata_of(folder: Path) -> Ome:
    """Return what the metadata of a folder say.

    Raises:
        DataError: if there are none, or they are damaged.
    """
    if (folder / "zarr.json").is_file():
        group: _Group3 = _parsed(_Group3, folder / "zarr.json")
        return group.attributes.ome
    if (folder / ".zattrs").is_file():
        ome: Ome = _parsed(Ome, folder / ".zattrs")
        return ome
    raise DataError(f"{quote(folder)} holds no metadata of OME-Zarr.")


def _parsed(kind: Any, path: Path) -> Any:
    try:
        return from_json(kind, read_text(path), path.name)
    except ModelFileError as error:
        raise DataError(f"{quote(path)} does not hold the metadata of OME-Zarr 0.4 or 0.5.") from error


def documents(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the content of the JSON files of a folder, by name, whatever it is; of both formats, that of Zarr 3.

    Raises:
        DataError: if one of them is not a JSON object, or a link that leads out of the folder.
    """
    found = {}
    names = GROUP3 if (folder / GROUP3[0]).is_file() else FILES
    for name in (name for name in names if (folder / name).is_file()):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{quote(folder / name)} leads outside of its store; copy the file there.")
        try:
            found[name] = json.loads(read_text(folder / name))
        except (ModelFileError, ValueError, RecursionError) as error:
            raise DataError(f"{quote(folder / name)} does not hold the metadata of OME-Zarr 0.4 or 0.5.") from error
        if not isinstance(found[name], dict):
            raise DataError(f"{quote(folder / name)} does not hold the metadata of OME-Zarr 0.4 or 0.5.")
        found[name].pop("consolidated_metadata", None)  # of arrays, which a result has anew
    return found


def inside(folder: Path, path: str) -> Path:
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
