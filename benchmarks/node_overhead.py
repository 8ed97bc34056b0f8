# SPDX-License-Identifier: Apache-2.0
"""Measure the overhead of the node: from the arrival of an image to the `publish` of its mask.

    python -m benchmarks.node_overhead --output benchmarks/node_overhead.json

The real node runs in its own process with a backend that answers at once. A second process is the
camera; this process subscribes to the outputs. Times are taken outside the node's code: when rclpy
calls the subscription, and when the mask's `publish` is called and returns. The steps are those
that the node reports in /diagnostics. Ends with status 1 if a limit is exceeded.
"""

import argparse
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sfseg_ros.tools.machine import machine_facts
from sfseg_ros.tools.processes import ros_environment

LIMIT_MS = {"p50": 3.0, "p99": 6.0}
IDLE_LIMIT_PERCENT = 2.0
SIZE = (1024, 2048)
WARM_UP_S = 2.0
OUTPUTS = ("mask", "confidence", "color_mask", "overlay")
THIS_PROGRAM = [sys.executable, "-m", "benchmarks.node_overhead"]


@dataclass(frozen=True)
class Case:
    """One measurement: frames per second (0: no camera), subscribed outputs, input of the network,
    and whether the node keeps its large buffers (sfseg_ros/allocator.py)."""

    name: str
    rate: float
    outputs: tuple[str, ...]
    network_size: str = "auto"
    limited: bool = False
    keeps_buffers: bool = True


CASES = (
    Case("idle", 0, ()),
    Case("no subscriber", 10, ()),
    Case("mask at 10 Hz", 10, ("mask",), limited=True),
    Case("mask at 10 Hz, buffers not kept", 10, ("mask",), keeps_buffers=False),
    Case("mask at 30 Hz", 30, ("mask",), limited=True),
    Case("mask at 10 Hz, network at 1024x2048", 10, ("mask",), "1024x2048", limited=True),
    Case("all images at 10 Hz", 10, OUTPUTS),
)


