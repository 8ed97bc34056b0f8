# SPDX-License-Identifier: Apache-2.0
"""Rewrite the fp32 ONNX file in another precision: explicit types and Q/DQ nodes.

The graph states the type in which each layer computes. Every TensorRT version therefore builds the
same network, and ONNX Runtime can measure the loss of accuracy on the processor (`emulated`).

- fp16: convolutions, products and the operators between them. Normalisation, spatial means,
  exponentials and all operators outside HALF_OPERATORS stay fp32. So do the coordinates inside the
  `sfseg` nodes, whose features are fp16.
- bf16: the same, except that bf16 has only 8 bits of precision: the convolutions that make flow,
  gate and scores stay fp32. So do the features of the `sfseg` nodes, which have no bf16 kernels.
- int8, fp8 (E4M3): fp16 with Q/DQ nodes around the convolutions of `quantized_convs`. They are
  symmetric, without zero points or quantised bias, because TensorRT accepts nothing else.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.imaging import Float32Array
from sfseg_ros.kernels import ONNX_DOMAIN

ENGINE_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
QUANTIZED_PRECISIONS = ("int8", "fp8")
RECIPE = 2
"""Part of an engine's key. Increase it when the same file and precision give another graph."""

# The largest value of each quantised type. int8 leaves out -128 to be symmetric.
QUANTIZED_MAX = {"int8": 127.0, "fp8": 448.0}
MIN_SCALE = 2.0**-20
"""Smallest scale. Scales are stored as fp16, whose subnormals end at 2^-24; this one still has four
bits. A channel of weights (or an activation) with a smaller scale is practically zero."""

