# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations: the histogram, the reach it chooses, and what it refuses."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from sfseg_ros.backends.tensorrt.calibration import BINS, Histogram, calibrate
from sfseg_ros.backends.tensorrt.precision import plain_model, tensors_to_calibrate
from sfseg_ros.errors import BackendError


def images_of(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, 256, (count, 64, 96, 3), np.uint8))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(1e-6, 1e6))
def test_no_value_is_lost_however_the_histogram_grows(seed, parts, scale):
    rng = np.random.default_rng(seed)
    values = [
        (scale * 10.0**power * rng.normal(size=100)).astype(np.float32)
        for power in rng.permutation(parts)
    ]
    histogram = Histogram()
    for part in values:
        histogram.add(part)
    everything = np.abs(np.concatenate(values))
    assert histogram.counts.sum() == everything.size
    assert histogram.largest == everything.max()
    assert histogram.largest <= histogram.width < 2.0 * max(histogram.largest, histogram.width / 2)
    # Every count is within a bin of where it belongs.
    edges = np.cumsum(histogram.counts)
    width = histogram.width / BINS
    for bin_index in (BINS // 100, BINS // 10, BINS // 2):
        reach = (bin_index + 1) * width
        low, high = (everything < reach - width).sum(), (everything < reach + width).sum()
        assert low <= edges[bin_index] <= high


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=20000),
        np.abs(np.random.default_rng(0).normal(size=20000)),
        np.random.default_rng(0).uniform(-3, 3, 20000),
        np.random.default_rng(0).laplace(size=20000),
        np.append(np.random.default_rng(0).normal(size=20000), [400.0]),
    ],
    ids=["normal", "half normal", "uniform", "laplace", "one outlier"],
)
def test_the_reach_for_int8_is_about_the_best_there_is(values):
    """Against the measured squared error of really quantising, over a fine grid."""
    histogram = Histogram()
    histogram.add(values.astype(np.float32))

    def error(reach: float) -> float:
        step = reach / 127
        quantised = np.clip(np.rint(values / step), -127, 127) * step
        return float(((values - quantised) ** 2).mean())

    best = min(error(share * np.abs(values).max()) for share in np.linspace(0.005, 1, 400))
    assert error(histogram.int8_reach()) <= 1.1 * best


def test_of_a_tensor_that_is_always_zero_the_reach_is_zero():
    histogram = Histogram()
    histogram.add(np.zeros(10, np.float32))
    assert histogram.int8_reach() == 0.0
    histogram.add(np.array([2.0], np.float32))
    assert histogram.largest == 2.0
    assert histogram.counts.sum() == 11


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_the_tensor(value):
    with pytest.raises(BackendError, match="t7 is not finite"):
        Histogram().add(np.array([1.0, value], np.float32), "t7")


def test_ranges_are_of_the_tensors_that_are_quantised_and_repeatable(make_random_model):
    model = onnx.load(make_random_model(0).onnx_path)
    said = []
    first = calibrate(model, "int8", images_of(3), said.append)
    assert sorted(first.ranges) == sorted(tensors_to_calibrate(plain_model(model), "int8"))
    assert all(value > 0 for value in first.ranges.values())
    assert first.pictures == 3
    assert said == [f"calibrating: picture {i}" for i in (1, 2, 3)]
    assert calibrate(model, "int8", images_of(3)) == first


def test_the_digest_names_pictures_and_precision(make_random_model):
    model = onnx.load(make_random_model(4).onnx_path)
    digests = {
        calibrate(model, "int8", images_of(2)).digest,
        calibrate(model, "int8", images_of(3)).digest,
        calibrate(model, "int8", images_of(2)[::-1]).digest,
        calibrate(model, "fp8", images_of(2)).digest,
    }
    assert len(digests) == 4


def test_without_pictures_there_is_no_calibration(make_random_model):
    model = onnx.load(make_random_model(0).onnx_path)
    with pytest.raises(BackendError, match="no pictures to calibrate with"):
        calibrate(model, "int8", [])


def test_a_damaged_weight_is_found(make_random_model):
    model = onnx.load(make_random_model(0).onnx_path)
    plain = plain_model(model)
    first = next(node for node in plain.graph.node if node.op_type == "Conv").input[1]
    for weight in plain.graph.initializer:
        if weight.name == first:
            broken = np.full(tuple(weight.dims), np.nan, np.float32)
            weight.CopyFrom(numpy_helper.from_array(broken, first))
    with pytest.raises(BackendError, match="is not finite on a picture"):
        calibrate(plain, "int8", images_of(1))
