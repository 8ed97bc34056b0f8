# SPDX-License-Identifier: Apache-2.0
"""Lifecycle and parameters of the real node, through its services."""

import contextlib
import shutil
import threading
import time

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from sfseg_ros import segmenter
from sfseg_ros.errors import BackendError
from sfseg_ros.nodes import middleware, segmentation_node
from sfseg_ros.nodes.parameters import ParameterError
from sfseg_ros.tools.processes import unused_domain

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP


@pytest.fixture
def call(bench):
    return bench.call


@pytest.fixture
def change(call):
    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(ChangeState, "change_state", request).success

    return change


@pytest.fixture
def state(call):
    return lambda: call(GetState, "get_state", GetState.Request()).current_state.label


@pytest.fixture
def set_parameter(bench):
    return bench.set_parameter


def test_without_autostart_it_waits_for_transitions(bench, state, change):
    bench.start(autostart=False)
    assert state() == "unconfigured"
    assert change(CONFIGURE)
    assert state() == "inactive"
    assert change(ACTIVATE)
    assert state() == "active"


def test_it_segments_only_while_active_and_again_after_each_cycle(bench, change, state):
    node = bench.started()
    masks = []
    for cycle in range(1, 3):
        masks = bench.listen("/segmentation/mask")
        bench.camera().publish(bench.rgb_image(bench.three_stripes()))
        bench.wait_until(lambda masks=masks: masks, f"a mask in cycle {cycle}")
        assert change(DEACTIVATE)
        assert bench.counts(node)["pending"] == 0
        assert bench.tester.count_subscribers("/image") == 0
        assert change(CLEANUP)
        assert state() == "unconfigured"
        assert node._segmenter is None
        assert change(CONFIGURE)
        assert change(ACTIVATE)


def test_a_frame_that_waits_at_deactivation_is_counted(bench, change):
    node = bench.started()
    bench.listen("/segmentation/mask")
    segment, begun, go_on = node._segmenter.segment_batch, threading.Event(), threading.Event()

    def held_segment(frames, confidence, **options):
        begun.set()
        assert go_on.wait(20)
        return segment(frames, confidence, **options)

    node._segmenter.segment_batch = held_segment
    camera = bench.camera()
    camera.publish(bench.rgb_image(bench.three_stripes()))
    assert begun.wait(20)
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: bench.counts(node)["received"] == 2, "a second frame waits")
    threading.Timer(0.2, go_on.set).start()
    assert change(DEACTIVATE)
    counts = bench.counts(node)
    assert (counts["received"], counts["segmented"], counts["replaced"]) == (2, 1, 1)
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if s["frames_replaced"] == "1"], "diagnostics"
    )
    assert status[-1]["frames_out"] == "1"


def test_after_a_missing_model_another_one_can_be_configured(
    bench, tiny_model, change, state, set_parameter
):
    bench.start(model_dir="/no/such/model")
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if "/no/such/model" in s["message"]], "diagnostics"
    )[-1]
    assert status["level"] == "2"
    assert state() == "unconfigured"
    assert not change(CONFIGURE)
    assert set_parameter("model_dir", str(tiny_model)).successful
    assert change(CONFIGURE)
    assert change(ACTIVATE)
    assert state() == "active"


def test_cleanup_clears_the_error_of_a_refused_model(bench, tiny_model, tmp_path, change):
    folder = shutil.copytree(tiny_model, tmp_path / "mine")
    node = bench.started(model_dir=str(folder))
    (folder / "manifest.yaml").unlink()
    assert not bench.call(Trigger, "reload_model", Trigger.Request()).success
    assert node._model_error
    assert change(DEACTIVATE)
    assert change(CLEANUP)
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if "unconfigured" in s["message"]], "diagnostics"
    )[-1]
    assert status["level"] == "0"


def test_configure_fails_for_a_network_size_that_the_model_refuses(bench, state, change):
    bench.start(network_size="50x50")
    bench.wait_until(
        lambda: [s for s in bench.diagnostics if "50x50" in s["message"]], "diagnostics"
    )
    assert state() == "unconfigured"


