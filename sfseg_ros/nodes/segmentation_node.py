# SPDX-License-Identifier: Apache-2.0
"""The node: images in, label images out. nodes/frame_path.py has the path of a frame.

This module only connects the parts: frames wait in frames/mailbox.py, segmenter.py runs the
network, nodes/outputs.py lists the topics, and nodes/parameters.py declares the parameters.
"""

import math
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from sfseg_ros.allocator import keep_large_buffers
from sfseg_ros.backends.protocol import BackendOptions
from sfseg_ros.deadline import exit_after, exit_process, within
from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.frames.health import StreamState
from sfseg_ros.frames.mailbox import BatchWorker
from sfseg_ros.installed_files import FileRoots
from sfseg_ros.model.class_groups import LabelMapping, identity, load_class_groups
from sfseg_ros.model.manifest import Manifest, load_manifest
from sfseg_ros.model.published_labels import LabelRules
from sfseg_ros.nodes.camera import Camera
from sfseg_ros.nodes.diagnostics import ModelIdentity, array_from_statuses
from sfseg_ros.nodes.frame_path import Outcome, ReceivedFrame, receive, segment_frames, warm_up
from sfseg_ros.nodes.middleware import StartError, spin, start_rclpy
from sfseg_ros.nodes.parameters import (
    ParameterError,
    Settings,
    changed_settings,
    declare_parameters,
)
from sfseg_ros.nodes.segmented_frame import SegmentedFrame
from sfseg_ros.nodes.snapshot import new_folder, snapshot_of, write_snapshot
from sfseg_ros.nodes.transitions import Recovery, ResponsiveLifecycleNode
from sfseg_ros.segmenter import Segmenter, open_segmenter

SNAPSHOT_WAIT_S = 2.0
FILES_S = 2.0
"""Maximum time to read manifest and class groups while the executor waits."""
END_S = 30.0
"""Maximum time from a signal to the end: an endless inference or a network drive must not keep the
process alive."""


