# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message

from sfseg_ros.frames.health import StreamState, Thresholds
from sfseg_ros.frames.latency import FrameTimes
from sfseg_ros.frames.mailbox import FrameCounts
from sfseg_ros.nodes.diagnostics import (
    ModelIdentity,
    array_from_statuses,
    camera_status,
)
from sfseg_ros.tools.processes import unused_domain

SECOND_NS = 1_000_000_000
COUNTS = FrameCounts(received=110, segmented=60, replaced=20, rejected=10, unwatched=10, skipped=9)
BEFORE = StreamState("active", replace(COUNTS, received=100, segmented=55), time_ns=SECOND_NS)
STATE = StreamState(
    "active", COUNTS, lost=3, cameras=1, age_ms=41.5, time_ns=3 * SECOND_NS, too_old=4
)
MODEL = ModelIdentity("tiny", "0123456789abcdef", "ONNX Runtime 1.31, fp32", "fp32")


@pytest.fixture(scope="module")
def node():
    context = rclpy.Context()
    context.init(args=None, domain_id=unused_domain())
    node = Node("segmentation", namespace="robot", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def status_of(node, camera="", state=STATE, thresholds=None, more=None):
    times = FrameTimes()
    times.add(SECOND_NS, latency=41.5, wait=1.0, inference=20.0, publish=2.0)
    status = camera_status(
        node,
        camera,
        state,
        BEFORE,
        times,
        MODEL,
        thresholds or Thresholds(),
        more,
    )
    return status, {pair.key: pair.value for pair in status.values}


def test_each_camera_has_a_status_with_its_name(node):
    array = array_from_statuses(
        node, [status_of(node, camera)[0] for camera in ("", "front", "rear")]
    )
    read = deserialize_message(serialize_message(array), DiagnosticArray)
    assert [status.name for status in read.status] == [
        "robot/segmentation: frames",
        "robot/segmentation: front",
        "robot/segmentation: rear",
    ]
    assert read.header.stamp.sec > 0


def test_the_counts_add_up(node):
    _, values = status_of(node)
    parts = ("out", "replaced", "rejected", "unwatched", "skipped", "pending")
    assert int(values["frames_in"]) == sum(int(values[f"frames_{part}"]) for part in parts) == 110
    assert values["frames_lost"] == "3"
    assert values["frames_too_old"] == "4"


def test_rates_percentiles_and_identity_are_values(node):
    _, values = status_of(node)
    assert (values["rate_in_hz"], values["rate_out_hz"]) == ("5.00", "2.50")
    assert (values["age_ms"], values["latency_p95_ms"]) == ("41.50", "41.50")
    assert values["processing_p95_ms"] == "22.00"
    assert "convert_p50_ms" not in values
    assert (values["model"], values["model_sha256"]) == ("tiny", "0123456789ab")
    assert (values["backend"], values["precision"]) == ("ONNX Runtime 1.31, fp32", "fp32")


def test_the_worst_finding_is_the_message_and_all_are_listed(node):
    state = replace(STATE, frame_error="odd", lost=0, too_old=0, age_ms=350.0)
    status, values = status_of(node, state=state, thresholds=Thresholds(error_age_ms=300.0))
    assert status.level == b"\x02"
    assert status.message == "results are 350 ms old, limit 300"
    assert values["findings"] == status.message
    assert values["last_error"] == "odd"
    state = replace(state, lost=2)
    _, values = status_of(node, state=state, thresholds=Thresholds(error_age_ms=300.0))
    assert values["findings"] == "2 frames lost by the middleware; " + status.message


def test_more_values_are_appended(node):
    _, values = status_of(node, more={"clouds_made": 7})
    assert values["clouds_made"] == "7"
