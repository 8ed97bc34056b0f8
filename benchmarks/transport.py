# SPDX-License-Identifier: Apache-2.0
"""How many large images arrive, and how old: with Fast DDS's defaults and with our profile.

    python -m benchmarks.transport --output benchmarks/transport.json

Two processes on one machine: this one receives as the node does (best effort, keep last 1), a child
sends bgr8 images of one size at one rate, reliable or best effort. The age is the clock at the
callback minus the stamp at `publish`. Prints one line per case and writes them as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sfseg_ros.tools.machine import machine_facts

PROFILE = Path(__file__).resolve().parent.parent / "config" / "fastdds_large_images.xml"
THIS_PROGRAM = [sys.executable, "-m", "benchmarks.transport"]
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def send(args: argparse.Namespace) -> None:
    """Child process: wait for the receiver, publish `frames` images, wait for the last to go."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("transport_sender")
    reliability = ReliabilityPolicy[args.reliability.upper()]
    publisher = node.create_publisher(Image, "image", QoSProfile(depth=1, reliability=reliability))
    message = Image(height=args.height, width=args.width, encoding="bgr8", step=args.width * 3)
    message._data = memoryview(np.zeros(args.height * args.width * 3, np.uint8))
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    time.sleep(1.0)  # both sides must know each other
    begin = time.monotonic()
    for index in range(args.frames):
        time.sleep(max(0.0, begin + index / args.rate - time.monotonic()))
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    time.sleep(1.0)
    rclpy.shutdown()


def receive(args: argparse.Namespace) -> None:
    """Child process: print the ages in milliseconds of what arrives, as JSON, when told to end."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rclpy.time import Time
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("transport_receiver")
    ages_ms: list[float] = []

    def on_image(message: Image) -> None:
        stamp = Time.from_msg(message.header.stamp).nanoseconds
        ages_ms.append((node.get_clock().now().nanoseconds - stamp) / 1e6)

    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(Image, "image", on_image, qos)
    sender = subprocess.Popen([*THIS_PROGRAM, *sys.argv[1:], "--role", "send"])
    while sender.poll() is None:
        rclpy.spin_once(node, timeout_sec=0.2)
    print(json.dumps(ages_ms))
    rclpy.shutdown()


def measure(args: argparse.Namespace, with_profile: bool, reliability: str) -> dict[str, object]:
    """Run one case in new processes, because the middleware reads its profile once."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environment["ROS_DOMAIN_ID"] = str(args.domain)
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if with_profile:
        environment |= dict.fromkeys(VARIABLES, str(PROFILE))
    command = [*THIS_PROGRAM, "--role", "receive", "--reliability", reliability]
    for name in ("frames", "rate", "height", "width"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    ages_ms = json.loads(done.stdout)
    row: dict[str, object] = {
        "profile": with_profile,
        "publisher": reliability,
        "sent": args.frames,
        "arrived": len(ages_ms),
    }
    if ages_ms:
        p50, p95, p99 = np.percentile(ages_ms, (50, 95, 99)).round(2).tolist()
        row |= {"age_p50_ms": p50, "age_p95_ms": p95, "age_p99_ms": p99}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--domain", type=int, default=77, help="ROS_DOMAIN_ID of the measurement")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    parser.add_argument("--reliability", default="reliable", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return {"send": send, "receive": receive}[args.role](args)
    load, rows = os.getloadavg()[0], []
    for with_profile in (False, True):
        for reliability in ("reliable", "best_effort"):
            rows.append(measure(args, with_profile, reliability))
            print(json.dumps(rows[-1]), flush=True)
    if args.output:
        document = {
            "command": "python -m benchmarks.transport",
            "image": f"bgr8 {args.height}x{args.width} at {args.rate:g} Hz",
            "machine": dict(machine_facts()),
            "load_average_at_start": round(load, 1),
            "results": rows,
        }
        args.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
