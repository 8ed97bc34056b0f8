# SPDX-License-Identifier: Apache-2.0
"""Point clouds with a class for each point: from a depth image, and from a lidar's cloud.

This module imports no ROS; nodes/point_outputs.py passes the fields of the messages. Points are in
metres in the camera's optical frame (x right, y down, z forward).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import ImageError, SfsegError
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import ByteBuffer, Uint8Array
from sfseg_ros.model.manifest import UNLABELLED
from sfseg_ros.points.camera_model import CameraModel
from sfseg_ros.points.lens_distortion import FloatArray, cached_lens

DEPTH_ENCODINGS = {"16UC1": "u2", "32FC1": "f4"}
"""REP 118: 16UC1 in millimetres with 0 for no measurement, 32FC1 in metres."""

DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""Constants of sensor_msgs/PointField, as numpy writes them."""
UINT8, FLOAT32 = 2, 7

_LARGEST = 2**32 - 1  # of the message's uint32 fields
_ASPECT_TOLERANCE = 0.02


class CloudError(SfsegError):
    """A point cloud is damaged, or the camera's calibration is unusable."""


@dataclass(frozen=True)
class PointField:
    """One field of each point, as in sensor_msgs/PointField."""

    name: str
    offset: int
    datatype: int
    count: int = 1


