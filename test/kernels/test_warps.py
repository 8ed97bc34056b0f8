# SPDX-License-Identifier: Apache-2.0
"""FlowWarp and GatedFlowFusion: any size, any displacement, and values that are not finite.

The numpy references agree with the definition in float64, and the kernels' device code, compiled
for the CPU, agrees with the references to the last bit. test/training/test_kernels.py compares with
PyTorch.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import host_emulation
from sfseg_ros.kernels.flow_warp import flow_warp, flow_warp_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion, gated_flow_fusion_launch

pytestmark = pytest.mark.usefixtures("cxx_compiler")

SIZES = st.integers(1, 19)
# No multiple of a vector, one vector, several, and more than the threads of a pixel take at once.
CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 33, 40])
LAYOUTS = st.sampled_from(["linear", "hwc"])
# (features, flow)
DTYPES = st.sampled_from([("float32", "float32"), ("float16", "float32"), ("float16", "float16")])
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, 65504.0)


@st.composite
def batches(draw):
    """(N, C, (h, w), (H, W))"""
    sizes = [draw(SIZES) for _ in range(4)]
    return draw(st.integers(1, 2)), draw(CHANNELS), tuple(sizes[:2]), tuple(sizes[2:])


def with_specials(rng, array, share):
    """Some elements replaced by SPECIAL."""
    chosen = rng.random(array.shape) < share
    with np.errstate(over="ignore"):
        array[chosen] = rng.choice(np.array(SPECIAL), array.shape).astype(array.dtype)[chosen]
    return array


def features_of(rng, shape, dtype, special_share=0.0):
    return with_specials(rng, rng.standard_normal(shape).astype(dtype), special_share)


def flow_of(rng, shape, dtype, reach, special_share=0.0):
    """Displacements of about `reach` times the size of the map; half of them whole numbers, which
    land on pixels and on the very border."""
    size = np.array([shape[3], shape[2]] * (shape[1] // 2)).reshape(1, -1, 1, 1)
    flow = rng.standard_normal(shape) * reach * 2 * size
    flow = np.where(rng.random(shape) < 0.5, np.rint(flow), flow)
    with np.errstate(over="ignore"):
        return with_specials(rng, flow.astype(dtype), special_share)


def slow_warp(features, flow, align_corners):
    """The definition, pixel by pixel, in float64."""
    n, channels, h, w = features.shape
    height, width = flow.shape[2:]
    out = np.zeros((n, channels, height, width))
    for b, v, u in np.ndindex(n, height, width):
        x = -1 + 2 * u / max(width - 1, 1) + float(flow[b, 0, v, u]) / width
        y = -1 + 2 * v / max(height - 1, 1) + float(flow[b, 1, v, u]) / height
        px = (x + 1) / 2 * (w - 1) if align_corners else ((x + 1) * w - 1) / 2
        py = (y + 1) / 2 * (h - 1) if align_corners else ((y + 1) * h - 1) / 2
        if not (math.isfinite(px) and math.isfinite(py)):
            continue
        for j in (math.floor(py), math.floor(py) + 1):
            for i in (math.floor(px), math.floor(px) + 1):
                if 0 <= i < w and 0 <= j < h:
                    out[b, :, v, u] += features[b, :, j, i] * (1 - abs(px - i)) * (1 - abs(py - j))
    return out


@settings(max_examples=60, deadline=None)
@given(batches(), st.booleans(), st.sampled_from([0.0, 0.05, 0.5, 3.0]), st.integers(0, 2**32 - 1))
def test_reference_of_the_warp_is_the_definition(batch, align_corners, reach, seed):
    n, channels, source, target = batch
    rng = np.random.default_rng(seed)
    features = features_of(rng, (n, channels, *source), np.float32)
    flow = flow_of(rng, (n, 2, *target), np.float32, reach, special_share=0.1)
    expected = slow_warp(features, flow, align_corners)
    np.testing.assert_allclose(flow_warp(features, flow, align_corners), expected, atol=3e-5)


@settings(max_examples=300, deadline=None)
@given(
    batches(),
    DTYPES,
    LAYOUTS,
    st.booleans(),
    st.sampled_from([0.0, 0.05, 0.5, 3.0]),
    st.sampled_from([0.0, 0.0, 0.1]),
    st.integers(0, 2**32 - 1),
)
def test_warp_is_the_reference_to_the_last_bit(
    batch, dtypes, layout, align_corners, reach, special_share, seed
):
    n, channels, source, target = batch
    rng = np.random.default_rng(seed)
    features = features_of(rng, (n, channels, *source), dtypes[0], special_share)
    flow = flow_of(rng, (n, 2, *target), dtypes[1], reach, special_share)
    warped = host_emulation.flow_warp(features, flow, align_corners, layout=layout)
    assert warped.dtype == features.dtype
    np.testing.assert_array_equal(warped, flow_warp(features, flow, align_corners))


@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(
    ("channels", "size"), [(8, (4, 8)), (5, (3, 7)), (16, (5, 5)), (1, (1, 1))]
)
def test_warp_writes_every_element_and_nothing_else_at_any_alignment(
    run_guarded, layout, dtype, offset, channels, size
):
    rng = np.random.default_rng(0)
    features = features_of(rng, (2, channels, 6, 5), dtype)
    flow = flow_of(rng, (2, 2, *size), "float32", 0.2)
    expected = flow_warp(features, flow)
    launch = flow_warp_launch(features.shape, flow.shape, True, dtype, layout)
    if layout == "hwc":
        features, expected = features.transpose(0, 2, 3, 1), expected.transpose(0, 2, 3, 1)
    (warped,) = run_guarded(launch, [features, flow], [(expected.shape, dtype)], offset)
    np.testing.assert_array_equal(warped, expected)


@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_warp_of_a_map_of_many_blocks(layout, dtype):
    rng = np.random.default_rng(1)
    features = features_of(rng, (1, 72, 17, 33), dtype)
    flow = flow_of(rng, (1, 2, 68, 132), "float32", 0.1)
    warped = host_emulation.flow_warp(features, flow, layout=layout)
    np.testing.assert_array_equal(warped, flow_warp(features, flow))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("align_corners", [True, False])
def test_flow_to_nowhere_gives_zero_even_where_features_are_nan(special, channel, align_corners):
    features = np.full((1, 8, 4, 4), np.nan, np.float32)
    flow = np.zeros((1, 2, 4, 4), np.float32)
    flow[:, channel] = special
    for layout in ("linear", "hwc"):
        warped = host_emulation.flow_warp(features, flow, align_corners, layout=layout)
        np.testing.assert_array_equal(warped, np.zeros_like(features))
    np.testing.assert_array_equal(flow_warp(features, flow, align_corners), warped)


def test_a_nan_pixel_spreads_to_every_sample_that_includes_it():
    features = np.zeros((1, 1, 1, 5), np.float32)
    features[..., 2] = np.nan
    # Corner-aligned: output i is source i exactly, whose right neighbour has weight 0.
    warped = host_emulation.flow_warp(features, np.zeros((1, 2, 1, 5), np.float32))
    np.testing.assert_array_equal(np.isnan(warped[0, 0, 0]), [False, True, True, False, False])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (((1, 4, 3, 3), (1, 4, 6, 6), True, "float32", "linear"), "expected (N, 2, H, W)"),
        (((2, 4, 3, 3), (1, 2, 6, 6), True, "float32", "linear"), "flow has 1 images, expected 2"),
        (((1, 4, 3), (1, 2, 6, 6), True, "float32", "linear"), "features has shape (1, 4, 3)"),
        (((1, 4, 0, 3), (1, 2, 6, 6), True, "float32", "linear"), "without 0"),
        (((1, 4, 3, 3), (1, 2, 6, 6), True, "float64", "linear"), "no kernel for float64"),
        (((1, 4, 3, 3), (1, 2, 6, 6), True, "float16", "nchw"), "layout nchw"),
        (((1, 4, 3, 3), (1, 2, 6, 6), True, "float32", "hwc", "float16"), "flow is float16"),
        (((1, 2048, 1024, 1024), (1, 2, 6, 6), True, "float16", "hwc"), "elements per image"),
        (((1, 2048, 4, 4), (1, 2, 1024, 1024), True, "float16", "hwc"), "elements per image"),
        (((1, 1, 1, 2**22), (1, 2, 1, 1), True, "float16", "hwc"), "sides up to 2097152"),
        (((1, 1, 1, 1), (1, 2, 2**22, 1), True, "float16", "linear"), "sides up to 2097152"),
        (((65536, 1, 1, 1), (65536, 2, 1, 1), True, "float16", "hwc"), "in y and z"),
    ],
)
def test_warp_refuses_mismatched_arguments_in_one_line(arguments, says):
    with pytest.raises(BackendError) as error:
        flow_warp_launch(*arguments)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_of_the_warp_are_each_input_once_and_the_output_once():
    launch = flow_warp_launch((1, 128, 32, 64), (1, 2, 256, 512), True, "float16", "hwc")
    assert launch.bytes_moved == 2 * 128 * (32 * 64 + 256 * 512) + 4 * 2 * 256 * 512


def fusion_inputs(rng, batch, dtypes, reach, special_share=0.0):
    """high, low, flow and gate."""
    n, channels, source, target = batch
    gate = rng.random((n, 1, *target)).astype(dtypes[1])
    return (
        features_of(rng, (n, channels, *source), dtypes[0], special_share),
        features_of(rng, (n, channels, *target), dtypes[0], special_share),
        flow_of(rng, (n, 4, *target), dtypes[1], reach, special_share),
        with_specials(rng, gate, special_share),
    )


@settings(max_examples=40, deadline=None)
@given(batches(), st.booleans(), st.sampled_from([0.0, 0.05, 0.5]), st.integers(0, 2**32 - 1))
def test_reference_of_the_fusion_is_the_definition(batch, align_corners, reach, seed):
    high, low, flow, gate = fusion_inputs(
        np.random.default_rng(seed), batch, ("float32",) * 2, reach
    )
    expected = gate * slow_warp(high, flow[:, :2], align_corners)
    expected += (1 - gate) * slow_warp(low, flow[:, 2:], align_corners)
    fused = gated_flow_fusion(high, low, flow, gate, align_corners)
    np.testing.assert_allclose(fused, expected, atol=3e-5)


@settings(max_examples=300, deadline=None)
@given(
    batches(),
    DTYPES,
    LAYOUTS,
    st.booleans(),
    st.sampled_from([0.0, 0.05, 0.5, 3.0]),
    st.sampled_from([0.0, 0.0, 0.1]),
    st.integers(0, 2**32 - 1),
)
def test_fusion_is_the_reference_to_the_last_bit(
    batch, dtypes, layout, align_corners, reach, special_share, seed
):
    inputs = fusion_inputs(np.random.default_rng(seed), batch, dtypes, reach, special_share)
    fused = host_emulation.gated_flow_fusion(*inputs, align_corners, layout=layout)
    assert fused.dtype == inputs[0].dtype
    np.testing.assert_array_equal(fused, gated_flow_fusion(*inputs, align_corners))


@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(
    ("channels", "size"), [(8, (4, 8)), (5, (3, 7)), (16, (5, 5)), (1, (1, 1))]
)
def test_fusion_writes_every_element_and_nothing_else_at_any_alignment(
    run_guarded, layout, dtype, offset, channels, size
):
    batch = (2, channels, (3, 2), size)
    inputs = fusion_inputs(np.random.default_rng(0), batch, (dtype, "float32"), 0.2)
    expected = gated_flow_fusion(*inputs)
    high, low, flow, gate = inputs
    launch = gated_flow_fusion_launch(high.shape, low.shape, True, dtype, layout)
    if layout == "hwc":
        high, low, expected = (a.transpose(0, 2, 3, 1) for a in (high, low, expected))
    (fused,) = run_guarded(launch, [high, low, flow, gate], [(expected.shape, dtype)], offset)
    np.testing.assert_array_equal(fused, expected)


@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fusion_of_a_map_of_many_blocks(layout, dtype):
    batch = (1, 40, (9, 17), (72, 136))
    inputs = fusion_inputs(np.random.default_rng(1), batch, (dtype, "float32"), 0.1)
    fused = host_emulation.gated_flow_fusion(*inputs, layout=layout)
    np.testing.assert_array_equal(fused, gated_flow_fusion(*inputs))


@pytest.mark.parametrize("layout", ["linear", "hwc"])
def test_gate_of_one_takes_the_high_map_and_of_zero_the_low(layout):
    high, low, flow, gate = fusion_inputs(
        np.random.default_rng(2), (1, 8, (4, 4), (8, 8)), ("float32",) * 2, 0.1
    )
    warped_high = host_emulation.flow_warp(high, flow[:, :2], layout=layout)
    warped_low = host_emulation.flow_warp(low, flow[:, 2:], layout=layout)
    for gate_value, expected in ((1, warped_high), (0, warped_low)):
        gate[...] = gate_value
        fused = host_emulation.gated_flow_fusion(high, low, flow, gate, layout=layout)
        np.testing.assert_array_equal(fused, expected)


@pytest.mark.parametrize(
    ("high", "low", "says"),
    [
        ((1, 4, 3, 3), (1, 5, 6, 6), "low has shape (1, 5, 6, 6), expected (1, 4, H, W)"),
        ((2, 4, 3, 3), (1, 4, 6, 6), "expected (2, 4, H, W)"),
        ((1, 4, 3, 3), (1, 4, 6), "expected (N, C, H, W)"),
    ],
)
def test_fusion_refuses_mismatched_arguments_in_one_line(high, low, says):
    with pytest.raises(BackendError) as error:
        gated_flow_fusion_launch(high, low, True, "float16", "hwc")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gate_of_another_size_is_refused():
    high, low, flow, gate = fusion_inputs(
        np.random.default_rng(2), (1, 8, (4, 4), (8, 8)), ("float32",) * 2, 0.1
    )
    with pytest.raises(BackendError, match="gate is float32"):
        host_emulation.gated_flow_fusion(high, low, flow, gate[:, :, 1:])


def test_bytes_of_the_fusion_are_each_input_once_and_the_output_once():
    launch = gated_flow_fusion_launch((1, 128, 32, 64), (1, 128, 256, 512), True, "float16", "hwc")
    assert launch.bytes_moved == 2 * 128 * (32 * 64 + 2 * 256 * 512) + 4 * 5 * 256 * 512