# Operators that gain from half precision: they multiply and accumulate for each weight.
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "DequantizeLinear"}
# Operators that run in half precision if their input already has it. Operators that sum many values
# or take exponentials are not listed and stay fp32.
HALF_OPERATORS = {
    *("Add", "Sub", "Mul", "Max", "Min", "Neg", "Abs", "Where"),
    *("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu"),
    *("MaxPool", "AveragePool", "Resize", "ReduceMax", "ReduceMin", "DepthToSpace", "SpaceToDepth"),
    *("Concat", "Split", "Slice", "Gather", "Pad", "Expand", "Tile", "Identity", "Transpose"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
}
# Exporters write "no bound" and "masked" as numbers beyond fp16; the largest fp16 means the same.
_BOUNDS = {"Clip", "Max", "Min", "Where", "Pad"}
# Operators that TensorRT-RTX 1.7.1 refuses in bf16: the parser the first, the builder the second.
_NOT_BF16 = {"HardSwish", "ConvTranspose"}
FP16_MAX = 65504.0
_HALF_TYPES: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
_NAMES = {**_HALF_TYPES, int(TensorProto.FLOAT): "fp32"}


def typed_model(
    model: ModelProto, precision: str, ranges: Mapping[str, float] | None = None
) -> ModelProto:
    """Return a copy of the fp32 `model` in `precision`, one of ENGINE_PRECISIONS.

    Input, outputs and the `sfseg` nodes with their functions stay. `ranges`, for int8 and fp8, is
    the largest absolute value of each tensor in `tensors_to_calibrate`. Raises BackendError if the
    model cannot be written in that precision.
    """
    if precision not in ENGINE_PRECISIONS:
        raise BackendError(
            f"precision {precision!r}: expected one of {', '.join(ENGINE_PRECISIONS)}"
        )
    plain = plain_model(model)
    if precision == "fp32":
        return plain
    if precision in QUANTIZED_PRECISIONS:
        _quantize(plain, precision, ranges or {})
    half_type = TensorProto.BFLOAT16 if precision == "bf16" else TensorProto.FLOAT16
    _Halver(plain, half_type).run()
    try:
        onnx.checker.check_model(plain)
    except onnx.checker.ValidationError as error:
        raise BackendError(
            f"the model cannot be written in {precision}: {one_line(error)[:200]}; use fp32"
        ) from error
    return plain


def plain_model(model: ModelProto) -> ModelProto:
    """Return the same fp32 network with all weights as fp32 initializers.

    The result has no Cast of a stored fp16 weight, no Constant nodes, and no functions outside the
    domain `sfseg`. Raises BackendError if the model cannot be written in this way.
    """
    opset = _opset(model)
    if opset is None:
        raise BackendError("the file names no opset of standard operators: export the model again")
    if other := next((f for f in model.functions if _opset(f) not in (None, opset)), None):
        raise BackendError(
            f"the file's graph is of opset {opset}, its function {other.name} of {_opset(other)}: "
            "export the model again with one opset"
        )
    others = [(f.domain, f.name) for f in model.functions if f.domain != ONNX_DOMAIN]
    if others:
        plain = inliner.inline_selected_functions(model, others)
    else:
        plain = ModelProto()
        plain.CopyFrom(model)
    graph = plain.graph
    if nested := next((n for n in graph.node if any(a.HasField("g") for a in n.attribute)), None):
        raise BackendError(
            f"the model has a node {nested.op_type} with a graph inside: an engine needs one "
            "without; export it with fixed control flow"
        )
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        value = _constant(node, weights)
        if value is None:
            nodes.append(node)
        else:
            weights[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    _replace_nodes(plain, nodes, weights.values())
    return plain


def _opset(holder: ModelProto | FunctionProto) -> int | None:
    """Return the opset of the standard operators, or None if there is none."""
    return next((o.version for o in holder.opset_import if o.domain in ("", "ai.onnx")), None)


def _constant(node: NodeProto, weights: Mapping[str, TensorProto]) -> npt.NDArray[Any] | None:
    """Return the value of a Constant node or of a Cast of a stored weight to fp32, else None."""
    if node.domain:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if (
        node.op_type == "Cast"
        and node.input[0] in weights
        and attributes["to"] == TensorProto.FLOAT
    ):
        return np.asarray(numpy_helper.to_array(weights[node.input[0]]).astype(np.float32))
    if node.op_type != "Constant":
        return None
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in attributes:
            return np.asarray(attributes[name], dtype)
    if "value" in attributes:
        return np.asarray(numpy_helper.to_array(attributes["value"]))
    return None


def _replace_nodes(
    model: ModelProto, nodes: list[NodeProto], weights: Iterable[TensorProto]
) -> None:
    """Replace the graph's nodes, and keep only those of `weights` that they read."""
    graph = model.graph
    read = {name for node in nodes for name in node.input}
    new = helper.make_graph(
        nodes, graph.name, graph.input, graph.output, [w for w in weights if w.name in read]
    )
    graph.CopyFrom(new)


def element_types(model: ModelProto) -> dict[str, int]:
    """Return the element type (onnx.TensorProto.DataType) of every tensor whose type is known.

    The types of the outputs of `sfseg` nodes follow from their contract, so the file need not
    contain the functions.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.functions[:]
    del copy.graph.value_info[:]
    types = {w.name: w.data_type for w in model.graph.initializer}
    # Inference stops at an `sfseg` node, whose type follows from its inputs. So it runs again after
    # each of these nodes.
    while True:
        for name, kind in types.items():
            known = {v.name for v in (*copy.graph.value_info, *copy.graph.output)}
            if name not in known:
                copy.graph.value_info.append(helper.make_tensor_value_info(name, kind, None))
        inferred = onnx.shape_inference.infer_shapes(copy).graph
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            types[value.name] = value.type.tensor_type.elem_type
        new = {}
        for node in model.graph.node:
            if node.domain != ONNX_DOMAIN or node.output[0] in types:
                continue
            if node.op_type == "UpsampleArgmax":
                new.update(dict.fromkeys(node.output, int(TensorProto.UINT8)))
            elif node.input[0] in types:
                new[node.output[0]] = types[node.input[0]]
        if not new:
            return types
        types.update(new)


# --- half precision -----------------------------------------------------------------------------


class _Halver:
    """Rewrites a plain model in place: nodes for which `_is_half` is true become half precision,
    and a Cast is added wherever a node needs a tensor in the other type."""

    def __init__(self, model: ModelProto, half_type: int) -> None:
        self._model = model
        self._half = half_type
        self._types = element_types(model)
        self._weights = {w.name: w for w in model.graph.initializer}
        self._opset = _opset(model) or 0  # plain_model refuses a file without an opset
        self._kept = _sensitive_convs(model) if half_type == TensorProto.BFLOAT16 else set()
        self._nodes: list[NodeProto] = []
        self._casts: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        for node in list(self._model.graph.node):
            half = self._is_half(node)
            wanted = self._half if half else int(TensorProto.FLOAT)
            for index in self._typed_inputs(node) if half else self._half_inputs(node):
                node.input[index] = self._as(node.input[index], wanted, node.op_type)
            self._nodes.append(node)
            if half and node.op_type != "QuantizeLinear":
                for name in node.output:
                    if self._types.get(name) == TensorProto.FLOAT:
                        self._types[name] = self._half
        _replace_nodes(self._model, self._nodes, self._weights.values())

    def _is_half(self, node: NodeProto) -> bool:
        first_is_half = bool(node.input) and self._types.get(node.input[0]) == self._half
        if node.domain == ONNX_DOMAIN:
            return first_is_half and self._half == TensorProto.FLOAT16
        if self._half == TensorProto.BFLOAT16 and node.op_type in _NOT_BF16:
            return False
        if node.op_type in _PRODUCTS:
            return node.output[0] not in self._kept
        if node.op_type == "QuantizeLinear":
            return first_is_half
        if node.op_type in HALF_OPERATORS or _is_channel_mean(node, self._weights):
            return any(
                self._types.get(node.input[i]) == self._half for i in self._typed_inputs(node)
            )
        return False

    def _typed_inputs(self, node: NodeProto) -> list[int]:
        """Return the fp32 or half inputs that must have the type in which the node computes."""
        if node.domain == ONNX_DOMAIN:
            # Flow and gate have the features' type; the node computes coordinates in fp32 anyway.
            indices = list(range(len(node.input)))
        elif node.op_type == "QuantizeLinear":
            indices = [0, 1]
        elif node.domain or node.op_type == "Cast":
            return []
        else:
            schema = onnx.defs.get_schema(node.op_type, self._opset, "")
            formal = [schema.inputs[min(i, len(schema.inputs) - 1)] for i in range(len(node.input))]
            indices = [i for i, f in enumerate(formal) if f.type_str == schema.outputs[0].type_str]
        floats = (TensorProto.FLOAT, self._half)
        return [i for i in indices if self._types.get(node.input[i]) in floats]

    def _half_inputs(self, node: NodeProto) -> list[int]:
        """Return the half inputs that must become fp32 for a node that computes in fp32."""
        if not node.domain and node.op_type in ("Cast", "Shape", "Size"):
            return []
        return [i for i, name in enumerate(node.input) if self._types.get(name) == self._half]

    def _as(self, name: str, wanted: int, reader: str) -> str:
        """Return the name of the tensor `name` in the type `wanted`, for an operator `reader`."""
        if self._types[name] == wanted:
            return name
        if (name, wanted) not in self._casts:
            cast = f"{name}::{_NAMES[wanted]}"
            self._casts[name, wanted] = cast
            self._types[cast] = wanted
            if name in self._weights and wanted == self._half:
                value = np.asarray(numpy_helper.to_array(self._weights[name]), np.float32)
                if reader in _BOUNDS and wanted == TensorProto.FLOAT16:
                    value = np.clip(value, -FP16_MAX, FP16_MAX)
                self._weights[cast] = _half_tensor(cast, value, wanted)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [cast], cast, to=wanted))
        return self._casts[name, wanted]


def _is_channel_mean(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Return whether the node is a mean over the channels of a pixel, about a hundred values. The
    sum over a whole image could exceed the range of fp16."""
    if node.op_type != "ReduceMean":
        return False
    axes = [list(a.ints) for a in node.attribute if a.name == "axes"]
    if len(node.input) > 1 and node.input[1] in weights:
        axes = [numpy_helper.to_array(weights[node.input[1]]).tolist()]
    return axes == [[1]]


def _half_tensor(name: str, value: Float32Array, half_type: int) -> TensorProto:
    if half_type == TensorProto.FLOAT16:
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if np.isinf(half).any() and not np.isinf(value).any():
            raise BackendError(
                f"weight {name} reaches {np.abs(value).max():.3g}, fp16 ends at "
                f"{FP16_MAX:.0f}: use bf16"
            )
        return numpy_helper.from_array(half, name)
    # Round to nearest, ties to even. Valid weights contain no NaN and no infinity.
    bits = value.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    raw = rounded.astype(np.uint16).tobytes()
    return helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, raw, raw=True)


def _sensitive_convs(model: ModelProto) -> set[str]:
    """Return the outputs of the last convolutions before a flow, a gate or the scores."""
    producer = {output: node for node in model.graph.node for output in node.output}
    found = set()
    for node in model.graph.node:
        if node.domain != ONNX_DOMAIN:
            continue
        first = {"FlowWarp": 1, "GatedFlowFusion": 2, "UpsampleArgmax": 0}.get(node.op_type, 0)
        pending, seen = list(node.input[first:]), set()
        while pending:
            name = pending.pop()
            before = producer.get(name)
            if before is None or name in seen:
                continue
            seen.add(name)
            if before.op_type in ("Conv", "ConvTranspose"):
                found.add(before.output[0])
            elif before.domain != ONNX_DOMAIN:
                pending += before.input
    return found


# --- int8 and fp8 -------------------------------------------------------------------------------


def quantized_convs(model: ModelProto, precision: str) -> list[NodeProto]:
    """Return the convolutions of a plain model that become int8 or fp8.

    These stay fp16: convolutions of the image (3 channels do not fill a matrix unit), convolutions
    that make flow, gate and scores (few channels, and labels depend on them), and, in fp8,
    convolutions with groups or with channels that are not multiples of 16, for which there is no
    fp8 matrix instruction.
    """
    weights = {w.name: w for w in model.graph.initializer}
    sensitive = _sensitive_convs(model)
    chosen = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights:
            continue
        if node.output[0] in sensitive:
            continue
        out_channels, group_channels = weights[node.input[1]].dims[:2]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if groups * group_channels <= 4:
            continue
        if precision == "fp8" and (groups > 1 or group_channels % 16 or out_channels % 16):
            continue
        chosen.append(node)
    return chosen


def tensors_to_calibrate(model: ModelProto, precision: str) -> list[str]:
    """Return the names of the activations of a plain model whose ranges int8 or fp8 needs."""
    return list(dict.fromkeys(node.input[0] for node in quantized_convs(model, precision)))


def _quantize(model: ModelProto, precision: str, ranges: Mapping[str, float]) -> None:
    convs = quantized_convs(model, precision)
    if not convs:
        raise BackendError(
            f"no convolution of this model can be {precision} (first, flow, gate and score layers "
            "and small channel counts stay fp16): use fp16"
        )
    if missing := [n.input[0] for n in convs if n.input[0] not in ranges]:
        raise BackendError(
            f"{precision} needs the range of {missing[0]} and {len(missing) - 1} more: calibrate"
        )
    _raise_opset(model, 19)  # fp16 scales and fp8
    quantized = TensorProto.INT8 if precision == "int8" else TensorProto.FLOAT8E4M3FN
    limit = QUANTIZED_MAX[precision]
    weights = {w.name: w for w in model.graph.initializer}
    chosen = {conv.output[0] for conv in convs}
    nodes: list[NodeProto] = []
    rounded: dict[str, str] = {}

    def through(name: str, scale: Float32Array, **axis: Any) -> str:
        """Return `name` rounded to the quantised type by a shared Q and DQ node."""
        if name not in rounded:
            stored, scale_name, zero = (f"{name}::{s}" for s in (precision, "scale", "zero"))
            rounded[name] = f"{name}::dequantized"
            weights[scale_name] = numpy_helper.from_array(scale, scale_name)
            zeros = bytes(scale.size)
            weights[zero] = helper.make_tensor(zero, quantized, scale.shape, zeros, raw=True)
            for operator, source, target in (
                ("QuantizeLinear", name, stored),
                ("DequantizeLinear", stored, rounded[name]),
            ):
                inputs = [source, scale_name, zero]
                nodes.append(helper.make_node(operator, inputs, [target], target, **axis))
        return rounded[name]

    for node in list(model.graph.node):
        if node.output[0] in chosen:
            weight = np.abs(np.asarray(numpy_helper.to_array(weights[node.input[1]]), np.float32))
            reach = np.float32(ranges[node.input[0]])
            node.input[0] = through(node.input[0], _scale(reach, limit))
            if precision == "int8":
                channels = weight.max(axis=tuple(range(1, weight.ndim)))
                node.input[1] = through(node.input[1], _scale(channels, limit), axis=0)
            else:  # fp8 has its own exponent, so one scale per layer is enough
                node.input[1] = through(node.input[1], _scale(weight.max(), limit))
        nodes.append(node)
    _replace_nodes(model, nodes, weights.values())


def _scale(reach: Any, limit: float) -> Float32Array:
    """Return reach / limit as an fp16 number, rounded up so that no value within reach is clipped.
    Raises BackendError if it is not finite in fp16."""
    exact = np.maximum(np.asarray(reach, np.float64) / limit, MIN_SCALE)
    if not (exact <= FP16_MAX).all():  # NaN neither
        raise BackendError(
            f"values reach {np.max(reach):.3g}, {limit:.0f} steps of fp16 end at "
            f"{limit * FP16_MAX:.3g}: the model is damaged, or needs bf16"
        )
    half = exact.astype(np.float16)
    return np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)


