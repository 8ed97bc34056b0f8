# SPDX-License-Identifier: Apache-2.0
"""Serialised messages: playing changes only the stamp, and masks are read exactly."""

import struct
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.recordings.message_bytes import (
    COMPRESSED_IMAGE,
    IMAGE,
    NS_PER_S,
    cdr_with_stamp,
    compressed_image_cdr,
    diagnostics_from_cdr,
    labels_from_cdr,
    message_from_cdr,
    rgb_from_cdr,
    stamp_of_cdr,
    typestore,
)

STAMP_NS = 1_700_000_000 * NS_PER_S + 123_456_789


def png_of(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def mono8_cdr(
    rows: np.ndarray, width: int | None = None, little_endian: bool = True, encoding: str = "mono8"
) -> bytes:
    """A serialised Image from `rows` (height, step); columns beyond `width` are padding."""
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"](*divmod(STAMP_NS, NS_PER_S))
    header = types["std_msgs/msg/Header"](time, "camera")
    height, step = rows.shape
    message = types[IMAGE](header, height, width or step, encoding, 0, step, rows.reshape(-1))
    return bytes(typestore().serialize_cdr(message, IMAGE, little_endian=little_endian))


@pytest.mark.parametrize("little_endian", [True, False])
def test_replacing_a_stamp_changes_no_other_byte(little_endian):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    cdr = mono8_cdr(pixels, little_endian=little_endian)
    assert stamp_of_cdr(cdr) == STAMP_NS

    moved = cdr_with_stamp(cdr, STAMP_NS + 5 * NS_PER_S + 1)

    assert stamp_of_cdr(moved) == STAMP_NS + 5 * NS_PER_S + 1
    assert moved[:4] == cdr[:4]
    assert moved[12:] == cdr[12:]
    assert typestore().deserialize_cdr(moved, IMAGE).header.stamp.sec == 1_700_000_005


def test_a_message_without_room_for_a_stamp_is_refused():
    with pytest.raises(BagError, match="11 bytes: too short"):
        stamp_of_cdr(struct.pack("<11x"))


def test_masks_are_read_from_images_with_padding_and_from_png():
    labels = np.array([[0, 1, 255], [3, 4, 5]], np.uint8)
    padded = np.hstack([labels, np.full((2, 2), 99, np.uint8)])
    cdr = mono8_cdr(padded, width=3)
    assert (labels_from_cdr(cdr, IMAGE) == labels).all()
    png = compressed_image_cdr(png_of(labels), "png", 1, "")
    assert (labels_from_cdr(png, COMPRESSED_IMAGE) == labels).all()
    with pytest.raises(BagError, match="one 8-bit channel"):
        labels_from_cdr(
            compressed_image_cdr(png_of(np.zeros((2, 3, 3))), "png", 1, ""), COMPRESSED_IMAGE
        )


def test_an_error_names_the_unsupported_encoding_of_a_mask():
    with pytest.raises(BagError, match="encoding '16UC1', expected mono8"):
        labels_from_cdr(mono8_cdr(np.zeros((2, 4), np.uint8), width=2, encoding="16UC1"), IMAGE)


def test_images_are_read_as_rgb_and_damaged_ones_raise_image_error():
    bgr = np.zeros((4, 6, 3), np.uint8)
    bgr[..., 0] = 200
    rgb = rgb_from_cdr(compressed_image_cdr(png_of(bgr), "png", 1, ""), COMPRESSED_IMAGE)
    assert rgb[0, 0].tolist() == [0, 0, 200]
    with pytest.raises(ImageError):
        rgb_from_cdr(compressed_image_cdr(b"no picture", "jpeg", 1, ""), COMPRESSED_IMAGE)


def test_diagnostics_are_read_as_keys_and_values():
    types = typestore().types
    value = types["diagnostic_msgs/msg/KeyValue"]("frames_in", "7")
    status = types["diagnostic_msgs/msg/DiagnosticStatus"](0, "node", "fine", "", [value])
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 2), "")
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    cdr = bytes(typestore().serialize_cdr(types[kind](header, [status]), kind))
    assert diagnostics_from_cdr(cdr) == [{"name": "node", "message": "fine", "frames_in": "7"}]


# Encapsulation, stamp and frame of real messages, before random bytes: pure noise fails the first
# check and never reaches the others.
BEGINNINGS = [b"", b"\0\1\0\0", b"\0\0\0\0", b"\0\1\0\0" + bytes(8) + b"\1\0\0\0\0\0\0\0"]
MESSAGES = [
    mono8_cdr(np.zeros((2, 4), np.uint8)),
    compressed_image_cdr(png_of(np.zeros((2, 3), np.uint8)), "png", STAMP_NS, "camera"),
]


@given(
    beginning=st.sampled_from([*BEGINNINGS, *MESSAGES]),
    cut=st.integers(0, 200),
    rest=st.binary(max_size=80),
    change=st.tuples(st.integers(0, 200), st.binary(max_size=4)),
)
@settings(max_examples=500)
def test_any_bytes_give_a_value_or_an_error_of_this_package(beginning, cut, rest, change):
    data = bytearray(beginning[:cut] + rest)
    data[change[0] : change[0] + len(change[1])] = change[1]
    cdr = bytes(data)
    for kind in (IMAGE, COMPRESSED_IMAGE):
        with suppress(BagError, ImageError):
            assert rgb_from_cdr(cdr, kind).shape[2] == 3
        with suppress(BagError):
            assert labels_from_cdr(cdr, kind).ndim == 2
    with suppress(BagError):
        assert isinstance(diagnostics_from_cdr(cdr), list)
    with suppress(BagError):
        stamp_of_cdr(cdr)


def test_a_damaged_message_is_refused_with_its_length_and_type():
    whole = MESSAGES[1]
    for cdr in (b"", whole[:30], whole[:-1], b"\0\1\0\0" + b"\xff" * 60):
        with pytest.raises(BagError, match=f"{len(cdr)} bytes that are not a {COMPRESSED_IMAGE}"):
            message_from_cdr(cdr, COMPRESSED_IMAGE)


@pytest.mark.parametrize(("width", "height"), [(9, 2), (4, 3)])
def test_a_mask_whose_sizes_contradict_its_data_is_refused(width, height):
    types = typestore().types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 2), "camera")
    message = types[IMAGE](header, height, width, "mono8", 0, 4, np.zeros(8, np.uint8))
    with pytest.raises(BagError, match=f"a mask of {height}x{width} has 8 bytes in rows of 4"):
        labels_from_cdr(bytes(typestore().serialize_cdr(message, IMAGE)), IMAGE)
