"""Folders of OME-Zarr, formats 0.4 and 0.5: images, wells and plates, written byte by byte; and images, by zarr."""

import json
import struct
from itertools import product

import imagecodecs
import numpy as np
import zarr

NAMES = ("DNA", "ER")
UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
KINDS = {"t": "time", "c": "channel"}
AXES = [{"name": "c"}, *({"name": axis, "unit": "micrometer"} for axis in "zyx")]


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def put(folder, version, **ome):
    """Write the metadata of a group: an image, a well or a plate."""
    if version == "0.4":
        return write_json(folder / ".zattrs", ome)
    attributes = {"ome": {"version": version, **ome}}
    write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def packed(codec, data):
    options = {"header": True} if codec == "lz4" else {}
    return bytes(getattr(imagecodecs, f"{codec}_encode")(data, **options)) if codec else data


def checksum(data):
    """The CRC-32C of bytes."""
    crc = 2**32 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return struct.pack("<I", crc ^ 2**32 - 1)


def write_array(folder, values, version="0.4", codec="zstd", chunks=None, shard=False, **changes):
    """Write an array (C, Z, Y, X) in chunks, as format 2 for OME-Zarr 0.4 and format 3 for 0.5."""
    chunks = chunks or (1, 1, 16, 16)
    grid = [-(-n // chunk) for n, chunk in zip(values.shape, chunks, strict=True)]
    padded = np.zeros([n * chunk for n, chunk in zip(grid, chunks, strict=True)], values.dtype)
    padded[tuple(map(slice, values.shape))] = values
    parts = {}
    for number in product(*map(range, grid)):
        part = padded[tuple(slice(i * n, (i + 1) * n) for i, n in zip(number, chunks, strict=True))]
        parts[number] = packed(codec, part.tobytes())
    compressor = [{"name": codec, "configuration": {}}] if codec else []
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, *compressor]
    if shard:
        offsets = np.cumsum([0, *map(len, parts.values())])
        index = b"".join(struct.pack("<QQ", start, len(x)) for start, x in zip(offsets, parts.values(), strict=False))
        inner = {"chunk_shape": chunks, "codecs": codecs, "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}]}
        parts, chunks = {(0,) * values.ndim: b"".join(parts.values()) + index + checksum(index)}, padded.shape
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    if version == "0.4":
        record = {
            "zarr_format": 2, "shape": values.shape, "chunks": chunks, "dtype": values.dtype.str,
            "compressor": {"id": codec} if codec else None, "filters": None, "fill_value": 0, "order": "C",
        }  # fmt: skip
    else:
        record = {
            "zarr_format": 3, "node_type": "array", "shape": values.shape, "data_type": values.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}, "codecs": codecs,
            "chunk_key_encoding": {"name": "default"}, "fill_value": 0,
        }  # fmt: skip
    write_json(folder / (".zarray" if version == "0.4" else "zarr.json"), record | changes)
    for number, content in parts.items():
        name = ".".join(map(str, number)) if version == "0.4" else "c/" + "/".join(map(str, number))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_store(folder, values, version="0.4", path="0", axes=AXES, **options):
    """Write an image (C, Z, Y, X) with names of channels and pixels of 0.5 by 0.25 µm; return the folder."""
    scale = [{"type": "scale", "scale": [1, 3, 0.5, 0.25]}]
    image = {"axes": axes, "datasets": [{"path": path, "coordinateTransformations": scale}, {"path": "1"}]}
    put(folder, version, multiscales=[image], omero={"channels": [{"label": name} for name in NAMES]})
    write_array(folder / "0", values, version, **options)
    return folder


def write_plate(folder, version="0.4", wells=("A/1", "A/2", "B/1"), fields=2, gain=1.0):
    """Write a plate of images of two channels; return the folder."""
    put(folder, version, plate={"wells": [{"path": well} for well in wells]})
    for i, well in enumerate(wells):
        put(folder / well, version, well={"images": [{"path": str(f)} for f in range(fields)]})
        for f in range(fields):
            rng = np.random.default_rng(10 * i + f)
            values = rng.poisson(100, (2, 1, 24, 24)) + 900 * (rng.random((2, 1, 24, 24)) > 0.8) * gain
            write_store(folder / well / str(f), values.astype("uint16"), version)
    return folder


def volume(planes=3):
    return np.random.default_rng(0).integers(0, 900, (2, planes, 20, 37)).astype("uint16")


def store(folder, letters, version, shapes, dtype, chunks, seed=0, shards=None, **options):
    """Write an image with zarr, of levels of these shapes; return its folder."""
    names = [str(i) for i in range(len(shapes))]
    axes = [{"name": x, "type": KINDS.get(x, "space")} | ({"unit": UNITS[x]} if x in UNITS else {}) for x in letters]
    first = dict(zip(letters, shapes[0], strict=True))
    datasets = [
        {
            "path": name,
            "coordinateTransformations": [
                {"type": "scale", "scale": [0.5 * n / m for n, m in zip(shapes[0], shape, strict=True)]}
            ],
        }
        for name, shape in zip(names, shapes, strict=True)
    ]
    image = {"name": "x", "axes": axes, "datasets": datasets, "type": "gaussian", "metadata": {"method": "ours"}}
    window = {"min": 0, "max": 900, "start": 10, "end": 500}
    channels = [
        {"label": f"c{i}", "color": "00FF00", "window": window, "active": True} for i in range(first.get("c", 1))
    ]
    put(
        folder,
        version,
        multiscales=[image | ({"version": version} if version == "0.4" else {})],
        omero={"channels": channels},
    )
    if version == "0.4":
        write_json(folder / ".zgroup", {"zarr_format": 2})
    rng = np.random.default_rng(seed)
    for name, shape in zip(names, shapes, strict=True):
        values = rng.integers(0, 120, shape).astype(dtype)
        values[..., :3] = 0
        form = {"zarr_format": 2 if version == "0.4" else 3, "fill_value": 0, "attributes": {"of": name}}
        size = [min(n, m) for n, m in zip(chunks, shape, strict=True)]
        more = {} if shards is None else {"shards": [n * k for n, k in zip(size, shards, strict=True)]}
        more |= {} if version == "0.4" else {"dimension_names": list(letters)}
        array = zarr.create_array(folder / name, shape=shape, dtype=dtype, chunks=size, **form, **more, **options)
        array[...] = values
    return folder


def documents(folder):
    """Every JSON file below a folder, by its path."""
    names = (".zgroup", ".zattrs", ".zarray", "zarr.json")
    files = [path for path in folder.rglob("*") if path.name in names]
    return {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in files}


def levels(folder):
    return [np.asarray(zarr.open_array(path, mode="r")) for path in sorted(folder.glob("[0-9]"))]