class InstantBackend:
    """Returns prepared labels for each size, so that only the node takes time."""

    name, description, reason = "instant", "answers at once", "the node alone is measured"
    precision = "none"

    def __init__(self) -> None:
        self._labels: dict[tuple[int, ...], npt.NDArray[np.uint8]] = {}

    def infer(
        self, rgb: npt.NDArray[np.uint8], confidence: bool
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """See `Backend`. The arrays are read-only, because they are returned again."""
        shape = rgb.shape[:3]
        if shape not in self._labels:
            labels = np.random.default_rng(0).integers(0, 11, shape, np.uint8)
            labels.setflags(write=False)
            self._labels[shape] = labels
        return self._labels[shape], self._labels[shape] if confidence else None

    def close(self) -> None:
        """Nothing to release."""


class Tape:
    """Times of each frame in the node's process in nanoseconds, by the stamp of its image: its age
    on arrival; arrival, call and return of `publish` on a monotonic clock."""

    def __init__(self) -> None:
        self._taken: dict[int, tuple[int, int]] = {}
        self.frames: list[tuple[int, int, int, int]] = []

    def install(self) -> None:
        """Record the calls between rclpy and the node."""
        from rclpy.node import Node
        from rclpy.publisher import Publisher
        from sensor_msgs.msg import Image

        create_subscription, publish = Node.create_subscription, Publisher.publish

        def measured_subscription(
            node: Node, kind: type, topic: str, callback: Callable[..., None], *args: Any, **kw: Any
        ) -> Any:
            @functools.wraps(callback)  # rclpy looks at the number of its arguments
            def taken(message: Any, *info: Any) -> None:
                stamp_ns = _stamp_ns(message)
                self._taken[stamp_ns] = (time.time_ns() - stamp_ns, time.monotonic_ns())
                callback(message, *info)

            wanted = taken if kind is Image else callback
            return create_subscription(node, kind, topic, wanted, *args, **kw)

        def measured_publish(publisher: Publisher, message: Any) -> None:
            handed_ns = time.monotonic_ns()
            publish(publisher, message)
            if publisher.topic_name.endswith("/mask"):
                age_ns, taken_ns = self._taken.pop(_stamp_ns(message))
                self.frames.append((age_ns, taken_ns, handed_ns, time.monotonic_ns()))

        Node.create_subscription = measured_subscription  # type: ignore[assignment]
        Publisher.publish = measured_publish  # type: ignore[method-assign, assignment]


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def run_node(tape_file: Path, keeps_buffers: bool, ros_arguments: Sequence[str]) -> None:
    """The child process: the node with tape and instant backend, until SIGINT."""
    from sfseg_ros import segmenter
    from sfseg_ros.nodes import segmentation_node

    segmenter.open_backend = lambda *_, **__: InstantBackend()  # type: ignore[attr-defined, assignment]
    if not keeps_buffers:
        segmentation_node.keep_large_buffers = lambda: None  # type: ignore[attr-defined]
    tape = Tape()
    tape.install()
    segmentation_node.main(list(ros_arguments))
    tape_file.write_text(json.dumps(tape.frames), encoding="utf-8")


class Listener:
    """This process's side of the topics."""

    def __init__(self, outputs: Sequence[str]) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        self._rclpy = rclpy
        self._node = rclpy.create_node("benchmark_listener")
        self.diagnostics: dict[str, str] = {}
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        for output in outputs:  # raw: this side is not measured, so it decodes nothing
            topic = f"/segmentation/{output}"
            self._node.create_subscription(Image, topic, lambda _: None, qos, raw=True)

    def _on_diagnostics(self, array: Any) -> None:
        for status in array.status:
            values = {pair.key: pair.value for pair in status.values}
            if "frames_in" in values:
                self.diagnostics = {"message": status.message, **values}

    def spin_until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise SystemExit(f"node_overhead: not within {timeout_s:.0f} s: {what}")
            self._rclpy.spin_once(self._node, timeout_sec=0.1)

    def spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.spin_until(lambda: time.monotonic() >= end, seconds + 10, "time passes")

    def close(self) -> None:
        self._node.destroy_node()


@contextmanager
def running(command: Sequence[str]) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a child process and send it Ctrl-C at the end."""
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its threads so far (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(case: Case, seconds: float, folder: Path) -> dict[str, Any]:
    """One case in new processes."""
    tape_file = folder / "tape.json"
    parameters = ["backend:=auto", "autostart:=true", f"network_size:={case.network_size}"]
    node_command = [*THIS_PROGRAM, "--role", str(tape_file)]
    node_command += [] if case.keeps_buffers else ["--buffers-not-kept"]
    node_command += ["--ros-args", "--log-level", "warn"]
    node_command += [word for parameter in parameters for word in ("-p", parameter)]
    frames = round((seconds + WARM_UP_S) * case.rate)
    camera_command = [sys.executable, "-m", "benchmarks.camera", "/image"]
    camera_command += ["--size", f"{SIZE[0]}x{SIZE[1]}"]
    camera_command += ["--rate", str(case.rate), "--frames", str(frames)]
    listener = Listener(case.outputs)
    row: dict[str, Any] = {"case": case.name, "outputs": list(case.outputs), "rate_hz": case.rate}
    try:
        with running(node_command) as node:
            active = "publishes the input topic"  # an active node without a camera reports this
            listener.spin_until(
                lambda: active in listener.diagnostics.get("message", ""), 60, "the node is active"
            )
            listener.spin_for(WARM_UP_S)
            cpu, begin = cpu_seconds(node.pid), time.monotonic()
            if case.rate:
                with running(camera_command) as camera:
                    listener.spin_until(
                        lambda: camera.poll() is not None, seconds * 3 + 30, "the camera ends"
                    )
            else:
                listener.spin_for(seconds)
            cpu, elapsed = cpu_seconds(node.pid) - cpu, time.monotonic() - begin
            listener.spin_for(1.5)  # the last diagnostics
    finally:
        listener.close()
    values = listener.diagnostics
    row["cpu_percent"] = round(100 * cpu / elapsed, 2)
    row["counts"] = {k: int(v) for k, v in values.items() if re.fullmatch(r"frames_\w+", k)}
    taken = row["counts"]["frames_in"]
    if taken:
        row["cpu_ms_per_frame"] = round(1e3 * cpu / taken, 2)
    if moments := json.loads(tape_file.read_text(encoding="utf-8")):
        skip = round(WARM_UP_S * case.rate)
        age, begin_ns, handed, published = np.array(moments, np.int64)[skip:].T
        row["frames"] = len(age)
        row["added_ms"] = percentiles((handed - begin_ns) / 1e6)
        row["added_with_publish_ms"] = percentiles((published - begin_ns) / 1e6)
        row["age_when_taken_ms"] = percentiles(age / 1e6)
    steps: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        if match := re.fullmatch(r"(\w+)_(p50|p95|p99)_ms", key):
            steps.setdefault(match[1], {})[match[2]] = float(value)
    row["steps_ms"] = steps
    return row


def percentiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).round(3).tolist()
    return {"p50": p50, "p95": p95, "p99": p99}


def breaches(case: Case, row: dict[str, Any]) -> list[str]:
    """Return one line for each limit that the case exceeds."""
    found = []
    if case.rate == 0 and row["cpu_percent"] >= IDLE_LIMIT_PERCENT:
        found.append(f"{case.name}: {row['cpu_percent']} % of a processor, limit 2 %")
    if case.limited:
        for name, limit in LIMIT_MS.items():
            if row["added_ms"][name] > limit:
                found.append(f"{case.name}: {name} {row['added_ms'][name]} ms, limit {limit} ms")
    return found


def text_of(row: dict[str, Any]) -> str:
    """A few lines for people."""
    lines = [f"{row['case']}: {row['cpu_percent']} % of a processor"]
    if "cpu_ms_per_frame" in row:
        lines[0] += f", {row['cpu_ms_per_frame']} ms a frame"
    shown: dict[str, Any] = {
        name: row[name] for name in ("added_ms", "added_with_publish_ms") if name in row
    }
    shown |= {f"  {step}": values for step, values in row["steps_ms"].items()}
    for name, values in shown.items():
        figures = "  ".join(f"{p} {values[p]:7.2f}" for p in ("p50", "p95", "p99"))
        lines.append(f"    {name:24}{figures}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case")
    parser.add_argument("--only", default="", help="the cases whose name contains this")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--role", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--buffers-not-kept", action="store_true", help=argparse.SUPPRESS)
    args, ros_arguments = parser.parse_known_args()
    if args.role:
        run_node(args.role, not args.buffers_not_kept, ros_arguments)
        return 0
    os.environ.update(ros_environment())
    import rclpy

    load, rows, found = os.getloadavg()[0], [], []
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if args.only in case.name:
                rows.append(measure(case, args.seconds, Path(folder)))
                print(text_of(rows[-1]), flush=True)
                found += breaches(case, rows[-1])
    rclpy.shutdown()
    if args.output:
        document = {
            "command": "python -m benchmarks.node_overhead",
            "image": f"bgr8 {SIZE[0]}x{SIZE[1]}",
            "limits": {"added_ms": LIMIT_MS, "idle_cpu_percent": IDLE_LIMIT_PERCENT},
            "machine": dict(machine_facts()),
            "load_average_at_start": round(load, 1),
            "results": rows,
        }
        args.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(found) or "all limits kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
