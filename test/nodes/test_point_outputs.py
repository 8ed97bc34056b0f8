# SPDX-License-Identifier: Apache-2.0
"""Depth images and lidar clouds over real topics; the test hands over masks as the node does."""

import contextlib
import math
import sys
import threading
import time
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import rclpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from sfseg_ros.geometry import FrameGeometry, View, geometry_of
from sfseg_ros.nodes.messages import cloud_from_message, message_from_cloud
from sfseg_ros.nodes.outputs import CLOUDS
from sfseg_ros.nodes.point_outputs import IN_A_ROW, CloudOutputs
from sfseg_ros.points import clouds
from sfseg_ros.points.camera_model import CameraModel
from sfseg_ros.points.clouds import DATATYPES
from sfseg_ros.tools.processes import unused_domain

WAIT_S = 30.0
HEIGHT, WIDTH = 24, 32
# x forward, y left, z up -> x right, y down, z forward
OPTICAL_FROM_LIDAR = [0.0, 0.0, 0.0, 0.5, -0.5, 0.5, 0.5]
MODEL = CameraModel(
    height=HEIGHT,
    width=WIDTH,
    distortion_model="plumb_bob",
    d=(0.0,) * 5,
    k=(20.0, 0.0, 15.5, 0.0, 20.0, 11.5, 0.0, 0.0, 1.0),
    r=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    p=(20.0, 0.0, 15.5, 0.0, 0.0, 20.0, 11.5, 0.0, 0.0, 0.0, 1.0, 0.0),
)


@dataclass
class Frame:
    rgb: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray | None
    geometry: FrameGeometry
    header: Header | None = None
    camera: CameraModel | None = None


@dataclass
class Settings:
    rectified: bool = False
    depth_tolerance_ms: float = 50.0
    lidar_extrinsics: tuple = (0.0,) * 7
    lidar_time_offset_ms: float = 0.0
    lidar_tolerance_ms: float = 50.0


def frame(**view):
    geometry = geometry_of((HEIGHT, WIDTH), View(**view), lambda size: (32, 32))
    rng = np.random.default_rng(0)
    labels, confidence = rng.integers(0, 200, (2, *geometry.output_size), np.uint8)
    return Frame(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), labels, confidence, geometry)


def header(ms=5000, frame_id="camera_optical"):
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = ms // 1000, ms % 1000 * 1_000_000
    return header


def depth_image(ms=5000, value=2000):
    message = Image(header=header(ms), height=HEIGHT, width=WIDTH, encoding="16UC1", step=WIDTH * 2)
    message.data.frombytes(np.full((HEIGHT, WIDTH), value, "<u2").tobytes())
    return message


def lidar_cloud(ms=5000, xyz=((5, 0, 0), (-5, 0, 0)), frame_id="lidar"):
    points = np.array(xyz, "<f4").reshape(-1, 3)
    message = PointCloud2(
        header=header(ms, frame_id),
        height=1,
        width=len(points),
        fields=[
            PointField(name=name, offset=4 * axis, datatype=7, count=1)
            for axis, name in enumerate("xyz")
        ],
        point_step=12,
        row_step=12 * len(points),
        is_dense=True,
    )
    message.data.frombytes(points.tobytes())
    return message


def array_from(message):
    dtype = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": ["<" + DATATYPES[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


