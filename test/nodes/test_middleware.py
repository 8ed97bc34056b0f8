# SPDX-License-Identifier: Apache-2.0
import xml.etree.ElementTree as ET

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import Image

from sfseg_ros.installed_files import MIDDLEWARE_PROFILE, PROFILE_VARIABLES, shared_file
from sfseg_ros.nodes import frame_path, middleware
from sfseg_ros.nodes.middleware import missing_profile, output_qos

VARIABLE = PROFILE_VARIABLES[0]

needs_fast_dds = pytest.mark.skipif(
    "fastrtps" not in get_rmw_implementation_identifier(), reason="the middleware is not Fast DDS"
)


@pytest.fixture
def no_profile(monkeypatch, tmp_path):
    """An environment without a profile."""
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


@needs_fast_dds
def test_without_a_profile_the_hint_names_variable_and_file(no_profile):
    assert f"{VARIABLE}={shared_file(MIDDLEWARE_PROFILE)}" in missing_profile()


@pytest.mark.parametrize("variable", PROFILE_VARIABLES)
def test_with_any_profile_there_is_no_hint(no_profile, monkeypatch, variable):
    monkeypatch.setenv(variable, "/own.xml")
    assert missing_profile() is None


@needs_fast_dds
@pytest.mark.parametrize(
    ("segment", "warned"),
    [
        ("7fbc679ff000-7fbc70000000 rw-s 00000000 00:27 6  /dev/shm/fastrtps_7d434a633c41", False),
        ("7fbc679ff000-7fbc67a86000 rw-s 00000000 00:27 6  /dev/shm/fastrtps_918f69bb76d7", True),
        ("7fbc679ff000-7fbc70000000 r--p 00000000 00:27 6  /usr/lib/libfastrtps.so", True),
    ],
)
def test_a_warning_says_if_our_profile_has_no_shared_memory(
    no_profile, monkeypatch, tmp_path, segment, warned
):
    monkeypatch.setenv(VARIABLE, f"/somewhere/{MIDDLEWARE_PROFILE}")
    monkeypatch.setattr(middleware, "MEMORY_MAP", tmp_path / "maps")
    middleware.MEMORY_MAP.write_text(f"7fbc-7fbd r--p 00000000 00:27 6\n{segment}\n")
    middleware._missing_shared_memory.cache_clear()
    hint = missing_profile()
    middleware._missing_shared_memory.cache_clear()
    assert ("/dev/shm was full" in hint) if warned else hint is None


@needs_fast_dds
def test_a_profile_in_the_working_directory_counts_too(no_profile, tmp_path):
    (tmp_path / "DEFAULT_FASTRTPS_PROFILES.xml").touch()
    assert missing_profile() is None


def test_the_profile_holds_20_images_of_two_megapixels_in_shared_memory():
    space = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"
    root = ET.parse(shared_file(MIDDLEWARE_PROFILE)).getroot()
    assert int(root.find(f".//{space}segment_size").text) >= 20 * 1024 * 2048 * 3
    assert root.find(f".//{space}useBuiltinTransports").text == "false"
    declared = {e.text for e in root.findall(f".//{space}transport_descriptor/{space}transport_id")}
    used = {e.text for e in root.findall(f".//{space}userTransports/{space}transport_id")}
    assert declared == used


def test_each_publisher_has_a_profile_object_of_its_own():
    assert output_qos() is not output_qos()


@needs_fast_dds
def test_the_first_large_image_without_a_profile_is_warned_about_once(
    bench, no_profile, monkeypatch, capfd
):
    monkeypatch.setattr(frame_path, "LARGE_MESSAGE_BYTES", 1000)
    node = bench.started()
    camera = bench.camera()
    for count in (1, 2):
        camera.publish(bench.rgb_image(bench.three_stripes()))
        bench.wait_until(lambda n=count: bench.counts(node)["unwatched"] == n, f"frame {count}")
    assert capfd.readouterr().err.count(VARIABLE) == 1


def test_a_camera_that_publishes_nothing_is_warned_about(bench):
    bench.started(warn_silence_s=0.1)
    bench.camera()
    bench.wait_until(lambda: "no frame came" in bench.log(), "a warning")
    assert "/image has a publisher" in bench.log()


def test_a_publisher_without_reliability_still_reaches_the_node(bench):
    node = bench.started()
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    camera = bench.tester.create_publisher(Image, "image", qos)
    bench.wait_until(camera.get_subscription_count, "the node listens")
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: bench.counts(node)["received"] == 1, "the frame")