def test_it_answers_while_the_model_loads(bench, change, state, call, monkeypatch):
    loading, loaded = threading.Event(), threading.Event()
    open_segmenter = segmentation_node.open_segmenter

    def slow_open_segmenter(*args):
        loading.set()
        assert loaded.wait(20)
        return open_segmenter(*args)

    monkeypatch.setattr(segmentation_node, "open_segmenter", slow_open_segmenter)
    bench.start(autostart=False)
    configured = []
    thread = threading.Thread(target=lambda: configured.append(change(CONFIGURE)))
    thread.start()
    assert loading.wait(20)
    assert state() == "configuring"
    answer = call(GetParameters, "get_parameters", GetParameters.Request(names=["overlay_alpha"]))
    assert answer.values[0].double_value == 0.5
    bench.wait_until(
        lambda: [s for s in bench.diagnostics if s["message"].startswith("configuring; loading")],
        "diag",
    )
    loaded.set()
    thread.join(20)
    assert configured == [True]
    assert state() == "inactive"


def test_loading_continues_after_the_end_of_a_build(bench, change, monkeypatch):
    heard, node = [], None
    open_segmenter = segmentation_node.open_segmenter

    def building_open_segmenter(*args):
        progress = args[-1].progress
        for text in ("TensorRT engine: half done", ""):
            progress(text)
            heard.append({state.loading for state in node._stream_states()})
        return open_segmenter(*args)

    monkeypatch.setattr(segmentation_node, "open_segmenter", building_open_segmenter)
    node = bench.start(autostart=False)
    assert change(CONFIGURE)
    ((building,), (loading,)) = heard
    assert building == "TensorRT engine: half done"
    assert loading.startswith("loading ")
    assert node._stream_states()[0].loading == ""


def lose_the_device(node):
    """Make the backend raise as if its GPU were gone."""

    def lost(rgb, confidence):
        error = BackendError("cuEventSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS")
        error.lost = True
        raise error

    node._segmenter.backend.infer = lost


def test_a_lost_device_is_recovered_by_a_cycle_through_the_lifecycle(bench, state):
    node = bench.started()
    masks = bench.listen("/segmentation/mask")
    camera = bench.camera()
    broken = node._segmenter
    lose_the_device(node)
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(
        lambda: node.state_label == "active" and node._segmenter not in (None, broken), "recovery"
    )
    with pytest.raises(BackendError, match="closed"):
        type(broken.backend).infer(broken.backend, np.zeros((1, 64, 96, 3), np.uint8), False)
    assert "ILLEGAL_ADDRESS; reloading the model" in bench.log()
    masks = bench.listen("/segmentation/mask")
    bench.camera().publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: masks, "a mask")
    assert bench.counts(node)["rejected"] == 1


def test_a_device_that_is_soon_lost_again_leaves_the_node_unconfigured(bench, state, change):
    node = bench.started()
    bench.listen("/segmentation/mask")
    for cycle in range(2):
        broken = node._segmenter
        lose_the_device(node)
        bench.camera().publish(bench.rgb_image(bench.three_stripes()))
        bench.wait_until(lambda broken=broken: node._segmenter is not broken, f"cycle {cycle}")
        if cycle == 0:
            bench.wait_until(lambda: node.state_label == "active", "recovery")
            bench.listen("/segmentation/mask")
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if "restart the process" in s["message"]], "diag"
    )[-1]
    assert status["level"] == "2"
    assert state() == "unconfigured"
    assert change(CONFIGURE)  # a new attempt is allowed
    assert change(ACTIVATE)


def test_a_deactivation_by_another_client_does_not_count_as_a_recovery(bench, state, change):
    node = bench.started()
    assert change(DEACTIVATE)
    node._recovery.begin("the GPU is gone", pytest.fail)
    node.join_transitions()
    assert state() == "inactive"
    assert change(ACTIVATE)
    node._recovery.begin("the GPU is gone", pytest.fail)
    node.join_transitions()
    assert state() == "active"