class Rig:
    """CloudOutputs on a node, and a second node with the sensors and the subscribers."""

    def __init__(self):
        self.context = rclpy.Context()
        self.context.init(args=None, domain_id=unused_domain())
        self.node = rclpy.create_node("segmentation", context=self.context)
        self.tester = rclpy.create_node("tester", context=self.context)
        self.settings = Settings(lidar_extrinsics=OPTICAL_FROM_LIDAR)
        self.clouds = CloudOutputs(self.node, "front/", lambda: self.settings)
        self.warnings = []
        self.node.get_logger().warning = self.warnings.append
        self._closing = threading.Event()
        self._threads = [self._spinning(node) for node in (self.node, self.tester)]
        self.clouds.start()

    def _spinning(self, node):
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def run():
            with contextlib.suppress(ExternalShutdownException):
                while not self._closing.is_set():
                    with contextlib.suppress(InvalidHandle):  # as `spin` of nodes/middleware.py
                        executor.spin_once(timeout_sec=0.05)
            executor.shutdown()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    @staticmethod
    def wait_until(condition, what):
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, f"not within {WAIT_S:.0f} s: {what}"
            time.sleep(0.005)

    def listen(self, output):
        """The list that receives `/segmentation/front/<output>`; the input is subscribed to."""
        heard = []
        topic = f"/segmentation/front/{output}"
        self.tester.create_subscription(PointCloud2, topic, heard.append, 10)
        self.wait_until(lambda: self.clouds.wanted(CLOUDS), f"{output} is listened to")
        publisher = self.clouds._points if output == "points" else self.clouds._labelled
        self.wait_until(publisher.publisher.get_subscription_count, "listener is known")
        self.clouds.wanted(CLOUDS)
        return heard

    def add(self, frame, header, camera):
        """Hand over a mask as the node does."""
        self.clouds.add(replace(frame, header=header, camera=camera))

    def sensor(self, kind, topic):
        publisher = self.tester.create_publisher(kind, topic, QoSProfile(depth=10))
        self.wait_until(publisher.get_subscription_count, f"{topic} is listened to")
        return publisher

    def depth_camera(self):
        return self.sensor(Image, "front/depth")

    def lidar(self):
        return self.sensor(PointCloud2, "front/points_in")

    def counts(self, output):
        return self.clouds.counts[output]

    def close(self):
        self.clouds.destroy()
        self._closing.set()
        for thread in self._threads:
            thread.join()
        for node in (self.node, self.tester):
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def rig(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rig = Rig()
    yield rig
    rig.close()
    left = [t.name for t in threading.enumerate() if t.name.startswith("sfseg_")]
    assert left == [], "threads outlive the outputs"


@pytest.mark.parametrize("mask_first", [True, False])
@pytest.mark.parametrize("view", [{}, {"output_size": (12, 20)}, {"horizon": 0.5}])
def test_the_cloud_has_the_size_and_the_header_of_the_mask(rig, mask_first, view):
    """Nav2's semantic_segmentation_layer joins by the header and indexes by the size."""
    heard = rig.listen("points")
    depth_camera = rig.depth_camera()
    mask = frame(**view)
    if mask_first:
        rig.add(mask, header(5000), MODEL)
    depth_camera.publish(depth_image(5000))
    rig.wait_until(lambda: mask_first or len(rig.clouds._by_depth._partners), "depth is there")
    if not mask_first:
        rig.add(mask, header(5000), MODEL)
    rig.wait_until(lambda: heard, "a cloud")
    cloud = heard[0]
    assert cloud.header == header(5000)
    assert (cloud.height, cloud.width) == mask.labels.shape
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "class", "confidence"]
    points = array_from(cloud)
    np.testing.assert_array_equal(points["class"], mask.labels)
    np.testing.assert_array_equal(points["confidence"], mask.confidence)
    np.testing.assert_array_equal(points["z"], np.float32(2))
    rig.wait_until(lambda: rig.counts("points").made == 1, "it is counted")


def test_sensor_msgs_py_reads_the_same_points(rig):
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2")
    labelled = clouds.labelled_cloud(
        cloud_from_message(lidar_cloud()),
        *(frame().labels, frame().confidence, frame().geometry, MODEL),
        clouds.matrix_from_pose(OPTICAL_FROM_LIDAR),
    )
    message = message_from_cloud(header(), labelled)
    read = point_cloud2.read_points(message)
    for name in ("x", "y", "z", "class", "confidence"):
        np.testing.assert_array_equal(read[name], array_from(message)[name].ravel())


def test_the_labelled_cloud_has_the_header_of_the_lidars_cloud(rig):
    heard = rig.listen("labelled_points")
    lidar = rig.lidar()
    sent = lidar_cloud(5010)
    lidar.publish(sent)
    rig.wait_until(lambda: rig.clouds._by_mask._waiting, "the cloud waits for its mask")
    mask = frame()
    rig.add(mask, header(5020), MODEL)
    rig.wait_until(lambda: heard, "a cloud")
    assert heard[0].header == sent.header
    assert heard[0].fields[:3] == sent.fields
    points = array_from(heard[0])[0]
    np.testing.assert_array_equal(points["x"], [5, -5])
    # The optical axis ends at a corner of four pixels.
    assert points["class"][0] == mask.labels[12, 16]
    assert points["confidence"][0] == mask.confidence[12, 16]
    assert (points["class"][1], points["confidence"][1]) == (255, 0)


