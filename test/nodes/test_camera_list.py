# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.nodes.camera_list import CameraList, load_cameras
from sfseg_ros.nodes.parameters import ParameterError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loaded(tmp_path):
    def loaded(text):
        path = tmp_path / "cameras.yaml"
        path.write_text(text)
        return load_cameras(path)

    return loaded


def test_topics_become_remappings_and_other_keys_become_parameters(loaded):
    cameras = loaded(
        """
        cameras:
          - {name: front, image: /front/image_raw, camera_info: /front/camera_info, horizon: 0.25}
          - {name: rear, image: /rear/image_raw, max_rate: 10, region_of_interest: [0, 8, 64, 32]}
        """
    )
    assert cameras.remappings == [
        ("front/image", "/front/image_raw"),
        ("front/camera_info", "/front/camera_info"),
        ("rear/image", "/rear/image_raw"),
        ("rear/camera_info", "/rear/camera_info"),
    ]
    assert cameras.parameters == {
        "cameras": ["front", "rear"],
        "front.horizon": 0.25,
        "rear.max_rate": 10.0,
        "rear.region_of_interest": [0, 8, 64, 32],
    }
    assert type(cameras.parameters["rear.max_rate"]) is float


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a key `cameras`"),
        ("cameras: []", "expected a key `cameras` with a list"),
        ("cameras: {front: {}}", "expected a key `cameras` with a list"),
        ("cameras: [", "cameras.yaml: not YAML at line 2, column 1"),
        ("cameras: [front]", "expected a mapping with a `name`"),
        ("cameras: [{image: /a}]", "expected a mapping with a `name`"),
        ("cameras: [{name: 'front camera'}]", "of up to 60 letters, digits and _"),
        ("cameras: [{name: " + "a" * 61 + "}]", "of up to 60 letters, digits and _"),
        ("cameras: [" + "[" * 900 + "]" * 900 + "]", "nested over 20 levels"),
        ("cameras: [{name: &a front, image: *a}]", "anchor or alias at line 1, column 18"),
        ("cameras: [{name: front}, {name: front}]", "camera front is listed twice"),
        ("cameras: [{name: front, max_rtae: 3}]", "camera front: no 'max_rtae', expected one of"),
        ("cameras: [{name: front, horizon: 7}]", "camera front: horizon is 7.0"),
        ("cameras: [{name: front, image_transport: h264}]", "expected one of raw, compressed"),
    ],
)
def test_an_invalid_list_is_refused_in_one_line(loaded, text, words):
    with pytest.raises(ParameterError) as error:
        loaded(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_topic_counts_as_missing(loaded):
    cameras = loaded("cameras: [{name: front, image: /a/image, camera_info: , depth: }]")
    assert cameras.remappings == [
        ("front/image", "/a/image"),
        ("front/camera_info", "/a/camera_info"),
    ]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParameterError, match="none.yaml"):
        load_cameras(tmp_path / "none.yaml")


def test_the_installed_list_is_valid():
    cameras = load_cameras(ROOT / "config" / "multi_camera.yaml")
    assert len(cameras.parameters["cameras"]) == 4


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("abcxyz_ /", max_size=5),
    lambda some: (
        st.lists(some, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "image", "horizon", "x"]), some, max_size=3)
    ),
)


@given(ANYTHING)
def test_any_content_is_a_list_of_cameras_or_one_line_of_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "cameras.yaml"
    path.write_text(yaml.safe_dump({"cameras": content}))
    try:
        assert isinstance(load_cameras(path), CameraList)
    except ParameterError as error:
        assert "\n" not in str(error)