class SegmentationNode(ResponsiveLifecycleNode):
    """Lifecycle node: configure loads the model, activate subscribes, deactivate unsubscribes."""

    def __init__(self, name: str = "segmentation", **kwargs: object) -> None:
        super().__init__(name, **kwargs)
        self._settings = declare_parameters(self)
        self._segmenter: Segmenter | None = None
        self._mapping: LabelMapping | None = None
        start = self._settings.node
        self._roots = FileRoots.of((*start.file_roots, start.model_dir, start.class_groups))
        self._model_dir = ""
        self._model_error = self._loading = self._building = ""
        self._recovery = Recovery(self)
        # Reentrant: transitions and the worker declare `qos_overrides`, which sets parameters.
        self._settings_lock = threading.RLock()
        self._worker: BatchWorker[ReceivedFrame] = BatchWorker(self._segment, self._on_frame_error)
        self._worker.max_batch = self._settings.node.max_batch
        self._cameras = [
            Camera(self, camera, self._settings, self._worker)
            for camera in self._settings.node.cameras
        ]
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # Reentrant: a service that waits for its thread must not block the others.
        group = ReentrantCallbackGroup()
        for kind, name_, answer in (
            (SetBool, "~/set_enabled", self._on_set_enabled),
            (Trigger, "~/reload_model", self._on_reload_model),
            (Trigger, "~/save_snapshot", self._on_save_snapshot),
        ):
            self.create_service(kind, name_, answer, callback_group=group)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._before = self._stream_states()
        # Steady clock: diagnostics continue while a simulation is paused.
        self.create_timer(1.0, self._on_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def autostart(self) -> None:
        """Configure and activate in the background, if the parameter `autostart` is set."""

        def configure_and_activate() -> None:
            if self.state_label == "unconfigured" and (
                self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            ):
                self.trigger_activate()

        if self._settings.node.autostart:
            self.in_transition_thread(configure_and_activate)

    # Lifecycle: each of these runs in a transition thread, one at a time.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model. After FAILURE the node is unconfigured: fix the parameter, try again."""
        try:
            for camera in self._cameras:
                camera.create_publishers()
            self._load_model()
        except Exception as error:  # also what an inference library may raise
            self._release()
            self._model_error = one_line(error)
            self.log_unless_ending(f"cannot load the model: {self._model_error}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras."""
        super().on_activate(state)
        self._worker.start()
        for camera in self._cameras:
            camera.subscribe(partial(receive, camera))
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe. Frames in work are finished; frames that wait count as replaced."""
        self._stop_frames()
        super().on_deactivate(state)
        self._on_second()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model at the end of the node."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model after an exception in a transition; the node is then unconfigured."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """End all threads and release the model, before the node is destroyed."""
        self.join_transitions()
        self._release()

    # The model. A transition thread loads it while the old one is in use.

    def _segment(self, batch: list[ReceivedFrame]) -> Sequence[Outcome]:
        assert self._segmenter is not None
        assert self._mapping is not None
        return segment_frames(batch, self._segmenter, self._label_rules(self._mapping))

    def _label_rules(self, mapping: LabelMapping) -> LabelRules:
        parameters = self._settings.node
        return LabelRules(mapping, parameters.confidence_threshold, parameters.overlay_alpha)

    def _load_model(self) -> None:
        """Open the model of the parameters, warm it up for the cameras' images, and switch to it
        between two frames.

        Raises SfsegError and errors of libraries; then the old model stays in use.
        """
        begin, settings = time.monotonic(), self._settings
        self._loading = f"loading {settings.node.model_dir}"
        try:
            new, mapping = within(
                settings.node.load_timeout_s or math.inf,
                partial(self._warm_segmenter, settings),
                f"opening model {settings.node.model_dir}, or its first inference,",
                discard=lambda late: late[0].close(),
                paused=lambda: bool(self._building),
                hurry=self.is_ending,
            )
        finally:
            self._loading = ""
        old = self._segmenter
        self._worker.between(lambda: self._use(new, mapping))
        self._model_dir, self._model_error = settings.node.model_dir, ""
        if old is not None:
            old.close()
        self.get_logger().info(
            f"model {new.manifest.name}, {len(new.manifest.classes)} classes; "
            f"{new.backend.description} ({new.backend.reason}); ready after "
            f"{time.monotonic() - begin:.1f} s"
        )

    def _warm_segmenter(self, settings: Settings) -> tuple[Segmenter, LabelMapping]:
        """Open the model of `settings` and warm it up, in a thread that may be abandoned."""
        new = open_segmenter(
            self._roots.model(settings.node.model_dir),
            settings.node.backend,
            self._backend_options(),
        )
        try:
            mapping = self._label_mapping(self._settings, new.manifest)  # may have changed by now
            warm_up(new, self._cameras, self._label_rules(mapping), settings.node.max_batch)
        except Exception:
            new.close()
            raise
        return new, mapping

    def _label_mapping(self, settings: Settings, manifest: Manifest) -> LabelMapping:
        """The labels to publish for a model. Raises ManifestError."""
        groups = settings.node.class_groups
        return (
            load_class_groups(self._roots.file(groups), manifest) if groups else identity(manifest)
        )

    def _backend_options(self) -> BackendOptions:
        settings = self._settings.node
        return BackendOptions(
            precision=settings.precision,
            threads=settings.threads,
            network_size=settings.fixed_network_size(),
            gpu_wait=settings.gpu_wait,
            progress=self._on_progress,
            cancelled=self.is_ending,
            warn=self.get_logger().warning,
        )

    def _on_progress(self, text: str) -> None:
        """Note the progress of an engine's build for /diagnostics and the log.

        Called in the thread that builds: a transition's, or the worker's for an unusual image size.
        """
        self._building = text
        if text:
            self.get_logger().info(text)

    def _use(self, segmenter: Segmenter, mapping: LabelMapping) -> None:
        """Switch to a model and publish its labels; called between two frames."""
        self._segmenter, self._mapping = segmenter, mapping
        for camera in self._cameras:
            camera.publish_labels(segmenter.manifest, mapping)

    def _exchange_model(self, reload: bool = False) -> str:
        """Apply changes of model_dir, class_groups and confidence_threshold to a loaded model, in a
        transition thread. `reload` reads the files again even if no parameter has changed.

        Returns "" or what went wrong. In the second case the old model stays in use and the
        parameter names it again.
        """
        old, wanted = self._segmenter, self._settings.node.model_dir
        if old is None:
            return f"no model is loaded: the node is {self.state_label}"
        try:
            if reload or self._settings.node.model_dir != self._model_dir:
                self._load_model()
            else:
                mapping = within(
                    FILES_S,
                    lambda: self._label_mapping(self._settings, old.manifest),
                    "reading class_groups",
                )
                self._worker.between(lambda: self._use(old, mapping))
        except Exception as error:  # also what an inference library may raise
            self._model_error = one_line(error)
            self.log_unless_ending(f"{self._model_error}; {self._model_dir} stays in use")
            with self._settings_lock:  # a newer request keeps its value; it is next
                if self._settings.node.model_dir == wanted != self._model_dir:
                    self.set_parameters([Parameter("model_dir", value=self._model_dir)])
            return self._model_error
        return ""

    def _on_frame_error(self, frame: ReceivedFrame, error: Exception) -> None:
        """Report a rejected frame; called in the worker's thread."""
        frame.camera.on_frame_error(error)
        if isinstance(error, BackendError) and error.lost:
            self._recovery.begin(one_line(error), self._give_up)

    def _give_up(self, why: str) -> None:
        self._model_error = why

    # Parameters and services.

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            with self._settings_lock:
                self._apply(changes)
        except Exception as error:  # any: an exception in a callback would end the node
            return SetParametersResult(successful=False, reason=one_line(error))
        return SetParametersResult(successful=True)

    def _apply(self, changes: list[Parameter]) -> None:
        before, segmenter = self._settings, self._segmenter
        settings = changed_settings(before, changes, self.state_label != "unconfigured")
        new_model = settings.node.model_dir != before.node.model_dir
        relabelled = settings.node.class_groups != before.node.class_groups
        if segmenter is not None and (new_model or relabelled):
            # Refuse now if the files are wrong; loading may still fail later.
            check = partial(self._check_files, settings, segmenter.manifest)
            within(FILES_S, check, "reading the files")
        self._settings = settings
        self._worker.max_batch = settings.node.max_batch
        for camera in self._cameras:
            camera.apply(settings)
        threshold = settings.node.confidence_threshold != before.node.confidence_threshold
        if new_model or relabelled or threshold:  # also while the first model is still loading
            self.in_transition_thread(self._exchange_model)

    def _check_files(self, settings: Settings, manifest: Manifest) -> None:
        """Raise ManifestError if a file of `settings` is invalid or outside the allowed folders.

        `manifest`: that of the model in use.
        """
        if settings.node.model_dir != self._model_dir:  # new, or still loading
            directory = self._roots.model(settings.node.model_dir)
            manifest = load_manifest(directory, verify_hash=False)
        self._label_mapping(settings, manifest)

    def _on_set_enabled(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        """Enable or disable the node; a disabled node skips and counts frames."""
        for camera in self._cameras:
            camera.enabled = request.data
        response.success, response.message = True, "enabled" if request.data else "disabled"
        return response

    async def _on_reload_model(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Read model_dir and class_groups again, for example after an export to the same folder."""
        problem = await self.after_transitions(lambda: self._exchange_model(reload=True))
        response.success = not problem
        response.message = problem or f"model {self._settings.node.model_dir} loaded"
        return response

    async def _on_save_snapshot(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Write the next frame of each camera: image, mask, confidence, overlay, metadata."""
        response.success, response.message = await self.after_transitions(self._save_snapshot)
        return response

    def _save_snapshot(self) -> tuple[bool, str]:
        if self.state_label != "active":
            return False, f"no frames: the node is {self.state_label}"
        assert self._segmenter is not None
        manifest = self._segmenter.manifest
        frames: queue.Queue[tuple[str, SegmentedFrame]] = queue.Queue()
        missing = {camera.name for camera in self._cameras}
        end = time.monotonic() + SNAPSHOT_WAIT_S
        for camera in self._cameras:
            camera.snapshots = frames
        try:
            folder = new_folder(self._settings.node.snapshot_dir)
            while missing:
                name, frame = frames.get(timeout=max(0.0, end - time.monotonic()))
                missing.discard(name)
                write_snapshot(folder / name, *snapshot_of(frame, manifest))
        except queue.Empty:
            where = ", ".join(filter(None, sorted(missing))) or "the camera"
            others = f"; others in {folder}" if len(missing) < len(self._cameras) else ""
            return False, f"no frame of {where} within {SNAPSHOT_WAIT_S:g} s{others}"
        except Exception as error:
            return False, one_line(error)
        finally:
            for camera in self._cameras:
                camera.snapshots = None
        return True, str(folder)

    # Health.

    def _on_second(self) -> None:
        """Publish /diagnostics and the latencies."""
        thresholds, states = self._settings.node, self._stream_states()
        model = ModelIdentity.of(self._segmenter)
        self._diagnostics.publish(
            array_from_statuses(
                self,
                [
                    camera.status(now, before, model, thresholds)
                    for camera, now, before in zip(self._cameras, states, self._before, strict=True)
                ],
            )
        )
        self._before = states
        for camera in self._cameras:
            camera.publish_latency()

    def _stream_states(self) -> list[StreamState]:
        loading = self._building or self._loading
        return [
            camera.stream_state(self.state_label, self._model_error, loading)
            for camera in self._cameras
        ]

    def _stop_frames(self) -> None:
        for camera in self._cameras:
            camera.unsubscribe()
        self._worker.stop()

    def _release(self) -> None:
        """Release model and topics, from any state."""
        self._stop_frames()
        for camera in self._cameras:
            camera.release()
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = self._mapping = None
        self._model_error = ""


def main(args: list[str] | None = None) -> None:
    """Console script `segmentation_node`: run until SIGINT or SIGTERM, then exit with 0."""
    # rclpy's handler ends `spin`. Python's would raise KeyboardInterrupt a moment later, in the
    # middle of the cleanup.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_large_buffers()
    node = None
    try:
        start_rclpy(sys.argv if args is None else args)
        rclpy.get_global_executor()  # creating it after a signal would leave a traceback
        node = SegmentationNode()
        node.autostart()
        spin(node)
    except (StartError, ParameterError) as error:
        sys.exit(f"segmentation_node: {error}")
    except ExternalShutdownException:
        pass
    except Exception:
        if rclpy.ok():
            raise
        # A signal shut the context down during the start.
    finally:
        rclpy.signals.uninstall_signal_handlers()  # a second Ctrl-C would use freed objects
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # if killed now, it would leave 128 MiB in /dev/shm
        late = exit_after(END_S, f"segmentation_node: an inference did not end within {END_S:g} s")
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
        late.cancel()
    exit_process()


if __name__ == "__main__":
    main()
