# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and arrays, without a copy where the two agree on the bytes."""

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sfseg_ros import imaging
from sfseg_ros.errors import ImageError


def rgb_from_message(message: "Image | CompressedImage") -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB. A view of the message's bytes for rgb8, else a new array.

    Encodings that `imaging` does not know go through cv_bridge where it is installed.
    Raises ImageError.
    """
    if isinstance(message, CompressedImage):
        return imaging.rgb_from_compressed(message.data)
    if message.encoding not in imaging.ENCODINGS:
        return _rgb_from_cv_bridge(message)
    return imaging.rgb_from_buffer(
        message.data,
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
    )


def image_from_array(header: Header, array: npt.NDArray[np.uint8], encoding: str) -> Image:
    """A message of uint8 (H, W) mono8 or (H, W, 3) rgb8 with the given header.

    The array becomes the message's buffer as it is: `publish` copies it once, into the middleware.
    Hence the private attribute, which the conversion to C reads through the buffer protocol. The
    setter of `data` copies (Jazzy) or, where it checks fields (Humble), looks at each byte in
    Python: 0.1 s for a mask of 2 megapixels. Held by test/nodes/test_messages.py.
    """
    height, width = array.shape[:2]
    message = Image(
        header=header, height=height, width=width, encoding=encoding, step=array[0].nbytes
    )
    message._data = np.ascontiguousarray(array).data.cast("B")
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
