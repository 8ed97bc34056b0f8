# SPDX-License-Identifier: Apache-2.0
"""The operators of the domain `sfseg` with their kernels stored in the engine (TensorRT 10.9+).

`tensorrt.plugin` asks once, while building, for kernel, launch and scalar arguments; the engine
then runs without Python. Sizes are part of the launch, so that such an engine has one shape.
Operators, storages and launches are those of plugin.py.

Verified with the real `tensorrt.plugin` of 11.4 up to the builder, which needs a GPU: no engine was
built so yet (docs/adr/0046-stored-kernels-need-tensorrt-and-its-gpu.md).
"""

import inspect
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sfseg_ros.backends.tensorrt.library import TensorRt
from sfseg_ros.backends.tensorrt.plugin import NAMESPACE, OFFERED, OPERATORS, Operator
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import binaries

# An array of one: before 11, `tensorrt.plugin` cannot make an int of it with a recent numpy.
ATTRIBUTE = npt.NDArray[np.int32]
# tensorrt.plugin has other words for some types than the library itself.
TYPE_WORDS = {"FLOAT": "FP32", "HALF": "FP16"}


def register(library: TensorRt, architecture: int) -> None:
    """Register all operators, with kernels for GPUs of compute capability `architecture` (90 is
    9.0) and newer, once in a process and instead of plugin.creators.

    The network must be created with `prefer_aot`. Raises BackendError where the library has no
    `aot_impl`.
    """
    words = library.quick_plugins()
    for operator in OPERATORS.values():
        identity = f"{NAMESPACE}::{operator.name}"
        words.register(identity)(_description(library, words, operator))
        words.autotune(identity)(_storages(library, words, operator))
        words.aot_impl(identity)(_kernel(words, operator, architecture))


def _description(library: TensorRt, words: Any, operator: Operator) -> Callable[..., Any]:
    """Types and symbolic shapes of the outputs."""

    def describe(*inputs: Any, **attributes: ATTRIBUTE) -> Any:
        shape = [inputs[source].shape_expr[axis] for source, axis in operator.output]
        if operator.upsamples:
            factor = int(attributes[operator.attribute][0])
            shape[-2:] = [size * factor for size in shape[-2:]]
        kinds = operator.output_types([tensor.dtype.name for tensor in inputs])
        outputs = tuple(
            words.from_shape_expr(tuple(shape), getattr(library.module.DataType, kind))
            for kind in kinds
        )
        return outputs if len(outputs) > 1 else outputs[0]

    _sign(describe, words, operator, [(operator.attribute, ATTRIBUTE)], _outputs(words, operator))
    return describe


def _storages(library: TensorRt, words: Any, operator: Operator) -> Callable[..., Any]:
    """What the builder times: each storage of the features that is offered for their type."""

    def storages(*tensors: Any) -> list[Any]:
        inputs, outputs = tensors[: operator.inputs], tensors[operator.inputs]
        kinds = [tensor.dtype.name for tensor in (*inputs, *outputs)]
        io_types = ",".join(TYPE_WORDS.get(kind, kind) for kind in kinds)
        return [
            words.AutoTuneCombination(
                io_types,
                ",".join(
                    form if position in operator.features else "LINEAR"
                    for position in range(len(kinds))
                ),
            )
            for kind, form in OFFERED[library.name]
            if kind == kinds[operator.features[0]]
        ]

    outputs = _outputs(words, operator)
    _sign(storages, words, operator, [("outputs", outputs)], list[words.AutoTuneCombination])
    return storages


def _kernel(words: Any, operator: Operator, architecture: int) -> Callable[..., Any]:
    """Name, binary, launch and scalar arguments; the kernel gets inputs, scalars, outputs."""

    def kernel(*arguments: Any) -> tuple[str, bytes, Any, Any]:
        inputs, attribute = arguments[: operator.inputs], int(arguments[operator.inputs][0])
        if any(tensor.is_dynamic for tensor in inputs):
            raise BackendError(
                f"{operator.name}: an engine with stored kernels has one shape; build it for one, "
                "or with plugins that are not stored"
            )
        shapes = [tuple(tensor.shape) for tensor in inputs]
        kinds = [(tensor.dtype.name, tensor.format.name) for tensor in inputs]
        launch = operator.launch_for(shapes, attribute, kinds)
        parameters = words.KernelLaunchParams(*launch.grid, *launch.block, launch.shared_bytes)
        scalars = words.SymIntExprs(len(launch.scalars))
        for position, value in enumerate(launch.scalars):
            scalars[position] = words.SymInt32(value)
        # Not the cubin: TensorRT 11.4 says at aot_impl that only PTX is supported.
        return launch.kernel, binaries.ptx(architecture), parameters, scalars

    outputs = _outputs(words, operator)
    more = [(operator.attribute, ATTRIBUTE), ("outputs", outputs), ("tactic", int)]
    returned = tuple[str, bytes, words.KernelLaunchParams, words.SymIntExprs]
    _sign(kernel, words, operator, more, returned)
    return kernel


def _outputs(words: Any, operator: Operator) -> Any:
    """The annotation of a tuple of all outputs."""
    return types.GenericAlias(tuple, (words.TensorDesc,) * operator.outputs)


def _sign(
    function: Callable[..., Any],
    words: Any,
    operator: Operator,
    more: list[tuple[str, Any]],
    returned: Any,
) -> None:
    """tensorrt.plugin reads names and types of arguments: the inputs, then `more`."""
    names = [(f"input{position}", words.TensorDesc) for position in range(operator.inputs)]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=type_) for name, type_ in (*names, *more)],
        return_annotation=returned,
    )
