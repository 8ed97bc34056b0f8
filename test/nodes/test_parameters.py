# SPDX-License-Identifier: Apache-2.0
import dataclasses
from pathlib import Path

import pytest
import yaml
from rclpy.parameter import Parameter

from sfseg_ros.nodes.parameters import (
    NodeParameters,
    ParameterError,
    changed_parameters,
    markdown_table,
    value_from_text,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
FIELDS = dataclasses.fields(NodeParameters)


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.name)
def test_parameter_files_say_only_what_the_node_declares(path):
    for node, section in yaml.safe_load(path.read_text()).items():
        assert set(section) == {"ros__parameters"}, node
        NodeParameters(**section["ros__parameters"])


def test_the_default_file_says_all_parameters_and_their_defaults():
    document = yaml.safe_load((CONFIG / "segmentation.yaml").read_text())
    values = document["/**"]["ros__parameters"]
    assert list(values) == [field.name for field in FIELDS]
    assert NodeParameters(**values) == NodeParameters()


def test_the_readme_has_this_table():
    assert markdown_table() in (ROOT / "README.md").read_text(encoding="utf-8")


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
        ("precision", "fp8", "expected one of auto"),
        ("image_transport", "theora", "expected one of raw, compressed"),
        ("overlay_alpha", 1.5, "expected 0.0 to 1.0"),
        ("overlay_alpha", float("nan"), "expected 0.0 to 1.0"),
        ("overlay_alpha", 1, "expected double"),
        ("confidence_threshold", -0.1, "expected 0.0 to 1.0"),
        ("threads", -1, "expected 0 to 256"),
        ("threads", True, "expected integer"),
        ("network_size", "512", "expected auto or HEIGHTxWIDTH"),
        ("network_size", "0x512", "expected auto or HEIGHTxWIDTH"),
        ("network_size", "512x1024x3", "expected auto or HEIGHTxWIDTH"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_name_value_and_expectation(name, value, expected):
    with pytest.raises(ParameterError, match=f"^{name} is .*{expected}"):
        changed_parameters(NodeParameters(), [Parameter(name, value=value)], configured=False)


def test_a_parameter_of_the_model_is_refused_once_the_model_is_loaded():
    change = [Parameter("model_dir", value="other")]
    assert changed_parameters(NodeParameters(), change, configured=False).model_dir == "other"
    with pytest.raises(ParameterError, match="cleanup"):
        changed_parameters(NodeParameters(), change, configured=True)


def test_setting_it_to_what_it_is_already_is_no_change():
    change = [Parameter("model_dir", value=NodeParameters().model_dir)]
    assert changed_parameters(NodeParameters(), change, configured=True) == NodeParameters()


def test_parameters_of_rclpy_itself_pass():
    change = [Parameter("use_sim_time", value=True)]
    assert changed_parameters(NodeParameters(), change, configured=True) == NodeParameters()


def test_the_network_size_is_height_and_width():
    assert NodeParameters().fixed_network_size() is None
    assert NodeParameters(network_size="512x1024").fixed_network_size() == (512, 1024)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("autostart", "False", False), ("threads", "2", 2), ("overlay_alpha", "1", 1.0)],
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
