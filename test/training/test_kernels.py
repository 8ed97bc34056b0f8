# SPDX-License-Identifier: Apache-2.0
"""Compares the kernels' device code, compiled for the CPU, with the operators of training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfseg_ros.kernels import host_emulation
from training import operators

pytestmark = pytest.mark.usefixtures("cxx_compiler")
SIZES = st.integers(1, 24)
LAYOUTS = st.sampled_from(["linear", "hwc"])
DTYPES = st.sampled_from(["float32", "float16"])
SEEDS = st.integers(0, 2**32 - 1)
# Of values about 1: rounding of the weighted sum, and for float16 of the result.
TOLERANCE = {"float32": 2e-6, "float16": 2e-3}


@settings(max_examples=200, deadline=None)
@given(
    *(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES), st.sampled_from([1, 3, 8, 19])),
    *(DTYPES, LAYOUTS, st.booleans(), st.booleans(), SEEDS),
)
def test_warp_and_fusion_are_torchs(
    source, target, channels, dtype, layout, align_corners, has_nan, seed
):
    """Includes NaN and infinite features: the same pixels are not finite."""
    rng = np.random.default_rng(seed)
    high = rng.standard_normal((2, channels, *source)).astype(dtype)
    low = rng.standard_normal((2, channels, *target)).astype(dtype)
    if has_nan:
        high[rng.random(high.shape) < 0.1] = rng.choice([np.nan, np.inf])
    flow = (rng.choice([0.1, 3, 30]) * rng.standard_normal((2, 4, *target))).astype(np.float32)
    gate = rng.random((2, 1, *target)).astype(np.float32)
    tensors = [torch.from_numpy(array) for array in (high, low, flow, gate)]

    warped = host_emulation.flow_warp(high, flow[:, :2], align_corners, layout=layout)
    expected = operators.flow_warp(tensors[0], tensors[2][:, :2], align_corners)
    np.testing.assert_allclose(warped, expected.numpy(), atol=TOLERANCE[dtype], rtol=1e-3)

    if not has_nan:  # lerp's infinities differ
        fused = host_emulation.gated_flow_fusion(
            high, low, flow, gate, align_corners, layout=layout
        )
        expected = operators.gated_flow_fusion(*tensors, align_corners)
        np.testing.assert_allclose(fused, expected.numpy(), atol=2 * TOLERANCE[dtype], rtol=2e-3)


@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_warp_at_the_size_of_a_network(layout, align_corners):
    """Positions in a wide map are as exact as those of grid_sample."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 8, 32, 64)).astype(np.float32)
    flow = (20 * rng.standard_normal((1, 2, 256, 512))).astype(np.float32)
    expected = operators.flow_warp(
        torch.from_numpy(features), torch.from_numpy(flow), align_corners
    )
    warped = host_emulation.flow_warp(features, flow, align_corners, layout=layout)
    np.testing.assert_allclose(warped, expected.numpy(), atol=TOLERANCE["float32"])


@settings(max_examples=200, deadline=None)
@given(
    *(st.tuples(SIZES, SIZES), st.sampled_from([1, 2, 5, 19]), st.sampled_from([1, 2, 4, 8])),
    *(DTYPES, LAYOUTS, st.booleans(), SEEDS),
)
def test_labels_and_confidence_are_torchs(size, classes, stride, dtype, layout, is_smooth, seed):
    rng = np.random.default_rng(seed)
    scores = 3 * rng.standard_normal((2, classes, *size))
    if is_smooth:
        scores = scores[:, :, :1, :1] + 0.1 * scores
    scores = scores.astype(dtype)
    tensor = torch.from_numpy(scores).float()
    expected, expected_confidence = operators.upsample_argmax(tensor, stride)
    labels, confidence = host_emulation.upsample_argmax(scores, stride, layout=layout)
    alone, _ = host_emulation.upsample_argmax(scores, stride, layout=layout, confidence=False)
    np.testing.assert_array_equal(alone, labels)
    assert confidence is not None
    assert np.abs(confidence.astype(int) - expected_confidence.numpy().astype(int)).max() <= 1
    # Labels may differ only where the two best scores are equal except for rounding.
    full = operators.resize(tensor, (size[0] * stride, size[1] * stride))
    ours = full.gather(1, torch.from_numpy(labels.astype(np.int64))[:, None])[:, 0]
    theirs = full.gather(1, expected.long()[:, None])[:, 0]
    assert (theirs - ours).abs().max() < 1e-5
    assert (labels != expected.numpy()).mean() < 1e-3 or labels.size < 2000