def test_an_empty_cloud_stays_empty(rig):
    heard = rig.listen("labelled_points")
    lidar = rig.lidar()
    rig.add(frame(), header(5000), MODEL)
    for message in (PointCloud2(header=header(5000)), lidar_cloud(5000, xyz=())):
        heard.clear()
        lidar.publish(message)
        rig.wait_until(lambda: heard, "a cloud")
        assert len(heard[0].data) == 0
        assert [field.name for field in heard[0].fields][-2:] == ["class", "confidence"]


def test_the_offset_affects_only_the_matching_of_stamps(rig):
    rig.settings.lidar_time_offset_ms = -300.0
    heard = rig.listen("labelled_points")
    lidar = rig.lidar()
    rig.add(frame(), header(4700), MODEL)
    lidar.publish(lidar_cloud(5000))
    rig.wait_until(lambda: heard, "a cloud")
    assert heard[0].header == header(5000, "lidar")


def test_inputs_are_subscribed_to_only_while_outputs_have_subscribers(rig):
    def subscribed():
        topics = ("front/depth", "front/points_in")
        return [rig.node.count_subscribers(f"/{topic}") for topic in topics]

    assert not rig.clouds.wanted(CLOUDS)
    assert subscribed() == [0, 0]
    for output, expected in (("points", [1, 0]), ("labelled_points", [0, 1])):
        for _ in range(2):  # a subscriber that leaves and returns
            rig.listen(output)
            rig.wait_until(lambda e=expected: subscribed() == e, "the input is subscribed to")
            assert rig.clouds.wanted(CLOUDS)
            rig.tester.destroy_subscription(
                next(s for s in rig.tester.subscriptions if s.topic_name.endswith(f"/{output}"))
            )
            rig.wait_until(lambda: not rig.clouds.wanted(CLOUDS), "no subscriber")
            rig.wait_until(lambda: subscribed() == [0, 0], "the input is unsubscribed")


def test_best_effort_publishers_and_subscribers_match(rig):
    heard = []
    topic = "/segmentation/front/points"
    rig.tester.create_subscription(PointCloud2, topic, heard.append, qos_profile_sensor_data)
    rig.wait_until(lambda: rig.clouds.wanted(CLOUDS), "it is listened to")
    camera = rig.tester.create_publisher(Image, "front/depth", qos_profile_sensor_data)
    rig.wait_until(camera.get_subscription_count, "depth is listened to")
    rig.add(frame(), header(), MODEL)
    camera.publish(depth_image())
    rig.wait_until(lambda: heard, "a cloud")


def test_masks_are_not_kept_without_a_subscriber(rig):
    rig.add(frame(), header(), MODEL)
    assert rig.clouds._by_depth._waiting == []
    assert len(rig.clouds._by_mask._partners) == 0


def test_a_frame_without_confidence_is_left_out(rig):
    rig.listen("points")
    rig.add(replace(frame(), confidence=None), header(), MODEL)
    assert rig.clouds._by_depth._waiting == []


def test_unmatched_clouds_are_counted_and_repeated_ones_logged(rig):
    rig.listen("labelled_points")
    lidar = rig.lidar()
    for i in range(IN_A_ROW):
        assert rig.warnings == []
        lidar.publish(lidar_cloud(5000 + 200 * i))
        rig.wait_until(lambda: rig.clouds._by_mask._waiting, "the cloud waits for its mask")
        rig.add(frame(), header(5000 + 200 * i + 100), MODEL)
        assert rig.counts("labelled_points").unmatched == i + 1
    assert len(rig.warnings) == 1
    assert "10 clouds so far had no mask within 50 ms" in rig.warnings[0]
    assert "lidar_time_offset_ms" in rig.warnings[0]


def test_masks_without_depth_are_counted_and_logged(rig):
    rig.listen("points")
    for i in range(40):
        rig.add(frame(), header(5000 + 33 * i), MODEL)
    assert rig.counts("points").unmatched == 30
    assert len(rig.warnings) == 1
    assert "/front/depth" in rig.warnings[0]


