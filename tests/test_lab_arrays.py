"""Arrays in the caller's order: what goes in comes back, and what does not fit is refused by name."""

import itertools

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import refused
from helpers import over
from hypothesis import given, settings, strategies as st

from img2img.errors import DataError, InputError, InputTypeError
from img2img.lab import checks
from img2img.lab.arrays import unpack
from img2img.lab.checks import (
    check_batch,
    check_channels,
    check_dtype,
    check_finite,
    check_mask,
    is_flat,
    saturated,
)

ORDERS = ["".join(p) for letters in ("NCYX", "NYX") for p in itertools.permutations(letters)]


def pixels(*shape, dtype="uint16", seed=0):
    values = np.random.default_rng(seed).integers(0, 200, shape)
    return values.astype(dtype)


def in_order(canonical, axes):
    """(N, C, Y, X) as an array with the axes `axes`."""
    array = canonical if "C" in axes else canonical[:, 0]
    return array.transpose([("NCYX" if "C" in axes else "NYX").index(a) for a in axes])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_unpack_and_pack_are_inverses(data):
    axes = data.draw(st.sampled_from(ORDERS))
    dtype = data.draw(st.sampled_from(checks.DTYPES))
    n, c = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)) if "C" in axes else 1
    canonical = pixels(n, c, *data.draw(st.tuples(st.integers(3, 7), st.integers(3, 7))), dtype=dtype)
    kind = data.draw(st.sampled_from(["numpy", "torch", "dask", "xarray"]))
    X = in_order(canonical, axes)
    given_axes = axes
    if kind == "torch":
        X = torch.from_numpy(np.ascontiguousarray(X))
    elif kind == "dask":
        X = da.from_array(X, chunks=2)
    elif kind == "xarray":
        X, given_axes = xr.DataArray(X, dims=list(axes.lower()), attrs={"unit": "DN"}), "NYX"
    stack = unpack(X, given_axes)
    assert (len(stack), stack.channels, stack.dtype) == (n, c, np.dtype(dtype))
    assert all(np.array_equal(stack[i], canonical[i]) for i in range(n))
    assert np.array_equal(np.stack(list(stack)), canonical)
    out = stack.pack([(image + 1).astype("float32") for image in stack])
    if kind != "dask":
        assert type(out) is type(X)
    assert np.array_equal(np.asarray(out), np.asarray(X).astype("float32") + 1)
    assert str(out.dtype).removeprefix("torch.") == "float32"
    mapped = stack.map(lambda i, image: image + i, dtype)
    assert type(mapped) is type(X)
    expected = in_order(canonical + np.arange(n)[:, None, None, None].astype(dtype), axes)
    assert np.array_equal(np.asarray(mapped), expected) and np.asarray(mapped).dtype == dtype


def test_images_are_views():
    X = pixels(3, 8, 8, 2)
    stack = unpack(X, "NYXC")
    assert np.shares_memory(stack[1], X)
    assert stack[-1].shape == (2, 8, 8) and len(stack[:2]) == 2
    with pytest.raises(IndexError):
        stack[3]


def test_big_endian_comes_in_the_machines_order():
    stack = unpack(pixels(2, 1, 4, 4).astype(">u2"))
    assert stack[0].dtype.isnative and stack.dtype.isnative and stack.dtype == np.uint16


@over(kind=[list, tuple])
def test_a_list_of_unequal_sizes(kind):
    X = kind([pixels(5, 6, 2), pixels(9, 4, 2, seed=1)])
    stack = unpack(X, "NYXC")
    assert [image.shape for image in stack] == [(2, 5, 6), (2, 9, 4)]
    out = stack.pack(list(stack))
    assert type(out) is kind and all(np.array_equal(a, b) for a, b in zip(out, X, strict=True))
    assert unpack([pixels(5, 6), pixels(4, 9)], "NYX").channels == 1


