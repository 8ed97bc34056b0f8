# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from sfseg_ros.nodes.outputs import OUTPUTS, SegmentedFrame

README = Path(__file__).resolve().parents[2] / "README.md"
CHANNELS = {"mono8": (), "rgb8": (3,)}


@pytest.fixture
def frame():
    palette_rgb = np.zeros((256, 3), np.uint8)
    palette_rgb[1] = (10, 20, 30)
    rgb = np.full((4, 6, 3), 100, np.uint8)
    labels = np.ones((4, 6), np.uint8)
    return SegmentedFrame(rgb, labels, np.full((4, 6), 200, np.uint8), palette_rgb, 0.5)


def test_the_mask_is_published_first():
    assert OUTPUTS[0].topic == "~/mask"


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.topic)
def test_each_output_has_the_size_of_the_image_and_the_bytes_of_its_encoding(output, frame):
    array = output.array_from(frame)
    assert array.dtype == np.uint8
    assert array.shape == (4, 6, *CHANNELS[output.encoding])


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.topic)
def test_each_output_is_in_the_readme(output):
    assert f"| `{output.topic}` | sensor_msgs/Image, {output.encoding} |" in README.read_text()


def test_colours_are_those_of_the_model(frame):
    color_mask = next(o for o in OUTPUTS if o.topic == "~/color_mask").array_from(frame)
    assert tuple(color_mask[0, 0]) == (10, 20, 30)