def test_a_slower_depth_camera_causes_no_warning(rig):
    heard = rig.listen("points")
    depth_camera = rig.depth_camera()
    for i in range(4 * IN_A_ROW):
        ms = 5000 + 100 * i
        rig.add(frame(), header(ms), MODEL)
        if i % 2 == 0:
            made = rig.counts("points").made
            depth_camera.publish(depth_image(ms))
            rig.wait_until(lambda m=made: rig.counts("points").made == m + 1, "a cloud")
    rig.wait_until(lambda: len(heard) == 2 * IN_A_ROW, "the clouds")
    assert rig.warnings == []


def test_damaged_messages_are_rejected_and_logged_in_one_line(rig):
    heard = rig.listen("points")
    labelled = rig.listen("labelled_points")
    depth_camera, lidar = rig.depth_camera(), rig.lidar()
    damaged_depth, damaged_cloud = depth_image(), lidar_cloud()
    damaged_depth.step = 1
    damaged_cloud.point_step = 1
    depth_camera.publish(damaged_depth)
    lidar.publish(damaged_cloud)
    rig.wait_until(lambda: len(rig.clouds._by_depth._partners), "depth is there")
    rig.wait_until(lambda: rig.clouds._by_mask._waiting, "the cloud waits")
    rig.add(frame(), header(), MODEL)
    for output in ("points", "labelled_points"):
        rig.wait_until(lambda o=output: rig.counts(o).rejected == 1, "it is counted")
    rig.wait_until(lambda: len(rig.warnings) == 2, "it is logged")
    assert any(
        "/segmentation/front/points: 1 clouds rejected so far" in text for text in rig.warnings
    )
    assert any("point_step" in text and "\n" not in text for text in rig.warnings)
    rig.add(frame(), header(6000), MODEL)
    depth_camera.publish(depth_image(6000))
    lidar.publish(lidar_cloud(6000))
    rig.wait_until(lambda: heard and labelled, "the next ones are good")


def test_a_warning_repeats_only_once_in_a_while(rig):
    rig.listen("labelled_points")
    lidar = rig.lidar()
    message = lidar_cloud()
    message.fields = []
    rig.add(frame(), header(), MODEL)
    for count in range(1, 4):
        lidar.publish(message)
        rig.wait_until(lambda c=count: rig.counts("labelled_points").rejected == c, "rejected")
    assert len(rig.warnings) == 1


def test_one_kind_of_warning_does_not_suppress_another(rig):
    rig.listen("points")
    damaged = depth_image()
    damaged.step = 1
    rig.add(frame(), header(), MODEL)
    rig.depth_camera().publish(damaged)
    rig.wait_until(lambda: len(rig.warnings) == 1, "the damaged one is logged")
    for i in range(4 * IN_A_ROW):
        rig.add(frame(), header(6000 + 100 * i), MODEL)
    assert "had no depth image" in rig.warnings[-1]
    assert len(rig.warnings) == 2


@pytest.mark.parametrize(
    ("changes", "rectified", "matrix"),
    [({"k": (0.0,) * 9}, False, "K"), ({"p": (0.0,) * 12}, True, "P")],
)
def test_an_empty_calibration_is_logged_once_and_gives_no_cloud(rig, changes, rectified, matrix):
    rig.settings.rectified = rectified
    rig.listen("points")
    for i in range(20):
        rig.add(frame(), header(5000 + i), replace(MODEL, **changes))
    assert rig.warnings == [f"/front/camera_info: {matrix} is empty: the points need a calibration"]
    assert rig.clouds._by_depth._waiting == []


def test_a_missing_camera_info_is_logged_once_and_not_at_the_first_frame(rig):
    rig.listen("points")
    for i in range(30):
        assert len(rig.warnings) == (1 if i >= IN_A_ROW else 0)
        rig.add(frame(), header(5000 + i), None)
    assert "/front/camera_info" in rig.warnings[0]


def test_camera_info_of_another_size_is_rejected_and_the_next_one_used(rig):
    heard = rig.listen("points")
    depth_camera = rig.depth_camera()
    for ms, model in ((5000, replace(MODEL, width=64, height=48)), (6000, MODEL)):
        rig.add(frame(), header(ms), model)
        depth_camera.publish(depth_image(ms))
        rig.wait_until(lambda: heard or rig.counts("points").rejected, "an answer")
    rig.wait_until(lambda: heard, "the good one")
    assert "48x64" in rig.warnings[0]


