# SPDX-License-Identifier: Apache-2.0
"""The operators of the domain `sfseg` as TensorRT plugins (IPluginV3), launching our kernels.

`OPERATORS` describes the inputs and outputs of each operator. One class, `Plugin`, serves all of
them; `creators` makes it for the installed library. An engine with plugins can be loaded only after
`creators` were registered.

TensorRT only prints an exception that a callback raises. After an exception in
get_workspace_size or get_fields_to_serialize, it even continues with a wrong engine. Every callback
therefore notes its exceptions, and `raise_noted` fails the build or the frame afterwards.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.kernels import ONNX_DOMAIN, cuda_memory
from sfseg_ros.kernels.flow_warp import flow_warp_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion_launch
from sfseg_ros.kernels.launch import Launch, Shape
from sfseg_ros.kernels.upsample_argmax import launch_with_label_rules, upsample_argmax_launch

VERSION = "1"
# (type, format) of an input or output, by the library's names.
TensorKind = tuple[str, str]

# Storage of the features: kind -> (dtype, layout). Linear is (N, C, H, W). The others are channels
# last, (N, H, W, C); HWC8 pads the channels to a multiple of 8.
FEATURE_KINDS: dict[TensorKind, tuple[str, str]] = {
    ("FLOAT", "LINEAR"): ("float32", "linear"),
    ("FLOAT", "HWC"): ("float32", "hwc"),
    ("HALF", "LINEAR"): ("float16", "linear"),
    ("HALF", "HWC"): ("float16", "hwc"),
    ("HALF", "HWC8"): ("float16", "hwc"),
}
# The kinds that a builder may choose from; few, so that it has little to time. TensorRT times two
# for each type; its HWC is for fp32. RTX times nothing and takes the first. Its convolutions
# produce HWC, so it would transpose maps for linear and for HWC8.
OFFERED: dict[str, tuple[TensorKind, ...]] = {
    "tensorrt": (("FLOAT", "LINEAR"), ("FLOAT", "HWC"), ("HALF", "LINEAR"), ("HALF", "HWC8")),
    "tensorrt_rtx": (("FLOAT", "HWC"), ("HALF", "HWC")),
}
# Labels and confidence are uint8, but a plugin may not have UINT8 or BOOL outputs (see the header
# at IPluginV3OneBuild::getOutputDataTypes), and a network's UINT8 output must come from a cast of
# floats. The library therefore sees these bytes as INT8.
BYTES = "INT8"


@dataclass(frozen=True)
class Operator:
    """One operator, described without TensorRT.

    `attribute` is the name of its only attribute, an integer. `features` are the positions, among
    inputs and then outputs, of the tensors that share one storage of FEATURE_KINDS. Every other
    input is linear, and all of these are fp32 or all of the features' type. Every other output is
    linear BYTES. `channels` maps an input to its number of channels if that is fixed: the kernel
    always reads that many. `output` is (input, axis) of each dimension of each output; if
    `upsamples`, the last two are multiplied by the attribute. `launch` takes the inputs' logical
    shapes, the attribute and the storage. `with_label_rules` adds a threshold and a table to that
    launch, see `applying_label_rules`."""

    name: str
    attribute: str
    inputs: int
    outputs: int
    features: tuple[int, ...]
    channels: dict[int, int]
    output: tuple[tuple[int, int], ...]
    upsamples: bool
    launch: Callable[[Sequence[Shape], int, "Storage"], Launch]
    with_label_rules: Callable[[Launch, int], Launch] | None = None

    def kind_is_supported(
        self, position: int, kinds: Sequence[TensorKind], offered: Sequence[TensorKind]
    ) -> bool:
        """Return whether the tensor at `position` may have the last of `kinds`, after the others.

        `offered` are the kinds of features to choose from.
        """
        kind, features = kinds[position], kinds[self.features[0]]
        if position in self.features:
            return kind in offered and kind == features
        if position >= self.inputs:
            return kind == (BYTES, "LINEAR")
        others = [kinds[p] for p in range(position) if p not in self.features]
        return kind in (others[:1] or [("FLOAT", "LINEAR"), (features[0], "LINEAR")])

    def output_types(self, input_types: Sequence[str]) -> list[str]:
        """Return the type of each output. Raises BackendError if no kernel takes these inputs."""
        features = input_types[self.features[0]]
        others = {kind for p, kind in enumerate(input_types) if p not in self.features}
        same = all(input_types[p] == features for p in self.features if p < self.inputs)
        if (
            features not in ("FLOAT", "HALF")
            or not same
            or others
            not in (
                set(),
                {"FLOAT"},
                {features},
            )
        ):
            raise BackendError(
                f"{self.name} of {', '.join(input_types)}: expected features all FLOAT or all "
                "HALF, and the other inputs all FLOAT or all of that type"
            )
        positions = range(self.inputs, self.inputs + self.outputs)
        return [features if position in self.features else BYTES for position in positions]

    def check_channels(self, shapes: Sequence[Shape]) -> None:
        """Raise BackendError if an input has another number of channels than the operator expects;
        -1 means not known yet."""
        for position, channels in self.channels.items():
            if shapes[position][1] not in (-1, channels):
                raise BackendError(
                    f"{self.name}: input {position} has {shapes[position][1]} channels, expected "
                    f"{channels}: export the model again"
                )

    def launch_for(
        self, shapes: Sequence[Shape], attribute: int, kinds: Sequence[TensorKind]
    ) -> Launch:
        """Return the kernel's launch for the inputs' logical shapes and kinds."""
        dtype, layout = FEATURE_KINDS[kinds[self.features[0]]]
        others = [kinds[p] for p in range(self.inputs) if p not in self.features]
        flow_dtype = "float16" if others[:1] == [("HALF", "LINEAR")] else "float32"
        pad = 8 if kinds[self.features[0]][1] == "HWC8" else 1
        return self.launch(shapes, attribute, Storage(dtype, layout, flow_dtype, pad))


@dataclass(frozen=True)
class Storage:
    """How tensors lie in memory: dtype and layout of the features, dtype of flow and gate (names as
    in launch.py), and the multiple to which channels are padded."""

    dtype: str
    layout: str
    flow_dtype: str
    pad: int

    def channels(self, logical: int) -> int:
        return -(-logical // self.pad) * self.pad

    def stored(self, shape: Shape) -> Shape:
        """Return (N, C, H, W) with the padded number of channels."""
        return (shape[0], self.channels(shape[1]), *shape[2:])


def _flow_warp(shapes: Sequence[Shape], align_corners: int, storage: Storage) -> Launch:
    return flow_warp_launch(
        storage.stored(shapes[0]),
        shapes[1],
        bool(align_corners),
        storage.dtype,
        storage.layout,
        storage.flow_dtype,
    )


def _gated_flow_fusion(shapes: Sequence[Shape], align_corners: int, storage: Storage) -> Launch:
    return gated_flow_fusion_launch(
        storage.stored(shapes[0]),
        storage.stored(shapes[1]),
        bool(align_corners),
        storage.dtype,
        storage.layout,
        storage.flow_dtype,
    )


def _upsample_argmax(shapes: Sequence[Shape], stride: int, storage: Storage) -> Launch:
    return upsample_argmax_launch(
        shapes[0],
        stride,
        storage.dtype,
        storage.layout,
        confidence=True,
        padded_channels=storage.channels(shapes[0][1]),
    )


OPERATORS = {
    operator.name: operator
    for operator in (
        # features (N, C, h, w), flow (N, 2, H, W) -> (N, C, H, W)
        Operator(
            name="FlowWarp",
            attribute="align_corners",
            inputs=2,
            outputs=1,
            features=(0, 2),
            channels={1: 2},
            output=((0, 0), (0, 1), (1, 2), (1, 3)),
            upsamples=False,
            launch=_flow_warp,
        ),
        # high (N, C, h, w), low (N, C, H, W), flow (N, 4, H, W), gate (N, 1, H, W) -> (N, C, H, W)
        Operator(
            name="GatedFlowFusion",
            attribute="align_corners",
            inputs=4,
            outputs=1,
            features=(0, 1, 4),
            channels={2: 4, 3: 1},
            output=((0, 0), (0, 1), (1, 2), (1, 3)),
            upsamples=False,
            launch=_gated_flow_fusion,
        ),
        # scores (N, C, h, w) -> labels, confidence (N, stride h, stride w)
        Operator(
            name="UpsampleArgmax",
            attribute="stride",
            inputs=1,
            outputs=2,
            features=(0,),
            channels={},
            output=((0, 0), (0, 2), (0, 3)),
            upsamples=True,
            launch=_upsample_argmax,
            with_label_rules=launch_with_label_rules,
        ),
    )
}

# (thread, message of its exception). A library calls back in the thread that runs an engine. While
# it builds an engine, it may use other threads.
_noted: list[tuple[int, str]] = []
_noted_lock = threading.Lock()


def raise_noted(all_threads: bool = False) -> None:
    """Raise BackendError if callbacks in this thread have raised since the last call.

    `all_threads` includes other threads, for a process that does nothing but build one engine.
    """
    thread = threading.get_ident()
    with _noted_lock:
        found = [row for row in _noted if all_threads or row[0] == thread]
        _noted[:] = [row for row in _noted if row not in found]
    if found:
        texts = dict.fromkeys(text for _, text in found)
        raise BackendError(f"TensorRT plugin: {'; '.join(texts)}")


def _note(text: str) -> None:
    with _noted_lock:
        _noted.append((threading.get_ident(), text))


class _LabelRulesOfThread(threading.local):
    """The rules of this thread, (threshold, address of the table), and the number of nodes that
    have applied them."""

    rules: tuple[int, int] | None = None
    nodes = 0


_label_rules = _LabelRulesOfThread()


@contextlib.contextmanager
def applying_label_rules(threshold: int, table: int) -> Iterator[None]:
    """Make UpsampleArgmax write published labels in the work that this thread runs or captures.

    Labels whose confidence is below `threshold` (0 to 255) become 255. The table, uint8 (256,) at
    the device address `table`, then gives the published label. The work reads it when it runs.

    These are not inputs of the engine, because inputs are part of the model's contract (ADR 28).
    """
    _label_rules.rules, _label_rules.nodes = (threshold, table), 0
    try:
        yield
    finally:
        _label_rules.rules = None


def nodes_that_applied_rules() -> int:
    """Return how many nodes wrote published labels in this thread's last such block."""
    return _label_rules.nodes


