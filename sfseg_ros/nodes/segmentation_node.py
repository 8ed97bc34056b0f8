# SPDX-License-Identifier: Apache-2.0
"""The node: images in, label images out. The path of a frame is `_on_image` -> `_segment`.

It only connects: frames wait in sfseg_ros.mailbox, the network is behind sfseg_ros.segmenter,
topics are rows of nodes/outputs.py and parameters fields of nodes/parameters.py.
"""

import signal
import sys
import time
from dataclasses import dataclass

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from sfseg_ros.errors import ImageError, SfsegError
from sfseg_ros.health import SILENCE_S, StreamState, judge
from sfseg_ros.latency import FrameTimes
from sfseg_ros.mailbox import FrameWorker
from sfseg_ros.manifest import UNLABELLED
from sfseg_ros.nodes.diagnostics import diagnostic_array
from sfseg_ros.nodes.messages import nanoseconds, rgb_from_message
from sfseg_ros.nodes.middleware import (
    LARGE_MESSAGE_BYTES,
    QoSMessageLostInfo,
    image_topic,
    latched_qos,
    missing_profile,
    subscribe,
)
from sfseg_ros.nodes.outputs import OutputPublishers, SegmentedFrame, label_map_json
from sfseg_ros.nodes.parameters import ParameterError, changed_parameters, declare_parameters
from sfseg_ros.nodes.transitions import ResponsiveLifecycleNode
from sfseg_ros.segmenter import Segmenter, open_segmenter
from sfseg_ros.share import find_model

THROTTLE_S = 5.0


@dataclass(frozen=True)
class ReceivedFrame:
    """A message as it came, and the monotonic time at which it did."""

    message: Image | CompressedImage
    received_ns: int


