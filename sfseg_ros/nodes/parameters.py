# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node, declared once: type, default, description, range, moment of use.

nodes/parameter_text.py writes them as a table, a file and launch arguments.
"""

import array
import dataclasses
import enum
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from sfseg_ros.backends.choice import BACKENDS
from sfseg_ros.backends.protocol import GPU_WAITS, MOST_THREADS, PRECISIONS
from sfseg_ros.errors import ImageError, SfsegError, shortened
from sfseg_ros.frames.health import Thresholds
from sfseg_ros.geometry import FITS, OUTPUT_SIZES, View
from sfseg_ros.installed_files import DEFAULT_MODEL
from sfseg_ros.nodes.outputs import OUTPUTS

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

OUTPUT_NAMES = tuple(dict.fromkeys(output.image_name for output in OUTPUTS))
"""What the parameter `outputs` may name."""

CAMERA_NAME = "[A-Za-z][A-Za-z0-9_]{,59}"
"""Regular expression; ROS takes topics of up to 240 characters or so, prefix included."""

UNSET = ("null", "None")
"""A parameter without a value arrives as one of these texts after `ros2 param dump` and then
--params-file or `ros2 param load`. Setting a camera's parameter to one of them restores the node's
value."""


class ParameterError(SfsegError):
    """A parameter has an invalid value."""


class Applies(enum.Enum):
    """When a new value takes effect, and so when it may be set."""

    AT_START = "at start only"
    AT_CONFIGURE = "when the node is configured"
    AT_ONCE = "at once"


Value = str | int | float | bool | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]


def _parameter(
    default: Value,
    description: str,
    applies: Applies = Applies.AT_ONCE,
    choices: tuple[str, ...] = (),
    span: tuple[float, float] | None = None,
) -> Any:
    """`choices` and `span` apply to each element of an array. An array without choices has a fixed
    length, because rclpy cannot tell the type of an empty array."""
    metadata = {
        "description": description,
        "applies": applies,
        "choices": choices,
        "span": span,
    }
    return dataclasses.field(default=default, metadata=metadata)


def applies(field: "dataclasses.Field[Any]") -> Applies:
    """When a new value of the parameter applies; thresholds do not say it."""
    return Applies(field.metadata.get("applies", Applies.AT_ONCE))


def choices(field: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """The allowed values of a string, or of each string of an array; () allows all."""
    return tuple(field.metadata.get("choices", ()))


@dataclasses.dataclass(frozen=True)
class CameraParameters:
    """The parameters that each camera may override: `<camera>.<parameter>`."""

    image_transport: str = _parameter(
        "raw",
        "Input topic: raw is `image` (Image), compressed is `image/compressed` (CompressedImage).",
        Applies.AT_CONFIGURE,
        choices=("raw", "compressed"),
    )
    region_of_interest: tuple[int, ...] = _parameter(
        (0, 0, 0, 0),
        "Part of the image to segment, in pixels: x_offset, y_offset, width, height. All 0: the "
        "whole image.",
        span=(0, 65535),
    )
    horizon: float = _parameter(
        0.0, "Fraction of the image's height to cut off at the top.", span=(0.0, 0.95)
    )
    fit: str = _parameter(
        "stretch",
        "How to fit the image to the network's input if their shapes differ. The mask has neither "
        "the borders of letterbox nor labels for what crop leaves out.",
        choices=FITS,
    )
    output_size: str = _parameter(
        "image",
        "Size of the published images: image (as the camera's), network (as computed), or "
        "HEIGHTxWIDTH. The last two cover only the segmented part.",
    )
    max_rate: float = _parameter(
        0.0, "Maximum number of frames per second to segment; 0: no limit.", span=(0.0, 1000.0)
    )
    every_nth: int = _parameter(1, "Segment only every n-th frame.", span=(1, 10000))
    max_age_ms: float = _parameter(
        0.0,
        "Skip frames that are older than this when the worker takes them; 0: no limit.",
        span=(0.0, 1e7),
    )
    rectified: bool = _parameter(
        False,
        "The images are rectified: project 3D points with P of the CameraInfo, not with K and the "
        "distortion.",
    )
    depth_tolerance_ms: float = _parameter(
        50.0, "Maximum difference between the stamps of image and depth image.", span=(0.0, 1e6)
    )
    lidar_tolerance_ms: float = _parameter(
        50.0, "Maximum difference between the stamps of image and lidar cloud.", span=(0.0, 1e6)
    )
    lidar_time_offset_ms: float = _parameter(
        0.0, "Offset to add to the lidar's stamps before they are compared.", span=(-1e6, 1e6)
    )
    lidar_extrinsics: tuple[float, ...] = _parameter(
        (0.0,) * 7,
        "Pose of the lidar in the camera's optical frame: x, y, z in metres, quaternion x, y, z, "
        "w. All 0: look it up in TF.",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        self.view()
        if any(self.lidar_extrinsics):
            norm = math.hypot(*self.lidar_extrinsics[3:])
            if not abs(norm - 1.0) < 0.01:
                raise ParameterError(
                    f"lidar_extrinsics is {list(self.lidar_extrinsics)}, expected a quaternion of "
                    f"length 1, not {norm:.3g}"
                )

    def view(self) -> View:
        """The part of the image that the network sees and the size of the mask."""
        *offset, width, height = self.region_of_interest
        if (width == 0) != (height == 0) or (width == 0 and any(offset)):
            raise ParameterError(
                f"region_of_interest is {list(self.region_of_interest)}, expected x_offset, "
                "y_offset, width, height with width and height above 0, or all 0"
            )
        size = self.output_size
        try:
            return View(
                region=(offset[0], offset[1], width, height) if width else None,
                horizon=self.horizon,
                fit=self.fit,
                output_size=size
                if size in OUTPUT_SIZES
                else _size("output_size", size, "image, network or HEIGHTxWIDTH"),
            )
        except ImageError as error:
            raise ParameterError(f"output_size is {size!r}: {error}") from error


@dataclasses.dataclass(frozen=True)
class NodeParameters(CameraParameters, Thresholds):
    """The values of all parameters. To add a parameter, add a field here or in a base class."""

    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras that share the network: a camera `front` has the topics "
        '`front/image` and `~/front/mask`. [""]: one camera with `image` and `~/mask`.',
        Applies.AT_START,
    )
    model_dir: str = _parameter(
        DEFAULT_MODEL,
        "Model: a folder with manifest.yaml, or the name of a folder in models/. A running node "
        "loads the new model beside the old one and switches between two frames.",
    )
    backend: str = _parameter(
        "auto",
        "Inference library. auto: the first of these that works here; the log and /diagnostics "
        "give the reason.",
        Applies.AT_CONFIGURE,
        choices=("auto", *BACKENDS),
    )
    precision: str = _parameter(
        "auto",
        "Arithmetic of the network. auto: fp16 in TensorRT, bf16 in OpenVINO if the processor has "
        "AMX, else fp32. int8 and fp8 need an engine from `sfseg engine build`.",
        Applies.AT_CONFIGURE,
        choices=PRECISIONS,
    )
    threads: int = _parameter(
        0,
        "Processor threads for inference; 0: the library decides.",
        Applies.AT_CONFIGURE,
        span=(0, MOST_THREADS),
    )
    gpu_wait: str = _parameter(
        "block",
        "How the worker waits for the GPU: block sleeps; spin keeps a core busy and wakes up some "
        "microseconds sooner.",
        Applies.AT_CONFIGURE,
        choices=GPU_WAITS,
    )
    network_size: str = _parameter(
        "auto",
        "Size of the network's input as HEIGHTxWIDTH. auto: the model's number of pixels in the "
        "shape of the camera's image.",
        Applies.AT_CONFIGURE,
    )
    max_batch: int = _parameter(0, "Maximum number of cameras in one batch; 0: all.", span=(0, 64))
    outputs: tuple[str, ...] = _parameter(
        OUTPUT_NAMES,
        'Outputs that may be published. Each costs time only while it has a subscriber. [""]: '
        "none.",
        choices=("", *OUTPUT_NAMES),
    )
    confidence_threshold: float = _parameter(
        0.0, "Pixels with a lower confidence become 255 (unlabelled); 0: keep all.", span=(0.0, 1.0)
    )
    load_timeout_s: float = _parameter(
        120.0,
        "Maximum time in seconds to open a model and run its first inference, without the build "
        "of an engine; 0: no limit.",
        span=(0.0, 1e5),
    )
    class_groups: str = _parameter(
        "",
        "YAML file that groups the model's classes, such as config/groups_drivable.yaml; empty: "
        "no groups.",
    )
    overlay_alpha: float = _parameter(
        0.5, "Opacity of the class colours in `~/overlay`.", span=(0.0, 1.0)
    )
    file_roots: tuple[str, ...] = _parameter(
        ("",),
        "Folders from which a running node may load another model or class-groups file. Installed "
        "files and those named at start are always allowed.",
        Applies.AT_START,
    )
    snapshot_dir: str = _parameter(
        "snapshots",
        "Folder in which `~/save_snapshot` makes a new folder per call; must not contain `..`.",
        Applies.AT_START,
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate at start; false: wait for a lifecycle manager.",
        Applies.AT_START,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fixed_network_size()
        for name in self.cameras:
            if not re.fullmatch(CAMERA_NAME, name) and self.cameras != ("",):
                raise ParameterError(
                    f"cameras names {shortened(name)}, expected up to 60 letters, digits and "
                    "underscores"
                )
        if len(set(self.cameras)) < len(self.cameras):
            raise ParameterError(f"cameras is {_text(self.cameras)}: a name occurs twice")
        if ".." in Path(self.snapshot_dir).parts:
            raise ParameterError(
                f"snapshot_dir is {shortened(self.snapshot_dir)}, expected a folder without `..`"
            )

    def fixed_network_size(self) -> tuple[int, int] | None:
        """(height, width) of `network_size`, or None for auto."""
        if self.network_size == "auto":
            return None
        return _size("network_size", self.network_size, "auto or HEIGHTxWIDTH")


CAMERA_FIELDS = {field.name: field for field in dataclasses.fields(CameraParameters)}
NODE_FIELDS = {
    # In the order of the tables: the node's own first, those of its cameras last.
    field.name: field
    for field in sorted(
        dataclasses.fields(NodeParameters),
        key=lambda f: (f.name in CAMERA_FIELDS, f.name in Thresholds.__dataclass_fields__),
    )
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The node's parameters, and for each camera the values that override them."""

    node: NodeParameters
    own: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def camera(self, name: str) -> CameraParameters:
        """The parameters of one camera: its own values, otherwise the node's.

        Raises ParameterError.
        """
        values = {field: getattr(self.node, field) for field in CAMERA_FIELDS}
        try:
            return CameraParameters(**{**values, **self.own.get(name, {})})
        except ParameterError as error:
            raise ParameterError(f"{name}.{error}" if name else str(error)) from error


