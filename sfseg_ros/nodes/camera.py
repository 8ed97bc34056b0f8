# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: its topics and its counters. nodes/frame_path.py has the path of a
frame."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sfseg_ros.errors import ImageError, SfsegError, one_line
from sfseg_ros.frames.health import StreamState, Thresholds, silence
from sfseg_ros.frames.latency import FrameTimes
from sfseg_ros.frames.log_throttle import LogThrottle
from sfseg_ros.frames.mailbox import BatchWorker, Mailbox
from sfseg_ros.frames.pacing import Pacing
from sfseg_ros.frames.stamp_matching import StampBuffer
from sfseg_ros.imaging import ImageFormat
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.nodes.diagnostics import ModelIdentity, camera_status
from sfseg_ros.nodes.messages import model_from_camera_info, nanoseconds
from sfseg_ros.nodes.middleware import (
    QoSMessageLostInfo,
    image_topic,
    missing_profile,
    subscribe,
)
from sfseg_ros.nodes.parameters import CameraParameters, NodeParameters, Settings
from sfseg_ros.nodes.point_outputs import CloudOutputs
from sfseg_ros.nodes.publishers import LabelPublishers, LatencyPublishers, OutputPublishers
from sfseg_ros.nodes.segmented_frame import SegmentedFrame
from sfseg_ros.points.camera_model import CameraModel

if TYPE_CHECKING:
    from sfseg_ros.nodes.frame_path import ReceivedFrame

CAMERA_INFOS = 32
"""Number of recent calibrations to search by an image's stamp: one second at 30 Hz."""
ANY_AGE_NS = 2**63
MOST_LOST_AT_ONCE = 1_000_000
"""No camera sends this many frames between two reports of the middleware."""


@dataclass(frozen=True)
class CameraPublishers:
    """Everything that the node publishes for one camera."""

    outputs: OutputPublishers
    labels: LabelPublishers
    latency: LatencyPublishers
    clouds: CloudOutputs

    def destroy(self) -> None:
        for each in (self.clouds, self.outputs, self.labels, self.latency):
            each.destroy()