def test_a_list_of_tensors_and_of_xarrays():
    tensors = unpack([torch.zeros(2, 5, 6), torch.zeros(2, 7, 6)])
    assert all(isinstance(x, torch.Tensor) for x in tensors.pack(list(tensors)))
    labelled = [xr.DataArray(pixels(6, 5, 2), dims=["Y", "X", "C"], coords={"C": ["DNA", "ER"]})] * 2
    stack = unpack(labelled)
    assert stack.names == ["DNA", "ER"] and stack.pack(list(stack))[1].identical(labelled[1])


def test_a_tensor_that_needs_gradients():
    X = torch.zeros(2, 1, 4, 4, requires_grad=True)
    stack = unpack(X)
    assert isinstance(stack.pack(list(stack)), torch.Tensor)


def test_dask_stays_lazy_and_reads_each_image_once():
    reads = []

    def load(block_id=None):
        reads.append(block_id[0])
        return pixels(1, 2, 6, 6, seed=block_id[0])

    X = da.map_blocks(load, chunks=((1,) * 4, 2, 6, 6), dtype="uint16", meta=np.empty((0,) * 4, "uint16"))
    stack = unpack(X)
    seen = []
    out = stack.map(lambda i, image: seen.append((i, image.shape)) or image.astype("float32"), "float32")
    assert stack.lazy and isinstance(out, da.Array) and out.dtype == np.float32 and out.shape == X.shape
    assert reads == [] == seen
    assert np.array_equal(out[2].compute(), pixels(2, 6, 6, seed=2)) and (reads, seen) == ([2], [(2, (2, 6, 6))])
    assert stack[3].sum() and reads == [2, 3]
    reads.clear()
    assert len(list(stack)) == 4 and reads == [0, 1, 2, 3]


def test_a_chunk_of_several_images_is_computed_once():
    reads = []
    X = da.from_array(pixels(6, 1, 4, 4), chunks=(3, 1, 2, 4))
    X = X.map_blocks(lambda block: reads.append(1) or block, meta=np.empty((0,) * 4, "uint16"))
    images = list(unpack(X))
    assert len(images) == 6 and len(reads) == 4
    assert np.array_equal(np.stack(images), pixels(6, 1, 4, 4))


def test_a_list_of_dask_arrays_and_a_lazy_xarray():
    listed = unpack([da.ones((5, 6)), da.ones((7, 6))], "NYX")
    out = listed.map(lambda i, image: image * i, "float64")
    assert isinstance(out, list) and isinstance(out[1], da.Array) and out[1].compute().sum() == 42
    X = xr.DataArray(da.ones((2, 3, 8, 8)), dims=list("NCYX"), coords={"C": ["a", "b", "c"], "N": [7, 9]})
    mapped = unpack(X).map(lambda i, image: image + i, "float64")
    assert isinstance(mapped.data, da.Array) and list(mapped.N.values) == [7, 9] and mapped[1].max() == 2


