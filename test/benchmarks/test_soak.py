# SPDX-License-Identifier: Apache-2.0
"""The judgement of the soak, its garbage, and a short run against the real node."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 workspace")

from rcl_interfaces.msg import ParameterType, ParameterValue
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from benchmarks import soak, soak_camera
from sfseg_ros.errors import ImageError
from sfseg_ros.nodes.messages import picture_from_message

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = {"memory_mib": 100.0, "shared_mib": 10.0, "threads": 20, "files": 25}
COUNTS = {"in": 10, "out": 6, "replaced": 2, "rejected": 1, "unwatched": 1, "pending": 0, "lost": 5}

NO_GROWTH = {"memory_mib": 1.0, "shared_mib": 0.0, "threads": 0.0, "files": 0.0}


def report(**changes):
    """The report of a run without fault."""
    cycle = {"minutes": 1.0, "resources": dict(RESOURCES), "counts": {"frames": dict(COUNTS)}}
    return {
        "broken": [],
        "cycles": [json.loads(json.dumps(cycle)) for _ in range(12)],
        "growth": NO_GROWTH,
        "masks": {"received": 6, "wrong_size": 0},
        "log": {"tracebacks": 0},
        "exit_code": 0,
    } | changes


def test_a_run_without_fault_passes():
    assert soak.failures(report()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"broken": ["set_parameters was not answered"]}, "not answered"),
        ({"growth": NO_GROWTH | {"memory_mib": 500.0}}, "memory_mib grew by 500 "),
        ({"growth": NO_GROWTH | {"threads": 1.0}}, "threads grew by 1 "),
        ({"growth": NO_GROWTH | {"files": 2.0}}, "files grew by 2 "),
        ({"masks": {"received": 6, "wrong_size": 2}}, "2 masks of another size"),
        ({"log": {"tracebacks": 1}}, "1 exceptions"),
        ({"exit_code": -11}, "exit code -11"),
        ({"exit_code": None}, "exit code None"),
    ],
)
def test_each_fault_is_a_failure(changes, words):
    found = soak.failures(report(**changes))
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("counter", "number", "words"),
    [("out", 5, "1 of 10 frames unaccounted for"), ("in", 9, "-1 of 9"), ("out", 0, "nothing")],
)
def test_frames_that_do_not_add_up_are_a_failure(counter, number, words):
    broken = report()
    broken["cycles"][-1]["counts"]["frames"][counter] = number
    assert any(words in line for line in soak.failures(broken))


def test_a_short_run_is_too_short_to_see_a_leak():
    broken = report(growth=NO_GROWTH | {"memory_mib": 500.0})
    del broken["cycles"][3:]
    assert soak.failures(broken) == []


def test_pending_frames_explain_nothing():
    values = {"frames_in": "10", "frames_out": "9", "frames_pending": "1", "backend": "x"}
    counts = soak.frame_counts(values)
    assert counts == {"in": 10, "out": 9, "pending": 1}
    assert soak.unaccounted(counts) == 1


def test_a_slow_node_is_not_stuck_and_a_silent_one_is():
    late = 10 * soak.STALL_S
    assert not soak.is_stalled(now=late, sent=0.0, last_answer=late - soak.STALL_S / 2)
    assert not soak.is_stalled(now=late, sent=late - 1, last_answer=0.0)
    assert soak.is_stalled(now=late, sent=0.0, last_answer=late - 2 * soak.STALL_S)


def test_memory_taken_early_is_no_growth_and_a_steady_rise_is():
    assert soak.growth([300, 400, 500, 510, 505, 900, 910, 506, 508]) == 1
    assert soak.growth([float(10 * i) for i in range(30)]) == 100


def test_exceptions_and_errors_are_found_in_a_log():
    summary = soak.log_summary(
        [
            "[INFO] [1.0] [segmentation]: ready",
            "[ERROR] [1.0] [segmentation]: cannot load the model: nowhere",
            "Traceback (most recent call last):",
            "The following exception was never retrieved: KeyError",
        ]
    )
    assert summary["tracebacks"] == 2
    assert summary["errors"] == {"cannot load the model: nowhere": 1}


@pytest.mark.parametrize("kind", range(10))
def test_random_values_fit_their_type(kind):
    source = random.Random(kind)
    for _ in range(200):
        value = soak.random_value(source, ParameterValue(type=kind))
        again = deserialize_message(serialize_message(value), ParameterValue)
        assert again.type == value.type <= ParameterType.PARAMETER_STRING_ARRAY


def test_garbage_can_be_sent_and_is_rejected_or_read():
    source, results = random.Random(0), Counter()
    for _ in range(400):
        for make in soak_camera.ODD.values():
            message = make(source)
            content = serialize_message(message)
            assert len(soak_camera.damaged(content, source)) <= len(content)
            if isinstance(message, Image):
                try:
                    results[picture_from_message(message).rgb.ndim] += 1
                except ImageError:
                    results["rejected"] += 1
    assert results["rejected"] > 100
    assert results[3] > 10  # some is right by chance, and so reaches further


def test_good_frames_are_good_and_say_their_size():
    messages = soak_camera.good_messages(random.Random(0), [(37, 53)])
    assert picture_from_message(messages["image"]).rgb.shape == (37, 53, 3)
    assert picture_from_message(messages["image/compressed"]).rgb.shape == (37, 53, 3)
    assert {m.header.frame_id for m in messages.values()} == {"37x53"}
    for encoding in soak_camera.GOOD_ENCODINGS:
        assert picture_from_message(soak_camera.good_image((4, 6), encoding)).rgb.shape == (4, 6, 3)


@pytest.mark.slow
def test_a_short_soak_of_the_real_node_passes(tiny_model, tmp_path):
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.07"]
    command += ["--cycle-seconds", "4", "--cameras", "front", "rear"]
    command += ["--models", str(tiny_model), "--backend", "onnxruntime"]
    command += ["--log", str(tmp_path), "--output", str(tmp_path / "soak.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "soak.json").read_text())
    assert len(document["cycles"]) == 2
    assert set(document["cycles"][-1]["counts"]) == {"front", "rear"}
    assert document["machine"]["commit"]
    assert "passed" in done.stdout
