# SPDX-License-Identifier: Apache-2.0
import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sfseg_ros.errors import ImageError
from sfseg_ros.geometry import View, geometry_of
from sfseg_ros.points.camera_model import CameraModel

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def camera(height=480, width=640, **fields):
    """A camera with a field of view of about 60 degrees. P has another focal length than K, and a
    stereo baseline."""
    focal, cx, cy = 0.9 * width, 0.52 * width, 0.47 * height
    model = CameraModel(
        height,
        width,
        "plumb_bob",
        (-0.21, 0.07, 0.001, -0.002, 0.0),
        (focal, 0.0, cx, 0.0, 1.01 * focal, cy, 0.0, 0.0, 1.0),
        IDENTITY,
        (0.8 * focal, 0.0, cx + 3, -45.0, 0.0, 0.8 * focal, cy - 2, 0.0, 0.0, 0.0, 1.0, 0.0),
    )
    return dataclasses.replace(model, **fields)


def fixed(height, width):
    return lambda size: (height, width)


def same(size):
    return size


# The projection that consumers use (image_geometry::PinholeCameraModel): the full-resolution pixel,
# minus the offset of the roi, divided by the binning. Points are in the optical frame, in metres.


def pixel_of(model, point, rectified):
    x, y, z = point
    if rectified:
        u, v, w = np.reshape(model.p, (3, 4)) @ (x, y, z, 1.0)
        full = np.array([u / w, v / w])
    else:
        k, d = np.reshape(model.k, (3, 3)), np.array(model.d)
        projected, _ = cv2.projectPoints(np.array([point]), np.zeros(3), np.zeros(3), k, d)
        full = projected.reshape(2)
    binning = np.maximum(1, (model.binning_x, model.binning_y))
    return (full - model.roi[:2]) / binning


def output_pixel_of(pixel, geometry):
    """Convert a position in image pixels to output pixels, as image_proc does."""
    area, (height, width) = geometry.output_area, geometry.output_size
    scale = np.array([width / area.width, height / area.height])
    return (pixel - (area.x, area.y)) * scale


@st.composite
def cameras(draw):
    """Any resolution, roi and binning that give an image of 8x8 or more."""
    height, width = draw(st.integers(64, 500)), draw(st.integers(64, 500))
    roi = (0, 0, 0, 0, False)
    if draw(st.booleans()):
        x, y = draw(st.integers(0, width - 32)), draw(st.integers(0, height - 32))
        roi = (
            *(x, y, draw(st.integers(32, height - y)), draw(st.integers(32, width - x))),
            draw(st.booleans()),
        )
    binning = st.integers(0, 4)
    return camera(height, width, binning_x=draw(binning), binning_y=draw(binning), roi=roi)


