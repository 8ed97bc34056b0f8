# SPDX-License-Identifier: Apache-2.0
"""Converts ROS messages to arrays and back, without a copy if both have the same bytes."""

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import (
    CameraInfo,
    CompressedImage,
    Image,
    PointCloud2,
    PointField,
    RegionOfInterest,
)
from std_msgs.msg import Header

from sfseg_ros import imaging
from sfseg_ros.errors import ImageError
from sfseg_ros.points import clouds
from sfseg_ros.points.camera_model import CameraModel
from sfseg_ros.points.clouds import PointCloud

LONGEST_SIDE = 65535
"""Limit of a calibration, in pixels: no camera exceeds it, and scaled it fits the message."""


def picture_from_message(message: "Image | CompressedImage") -> imaging.Picture:
    """The image of a message: a view of its bytes for rgb8 and bgr8, otherwise a new array.

    cv_bridge, if installed, converts encodings that are missing in `imaging.ENCODINGS`.
    Raises ImageError.
    """
    if isinstance(message, Image) and message.encoding not in imaging.ENCODINGS:
        return imaging.Picture(_rgb_from_cv_bridge(message))
    return imaging.picture_from_fields(message)


def image_from_array(header: Header, array: npt.NDArray[np.uint8], encoding: str) -> Image:
    """A message of uint8 (H, W) mono8 or (H, W, 3) rgb8 with the given header.

    The array itself becomes the message's buffer; `publish` copies it once, into the middleware.
    This needs the private attribute, which the conversion to C reads through the buffer protocol.
    The setter of `data` copies the array (Jazzy) or checks each byte in Python (Humble), which
    takes 0.1 s for a mask of 2 megapixels. test/nodes/test_messages.py holds this.
    """
    height, width = array.shape[:2]
    message = Image(
        header=header, height=height, width=width, encoding=encoding, step=array[0].nbytes
    )
    message._data = np.ascontiguousarray(array).data.cast("B")
    return message


def compressed_from_file(header: Header, file: bytes, encoding: str, kind: str) -> CompressedImage:
    """A message of a PNG or JPEG file. `kind` is "png" or "jpeg", `encoding` mono8 or rgb8; both
    go into the format, from which compressed_image_transport unpacks the image."""
    stored = {"rgb8": "bgr8"}.get(encoding, "")  # colours are BGR to OpenCV's encoders
    message = CompressedImage(header=header, format=f"{encoding}; {kind} compressed {stored}")
    message._data = memoryview(file)  # see image_from_array
    return message


def model_from_camera_info(message: CameraInfo) -> CameraModel:
    """The calibration of a CameraInfo. Raises ImageError if no camera can have it."""
    roi = message.roi
    if max(message.height, message.width) > LONGEST_SIDE:
        raise ImageError(
            f"calibration of {message.height}x{message.width} (height x width): expected at most "
            f"{LONGEST_SIDE} pixels a side"
        )
    if roi.x_offset + roi.width > message.width or roi.y_offset + roi.height > message.height:
        raise ImageError(
            f"roi x {roi.x_offset} y {roi.y_offset} width {roi.width} height {roi.height} leaves "
            f"the {message.height}x{message.width} (height x width) of the calibration"
        )
    return CameraModel(
        height=message.height,
        width=message.width,
        distortion_model=message.distortion_model,
        d=tuple(message.d),
        k=tuple(message.k.tolist()),
        r=tuple(message.r.tolist()),
        p=tuple(message.p.tolist()),
        binning_x=message.binning_x,
        binning_y=message.binning_y,
        roi=(roi.x_offset, roi.y_offset, roi.height, roi.width, roi.do_rectify),
    )


def camera_info_from_model(header: Header, model: CameraModel) -> CameraInfo:
    """A CameraInfo of `model` with the given header."""
    x_offset, y_offset, height, width, do_rectify = model.roi
    return CameraInfo(
        header=header,
        height=model.height,
        width=model.width,
        distortion_model=model.distortion_model,
        d=list(model.d),
        k=list(model.k),
        r=list(model.r),
        p=list(model.p),
        binning_x=model.binning_x,
        binning_y=model.binning_y,
        roi=RegionOfInterest(
            x_offset=x_offset,
            y_offset=y_offset,
            height=height,
            width=width,
            do_rectify=do_rectify,
        ),
    )


def cloud_from_message(message: PointCloud2) -> PointCloud:
    """The cloud of a message, as a view of its bytes."""
    return PointCloud(
        height=message.height,
        width=message.width,
        fields=tuple(
            clouds.PointField(field.name, field.offset, field.datatype, field.count)
            for field in message.fields
        ),
        is_bigendian=bool(message.is_bigendian),
        point_step=message.point_step,
        row_step=message.row_step,
        data=message.data,
        is_dense=bool(message.is_dense),
    )


def message_from_cloud(header: Header, cloud: PointCloud) -> PointCloud2:
    """A message of a cloud; it shares the cloud's bytes, as in `image_from_array`."""
    message = PointCloud2(
        header=header,
        height=cloud.height,
        width=cloud.width,
        fields=[
            PointField(
                name=field.name, offset=field.offset, datatype=field.datatype, count=field.count
            )
            for field in cloud.fields
        ],
        is_bigendian=cloud.is_bigendian,
        point_step=cloud.point_step,
        row_step=cloud.row_step,
        is_dense=cloud.is_dense,
    )
    message._data = cloud.data
    return message


def nanoseconds(stamp: Time) -> int:
    """A stamp as integer nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _rgb_from_cv_bridge(message: Image) -> npt.NDArray[np.uint8]:
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise ImageError(
            f"encoding {message.encoding!r}: expected one of {', '.join(imaging.ENCODINGS)}; "
            "for others install cv_bridge (apt install ros-$ROS_DISTRO-cv-bridge)"
        ) from error
    try:
        rgb: npt.NDArray[np.uint8] = CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except Exception as error:  # CvBridgeError, or a ValueError of its numpy view
        raise ImageError(f"encoding {message.encoding!r}: cv_bridge says {error}") from error
    return rgb
