# SPDX-License-Identifier: Apache-2.0
import dataclasses
from pathlib import Path

import pytest
import yaml
from rclpy.parameter import Parameter

from sfseg_ros.frames.health import Thresholds
from sfseg_ros.nodes.parameter_text import default_file, markdown_table, value_from_text
from sfseg_ros.nodes.parameters import (
    NODE_FIELDS,
    NodeParameters,
    ParameterError,
    Settings,
    changed_settings,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
FIELDS = tuple(NODE_FIELDS.values())


def values_of(section):
    """The section with its lists as tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}


def changed(*changes, configured=False):
    return changed_settings(Settings(NodeParameters()), changes, configured).node


def test_parameter_files_have_only_declared_parameters():
    documents = [yaml.safe_load(path.read_text()) for path in CONFIG.glob("*.yaml")]
    sections = [s for d in documents for s in d.values() if "ros__parameters" in s]
    assert sections
    for section in sections:
        assert set(section) == {"ros__parameters"}
        NodeParameters(**values_of(section["ros__parameters"]))


def test_the_default_file_has_all_parameters_with_their_defaults():
    document = yaml.safe_load((CONFIG / "segmentation.yaml").read_text())
    values = values_of(document["/**"]["ros__parameters"])
    assert list(values) == [field.name for field in FIELDS]
    assert NodeParameters(**values) == NodeParameters()


def test_the_default_file_is_the_generated_one():
    command = "python -m sfseg_ros.nodes.parameter_text > config/segmentation.yaml"
    assert (CONFIG / "segmentation.yaml").read_text() == default_file(), f"run {command}"


def test_the_table_has_a_row_for_each_parameter():
    rows = markdown_table().splitlines()
    assert len(rows) == 2 + len(FIELDS)
    for field, row in zip(FIELDS, rows[2:], strict=True):
        assert row.startswith(f"| `{field.name}` |")
        assert field.metadata["description"] in row


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("backend", "cuda", "expected one of auto"),
        ("precision", "fp64", "expected one of auto"),
        ("image_transport", "theora", "expected one of raw, compressed"),
        ("overlay_alpha", 1.5, "expected 0 to 1"),
        ("overlay_alpha", float("nan"), "expected finite numbers"),
        ("overlay_alpha", 1, "expected double"),
        ("confidence_threshold", -0.1, "expected 0 to 1"),
        ("threads", -1, "expected 0 to 256"),
        ("threads", True, "expected integer"),
        ("network_size", "512", "expected auto or HEIGHTxWIDTH"),
        ("network_size", "0x512", "expected auto or HEIGHTxWIDTH"),
        ("network_size", "512x1024x3", "expected auto or HEIGHTxWIDTH"),
        ("output_size", "half", "expected image, network or HEIGHTxWIDTH"),
        ("output_size", "99999x99999", "expected 1 to"),
        ("region_of_interest", [0, 0, 640], "expected 4 numbers"),
        ("region_of_interest", 5, "expected integer array"),
        ("region_of_interest", None, "expected integer array"),
        ("region_of_interest", [0, 0, 640, 0], "expected x_offset"),
        ("region_of_interest", [8, 0, 0, 0], "expected x_offset"),
        ("region_of_interest", [0, 0, -1, 5], "expected 0 to 65535"),
        ("region_of_interest", [0.0, 0.0, 5.0, 5.0], "expected integer array"),
        ("lidar_extrinsics", [0.0] * 6, "expected 7 numbers"),
        (
            "lidar_extrinsics",
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0],
            "a quaternion of length 1, not 2",
        ),
        ("lidar_extrinsics", [float("nan")] * 7, "expected finite numbers"),
        ("outputs", ["mask", "picture"], "expected one of mask"),
        ("outputs", "mask", "expected string array"),
    ],
)
def test_an_invalid_value_is_refused_with_name_value_and_expectation(name, value, expected):
    with pytest.raises(ParameterError, match=f"^{name} is .*{expected}"):
        changed(Parameter(name, value=value))


def test_a_pair_of_thresholds_can_be_moved_one_by_one():
    settings = changed(Parameter("warn_age_ms", value=50.0), Parameter("error_age_ms", value=100.0))
    assert settings.warn_age_ms < settings.error_age_ms
    changed(Parameter("error_age_ms", value=100.0), Parameter("warn_age_ms", value=200.0))


def test_the_thresholds_of_health_are_parameters():
    parameters = NodeParameters()
    for field in dataclasses.fields(Thresholds):
        assert getattr(parameters, field.name) == field.default
        assert field.name in NODE_FIELDS


def test_a_parameter_of_the_backend_is_refused_once_the_model_is_loaded():
    change = [Parameter("backend", value="onnxruntime")]
    assert changed(*change).backend == "onnxruntime"
    with pytest.raises(ParameterError, match="cleanup"):
        changed(*change, configured=True)


def test_setting_the_current_value_is_no_change():
    change = [Parameter("backend", value=NodeParameters().backend)]
    assert changed(*change, configured=True) == NodeParameters()


def test_parameters_of_rclpy_are_accepted():
    change = [Parameter("use_sim_time", value=True)]
    assert changed(*change, configured=True) == NodeParameters()


def test_the_network_size_is_height_and_width():
    assert NodeParameters().fixed_network_size() is None
    assert NodeParameters(network_size="512x1024").fixed_network_size() == (512, 1024)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("autostart", "False", False),
        ("threads", "2", 2),
        ("overlay_alpha", "1", 1.0),
        ("cameras", "[front, 'rear']", ["front", "rear"]),
        ("region_of_interest", "0,0,640, 480", [0, 0, 640, 480]),
    ],
)
def test_launch_arguments_become_values_of_the_right_type(name, text, value):
    field = next(field for field in FIELDS if field.name == name)
    converted = value_from_text(field, text)
    assert converted == value
    assert type(converted) is type(value)


def test_a_launch_argument_of_another_type_is_refused():
    field = next(field for field in FIELDS if field.name == "threads")
    with pytest.raises(ParameterError, match="threads is 'two', expected integer"):
        value_from_text(field, "two")


def test_a_cameras_own_values_override_those_of_the_node():
    settings = Settings(
        NodeParameters(cameras=("front", "rear"), max_rate=10.0), {"front": {}, "rear": {}}
    )
    change = [Parameter("rear.max_rate", value=5.0), Parameter("fit", value="crop")]
    settings = changed_settings(settings, change, configured=True)
    assert (settings.camera("front").max_rate, settings.camera("rear").max_rate) == (10.0, 5.0)
    assert settings.camera("rear").fit == "crop"
    with pytest.raises(ParameterError, match="^rear.horizon is 2.0, expected 0 to 0.95"):
        changed_settings(settings, [Parameter("rear.horizon", value=2.0)], configured=True)
    for unset in ("null", "None"):  # as `ros2 param dump` and `load` write it
        again = changed_settings(settings, [Parameter("rear.max_rate", value=unset)], True)
        assert again.camera("rear").max_rate == 10.0
    late = Parameter("rear.image_transport", value="compressed")
    with pytest.raises(ParameterError, match="^rear.image_transport is read when"):
        changed_settings(settings, [late], configured=True)
