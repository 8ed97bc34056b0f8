# SPDX-License-Identifier: Apache-2.0
"""Single messages as the middleware sends them (CDR bytes): their stamp, and what is in them.

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
    """Header stamp in nanoseconds of a serialised message that begins with a Header."""
    seconds, nanoseconds = struct.unpack_from(_stamp_format(cdr), cdr, _STAMP_OFFSET)
    return int(seconds) * NS_PER_S + int(nanoseconds)


def cdr_with_stamp(cdr: bytes, stamp_ns: int) -> bytes:
    """The same message with another header stamp; every other byte as it was."""
    stamp = struct.pack(_stamp_format(cdr), *divmod(stamp_ns, NS_PER_S))
    return cdr[:_STAMP_OFFSET] + stamp + cdr[_STAMP_OFFSET + len(stamp) :]


def _stamp_format(cdr: bytes) -> str:
    if len(cdr) < _STAMP_OFFSET + 8:
        raise BagError(f"message of {len(cdr)} bytes: too short for a header")
    return "<iI" if cdr[1] & 1 else ">iI"


def message_from_cdr(cdr: bytes, message_type: str) -> Any:
    """The decoded message. Raises BagError where the bytes are no message of this type."""
    store = typestore()
    try:
        return store.deserialize_cdr(cdr, message_type)
    except Exception as error:  # rosbags raises whatever its reading of damaged bytes runs into
        raise BagError(
            f"{len(cdr)} bytes that are no {message_type} ({one_line(error)})"
        ) from error


def rgb_from_cdr(cdr: bytes, message_type: str) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB of a serialised Image or CompressedImage. Raises BagError for a damaged
    message, ImageError for a picture that cannot be decoded."""
    return picture_from_fields(message_from_cdr(cdr, message_type)).rgb


def labels_from_cdr(cdr: bytes, message_type: str) -> npt.NDArray[np.uint8]:
    """uint8 (H, W) of a serialised mask: mono8 Image, or CompressedImage with a grey PNG. Raises
    BagError."""
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
    """Key and value pairs of every status of a serialised diagnostic_msgs/DiagnosticArray; `name`
    and `message` of the status stand among them. Raises BagError."""
    array = message_from_cdr(cdr, "diagnostic_msgs/msg/DiagnosticArray")
    return [
        {"name": s.name, "message": s.message, **{v.key: v.value for v in s.values}}
        for s in array.status
    ]


def compressed_image_cdr(data: bytes, image_format: str, stamp_ns: int, frame_id: str) -> bytes:
    """A serialised CompressedImage around an encoded picture; `image_format` is jpeg or png."""
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
    """Definitions of the standard messages as of Jazzy; made once, because it takes a while."""
    if "jazzy" not in _STORES:
        try:
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise BagError(
                f"recordings need the rosbags library ({error}): pip install rosbags"
            ) from error

        _STORES["jazzy"] = get_typestore(Stores.ROS2_JAZZY)
    return _STORES["jazzy"]
