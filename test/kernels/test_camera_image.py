# SPDX-License-Identifier: Apache-2.0
"""CameraImage: the kernel's device code, compiled for the CPU, against the reference, and both
against what the runtime does on the CPU with OpenCV."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sfseg_ros.errors import BackendError
from sfseg_ros.geometry import PADDING_GREY, View, geometry_of
from sfseg_ros.imaging import ENCODINGS, picture_from_buffer
from sfseg_ros.kernels import host_emulation
from sfseg_ros.kernels.camera_image import NetworkInput, axes, camera_image, camera_image_launch

pytestmark = pytest.mark.usefixtures("cxx_compiler")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTPUTS = [
    ("uint8", "hwc"),
    *((dtype, layout) for dtype in ("float32", "float16") for layout in ("hwc", "linear")),
]


def frame_of(rng, encoding, height, width, padding=0):
    """(data, step) of noise."""
    row = ENCODINGS[encoding]
    step = width * row.channels * row.sample_bytes + padding
    return rng.integers(0, 256, step * height, np.uint8).tobytes(), step


def smooth_frame(rng, height, width):
    """rgb8 of waves, smooth like a camera's image; in noise, every rounding error is largest."""
    y, x = np.mgrid[:height, :width]
    phase = rng.random(3) * 6
    waves = [127.5 + 127 * np.sin(y / 9 + p) * np.cos(x / 7 + p) for p in phase]
    return np.stack(waves, axis=2).astype(np.uint8)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("is_bigendian", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (7, 10), (3, 4), (33, 130)])
def test_colours_are_opencvs(encoding, is_bigendian, size):
    """Without a resize, all bytes equal those of imaging.py."""
    rng = np.random.default_rng(0)
    data, step = frame_of(rng, encoding, *size, padding=5)
    geometry = geometry_of(size, View(), lambda area: area)
    image = host_emulation.camera_image(data, encoding, step, geometry, is_bigendian)
    expected = picture_from_buffer(data, encoding, *size, step, is_bigendian).rgb
    np.testing.assert_array_equal(image[0], expected)


@st.composite
def views(draw):
    """Image size, view and network size."""
    height, width = draw(st.integers(3, 40)), 2 * draw(st.integers(2, 20))
    region = None
    if draw(st.booleans()):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        region = (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    fit = draw(st.sampled_from(["stretch", "letterbox", "crop"]))
    network = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    if draw(st.booleans()):  # a shape that is halved
        network = max(1, height // 4), max(1, width // 4)
    return (height, width), View(region=region, fit=fit), network


@settings(max_examples=200, deadline=None)
@given(
    views(), st.sampled_from(list(ENCODINGS)), st.sampled_from(OUTPUTS), st.integers(0, 2**32 - 1)
)
def test_kernel_is_the_reference_to_the_last_bit(frame, encoding, output, seed):
    (height, width), view, network = frame
    data, step = frame_of(np.random.default_rng(seed), encoding, height, width, padding=3)
    geometry = geometry_of((height, width), view, lambda area: network)
    arguments = (data, encoding, step, geometry, False, NetworkInput(*output, MEAN, STD))
    image = host_emulation.camera_image(*arguments)
    expected = camera_image(*arguments)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)


@settings(max_examples=150, deadline=None)
@given(views(), st.integers(0, 2**32 - 1))
def test_of_a_smooth_image_it_is_within_two_levels_of_the_cpus_resize(frame, seed):
    """OpenCV rounds after each step; the kernel rounds once."""
    size, view, network = frame
    rgb = smooth_frame(np.random.default_rng(seed), *size)
    geometry = geometry_of(size, view, lambda area: network)
    image = host_emulation.camera_image(rgb.tobytes(), "rgb8", 3 * size[1], geometry)[0]
    expected = geometry.network_input(rgb)
    assert np.abs(image.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("image", "network", "most"),
    [
        ((128, 256), (128, 256), 0),
        ((256, 512), (128, 256), 0),  # one average of 2x2: OpenCV's rounding, too
        ((512, 1024), (128, 256), 1),
        ((108, 192), (51, 102), 1),  # area means along both sides
        ((120, 160), (100, 130), 1),
        ((100, 130), (120, 160), 1),
        ((120, 60), (50, 100), 1),  # shrinks along one side, grows along the other
        ((480, 640), (90, 120), 2),  # halved, then by less than two
    ],
)
def test_difference_from_the_cpus_resize_on_noise(image, network, most):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (*image, 3), np.uint8)
    geometry = geometry_of(image, View(), lambda area: network)
    result = host_emulation.camera_image(rgb.tobytes(), "rgb8", 3 * image[1], geometry)[0]
    difference = np.abs(result.astype(int) - geometry.network_input(rgb))
    assert difference.max() <= most
    assert difference.mean() < 0.5


