# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: its topics, its counters, and its frames before and after the network."""

import contextlib
import dataclasses
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sfseg_ros.errors import ImageError, SfsegError, one_line
from sfseg_ros.frames.health import StreamState, Thresholds, silence
from sfseg_ros.frames.latency import FrameTimes
from sfseg_ros.frames.mailbox import BatchWorker
from sfseg_ros.frames.pacing import Pacing, Throttle, too_old
from sfseg_ros.frames.stamp_matching import StampBuffer
from sfseg_ros.geometry import View
from sfseg_ros.imaging import ImageFormat, Picture, Uint8Array
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.model.published_labels import PAINTS, Finish
from sfseg_ros.nodes.diagnostics import ModelIdentity, camera_status
from sfseg_ros.nodes.messages import model_from_camera_info, nanoseconds, picture_from_message
from sfseg_ros.nodes.middleware import (
    LARGE_MESSAGE_BYTES,
    QoSMessageLostInfo,
    image_topic,
    missing_profile,
    subscribe,
)
from sfseg_ros.nodes.outputs import (
    LabelPublishers,
    LatencyPublishers,
    Output,
    OutputPublishers,
    SegmentedFrame,
)
from sfseg_ros.nodes.parameters import CameraParameters, Settings
from sfseg_ros.nodes.point_outputs import CloudOutputs
from sfseg_ros.points.camera_model import CameraModel
from sfseg_ros.segmenter import Segmentation, Segmenter

CAMERA_INFOS = 32
"""Calibrations kept, to find that of an image by its stamp; at 30 Hz the last second."""
ANY_AGE_NS = 2**63
MOST_LOST_AT_ONCE = 1_000_000
"""No camera sends so many frames between two reports of the middleware."""
HAND_OVER_S = 0.0001
"""The executor sleeps so long after a frame came: else it holds Python's lock while it prepares to
wait for the next message, and the worker begins half a millisecond later."""


@dataclass(frozen=True)
class ReceivedFrame:
    """A message as it came, and the monotonic time at which it did."""

    camera: "Camera"
    message: Image | CompressedImage
    received_ns: int


@dataclass(frozen=True)
class PreparedFrame:
    """A frame that somebody wants a result of, with what it needs on its way."""

    received: ReceivedFrame
    picture: Picture
    view: View
    wanted: Sequence[Output]
    for_clouds: bool
    needs: frozenset[str]
    """What its outputs are made of besides labels: "confidence" and PAINTS."""
    begin_ns: int
    converted_ns: int


