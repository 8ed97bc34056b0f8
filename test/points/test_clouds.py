# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.errors import ImageError, SfsegError
from sfseg_ros.geometry import View, geometry_of
from sfseg_ros.points.camera_model import CameraModel
from sfseg_ros.points.clouds import (
    DATATYPES,
    ORGANISED_FIELDS,
    CloudError,
    PointCloud,
    PointField,
    depth_at_output,
    depth_from_buffer,
    labelled_cloud,
    matrix_from_pose,
    organised_cloud,
)

FLOAT32, FLOAT64 = 7, 8
IDENTITY = np.eye(4)
# From a lidar (x forward, y left, z up) to an optical frame (x right, y down, z forward).
OPTICAL_FROM_LIDAR = matrix_from_pose([0, 0, 0, 0.5, -0.5, 0.5, 0.5])
LENSES = {
    "plumb_bob": (-0.3, 0.1, 0.001, -0.0005, -0.01),
    "rational_polynomial": (0.5, -0.2, 0.001, -0.0005, 0.05, 0.8, -0.1, 0.02),
    "equidistant": (-0.02, 0.003, -0.001, 0.0002),
}
HEIGHT, WIDTH = 60, 80


def camera(height=HEIGHT, width=WIDTH, lens="plumb_bob", d=(), focal=50.0, p_focal=40.0):
    cx, cy = (width - 1) / 2, (height - 1) / 2
    return CameraModel(
        height=height,
        width=width,
        distortion_model=lens,
        d=d,
        k=(focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0),
        r=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        p=(p_focal, 0.0, cx, 0.0, 0.0, p_focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0),
    )


def geometry(height=HEIGHT, width=WIDTH, **view):
    return geometry_of((height, width), View(**view), lambda size: (32, 64))


def mask(geometry, seed=0):
    """Random labels and confidence for each pixel."""
    shape = (2, *geometry.output_size)
    return np.random.default_rng(seed).integers(0, 200, shape, np.uint8)


def picture(height=HEIGHT, width=WIDTH):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def dtype_of(cloud):
    """The numpy record type of a cloud's points, derived from its fields."""
    order = ">" if cloud.is_bigendian else "<"
    return np.dtype(
        {
            "names": [field.name for field in cloud.fields],
            "formats": [
                (order + DATATYPES[f.datatype], (f.count,) if f.count > 1 else ())
                for f in cloud.fields
            ],
            "offsets": [field.offset for field in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )


def points_of(cloud):
    assert cloud.row_step == cloud.width * cloud.point_step
    points = np.frombuffer(bytes(cloud.data), dtype_of(cloud))
    return points.reshape(cloud.height, cloud.width)


def xyz_of(cloud):
    points = points_of(cloud)
    return np.stack([points["x"], points["y"], points["z"]], axis=-1)


def cloud_of(points, fields=None, height=1, row_padding=0, is_bigendian=False):
    """A cloud from a numpy record array, split into `height` rows."""
    codes = {np.dtype(name): code for code, name in DATATYPES.items()}
    if fields is None:
        fields = []
        for name, (dtype, offset) in points.dtype.fields.items():
            item = dtype.base.newbyteorder("<")
            count = dtype.shape[0] if dtype.shape else 1
            fields.append(PointField(name, offset, codes[item], count))
    width = len(points) // height
    step = points.dtype.itemsize
    rows = np.frombuffer(points.tobytes(), np.uint8).reshape(height, width * step)
    data = np.pad(rows, ((0, 0), (0, row_padding)), constant_values=255).tobytes()
    return PointCloud(
        height, width, tuple(fields), is_bigendian, step, width * step + row_padding, data, False
    )


def lidar_points(xyz, coordinate="<f4", **options):
    dtype = np.dtype([*((axis, coordinate) for axis in "xyz"), ("intensity", "<u2")])
    points = np.zeros(len(xyz), dtype)
    for axis, values in zip("xyz", np.transpose(xyz)):
        points[axis] = values
    points["intensity"] = np.arange(len(xyz))
    return cloud_of(points, **options)


# Depth images.


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("is_bigendian", [False, True])
def test_depth_in_millimetres_and_in_metres_is_the_same_depth(padding, is_bigendian):
    order = ">" if is_bigendian else "<"
    view = geometry(2, 3)
    for encoding, dtype, samples in (
        ("16UC1", "u2", [[1000, 2500, 0], [65535, 1, 40]]),
        ("32FC1", "f4", [[1, 2.5, math.nan], [65.535, 0.001, 0.04]]),
    ):
        pixels = np.array(samples, order + dtype)
        rows = np.pad(pixels.view(np.uint8), ((0, 0), (0, padding)), constant_values=255)
        depth = depth_from_buffer(rows.tobytes(), encoding, 2, 3, rows.shape[1], is_bigendian)
        metres = depth_at_output(depth, view)
        assert metres.dtype == np.float32
        np.testing.assert_allclose(metres, [[1, 2.5, math.nan], [65.535, 0.001, 0.04]], rtol=1e-6)


def test_depth_is_not_copied():
    data = bytearray(24)
    depth = depth_from_buffer(data, "16UC1", 3, 4, 8)
    data[8] = 7
    assert depth[1, 0] == 7


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_an_invalid_depth_becomes_nan(value):
    assert np.isnan(depth_at_output(np.full((2, 3), value, np.float32), geometry(2, 3))).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"encoding": "rgb8"},
        {"encoding": "mono16"},
        {"height": 0},
        {"width": 0},
        {"step": 7},
        {"step": 12},
        {"data": b""},
        {"data": bytes(23)},
        {"data": bytes(25)},
        {"height": 2**32 - 1, "width": 2**32 - 1, "step": 2**32 - 1},
    ],
)
def test_a_damaged_depth_image_is_refused_in_one_line(fields):
    good = {"data": bytes(24), "encoding": "16UC1", "height": 3, "width": 4, "step": 8}
    depth_from_buffer(**good)
    with pytest.raises(ImageError) as caught:
        depth_from_buffer(**good | fields)
    assert "\n" not in str(caught.value)


