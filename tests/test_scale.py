"""Pixel values to [-1, 1] and back: nothing is lost."""

import json
from dataclasses import asdict

import numpy as np
import torch
from helpers import over
from hypothesis import example, given, settings, strategies as st

from img2img.data.scale import Scale


def column(values, dtype):
    return np.asarray(values, dtype).reshape(-1, 1, 1)


def test_every_8_bit_value_survives():
    array = column(np.arange(256), np.uint8)
    scale = Scale.of([array], "uint8")
    np.testing.assert_array_equal(scale.decode(scale.encode(array)), array, strict=True)


def test_every_16_bit_value_survives():
    array = column(np.arange(65536), np.uint16)
    scale = Scale.of([array], "uint16")
    assert (scale.low, scale.high) == (0, 65535)
    np.testing.assert_array_equal(scale.decode(scale.encode(array)), array, strict=True)


@settings(max_examples=60, deadline=None)
@given(ends=st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
def test_every_16_bit_value_survives_a_range_from_the_data(ends):
    low, high = sorted(ends)
    array = column(np.arange(low, high + 1), np.uint16)
    scale = Scale.of([array[:1], array[-1:]], "uint16")
    assert scale.low == low and scale.high == (high if high > low else low + 1)
    x = scale.encode(array)
    assert float(x.min()) >= -1 and float(x.max()) <= 1
    np.testing.assert_array_equal(scale.decode(x), array, strict=True)


@settings(max_examples=40, deadline=None)
@given(ends=st.tuples(st.integers(0, 65535), st.integers(0, 65535)), values=st.lists(st.integers(0, 65535), min_size=1))
def test_values_outside_the_training_range_survive_too(ends, values):
    """A new image may be brighter than any of the training set: it must not be cut on the way in."""
    low, high = sorted(ends)
    if high - low < 256:  # far outside a tiny range fp32 has too few digits
        high = low + 256
    scale = Scale(low, high, "uint16")
    array = column(values, np.uint16)
    np.testing.assert_array_equal(scale.decode(scale.encode(array)), array, strict=True)


def test_8_bit_has_a_fixed_range():
    assert Scale.of([column([100, 120], np.uint8)], "uint8") == Scale(0, 255, "uint8")


@over("dtype low high", [("uint8", 0, 255), ("uint16", 300, 4000), ("float32", -2.5, 7.5)])
def test_ends_of_the_range_are_minus_one_and_one(dtype, low, high):
    array = column([low, high, (low + high) // 2], dtype)
    scale = Scale.of([array], dtype)
    x = scale.encode(array)
    assert x.dtype == torch.float32 and x.shape == (1, 3, 1)
    assert x.flatten()[:2].tolist() == [-1.0, 1.0]
    assert abs(float(x.flatten()[2])) < 0.2


def test_order_of_axes():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    x = Scale(0, 255, "uint8").encode(array)
    assert x.shape == (4, 2, 3)
    np.testing.assert_allclose(x[3, 1, 2], array[1, 2, 3] / 127.5 - 1, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=20))
@example(values=[0.0, 4.830528040251223e-40])  # 2 divided by this range is more than fp32 holds
def test_floats_survive_to_fp32_precision(values):
    array = column(values, np.float32)
    scale = Scale.of([array], "float32")
    out = scale.decode(scale.encode(array))
    assert out.dtype == np.float32
    span = max(scale.high - scale.low, abs(scale.low), abs(scale.high))
    np.testing.assert_allclose(out, array, atol=4e-7 * span, rtol=0)


def test_range_is_taken_over_all_arrays():
    parts = [column([5, 9], np.uint16), column([2, 3], np.uint16), column([70, 8], np.uint16)]
    assert Scale.of(iter(parts), "uint16") == Scale(2, 70, "uint16")


def test_overshoot_is_cut_to_the_type_not_the_range():
    scale = Scale(1000, 2000, "uint16")
    out = scale.decode(torch.tensor([-9.0, -1.0, 0.0, 1.0, 1.5, 1e9]).reshape(1, -1, 1))
    assert out.flatten().tolist() == [0, 1000, 1500, 2000, 2250, 65535]
    assert Scale(0, 255, "uint8").decode(torch.tensor([-3.0, 3.0]).reshape(1, 2, 1)).flatten().tolist() == [0, 255]


def test_low_precision_output_is_decoded_in_fp32():
    x = torch.linspace(-1, 1, 9).reshape(1, 9, 1)
    scale = Scale(0, 255, "uint8")
    np.testing.assert_array_equal(scale.decode(x.bfloat16()), scale.decode(x.bfloat16().float()))


def test_json_and_back():
    scale = Scale(3, 4095, "uint16")
    assert Scale(**json.loads(json.dumps(asdict(scale)))) == scale
