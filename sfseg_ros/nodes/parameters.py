# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node, declared once: type, default, description, range, when it applies.

`python -m sfseg_ros.nodes.parameters` prints them as the Markdown table of the README.
"""

import dataclasses
import enum
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from sfseg_ros.backends import BACKENDS, PRECISIONS
from sfseg_ros.errors import SfsegError
from sfseg_ros.share import DEFAULT_MODEL

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter


class ParameterError(SfsegError):
    """A parameter has a value that it cannot have."""


class Applies(enum.Enum):
    """When a new value is taken up, and so when it may be set."""

    AT_START = "at start only"
    AT_CONFIGURE = "when the node is configured"
    AT_ONCE = "at once"


def _parameter(
    default: str | float | bool,
    description: str,
    applies: Applies = Applies.AT_CONFIGURE,
    choices: tuple[str, ...] = (),
    span: tuple[float, float] | None = None,
) -> Any:
    metadata = {
        "description": description,
        "applies": applies,
        "choices": choices,
        "span": span,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class NodeParameters:
    """The values of all parameters. To add one, add a field; nothing else names it twice."""

    model_dir: str = _parameter(
        DEFAULT_MODEL, "Model: a folder with manifest.yaml, or the name of one in models/."
    )
    backend: str = _parameter(
        "auto",
        "Inference library; auto takes the best that is installed and logs why.",
        choices=("auto", *BACKENDS),
    )
    precision: str = _parameter(
        "auto",
        "Arithmetic of the network; auto takes the fastest that this processor has in hardware.",
        choices=PRECISIONS,
    )
    threads: int = _parameter(
        0, "Processor threads for inference; 0 leaves it to the library.", span=(0, 256)
    )
    network_size: str = _parameter(
        "auto",
        "Input of the network as HEIGHTxWIDTH; auto keeps the model's pixel count in the shape "
        "of the camera's image.",
    )
    image_transport: str = _parameter(
        "raw",
        "Input topic: raw is `image` (Image), compressed is `image/compressed` (CompressedImage).",
        choices=("raw", "compressed"),
    )
    confidence_threshold: float = _parameter(
        0.0,
        "Pixels with a lower confidence become 255 (unlabelled); 0 keeps all.",
        Applies.AT_ONCE,
        span=(0.0, 1.0),
    )
    overlay_alpha: float = _parameter(
        0.5,
        "Opacity of the class colours in `~/overlay`.",
        Applies.AT_ONCE,
        span=(0.0, 1.0),
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate without being told; false waits for a lifecycle manager.",
        Applies.AT_START,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        self.fixed_network_size()

    def fixed_network_size(self) -> tuple[int, int] | None:
        """(height, width) of `network_size`, or None for auto."""
        if self.network_size == "auto":
            return None
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", self.network_size)
        if match is None:
            raise ParameterError(
                f"network_size is {self.network_size!r}, expected auto or HEIGHTxWIDTH "
                "such as 512x1024"
            )
        return int(match[1]), int(match[2])


def declare_parameters(node: "Node") -> NodeParameters:
    """Declare all of NodeParameters on the node and return the values that it was started with.

    Raises ParameterError for a value of the wrong type, range or choice.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(NodeParameters):
        try:
            parameter = node.declare_parameter(field.name, field.default, _descriptor(field))
        except Exception as error:  # rclpy has one exception type per way to be wrong
            raise ParameterError(f"parameter {field.name}: {error}") from error
        values[field.name] = parameter.value
    return NodeParameters(**values)


def changed_parameters(
    current: NodeParameters, changes: "Iterable[Parameter]", configured: bool
) -> NodeParameters:
    """`current` with the changes; those of other parts of the node (qos_overrides, use_sim_time)
    are left out. `configured`: whether a model is loaded, so that AT_CONFIGURE comes too late.

    Raises ParameterError, one line, for a value or a moment that is not allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(NodeParameters)}
    values = {p.name: p.value for p in changes if p.name in fields}
    for name, value in values.items():
        late = configured and fields[name].metadata["applies"] is Applies.AT_CONFIGURE
        if late and value != getattr(current, name):
            raise ParameterError(
                f"{name} is read when the node is configured; first `ros2 lifecycle set <node>` "
                "deactivate and cleanup, then set it and configure again"
            )
    return dataclasses.replace(current, **values)


def description_of(field: "dataclasses.Field[Any]") -> str:
    """Description of a field of NodeParameters with its choices and range."""
    text = str(field.metadata["description"])
    if choices := field.metadata["choices"]:
        text += f" One of {', '.join(choices)}."
    if span := field.metadata["span"]:
        text += f" From {span[0]} to {span[1]}."
    return text


def value_from_text(field: "dataclasses.Field[Any]", text: str) -> str | float | bool:
    """The value of a field of NodeParameters that a command line says as `text`.

    Raises ParameterError.
    """
    try:
        if field.type is bool:
            return {"true": True, "false": False}[text.lower()]
        return field.type(text)  # type: ignore[operator,no-any-return]
    except (KeyError, ValueError) as error:
        raise ParameterError(f"{field.name} is {text!r}, expected {_type_name(field)}") from error


def markdown_table() -> str:
    """The parameters as a Markdown table, for the README."""
    rows = [
        "| Parameter | Type | Default | Applies | Description |",
        "| --- | --- | --- | --- | --- |",
    ]
    for field in dataclasses.fields(NodeParameters):
        default = str(field.default).lower() if field.type is bool else field.default
        rows.append(
            f"| `{field.name}` | {_type_name(field)} | `{default}` "
            f"| {field.metadata['applies'].value} | {description_of(field)} |"
        )
    return "\n".join(rows) + "\n"


def _descriptor(field: "dataclasses.Field[Any]") -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=description_of(field),
        additional_constraints=f"applies {field.metadata['applies'].value}",
        read_only=field.metadata["applies"] is Applies.AT_START,
    )
    if (span := field.metadata["span"]) is not None:
        low, high = span
        if field.type is int:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    choices, span = field.metadata["choices"], field.metadata["span"]
    if type(value) is not field.type:
        raise ParameterError(f"{field.name} is {value!r}, expected {_type_name(field)}")
    if choices and value not in choices:
        raise ParameterError(f"{field.name} is {value!r}, expected one of {', '.join(choices)}")
    if span and not (math.isfinite(value) and span[0] <= value <= span[1]):
        raise ParameterError(f"{field.name} is {value}, expected {span[0]} to {span[1]}")


def _type_name(field: "dataclasses.Field[Any]") -> str:
    return {str: "string", int: "integer", float: "double", bool: "bool"}[field.type]  # type: ignore[index]


if __name__ == "__main__":
    print(markdown_table(), end="")