@given(
    data=st.binary(max_size=64),
    encoding=st.sampled_from(["16UC1", "32FC1", "", "8UC1"]),
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 20),
    is_bigendian=st.booleans(),
)
def test_any_depth_image_becomes_an_array_or_an_image_error(
    data, encoding, height, width, step, is_bigendian
):
    try:
        depth = depth_from_buffer(data, encoding, height, width, step, is_bigendian)
    except ImageError:
        return
    assert depth.shape == (height, width)
    metres = depth_at_output(depth, geometry(height, width))
    assert ((metres > 0) & np.isfinite(metres) | np.isnan(metres)).all()


@given(
    image=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    times=st.integers(1, 4),
    shrink=st.booleans(),
    output=st.one_of(st.just("image"), st.tuples(st.integers(1, 50), st.integers(1, 50))),
    horizon=st.floats(0, 0.9),
)
def test_depth_of_another_resolution_is_sampled_at_the_place_of_each_pixel(
    image, times, shrink, output, horizon
):
    """The values of the depth image are its row positions, sampled at the mask's pixel centres."""
    view = geometry(*image, output_size=output, horizon=horizon)
    size = image if shrink else (image[0] * times, image[1] * times)
    rows = np.arange(size[0], dtype=np.float32)[:, None] + 1
    found = depth_at_output(np.repeat(rows, size[1], axis=1), view)[:, 0] - 1
    _, top, _, area_height = view.output_area
    centres = top + (np.arange(len(found)) + 0.5) * area_height / len(found)
    centres *= size[0] / image[0]
    assert (found <= centres + 1e-4).all()
    assert (centres <= found + 1 + 1e-4).all()


def test_depth_of_another_aspect_ratio_than_the_image_is_refused():
    with pytest.raises(ImageError, match="registered"):
        depth_at_output(np.ones((60, 60), np.uint16), geometry(60, 80))


def test_depth_with_a_size_rounded_by_decimation_is_accepted():
    assert depth_at_output(np.ones((240, 424), np.uint16), geometry(720, 1280)).shape == (720, 1280)


