# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the processor: bf16 where there is a unit for it, else fp32."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from sfseg_ros.backends import Uint8Array, check_images
from sfseg_ros.backends.graph import split_model_of
from sfseg_ros.backends.processor import bf16_unit, thread_count, threads_text
from sfseg_ros.errors import BackendError
from sfseg_ros.manifest import UNLABELLED, Manifest

MAX_COMPILED_SIZES = 4
"""Compiled models kept at a time, one per input shape; each holds its own copy of the weights."""


class OpenVinoBackend:
    """See `Backend`. Compiles for each input shape at its first use, which takes a second or two,
    because fixed shapes run faster than free ones; the shapes used last are kept."""

    name = "openvino"
    reason = "asked for"

    def __init__(self, manifest: Manifest, precision: str = "auto", threads: int = 0) -> None:
        unit = bf16_unit()
        if precision == "bf16" and unit is None:
            raise BackendError(
                "precision bf16: this processor has neither AMX nor AVX-512 BF16 and would be "
                "slower than in fp32; use precision fp32 or auto"
            )
        use_bf16 = unit is not None and precision != "fp32"
        threads = thread_count(threads)
        self._manifest = manifest
        self._core = ov.Core()
        self._trunk_options = _options("bf16" if use_bf16 else "f32", threads)
        # Interpolation, arg-max and softmax stay fp32 whatever the trunk does.
        self._tail_options = _options("f32", threads)
        trunk = split_model_of(manifest).trunk
        try:
            self._trunk: ov.Model | None = self._core.read_model(trunk.SerializeToString())
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO refuses {manifest.onnx_path}: {_one_line(error)}"
            ) from error
        self._pipelines: OrderedDict[tuple[int, ...], _Pipeline] = OrderedDict()
        self.description = (
            f"OpenVINO {ov.__version__.split('-')[0]}, "
            f"{f'bf16 ({unit})' if use_bf16 else 'fp32'}, {threads_text(threads)}"
        )

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        check_images(self._manifest, rgb)
        if self._trunk is None:
            raise BackendError("backend openvino is closed: open it again")
        try:
            # OpenVINO shares memory with writable arrays only, though it does not write.
            shared = np.require(rgb, np.uint8, ["C", "W"])
            return self._pipeline(rgb.shape).run(shared, confidence)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {_one_line(error)}") from error

    def close(self) -> None:
        self._trunk = None
        self._pipelines.clear()

    def _pipeline(self, shape: tuple[int, ...]) -> "_Pipeline":
        if shape not in self._pipelines:
            assert self._trunk is not None
            trunk = self._trunk.clone()  # shares the weights
            trunk.reshape(list(shape))
            self._pipelines[shape] = _Pipeline(
                self._core.compile_model(trunk, "CPU", self._trunk_options),
                lambda tail: self._core.compile_model(tail, "CPU", self._tail_options),
                self._manifest.output_stride,
            )
        self._pipelines.move_to_end(shape)
        if len(self._pipelines) > MAX_COMPILED_SIZES:
            self._pipelines.popitem(last=False)
        return self._pipelines[shape]


class _Pipeline:
    """The trunk compiled for one input shape, and its tails, compiled when first asked for."""

    def __init__(
        self,
        trunk: ov.CompiledModel,
        compiled: Callable[[ov.Model], ov.CompiledModel],
        stride: int,
    ) -> None:
        self._trunk = trunk.create_infer_request()
        self._scores_shape = list(trunk.output(0).shape)
        self._compiled = compiled
        self._stride = stride
        self._tails: dict[bool, ov.InferRequest] = {}

    def run(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        self._trunk.set_input_tensor(ov.Tensor(rgb, shared_memory=True))
        self._trunk.infer()
        tail = self._tail(confidence)
        tail.infer()
        # Copies: the next frame overwrites the request's own outputs.
        labels = np.array(tail.get_output_tensor(0).data)
        return labels, np.array(tail.get_output_tensor(1).data) if confidence else None

    def _tail(self, confidence: bool) -> ov.InferRequest:
        if confidence not in self._tails:
            model = upsample_argmax(self._scores_shape, self._stride, confidence)
            request = self._compiled(model).create_infer_request()
            request.set_input_tensor(self._trunk.get_output_tensor())  # no copy between the two
            self._tails[confidence] = request
        return self._tails[confidence]


def upsample_argmax(scores_shape: list[int], stride: int, confidence: bool) -> ov.Model:
    """`sfseg::UpsampleArgmax` in operators that OpenVINO is fast at.

    The same labels as the body in the ONNX file, the confidence within 1 of 255. The body's ArgMax
    becomes a sort here, which takes as long as everything else together; the lowest index among
    the scores that equal the maximum is the same label (measured: benchmarks/backends.json).

    `scores_shape` is (N, C, h, w). Outputs labels and, if asked for, confidence, both uint8
    (N, h * stride, w * stride).
    """
    count, height, width = scores_shape[1:]
    scores = ops.parameter(scores_shape, np.float32)
    full = ops.interpolate(
        scores,
        ops.constant(np.array([height * stride, width * stride])),
        mode="linear_onnx",
        shape_calculation_mode="sizes",
        coordinate_transformation_mode="align_corners",
        axes=ops.constant(np.array([2, 3])),
    )
    classes = ops.constant(np.array([1]))
    best = ops.reduce_max(full, classes, keep_dims=True)
    index = ops.constant(np.arange(count, dtype=np.float32).reshape(1, count, 1, 1))
    no_class = ops.constant(np.float32(UNLABELLED))
    candidates = ops.select(ops.greater_equal(full, best), index, no_class)
    outputs = [ops.convert(ops.reduce_min(candidates, classes), "u8")]
    if confidence:
        total = ops.reduce_sum(ops.exp(ops.subtract(full, best)), classes)
        share = ops.divide(ops.constant(np.float32(255)), total)
        outputs.append(ops.convert(ops.round(share, "half_to_even"), "u8"))
    return ov.Model(outputs, [scores], "upsample_argmax")


def _options(precision: str, threads: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
