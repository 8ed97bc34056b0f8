# SPDX-License-Identifier: Apache-2.0
"""The point clouds of one camera: `points` from its depth image, `labelled_points` from a lidar.

The frame path only hands over masks. `frames/stamp_matching.py` decides which messages belong
together, and `points/clouds.py` computes the clouds, in a separate thread.
"""

import threading
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from sfseg_ros.errors import one_line
from sfseg_ros.frames.log_throttle import LogThrottle
from sfseg_ros.frames.mailbox import BatchWorker
from sfseg_ros.frames.stamp_matching import StampMatcher
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.nodes.messages import cloud_from_message, message_from_cloud, nanoseconds
from sfseg_ros.nodes.middleware import output_qos, subscribe
from sfseg_ros.nodes.outputs import CLOUDS, Output
from sfseg_ros.nodes.parameters import CameraParameters
from sfseg_ros.nodes.segmented_frame import SegmentedFrame
from sfseg_ros.nodes.transforms import Transforms
from sfseg_ros.points import clouds
from sfseg_ros.points.camera_model import CameraModel
from sfseg_ros.points.clouds import CloudError, PointCloud
from sfseg_ros.points.lens_distortion import FloatArray

IN_A_ROW = 10
"""Warn after this many masks or clouds without a partner or calibration. A few are normal at the
start, or if the depth camera is slower than the colour camera."""
MASKS = 10
"""Number of masks that wait for a depth image or are kept for a lidar; each takes megabytes."""
SENSOR_MESSAGES = 30
"""Number of depth images or clouds that wait for a mask: one second at 30 Hz."""


@dataclass(frozen=True)
class CloudCounts:
    """The outcomes of the masks for `points`, or of the lidar's clouds for `labelled_points`.

    unmatched: no depth image or mask was close enough in time. rejected: damaged, of another size,
    or without a transform. replaced: a newer one arrived before its turn.
    """

    made: int
    unmatched: int
    rejected: int
    replaced: int


@dataclass(frozen=True)
class _Mask:
    header: Header
    labels: Uint8Array
    confidence: Uint8Array
    geometry: FrameGeometry
    model: CameraModel


@dataclass(frozen=True)
class _Job:
    output: "_CloudTopic"
    make: Callable[[], tuple[Header, PointCloud]]