class OnDisk:
    """An array that is read by indexing, as those of zarr and h5py are, but never as a whole."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.reads = values, values.shape, values.dtype, []

    def __getitem__(self, index):
        values = self.values[index]
        assert values.ndim < self.values.ndim or self.values.ndim < 4, "it was read as a whole"
        self.reads.append(index)
        return values


@over(axes=["NCYX", "YNXC", "NYX", "XYN"])
def test_arrays_on_disk_are_read_one_image_at_a_time(axes):
    lengths = {"N": 4, "C": 2, "Y": 6, "X": 5}
    values = pixels(*(lengths[letter] for letter in axes))
    disk = OnDisk(values)
    stack, expected = unpack(disk, axes), unpack(values, axes)
    assert not stack.lazy and disk.reads == [] and (len(stack), stack.channels) == (4, expected.channels)
    assert np.array_equal(stack[-1], expected[3]) and len(disk.reads) == 1
    images = list(stack)
    assert len(disk.reads) == 5 and all(map(np.array_equal, images, expected))
    assert np.array_equal(stack.map(lambda i, image: image, "uint16"), values)


def test_lists_of_arrays_on_disk():
    arrays = [OnDisk(pixels(2, 6 + i, 5)) for i in range(3)]
    stack = unpack(arrays)
    assert not any(array.reads for array in arrays) and np.array_equal(stack[1], arrays[1].values)
    assert [len(array.reads) for array in arrays] == [0, 1, 0]
    assert isinstance(stack.pack(list(stack))[2], np.ndarray)
    assert "holds int32 values" in refused(InputTypeError, unpack, OnDisk(pixels(2, 1, 4, 4, dtype="int32")))
    assert "has 3 axes" in refused(InputError, unpack, OnDisk(pixels(2, 4, 4)))


def test_xarray_keeps_its_coordinates():
    X = xr.DataArray(
        pixels(2, 8, 9, 3), dims=["n", "y", "x", "c"], coords={"c": ["DNA", "ER", "RNA"], "x": np.arange(9.0)}, name="I"
    )
    stack = unpack(X)
    assert stack.names == ["DNA", "ER", "RNA"] and stack.pack(list(stack)).identical(X)
    assert "channels= is DNA, RNA, ER" in refused(InputError, unpack, X, channels=["DNA", "RNA", "ER"])
    assert unpack(X.assign_coords(c=[0, 1, 2])).names is None


@over(
    "X axes says",
    [
        (pixels(9, 8, 8), "NCYX", "has 3 axes, of lengths (9, 8, 8), but axes= names 4 for it"),
        (pixels(2, 1, 8, 8), "NYX", "use axes='NCYX'"),
        (pixels(8, 8), "NCYX", "for a single image give X[None] with axes='NYX'"),
        (pixels(1, 1, 1, 2, 2), "NCYX", "name each axis once"),
        (pixels(3, 32, 40, 2), "NCYX", "declares 32 channels, more than rows or columns;"),
        (pixels(3, 32, 40, 2), "NCYX", "if they are rows or columns, use axes='NYXC'"),
        (pixels(3, 2, 40, 32), "NYXC", "use axes='NCYX'"),
        (pixels(2, 9, 9, 3), "NCYX", "use axes='NYXC'"),
        (pixels(3, 70, 80, 90), "NCYX", "declares 70 channels, more than 64"),
        ([pixels(32, 32, 3)], "NCYX", "X[0] has the shape (32, 32, 3)"),
        ([pixels(32, 32, 3)], "NCYX", "use axes='NYXC'"),
        ([pixels(32, 32)], "NCYX", "X[0] has 2 axes"),
        ([pixels(3, 32, 32)], "NYX", "use axes='NCYX'"),
        (pixels(0, 1, 4, 4), "NCYX", "X holds no image: its shape is (0, 1, 4, 4)"),
        ([], "NCYX", "X holds no image"),
        ([pixels(2, 8, 8), pixels(3, 8, 8)], "NCYX", "Image 1 of X has 3 channels, but image 0 has 2"),
        (pixels(2, 1, 4, 4), "NCXZ", "axes='NCXZ' is not valid"),
        (pixels(2, 1, 4, 4), "NCYXX", "is not valid"),
        (pixels(2, 1, 4, 4), "ncyx", "is not valid"),
        (pixels(2, 1, 4, 4), None, "axes=None is not valid"),
        (xr.DataArray(pixels(2, 4, 4), dims=["time", "y", "x"]), "NCYX", "e.g. X.rename(time='N')"),
        (da.from_array(pixels(4, 1, 4, 4))[da.ones(4) > 0], "NCYX", "X.compute_chunk_sizes()"),
    ],
)
def test_axes_that_do_not_fit(X, axes, says):
    assert says in refused(InputError, unpack, X, axes)


@over(
    "X says",
    [
        (
            pixels(2, 1, 4, 4, dtype="int32"),
            "int32 values, but the supported types are uint8, uint16, float32, float64",
        ),
        (pixels(2, 1, 4, 4, dtype="bool"), "holds bool values"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16), "holds bfloat16 values"),
        (np.array([None, 1], dtype=object), "give images of unequal sizes as a list"),
        (np.ma.masked_equal(pixels(2, 1, 4, 4), 0), "use X.filled(value)"),
        ("plate1/", "X is a str; give an array"),
        (None, "X is a NoneType"),
        (pd.DataFrame({"a": [1]}), "X is a DataFrame"),
        (pd.Series([1]), "X is a Series"),
        (np.uint16(3), "X is a uint16"),
        ([[[1, 2], [3, 4]]], "X[0] is a list"),
        (
            [pixels(1, 4, 4), pixels(1, 4, 4, dtype="uint8")],
            "Image 1 of X holds uint8 values, but image 0 holds uint16",
        ),
    ],
)
def test_types_that_are_not_taken(X, says):
    assert says in refused(InputTypeError, unpack, X)
    with pytest.raises(TypeError):
        unpack(X)
    with pytest.raises(DataError):
        unpack(X)


def test_names_of_channels():
    X = pixels(2, 2, 4, 4)
    assert unpack(X, channels=["DNA", "ER"]).names == ["DNA", "ER"]
    assert unpack(X[:, :1], channels="DNA").names == ["DNA"]
    assert "X has 2 channels, but 1 are named (DNA)" in refused(InputError, unpack, X, channels=["DNA"])
    assert "Two channels of X are called DNA" in refused(InputError, unpack, X, channels=["DNA", "DNA"])


def test_channels_that_were_not_fitted():
    stack = unpack(pixels(2, 2, 4, 4), channels=["DNA", "ER"], what="X_test")
    check_channels(stack, 2)
    check_channels(stack, 2, ["DNA", "ER"])
    check_channels(unpack(pixels(2, 2, 4, 4)), 2, ["DNA", "ER"])
    says = refused(ValueError, check_channels, stack, 3, ["DNA", "ER", "RNA"])
    assert "X_test has 2 channels (DNA, ER), but the equalizer was fitted to 3 (DNA, ER, RNA)" in says
    assert "fitted to 1;" in refused(ValueError, check_channels, stack, 1)
    assert "put them in that order: [1, 0]" in refused(ValueError, check_channels, stack, 2, ["ER", "DNA"])
    assert "under the same names" in refused(ValueError, check_channels, stack, 2, ["DNA", "RNA"])


def test_types_that_were_not_fitted():
    unit = np.random.default_rng(0).random((2, 1, 4, 4))
    check_dtype(unpack(pixels(2, 1, 4, 4)), "uint16")
    check_dtype(unpack(unit), "float32")
    check_dtype(unpack(unit), "float32", 1.0)
    check_dtype(unpack(unit * 4000), "float32", 4095.0)
    check_dtype(unpack(unit * 0), "float32", 4095.0)
    says = refused(TypeError, check_dtype, unpack(unit), "uint16")
    assert says.startswith("X holds float64 values between 0 and 1, but the equalizer was fitted to uint16;")
    assert "X holds float64 values, but" in refused(TypeError, check_dtype, unpack(unit * 9), "uint16")
    assert "fitted to values up to 4095" in refused(TypeError, check_dtype, unpack(unit), "float32", 4095.0)
    assert "X holds uint8 values" in refused(
        TypeError, check_dtype, unpack(pixels(2, 1, 4, 4, dtype="uint8")), "uint16"
    )
    assert "X holds uint16 values" in refused(TypeError, check_dtype, unpack(pixels(2, 1, 4, 4)), "float32")


@over("value name", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_values_that_are_not_finite(value, name):
    X = np.zeros((3, 5, 6, 2), "float32")
    stack = unpack(X, "NYXC")
    check_finite(stack[2], stack.called(2))
    X[2, 4, 3, 1] = value
    says = refused(ValueError, check_finite, stack[2], stack.called(2), ["DNA", "ER"])
    assert says.startswith(f"Image 2 of X has {name} in channel ER, row 4, column 3 (1 such values")
    assert "a.tif has" in refused(ValueError, check_finite, stack[2], "a.tif")
    check_finite(pixels(1, 4, 4), "integers")


@over(
    batch=[
        ["1", "2"],
        (1, 2),
        np.array([1, 2]),
        [np.int64(1), 2.0],
        pd.Series([1, 2], index=[5, 3]),
        pd.Series(["1", "2"], dtype="category"),
        torch.tensor([1, 2]),
        [torch.tensor(1), torch.tensor(2)],
        xr.DataArray([1, 2]),
        np.array(["1", "2"]),
        (str(i) for i in (1, 2)),
    ]
)
def test_names_of_batches(batch):
    names = check_batch(batch, 2)
    assert names == ["1", "2"] and all(type(name) is str for name in names)


@over(
    "batch says",
    [
        (["a"], "batch has 1 entries, but there are 2 images"),
        (None, "batch is None; give a list with the name of a batch for each of the 2 images"),
        ("ab", "batch is 'ab'"),
        ({"a", "b"}, "give a list"),
        (3, "batch is 3"),
        (["a", None], "batch[1] is missing (None)"),
        ([np.nan, 1.0], "batch[0] is missing (nan)"),
        (pd.Series(["a", pd.NA]), "batch[1] is missing"),
        (pd.Series([pd.Timestamp(0), pd.NaT]), "batch[1] is missing (NaT)"),
        (["a", ""], "batch[1] is missing ('')"),
        (np.array([["a"], ["b"]]), "batch has more than one axis"),
        ([(1, 2), (3,)], "batch has more than one axis"),
    ],
)
def test_batches_that_do_not_fit(batch, says):
    assert says in refused(ValueError, check_batch, batch, 2)


def test_groups():
    assert check_batch(["A1", 2], 2, "group") == ["A1", "2"]
    assert "group has 1 entries" in refused(ValueError, check_batch, ["A1"], 2, "group")


@over(mask=[[True, False], np.array([1, 0]), pd.Series([True, False]), torch.tensor([True, False]), [1.0, np.False_]])
def test_masks(mask):
    out = check_mask(mask, 2)
    assert out.dtype == bool and out.tolist() == [True, False]


@over(
    "mask says",
    [
        ([True], "control has 1 entries"),
        (["DMSO", "drug"], "control[0] is 'DMSO'; give True or False"),
        ([True, 2], "control[1] is 2"),
        ([0, np.nan], "control[1] is nan"),
        ([True, None], "control[1] is None"),
        ([0, 1 + 1j], "control[1] is (1+1j)"),
        (True, "control is True; give a list"),
    ],
)
def test_masks_that_do_not_fit(mask, says):
    assert says in refused(ValueError, check_mask, mask, 2, "control")


def test_flat_images():
    image = np.stack([np.full((4, 4), 7), np.eye(4)]).astype("uint16")
    assert [is_flat(channel[None]) for channel in image] == [True, False]
    assert not is_flat(image) and is_flat(image[:1]) and is_flat(image[:, :0])
    assert is_flat(np.array([[[np.nan, 3, np.inf]]])) and is_flat(np.full((1, 2, 2), np.nan))


def test_saturation():
    image = np.zeros((3, 10, 10), "uint16")
    image[0, 0] = 65535
    image[1, 0, :5] = 4095
    image[2, 0] = 4094
    assert saturated(image).tolist() == [0.1, 0.05, 0.0]
    assert saturated(image.astype("float32")).tolist() == [0.1, 0.05, 0.0]
    image[1, 1, 0] = 5000  # more than 12 bits
    assert saturated(image).tolist() == [0.1, 0.0, 0.0]
    assert (
        saturated(np.full((1, 2, 2), 255, "uint8")).tolist() == [1.0] == saturated(np.full((1, 2, 2), 1023.0)).tolist()
    )
    assert saturated(np.zeros((2, 0, 3), "uint8")).tolist() == [0.0, 0.0]


def test_results_that_do_not_fit():
    assert "there are 1 results" in refused(InputError, unpack(pixels(2, 1, 4, 4)).pack, [np.zeros((1, 4, 4))])
    assert "a result has 2 channels" in refused(InputError, unpack(pixels(1, 4, 4), "NYX").pack, [np.zeros((2, 4, 4))])
