# SPDX-License-Identifier: Apache-2.0
"""A camera for the measurements: publishes one picture repeatedly with current stamps.

    python -m benchmarks.camera /image --size 1024x2048 --rate 30 --frames 300

Waits for a subscription, publishes bgr8 (with --compressed: JPEG on /image/compressed) and ends.
"""

import argparse
import re
import time
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

SETTLE_S = 1.0
"""Pause in seconds before the first and after the last image: discovery and delivery continue
after `get_subscription_count` and `publish` return."""


def size_from_text(text: str) -> tuple[int, int]:
    """(height, width) of HEIGHTxWIDTH."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH such as 480x640")
    return int(match[1]), int(match[2])


def picture(size: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 (height, width, 3) with edges and smooth parts, a realistic load for JPEG."""
    height, width = size
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (9, 16, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = random.integers(0, 8, (height, width, 3), np.uint8)
    return np.asarray(cv2.add(smooth, noise), np.uint8)


def raw_message(bgr: npt.NDArray[np.uint8]) -> Image:
    """bgr8 message of uint8 (H, W, 3)."""
    height, width = bgr.shape[:2]
    message = Image(height=height, width=width, encoding="bgr8", step=width * 3)
    message.header.frame_id = "camera_optical"
    # As sfseg_ros/nodes/messages.py, without the copy.
    message._data = memoryview(bgr).cast("B")  # type: ignore[arg-type]
    return message


def compressed_message(bgr: npt.NDArray[np.uint8]) -> CompressedImage:
    """JPEG message of uint8 (H, W, 3)."""
    message = CompressedImage(format="jpeg")
    message.header.frame_id = "camera_optical"
    message.data.frombytes(cv2.imencode(".jpg", bgr)[1].tobytes())
    return message


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("topic", help="without /compressed")
    parser.add_argument("--size", type=size_from_text, default=(480, 640), help="HEIGHTxWIDTH")
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable")
    parser.add_argument("--compressed", action="store_true")
    args = parser.parse_args(argv)
    rclpy.init(args=[])
    node = rclpy.create_node("benchmark_camera")
    kind, suffix = (CompressedImage, "/compressed") if args.compressed else (Image, "")
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[args.reliability.upper()])
    publisher = node.create_publisher(kind, args.topic + suffix, qos)
    bgr = picture(args.size)
    message = compressed_message(bgr) if args.compressed else raw_message(bgr)
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    time.sleep(SETTLE_S)
    begin = time.monotonic()
    for index in range(args.frames):
        time.sleep(max(0.0, begin + index / args.rate - time.monotonic()))
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    time.sleep(SETTLE_S)
    rclpy.shutdown()


if __name__ == "__main__":
    main()