Method = TypeVar("Method", bound=Callable[..., Any])


def _noting(method: Method) -> Method:
    @functools.wraps(method)
    def call(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except Exception as error:
            _note(f"{self.operator.name}.{method.__name__}: {one_line(error)}")
            raise

    return call  # type: ignore[return-value]


class Plugin:
    """One node: the callbacks of IPluginV3 with its core, build and runtime capabilities.

    `creators` combines it with those base classes of the library `trt`. Tensor descriptions are the
    library's: type, format and dims, which lie in `desc` during a build.
    """

    def __init__(self, trt: Any, operator: Operator, attribute: int) -> None:
        for base in _bases(trt):
            base.__init__(self)
        self.trt, self.operator, self.attribute = trt, operator, attribute
        self.plugin_name, self.plugin_namespace, self.plugin_version = (
            operator.name,
            ONNX_DOMAIN,
            VERSION,
        )
        self.num_outputs = operator.outputs
        self.launch: Launch | None = None
        # The library keeps pointers to these, so they must live as long as the plugin.
        self.value = np.array([attribute], np.int32)
        self.field = trt.PluginField(operator.attribute, self.value, trt.PluginFieldType.INT32)
        self.fields = trt.PluginFieldCollection([self.field])

    @_noting
    def get_capability_interface(self, _kind: Any) -> "Plugin":
        return self

    @_noting
    def clone(self) -> "Plugin":
        return type(self)(self.trt, self.operator, self.attribute)

    @_noting
    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        kinds = self.operator.output_types([kind.name for kind in input_types])
        return [getattr(self.trt.DataType, kind) for kind in kinds]

    @_noting
    def get_output_shapes(
        self, inputs: Sequence[Any], _shape_inputs: Sequence[Any], builder: Any
    ) -> list[Any]:
        """Return symbolic shapes, because sizes are known only when the engine runs."""
        operator = self.operator
        factor = builder.constant(self.attribute)
        shapes = []
        for _ in range(operator.outputs):
            shape = self.trt.DimsExprs(len(operator.output))
            for axis, (source, source_axis) in enumerate(operator.output):
                size = inputs[source][source_axis]
                if operator.upsamples and axis >= len(operator.output) - 2:
                    size = builder.operation(self.trt.DimensionOperation.PROD, size, factor)
                shape[axis] = size
            shapes.append(shape)
        return shapes

    @_noting
    def supports_format_combination(
        self, position: int, in_out: Sequence[Any], _num_inputs: int
    ) -> bool:
        kinds = [_kind(tensor.desc) for tensor in in_out[: position + 1]]
        return self.operator.kind_is_supported(position, kinds, OFFERED[self.trt.__name__])

    @_noting
    def configure_plugin(self, inputs: Sequence[Any], _outputs: Sequence[Any]) -> None:
        """Refuse an engine that could never run. The launch depends on shapes, which
        on_shape_change receives."""
        try:
            self.operator.check_channels([tuple(tensor.desc.dims) for tensor in inputs])
        except BackendError as error:  # only noted: an exception here ends RTX 1.7.1 with SIGABRT
            _note(one_line(error))

    @_noting
    def get_workspace_size(self, _inputs: Sequence[Any], _outputs: Sequence[Any]) -> int:
        return 0

    @_noting
    def get_fields_to_serialize(self) -> Any:
        return self.fields

    @_noting
    def attach_to_context(self, _context: Any) -> "Plugin":
        return self.clone()

    @_noting
    def set_tactic(self, _tactic: int) -> None:
        """Do nothing: each storage has one kernel, so there are no tactics."""

    @_noting
    def on_shape_change(self, inputs: Sequence[Any], _outputs: Sequence[Any]) -> None:
        shapes = [tuple(tensor.dims) for tensor in inputs]
        self.operator.check_channels(shapes)
        kinds = [_kind(tensor) for tensor in inputs]
        self.launch = self.operator.launch_for(shapes, self.attribute, kinds)

    @_noting
    def enqueue(
        self,
        _input_descriptions: Sequence[Any],
        _output_descriptions: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        _workspace: int,
        stream: int,
    ) -> None:
        """Launch the kernel. Inputs and outputs are device addresses, `stream` is a handle."""
        launch = self.launch
        if launch is None:
            raise BackendError("enqueue before on_shape_change")
        if _label_rules.rules is not None and self.operator.with_label_rules is not None:
            threshold, table = _label_rules.rules
            launch, inputs = self.operator.with_label_rules(launch, threshold), [*inputs, table]
            _label_rules.nodes += 1
        cuda_memory.launch_kernel(launch, inputs, outputs, stream)


class Creator:
    """Makes plugins of one operator: from the node during a build, from the engine at run time."""

    def __init__(self, trt: Any, operator: Operator) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.trt, self.operator = trt, operator
        self.name, self.plugin_namespace, self.plugin_version = operator.name, ONNX_DOMAIN, VERSION
        self.field = trt.PluginField(
            operator.attribute, np.array([], np.int32), trt.PluginFieldType.INT32
        )
        self.field_names = trt.PluginFieldCollection([self.field])

    @_noting
    def create_plugin(self, _name: str, fields: Sequence[Any], _phase: Any) -> Plugin:
        """Make a plugin. Raises BackendError without the attribute, as no default is safe."""
        wanted = self.operator.attribute
        values = [field.data for field in fields if field.name == wanted]
        if len(values) != 1 or np.size(values[0]) != 1:
            raise BackendError(
                f"{self.name} without its attribute {wanted}: export the model again"
            )
        attribute = int(np.ravel(values[0])[0])
        if not (1 <= attribute <= 64 if self.operator.upsamples else attribute in (0, 1)):
            raise BackendError(f"{self.name} with {wanted}={attribute}: export the model again")
        plugin: Plugin = _class(self.trt)(self.trt, self.operator, attribute)
        return plugin


def creators(trt: Any) -> list[Any]:
    """Return one creator for each operator, for the module `tensorrt` or `tensorrt_rtx`.

    The library keeps only references, so the same module always gets the same objects.
    """
    return _creators(trt)


@functools.cache
def _creators(trt: Any) -> list[Any]:
    creator = type("SfsegCreator", (Creator, trt.IPluginCreatorV3One), {})
    return [creator(trt, operator) for operator in OPERATORS.values()]


@functools.cache
def _class(trt: Any) -> Any:
    return type("SfsegPlugin", (Plugin, *_bases(trt)), {})


def _bases(trt: Any) -> tuple[Any, ...]:
    return (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)


def _kind(description: Any) -> TensorKind:
    return description.type.name, description.format.name
