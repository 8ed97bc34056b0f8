# SPDX-License-Identifier: Apache-2.0
"""Share and age of the images that arrive, by size, rate and transport, with and without profile.

    python -m benchmarks.transport --output benchmarks/transport.json
    python -m benchmarks.transport --output benchmarks/transport.json --markdown

One process receives as the node does (best effort, keep last 1), another is the camera. The age is
the clock at the callback minus the stamp at `publish`. It covers the transport alone: images are
compressed in advance and not decoded. Each case is written as soon as it is measured; a second run
of the command continues where the first stopped. --markdown prints the file as a table.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.camera import size_from_text
from sfseg_ros.installed_files import PROFILE_VARIABLES
from sfseg_ros.tools.machine import machine_facts
from sfseg_ros.tools.processes import ros_environment

SIZES = ("480x640", "720x1280", "1080x1920", "1024x2048")
RATES = (10.0, 30.0)


@dataclass(frozen=True)
class Case:
    """Images of HEIGHTxWIDTH as bgr8 ("raw") or JPEG ("compressed"), publisher's reliability."""

    size: str
    rate_hz: float
    transport: str
    profile: bool
    reliability: str


TRANSPORTS = (  # transport, profile, reliability: the columns of the table
    ("raw", False, "reliable"),
    ("raw", False, "best_effort"),
    ("raw", True, "reliable"),
    ("raw", True, "best_effort"),
    ("compressed", False, "reliable"),
    ("compressed", True, "reliable"),
)


def receive(case: Case, frames: int) -> None:
    """Child process: start the camera, and print the ages in ms of the received images as JSON."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rclpy.time import Time
    from sensor_msgs.msg import CompressedImage, Image

    from sfseg_ros.allocator import keep_large_buffers

    keep_large_buffers()
    rclpy.init(args=[])
    node = rclpy.create_node("transport_receiver")
    ages_ms: list[float] = []

    def on_image(message: Any) -> None:
        stamp = Time.from_msg(message.header.stamp).nanoseconds
        ages_ms.append((node.get_clock().now().nanoseconds - stamp) / 1e6)

    compressed = case.transport == "compressed"
    kind, topic = (CompressedImage, "/image/compressed") if compressed else (Image, "/image")
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(kind, topic, on_image, qos)
    command = [sys.executable, "-m", "benchmarks.camera", "/image", "--size", case.size]
    command += ["--rate", str(case.rate_hz), "--frames", str(frames)]
    command += ["--reliability", case.reliability, *(["--compressed"] if compressed else [])]
    camera = subprocess.Popen(command)
    while camera.poll() is None:
        rclpy.spin_once(node, timeout_sec=0.2)
    print(json.dumps(ages_ms))
    rclpy.shutdown()


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """One case in new processes, because the middleware reads its profile once."""
    environment = ros_environment()
    if not case.profile:
        environment = {k: v for k, v in environment.items() if k not in PROFILE_VARIABLES}
    frames = round(seconds * case.rate_hz)
    command = [sys.executable, "-m", "benchmarks.transport", "--frames", str(frames)]
    command += ["--receive", json.dumps(asdict(case))]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    ages_ms = json.loads(done.stdout)
    row: dict[str, Any] = {**asdict(case), "sent": frames, "arrived": len(ages_ms)}
    if ages_ms:
        p50, p95, p99 = np.percentile(ages_ms, (50, 95, 99)).round(2).tolist()
        row |= {"age_p50_ms": p50, "age_p95_ms": p95, "age_p99_ms": p99}
    return row


def cases(sizes: Sequence[str] = SIZES, rates: Sequence[float] = RATES) -> list[Case]:
    return [Case(size, rate, *way) for size in sizes for rate in rates for way in TRANSPORTS]


def begun(output: Path | None, document: dict[str, Any]) -> dict[str, Any]:
    """Return the document of an earlier start of the same measurement on the same commit, or the
    new one, because a table must not mix two versions."""
    if output is None or not output.exists():
        return document
    before: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    facts = ("processor", "software", "commit")
    same = all(before["machine"].get(fact) == document["machine"].get(fact) for fact in facts)
    return before if same and before["command"] == document["command"] else document


def remaining(document: dict[str, Any], wanted: Sequence[Case]) -> list[Case]:
    """Return the cases of `wanted` that the document lacks."""
    names = tuple(asdict(wanted[0]))
    done = {tuple(row[name] for name in names) for row in document["results"]}
    return [case for case in wanted if tuple(asdict(case).values()) not in done]


def markdown(document: dict[str, Any]) -> str:
    """The results as a table: share that arrived, and age p50 / p99 in ms."""
    head = {
        way: f"{way[0]}, {'our profile' if way[1] else 'defaults'}, {way[2].replace('_', ' ')}"
        for way in TRANSPORTS
    }
    lines = ["| bgr8 image | rate | " + " | ".join(head.values()) + " |"]
    lines.append("| --- " * (len(head) + 2) + "|")
    rows = {
        tuple(row[k] for k in ("size", "rate_hz", "transport", "profile", "reliability")): row
        for row in document["results"]
    }
    for size, rate in dict.fromkeys((key[0], key[1]) for key in rows):
        cells = [_cell(rows.get((size, rate, *way))) for way in TRANSPORTS]
        lines.append(f"| {size} | {rate:g} Hz | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not measured"
    text = f"{100 * row['arrived'] / row['sent']:.0f} %"
    return text + (f", {row['age_p50_ms']:.1f} / {row['age_p99_ms']:.1f}" if row["arrived"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each case")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="HEIGHTxWIDTH")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="in Hz")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--markdown", action="store_true", help="print --output, measure nothing")
    parser.add_argument("--receive", help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.receive:
        return receive(Case(**json.loads(args.receive)), args.frames)
    if args.markdown:
        if args.output is None:
            parser.error("--markdown: which file? Give --output")
        return print(markdown(json.loads(args.output.read_text(encoding="utf-8"))))
    for size in args.sizes:
        size_from_text(size)
    new = {
        "command": f"python -m benchmarks.transport --seconds {args.seconds:g}",
        "machine": dict(machine_facts()),
        "load_average_at_start": round(os.getloadavg()[0], 1),
        "results": [],
    }
    document = begun(args.output, new)
    for case in remaining(document, cases(args.sizes, args.rates)):
        document["results"].append(measure(case, args.seconds))
        print(json.dumps(document["results"][-1]), flush=True)
        if args.output:
            args.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(markdown(document))


if __name__ == "__main__":
    main()