# The organised cloud.


def organised(view=None, model=None, depth=None, **options):
    view = view or geometry()
    depth = np.full(view.image_size, 2000, np.uint16) if depth is None else depth
    labels, confidence = mask(view)
    rgb = picture(*view.image_size)
    return organised_cloud(depth, rgb, labels, confidence, view, model or camera(), **options)


def test_the_cloud_has_one_point_per_mask_pixel_in_the_same_order():
    view = geometry()
    cloud = organised(view)
    assert (cloud.height, cloud.width) == (HEIGHT, WIDTH)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "class", "confidence"]
    assert cloud.fields == ORGANISED_FIELDS
    assert len(cloud.data) == cloud.row_step * cloud.height
    assert not cloud.is_dense
    points = points_of(cloud)
    labels, confidence = mask(view)
    np.testing.assert_array_equal(points["class"], labels)
    np.testing.assert_array_equal(points["confidence"], confidence)


def test_colours_are_packed_as_pcl_does():
    rgb = points_of(organised())["rgb"]
    packed = rgb.copy().view(np.uint32)
    red, green, blue = picture().astype(np.uint32).transpose(2, 0, 1)
    np.testing.assert_array_equal(packed, red << 16 | green << 8 | blue)
    assert np.isfinite(rgb).all(), "a NaN may change its bits when it is copied"


def test_points_follow_the_pinhole_model():
    depth = np.random.default_rng(2).integers(1, 9000, (HEIGHT, WIDTH), np.uint16)
    xyz = xyz_of(organised(depth=depth))
    z = depth / 1000
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    expected = [(column - 39.5) / 50 * z, (row - 29.5) / 50 * z, z]
    np.testing.assert_allclose(xyz, np.stack(expected, axis=-1), rtol=1e-5, atol=1e-6)


def test_a_pixel_without_depth_is_nan_in_all_coordinates():
    depth = np.full((HEIGHT, WIDTH), 2000, np.uint16)
    depth[5, 7] = 0
    xyz = xyz_of(organised(depth=depth))
    assert np.isnan(xyz[5, 7]).all()
    assert np.isnan(xyz).sum() == 3


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("view", [{}, {"output_size": (33, 47)}, {"region": (11, 7, 40, 30)}])
def test_points_project_back_onto_their_pixels_through_opencv(lens, view):
    """An application projects the cloud with OpenCV and the published calibration."""
    view = geometry(**view, fit="crop") if "region" in view else geometry(**view)
    model = camera(lens=lens, d=LENSES[lens])
    xyz = xyz_of(organised(view, model)).reshape(-1, 3).astype(np.float64)
    fx, fy, cx, cy = model.for_output(view).intrinsics()
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    project = cv2.fisheye.projectPoints if lens == "equidistant" else cv2.projectPoints
    found = project(xyz[:, None], np.zeros(3), np.zeros(3), k, np.array(model.d))[0]
    height, width = view.output_size
    expected = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    np.testing.assert_allclose(found.reshape(height, width, 2), expected, atol=0.02)


def test_a_rectified_image_uses_the_intrinsics_of_p_without_distortion():
    model = camera(d=LENSES["plumb_bob"], p_focal=40.0)
    xyz = xyz_of(organised(model=model, rectified=True))
    assert xyz[0, 0, 0] == pytest.approx(-39.5 / 40 * 2)


def test_a_pixel_that_no_ray_reaches_is_nan():
    xyz = xyz_of(organised(model=camera(d=(-0.9,))))
    assert np.isnan(xyz[0, 0]).all()
    assert np.isfinite(xyz[30, 40]).all()