def test_add_never_waits_and_the_newest_pair_wins(rig, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    organised_cloud = clouds.organised_cloud

    def slow(*arguments):
        begun.set()
        assert go_on.wait(WAIT_S)
        return organised_cloud(*arguments)

    monkeypatch.setattr(clouds, "organised_cloud", slow)
    heard = rig.listen("points")
    for ms in (5000, 5100, 5200, 5300):
        rig.add(frame(), header(ms), MODEL)
        rig.clouds._on_depth(depth_image(ms))
        assert begun.wait(WAIT_S)
    go_on.set()
    rig.wait_until(lambda: len(heard) == 2, "two clouds")
    assert [cloud.header for cloud in heard] == [header(5000), header(5300)]
    rig.wait_until(lambda: rig.counts("points").made == 2, "they are counted")
    assert rig.counts("points").replaced == 2


def test_stop_releases_everything_and_start_works_again(rig):
    rig.listen("points")
    rig.add(frame(), header(), MODEL)
    rig.clouds.stop()
    assert not rig.clouds.wanted(CLOUDS)
    rig.wait_until(
        lambda: not rig.node.count_subscribers("/front/depth"), "the input is unsubscribed"
    )
    assert rig.clouds._by_depth._waiting == []
    rig.clouds.start()
    heard = rig.listen("points")
    depth_camera = rig.depth_camera()
    rig.add(frame(), header(), MODEL)
    depth_camera.publish(depth_image())
    rig.wait_until(lambda: heard, "a cloud")


def test_clouds_continue_after_a_jump_back_in_time(rig):
    heard = rig.listen("points")
    depth_camera = rig.depth_camera()
    for ms in (900_000, 5_000):
        heard.clear()
        rig.add(frame(), header(ms), MODEL)
        depth_camera.publish(depth_image(ms))
        rig.wait_until(lambda: heard, "a cloud")
        assert heard[0].header == header(ms)


# Transforms.


class FakeTf2:
    """The part of tf2_ros that the node uses; tf2_ros itself is not on PyPI."""

    class TransformException(Exception):  # noqa: N818
        pass

    def __init__(self):
        self.asked, self.listening, self.cleared = [], 0, 0
        fake = self
        self.module = ModuleType("tf2_ros")
        self.module.TransformException = self.TransformException

        class Buffer:
            def clear(self):
                fake.cleared += 1

            def lookup_transform(self, target, source, time):
                fake.asked.append((target, source, time.nanoseconds))
                if source != "lidar":
                    raise FakeTf2.TransformException(f'"{source}"\ndoes not exist')
                shift = dict(zip("xyz", OPTICAL_FROM_LIDAR[:3]))
                turn = dict(zip("xyzw", OPTICAL_FROM_LIDAR[3:]))
                return SimpleNamespace(
                    transform=SimpleNamespace(
                        translation=SimpleNamespace(**shift), rotation=SimpleNamespace(**turn)
                    )
                )

        class TransformListener:
            def __init__(self, buffer, node):
                fake.listening += 1

            def unregister(self):
                fake.listening -= 1

        self.module.Buffer, self.module.TransformListener = Buffer, TransformListener


@pytest.fixture
def tf2(monkeypatch):
    fake = FakeTf2()
    monkeypatch.setitem(sys.modules, "tf2_ros", fake.module)
    return fake


def test_without_extrinsics_the_transform_has_the_time_of_the_cloud(rig, tf2):
    rig.settings.lidar_extrinsics = []
    rig.settings.lidar_time_offset_ms = 7.0
    heard = rig.listen("labelled_points")
    assert tf2.listening == 1
    lidar = rig.lidar()
    rig.add(frame(), header(5010), MODEL)
    lidar.publish(lidar_cloud(5000))
    rig.wait_until(lambda: heard, "a cloud")
    assert array_from(heard[0])["class"][0, 0] == frame().labels[12, 16]
    assert tf2.asked == [("camera_optical", "lidar", 5_007_000_000)]
    rig.clouds.stop()
    assert tf2.listening == 0


def test_a_looped_bag_clears_the_transforms_of_the_last_round(rig, tf2):
    rig.settings.lidar_extrinsics = []
    heard = rig.listen("labelled_points")
    lidar = rig.lidar()
    for rounds, ms in enumerate((900_000, 900_100, 5_000)):
        rig.add(frame(), header(ms), MODEL)
        lidar.publish(lidar_cloud(ms))
        rig.wait_until(lambda n=rounds: len(heard) == n + 1, "a cloud")
        assert tf2.cleared == (1 if ms == 5_000 else 0)


def test_extrinsics_set_later_replace_the_transforms(rig, tf2):
    rig.settings.lidar_extrinsics = []
    rig.listen("labelled_points")
    rig.settings.lidar_extrinsics = OPTICAL_FROM_LIDAR
    assert rig.clouds.wanted(CLOUDS)
    assert tf2.listening == 0


def test_a_missing_transform_rejects_the_cloud_and_is_logged(rig, tf2):
    rig.settings.lidar_extrinsics = []
    rig.listen("labelled_points")
    lidar = rig.lidar()
    rig.add(frame(), header(5000), MODEL)
    lidar.publish(lidar_cloud(5000, frame_id="elsewhere"))
    rig.wait_until(lambda: rig.warnings, "a warning")
    assert "no transform from 'elsewhere' to 'camera_optical'" in rig.warnings[0]
    assert "\n" not in rig.warnings[0]


@pytest.mark.parametrize("frame_id", ["lidar", "camera_optical"])
def test_without_tf2_ros_extrinsics_are_required_for_different_frames(rig, monkeypatch, frame_id):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)  # import raises ImportError
    rig.settings.lidar_extrinsics = []
    heard = rig.listen("labelled_points")
    lidar = rig.lidar()
    rig.add(frame(), header(5000), MODEL)
    lidar.publish(lidar_cloud(5000, frame_id=frame_id))
    rig.wait_until(lambda: heard or rig.warnings, "an answer")
    if frame_id == "lidar":
        assert "tf2-ros" in rig.warnings[0]
        assert "lidar_extrinsics" in rig.warnings[0]
    else:
        assert rig.warnings == []