def declare_parameters(node: "Node") -> Settings:
    """Declare all of NodeParameters on the node, and all of CameraParameters for each named
    camera; return the values at start.

    Raises ParameterError for a value of the wrong type, range or choice.
    """
    values = {
        name: _declared(node, field, name, optional=False) for name, field in NODE_FIELDS.items()
    }
    settings = Settings(NodeParameters(**values))
    for camera in settings.node.cameras:
        if camera:
            own = {
                name: _declared(node, field, f"{camera}.{name}", optional=True)
                for name, field in CAMERA_FIELDS.items()
            }
            settings.own[camera] = {k: value for k, value in own.items() if value is not None}
        settings.camera(camera)
    return settings


def changed_settings(
    current: Settings, changes: "Iterable[Parameter]", configured: bool
) -> Settings:
    """Return `current` with the changes, except those of rclpy's own parameters (qos_overrides,
    use_sim_time). `configured`: a model is loaded, so it is too late for AT_CONFIGURE.

    Raises ParameterError for a value that is not allowed, or not at this moment.
    """
    node_values: dict[str, Any] = {}
    own = {camera: dict(values) for camera, values in current.own.items()}
    for change in changes:
        if not change.name:  # rclpy refuses every other undeclared name
            raise ParameterError("a parameter without a name; see `ros2 param list`")
        camera, _, name = change.name.rpartition(".")
        if camera in current.own and name in CAMERA_FIELDS:
            field = CAMERA_FIELDS[name]
            before = getattr(current.camera(camera), name)
            if change.value in UNSET:
                own[camera].pop(name, None)
                value = getattr(current.node, name)
            else:
                own[camera][name] = value = _value_of(field, change.value)
        elif change.name in NODE_FIELDS:
            field = NODE_FIELDS[change.name]
            node_values[change.name] = value = _value_of(field, change.value)
            before = getattr(current.node, change.name)
        else:
            continue
        if configured and applies(field) is Applies.AT_CONFIGURE and value != before:
            raise ParameterError(
                f"{change.name} is read when the node is configured; first `ros2 lifecycle set "
                "<node>` deactivate and cleanup, then set it and configure again"
            )
    settings = Settings(dataclasses.replace(current.node, **node_values), own)
    for camera in settings.node.cameras:
        settings.camera(camera)
    return settings