def test_depth_and_mask_may_differ_in_size_from_the_image():
    view = geometry(output_size=(30, 20))
    depth = np.full((HEIGHT * 2, WIDTH * 2), 2.0, np.float32)
    depth[:, WIDTH:] = 4.0
    z = xyz_of(organised(view, depth=depth))[..., 2]
    assert z.shape == (30, 20)
    assert (z[:, :10] == 2).all()
    assert (z[:, 10:] == 4).all()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (replace(camera(), k=(0.0,) * 9), {}),
        (replace(camera(), p=(0.0,) * 12), {"rectified": True}),
        (replace(camera(), k=(math.nan,) * 9), {}),
        (camera(30, 40), {}),
        (camera(lens="unheard_of", d=(0.1,)), {}),
    ],
)
def test_an_unusable_calibration_is_refused_in_one_line(model, options):
    points = lidar_points([(0, 0, 1)])
    view = geometry()
    for make in (
        lambda: organised(model=model, **options),
        lambda: labelled_cloud(points, *mask(view), view, model, IDENTITY, **options),
    ):
        with pytest.raises(SfsegError) as caught:
            make()
        assert "\n" not in str(caught.value)


# The lidar's cloud.


def label(cloud, view=None, model=None, pose=IDENTITY, **options):
    view = view or geometry()
    return labelled_cloud(cloud, *mask(view), view, model or camera(), pose, **options)


def scene(count=2000):
    """Points in all directions, most of them outside the image."""
    return np.random.default_rng(3).uniform(-10, 10, (count, 3)).astype(np.float32)


def slow_labels(xyz, view, model, rectified=False):
    """The slow reference: (class, confidence) of each point, projected one by one with OpenCV."""
    labels, confidence = mask(view)
    fx, fy, cx, cy = model.for_output(view).intrinsics(rectified)
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    fisheye = model.distortion_model == "equidistant" and not rectified
    d = np.array([] if rectified else model.d or (0.0,) * 4, np.float64)
    project = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    found = []
    for x, y, z in xyz.astype(np.float64):
        found.append((255, 0))
        # These lenses see 62 degrees; OpenCV folds points far outside back into the image.
        if z <= 0 or (any(d) and math.hypot(x, y) > 1.5 * z):
            continue
        point = np.array([[[x, y, z]]])
        u, v = project(point, np.zeros(3), np.zeros(3), k, d if d.size else None)[0].ravel()
        column, row = math.floor(u + 0.5), math.floor(v + 0.5)
        if 0 <= column < view.output_size[1] and 0 <= row < view.output_size[0]:
            found[-1] = (labels[row, column], confidence[row, column])
    return np.array(found, np.uint8).T


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("lens", [*LENSES, "none"])
@pytest.mark.parametrize("view", [{}, {"output_size": (33, 47)}, {"horizon": 0.5}])
def test_each_point_gets_the_pixel_that_opencv_projects_it_onto(lens, view, rectified):
    view, model = geometry(**view), camera(lens=lens, d=LENSES.get(lens, ()))
    xyz = scene()
    points = points_of(label(lidar_points(xyz), view, model, rectified=rectified))[0]
    expected = slow_labels(xyz, view, model, rectified)
    np.testing.assert_array_equal(points["class"], expected[0])
    np.testing.assert_array_equal(points["confidence"], expected[1])
    assert 0 < (expected[0] != 255).sum() < len(xyz)


def test_the_extrinsics_transform_lidar_points_into_the_camera_frame():
    view = geometry()
    labels, _ = mask(view)
    points = points_of(label(lidar_points([(5, 0, 0), (-5, 0, 0)]), pose=OPTICAL_FROM_LIDAR))[0]
    assert points["class"][0] in labels[29:31, 39:41]
    assert points["class"][1] == 255


@pytest.mark.parametrize(
    "point",
    [(0, 0, -1), (0, 0, 0), (9, 0, 1), (math.nan, 0, 1), (0, 0, math.inf), (0, math.inf, 1)],
)
def test_a_point_outside_the_image_gets_label_255_and_confidence_0(point):
    ahead = IDENTITY.copy()
    ahead[2, 3] = 0.5  # moves the lidar's origin into the image
    pose = ahead if point == (0, 0, 0) else IDENTITY
    points = points_of(label(lidar_points([point, (0, 0, 1)]), pose=pose))[0]
    assert (points["class"][0], points["confidence"][0]) == (255, 0)
    assert points["class"][1] != 255