# Messages.


def test_a_cloud_becomes_a_message_without_a_copy():
    cloud = clouds.organised_cloud(
        np.full((HEIGHT, WIDTH), 2000, np.uint16),
        *(frame().rgb, frame().labels, frame().confidence, frame().geometry, MODEL),
    )
    message = message_from_cloud(header(), cloud)
    assert message._data is cloud.data
    arrived = deserialize_message(serialize_message(message), PointCloud2)
    assert arrived.header == header()
    assert replace(cloud_from_message(arrived), data=b"") == replace(cloud, data=b"")
    assert bytes(arrived.data) == bytes(cloud.data)


@given(
    width=st.integers(0, 3),
    point_step=st.integers(0, 20),
    surplus=st.integers(-1, 1),
    is_bigendian=st.booleans(),
    fields=st.lists(
        st.builds(
            PointField,
            name=st.sampled_from(["x", "y", "z", "class"]),
            offset=st.integers(0, 9),
            datatype=st.integers(0, 9),
            count=st.integers(0, 2),
        ),
        max_size=4,
    ),
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_cloud_is_labelled_or_raises_cloud_error(
    width, point_step, surplus, is_bigendian, fields
):
    message = PointCloud2(
        height=1,
        width=width,
        fields=fields,
        is_bigendian=is_bigendian,
        point_step=point_step,
        row_step=width * point_step,
    )
    message.data.frombytes(bytes(max(0, width * point_step + surplus)))
    arguments = (frame().labels, frame().confidence, frame().geometry, MODEL, np.eye(4))
    try:
        labelled = clouds.labelled_cloud(cloud_from_message(message), *arguments)
    except clouds.CloudError:
        return
    sent = serialize_message(message_from_cloud(header(), labelled))
    assert deserialize_message(sent, PointCloud2).width == width


def test_clouds_that_fail_during_shutdown_are_not_logged(rig):
    rig.listen("points")
    rig.clouds.stop()
    rig.context.try_shutdown()
    rig.clouds._on_rejected(None, RuntimeError("publisher is gone"))
    assert rig.warnings == []


def test_points_of_pixels_without_depth_are_nan(rig):
    heard = rig.listen("points")
    depth_camera = rig.depth_camera()
    rig.add(frame(), header(), MODEL)
    depth_camera.publish(depth_image(value=0))
    rig.wait_until(lambda: heard, "a cloud")
    assert not heard[0].is_dense
    assert all(math.isnan(value) for value in array_from(heard[0])["z"].ravel())
