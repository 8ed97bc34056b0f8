# SPDX-License-Identifier: Apache-2.0
"""Single serialised messages (CDR bytes, as the middleware sends them): stamps and content.

Decoding needs the rosbags library, which is imported at first use; no ROS process is needed.
"""

import struct
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BagError, ImageError, one_line
from sfseg_ros.imaging import picture_from_fields
from sfseg_ros.picture_files.decoding import decode_picture

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"

# CDR: 4 bytes of encapsulation, whose second is 1 for little endian, then the message. A message
# that begins with a std_msgs/Header begins with its stamp: int32 seconds, uint32 nanoseconds.
_STAMP_OFFSET = 4
NS_PER_S = 1_000_000_000

LARGEST_MESSAGE_BYTES = 256 * 1024 * 1024
"""A picture of the most pixels that are accepted, in 32 bits per pixel."""


def stamp_of_cdr(cdr: bytes) -> int:
    """Return the header stamp, in nanoseconds, of a message that begins with a Header."""
    seconds, nanoseconds = struct.unpack_from(_stamp_format(cdr), cdr, _STAMP_OFFSET)
    return int(seconds) * NS_PER_S + int(nanoseconds)


def cdr_with_stamp(cdr: bytes, stamp_ns: int) -> bytes:
    """Return the message with another header stamp; all other bytes are unchanged."""
    stamp = struct.pack(_stamp_format(cdr), *divmod(stamp_ns, NS_PER_S))
    return cdr[:_STAMP_OFFSET] + stamp + cdr[_STAMP_OFFSET + len(stamp) :]


def _stamp_format(cdr: bytes) -> str:
    if len(cdr) < _STAMP_OFFSET + 8:
        raise BagError(f"message of {len(cdr)} bytes: too short for a header")
    return "<iI" if cdr[1] & 1 else ">iI"


def message_from_cdr(cdr: bytes, message_type: str) -> Any:
    """Decode a message. Raises BagError if the bytes are not a message of this type."""
    store = typestore()
    try:
        return store.deserialize_cdr(cdr, message_type)
    except Exception as error:  # rosbags raises a wide range of types on damaged bytes
        raise BagError(
            f"{len(cdr)} bytes that are not a {message_type} ({one_line(error)})"
        ) from error


def rgb_from_cdr(cdr: bytes, message_type: str) -> npt.NDArray[np.uint8]:
    """Return uint8 (H, W, 3) RGB of a serialised Image or CompressedImage.

    Raises BagError for a damaged message, ImageError for a picture that cannot be decoded.
    """
    return picture_from_fields(message_from_cdr(cdr, message_type)).rgb


def labels_from_cdr(cdr: bytes, message_type: str) -> npt.NDArray[np.uint8]:
    """Return uint8 (H, W) labels of a mono8 Image or a CompressedImage with a grey PNG.

    Raises BagError.
    """
    message = message_from_cdr(cdr, message_type)
    if message_type == COMPRESSED_IMAGE:
        try:
            data = np.asarray(message.data, np.uint8)
            labels = decode_picture(data, cv2.IMREAD_UNCHANGED, ("PNG",))
        except ImageError as error:
            raise BagError(f"a mask cannot be decoded ({error})") from error
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise BagError("a mask is not a PNG of one 8-bit channel")
        return np.asarray(labels, np.uint8)
    if message.encoding not in ("mono8", "8UC1"):
        raise BagError(f"a mask has encoding {message.encoding[:40]!r}, expected mono8")
    height, width, step = message.height, message.width, message.step
    data = np.asarray(message.data, np.uint8)
    if data.size != height * step or step < width:
        raise BagError(f"a mask of {height}x{width} has {data.size} bytes in rows of {step}")
    return data.reshape(height, step)[:, :width]


def diagnostics_from_cdr(cdr: bytes) -> list[dict[str, str]]:
    """Return one dict per status of a serialised diagnostic_msgs/DiagnosticArray.

    It holds the key-value pairs of the status and its `name` and `message`. Raises BagError.
    """
    array = message_from_cdr(cdr, "diagnostic_msgs/msg/DiagnosticArray")
    return [
        {"name": s.name, "message": s.message, **{v.key: v.value for v in s.values}}
        for s in array.status
    ]


def compressed_image_cdr(data: bytes, image_format: str, stamp_ns: int, frame_id: str) -> bytes:
    """Serialise a CompressedImage; `data` is a picture file, `image_format` "jpeg" or "png"."""
    store = typestore()
    types: Any = store.types
    seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)
    message = types[COMPRESSED_IMAGE](
        header=header, format=image_format, data=np.frombuffer(data, np.uint8)
    )
    return bytes(store.serialize_cdr(message, COMPRESSED_IMAGE))


_STORES: dict[str, "Typestore"] = {}


def typestore() -> "Typestore":
    """Return the standard message definitions of ROS 2 Jazzy, loaded once because that is slow."""
    if "jazzy" not in _STORES:
        try:
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise BagError(
                f"recordings need the rosbags library ({error}): pip install rosbags"
            ) from error

        _STORES["jazzy"] = get_typestore(Stores.ROS2_JAZZY)
    return _STORES["jazzy"]