class CloudOutputs:
    """Publishes `~/<prefix>points` and `~/<prefix>labelled_points`. Subscribes to `<prefix>depth`
    and `<prefix>points_in` while the output has a subscriber.

    Any thread may call any method. Only `stop` and `destroy` wait: for the cloud in work.
    """

    def __init__(self, node: Node, prefix: str, settings: Callable[[], CameraParameters]) -> None:
        """`prefix` is "" or "front/"; `settings` is called for each message."""
        self._node = node
        self._settings = settings
        self._lock = threading.Lock()  # guards everything but the worker
        self._active = False
        self._throttle = LogThrottle()
        self._info_topic = node.resolve_topic_name(f"{prefix}camera_info")
        self._without_model, self._calibrated = 0, True
        self._transforms: Transforms | None = None
        self._worker: BatchWorker[_Job] = BatchWorker(self._work, self._on_rejected)
        worker = self._worker
        self._points = _CloudTopic(
            node, prefix, CLOUDS["points"], Image, "depth", self._on_depth, worker
        )
        self._labelled = _CloudTopic(
            node,
            prefix,
            CLOUDS["labelled_points"],
            PointCloud2,
            "points_in",
            self._on_lidar,
            worker,
        )
        self._topics = (self._points, self._labelled)
        self._by_depth: StampMatcher[tuple[_Mask, Uint8Array], Image] = StampMatcher(
            waiting=MASKS, partners=SENSOR_MESSAGES
        )
        self._by_mask: StampMatcher[PointCloud2, _Mask] = StampMatcher(
            waiting=SENSOR_MESSAGES, partners=MASKS
        )

    def start(self) -> None:
        """Start making clouds."""
        with self._lock:
            self._active = True
            self._throttle.clear()
            self._without_model, self._calibrated = 0, True
        self._worker.start()

    def stop(self) -> None:
        """Unsubscribe, finish the cloud in work, drop those that wait."""
        with self._lock:
            self._active = False
            self._subscribe_if_wanted(points=False, labelled=False)
        self._worker.stop()

    def destroy(self) -> None:
        """Stop and destroy the publishers."""
        self.stop()
        for cloud in self._topics:
            self._node.destroy_publisher(cloud.publisher)

    def wanted(self, allowed: Container[str]) -> list[Output]:
        """The clouds that are in `allowed`, by name, and have a subscriber.

        Call this for each frame: it subscribes to the input of a cloud when a subscriber appears,
        and unsubscribes when the last one leaves.
        """
        with self._lock:
            if not self._active:
                return []
            wanted = [cloud.row for cloud in self._topics if cloud.is_wanted(allowed)]
            self._subscribe_if_wanted(self._points.row in wanted, self._labelled.row in wanted)
            return wanted

    @property
    def counts(self) -> dict[str, CloudCounts]:
        """Counts by output, since the node started."""
        with self._lock:
            return {
                self._points.row.name: self._points.counts(self._by_depth.unmatched),
                self._labelled.row.name: self._labelled.counts(self._by_mask.unmatched),
            }

    def add(self, frame: SegmentedFrame) -> None:
        """Take over a mask; another thread reads its arrays, so they must not change any more.

        A frame without confidence was segmented before the clouds had a subscriber and is left out.
        """
        with self._lock:
            settings, model = self._settings(), frame.camera
            listened = self._points.subscription or self._labelled.subscription
            if not listened or frame.confidence is None or not self._usable(model, settings):
                return
            assert model is not None
            mask = _Mask(frame.header, frame.labels, frame.confidence, frame.geometry, model)
            stamp_ns = nanoseconds(frame.header.stamp)
            if self._points.subscription:
                tolerance_ns = _nanoseconds_of(settings.depth_tolerance_ms)
                self._offer_points(
                    self._by_depth.add_subject(stamp_ns, (mask, frame.rgb), tolerance_ns)
                )
            if self._labelled.subscription:
                tolerance_ns = _nanoseconds_of(settings.lidar_tolerance_ms)
                self._offer_labelled(self._by_mask.add_partner(stamp_ns, mask, tolerance_ns))

    # In the executor's thread.

    def _on_depth(self, message: Image) -> None:
        with self._lock:
            if self._points.subscription:
                stamp_ns = nanoseconds(message.header.stamp)
                tolerance_ns = _nanoseconds_of(self._settings().depth_tolerance_ms)
                self._offer_points(self._by_depth.add_partner(stamp_ns, message, tolerance_ns))

    def _on_lidar(self, message: PointCloud2) -> None:
        with self._lock:
            if self._labelled.subscription:
                tolerance_ns = _nanoseconds_of(self._settings().lidar_tolerance_ms)
                self._offer_labelled(
                    self._by_mask.add_subject(self._lidar_ns(message), message, tolerance_ns)
                )

    # With the lock held.

    def _subscribe_if_wanted(self, points: bool, labelled: bool) -> None:
        """Subscribe to the inputs of the wanted outputs only."""
        if not self._points.subscribe_if(points):
            self._by_depth.clear()
        if not self._labelled.subscribe_if(labelled):
            self._by_mask.clear()
        if labelled and not any(self._settings().lidar_extrinsics):
            # Together with the subscription, so that transforms arrive before the first cloud.
            self._transforms = self._transforms or Transforms(self._node)
        elif self._transforms is not None:
            self._transforms.close()
            self._transforms = None

    def _usable(self, model: CameraModel | None, settings: CameraParameters) -> bool:
        """Whether the camera has a calibration; warns once if not."""
        if model is None:
            self._without_model += 1
            if self._without_model == IN_A_ROW:
                self._warn(self._info_topic, "no calibration has arrived, so no points")
            return False
        self._without_model = 0
        calibrated = (model.p if settings.rectified else model.k)[0] != 0
        if self._calibrated and not calibrated:
            matrix = "P" if settings.rectified else "K"
            self._warn(self._info_topic, f"{matrix} is empty: the points need a calibration")
        self._calibrated = calibrated
        return calibrated

    def _offer_points(self, pairs: list[tuple[tuple[_Mask, Uint8Array], Image]]) -> None:
        for (mask, rgb), depth in pairs:
            self._points.offer(partial(self._organised, mask, rgb, depth))
        if self._points.lacks_partners(len(pairs), self._by_depth.unmatched):
            self._warn_seldom(
                self._points.topic,
                "unmatched",
                f"{self._by_depth.unmatched} masks so far had no depth image within "
                f"{self._settings().depth_tolerance_ms:g} ms; compare the stamps of the image and "
                f"of {self._points.input_topic}",
            )

    def _offer_labelled(self, pairs: list[tuple[PointCloud2, _Mask]]) -> None:
        for cloud, mask in pairs:
            self._labelled.offer(partial(self._labelled_points, cloud, mask))
        if self._labelled.lacks_partners(len(pairs), self._by_mask.unmatched):
            self._warn_seldom(
                self._labelled.topic,
                "unmatched",
                f"{self._by_mask.unmatched} clouds so far had no mask within "
                f"{self._settings().lidar_tolerance_ms:g} ms; compare the stamps of the image and "
                f"of {self._labelled.input_topic}, which lidar_time_offset_ms shifts",
            )

    # In the worker's thread.

    def _work(self, jobs: list[_Job]) -> list[bool | Exception | None]:
        outcomes: list[bool | Exception | None] = []
        for job in jobs:
            try:
                header, cloud = job.make()
                job.output.publisher.publish(message_from_cloud(header, cloud))
                outcomes.append(True)
            except Exception as error:  # rejects only this cloud
                outcomes.append(error)
        return outcomes

    def _on_rejected(self, job: _Job, error: Exception) -> None:
        if self._node.context.ok():  # otherwise Ctrl-C came while it was made
            with self._lock:
                rejected = job.output.counts(0).rejected
                text = f"{rejected} clouds rejected so far: {one_line(error)}"
                self._warn_seldom(job.output.topic, "rejected", text)

    def _organised(self, mask: _Mask, rgb: Uint8Array, depth: Image) -> tuple[Header, PointCloud]:
        """The header is the mask's: Nav2's semantic layer joins both by header."""
        pixels = clouds.depth_from_buffer(
            depth.data,
            depth.encoding,
            depth.height,
            depth.width,
            depth.step,
            bool(depth.is_bigendian),
        )
        cloud = clouds.organised_cloud(
            pixels,
            rgb,
            mask.labels,
            mask.confidence,
            mask.geometry,
            mask.model,
            self._settings().rectified,
        )
        return mask.header, cloud

    def _labelled_points(self, message: PointCloud2, mask: _Mask) -> tuple[Header, PointCloud]:
        cloud = clouds.labelled_cloud(
            cloud_from_message(message),
            mask.labels,
            mask.confidence,
            mask.geometry,
            mask.model,
            self._camera_from_lidar(message, mask.header.frame_id),
            self._settings().rectified,
        )
        return message.header, cloud

    def _camera_from_lidar(self, message: PointCloud2, camera_frame: str) -> FloatArray:
        extrinsics = self._settings().lidar_extrinsics
        if any(extrinsics):
            return clouds.matrix_from_pose(extrinsics)
        transforms = self._transforms
        if transforms is None:
            raise CloudError("not subscribed to /tf yet")
        return transforms.matrix(camera_frame, message.header.frame_id, self._lidar_ns(message))

    def _lidar_ns(self, message: PointCloud2) -> int:
        offset_ns = _nanoseconds_of(self._settings().lidar_time_offset_ms)
        return max(0, nanoseconds(message.header.stamp) + offset_ns)

    def _warn_seldom(self, topic: str, kind: str, text: str) -> None:
        if self._throttle.admits(f"{topic} {kind}"):
            self._warn(topic, text)

    def _warn(self, topic: str, text: str) -> None:
        self._node.get_logger().warning(f"{topic}: {text}")