class Camera:
    """The topics of one camera. Subscription callbacks come from the executor, frames are
    prepared and published by the worker's thread, everything else happens in transitions."""

    def __init__(
        self, node: Any, name: str, settings: Settings, worker: BatchWorker[ReceivedFrame]
    ) -> None:
        self._node = node
        self.name = name
        self._prefix = f"{name}/" if name else ""
        self._mailbox = worker.mailbox()
        self._pacing = Pacing()
        self.apply(settings)
        self.enabled = True
        self.times = FrameTimes()
        self.image_format: ImageFormat | None = None
        self._infos: StampBuffer[CameraModel] = StampBuffer(CAMERA_INFOS)
        self._infos_lock = threading.Lock()  # filled by the executor, read by the worker
        self._topic = ""
        self._subscriptions: list[Subscription] = []
        self._outputs: OutputPublishers | None = None
        self._labels: LabelPublishers | None = None
        self._latency: LatencyPublishers | None = None
        self._clouds: CloudOutputs | None = None
        self._snapshot: queue.Queue[tuple[str, SegmentedFrame]] | None = None
        self._lost = self._too_old = 0
        self._heard_ns = time.monotonic_ns()
        self._frame_error = ""
        self._broken = False
        self._said: set[str] = set()
        self._throttle = Throttle()

    def apply(self, settings: Settings) -> None:
        """Take up changed parameters, from the next frame on."""
        self._settings = settings
        self.parameters: CameraParameters = settings.camera(self.name)
        self._pacing.max_rate = self.parameters.max_rate
        self._pacing.every_nth = self.parameters.every_nth

    # Transitions.

    def create_publishers(self) -> None:
        self._outputs = OutputPublishers(self._node, self._prefix)
        self._labels = LabelPublishers(self._node, self._prefix)
        self._latency = LatencyPublishers(self._node, self._prefix)
        self._clouds = CloudOutputs(self._node, self._prefix, lambda: self.parameters)

    def say_labels(self, manifest: Manifest, mapping: LabelMapping) -> None:
        """Publish what the labels of the masks from now on mean."""
        if self._labels is not None:
            threshold = self._settings.node.confidence_threshold
            self._labels.publish(manifest, mapping, threshold)

    def subscribe(self) -> None:
        """Begin to take images."""
        transport = self.parameters.image_transport
        assert self._clouds is not None
        self._clouds.start()
        self._heard_ns = time.monotonic_ns()
        self._said.clear()
        self._throttle.clear()
        self._topic = image_topic(self._node, f"{self._prefix}image", transport)
        kind = CompressedImage if transport == "compressed" else Image
        info_topic = f"{self._prefix}camera_info"
        self._subscriptions = [
            subscribe(self._node, CameraInfo, info_topic, self._on_camera_info, lambda event: None),
            subscribe(self._node, kind, self._topic, self._on_image, self._on_message_lost),
        ]
        self._node.get_logger().info(f"waiting for images on {self._topic}")

    def unsubscribe(self) -> None:
        if self._clouds is not None:
            self._clouds.stop()
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def release(self) -> None:
        """Back to what the constructor left."""
        self.unsubscribe()
        for outputs in (self._clouds, self._outputs, self._labels, self._latency):
            if outputs is not None:
                outputs.destroy()
        self._clouds = self._outputs = self._labels = self._latency = None

    def finish(self, mapping: LabelMapping) -> Finish:
        """As the parameters of the node say, which are those of all its cameras."""
        settings = self._settings.node
        return Finish(mapping, settings.confidence_threshold, settings.overlay_alpha)

    # Executor.

    def _on_image(self, message: "Image | CompressedImage") -> None:
        self._heard_ns = time.monotonic_ns()
        now_ns = self._node.get_clock().now().nanoseconds
        if self.enabled and self._pacing.admits(now_ns, self._heard_ns):
            self._mailbox.offer(ReceivedFrame(self, message, self._heard_ns))
            time.sleep(HAND_OVER_S)
        else:
            self._mailbox.skip()

    def _on_camera_info(self, message: CameraInfo) -> None:
        try:
            model = model_from_camera_info(message)
            with self._infos_lock:
                self._infos.add(nanoseconds(message.header.stamp), model)
        except SfsegError as error:
            if self._throttle.admits("camera_info"):
                self._node.get_logger().warning(f"{self._prefix}camera_info: {error}")

    def _on_message_lost(self, event: QoSMessageLostInfo) -> None:
        # Seen in the soak, where publishers are killed: Fast DDS then reports 2**31 lost frames.
        if not 0 < event.total_count_change < MOST_LOST_AT_ONCE:
            return
        self._lost += event.total_count_change
        if self._throttle.admits("lost"):
            self._node.get_logger().warning(
                f"frames of {self._topic} lost by the middleware so far: {self._lost}. "
                f"{missing_profile() or ''}"
            )

    # The worker's thread.

    def prepare(self, frame: ReceivedFrame) -> "PreparedFrame | bool | None":
        """The frame as a picture; False where nobody wants a result, None where it is too old.

        Raises ImageError.
        """
        assert self._outputs is not None
        assert self._clouds is not None
        begin_ns = time.monotonic_ns()
        now_ns = self._node.get_clock().now().nanoseconds
        stamp_ns = nanoseconds(frame.message.header.stamp)
        if too_old(stamp_ns, now_ns, self.parameters.max_age_ms):
            self._too_old += 1
            return None
        picture = picture_from_message(frame.message)
        converted_ns = time.monotonic_ns()
        if self._pacing.jumped_back(stamp_ns, now_ns):
            self.times.clear()
        self.image_format = picture.format
        if len(frame.message.data) > LARGE_MESSAGE_BYTES and (hint := missing_profile()):
            self._say_once(f"images this large get lost: {hint}")
        allowed = self._settings.node.outputs
        wanted = self._outputs.wanted(allowed)
        for_clouds = self._clouds.wanted(allowed)
        if not wanted and not for_clouds and self._snapshot is None:
            return False
        needs = {output.needs for output in wanted if output.needs}
        if for_clouds or self._snapshot is not None:
            needs.add("confidence")
        if self._snapshot is not None:
            needs.add("overlay")
        return PreparedFrame(
            received=frame,
            picture=picture,
            view=self.parameters.view(),
            wanted=wanted,
            for_clouds=for_clouds,
            needs=frozenset(needs),
            begin_ns=begin_ns,
            converted_ns=converted_ns,
        )

    def publish_first(
        self, prepared: PreparedFrame, result: Segmentation, finish: Finish
    ) -> SegmentedFrame:
        """Publish the first wanted output, which is the mask if somebody listens to it, and note
        the times; the others follow when the other cameras of the batch have theirs."""
        assert self._outputs is not None
        begin_ns = time.monotonic_ns()
        header = prepared.received.message.header
        stamp_ns = nanoseconds(header.stamp)
        frame = SegmentedFrame(
            header=header,
            picture=prepared.picture,
            labels=result.labels,
            confidence=result.confidence,
            palette_rgb=finish.mapping.palette_rgb,
            overlay_alpha=finish.alpha,
            geometry=result.geometry,
            camera=self._model_for(stamp_ns, result.geometry.image_size),
            painted=result.painted,
        )
        for output in prepared.wanted[:1]:
            self._outputs.publish(output, frame)
        end_ns = time.monotonic_ns()
        self.times.add(
            stamp_ns,
            latency=(self._node.get_clock().now().nanoseconds - stamp_ns) / 1e6,
            wait=(prepared.begin_ns - prepared.received.received_ns) / 1e6,
            convert=(prepared.converted_ns - prepared.begin_ns) / 1e6,
            preprocess=result.preprocess_ms,
            inference=result.inference_ms,
            postprocess=result.postprocess_ms,
            publish=(end_ns - begin_ns) / 1e6,
        )
        return frame

    def _model_for(self, stamp_ns: int, image_size: tuple[int, int]) -> CameraModel | None:
        """The calibration nearest in time; none where it is of another size than the image."""
        with self._infos_lock:
            model = self._infos.nearest(stamp_ns, ANY_AGE_NS)
        if model is None or model.image_size == image_size or (model.height, model.width) == (0, 0):
            return model
        self._say_once(
            "{}camera_info is of images of {}x{} (height x width), the image has {}x{}: it is "
            "left out".format(self._prefix, *model.image_size, *image_size)
        )
        return None

    def publish_rest(self, prepared: PreparedFrame, frame: SegmentedFrame) -> None:
        """Publish the other wanted outputs."""
        assert self._outputs is not None
        for output in prepared.wanted[1:]:
            self._outputs.publish(output, frame)
        if prepared.for_clouds and self._clouds is not None:
            self._clouds.add(frame, frame.header, frame.camera)
        if (snapshot := self._snapshot) is not None:
            self._snapshot = None
            snapshot.put((self.name, frame))

    def on_frame_error(self, error: Exception) -> None:
        """The log has one line in a while, /diagnostics the count."""
        if not self._node.context.ok():
            return  # Ctrl-C came between segmenting and publishing
        self._frame_error, self._broken = one_line(error), not isinstance(error, ImageError)
        what = "failed" if self._broken else "rejected"
        if not self._throttle.admits(what):
            return
        log = self._node.get_logger()
        where = f" of camera {self.name}" if self.name else ""
        text = f"frames{where} {what}, {self._mailbox.counts.rejected} so far: {self._frame_error}"
        if self._broken:
            log.error(text)
        else:
            log.warning(text)

    # Any thread.

    def send_snapshot_to(self, snapshots: "queue.Queue[tuple[str, SegmentedFrame]] | None") -> None:
        """Put the next segmented frame into the queue, also if nobody listens to its topics; None
        takes the wish back."""
        self._snapshot = snapshots

    def stream_state(self, lifecycle: str, model_error: str, loading: str) -> StreamState:
        """What is known at this moment."""
        latency, work = self.times.percentiles("latency"), self.times.percentiles("processing")
        return StreamState(
            lifecycle=lifecycle,
            counts=self._mailbox.counts,
            lost=self._lost,
            cameras=self._node.count_publishers(self._topic) if self._topic else 0,
            silent_s=(time.monotonic_ns() - self._heard_ns) / 1e9,
            age_ms=latency[0] if latency else None,
            frame_error=self._frame_error,
            broken=self._broken,
            enabled=self.enabled,
            time_ns=time.monotonic_ns(),
            too_old=self._too_old,
            processing_ms=work[1] if work else None,
            load_error=model_error if lifecycle == "unconfigured" else "",
            model_error=model_error,
            loading=loading,
        )

    def status(
        self, now: StreamState, before: StreamState, model: ModelIdentity, thresholds: Thresholds
    ) -> DiagnosticStatus:
        """For /diagnostics, with what became of masks for points and of the lidar's clouds. Says it
        in the log, too, when a camera is there but sends nothing."""
        silent, limit_s = silence(now, thresholds)
        if silent and now.lifecycle == "active" and now.cameras:
            self._say_once(
                f"{self._topic} has a publisher but no frame came for {limit_s:g} s: "
                + (missing_profile() or f"look at `ros2 topic info -v {self._topic}`")
            )
        clouds = self._clouds
        counts = {} if clouds is None else clouds.counts
        more = {f"{cloud}_{k}": n for cloud, row in counts.items() for k, n in vars(row).items()}
        return camera_status(
            self._node, self.name, now, before, self.times, model, thresholds, more
        )

    def publish_latency(self) -> None:
        if self._latency is not None:
            self._latency.publish(self.times)

    def _say_once(self, text: str) -> None:
        """Warn once per activation."""
        if text not in self._said:
            self._said.add(text)
            self._node.get_logger().warning(text)