def test_axes_are_the_steps_of_the_cpus_resize():
    assert axes((512, 1024), (128, 256))[0].factor == 4
    assert axes((512, 1024), (128, 256))[0].is_area is False
    assert axes((511, 1024), (128, 256)) == (
        (511, 128, 1, True),
        (1024, 256, 1, True),
    )
    assert axes((120, 60), (50, 100)) == ((120, 50, 1, True), (60, 100, 1, False))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("network", [(8, 8), (5, 7), (9, 132)])
def test_every_element_is_written_and_nothing_else_at_any_alignment(
    run_guarded, output, offset, network
):
    rng = np.random.default_rng(0)
    data, step = frame_of(rng, "bgr8", 12, 10, padding=1)
    geometry = geometry_of((12, 10), View(fit="letterbox"), lambda area: network)
    expected = camera_image(data, "bgr8", step, geometry, False, NetworkInput(*output, MEAN, STD))
    launch = camera_image_launch("bgr8", step, geometry, False, NetworkInput(*output, MEAN, STD))
    samples = np.frombuffer(data, np.uint8)
    (image,) = run_guarded(launch, [samples], [(expected.shape, expected.dtype)], offset)
    np.testing.assert_array_equal(image, expected)


def test_letterbox_is_grey_and_normalised_like_the_image():
    data, step = frame_of(np.random.default_rng(0), "rgb8", 4, 8)
    geometry = geometry_of((4, 8), View(fit="letterbox"), lambda area: (8, 8))
    image = host_emulation.camera_image(data, "rgb8", step, geometry)
    assert (image[0, [0, 1, 6, 7]] == PADDING_GREY).all()
    normalised = host_emulation.camera_image(
        data, "rgb8", step, geometry, made=NetworkInput("float32", "linear", MEAN, STD)
    )
    expected = (image[0] / 255 - MEAN) / STD
    np.testing.assert_allclose(normalised[0].transpose(1, 2, 0), expected, atol=1e-5)


@given(st.sampled_from(["rgb8", "mono8", "uyvy", "bayer_rggb8"]), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_no_byte_beyond_the_image_is_read(encoding, extra):
    """The last row has no padding: bytes after it may belong to another object."""
    rng = np.random.default_rng(0)
    data, step = frame_of(rng, encoding, 9, 12)
    assume(len(data) == 9 * step)
    geometry = geometry_of((9, 12), View(), lambda area: (5, 7))
    launch = camera_image_launch(encoding, step, geometry)
    results = []
    for filler in (0, 255):
        memory = np.full(len(data) + 2 * extra, filler, np.uint8)
        memory[extra : extra + len(data)] = np.frombuffer(data, np.uint8)
        image = np.empty((1, 5, 7, 3), np.uint8)
        host_emulation.kernels().run(launch, [memory[extra : extra + len(data)]], [image])
        results.append(image)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("encoding", "step", "size", "output", "says"),
    [
        ("jpeg", 30, (10, 10), ("uint8", "hwc"), "encoding 'jpeg' is not supported"),
        ("rgb8", 29, (10, 10), ("uint8", "hwc"), "step of at least 30"),
        ("uyvy", 30, (10, 11), ("uint8", "hwc"), "a width that is a multiple of 2"),
        ("bayer_rggb8", 30, (2, 11), ("uint8", "hwc"), "sides of at least 3"),
        ("rgb8", 30, (10, 10), ("uint8", "linear"), "uint8 in layout linear"),
        ("rgb8", 30, (10, 10), ("float64", "hwc"), "float64"),
        ("mono8", 40000, (10, 40000), ("uint8", "hwc"), "sides up to 32767"),
    ],
)
def test_mismatched_arguments_are_refused_in_one_line(encoding, step, size, output, says):
    geometry = geometry_of(size, View(), lambda area: (8, 8))
    with pytest.raises(BackendError) as error:
        camera_image_launch(encoding, step, geometry, False, NetworkInput(*output))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_are_those_of_the_area_and_of_the_output():
    geometry = geometry_of((100, 200), View(horizon=0.5), lambda area: (32, 64))
    launch = camera_image_launch("bgra8", 800, geometry, made=NetworkInput("float16", "linear"))
    assert launch.bytes_moved == 4 * 50 * 200 + 2 * 3 * 32 * 64