class Camera:
    """The topics and counters of one camera. The executor's thread receives messages, the worker's
    thread runs nodes/frame_path.py, and transition threads call the other methods."""

    def __init__(
        self, node: Any, name: str, settings: Settings, worker: "BatchWorker[ReceivedFrame]"
    ) -> None:
        self._node = node
        self.name = name
        self._prefix = f"{name}/" if name else ""
        self.mailbox: Mailbox[ReceivedFrame] = worker.mailbox()
        self.pacing = Pacing()
        self.apply(settings)
        self.enabled = True
        self.times = FrameTimes()
        self.image_format: ImageFormat | None = None
        """Format of the last image, None before the first."""
        self.snapshots: queue.Queue[tuple[str, SegmentedFrame]] | None = None
        """Queue for the next segmented frame, with or without a subscriber; None: no request."""
        self.heard_ns = time.monotonic_ns()
        """Monotonic time of the last image or of activation, whichever is later."""
        self.frames_too_old = 0
        self._lost = 0
        self._calibrations: StampBuffer[CameraModel] = StampBuffer(CAMERA_INFOS)
        self._calibrations_lock = threading.Lock()  # filled by the executor, read by the worker
        self._topic = ""
        self._subscriptions: list[Subscription] = []
        self._publishers: CameraPublishers | None = None
        self._frame_error = ""
        self._broken = False
        self._warned: set[str] = set()
        self._throttle = LogThrottle()

    def apply(self, settings: Settings) -> None:
        """Use the parameters of `settings` from the next frame on."""
        self.node_parameters: NodeParameters = settings.node
        self.parameters: CameraParameters = settings.camera(self.name)
        self.pacing.max_rate = self.parameters.max_rate
        self.pacing.every_nth = self.parameters.every_nth

    # Transitions.

    def create_publishers(self) -> None:
        self._publishers = CameraPublishers(
            OutputPublishers(self._node, self._prefix),
            LabelPublishers(self._node, self._prefix),
            LatencyPublishers(self._node, self._prefix),
            CloudOutputs(self._node, self._prefix, lambda: self.parameters),
        )

    @property
    def publishers(self) -> CameraPublishers:
        """They exist from `create_publishers` to `release`."""
        assert self._publishers is not None
        return self._publishers

    def publish_labels(self, manifest: Manifest, mapping: LabelMapping) -> None:
        """Publish what the labels mean from the next mask on."""
        if self._publishers is not None:
            threshold = self.node_parameters.confidence_threshold
            self._publishers.labels.publish(manifest, mapping, threshold)

    def subscribe(self, on_image: Callable[[Image | CompressedImage], None]) -> None:
        """Receive calibrations and images; `on_image` is called with each image."""
        transport = self.parameters.image_transport
        self.publishers.clouds.start()
        self.heard_ns = time.monotonic_ns()
        self._warned.clear()
        self._throttle.clear()
        self._topic = image_topic(self._node, f"{self._prefix}image", transport)
        kind = CompressedImage if transport == "compressed" else Image
        info_topic = f"{self._prefix}camera_info"
        self._subscriptions = [
            subscribe(self._node, CameraInfo, info_topic, self._on_camera_info),
            subscribe(self._node, kind, self._topic, on_image, self._on_message_lost),
        ]
        self._node.get_logger().info(f"waiting for images on {self._topic}")

    def unsubscribe(self) -> None:
        if self._publishers is not None:
            self._publishers.clouds.stop()
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def release(self) -> None:
        """Destroy all topics, from any state."""
        self.unsubscribe()
        if self._publishers is not None:
            self._publishers.destroy()
        self._publishers = None

    # The executor's thread.

    def _on_camera_info(self, message: CameraInfo) -> None:
        try:
            model = model_from_camera_info(message)
            with self._calibrations_lock:
                self._calibrations.add(nanoseconds(message.header.stamp), model)
        except SfsegError as error:
            if self._throttle.admits("camera_info"):
                self._node.get_logger().warning(f"{self._prefix}camera_info: {error}")

    def _on_message_lost(self, event: QoSMessageLostInfo) -> None:
        # Fast DDS reports 2**31 lost frames after a publisher was killed (benchmarks/soak.py).
        if not 0 < event.total_count_change < MOST_LOST_AT_ONCE:
            return
        self._lost += event.total_count_change
        if self._throttle.admits("lost"):
            self._node.get_logger().warning(
                f"frames of {self._topic} lost by the middleware so far: {self._lost}. "
                f"{missing_profile() or ''}"
            )

    # The worker's thread.

    def calibration_of(self, stamp_ns: int, image_size: tuple[int, int]) -> CameraModel | None:
        """The calibration nearest in time, or None if it is of another size than the image."""
        with self._calibrations_lock:
            model = self._calibrations.nearest(stamp_ns, ANY_AGE_NS)
        if model is None or model.image_size == image_size or (model.height, model.width) == (0, 0):
            return model
        self.warn_once(
            "{}camera_info is for images of {}x{} (height x width), but the image has {}x{}: "
            "calibration ignored".format(self._prefix, *model.image_size, *image_size)
        )
        return None

    def on_frame_error(self, error: Exception) -> None:
        """Log the error, at most once in a while; /diagnostics has the count."""
        if not self._node.context.ok():
            return  # Ctrl-C between inference and publishing
        self._frame_error, self._broken = one_line(error), not isinstance(error, ImageError)
        what = "failed" if self._broken else "rejected"
        if not self._throttle.admits(what):
            return
        log = self._node.get_logger()
        where = f" of camera {self.name}" if self.name else ""
        text = f"frames{where} {what}, {self.mailbox.counts.rejected} so far: {self._frame_error}"
        if self._broken:
            log.error(text)
        else:
            log.warning(text)

    # Any thread.

    def clock_ns(self) -> int:
        """The time of the node's clock, which a simulation may set."""
        return int(self._node.get_clock().now().nanoseconds)

    def stream_state(self, lifecycle: str, model_error: str, loading: str) -> StreamState:
        """Counters and errors at this moment, for /diagnostics."""
        latency, work = self.times.percentiles("latency"), self.times.percentiles("processing")
        return StreamState(
            lifecycle=lifecycle,
            counts=self.mailbox.counts,
            lost=self._lost,
            cameras=self._node.count_publishers(self._topic) if self._topic else 0,
            silent_s=(time.monotonic_ns() - self.heard_ns) / 1e9,
            age_ms=latency[0] if latency else None,
            frame_error=self._frame_error,
            broken=self._broken,
            enabled=self.enabled,
            time_ns=time.monotonic_ns(),
            too_old=self.frames_too_old,
            processing_ms=work[1] if work else None,
            load_error=model_error if lifecycle == "unconfigured" else "",
            model_error=model_error,
            loading=loading,
        )

    def status(
        self, now: StreamState, before: StreamState, model: ModelIdentity, thresholds: Thresholds
    ) -> DiagnosticStatus:
        """The status for /diagnostics, with the counts of the point clouds. Also warns in the log
        if a camera is present but sends nothing."""
        silent, limit_s = silence(now, thresholds)
        if silent and now.lifecycle == "active" and now.cameras:
            self.warn_once(
                f"{self._topic} has a publisher but no frame came for {limit_s:g} s: "
                + (missing_profile() or f"look at `ros2 topic info -v {self._topic}`")
            )
        counts = {} if self._publishers is None else self._publishers.clouds.counts
        more = {f"{cloud}_{k}": n for cloud, row in counts.items() for k, n in vars(row).items()}
        return camera_status(
            self._node, self.name, now, before, self.times, model, thresholds, more
        )

    def publish_latency(self) -> None:
        if (publishers := self._publishers) is not None:
            publishers.latency.publish(self.times)

    def warn_once(self, text: str) -> None:
        """Warn about this once per activation."""
        if text not in self._warned:
            self._warned.add(text)
            self._node.get_logger().warning(text)