def test_distortion_does_not_fold_a_point_outside_the_view_into_the_image():
    cloud = lidar_points([(math.sqrt(1 / 0.3), 0, 1)])  # see test_lens_distortion.py
    assert points_of(label(cloud, model=camera(d=(-0.3,))))["class"] == 255


@pytest.mark.parametrize("coordinate", ["<f4", "<f8", ">f4", ">f8", "<i2", "<i4"])
@pytest.mark.parametrize(("height", "padding"), [(1, 0), (4, 0), (4, 13)])
def test_every_layout_gives_the_same_labels_and_keeps_its_bytes(coordinate, height, padding):
    xyz = np.round(scene(200))
    expected = points_of(label(lidar_points(xyz)))[0]["class"]
    options = {"height": height, "row_padding": padding, "is_bigendian": coordinate[0] == ">"}
    cloud = lidar_points(xyz, coordinate, **options)
    labelled = label(cloud)
    assert labelled.fields[:4] == cloud.fields
    assert [field.name for field in labelled.fields[4:]] == ["class", "confidence"]
    assert (labelled.height, labelled.width) == (cloud.height, cloud.width)
    assert labelled.point_step % 4 == 0
    np.testing.assert_array_equal(points_of(labelled)["class"].ravel(), expected)
    step = cloud.point_step
    before = np.frombuffer(cloud.data, np.uint8).reshape(height, -1)[:, : cloud.width * step]
    after = np.frombuffer(bytes(labelled.data), np.uint8).reshape(height, cloud.width, -1)
    np.testing.assert_array_equal(after[..., :step], before.reshape(height, cloud.width, step))


def test_overlapping_repeated_and_unknown_fields_are_kept():
    cloud = lidar_points([(0, 0, 1)])
    extra = (
        PointField("xyz", 0, FLOAT32, 3),
        PointField("old_count", 0, FLOAT32, 0),
        PointField("new", 6, 11),
    )
    labelled = label(replace(cloud, fields=cloud.fields + extra))
    assert labelled.fields[:7] == cloud.fields + extra
    assert labelled.fields[7].offset == cloud.point_step


def test_a_labelled_cloud_keeps_its_bytes_and_gets_the_new_labels():
    first = label(lidar_points([(0, 0, 1)]))
    second = label(first, pose=matrix_from_pose([0, 0, -5, 0, 0, 0, 1]))
    names = [field.name for field in second.fields]
    assert names == ["x", "y", "z", "intensity", "class", "confidence"]
    assert points_of(second)["class"] == 255
    assert bytes(second.data)[: first.point_step] == bytes(first.data)


@pytest.mark.parametrize("fields", [(), lidar_points([(0, 0, 1)]).fields])
def test_a_cloud_without_points_keeps_its_shape(fields):
    empty = PointCloud(0, 0, fields, False, 16 if fields else 0, 0, b"", True)
    labelled = label(empty)
    assert len(labelled.data) == 0
    assert labelled.fields[:-2] == fields
    assert labelled.fields[-1].offset < labelled.point_step


GOOD = lidar_points(scene(6), height=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"point_step": 0},
        {"point_step": 0, "fields": ()},
        {"point_step": 13},
        {"point_step": 15},
        {"row_step": 41},
        {"row_step": 43},
        {"row_step": 0},
        {"data": b""},
        {"data": bytes(83)},
        {"data": bytes(85)},
        {"width": 4},
        {"height": 3},
        {"height": 2**32 - 1, "width": 2**32 - 1},
        {"fields": ()},
        {"fields": GOOD.fields[1:]},
        {"fields": (*GOOD.fields, GOOD.fields[0])},
        {"fields": (*GOOD.fields[1:], PointField("x", 0, 0))},
        {"fields": (*GOOD.fields[1:], PointField("x", 0, 9))},
        {"fields": (*GOOD.fields[1:], PointField("x", 0, FLOAT32, 2))},
        {"fields": (*GOOD.fields[1:], PointField("x", 11, FLOAT32))},
        {"fields": (*GOOD.fields[1:], PointField("x", 7, FLOAT64))},
        {"fields": (*GOOD.fields, PointField("far", 14, 2))},
        {"fields": (*GOOD.fields, PointField("many", 0, 2, 2**32 - 1))},
        {"fields": (*GOOD.fields, PointField("late", 2**32 - 1, 2))},
    ],
)
def test_an_inconsistent_cloud_is_refused_in_one_line(changes):
    label(GOOD)
    with pytest.raises(CloudError) as caught:
        label(replace(GOOD, **changes))
    assert "\n" not in str(caught.value)