def description_of(field: "dataclasses.Field[Any]") -> str:
    """Description of a parameter with its choices and range."""
    text = str(field.metadata["description"])
    if field.type is str and choices(field):
        text += f" One of {', '.join(choices(field))}."
    if span := field.metadata["span"]:
        text += f" From {span[0]:.10g} to {span[1]:.10g}."
    return text


def type_name(field: "dataclasses.Field[Any]") -> str:
    """The type of a field as ROS names it."""
    names: dict[Any, str] = {str: "string", int: "integer", float: "double", bool: "bool"}
    element = element_type(field)
    return f"{names[element]} array" if element is not None else names[field.type]


def _declared(node: "Node", field: "dataclasses.Field[Any]", name: str, optional: bool) -> Any:
    """The value at start, or None if an optional parameter was not given."""
    descriptor = _descriptor(field)
    # Without a value, rclpy has no type to check against; `_check` checks it.
    descriptor.dynamic_typing = optional
    default = None if optional else field.default
    if isinstance(default, tuple):
        default = list(default)
    try:
        value = node.declare_parameter(name, default, descriptor).value
    except Exception as error:  # rclpy has an exception type per kind of error
        raise ParameterError(f"parameter {name}: {error}") from error
    return None if value is None or (optional and value in UNSET) else _value_of(field, value)