def warm_up(
    segmenter: Segmenter, cameras: Sequence[Camera], mapping: LabelMapping, max_batch: int
) -> None:
    """Prepare a model for its own size, and for the images that the cameras have sent so far, as
    many at once as there are cameras with alike ones."""
    finish = cameras[0].finish(mapping)
    segmenter.warm_up(segmenter.manifest.input_size, finish=finish)
    alike = Counter((camera.image_format, camera.parameters.view()) for camera in cameras)
    for (image_format, view), count in alike.items():
        if image_format is not None:
            # Images outside the region of interest are rejected, whatever the model.
            with contextlib.suppress(ImageError):
                segmenter.warm_up(image_format, view, finish, min(count, max_batch or count))


def segment_frames(
    batch: Sequence[ReceivedFrame], segmenter: Segmenter, mapping: LabelMapping
) -> list[bool | Exception | None]:
    """Take a batch of one frame per camera from message to topics: what became of each is True,
    False (nobody listens), None (too old) or the exception that cost it."""
    outcomes: list[Any] = []
    for frame in batch:
        try:
            outcomes.append(frame.camera.prepare(frame))
        except Exception as error:  # one frame must not cost the others
            outcomes.append(error)
    ready = [(i, frame) for i, frame in enumerate(outcomes) if isinstance(frame, PreparedFrame)]
    if not ready:
        return outcomes
    finish = batch[0].camera.finish(mapping)
    needs = frozenset[str]().union(*(frame.needs for _, frame in ready))
    results = segmenter.segment_batch(
        [(frame.picture, frame.view) for _, frame in ready],
        confidence="confidence" in needs,
        finish=finish,
        paints=needs.intersection(PAINTS),
    )
    published = []
    for (i, prepared), result in zip(ready, results, strict=True):
        outcomes[i] = result
        if isinstance(result, Segmentation):
            try:
                camera = prepared.received.camera
                published.append((i, prepared, camera.publish_first(prepared, result, finish)))
            except Exception as error:
                outcomes[i] = error
    for i, prepared, segmented in published:
        try:
            prepared.received.camera.publish_rest(prepared, segmented)
            outcomes[i] = True
        except Exception as error:
            outcomes[i] = error
    return outcomes


def snapshot_of(
    frame: SegmentedFrame, manifest: Manifest
) -> tuple[dict[str, Uint8Array], dict[str, Any]]:
    """Pictures and metadata of a frame, for `write_snapshot`."""
    pictures = {"image": frame.rgb, "mask": frame.labels, "overlay": frame.overlay}
    if frame.confidence is not None:
        pictures["confidence"] = frame.confidence
    return pictures, {
        "stamp_ns": nanoseconds(frame.header.stamp),
        "frame_id": frame.header.frame_id,
        "model": manifest.name,
        "model_sha256": manifest.onnx_sha256,
        "image_size": list(frame.geometry.image_size),
        "network_size": list(frame.geometry.network_size),
        "area": list(frame.geometry.area),
        "output_area": list(frame.geometry.output_area),
        "camera": None if frame.camera is None else dataclasses.asdict(frame.camera),
    }