def test_a_row_of_points_beyond_the_limit_of_the_message_is_refused():
    with pytest.raises(CloudError):
        label(PointCloud(0, 2**32 - 1, (), False, 1, 2**32 - 1, b"", True))


uint32 = st.one_of(st.integers(0, 24), st.sampled_from([2**31, 2**32 - 1]))
point_fields = st.builds(
    PointField,
    name=st.sampled_from(["x", "y", "z", "class", "i", ""]),
    offset=uint32,
    datatype=st.integers(0, 255),
    count=uint32,
)


@given(
    cloud=st.builds(
        PointCloud,
        height=uint32,
        width=uint32,
        fields=st.lists(point_fields, max_size=5).map(tuple),
        is_bigendian=st.booleans(),
        point_step=uint32,
        row_step=uint32,
        data=st.binary(max_size=96),
        is_dense=st.booleans(),
    )
)
def test_any_message_becomes_a_cloud_or_a_cloud_error(cloud):
    assert_labelled_or_refused(cloud)


@given(
    step=st.integers(12, 20),
    height=st.integers(0, 3),
    width=st.integers(0, 4),
    padding=st.integers(0, 3),
    offsets=st.permutations([0, 4, 8]),
    datatypes=st.tuples(*[st.sampled_from([1, 2, 3, 4, 5, 6, FLOAT32, FLOAT32, FLOAT64])] * 3),
    is_bigendian=st.booleans(),
    data=st.data(),
)
def test_any_bytes_as_points_become_a_cloud(
    step, height, width, padding, offsets, datatypes, is_bigendian, data
):
    row_step = step * width + padding
    size = row_step * height
    cloud = PointCloud(
        height=height,
        width=width,
        fields=tuple(map(PointField, "xyz", offsets, datatypes)),
        is_bigendian=is_bigendian,
        point_step=step,
        row_step=row_step,
        data=data.draw(st.binary(min_size=size, max_size=size)),
        is_dense=True,
    )
    assert_labelled_or_refused(cloud)


def assert_labelled_or_refused(cloud):
    try:
        labelled = label(cloud, pose=OPTICAL_FROM_LIDAR)
    except CloudError as error:
        assert "\n" not in str(error)
        return
    assert labelled.row_step == labelled.width * labelled.point_step < 2**32
    assert len(labelled.data) == labelled.row_step * labelled.height
    points = np.frombuffer(bytes(labelled.data), np.uint8).reshape(-1, labelled.point_step)
    classes = points[:, labelled.fields[-2].offset]
    certainties = points[:, labelled.fields[-1].offset]
    assert ((classes < 200) | (classes == 255)).all()  # `mask` has no other classes
    assert (certainties[classes == 255] == 0).all()


# Poses.


def test_a_pose_rotates_and_then_translates():
    quarter_turn = matrix_from_pose([1, 2, 3, 0, 0, math.sqrt(0.5), math.sqrt(0.5)])
    np.testing.assert_allclose(quarter_turn @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)
    np.testing.assert_allclose(OPTICAL_FROM_LIDAR @ [5, 1, 2, 1], [-1, -2, 5, 1], atol=1e-12)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(1e-3, 1e3))
def test_a_quaternion_of_any_length_gives_a_rotation(quaternion, length):
    if np.linalg.norm(quaternion) < 1e-2:
        return
    rotation = matrix_from_pose([0, 0, 0, *(length * np.array(quaternion))])[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize(
    "pose",
    [
        [],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, math.nan, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, math.inf],
    ],
)
def test_an_invalid_pose_is_refused(pose):
    with pytest.raises(CloudError, match="qw"):
        matrix_from_pose(pose)
