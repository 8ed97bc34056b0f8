# SPDX-License-Identifier: Apache-2.0
"""The message on /diagnostics; sfseg_ros/frames/health.py decides level and text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from sfseg_ros.frames.health import (
    DEFAULT_THRESHOLDS,
    StreamState,
    Thresholds,
    findings,
    judge,
    rates,
)
from sfseg_ros.frames.latency import FrameTimes
from sfseg_ros.segmenter import Segmenter


@dataclass(frozen=True)
class ModelIdentity:
    """The loaded model and its backend; all fields are empty without a model.

    sha256: of the ONNX file. backend: its description. reason: why this backend was chosen.
    """

    name: str = ""
    sha256: str = ""
    backend: str = ""
    precision: str = ""
    reason: str = ""

    @classmethod
    def of(cls, segmenter: Segmenter | None) -> "ModelIdentity":
        """The identity of a loaded model; `segmenter` is None without one."""
        if segmenter is None:
            return cls()
        manifest, backend = segmenter.manifest, segmenter.backend
        return cls(
            manifest.name,
            manifest.onnx_sha256,
            backend.description,
            backend.precision,
            backend.reason,
        )


def camera_status(
    node: Node,
    camera: str,
    state: StreamState,
    before: StreamState,
    times: FrameTimes,
    model: ModelIdentity,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    more: Mapping[str, object] | None = None,
) -> DiagnosticStatus:
    """The status of one camera; `camera` is "" for a single camera, `more` is appended.

    Counts start with the node and add up: frames_in = frames_out + frames_replaced +
    frames_rejected + frames_unwatched + frames_skipped + frames_pending. Rates cover the time since
    the state `before`, percentiles the last frames.
    """
    level, message = judge(state, before, thresholds)
    found = findings(state, before, thresholds)
    counts = state.counts
    in_hz, out_hz = rates(state, before)
    values: dict[str, object] = {
        "enabled": str(state.enabled).lower(),
        "frames_in": counts.received,
        "frames_out": counts.segmented,
        "frames_replaced": counts.replaced,
        "frames_rejected": counts.rejected,
        "frames_unwatched": counts.unwatched,
        "frames_skipped": counts.skipped,
        "frames_pending": counts.pending,
        "frames_lost": state.lost,
        "frames_too_old": state.too_old,
        "rate_in_hz": f"{in_hz:.2f}",
        "rate_out_hz": f"{out_hz:.2f}",
        "silent_s": f"{state.silent_s:.1f}",
        "publishers": state.cameras,
    }
    if state.age_ms is not None:
        values["age_ms"] = f"{state.age_ms:.2f}"
    for step in FrameTimes.STEPS:
        if (percentiles := times.percentiles(step)) is not None:
            for name, value_ms in zip(("p50", "p95", "p99"), percentiles, strict=True):
                values[f"{step}_{name}_ms"] = f"{value_ms:.2f}"
    values |= {
        "backend": model.backend,
        "backend_reason": model.reason,
        "precision": model.precision,
        "model": model.name,
        "model_sha256": model.sha256[:12],
        "loading": state.loading,
        "findings": "; ".join(text for _, text in found),
        "last_error": state.load_error or state.model_error or state.frame_error,
        **(more or {}),
    }
    return DiagnosticStatus(
        level=bytes([level]),
        name=f"{node.get_fully_qualified_name().lstrip('/')}: {camera or 'frames'}",
        message=message,
        hardware_id=model.name,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def array_from_statuses(node: Node, statuses: Sequence[DiagnosticStatus]) -> DiagnosticArray:
    """The statuses of a node, stamped with the time of its clock."""
    array = DiagnosticArray(status=list(statuses))
    array.header.stamp = node.get_clock().now().to_msg()
    return array