class SegmentationNode(ResponsiveLifecycleNode):
    """Lifecycle node: configure loads the model, activate subscribes, deactivate unsubscribes."""

    def __init__(self, name: str = "segmentation", **kwargs: object) -> None:
        super().__init__(name, **kwargs)
        self._settings = declare_parameters(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._segmenter: Segmenter | None = None
        self._outputs: OutputPublishers | None = None
        self._label_map: Publisher | None = None
        self._subscription: Subscription | None = None
        self._topic = ""
        self._worker: FrameWorker[ReceivedFrame] = FrameWorker(self._segment, self._on_frame_error)
        self._times = FrameTimes()
        self._lost = 0
        self._heard_ns = time.monotonic_ns()
        self._load_error = ""
        self._frame_error = ""
        self._broken = False
        self._said: set[str] = set()
        self._before = self._stream_state()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady: diagnostics go on while a simulation is paused.
        self.create_timer(1.0, self._on_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def autostart(self) -> None:
        """Configure and activate in the background, if the parameter `autostart` says so."""

        def configure_and_activate() -> None:
            if self.state_label == "unconfigured" and (
                self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            ):
                self.trigger_activate()

        if self._settings.autostart:
            self.in_transition_thread(configure_and_activate)

    # Lifecycle. Each of these runs in a transition thread, one at a time.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model. FAILURE leaves the node unconfigured: mend the parameter, try again."""
        settings = self._settings
        begin = time.monotonic()
        try:
            self._segmenter = open_segmenter(
                find_model(settings.model_dir),
                settings.backend,
                settings.precision,
                settings.threads,
                settings.fixed_network_size(),
            )
            self._segmenter.warm_up(self._segmenter.manifest.input_size)
        except Exception as error:  # also what an inference library may raise
            self._release()
            self._load_error = one_line(error)
            self.get_logger().error(f"cannot load the model: {self._load_error}")
            return TransitionCallbackReturn.FAILURE
        self._load_error = ""
        manifest = self._segmenter.manifest
        self._outputs = OutputPublishers(self)
        self._label_map = self.create_publisher(String, "~/label_map", latched_qos())
        self._label_map.publish(String(data=label_map_json(manifest)))
        backend = self._segmenter.backend
        self.get_logger().info(
            f"model {manifest.name}, {len(manifest.classes)} classes; {backend.description} "
            f"({backend.reason}); ready after {time.monotonic() - begin:.1f} s"
        )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to take images."""
        super().on_activate(state)
        self._heard_ns = time.monotonic_ns()
        self._said.clear()
        self._worker.start()
        self._topic = image_topic(self, self._settings.image_transport)
        kind = CompressedImage if self._settings.image_transport == "compressed" else Image
        self._subscription = subscribe(
            self, kind, self._topic, self._on_image, self._on_message_lost
        )
        self.get_logger().info(f"waiting for images on {self._topic}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more images; the one in hand is finished, one that waits counts as replaced."""
        self._stop_frames()
        super().on_deactivate(state)
        self._on_second()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model, for good."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an exception in a transition: let go of the model, back to unconfigured."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """End all threads and let go of the model; then the node can be destroyed."""
        self.join_transitions()
        self._release()

    # The path of a frame.

    def _on_image(self, message: "Image | CompressedImage") -> None:
        self._heard_ns = time.monotonic_ns()
        self._worker.offer(ReceivedFrame(message, self._heard_ns))

    def _segment(self, frame: ReceivedFrame) -> bool:
        """Worker thread: message -> RGB -> labels -> the topics that somebody listens to."""
        assert self._segmenter is not None
        assert self._outputs is not None
        settings, header = self._settings, frame.message.header
        begin_ns = time.monotonic_ns()
        rgb = rgb_from_message(frame.message)
        converted_ns = time.monotonic_ns()
        if len(frame.message.data) > LARGE_MESSAGE_BYTES and (hint := missing_profile()):
            self._say_once(f"images this large get lost: {hint}")
        wanted = self._outputs.wanted()
        if not wanted:
            return False
        threshold = settings.confidence_threshold
        result = self._segmenter.segment(
            rgb, confidence=threshold > 0 or any(output.needs_confidence for output in wanted)
        )
        labels = result.labels
        if threshold > 0 and result.confidence is not None:
            labels = np.where(result.confidence < threshold * 255, np.uint8(UNLABELLED), labels)
        segmented = SegmentedFrame(
            rgb,
            labels,
            result.confidence,
            self._segmenter.manifest.palette_rgb,
            settings.overlay_alpha,
        )
        segmented_ns = time.monotonic_ns()
        self._outputs.publish(wanted[0], segmented, header)
        stamp_ns = nanoseconds(header.stamp)
        self._times.add(
            stamp_ns,
            latency=(self.get_clock().now().nanoseconds - stamp_ns) / 1e6,
            wait=(begin_ns - frame.received_ns) / 1e6,
            convert=(converted_ns - begin_ns) / 1e6,
            preprocess=result.preprocess_ms,
            inference=result.inference_ms,
            postprocess=result.postprocess_ms,
            publish=(time.monotonic_ns() - segmented_ns) / 1e6,
        )
        for output in wanted[1:]:
            self._outputs.publish(output, segmented, header)
        return True

    def _on_frame_error(self, error: Exception) -> None:
        """Worker thread. The log has one line in a while, /diagnostics the count."""
        if not self.context.ok():
            return  # Ctrl-C came between segmenting and publishing
        self._frame_error, self._broken = one_line(error), not isinstance(error, ImageError)
        log = self.get_logger()
        text = f"{self._worker.counts.rejected + 1} so far: {self._frame_error}"
        if self._broken:
            log.error(f"frames failed, {text}", throttle_duration_sec=THROTTLE_S)
        else:
            log.warning(f"frames rejected, {text}", throttle_duration_sec=THROTTLE_S)

    # Health and parameters.

    def _on_message_lost(self, event: QoSMessageLostInfo) -> None:
        self._lost += event.total_count_change
        self.get_logger().warning(
            f"frames lost by the middleware so far: {self._lost}. {missing_profile() or ''}",
            throttle_duration_sec=THROTTLE_S,
        )

    def _on_second(self) -> None:
        """Publish /diagnostics, and say it when a camera is there but its frames are not."""
        state = self._stream_state()
        if state.lifecycle == "active" and state.cameras and state.silent_s >= SILENCE_S:
            self._say_once(
                f"{self._topic} has a publisher but no frame came for {SILENCE_S:.0f} s: "
                + (missing_profile() or f"look at `ros2 topic info -v {self._topic}`")
            )
        model = self._segmenter
        level, message = judge(state, self._before)
        self._before = state
        self._diagnostics.publish(
            diagnostic_array(
                self,
                level,
                message,
                state,
                self._times,
                backend=model.backend.description if model else "",
                model=model.manifest.name if model else "",
            )
        )

    def _stream_state(self) -> StreamState:
        latency = self._times.percentiles("latency")
        return StreamState(
            lifecycle=self.state_label,
            counts=self._worker.counts,
            lost=self._lost,
            cameras=self.count_publishers(self._topic) if self._topic else 0,
            silent_s=(time.monotonic_ns() - self._heard_ns) / 1e9,
            age_ms=latency[0] if latency else None,
            load_error=self._load_error,
            frame_error=self._frame_error,
            broken=self._broken,
        )

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._settings = changed_parameters(
                self._settings, changes, configured=self.state_label != "unconfigured"
            )
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _say_once(self, text: str) -> None:
        """Warn once per activation."""
        if text not in self._said:
            self._said.add(text)
            self.get_logger().warning(text)

    def _stop_frames(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        self._worker.stop()

    def _release(self) -> None:
        """Back to what the constructor left, from any state."""
        self._stop_frames()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        if self._label_map is not None:
            self.destroy_publisher(self._label_map)
            self._label_map = None
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None


def one_line(error: Exception) -> str:
    """The message, with its type where it is not one of ours."""
    kind = "" if isinstance(error, SfsegError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def spin(node: Node) -> None:
    """rclpy.spin, which in Humble raises InvalidHandle where a transition's thread destroyed the
    subscription between "ready" and "read"; later releases pass over it."""
    while True:
        try:
            rclpy.spin(node)
            return
        except InvalidHandle:
            if not node.context.ok():
                return


def main(args: list[str] | None = None) -> None:
    """Console script `segmentation_node`: run until SIGINT or SIGTERM, then exit with 0."""
    # rclpy's own handler ends `spin`. Python's would also raise KeyboardInterrupt, a moment later
    # and so in the middle of the clean-up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    node = None
    try:
        rclpy.init(args=args)
    except Exception as error:  # a parameter file that is missing or no YAML, a malformed option
        sys.exit(f"segmentation_node: {one_line(error)}")
    try:
        node = SegmentationNode()
        node.autostart()
        spin(node)
    except ParameterError as error:
        sys.exit(f"segmentation_node: {error}")
    except ExternalShutdownException:
        pass
    except Exception:
        if rclpy.ok():
            raise
        # A signal shut the context down below what was being made at start.
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
