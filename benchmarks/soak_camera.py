# SPDX-License-Identifier: Apache-2.0
"""A faulty camera for benchmarks/soak.py: publishes random garbage between good frames.

    python -m benchmarks.soak_camera --prefix front/ --rate 20 --garbage 0.3

Besides images it publishes the node's other inputs (calibration, depth, a lidar's cloud), each
topic only while it has a subscription. Good frames sometimes change their size and encoding.
`header.frame_id` has their HEIGHTxWIDTH, so that a subscriber can check the mask's size.
"""

import argparse
import random
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from benchmarks.camera import SETTLE_S, compressed_message, picture, raw_message, size_from_text
from sfseg_ros.imaging import ENCODINGS

SIZES = ((480, 640), (720, 1280), (376, 1241), (1024, 2048), (37, 53))
FRAMES_PER_SIZE = 40
GOOD_ENCODINGS = {"bgr8": 3, "rgb8": 3, "mono8": 1, "8UC3": 3}
UINT32 = (0, 1, 2, 3, 640, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
OTHER_ENCODINGS = ("", "32FC1", "16UC1", "nv12", "bgr9", "RGB8", " ", "\x00", "ü" * 300)
FLOATS = (0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), 500.0)
MAX_GARBAGE_BYTES = 200_000


def some_uint32(source: random.Random) -> int:
    return source.choice((*UINT32, source.randrange(2000)))


def some_bytes(source: random.Random) -> "array[int]":
    return array("B", source.randbytes(source.choice((0, 1, 7, 100, 4096, MAX_GARBAGE_BYTES))))


def some_floats(source: random.Random, number: int) -> list[float]:
    return [source.choice((*FLOATS, source.uniform(-1e3, 1e3))) for _ in range(number)]


def some_header(source: random.Random) -> Header:
    stamp = Time(
        sec=source.choice((0, 1, -1, -(2**31), 2**31 - 1, int(time.time()))),
        nanosec=source.choice((0, 10**9, 2**32 - 1, source.randrange(10**9))),
    )
    return Header(stamp=stamp, frame_id=source.choice(("", "odd", "/", "ä\n" * 50)))


def odd_image(source: random.Random) -> Image:
    """Random fields; sometimes only one of them is wrong, which gets further into a parser."""
    if source.random() < 0.5:
        height, width = source.randrange(1, 300), source.randrange(1, 300)
        encoding = source.choice((*ENCODINGS, *OTHER_ENCODINGS))
        step = width * source.choice((1, 2, 3, 4, 6)) + source.choice((0, 0, 5))
        length = max(0, height * step + source.choice((0, 0, 0, -1, 1, -step, step)))
        data = array("B", bytes(length))
    else:
        height, width, step = (some_uint32(source) for _ in range(3))
        encoding = source.choice((*ENCODINGS, *OTHER_ENCODINGS))
        data = some_bytes(source)
    return Image(
        header=some_header(source),
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=source.choice((0, 1, 2, 255)),
        data=data,
    )


def odd_compressed(source: random.Random) -> CompressedImage:
    """Random bytes, or a JPEG that is truncated or has wrong bytes."""
    message = CompressedImage(header=some_header(source))
    message.format = source.choice(("jpeg", "png", "", "bgr8; jpeg compressed bgr8", "h264"))
    if source.random() < 0.3:
        message.data = some_bytes(source)
        return message
    good = compressed_message(picture((48, 64))).data
    message.data = array("B", damaged(bytes(good), source, first=2))
    return message


def odd_camera_info(source: random.Random) -> CameraInfo:
    """Calibrations of impossible sizes and numbers."""
    message = CameraInfo(header=some_header(source))
    message.height, message.width = some_uint32(source), some_uint32(source)
    message.distortion_model = source.choice(("plumb_bob", "equidistant", "", "fisheye9"))
    message.d = some_floats(source, source.choice((0, 4, 5, 8, 3, 100)))
    message.k, message.r = some_floats(source, 9), some_floats(source, 9)
    message.p = some_floats(source, 12)
    message.binning_x, message.binning_y = some_uint32(source), some_uint32(source)
    message.roi.x_offset, message.roi.y_offset = some_uint32(source), some_uint32(source)
    message.roi.height, message.roi.width = some_uint32(source), some_uint32(source)
    message.roi.do_rectify = source.random() < 0.5
    return message


def odd_cloud(source: random.Random) -> PointCloud2:
    """Fields that overlap, leave the point, have no such type, or no name."""
    fields = [
        PointField(
            name=source.choice(("x", "y", "z", "rgb", "class", "confidence", "", "ü")),
            offset=source.choice((0, 4, 8, 12, 2**32 - 1)),
            datatype=source.randrange(12),
            count=source.choice((0, 1, 1, 3, 2**32 - 1)),
        )
        for _ in range(source.randrange(6))
    ]
    return PointCloud2(
        header=some_header(source),
        height=some_uint32(source),
        width=some_uint32(source),
        fields=fields,
        is_bigendian=source.random() < 0.5,
        point_step=some_uint32(source),
        row_step=some_uint32(source),
        data=some_bytes(source),
        is_dense=source.random() < 0.5,
    )


