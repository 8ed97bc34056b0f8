# SPDX-License-Identifier: Apache-2.0
import array

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from sfseg_ros.errors import ImageError
from sfseg_ros.geometry import View, geometry_of
from sfseg_ros.nodes.messages import (
    camera_info_from_model,
    image_from_array,
    model_from_camera_info,
    nanoseconds,
    picture_from_message,
)


@pytest.fixture
def header():
    header = Header(frame_id="camera_optical")
    header.stamp.sec, header.stamp.nanosec = 12, 345
    return header


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.mark.parametrize(("shape", "encoding"), [((6, 8), "mono8"), ((6, 8, 3), "rgb8")])
def test_a_message_of_an_array_arrives_as_that_array(header, shape, encoding):
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    sent = serialize_message(image_from_array(header, pixels, encoding))
    message = deserialize_message(sent, Image)
    assert message.header == header
    assert (message.height, message.width, message.encoding) == (6, 8, encoding)
    assert message.step == 8 * pixels[0, 0].size
    assert len(message.data) == message.step * message.height
    np.testing.assert_array_equal(np.array(message.data, np.uint8).reshape(shape), pixels)


def test_the_array_is_not_copied_on_its_way_into_the_message(header):
    pixels = np.zeros((6, 8), np.uint8)
    message = image_from_array(header, pixels, "mono8")
    assert np.shares_memory(np.asarray(message._data), pixels)


def test_an_array_with_gaps_is_sent_without_them(header):
    pixels = np.arange(96, dtype=np.uint8).reshape(6, 16)[:, ::2]
    message = deserialize_message(
        serialize_message(image_from_array(header, pixels, "mono8")), Image
    )
    np.testing.assert_array_equal(np.array(message.data).reshape(6, 8), pixels)


def test_messages_of_this_distribution_have_the_attribute_of_the_fast_path():
    """image_from_array bypasses the setter, which checks each byte in Python (always in Humble) or
    copies even an array.array (Jazzy)."""
    message = Image()
    message._data = memoryview(b"1234")
    assert message.data is message._data
    assert "_data" in Image.__slots__


def test_rgb8_is_a_view_of_the_bytes_of_the_message(rgb):
    message = Image(height=6, width=8, encoding="rgb8", step=24)
    message.data.frombytes(rgb.tobytes())
    got = picture_from_message(message).rgb
    np.testing.assert_array_equal(got, rgb)
    assert np.shares_memory(got, np.frombuffer(message.data, np.uint8))


def test_bgr8_with_padded_rows_becomes_rgb(rgb):
    message = Image(height=6, width=8, encoding="bgr8", step=32)
    rows = np.zeros((6, 32), np.uint8)
    rows[:, :24] = rgb[:, :, ::-1].reshape(6, 24)
    message.data.frombytes(rows.tobytes())
    np.testing.assert_array_equal(picture_from_message(message).rgb, rgb)


def test_a_compressed_image_becomes_rgb(rgb):
    encoded = cv2.imencode(".png", rgb[:, :, ::-1])[1]
    message = CompressedImage(format="png", data=array.array("B", encoded.tobytes()))
    np.testing.assert_array_equal(picture_from_message(message).rgb, rgb)


@pytest.mark.parametrize(
    "message",
    [
        Image(),
        Image(height=6, width=8, encoding="rgb8", step=24),
        Image(height=6, width=8, encoding="", step=24),
        Image(height=0, width=8, encoding="rgb8", step=24),
        Image(height=2**32 - 1, width=2**32 - 1, encoding="rgb8", step=2**32 - 1),
        CompressedImage(),
        CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8\xff\xe0 no more")),
    ],
)
def test_an_invalid_image_raises_image_error(message):
    with pytest.raises(ImageError):
        picture_from_message(message)


def test_the_error_of_an_unknown_encoding_says_how_to_install_cv_bridge():
    try:
        import cv_bridge  # noqa: F401
    except ImportError:
        message = Image(height=1, width=1, encoding="32FC7", step=28)
        with pytest.raises(ImageError, match="cv-bridge"):
            picture_from_message(message)
    else:
        pytest.skip("cv_bridge is installed here, so the encoding goes through it")


def test_stamps_are_integer_nanoseconds(header):
    assert nanoseconds(header.stamp) == 12_000_000_345


UINT32 = st.one_of(st.integers(0, 700), st.integers(0, 2**32 - 1), st.integers(0, 70000))
NUMBERS = st.one_of(st.floats(), st.floats(-1e4, 1e4))


@given(
    info=st.builds(
        CameraInfo,
        height=UINT32,
        width=UINT32,
        binning_x=UINT32,
        binning_y=UINT32,
        roi=st.builds(
            RegionOfInterest, x_offset=UINT32, y_offset=UINT32, height=UINT32, width=UINT32
        ),
        d=st.lists(NUMBERS, max_size=15),
        k=st.lists(NUMBERS, min_size=9, max_size=9),
        p=st.lists(NUMBERS, min_size=12, max_size=12),
        distortion_model=st.text(max_size=20),
    ),
    output_size=st.one_of(
        st.sampled_from(["image", "network"]),
        st.tuples(st.integers(1, 8000), st.integers(1, 8000)),
    ),
    horizon=st.floats(0, 0.9),
)
def test_any_camera_info_is_converted_or_raises_image_error(info, output_size, horizon):
    view = View(horizon=horizon, output_size=output_size)
    try:
        model = model_from_camera_info(info)
        height, width = model.image_size
        geometry = geometry_of((height or 48, width or 64), view, lambda size: (32, 64))
        output = model.for_output(geometry)
    except ImageError:
        return
    message = camera_info_from_model(Header(frame_id="optical"), output)
    assert serialize_message(message)
    assert message.header.frame_id == "optical"
