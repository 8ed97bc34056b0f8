# SPDX-License-Identifier: Apache-2.0
import re
import struct
import zlib
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.errors import ImageError
from sfseg_ros.imaging import (
    ENCODINGS,
    Picture,
    color_mask,
    jpeg_from_rgb,
    overlay,
    picture_from_buffer,
    picture_from_fields,
    png_from_pixels,
    resized_labels,
    resized_rgb,
    rgb_from_compressed,
)

ORANGE = (200, 100, 30)  # R, G and B differ, so that a swap of any two is detected


def one_colour(height, width, *channels):
    return np.full((height, width, len(channels)), channels, np.uint8)


def mosaic(pattern, height, width):
    """ORANGE as seen by a sensor with this 2x2 colour filter (named from its first row)."""
    picture = np.zeros((height, width), np.uint8)
    for index, colour in enumerate(pattern):
        picture[index // 2 :: 2, index % 2 :: 2] = ORANGE["rgb".index(colour)]
    return picture


def sixteen_bit(samples, byte_order="<"):
    """The samples as high bytes; the low byte must have no effect."""
    return (samples.astype(np.uint16) * 256 + 77).astype(f"{byte_order}u2").view(np.uint8)


R, G, B = ORANGE
# Luma and chroma of ORANGE in BT.601 video range, from the formula of the standard.
Y = round(16 + (65.481 * R + 128.553 * G + 24.966 * B) / 255)
U = round(128 + (-37.797 * R - 74.203 * G + 112 * B) / 255)
V = round(128 + (112 * R - 93.786 * G - 18.214 * B) / 255)
GREY = (G, G, G)

# encoding -> (its pixels for a 4x6 picture of one colour, the expected colour)
EXAMPLES = {
    "rgb8": (one_colour(4, 6, R, G, B), ORANGE),
    "bgr8": (one_colour(4, 6, B, G, R), ORANGE),
    "rgba8": (one_colour(4, 6, R, G, B, 9), ORANGE),
    "bgra8": (one_colour(4, 6, B, G, R, 9), ORANGE),
    "mono8": (one_colour(4, 6, G), GREY),
    "8UC1": (one_colour(4, 6, G), GREY),
    "8UC3": (one_colour(4, 6, B, G, R), ORANGE),
    "8UC4": (one_colour(4, 6, B, G, R, 9), ORANGE),
    "rgb16": (sixteen_bit(one_colour(4, 6, R, G, B)), ORANGE),
    "bgr16": (sixteen_bit(one_colour(4, 6, B, G, R)), ORANGE),
    "mono16": (sixteen_bit(one_colour(4, 6, G)), GREY),
    **{f"bayer_{p}8": (mosaic(p, 4, 6), ORANGE) for p in ("rggb", "bggr", "gbrg", "grbg")},
    **{
        f"bayer_{p}16": (sixteen_bit(mosaic(p, 4, 6)), ORANGE)
        for p in ("rggb", "bggr", "gbrg", "grbg")
    },
    "uyvy": (np.tile(np.array([U, Y, V, Y], np.uint8), (4, 3)), ORANGE),
    "yuv422": (np.tile(np.array([U, Y, V, Y], np.uint8), (4, 3)), ORANGE),
    "yuyv": (np.tile(np.array([Y, U, Y, V], np.uint8), (4, 3)), ORANGE),
    "yuv422_yuy2": (np.tile(np.array([Y, U, Y, V], np.uint8), (4, 3)), ORANGE),
}


def test_every_encoding_has_an_example():
    assert EXAMPLES.keys() == ENCODINGS.keys()


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", EXAMPLES)
def test_a_picture_of_one_colour_is_converted_to_that_colour(encoding, padding):
    pixels, expected = EXAMPLES[encoding]
    rows = pixels.reshape(4, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    rgb = picture_from_buffer(array("B", padded.tobytes()), encoding, 4, 6, padded.shape[1]).rgb
    assert rgb.shape == (4, 6, 3)
    assert rgb.dtype == np.uint8
    tolerance = 2 if encoding[0] in "yu" else 0  # 8-bit luma and chroma are rounded
    assert np.abs(rgb.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_gbrg8"])
def test_a_bayer_image_of_odd_size_is_converted(encoding):
    picture = mosaic(encoding[6:10], 5, 7)
    assert (picture_from_buffer(picture.tobytes(), encoding, 5, 7, 7).rgb == ORANGE).all()


def test_big_endian_samples_are_reduced_to_their_high_byte():
    data = sixteen_bit(one_colour(2, 2, G), ">").tobytes()
    assert (picture_from_buffer(data, "mono16", 2, 2, 4, is_bigendian=True).rgb == GREY).all()


@pytest.mark.parametrize("padding", [0, 7])
def test_rgb8_is_a_view_of_the_message(padding):
    step = 4 * 3 + padding
    data = bytearray(3 * step)
    rgb = picture_from_buffer(data, "rgb8", 3, 4, step).rgb
    data[step] = 99  # first byte of the second row
    assert rgb[1, 0, 0] == 99
    assert rgb.strides == (step, 3, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoding", "32FC1", "encoding '32FC1' is not supported, expected one of rgb8,"),
        ("encoding", "", "encoding '' is not supported"),
        ("height", 0, "0x4 .*: expected at least 1x1"),
        ("width", 0, "2x0 .*: expected at least 1x1"),
        ("step", 11, "step is 11, expected at least 12 bytes"),
        ("step", 0, "step is 0, expected at least 12 bytes"),
        ("step", 13, r"data has 24 bytes, expected step 13 x height = 26"),
        ("data", bytes(23), "data has 23 bytes, expected step 12 x height = 24"),
        ("data", bytes(25), "data has 25 bytes"),
        ("data", b"", "data has 0 bytes"),
        ("data", [0] * 24, "image data is list: expected bytes"),
        ("height", 2**32 - 1, "data has 24 bytes, expected step 12 x height = 51539607540"),
        ("width", 2**32 - 1, "step is 12, expected at least 12884901885 bytes"),
    ],
)
def test_inconsistent_fields_are_refused(field, value, message):
    fields = {"data": bytes(24), "encoding": "rgb8", "height": 2, "width": 4, "step": 12}
    picture_from_buffer(**fields)
    with pytest.raises(ImageError, match=message) as caught:
        picture_from_buffer(**(fields | {field: value}))
    assert "\n" not in str(caught.value)


def test_a_message_of_any_library_is_read_by_its_attributes():
    data = sixteen_bit(one_colour(2, 2, G), ">").tobytes()
    image = {"height": 2, "width": 2, "step": 4, "encoding": "mono16", "is_bigendian": 1}
    assert (picture_from_fields(SimpleNamespace(data=data, **image)).rgb == GREY).all()
    compressed = SimpleNamespace(data=PNG, format="rgb8; png compressed bgr8")
    np.testing.assert_array_equal(picture_from_fields(compressed).rgb, street())


def test_yuv422_of_odd_width_is_refused():
    with pytest.raises(ImageError, match="expected a width that is a multiple of 2"):
        picture_from_buffer(bytes(12), "yuyv", 2, 3, 6)


def test_a_bayer_image_without_full_neighbourhoods_is_refused():
    with pytest.raises(ImageError, match="expected at least 3x3"):
        picture_from_buffer(bytes(8), "bayer_rggb8", 2, 4, 4)


@given(
    encoding=st.sampled_from([*ENCODINGS, "nv21", "16UC1", "\n" * 99]),
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    padding=st.integers(-2, 4),
    surplus=st.sampled_from([0, 0, 0, -1, 1]),
    content=st.binary(min_size=1, max_size=8),
)
def test_any_frame_gives_an_array_or_an_image_error(
    encoding, height, width, padding, surplus, content
):
    row = ENCODINGS.get(encoding)
    pixel_bytes = row.channels * row.sample_bytes if row else 1
    step = max(0, width * pixel_bytes + padding)
    data = (content * 2000)[: max(0, step * height + surplus)]
    try:
        rgb = picture_from_buffer(data, encoding, height, width, step).rgb
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert padding >= 0
        assert surplus == 0
        assert rgb.shape == (height, width, 3)
        assert rgb.dtype == np.uint8


def street(height=60, width=80):
    """Smooth and colourful, so that JPEG preserves it."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 5)


def encoded(suffix, rgb, *options):
    picture = rgb[..., ::-1] if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb
    return cv2.imencode(suffix, picture, options)[1].tobytes()


def png_chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


JPEG = encoded(".jpg", street())
PROGRESSIVE_JPEG = encoded(".jpg", street(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
PNG = encoded(".png", street())
# A segment like an EXIF thumbnail: it holds a whole JPEG with its own end marker.
THUMBNAIL = b"\xff\xe1" + struct.pack(">H", len(JPEG) + 2) + JPEG
JPEG_WITH_THUMBNAIL = JPEG[:2] + THUMBNAIL + JPEG[2:]


def test_png_is_decoded_exactly():
    np.testing.assert_array_equal(rgb_from_compressed(PNG), street())


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE_JPEG, JPEG_WITH_THUMBNAIL])
def test_jpeg_is_decoded_to_rgb(data):
    rgb = rgb_from_compressed(array("B", data))
    assert rgb.shape == (60, 80, 3)
    assert np.abs(rgb.astype(int) - street()).mean() < 3


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.full((4, 4), 77, np.uint8), (77, 77, 77)),
        (np.full((4, 4), 0x80FF, np.uint16), (0x80, 0x80, 0x80)),
        (np.full((4, 4, 3), (0x30FF, 0x20FF, 0x10FF), np.uint16), (0x30, 0x20, 0x10)),
        (np.full((4, 4, 4), (B, G, R, 0), np.uint8), ORANGE),
    ],
)
def test_grey_alpha_and_16_bit_png_become_8_bit_rgb(picture, expected):
    assert (rgb_from_compressed(encoded(".png", picture)) == expected).all()


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE_JPEG, PNG])
def test_bytes_after_the_end_are_ignored(data):
    np.testing.assert_array_equal(
        rgb_from_compressed(data + b"\0" * 999), rgb_from_compressed(data)
    )


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE_JPEG, JPEG_WITH_THUMBNAIL, PNG])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_picture_is_refused(data, kept):
    with pytest.raises(ImageError, match="is truncated"):
        rgb_from_compressed(data[: int(len(data) * kept)])


@pytest.mark.parametrize("data", [JPEG, PNG])
def test_truncation_is_found_even_if_zeros_follow(data):
    with pytest.raises(ImageError, match="is truncated"):
        rgb_from_compressed(data[: len(data) // 2] + b"\0" * 9)


def test_the_orientation_tag_is_applied_only_on_request():
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation 6: turn right
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    exif = b"Exif\0\0" + tiff
    data = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + JPEG[2:]
    assert rgb_from_compressed(data).shape == (60, 80, 3)
    assert rgb_from_compressed(data, upright=True).shape == (80, 60, 3)


def jpeg_of_size(height, width):
    """A JPEG whose header declares another size."""
    return re.sub(
        rb"(\xff\xc0..\x08)....",
        lambda found: found.group(1) + struct.pack(">HH", height, width),
        JPEG,
        count=1,
        flags=re.DOTALL,
    )


def png_of_size(height, width):
    header = png_chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0))
    return PNG[:8] + header + PNG[33:]


@pytest.mark.parametrize("picture_of_size", [jpeg_of_size, png_of_size])
@pytest.mark.parametrize("size", [(65000, 65000), (0, 80), (60, 0)])
def test_a_declared_size_is_checked_before_decoding(picture_of_size, size):
    with pytest.raises(ImageError, match=f"of {size[0]}x{size[1]}: expected 1 to 67108864 pixels"):
        rgb_from_compressed(picture_of_size(*size))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes begins with '': neither JPEG nor PNG"),
        (b"RIFF....WEBP", "begins with '52494646': neither JPEG nor PNG"),
        (bytes(12) + PNG, "is compressedDepth: expected a colour image"),
        (PNG[:40] + b"\xaa" + PNG[41:], "is damaged: wrong checksum"),
        (PNG[:8] + PNG[-12:], "does not begin with a header"),
        (b"\xff\xd8\xff\xd9", "has no frame header"),
        (JPEG[:200] + b"\xff\xd9", "is truncated"),
        (png_of_size(100, 80), "the decoder refuses it"),
    ],
)
def test_data_that_is_not_a_picture_is_refused(data, message):
    with pytest.raises(ImageError, match=message) as caught:
        rgb_from_compressed(data)
    assert "\n" not in str(caught.value)


@given(
    data=st.sampled_from([JPEG, PROGRESSIVE_JPEG, PNG, b""]),
    place=st.floats(0, 1),
    garbage=st.binary(max_size=40),
    tail=st.booleans(),
)
def test_any_damaged_picture_gives_an_array_or_an_image_error(data, place, garbage, tail):
    start = int(place * len(data))
    damaged = data[:start] + garbage + (data[start + len(garbage) :] if tail else b"")
    try:
        rgb = rgb_from_compressed(damaged)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert rgb.ndim == 3
        assert rgb.dtype == np.uint8


PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[:3] = [(255, 0, 0), (0, 200, 0), (1, 2, 3)]


def test_each_label_gets_its_colour():
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    np.testing.assert_array_equal(color_mask(labels, PALETTE), PALETTE[labels])


def test_the_overlay_blends_and_leaves_unlabelled_pixels():
    rgb = one_colour(1, 2, 100, 100, 100)
    labels = np.array([[1, 255]], np.uint8)
    before = rgb.copy()
    painted = overlay(rgb, labels, PALETTE, 0.25)
    np.testing.assert_array_equal(painted, [[(75, 125, 75), (100, 100, 100)]])
    np.testing.assert_array_equal(rgb, before)


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, (9, 9, 9)), (1.0, (255, 0, 0))])
def test_alpha_goes_from_image_to_colours(alpha, expected):
    labels = np.zeros((1, 1), np.uint8)
    assert (overlay(one_colour(1, 1, 9, 9, 9), labels, PALETTE, alpha) == expected).all()


def test_the_overlay_takes_padded_rows():
    rgb = picture_from_buffer(bytes([50]) * 30, "rgb8", 2, 4, 15).rgb
    labels = np.full((2, 4), 2, np.uint8)
    assert (overlay(rgb, labels, PALETTE, 0.0) == 50).all()


@given(old=st.integers(1, 200), new=st.integers(1, 200))
def test_labels_are_resized_by_pixel_centres(old, new):
    chosen = resized_labels(np.arange(old, dtype=np.uint8)[None].repeat(2, axis=0), (3, new))[0]
    doubled_centres = (np.arange(new) * 2 + 1) * old  # in units of half an output pixel
    # Equality on both sides: where a centre falls between two pixels, either is nearest.
    assert (chosen.astype(int) * 2 * new <= doubled_centres).all()
    assert (doubled_centres <= (chosen.astype(int) + 1) * 2 * new).all()
    np.testing.assert_array_equal(
        resized_labels(np.arange(old, dtype=np.uint8)[:, None].repeat(2, axis=1), (new, 3))[:, 0],
        chosen,
    )


def test_an_array_of_the_right_size_is_not_copied():
    rgb = street()
    assert resized_rgb(rgb, (60, 80)) is rgb
    assert resized_labels(rgb[..., 0], (60, 80)).base is rgb


def test_shrinking_by_half_averages_and_smaller_changes_are_bilinear():
    stripes = np.zeros((8, 80, 3), np.uint8)
    stripes[:, ::4] = 200  # a quarter is lit: the mean is 50
    assert (resized_rgb(stripes, (2, 20)) == 50).all()
    assert resized_rgb(stripes, (6, 60)).max() > 100


@given(st.lists(st.integers(1, 60), min_size=4, max_size=4))
def test_a_slope_keeps_its_place_when_resized(sides):
    """Also if one side grows and the other shrinks. Half a pixel of the slope is 2 or more."""
    rows, columns, height, width = sides
    slope = 250 / max(rows, columns)
    places = (np.indices((rows, columns)) + 0.5) * slope
    rgb = places.round().astype(np.uint8).transpose(1, 2, 0)[:, :, [0, 1, 1]]
    resized = resized_rgb(np.ascontiguousarray(rgb), (height, width)).astype(float)
    for axis, (old, new) in enumerate(((rows, height), (columns, width))):
        expected = (np.arange(new) + 0.5) * old / new * slope
        inside = (expected >= slope / 2) & (expected <= (old - 0.5) * slope)  # else no neighbour
        values = np.moveaxis(resized[:, :, axis], axis, 0)[inside]
        assert np.abs(values - expected[inside, None]).max(initial=0) <= 1.9


def test_jpeg_keeps_the_order_of_the_channels():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    bgr = cv2.imdecode(np.frombuffer(jpeg_from_rgb(red, 95), np.uint8), cv2.IMREAD_COLOR)
    assert bgr[8, 8, 2] > 240
    assert bgr[8, 8, :2].max() < 15


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1), (64, 129)])
def test_an_encoded_png_keeps_every_pixel(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    decoded = rgb_from_compressed(png_from_pixels(pixels))
    rgb = pixels if len(shape) == 3 else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(decoded, rgb)


def test_a_side_beyond_the_limit_of_jpeg_is_an_image_error():
    with pytest.raises(ImageError, match="1x70000|70000"):
        jpeg_from_rgb(np.zeros((1, 70_000, 3), np.uint8), 90)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_blank_picture_has_the_format_of_the_camera(encoding):
    row = ENCODINGS[encoding]
    step = 6 * row.channels * row.sample_bytes + 10
    picture = picture_from_buffer(b"\x5a" * (4 * step), encoding, 4, 6, step, is_bigendian=True)
    blank = picture.format.blank()
    assert blank.format == picture.format == (4, 6, encoding, step, True)
    assert blank.pixels.shape == picture.pixels.shape
    assert blank.camera is not None
    assert not blank.camera.data.any()


def test_a_blank_picture_without_camera_bytes_keeps_the_size_only():
    picture = Picture(one_colour(5, 7, *ORANGE), is_bgr=True)
    assert picture.format == (5, 7, "", 0, False)
    blank = picture.format.blank()
    assert (blank.size, blank.camera) == ((5, 7), None)