class _CloudTopic:
    """One of the two clouds: its publisher, its input, and its mailbox."""

    def __init__(
        self,
        node: Node,
        prefix: str,
        row: Output,
        sensor_message: type,
        sensor: str,
        on_message: Callable[[Any], None],
        worker: BatchWorker[_Job],
    ) -> None:
        """`row` is the output; `sensor` is the topic of the messages that it needs."""
        self.row = row
        self._node = node
        self._sensor_message = sensor_message
        self._on_message = on_message
        self._mailbox = worker.mailbox()
        self._unmatched_before = 0
        self.publisher = node.create_publisher(
            row.message,
            f"~/{prefix}{row.name}",
            output_qos(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.topic = self.publisher.topic_name
        self.input_topic = node.resolve_topic_name(f"{prefix}{sensor}")
        self.subscription: Subscription | None = None

    def is_wanted(self, allowed: Container[str]) -> bool:
        return self.row.name in allowed and self.publisher.get_subscription_count() > 0

    def subscribe_if(self, wanted: bool) -> bool:
        """Subscribe to the input, or unsubscribe; returns `wanted`."""
        if wanted and self.subscription is None:
            # A sensor message that the middleware loses leaves a mask or cloud unmatched.
            self.subscription = subscribe(
                self._node, self._sensor_message, self.input_topic, self._on_message
            )
        elif not wanted and self.subscription is not None:
            self._node.destroy_subscription(self.subscription)
            self.subscription = None
        return wanted

    def offer(self, make: Callable[[], tuple[Header, PointCloud]]) -> None:
        self._mailbox.offer(_Job(self, make))

    def lacks_partners(self, pairs: int, unmatched: int) -> bool:
        """Whether at least IN_A_ROW have found no partner since the last pair.

        `pairs`: number of new pairs. `unmatched`: number without a partner so far.
        """
        if pairs:
            self._unmatched_before = unmatched
        return unmatched - self._unmatched_before >= IN_A_ROW

    def counts(self, unmatched: int) -> CloudCounts:
        counts = self._mailbox.counts
        return CloudCounts(counts.segmented, unmatched, counts.rejected, counts.replaced)


def _nanoseconds_of(milliseconds: float) -> int:
    return round(milliseconds * 1e6)
