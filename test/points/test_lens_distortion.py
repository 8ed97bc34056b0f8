# SPDX-License-Identifier: Apache-2.0
"""Lens distortion, compared with the camera models of OpenCV."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.points.lens_distortion import Lens, LensError

EXAMPLES = {
    "plumb_bob": (-0.3, 0.1, 0.001, -0.0005, -0.01),
    "rational_polynomial": (0.5, -0.2, 0.001, -0.0005, 0.05, 0.8, -0.1, 0.02),
    "equidistant": (-0.02, 0.003, -0.001, 0.0002),
}


def rays(reach=0.6, count=500):
    x, y = np.random.default_rng(0).uniform(-reach, reach, (2, count))
    return x, y


def opencv_distorted(name, d, x, y):
    points = np.stack([x, y, np.ones_like(x)], axis=-1)[:, None]
    project = cv2.fisheye.projectPoints if name == "equidistant" else cv2.projectPoints
    pixels = project(points, np.zeros(3), np.zeros(3), np.eye(3), np.array(d))[0]
    return pixels.reshape(-1, 2).T


@pytest.mark.parametrize("name", EXAMPLES)
def test_distortion_equals_that_of_opencv(name):
    x, y = rays()
    d = EXAMPLES[name]
    np.testing.assert_allclose(
        Lens(name, d).distorted(x, y), opencv_distorted(name, d, x, y), atol=1e-9
    )


@pytest.mark.parametrize("count", [0, 2, 4])
def test_missing_coefficients_are_zero_as_in_opencv(count):
    x, y = rays()
    d = EXAMPLES["plumb_bob"][:count]
    filled = d + (0.0,) * (4 - count)
    np.testing.assert_allclose(
        Lens("plumb_bob", d).distorted(x, y), opencv_distorted("", filled, x, y), atol=1e-12
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_undistorting_is_the_inverse(name):
    x, y = rays()
    lens = Lens(name, EXAMPLES[name])
    np.testing.assert_allclose(lens.undistorted(*lens.distorted(x, y)), (x, y), atol=1e-5)


def test_the_optical_axis_is_not_moved():
    zero = np.zeros((1, 1))
    for name, d in EXAMPLES.items():
        lens = Lens(name, d)
        assert lens.distorted(zero, zero) == (zero, zero)
        assert lens.undistorted(zero, zero) == (zero, zero)


def test_a_ray_far_outside_the_view_does_not_fold_back_into_the_image():
    """With these coefficients the polynomial decreases beyond 1.05: OpenCV projects a point that is
    61 degrees off the axis onto the centre of the image."""
    d = (-0.3, 0.0, 0.0, 0.0, 0.0)
    x, y = np.array([math.sqrt(1 / 0.3)]), np.array([0.0])
    assert abs(opencv_distorted("plumb_bob", d, x, y)[0, 0]) < 1e-6
    assert np.isnan(Lens("plumb_bob", d).distorted(x, y)[0])


def test_undistorting_a_pixel_that_no_ray_reaches_gives_nan():
    assert np.isnan(Lens("plumb_bob", (-0.3,)).undistorted(np.array([0.9]), np.array([0.0]))).all()


@pytest.mark.parametrize("name", ["", "none", "plumb_bob", "rational_polynomial"])
def test_a_lens_without_coefficients_changes_nothing(name):
    x, y = rays()
    lens = Lens(name, ())
    assert lens.straight
    assert lens.distorted(x, y)[0] is x


def test_an_equidistant_lens_without_coefficients_still_distorts():
    x = np.array([1.0])
    assert Lens("equidistant", (0.0,) * 4).distorted(x, 0 * x)[0] == pytest.approx(math.pi / 4)


@pytest.mark.parametrize(
    ("name", "d"),
    [
        ("kannala_brandt", (0.1,)),
        ("", (0.1,)),
        ("plumb_bob", (0.1,) * 6),
        ("equidistant", (0.1,) * 5),
        ("plumb_bob", (math.nan,)),
        ("plumb_bob", (0.0, 0.0, 0.0, 0.0, 0.0, math.inf)),
    ],
)
def test_an_unknown_model_or_invalid_coefficients_are_refused_in_one_line(name, d):
    with pytest.raises(LensError) as caught:
        Lens(name, d)
    assert "\n" not in str(caught.value)


@given(
    name=st.sampled_from(list(EXAMPLES)),
    d=st.lists(st.floats(-1e3, 1e3), max_size=5).map(tuple),
    x=st.floats(-1e6, 1e6),
    y=st.floats(-1e6, 1e6),
)
def test_any_coefficients_give_a_position_or_nan_and_the_inverse_agrees(name, d, x, y):
    lens = Lens(name, d[: 4 if name == "equidistant" else 5])
    x, y = np.array([x]), np.array([y])
    scene = lens.undistorted(x, y)
    if np.isfinite(scene).all():
        np.testing.assert_allclose(lens.distorted(*scene), (x, y), atol=1e-3)
