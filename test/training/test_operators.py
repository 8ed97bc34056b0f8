# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.operators import (
    _pooling_matrix,
    flow_warp,
    gated_flow_fusion,
    upsample_argmax,
)


def slow_warp(
    features: NDArray[np.float64], flow: NDArray[np.float64], align_corners: bool
) -> NDArray[np.float64]:
    """The definition, pixel by pixel: (C, h, w) features, (2, H, W) flow -> (C, H, W)."""
    channels, h, w = features.shape
    _, height, width = flow.shape
    out = np.zeros((channels, height, width))
    for v in range(height):
        for u in range(width):
            x = -1 + 2 * u / max(width - 1, 1) + flow[0, v, u] / width
            y = -1 + 2 * v / max(height - 1, 1) + flow[1, v, u] / height
            px = (x + 1) / 2 * (w - 1) if align_corners else ((x + 1) * w - 1) / 2
            py = (y + 1) / 2 * (h - 1) if align_corners else ((y + 1) * h - 1) / 2
            for j in (math.floor(py), math.floor(py) + 1):
                for i in (math.floor(px), math.floor(px) + 1):
                    if 0 <= i < w and 0 <= j < h:
                        out[:, v, u] += features[:, j, i] * (1 - abs(px - i)) * (1 - abs(py - j))
    return out


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("source", "target"), [((3, 4), (6, 8)), ((5, 7), (11, 13)), ((6, 5), (6, 5)), ((4, 4), (1, 1))]
)
def test_warp_is_its_definition(
    align_corners: bool, source: tuple[int, int], target: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, *source))
    flow = 4 * rng.standard_normal((2, *target))  # far enough to leave the map here and there
    warped = flow_warp(
        torch.from_numpy(features)[None].float(),
        torch.from_numpy(flow)[None].float(),
        align_corners,
    )
    expected = slow_warp(features, flow, align_corners)
    np.testing.assert_allclose(warped[0].numpy(), expected, atol=1e-4)


def test_flow_of_zero_is_a_corner_aligned_resize() -> None:
    features = torch.randn(2, 3, 4, 5)
    warped = flow_warp(features, torch.zeros(2, 2, 8, 10))
    expected = F.interpolate(features, size=(8, 10), mode="bilinear", align_corners=True)
    torch.testing.assert_close(warped, expected, atol=1e-5, rtol=0)


def test_first_flow_channel_moves_along_x() -> None:
    ramp = torch.arange(9.0).expand(1, 1, 5, 9)
    flow = torch.zeros(1, 2, 5, 9)
    flow[:, 0] = 2 * 9 / 8  # one source pixel: a unit is (w-1)/(2W) of them
    warped = flow_warp(ramp, flow)
    torch.testing.assert_close(warped[0, 0, 2, :8], torch.arange(1.0, 9.0), atol=1e-4, rtol=0)


def test_fusion_is_gate_times_high_plus_rest_times_low() -> None:
    high, low = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 12, 16)
    flow, gate = torch.randn(2, 4, 12, 16), torch.rand(2, 1, 12, 16)
    expected = gate * flow_warp(high, flow[:, :2]) + (1 - gate) * flow_warp(low, flow[:, 2:])
    torch.testing.assert_close(gated_flow_fusion(high, low, flow, gate), expected)


def test_labels_take_the_first_of_equal_scores_and_confidence_is_the_softmax() -> None:
    scores = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    labels, confidence = upsample_argmax(scores, stride=4)
    assert labels.shape == confidence.shape == (1, 8, 12)
    assert labels.dtype == confidence.dtype == torch.uint8
    assert (labels == 1).all()
    assert (confidence == round(255 * math.e / (2 * math.e + 1))).all()


@pytest.mark.parametrize("size", [1, 2, 5, 6, 11, 32, 64])
def test_pooling_matrix_is_adaptive_average_pooling(size: int) -> None:
    bins = (1, 2, 3, 6)
    x = torch.randn(1, 4, size)
    expected = torch.cat([F.adaptive_avg_pool1d(x, b) for b in bins], dim=2)
    torch.testing.assert_close(x @ _pooling_matrix(size, bins).T, expected)
