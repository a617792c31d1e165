"""OME-Zarr out: images and plates that are written like their originals, whole or not at all."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import zarr
from hypothesis import HealthCheck, given, settings, strategies as st
from stores import put, write_json
from zarr import codecs as v3

from img2img.data.images import read_header, read_image, write_image
from img2img.data.picture import DTYPES

OLD, NEW = "0.4", "0.5"
LENGTHS = {"t": 2, "c": 3, "z": 2}
UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
KINDS = {"t": "time", "c": "channel"}


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
        multiscales=[image | ({"version": version} if version == OLD else {})],
        omero={"channels": channels},
    )
    if version == OLD:
        write_json(folder / ".zgroup", {"zarr_format": 2})
    rng = np.random.default_rng(seed)
    for name, shape in zip(names, shapes, strict=True):
        values = rng.integers(0, 120, shape).astype(dtype)
        values[..., :3] = 0
        form = {"zarr_format": 2 if version == OLD else 3, "fill_value": 0, "attributes": {"of": name}}
        size = [min(n, m) for n, m in zip(chunks, shape, strict=True)]
        more = {} if shards is None else {"shards": [n * k for n, k in zip(size, shards, strict=True)]}
        more |= {} if version == OLD else {"dimension_names": list(letters)}
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


def again(source, target, change=lambda x: x):
    picture = read_image(source)
    write_image(target, replace(picture, array=change(picture.array)))
    return target


PACKING = {
    OLD: [
        {"compressors": None},
        {"order": "F"},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}},
    ],
    NEW: [
        {"compressors": None},
        {"compressors": v3.BloscCodec(cname="lz4", clevel=3, shuffle="bitshuffle", typesize=2)},
        {"compressors": [v3.ZstdCodec(level=7, checksum=True), v3.Crc32cCodec()]},
        {"serializer": v3.BytesCodec(endian="big"), "compressors": v3.GzipCodec(level=2)},
        {"shards": True, "compressors": v3.ZstdCodec(level=1)},
    ],
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trips(tmp_path, data):
    """Whatever was read is written with the same values, metadata, chunks and compression, and its levels anew."""
    version = data.draw(st.sampled_from([OLD, NEW]))
    letters = "".join(x for x in "tcz" if data.draw(st.booleans())) + "yx"
    dtype = data.draw(st.sampled_from(DTYPES))
    sides = [data.draw(st.integers(9, 40)) for _ in "yx"]
    lead = [LENGTHS[x] for x in letters[:-2]]
    shapes = [(*lead, *sides)]
    for _ in range(data.draw(st.integers(0, 2))):
        factor, up = data.draw(st.sampled_from([1.7, 2, 3])), data.draw(st.integers(0, 1))
        shapes.append((*lead, *(max(1, int((n + up) // factor)) for n in shapes[-1][-2:])))
    chunks = [data.draw(st.integers(1, 3)) for _ in lead] + [data.draw(st.integers(5, 50)) for _ in "yx"]
    options = dict(data.draw(st.sampled_from(PACKING[version])))
    if options.pop("shards", False):
        options["shards"] = [data.draw(st.integers(1, 2)) for _ in letters]
    if version == OLD and data.draw(st.booleans()) and np.dtype(dtype).itemsize > 1:
        dtype = np.dtype(dtype).newbyteorder(">")
    shutil.rmtree(tmp_path / "x.zarr", ignore_errors=True)
    shutil.rmtree(tmp_path / "y.zarr", ignore_errors=True)
    source = store(tmp_path / "x.zarr", letters, version, shapes, dtype, chunks, **options)
    target = again(source, tmp_path / "y.zarr")
    assert documents(target) == documents(source)
    before, after = levels(source), levels(target)
    np.testing.assert_array_equal(after[0], before[0])
    for large, small in pairwise(after):
        np.testing.assert_array_equal(small, shrunk(large, small.shape))
    one, two = read_image(source), read_image(target)
    assert one.source.stated == two.source.stated and one.array.dtype == two.array.dtype
    np.testing.assert_array_equal(one.array, two.array)
    assert read_header(target).stated == read_header(source).stated


def shrunk(values, shape):
    """Means over blocks, pixel by pixel."""
    edges = []
    for n, m in zip(values.shape[-2:], shape[-2:], strict=True):
        factor = max(1, round(n / m))
        exact = m in (n // factor, -(-n // factor))
        cut = m * factor if m == n // factor else n
        edges.append([min(i * factor, cut) if exact else i * n // m for i in range(m)] + [cut if exact else n])
    out = np.empty(shape, np.float64)
    for i in range(shape[-2]):
        for j in range(shape[-1]):
            block = values[..., edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]].astype(np.float64)
            out[..., i, j] = block.mean((-2, -1))
    return (np.rint(out) if values.dtype.kind in "iu" else out).astype(values.dtype)