def test_the_progress_of_a_build_and_the_reason_of_a_backend_are_in_the_diagnostics(
    bench, change, monkeypatch
):
    building, built = threading.Event(), threading.Event()
    open_backend = segmenter.open_backend

    def slow_open_backend(name, manifest, options):
        assert options.gpu_wait == "spin"
        assert not options.cancelled()
        options.progress("TensorRT engine: timing kernels: 40 %")
        building.set()
        assert built.wait(20)
        options.progress("")
        return open_backend(name, manifest, options)

    monkeypatch.setattr(segmenter, "open_backend", slow_open_backend)
    bench.start(gpu_wait="spin")
    assert building.wait(20)
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if "40 %" in s["message"]], "diagnostics"
    )[-1]
    assert status["message"] == "configuring; TensorRT engine: timing kernels: 40 %"
    assert status["level"] == "0"
    built.set()
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if s["backend_reason"]], "diagnostics"
    )[-1]
    assert status["backend_reason"] == "asked for"
    assert status["loading"] == ""


def test_a_deactivation_cancels_the_build_for_an_image_size(bench, change, state, monkeypatch):
    building, options = threading.Event(), []
    open_backend = segmenter.open_backend

    def noting_open_backend(*arguments):
        options.append(arguments[-1])
        return open_backend(*arguments)

    monkeypatch.setattr(segmenter, "open_backend", noting_open_backend)
    node = bench.started()

    def builds(rgb, confidence):
        building.set()
        bench.wait_until(options[0].cancelled, "to be cancelled")
        raise BackendError("the build was cancelled")

    node._segmenter.backend.infer = builds
    bench.listen("/segmentation/mask")
    bench.camera().publish(bench.rgb_image(bench.three_stripes()))
    assert building.wait(20)
    assert not options[0].cancelled()
    assert change(DEACTIVATE)
    assert state() == "inactive"
    assert bench.counts(node)["rejected"] == 1


@pytest.mark.parametrize(
    ("transition", "end"),
    [
        (Transition(id=DEACTIVATE), "inactive"),
        (Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN), "finalized"),
        (Transition(label="shutdown"), "finalized"),
    ],
)
def test_a_waiting_deactivation_or_shutdown_cancels_the_build_for_another_model(
    bench, call, state, monkeypatch, transition, end
):
    node = bench.started()
    old, building, asked = node._segmenter, threading.Event(), []

    def builds(name, manifest, options):
        building.set()
        while not options.cancelled():
            asked.append(node.state_label)
            assert len(asked) < 1000, "the build is not cancelled"
            time.sleep(0.01)
        raise BackendError("the engine's build was cancelled")

    open_backend = segmenter.open_backend
    monkeypatch.setattr(segmenter, "open_backend", builds)
    reload = threading.Thread(target=lambda: call(Trigger, "reload_model", Trigger.Request()))
    reload.start()
    assert building.wait(20)
    call(GetState, "get_state", GetState.Request())
    assert not node.is_ending()  # other requests cancel nothing
    request = ChangeState.Request(transition=transition)
    assert call(ChangeState, "change_state", request).success
    assert state() == end
    assert set(asked) == {"active"}
    reload.join(20)
    assert "the engine's build was cancelled" in bench.log()
    assert not node.is_ending()
    if end == "inactive":
        assert node._segmenter is old
        monkeypatch.setattr(segmenter, "open_backend", open_backend)
        assert call(Trigger, "reload_model", Trigger.Request()).success


def test_a_refused_cleanup_cancels_nothing_later(bench, change):
    node = bench.start(autostart=False)
    assert not change(CLEANUP)
    assert not node.is_ending()
    assert change(CONFIGURE)


def test_a_destroyed_node_leaves_no_service_behind(bench):
    node = segmentation_node.SegmentationNode("another", context=bench.context)
    bench.wait_until(lambda: bench.tester.count_services("/another/get_state"), "its service")
    node.close()
    node.destroy_node()
    bench.wait_until(lambda: not bench.tester.count_services("/another/get_state"), "its end")


@pytest.mark.parametrize("transition", [ACTIVATE, DEACTIVATE, CLEANUP, 99])
def test_a_transition_that_is_not_allowed_is_refused(bench, change, state, transition):
    bench.start(autostart=False)
    assert not change(transition)
    assert state() == "unconfigured"


def test_an_exception_in_a_transition_leads_back_to_unconfigured(bench, change, state, monkeypatch):
    node = bench.start(autostart=False)
    assert change(CONFIGURE)
    monkeypatch.setattr(node._worker, "start", lambda: 1 / 0)
    assert not change(ACTIVATE)
    assert state() == "unconfigured"
    assert node._segmenter is None
    assert "ZeroDivisionError" in bench.log()
    monkeypatch.undo()
    assert change(CONFIGURE)
    assert change(ACTIVATE)


