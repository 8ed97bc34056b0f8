# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.errors import ImageError
from sfseg_ros.geometry import PADDING_GREY, Area, View, geometry_of
from sfseg_ros.imaging import resized_labels, resized_rgb

FILL = 255


def block_numbers(height, width):
    """uint8 (height, width): each block of 16x16 pixels has its own number, counted from 1."""
    rows, columns = np.arange(height) // 16, np.arange(width) // 16
    numbers = 1 + rows[:, None] * len(np.unique(columns)) + columns[None]
    assert numbers.max() < FILL
    return numbers.astype(np.uint8)


def through(geometry, picture, network=lambda grey: grey):
    """Fit a grey picture (H, W) to the network, apply `network`, and return the labels."""
    rgb = np.repeat(picture[:, :, None], 3, axis=2)
    return geometry.output_from(network(geometry.network_input(rgb)[:, :, 0]), FILL)


def fixed(height, width):
    return lambda size: (height, width)


def same(size):
    return size


# The exact mask of block_numbers(128, 192): all scales are whole numbers.
LABELS = block_numbers(128, 192)
OUTSIDE = np.full_like(LABELS, FILL)


def inside(x, y, width, height):
    mask = OUTSIDE.copy()
    mask[y : y + height, x : x + width] = LABELS[y : y + height, x : x + width]
    return mask


EXACT = {
    "same size": (View(), same, LABELS),
    "stretch": (View(), fixed(64, 192), LABELS),
    "stretch by different factors": (View(), fixed(32, 96), LABELS),
    "letterbox, bars above and below": (View(fit="letterbox"), fixed(96, 96), LABELS),
    "letterbox, bars left and right": (View(fit="letterbox"), fixed(64, 160), LABELS),
    "crop, left and right": (View(fit="crop"), fixed(64, 64), inside(32, 0, 128, 128)),
    "crop, above and below": (View(fit="crop"), fixed(32, 96), inside(0, 32, 192, 64)),
    "region": (View(region=(24, 40, 64, 32)), fixed(16, 32), inside(24, 40, 64, 32)),
    "region of odd size": (View(region=(23, 41, 63, 33)), same, inside(23, 41, 63, 33)),
    "horizon": (View(horizon=0.25), fixed(48, 96), inside(0, 32, 192, 96)),
    "region and horizon": (
        View(region=(64, 16, 64, 64), horizon=0.25),
        fixed(48, 64),
        inside(64, 32, 64, 48),
    ),
    "region and letterbox": (
        View(region=(64, 16, 64, 32), fit="letterbox"),
        fixed(32, 32),
        inside(64, 16, 64, 32),
    ),
    "region and crop": (
        View(region=(64, 16, 64, 32), fit="crop"),
        fixed(16, 16),
        inside(80, 16, 32, 32),
    ),
    "network pixels": (View(output_size="network"), same, LABELS),
    "network pixels of a letterbox": (
        View(fit="letterbox", output_size="network"),
        fixed(200, 192),
        LABELS,
    ),
    "network pixels of a crop": (
        View(fit="crop", output_size="network"),
        fixed(128, 128),
        LABELS[:, 32:160],
    ),
    "explicit size": (
        View(output_size=(256, 384)),
        same,
        LABELS.repeat(2, axis=0).repeat(2, axis=1),
    ),
    "explicit size of a region": (
        View(region=(24, 40, 64, 32), output_size=(64, 64)),
        same,
        LABELS[40:72, 24:88].repeat(2, axis=0),
    ),
}


@pytest.mark.parametrize(("view", "network_size_for", "expected"), EXACT.values(), ids=EXACT)
def test_labels_are_mapped_back_to_their_pixels(view, network_size_for, expected):
    geometry = geometry_of(LABELS.shape, view, network_size_for)
    np.testing.assert_array_equal(through(geometry, LABELS), expected)


SIDES = st.integers(1, 160)
SIZES = st.tuples(SIDES, SIDES)
OUTPUT_SIZES = st.one_of(st.sampled_from(["image", "network"]), SIZES)


@st.composite
def geometries(draw):
    """Any image, any view that fits it, and any network size, often that of the area."""
    height, width = draw(SIZES)
    region = None
    if draw(st.booleans()):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        region = (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    bottom = height if region is None else region[1] + region[3]
    view = View(
        region,
        draw(st.floats(0, 0.95).filter(lambda share: round(share * height) < bottom)),
        draw(st.sampled_from(["stretch", "letterbox", "crop"])),
        draw(OUTPUT_SIZES),
    )
    return geometry_of((height, width), view, draw(st.sampled_from([same, fixed(*draw(SIZES))])))


def contains(outer, inner):
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )


def whole(size):
    return Area(0, 0, size[1], size[0])


@given(geometries())
def test_areas_lie_in_their_images(geometry):
    assert contains(whole(geometry.image_size), geometry.area)
    assert contains(whole(geometry.network_size), geometry.content)
    assert contains(whole(geometry.image_size), geometry.output_area)
    assert contains(geometry.output_area, geometry.area)
    assert min(geometry.area.size + geometry.content.size + geometry.output_size) >= 1