def _raise_opset(model: ModelProto, version: int) -> None:
    """Raise the opset of the graph and the functions to at least `version`. Opset 19 only adds
    types to operators of opset 18."""
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        for opset in imports:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, version)


# --- on the processor ---------------------------------------------------------------------------


def emulated(model: ModelProto) -> ModelProto:
    """Return a typed model for a library without half precision.

    It computes in fp32, rounds every half-precision tensor to its type, and keeps Q/DQ nodes. Apart
    from the order of sums, this is what a GPU computes. ONNX Runtime's processor kernels need it,
    because they keep chains of fp16 operators in fp32 and do not support bf16.
    """
    types = element_types(model)
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = [
        _float_tensor(w) if w.data_type in _HALF_TYPES else w for w in copy.graph.initializer
    ]
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        for index, name in enumerate(list(node.output)):
            half = types.get(name)
            if half not in _HALF_TYPES:
                continue
            if node.op_type == "Cast":
                node.output[index] = rounded = f"{name}::rounded"
            else:
                node.output[index], rounded = f"{name}::exact", f"{name}::rounded"
                nodes.append(helper.make_node("Cast", [f"{name}::exact"], [rounded], to=half))
            nodes.append(helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT))
    _replace_nodes(copy, nodes, weights)
    return copy


def _float_tensor(tensor: TensorProto) -> TensorProto:
    if tensor.data_type == TensorProto.FLOAT16:
        value = numpy_helper.to_array(tensor).astype(np.float32)
    else:  # the result of to_array for bf16 depends on the version of onnx
        bits = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16
        value = bits.view(np.float32).reshape(tuple(tensor.dims))
    return numpy_helper.from_array(value, tensor.name)