def _descriptor(field: "dataclasses.Field[Any]") -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=description_of(field),
        additional_constraints=f"applies {applies(field).value}",
        read_only=applies(field) is Applies.AT_START,
    )
    if (span := field.metadata["span"]) is not None and element_type(field) is None:
        low, high = span
        if field.type is int:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def _value_of(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """A value of rclpy in the type of the field: arrays arrive as lists or array.array. A value of
    another type, or None, is returned as it is; `_check` refuses it."""
    arrays = (list, tuple, array.array)
    return tuple(value) if element_type(field) and isinstance(value, arrays) else value


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    element = element_type(field)
    values = value if element is not None and isinstance(value, tuple) else (value,)
    kind = element or field.type
    allowed, span = choices(field), field.metadata["span"]
    if isinstance(value, tuple) != (element is not None) or any(
        type(v) is not kind for v in values
    ):
        raise ParameterError(f"{field.name} is {_text(value)}, expected {type_name(field)}")
    if element in (int, float) and len(values) != len(field.default):  # type: ignore[arg-type]
        raise ParameterError(
            f"{field.name} is {_text(value)}, expected {len(field.default)} numbers"  # type: ignore[arg-type]
        )
    for item in values:
        if allowed and item not in allowed:
            raise ParameterError(
                f"{field.name} is {_text(value)}, expected one of "
                + ", ".join(filter(None, allowed))
            )
        if kind is float and not math.isfinite(item):
            raise ParameterError(f"{field.name} is {_text(value)}, expected finite numbers")
        if span and not span[0] <= item <= span[1]:
            raise ParameterError(
                f"{field.name} is {_text(value)}, expected {span[0]:.10g} to {span[1]:.10g}"
            )


def _size(name: str, text: str, expected: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise ParameterError(f"{name} is {shortened(text)}, expected {expected} such as 512x1024")
    return int(match[1]), int(match[2])


def element_type(field: "dataclasses.Field[Any]") -> Any:
    """The type of an array's elements, or None if the field is not an array."""
    return getattr(field.type, "__args__", (None,))[0]


def _text(value: Any) -> str:
    return shortened(list(value) if isinstance(value, tuple) else value)