@given(geometries(), st.randoms(use_true_random=False))
def test_every_output_pixel_takes_the_network_pixel_at_its_place(geometry, random):
    """Compared with exact fractions: halfway between two network pixels, either one is right."""
    height, width = geometry.network_size
    coordinates = np.indices((height, width), dtype=np.uint8)  # sides are below 255
    rows, columns = (geometry.output_from(np.ascontiguousarray(c), FILL) for c in coordinates)
    assert rows.shape == columns.shape == geometry.output_size
    assert rows.flags.c_contiguous
    for _ in range(20):
        row = random.randrange(geometry.output_size[0])
        column = random.randrange(geometry.output_size[1])
        places = (
            place_in_network(row, geometry, axis=0),
            place_in_network(column, geometry, axis=1),
        )
        if None in places:
            assert rows[row, column] == columns[row, column] == FILL
        else:
            assert abs(places[0] - int(rows[row, column])) <= Fraction(1, 2)
            assert abs(places[1] - int(columns[row, column])) <= Fraction(1, 2)


def place_in_network(index, geometry, axis):
    """The centre of output pixel `index` in network pixels, or None outside the area."""

    def along(area):
        return (area.y, area.height) if axis == 0 else (area.x, area.width)

    half = Fraction(1, 2)
    start, length = along(geometry.output_area)
    place = start + (index + half) * length / geometry.output_size[axis]
    start, length = along(geometry.area)
    if not start <= place < start + length:
        return None
    content_start, content_length = along(geometry.content)
    return content_start + (place - start) * content_length / length - half


@given(geometries())
def test_stripes_are_mapped_back_to_their_place(geometry):
    """A network that distinguishes diagonal stripes. A pixel of the mask is certain if it is
    farther from the border of a stripe than one pixel of each grid."""
    stripes = (np.indices(geometry.image_size).sum(axis=0) // 16 % 2).astype(np.uint8)
    mask = through(geometry, stripes * 200, lambda grey: (grey >= 100).astype(np.uint8))
    rows, columns = (
        start + (np.arange(pixels) + 0.5) * length / pixels
        for start, length, pixels in zip(
            (geometry.output_area.y, geometry.output_area.x),
            geometry.output_area.size,
            geometry.output_size,
        )
    )
    area = geometry.area
    seen = ((rows >= area.y) & (rows < area.y + area.height))[:, None] & (
        (columns >= area.x) & (columns < area.x + area.width)
    )
    assert (mask[~seen] == FILL).all()
    # The pixels of the picture, of the network, and of the mask.
    reach = sum(1 + length / pixels for length, pixels in zip(area.size, geometry.content.size))
    # A pixel of row r and column c lies at r + c + 1 along the diagonal.
    along = rows[:, None] + columns - 1
    phase = along % 16
    sure = seen & (phase > reach) & (phase < 16 - reach)
    np.testing.assert_array_equal(mask[sure], (along // 16 % 2)[sure])


@given(st.integers(8, 60), st.integers(8, 60))
def test_the_network_sees_places_where_they_are(side, network_side):
    """A slope through the image is the same in the input; half a pixel is 2 of it or more."""
    slope = 250 / side
    ramp = ((np.arange(side) + 0.5) * slope).round().astype(np.uint8)
    rgb = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side))] * 2, axis=2)
    geometry = geometry_of((side, side), View(), fixed(network_side, network_side))
    seen = geometry.network_input(np.ascontiguousarray(rgb[:, :, :3])).astype(float)
    expected = (np.arange(network_side) + 0.5) * side / network_side * slope
    # The border of the image has no neighbours to interpolate with.
    inside = (expected > 0.5 * slope) & (expected < 250 - 0.5 * slope)
    rounding = 1.25 + slope / 64  # OpenCV's weights are fixed-point numbers
    assert np.abs(seen[0, :, 0] - expected)[inside].max() <= rounding
    assert np.abs(seen[:, 0, 1] - expected)[inside].max() <= rounding


@pytest.mark.parametrize("size", [(1, 1), (37, 91), (480, 640), (1080, 1920), (1, 4000)])
def test_the_default_view_resizes_the_whole_image_to_the_network_and_back(tiny_manifest, size):
    """The same bits as in the first release, which made the golden labels."""
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (*size, 3), np.uint8)
    network_size = tiny_manifest.network_size_for(size)
    geometry = geometry_of(size, View(), tiny_manifest.network_size_for)
    assert geometry.network_size == network_size
    np.testing.assert_array_equal(geometry.network_input(rgb), resized_rgb(rgb, network_size))
    labels = random.integers(0, 256, network_size, np.uint8)
    np.testing.assert_array_equal(geometry.output_from(labels, FILL), resized_labels(labels, size))
    assert geometry.rgb_at_output(rgb) is rgb


def test_nothing_is_copied_if_no_pixel_changes():
    rgb = np.zeros((64, 96, 3), np.uint8)
    labels = np.zeros((64, 96), np.uint8)
    for fit in ("stretch", "letterbox", "crop"):
        for output_size in ("image", "network", (64, 96)):
            geometry = geometry_of((64, 96), View(None, 0.0, fit, output_size), same)
            assert geometry.network_input(rgb) is rgb
            assert geometry.output_from(labels, FILL) is labels
            assert geometry.rgb_at_output(rgb) is rgb