def good_image(size: tuple[int, int], encoding: str = "bgr8") -> Image:
    """A picture of `size` (height, width) in one of GOOD_ENCODINGS."""
    bgr = picture(size)
    message = raw_message(bgr if GOOD_ENCODINGS[encoding] == 3 else bgr[:, :, :1].copy())
    message.encoding = encoding
    message.step = size[1] * GOOD_ENCODINGS[encoding]
    return message


def good_depth(size: tuple[int, int]) -> Image:
    """Two metres everywhere, in mm, at half the size of the image."""
    height, width = max(1, size[0] // 2), max(1, size[1] // 2)
    data = array("B", (2000).to_bytes(2, "little") * (height * width))
    return Image(height=height, width=width, encoding="16UC1", step=width * 2, data=data)


def good_camera_info(size: tuple[int, int]) -> CameraInfo:
    height, width = size
    k = [width * 1.0, 0.0, width / 2, 0.0, width * 1.0, height / 2, 0.0, 0.0, 1.0]
    message = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5, k=k)
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    return message


def good_cloud(points: int = 1000) -> PointCloud2:
    """A wall of points in front of the camera, x y z float32."""
    names = ("x", "y", "z")
    fields = [
        PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, n in enumerate(names)
    ]
    coordinates = array("f", (v for i in range(points) for v in (i % 50 / 25 - 1, 0.0, 3.0)))
    message = PointCloud2(height=1, width=points, fields=fields, point_step=12)
    message.row_step, message.is_dense = 12 * points, True
    message.data = array("B", coordinates.tobytes())
    return message


def damaged(content: bytes, source: random.Random, first: int = 4) -> bytes:
    """Truncate a serialised message or file, or change some of its early bytes, but not the
    `first` bytes."""
    changed = bytearray(content)
    if source.random() < 0.5:
        del changed[max(first, source.randrange(len(changed) + 1)) :]
    for _ in range(source.randrange(1, 6)):
        if len(changed) > first:
            changed[source.randrange(first, min(len(changed), 120))] = source.randrange(256)
    return bytes(changed)


GoodMessages = dict[str, Any]


def good_messages(source: random.Random, sizes: Sequence[tuple[int, int]]) -> GoodMessages:
    """A set of messages for one frame, by topic below the prefix."""
    size = source.choice(sizes)
    messages = {
        "image": good_image(size, source.choice(tuple(GOOD_ENCODINGS))),
        "image/compressed": compressed_message(picture(size)),
        "camera_info": good_camera_info(size),
        "depth": good_depth(size),
        "points_in": good_cloud(),
    }
    for message in messages.values():
        message.header.frame_id = f"{size[0]}x{size[1]}"
    return messages


ODD: dict[str, Callable[[random.Random], Any]] = {
    "image": odd_image,
    "image/compressed": odd_compressed,
    "camera_info": odd_camera_info,
    "depth": odd_image,
    "points_in": odd_cloud,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefix", default="", help='of the topics, such as "front/"')
    parser.add_argument("--rate", type=float, default=20.0, help="frames per second")
    parser.add_argument("--garbage", type=float, default=0.3, help="share of the messages, 0 to 1")
    parser.add_argument("--frames", type=int, help="number of frames; default: no end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=size_from_text, nargs="+", default=SIZES)
    args = parser.parse_args(argv)
    source = random.Random(args.seed)
    rclpy.init(args=[])
    node = rclpy.create_node(f"soak_camera_{args.seed}")
    good = good_messages(source, args.sizes)
    publishers = {
        name: node.create_publisher(type(message), f"/{args.prefix}{name}", QoSProfile(depth=1))
        for name, message in good.items()
    }
    if args.frames:
        while not any(p.get_subscription_count() for p in publishers.values()):
            time.sleep(0.05)
        time.sleep(SETTLE_S)
    sent, due = 0, time.monotonic()
    while args.frames is None or sent < args.frames:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / args.rate, time.monotonic() - 1)  # no burst after a long pause
        sent += 1
        if sent % FRAMES_PER_SIZE == 0:
            good = good_messages(source, args.sizes)
        stamp = node.get_clock().now().to_msg()
        for name, publisher in publishers.items():
            if not publisher.get_subscription_count():
                continue
            message = good[name]
            message.header.stamp = stamp
            if source.random() < args.garbage:
                message = ODD[name](source)
                if source.random() < 0.3:
                    message = damaged(serialize_message(message), source)
            publisher.publish(message)
    time.sleep(SETTLE_S)
    rclpy.shutdown()


if __name__ == "__main__":
    main()