@dataclass(frozen=True)
class PointCloud:
    """A sensor_msgs/PointCloud2 without its header."""

    height: int
    width: int
    fields: tuple[PointField, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: ByteBuffer
    is_dense: bool


# Each point begins at a multiple of 4, because consumers read its floats through a pointer.
ORGANISED_FIELDS = (
    PointField("x", 0, FLOAT32),
    PointField("y", 4, FLOAT32),
    PointField("z", 8, FLOAT32),
    PointField("rgb", 12, FLOAT32),
    PointField("class", 16, UINT8),
    PointField("confidence", 17, UINT8),
)
ORGANISED_STEP = 20


def depth_from_buffer(
    data: ByteBuffer, encoding: str, height: int, width: int, step: int, is_bigendian: bool = False
) -> npt.NDArray[np.generic]:
    """Return a depth image as (height, width) uint16 millimetres or float32 metres.

    The arguments are the fields of a sensor_msgs/Image. The result is a view of `data` in its byte
    order. Raises ImageError.
    """
    sample = DEPTH_ENCODINGS.get(encoding)
    if sample is None:
        raise ImageError(
            f"depth image has encoding {encoding[:40]!r}, expected 16UC1 (mm) or 32FC1 (m)"
        )
    dtype = np.dtype((">" if is_bigendian else "<") + sample)
    size = f"{encoding} depth image of {height}x{width} (height x width)"
    if height < 1 or width < 1:
        raise ImageError(f"{size}: expected at least 1x1")
    if step < width * dtype.itemsize:
        raise ImageError(f"{size}: step is {step}, expected at least {width * dtype.itemsize}")
    view = memoryview(data).cast("B")
    if len(view) != step * height:
        raise ImageError(
            f"{size}: data has {len(view)} bytes, expected step {step} x height = {step * height}"
        )
    return np.ndarray((height, width), dtype, buffer=view, strides=(step, dtype.itemsize))


def depth_at_output(
    depth: npt.NDArray[np.generic], geometry: FrameGeometry
) -> npt.NDArray[np.float32]:
    """Return float32 metres for each pixel of the mask, NaN without a measurement.

    `depth` comes from `depth_from_buffer` and covers the whole image at any resolution. It is
    sampled by nearest neighbour, because a mean of foreground and background would be a point in
    empty space. Raises ImageError if its aspect ratio differs from the image's, which means that
    it is not registered to the image.
    """
    height, width = geometry.image_size
    rows, columns = depth.shape
    if abs(columns * height - rows * width) > _ASPECT_TOLERANCE * rows * width:
        raise ImageError(
            f"depth image of {rows}x{columns} does not have the shape of the {height}x{width} "
            "image: expected depth registered to the camera (RealSense: align_depth.enable:=true)"
        )
    x, y, area_width, area_height = geometry.output_area
    row = _nearest_indices(geometry.output_size[0], y, area_height, height, rows)
    column = _nearest_indices(geometry.output_size[1], x, area_width, width, columns)
    sampled = depth
    if not np.array_equal(row, np.arange(rows)):
        sampled = sampled[row]
    if not np.array_equal(column, np.arange(columns)):
        sampled = np.take(sampled, column, axis=1)
    metres = sampled.astype(np.float32)
    if sampled.dtype.kind == "u":
        metres *= np.float32(0.001)
    # REP 118: -inf means too near, +inf too far, NaN invalid.
    np.copyto(metres, np.float32(np.nan), where=~((metres > 0) & (metres < np.inf)))
    return metres


def organised_cloud(
    depth: npt.NDArray[np.generic],
    rgb: Uint8Array,
    labels: Uint8Array,
    confidence: Uint8Array,
    geometry: FrameGeometry,
    model: CameraModel,
    rectified: bool = False,
) -> PointCloud:
    """Return one point per pixel of the mask (H, W): x, y, z, rgb, class, confidence.

    `depth` comes from `depth_from_buffer` and is measured along the optical axis. `rgb` uint8
    (H, W, 3) is the camera's image; `labels` and `confidence` are uint8 of `geometry.output_size`.
    `model` describes the camera's image, or the rectified image if `rectified`. Pixels without
    depth have NaN as x, y and z. The field `rgb` follows PCL: a float32 of the bytes b, g, r, 0.

    Raises ImageError or CloudError if depth, image and calibration contradict each other.
    """
    ray_x, ray_y, ray_z = _rays(model, geometry, rectified)
    z = depth_at_output(depth, geometry) * ray_z
    points = np.empty((*geometry.output_size, ORGANISED_STEP // 4), "<f4")
    np.multiply(z, ray_x, out=points[..., 0])
    np.multiply(z, ray_y, out=points[..., 1])
    points[..., 2] = z
    bgra = cv2.cvtColor(geometry.rgb_at_output(rgb), cv2.COLOR_RGB2BGRA)
    words = points.view("<u4")
    # Alpha 255 would make the float a NaN, whose bits may change when it is copied; hence 0.
    np.bitwise_and(np.asarray(bgra).view("<u4")[..., 0], 0x00FFFFFF, out=words[..., 3])
    words[..., 4] = labels
    octets = points.view(np.uint8)
    octets[..., 17] = confidence
    height, width = geometry.output_size
    return PointCloud(
        height=height,
        width=width,
        fields=ORGANISED_FIELDS,
        is_bigendian=False,
        point_step=ORGANISED_STEP,
        row_step=width * ORGANISED_STEP,
        data=octets.data.cast("B"),
        is_dense=False,
    )


def labelled_cloud(
    cloud: PointCloud,
    labels: Uint8Array,
    confidence: Uint8Array,
    geometry: FrameGeometry,
    model: CameraModel,
    camera_from_cloud: FloatArray,
    rectified: bool = False,
) -> PointCloud:
    """Return the points with the class and confidence of the mask pixel that each projects to.

    `camera_from_cloud` (4, 4) transforms points of the cloud into the camera's optical frame;
    `labels`, `confidence`, `geometry`, `model` and `rectified` are as in `organised_cloud`. Each
    point keeps its bytes and fields, followed by `class` and `confidence` (uint8). An existing
    field with one of these names keeps its bytes but loses its name, so that a cloud can pass
    several cameras. Points behind the camera, outside the mask, not finite or at the cloud's origin
    (which some lidars use for "no return") get class 255 and confidence 0.

    Raises CloudError for an inconsistent cloud or an unusable calibration.
    """
    points = _points_of(cloud)
    step = cloud.point_step
    # The new fields take 2 bytes; rounding up keeps aligned floats aligned.
    new_step = (step + 2 + 3) // 4 * 4
    if max(new_step, new_step * cloud.width) > _LARGEST:
        raise CloudError(f"point cloud of {cloud.width} points a row: no room for two fields more")
    data: ByteBuffer = b""
    if points.size:
        xyz = _xyz_of(cloud, points)
        visible, pixels = _pixels_of(xyz, camera_from_cloud, geometry, model, rectified)
        layout = np.dtype(
            {
                "names": ["point", "class", "confidence"],
                "formats": [f"V{step}", "u1", "u1"],
                "offsets": [0, step, step + 1],
                "itemsize": new_step,
            }
        )
        labelled = np.zeros(points.size, layout)
        labelled["point"].reshape(points.shape)[:] = points
        labelled["class"] = UNLABELLED
        labelled["class"][visible] = labels.ravel()[pixels]
        labelled["confidence"][visible] = confidence.ravel()[pixels]
        data = labelled.view(np.uint8).data.cast("B")
    kept = tuple(field for field in cloud.fields if field.name not in ("class", "confidence"))
    return replace(
        cloud,
        fields=(
            *kept,
            PointField("class", step, UINT8),
            PointField("confidence", step + 1, UINT8),
        ),
        point_step=new_step,
        row_step=new_step * cloud.width,
        data=data,
    )


def matrix_from_pose(pose: Sequence[float]) -> FloatArray:
    """Return the float64 (4, 4) matrix that transforms points into the frame of `pose`.

    `pose` is [x, y, z, qx, qy, qz, qw]: metres and a quaternion of any length except 0. Raises
    CloudError.
    """
    values = np.array(pose, np.float64)
    length = np.linalg.norm(values[3:])
    if values.shape != (7,) or not np.isfinite(values).all() or not 1e-6 < length < np.inf:
        raise CloudError(
            f"pose {list(pose)}: expected [x, y, z, qx, qy, qz, qw] with a quaternion other than 0"
        )
    x, y, z, w = values[3:] / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = values[:3]
    return matrix


def _nearest_indices(
    length: int, start: int, area: int, image: int, depth: int
) -> npt.NDArray[np.intp]:
    """Return, for each of `length` output pixels, the depth pixel that contains its centre.

    The output pixels cover `area` image pixels, starting at `start`; the `depth` pixels cover the
    whole `image`.
    """
    # Integers, because floating point would choose arbitrarily half-way between two pixels.
    doubled_centres = 2 * start * length + (2 * np.arange(length) + 1) * area
    return np.minimum(doubled_centres * depth // (2 * image * length), depth - 1)


@functools.lru_cache(maxsize=8)  # one per camera; megabytes for a distorting lens
def _rays(
    model: CameraModel, geometry: FrameGeometry, rectified: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the point at depth 1 on the ray of each pixel of the mask.

    x, y and z are float32 arrays that broadcast to the size of the mask; all are NaN at pixels that
    no ray reaches.
    """
    fx, fy, cx, cy = _intrinsics(model, geometry, rectified)
    height, width = geometry.output_size
    x = (np.arange(width, dtype=np.float64) - cx)[None] / fx
    y = (np.arange(height, dtype=np.float64) - cy)[:, None] / fy
    z = np.ones((1, 1))
    lens = None if rectified else cached_lens(model.distortion_model, model.d)
    if lens is not None and not lens.straight:
        x, y = lens.undistorted(*np.broadcast_arrays(x, y))
        z = np.where(np.isnan(x), np.nan, 1.0) if np.isnan(x).any() else z
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def _intrinsics(
    model: CameraModel, geometry: FrameGeometry, rectified: bool
) -> tuple[float, float, float, float]:
    """Return (fx, fy, cx, cy) in pixels of the mask.

    Raises ImageError if the model describes images of another size, CloudError if it has no
    calibration.
    """
    values = model.for_output(geometry).intrinsics(rectified)
    if not all(map(math.isfinite, values)) or not (values[0] > 0 and values[1] > 0):
        raise CloudError(
            f"camera_info has focal lengths {values[0]:g} and {values[1]:g} in "
            f"{'P' if rectified else 'K'}: expected a calibrated camera"
        )
    return values


def _points_of(cloud: PointCloud) -> npt.NDArray[np.void]:
    """Return the points as (height, width) opaque blocks of point_step bytes, or (0,) if empty.

    The blocks are a view. Raises CloudError if the sizes contradict each other.
    """
    view = memoryview(cloud.data).cast("B")
    size = f"point cloud of {cloud.height}x{cloud.width} (height x width)"
    if cloud.row_step < cloud.width * cloud.point_step:
        raise CloudError(
            f"{size}: row_step is {cloud.row_step}, expected at least width x point_step = "
            f"{cloud.width * cloud.point_step}"
        )
    if len(view) != cloud.row_step * cloud.height:
        raise CloudError(
            f"{size}: data has {len(view)} bytes, expected row_step {cloud.row_step} x height = "
            f"{cloud.row_step * cloud.height}"
        )
    for field in cloud.fields:
        # An unknown datatype has at least one byte.
        item = np.dtype(DATATYPES.get(field.datatype, "u1")).itemsize
        if field.offset + item * max(1, field.count) > cloud.point_step:
            raise CloudError(
                f"{size}: field {field.name[:40]!r} ends beyond point_step, which is "
                f"{cloud.point_step} bytes"
            )
    if 0 in (cloud.height, cloud.width):
        return np.empty(0, "V1")
    if cloud.point_step == 0:
        raise CloudError(f"{size}: point_step is 0, expected the size of a point in bytes")
    return np.ndarray(
        (cloud.height, cloud.width),
        f"V{cloud.point_step}",
        buffer=view,
        strides=(cloud.row_step, cloud.point_step),
    )


def _xyz_of(cloud: PointCloud, points: npt.NDArray[np.void]) -> FloatArray:
    """Return float64 (3, N) in the order of the points.

    Raises CloudError if a coordinate is missing, occurs twice or is not a single number.
    """
    xyz = np.empty((3, *points.shape))
    for axis, name in enumerate("xyz"):
        fields = [field for field in cloud.fields if field.name == name]
        if len(fields) != 1 or fields[0].datatype not in DATATYPES or fields[0].count > 1:
            found = ", ".join(field.name[:40] for field in cloud.fields[:20])
            raise CloudError(
                f"point cloud with the fields {found}: expected one number {name} in each point"
            )
        dtype = np.dtype((">" if cloud.is_bigendian else "<") + DATATYPES[fields[0].datatype])
        xyz[axis] = points.getfield(dtype, fields[0].offset)
    return xyz.reshape(3, -1)


def _pixels_of(
    xyz: FloatArray,
    camera_from_cloud: FloatArray,
    geometry: FrameGeometry,
    model: CameraModel,
    rectified: bool,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the indices of the points of (3, N) that project into the mask, and of their pixels.

    Pixels are numbered row by row.
    """
    fx, fy, cx, cy = _intrinsics(model, geometry, rectified)
    lens = None if rectified else cached_lens(model.distortion_model, model.d)
    height, width = geometry.output_size
    rotation, translation = camera_from_cloud[:3, :3], camera_from_cloud[:3, 3]
    with np.errstate(all="ignore"):  # NaN and inf end up outside the mask
        z = rotation[2] @ xyz + translation[2]
        ahead = np.flatnonzero(z > 0)
        x, y = rotation[:2] @ xyz[:, ahead] + translation[:2, None]
        x /= z[ahead]
        y /= z[ahead]
        if lens is not None:
            x, y = lens.distorted(x, y)
        # Pixel centres are integers, so the first pixel begins at -0.5.
        column, row = np.floor(fx * x + (cx + 0.5)), np.floor(fy * y + (cy + 0.5))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        inside &= xyz[:, ahead].any(axis=0)
    pixels = row[inside].astype(np.intp) * width + column[inside].astype(np.intp)
    return ahead[inside], pixels