def test_a_region_of_network_size_is_a_view_of_the_image():
    rgb = np.zeros((64, 96, 3), np.uint8)
    geometry = geometry_of((64, 96), View(region=(10, 20, 30, 40), output_size="network"), same)
    assert np.shares_memory(geometry.network_input(rgb), rgb)
    assert np.shares_memory(geometry.rgb_at_output(rgb), rgb)


def test_the_padding_of_a_letterbox_is_grey_and_around_the_image():
    rgb = np.zeros((32, 96, 3), np.uint8)
    geometry = geometry_of((32, 96), View(fit="letterbox"), fixed(65, 96))
    padded = geometry.network_input(rgb)
    assert geometry.content == (0, 16, 96, 32)
    assert (padded[:16] == PADDING_GREY).all()
    assert (padded[48:] == PADDING_GREY).all()
    assert not padded[16:48].any()


def test_the_network_size_is_chosen_for_the_area_below_the_horizon():
    asked = []

    def network_size_for(size):
        asked.append(size)
        return size

    geometry_of((100, 200), View(region=(50, 10, 100, 60), horizon=0.4), network_size_for)
    assert asked == [(30, 100)]


def test_the_image_at_the_output_covers_the_same_area_as_the_mask():
    rgb = np.repeat(LABELS[:, :, None], 3, axis=2)
    view = View(region=(24, 40, 64, 32), output_size=(16, 32))
    shown = geometry_of(LABELS.shape, view, same).rgb_at_output(rgb)
    np.testing.assert_array_equal(shown, resized_rgb(rgb[40:72, 24:88], (16, 32)))
    view = View(region=(24, 40, 64, 32))
    assert geometry_of(LABELS.shape, view, same).rgb_at_output(rgb) is rgb


@pytest.mark.parametrize("region", [(0, 0, 97, 64), (1, 0, 96, 64), (0, 60, 5, 5), (96, 0, 1, 1)])
def test_a_region_that_leaves_the_image_is_refused(region):
    x, y, width, height = region
    expected = (
        rf"image of 64x96 \(height x width\): region x {x} y {y} width {width} height {height} "
        "leaves it; set region_of_interest to .* within"
    )
    with pytest.raises(ImageError, match=expected) as caught:
        geometry_of((64, 96), View(region=region), same)
    assert "\n" not in str(caught.value)


def test_a_region_above_the_horizon_is_refused():
    with pytest.raises(ImageError, match="region ends in row 32, above the horizon in row 32"):
        geometry_of((64, 96), View(region=(0, 0, 96, 32), horizon=0.5), same)


def test_a_horizon_leaves_at_least_one_row():
    assert geometry_of((3, 5), View(horizon=0.999), same).area == (0, 2, 5, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"region": (-1, 0, 5, 5)}, r"region \(-1, 0, 5, 5\): expected"),
        ({"region": (0, 0, 0, 5)}, "width, height >= 1"),
        ({"horizon": 1.0}, "horizon is 1.0: expected 0 to less than 1"),
        ({"horizon": -0.1}, "horizon is -0.1"),
        ({"horizon": float("nan")}, "horizon is nan"),
        ({"fit": "pad"}, "fit is 'pad': expected one of stretch, letterbox, crop"),
        ({"output_size": "large"}, "output size is 'large': expected image, network or a size"),
        ({"output_size": (0, 5)}, "output size 0x5: expected 1 to"),
        ({"output_size": (1 << 16, 1 << 16)}, "output size 65536x65536: expected 1 to"),
    ],
)
def test_an_invalid_view_is_refused(values, message):
    with pytest.raises(ImageError, match=message) as caught:
        View(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("view", "network", "expected"),
    [
        (View(), (128, 192), True),
        (View(), (64, 96), False),
        (View(fit="letterbox"), (192, 192), True),  # the image itself between two bars
        (View(fit="letterbox"), (96, 96), False),
        (View(fit="letterbox", output_size="network"), (96, 96), True),
        (View(fit="crop"), (128, 128), False),  # the sides are filled
        (View(fit="crop", output_size="network"), (128, 128), True),
        (View(horizon=0.5), (64, 192), False),
        (View(horizon=0.5, output_size=(64, 192)), (64, 192), True),
        (View(output_size=(64, 96)), (64, 96), True),
        (View(output_size=(64, 96)), (32, 96), False),
    ],
)
def test_geometry_reports_whether_output_pixels_equal_network_pixels(view, network, expected):
    geometry = geometry_of((128, 192), view, fixed(*network))
    assert geometry.output_has_network_pixels is expected
    pixels = np.random.default_rng(0).integers(0, 255, (*network, 3), np.uint8)
    if expected:  # colours also return unchanged
        output = geometry.output_from(pixels, FILL)
        assert output.shape == (*geometry.output_size, 3)
        np.testing.assert_array_equal(output, geometry.content.of(pixels))