@st.composite
def views(draw, image_size):
    height, width = image_size
    region = None
    if draw(st.booleans()):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        region = (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    sides = st.integers(1, 300)
    output_size = st.one_of(st.sampled_from(["image", "network"]), st.tuples(sides, sides))
    fit = draw(st.sampled_from(["stretch", "letterbox", "crop"]))
    horizon = draw(st.sampled_from([0.0, 0.0, 0.3])) if region is None else 0.0
    view = View(region, horizon, fit, draw(output_size))
    size_for = draw(st.one_of(st.just(same), st.builds(fixed, sides, sides)))
    return geometry_of(image_size, view, size_for)


@given(st.data(), cameras(), st.booleans())
def test_a_point_projects_onto_the_mask_pixel_that_shows_it(data, model, rectified):
    geometry = data.draw(views(model.image_size))
    output = model.for_output(geometry)
    assert output.image_size == geometry.output_size
    for point in ((0.0, 0.0, 1.0), (0.3, -0.2, 2.0), (-1.1, 0.4, 3.0), (0.05, 0.6, 1.5)):
        expected = output_pixel_of(pixel_of(model, point, rectified), geometry)
        np.testing.assert_allclose(pixel_of(output, point, rectified), expected, atol=1e-6)


@given(st.data(), cameras())
def test_the_roi_stays_within_the_resolution(data, model):
    output = model.for_output(data.draw(views(model.image_size)))
    x_offset, y_offset, height, width, _ = output.roi
    assert min(output.roi) >= 0
    assert x_offset + width <= output.width
    assert y_offset + height <= output.height


@pytest.mark.parametrize(
    ("view", "network_size_for"),
    [
        (View(output_size="network"), fixed(120, 160)),
        (View(output_size=(360, 480)), same),
        (View(region=(100, 80, 320, 240)), fixed(60, 80)),
        (View(region=(100, 80, 320, 240), output_size="network"), fixed(60, 80)),
        (View(region=(101, 83, 301, 243), output_size="network"), fixed(64, 96)),
        (View(horizon=0.4, fit="crop", output_size="network"), fixed(96, 96)),
        (View(fit="letterbox", output_size="network"), fixed(128, 128)),
    ],
)
def test_the_pixel_of_the_mask_has_the_label_of_the_pixel_of_the_image(view, network_size_for):
    """Checked with real pixels: blocks of 40x40 labels, and a 3D point behind each block."""
    labels = np.add.outer(np.arange(480) // 40 * 16, np.arange(640) // 40).astype(np.uint8)
    model = camera()
    geometry = geometry_of((480, 640), view, network_size_for)
    # No averaging, so that each network pixel shows one block.
    x, y, width, height = geometry.area
    rows = y + (np.arange(geometry.content.height) + 0.5) * height / geometry.content.height
    columns = x + (np.arange(geometry.content.width) + 0.5) * width / geometry.content.width
    network = np.zeros(geometry.network_size, np.uint8)
    geometry.content.of(network)[:] = labels[rows.astype(int)][:, columns.astype(int)]
    mask = geometry.output_from(network, fill=255)
    output = model.for_output(geometry)
    met = 0
    for v in range(20, 480, 40):
        for u in range(20, 640, 40):
            point = ((u - model.k[2]) / model.k[0], (v - model.k[5]) / model.k[4], 1.0)
            pinhole, ours = (dataclasses.replace(one, d=()) for one in (model, output))
            column, row = (round(value) for value in pixel_of(ours, point, rectified=False))
            np.testing.assert_allclose(pixel_of(pinhole, point, rectified=False), (u, v))
            inside = x + 8 <= u < x + width - 8 and y + 8 <= v < y + height - 8
            if inside:
                assert mask[row, column] == labels[v, u]
                met += 1
    assert met > 20


def test_an_output_with_the_pixels_of_the_image_keeps_the_model():
    model = camera()
    for view in (View(), View(region=(10, 20, 100, 80)), View(fit="letterbox")):
        assert model.for_output(geometry_of((480, 640), view, fixed(96, 128))) is model


def test_scaling_changes_the_same_fields_as_image_proc():
    """The reference is image_proc::ResizeNode."""
    model = camera()
    output = model.for_output(geometry_of((480, 640), View(output_size=(240, 160)), same))
    k, p = model.k, model.p
    assert (output.height, output.width) == (240, 160)
    expected_k = (k[0] / 4, 0, k[2] / 4, 0, k[4] / 2, k[5] / 2, 0, 0, 1)
    expected_p = (p[0] / 4, 0, p[2] / 4, p[3] / 4, 0, p[5] / 2, p[6] / 2, 0)
    np.testing.assert_allclose(output.k, expected_k)
    np.testing.assert_allclose(output.p, (*expected_p, 0, 0, 1, 0))
    kept = ("distortion_model", "d", "r", "binning_x", "binning_y", "roi")
    assert [getattr(output, name) for name in kept] == [getattr(model, name) for name in kept]


def test_cropping_changes_the_roi_only():
    """The reference is image_proc::CropDecimateNode."""
    model = camera()
    view = View(region=(101, 83, 320, 240), output_size="network")
    output = model.for_output(geometry_of((480, 640), view, same))
    assert output == dataclasses.replace(model, roi=(101, 83, 240, 320, True))


def test_a_crop_of_a_binned_roi_is_in_full_resolution_pixels():
    model = camera(960, 1280, binning_x=2, binning_y=4, roi=(100, 60, 800, 1000, False))
    assert model.image_size == (200, 500)
    view = View(region=(10, 20, 300, 100), output_size="network")
    output = model.for_output(geometry_of((200, 500), view, same))
    assert output == dataclasses.replace(model, roi=(120, 140, 400, 600, True))


def test_a_scaled_crop_scales_the_roi_and_keeps_its_lost_fraction():
    model = camera()
    view = View(region=(101, 0, 300, 480), output_size=(480, 150))
    output = model.for_output(geometry_of((480, 640), view, same))
    assert output.roi == (50, 0, 480, 150, True)
    assert (output.height, output.width) == (480, 320)
    # The offset of 50.5 is rounded to 50, so the principal point moves by half a pixel.
    assert output.k[2] == pytest.approx(model.k[2] / 2 - 0.5)


def test_an_uncalibrated_camera_stays_uncalibrated():
    model = camera(k=(0.0,) * 9, p=(0.0,) * 12, d=())
    view = View(region=(101, 83, 320, 240), output_size=(100, 100))
    output = model.for_output(geometry_of((480, 640), view, same))
    assert not output.calibrated
    assert set(output.k + output.p) == {0.0}
    assert output.image_size == (100, 100)


def test_a_camera_model_without_resolution_takes_the_size_of_the_image():
    model = camera(k=(0.0,) * 9, p=(0.0,) * 12, height=0, width=0)
    assert model.for_output(geometry_of((480, 640), View(), same)) is model
    output = model.for_output(geometry_of((480, 640), View(output_size=(48, 64)), same))
    assert output.image_size == (48, 64)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_an_invalid_focal_length_means_uncalibrated(value):
    assert camera().calibrated
    assert not camera(k=(value, *camera().k[1:])).calibrated


def test_a_model_of_another_size_is_refused():
    with pytest.raises(ImageError, match="images of 480x640 .*, the image has 240x320") as caught:
        camera().for_output(geometry_of((240, 320), View(), same))
    assert "\n" not in str(caught.value)


@given(cameras(), st.booleans())
def test_intrinsics_project_into_the_image_itself(model, rectified):
    pinhole = dataclasses.replace(model, d=(), p=(*model.p[:3], 0.0, *model.p[4:]))
    fx, fy, cx, cy = pinhole.intrinsics(rectified)
    pixel = pixel_of(pinhole, (0.3, -0.2, 2.0), rectified)
    np.testing.assert_allclose((fx * 0.15 + cx, fy * -0.1 + cy), pixel, atol=1e-9)
    assume(model.binning_x <= 1 and model.roi[2] == 0)
    assert fx == (model.p[0] if rectified else model.k[0])
