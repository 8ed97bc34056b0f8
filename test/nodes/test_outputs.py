# SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from sfseg_ros.frames.latency import FrameTimes
from sfseg_ros.geometry import View, geometry_of
from sfseg_ros.imaging import Picture
from sfseg_ros.nodes import interface
from sfseg_ros.nodes.messages import picture_from_message
from sfseg_ros.nodes.outputs import OUTPUTS
from sfseg_ros.nodes.parameters import NODE_FIELDS, choices
from sfseg_ros.nodes.publishers import LatencyPublishers
from sfseg_ros.nodes.segmented_frame import SegmentedFrame
from sfseg_ros.points.camera_model import CameraModel
from sfseg_ros.tools.processes import unused_domain

ROOT = Path(__file__).resolve().parents[2]
HEADER = Header(frame_id="camera_optical")
CHANNELS = {"mono8": 1, "rgb8": 3}


def frame_of(view=View(), is_bgr=False, camera=None):  # noqa: B008
    palette_rgb = np.zeros((256, 3), np.uint8)
    palette_rgb[1] = (10, 20, 30)
    pixels = np.full((4, 6, 3), (100, 110, 120), np.uint8)
    geometry = geometry_of((4, 6), view, lambda size: (32, 32))
    return SegmentedFrame(
        header=HEADER,
        picture=Picture(pixels, is_bgr),
        labels=np.ones(geometry.output_size, np.uint8),
        confidence=np.full(geometry.output_size, 200, np.uint8),
        palette_rgb=palette_rgb,
        overlay_alpha=0.5,
        geometry=geometry,
        camera=camera,
    )


def pixels_of(message):
    return np.asarray(message.data).reshape(message.height, message.width, -1)


def output(name):
    return next(o for o in OUTPUTS if o.name == name)


def test_the_mask_is_published_first():
    assert OUTPUTS[0].name == "mask"


@pytest.mark.parametrize("view", [View(), View(output_size="network"), View(output_size=(3, 5))])
@pytest.mark.parametrize("row", [o for o in OUTPUTS if o.message is Image], ids=lambda o: o.name)
def test_each_image_has_the_size_of_the_output_and_the_bytes_of_its_encoding(row, view):
    frame = frame_of(view)
    message = row.message_from(frame)
    assert message.header == HEADER
    assert (message.height, message.width) == frame.geometry.output_size
    assert message.encoding == row.encoding
    assert message.step == message.width * CHANNELS[row.encoding]
    assert len(message.data) == message.step * message.height


def test_the_color_mask_has_the_colours_of_the_classes():
    assert tuple(pixels_of(output("color_mask").message_from(frame_of()))[0, 0]) == (10, 20, 30)


def test_the_overlay_is_rgb_for_rgb_and_bgr_cameras():
    rgb = pixels_of(output("overlay").message_from(frame_of()))
    bgr = pixels_of(output("overlay").message_from(frame_of(is_bgr=True)))
    assert tuple(rgb[0, 0]) == (55, 65, 75)
    assert tuple(bgr[0, 0]) == (65, 65, 65)


def test_camera_info_is_published_if_there_is_a_calibration():
    assert output("camera_info").message_from(frame_of()) is None
    camera = CameraModel(
        height=4,
        width=6,
        distortion_model="plumb_bob",
        d=(0.1, 0.2, 0.3, 0.4, 0.5),
        k=(5.0, 0.0, 3.0, 0.0, 5.0, 2.0, 0.0, 0.0, 1.0),
        r=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        p=(5.0, 0.0, 3.0, 0.0, 0.0, 5.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    )
    same = output("camera_info").message_from(frame_of(camera=camera))
    assert isinstance(same, CameraInfo)
    assert same.header == HEADER
    assert (same.height, same.width, list(same.k)) == (4, 6, list(camera.k))
    assert list(same.d) == list(camera.d)
    doubled = output("camera_info").message_from(frame_of(View(output_size=(8, 12)), camera=camera))
    assert (doubled.height, doubled.width, doubled.k[0], doubled.k[2]) == (8, 12, 10.0, 6.0)


def test_latencies_published_after_cleanup_are_dropped(bench):
    """The timer of the diagnostics may fire while a transition destroys the publishers."""
    latencies = LatencyPublishers(bench.tester, "")
    latencies.destroy()
    latencies.publish(FrameTimes())


@pytest.mark.parametrize(
    ("name", "of_image", "image_format"),
    [
        ("mask/compressed", "mask", "mono8; png compressed "),
        ("overlay/compressed", "overlay", "rgb8; jpeg compressed bgr8"),
    ],
)
def test_a_compressed_output_decodes_to_its_image(name, of_image, image_format):
    frame = frame_of()
    message = output(name).message_from(frame)
    decoded = picture_from_message(deserialize_message(serialize_message(message), CompressedImage))
    pixels = pixels_of(output(of_image).message_from(frame))
    assert message.header == HEADER
    assert message.format == image_format
    tolerance = 0 if of_image == "mask" else 4
    np.testing.assert_allclose(decoded.rgb.astype(int), pixels + np.zeros(3, int), atol=tolerance)


def test_one_name_allows_an_image_and_its_file():
    assert {row.image_name for row in OUTPUTS if row.name.endswith("/compressed")} == {
        "mask",
        "overlay",
    }


def test_every_row_is_allowed_documented_and_published_by_a_running_node(bench):
    node = bench.started()
    published = {p.topic_name: p.msg_type for p in node.publishers}
    allowed = NODE_FIELDS["outputs"]
    table = interface.markdown_tables()["Published topics"]
    for row in OUTPUTS:
        assert row.image_name in choices(allowed)
        assert row.image_name in allowed.default
        assert re.search(
            rf"^\| `~/{row.name}` \| .* \| {re.escape(row.description)} \|$", table, re.M
        )
        assert published[f"/segmentation/{row.name}"] is row.message


A_NEW_ROW = """
import sys
from sfseg_ros.nodes import outputs

row = outputs._image_output("brightness", "mono8", "Red only.", lambda frame: frame.rgb[..., 0])
outputs.OUTPUTS, outputs.IMAGES = (*outputs.OUTPUTS, row), (*outputs.IMAGES, row)

import rclpy
from rclpy.parameter import Parameter
from sfseg_ros.nodes import interface
from sfseg_ros.nodes.parameters import NodeParameters
from sfseg_ros.nodes.segmentation_node import SegmentationNode

assert "| `~/brightness` | sensor_msgs/Image, mono8 | Red only. |" in interface.markdown()
assert "brightness" in NodeParameters().outputs
rclpy.init()
overrides = {"model_dir": sys.argv[1], "backend": "onnxruntime", "outputs": ["brightness"]}
node = SegmentationNode(parameter_overrides=[Parameter(n, value=v) for n, v in overrides.items()])
assert node.trigger_configure().name == "SUCCESS"
assert "/segmentation/brightness" in {publisher.topic_name for publisher in node.publishers}
node.close()
node.destroy_node()
rclpy.shutdown()
"""


def test_a_new_topic_takes_one_row(tiny_model):
    command = [sys.executable, "-c", A_NEW_ROW, str(tiny_model)]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(unused_domain())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
