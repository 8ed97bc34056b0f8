# SPDX-License-Identifier: Apache-2.0
"""A real node on real rclpy: one executor for the node, one for the test's side of the topics."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("rclpy") is None:
    collect_ignore_glob = ["test_*.py"]
    warnings.warn(
        "test/nodes does not run without rclpy: source a ROS 2 workspace, or install "
        "requirements/runtime.in",
        stacklevel=1,
    )
else:
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rcl_interfaces.msg import Log
    from rcl_interfaces.srv import SetParameters
    from rclpy.exceptions import InvalidHandle
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage, Image

    from sfseg_ros.nodes.segmentation_node import SegmentationNode
    from sfseg_ros.tools.processes import unused_domain

WAIT_S = 30.0
"""Maximum wait for any condition: a loaded machine may need seconds."""


class Bench:
    """A node under test and a second node as its camera and subscriber, each with a thread."""

    @staticmethod
    def wait_until(condition: Callable[[], Any], what: str) -> Any:
        """Wait for `condition()` to be true; return its value."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.01)
        pytest.fail(f"not within {WAIT_S:.0f} s: {what}")

    @staticmethod
    def rgb_image(rgb: np.ndarray, stamp_s: int = 7) -> Image:
        """An rgb8 message of uint8 (H, W, 3) with the given stamp."""
        message = Image(
            height=rgb.shape[0], width=rgb.shape[1], encoding="rgb8", step=rgb.shape[1] * 3
        )
        message.header.stamp.sec = stamp_s
        message.header.frame_id = "camera_optical"
        message.data.frombytes(rgb.tobytes())
        return message

    @staticmethod
    def three_stripes(height: int = 96, width: int = 128) -> np.ndarray:
        """Red, green and blue from left to right: labels 0, 1 and 2 of the tiny model."""
        rgb = np.zeros((height, width, 3), np.uint8)
        for label, columns in enumerate(np.array_split(np.arange(width), 3)):
            rgb[:, columns, label] = 255
        return rgb

    def __init__(self, model: Path) -> None:
        self._model = model
        self.context = rclpy.Context()
        self.context.init(args=None, domain_id=unused_domain())
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._under_test: list[SegmentationNode] = []
        self.tester = rclpy.create_node("tester", context=self.context)
        self.diagnostics: list[dict[str, str]] = []
        self.tester.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=10)
        )
        self._log: list[str] = []
        self.tester.create_subscription(
            Log, "/rosout", lambda line: self._log.append(line.msg), QoSProfile(depth=100)
        )
        self._spin(self.tester)

    def log(self) -> str:
        """The log of the node, from /rosout: reading pytest's capfd repeatedly loses lines that are
        written at the same time."""
        return "\n".join(self._log)

    def start(self, **parameters: Any) -> SegmentationNode:
        """A node with the tiny model on ONNX Runtime; active unless `autostart` is False."""
        values = {
            "model_dir": str(self._model),
            "file_roots": [str(self._model.parent)],  # contains all temporary folders
            "backend": "onnxruntime",
        } | parameters
        node = SegmentationNode(
            context=self.context,
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )
        self._under_test.append(node)
        self._spin(node)
        node.autostart()
        return node

    def started(self, **parameters: Any) -> SegmentationNode:
        node = self.start(**parameters)
        self.wait_until(lambda: node.state_label == "active", "the node is active")
        return node

    def listen(self, topic: str, kind: Any = None, qos: Any = 10) -> list[Any]:
        """The list that receives the messages of `topic`; the publisher is matched already."""
        heard: list[Any] = []
        self.tester.create_subscription(kind or Image, topic, heard.append, qos)
        self.wait_until(lambda: self.tester.count_publishers(topic), f"{topic} is published")
        publisher = self._publisher(topic)
        if publisher is not None:
            self.wait_until(publisher.get_subscription_count, f"{topic} knows its listener")
        return heard

    def camera(self, kind: Any = None, topic: str = "image") -> Any:
        """A publisher that the node has subscribed to."""
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        publisher = self.tester.create_publisher(kind or Image, topic, qos)
        self.wait_until(publisher.get_subscription_count, f"the node listens to {topic}")
        return publisher

    def compressed_camera(self) -> Any:
        return self.camera(CompressedImage, "image/compressed")

    def counts(self, node: SegmentationNode, camera: int = 0) -> dict[str, int]:
        counts = node._cameras[camera].mailbox.counts
        return {**vars(counts), "pending": counts.pending}

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """The response of a service of the node under test."""
        client = self.tester.create_client(kind, f"/segmentation/{name}")
        self.wait_until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.wait_until(future.done, f"an answer of {name}")
        return future.result()

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter of the node under test, as another node would; return the result."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def _publisher(self, topic: str) -> Any:
        for node in self._under_test:
            for publisher in node.publishers:
                if publisher.topic_name == topic:
                    return publisher
        return None

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            self.diagnostics.append(
                {
                    "name": status.name,
                    "level": str(status.level[0]),
                    "message": status.message,
                    **{pair.key: pair.value for pair in status.values},
                }
            )

    def _spin(self, node: Any) -> None:
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def run() -> None:
            while not self._closing.is_set():
                with contextlib.suppress(InvalidHandle):  # as `spin` of nodes/middleware.py
                    executor.spin_once(timeout_sec=0.1)
            executor.shutdown()

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        for node in self._under_test:
            node.close()
        self._closing.set()
        for thread in self._threads:
            thread.join()
        for node in (*self._under_test, self.tester):
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def bench(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    bench = Bench(tiny_model)
    yield bench
    bench.close()
    left = [t.name for t in threading.enumerate() if t.name.startswith("sfseg_")]
    assert left == [], "threads outlive the node"
