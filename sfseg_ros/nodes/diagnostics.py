# SPDX-License-Identifier: Apache-2.0
"""The message on /diagnostics; what it says is decided in sfseg_ros/health.py."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from sfseg_ros.health import Level, StreamState
from sfseg_ros.latency import FrameTimes


def diagnostic_array(
    node: Node,
    level: Level,
    message: str,
    state: StreamState,
    times: FrameTimes,
    backend: str,
    model: str,
) -> DiagnosticArray:
    """One status. Counts are since the node's start and add up: frames_in = frames_out +
    frames_replaced + frames_rejected + frames_unwatched + frames_pending."""
    counts = state.counts
    values: dict[str, object] = {
        "frames_in": counts.received,
        "frames_out": counts.segmented,
        "frames_replaced": counts.replaced,
        "frames_rejected": counts.rejected,
        "frames_unwatched": counts.unwatched,
        "frames_pending": counts.pending,
        "frames_lost": state.lost,
    }
    for step in FrameTimes.STEPS:
        if (percentiles := times.percentiles(step)) is not None:
            for name, value_ms in zip(("p50", "p95", "p99"), percentiles, strict=True):
                values[f"{step}_{name}_ms"] = f"{value_ms:.2f}"
    values |= {
        "backend": backend,
        "model": model,
        "last_error": state.load_error or state.frame_error,
    }
    array = DiagnosticArray()
    array.header.stamp = node.get_clock().now().to_msg()
    array.status = [
        DiagnosticStatus(
            level=bytes([level]),
            name=f"{node.get_fully_qualified_name().lstrip('/')}: frames",
            message=message,
            hardware_id=model,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
    ]
    return array
