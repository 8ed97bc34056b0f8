# SPDX-License-Identifier: Apache-2.0
"""ColorMask and Overlay against the references and imaging.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfseg_ros import imaging
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import host_emulation, overlay

pytestmark = pytest.mark.usefixtures("cxx_compiler")

SHAPES = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40))
SEEDS = st.integers(0, 2**32 - 1)


def frame_of(seed, shape):
    """rgb, labels (every fifth unlabelled) and palette."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 256, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.2] = 255
    return (
        rng.integers(0, 256, (*shape, 3), np.uint8),
        labels,
        rng.integers(0, 256, (256, 3), np.uint8),
    )


@settings(max_examples=100, deadline=None)
@given(SHAPES, SEEDS)
def test_mask_is_the_references_and_imagings(shape, seed):
    _, labels, palette = frame_of(seed, shape)
    mask = host_emulation.color_mask(labels, palette)
    np.testing.assert_array_equal(mask, overlay.color_mask(labels, palette))
    np.testing.assert_array_equal(mask[0], imaging.color_mask(labels[0], palette))


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.floats(0, 1), SEEDS)
def test_overlay_is_the_reference_and_within_a_level_of_imagings(shape, alpha, seed):
    rgb, labels, palette = frame_of(seed, shape)
    painted = host_emulation.overlay(rgb, labels, palette, alpha)
    np.testing.assert_array_equal(painted, overlay.overlay(rgb, labels, palette, alpha))
    expected = imaging.overlay(rgb[0], labels[0], palette, alpha)
    assert np.abs(painted[0].astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(painted[labels == 255], rgb[labels == 255])


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("shape", [(1, 4, 8), (1, 5, 7), (2, 64, 70)])
def test_every_pixel_is_written_and_nothing_else_at_any_alignment(run_guarded, shape, offset):
    rgb, labels, palette = frame_of(0, shape)
    (mask,) = run_guarded(
        overlay.color_mask_launch(shape), [labels, palette], [(rgb.shape, "uint8")], offset
    )
    np.testing.assert_array_equal(mask, overlay.color_mask(labels, palette))
    (painted,) = run_guarded(
        overlay.overlay_launch(shape, 0.4), [rgb, labels, palette], [(rgb.shape, "uint8")], offset
    )
    np.testing.assert_array_equal(painted, overlay.overlay(rgb, labels, palette, 0.4))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(BackendError, match="expected 0 .image only. to 1"):
        overlay.overlay_launch((1, 2, 3), alpha)


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3), (1, 40000, 40000)])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(BackendError, match=r"expected \(N, H, W\)"):
        overlay.color_mask_launch(shape)