def test_shutdown_is_possible_from_active(bench, change, state):
    node = bench.started()
    assert change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert state() == "finalized"
    assert node._segmenter is None


def test_many_transitions_under_load_leave_it_usable(bench, change, state):
    bench.started()
    camera = bench.camera()
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            camera.publish(bench.rgb_image(bench.three_stripes()))
            time.sleep(0.002)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(5):
            assert change(DEACTIVATE)
            assert change(ACTIVATE)
    finally:
        stop.set()
        thread.join()
    masks = bench.listen("/segmentation/mask")
    bench.wait_until(camera.get_subscription_count, "the node listens again")
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: masks, "a mask")


def test_the_executor_survives_topics_destroyed_by_a_transition(monkeypatch):
    """While a topic is being destroyed, its events are listed but gone; Jazzy's executor raises."""
    context = rclpy.Context()
    context.init(args=None, domain_id=unused_domain())
    node = rclpy.create_node("node", context=context)
    executor = SingleThreadedExecutor(context=context)
    publisher = node.create_publisher(Image, "gone", 1)
    spins = []

    def observed_spin(node):
        spins.append(node)
        try:
            rclpy_spin(node, executor)
        except InvalidHandle:
            node.destroy_publisher(publisher)  # the transition continues
            node.create_timer(0.01, context.try_shutdown)
            raise

    rclpy_spin = middleware.rclpy.spin
    monkeypatch.setattr(middleware.rclpy, "spin", observed_spin)
    publisher.event_handlers[0].destroy()
    with contextlib.suppress(ExternalShutdownException):
        middleware.spin(node)
    assert len(spins) == 2
    assert not context.ok()
    executor.shutdown()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("overlay_alpha", 2.0, "overlay_alpha"),
        ("backend", "cuda", "expected one of"),
        ("network_size", "big", "HEIGHTxWIDTH"),
        ("overlay_alpha", "opaque", "type"),
        ("autostart", False, "read-only"),
    ],
)
def test_a_bad_value_is_refused_with_a_reason(bench, set_parameter, name, value, reason):
    node = bench.start(autostart=False)
    before = node._settings
    result = set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason
    assert node._settings == before


def test_every_parameter_is_described_with_its_range(bench, call):
    bench.start(autostart=False)
    request = DescribeParameters.Request(names=["overlay_alpha", "threads", "autostart"])
    alpha, threads, autostart = call(DescribeParameters, "describe_parameters", request).descriptors
    assert "Opacity" in alpha.description
    assert (alpha.floating_point_range[0].from_value, alpha.floating_point_range[0].to_value) == (
        0.0,
        1.0,
    )
    assert threads.integer_range[0].to_value == 256
    assert autostart.read_only


def test_quality_of_service_can_be_overridden(bench):
    bench.started(
        **{
            "qos_overrides./segmentation/mask.publisher.reliability": "best_effort",
            "qos_overrides./image.subscription.reliability": "reliable",
        }
    )

    def reliability(infos):
        return bench.wait_until(infos, "the endpoint is discovered")[0].qos_profile.reliability.name

    tester = bench.tester
    mask, overlay = "/segmentation/mask", "/segmentation/overlay"
    assert reliability(lambda: tester.get_publishers_info_by_topic(mask)) == "BEST_EFFORT"
    assert reliability(lambda: tester.get_publishers_info_by_topic(overlay)) == "RELIABLE"
    assert reliability(lambda: tester.get_subscriptions_info_by_topic("/image")) == "RELIABLE"


def test_the_log_names_the_policy_of_an_incompatible_quality_of_service(bench):
    bench.started(**{"qos_overrides./image.subscription.reliability": "reliable"})
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    bench.tester.create_publisher(Image, "image", qos)
    bench.wait_until(lambda: "RELIABILITY" in bench.log(), "a warning")
    assert "incompatible QoS" in bench.log()


def test_parameters_at_start_must_be_in_their_ranges(bench):
    with pytest.raises(ParameterError, match="overlay_alpha"):
        bench.start(overlay_alpha=7.0)
