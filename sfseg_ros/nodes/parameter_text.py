# SPDX-License-Identifier: Apache-2.0
"""Parameters as text: values of a command line, the Markdown table, and the default file.

`python -m sfseg_ros.nodes.parameter_text > config/segmentation.yaml` writes that file.
"""

import dataclasses
import textwrap
from typing import Any

from sfseg_ros.errors import shortened
from sfseg_ros.nodes.parameters import (
    CAMERA_FIELDS,
    NODE_FIELDS,
    ParameterError,
    applies,
    description_of,
    element_type,
    type_name,
)

FILE_HEADER = """\
# All parameters of `segmentation_node` at their defaults. Those from image_transport on may differ
# per camera: `front.max_rate: 10.0`.
# Generated: python -m sfseg_ros.nodes.parameter_text > config/segmentation.yaml
/**:
  ros__parameters:
"""


def value_from_text(field: "dataclasses.Field[Any]", text: str) -> Any:
    """Parse the value of a parameter from a command line; arrays as in YAML, with or without
    brackets.

    Raises ParameterError.
    """
    try:
        if field.type is bool:
            return {"true": True, "false": False}[text.lower()]
        if (element := element_type(field)) is not None:
            items = [item.strip().strip("\"'") for item in text.strip().strip("[]").split(",")]
            return [element(item) for item in items]
        return field.type(text)  # type: ignore[operator]
    except (KeyError, ValueError) as error:
        raise ParameterError(
            f"{field.name} is {shortened(text)}, expected {type_name(field)}"
        ) from error


def markdown_table() -> str:
    """The parameters as a Markdown table."""
    rows = [
        "| Parameter | Type | Default | Applies | Description |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, field in NODE_FIELDS.items():
        own = " Per camera." if name in CAMERA_FIELDS else ""
        rows.append(
            f"| `{name}` | {type_name(field)} | `{default_text(field)}` "
            f"| {applies(field).value} | {description_of(field)}{own} |"
        )
    return "\n".join(rows) + "\n"


def default_text(field: "dataclasses.Field[Any]") -> str:
    if field.type is bool:
        return str(field.default).lower()
    if isinstance(field.default, tuple):
        return str(list(field.default)).replace("'", '"')
    return str(field.default) or '""'


def default_file() -> str:
    """The text of config/segmentation.yaml."""
    lines = []
    for name, field in NODE_FIELDS.items():
        comment = textwrap.wrap(description_of(field), 94, break_on_hyphens=False)
        lines += [f"    # {line}" for line in comment]
        lines.append(f"    {name}: {default_text(field)}")
    return FILE_HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(default_file(), end="")
