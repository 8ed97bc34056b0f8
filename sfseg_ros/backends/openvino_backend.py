# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the processor: bf16 if the processor has AMX, else fp32."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

# oneDNN reads this when it loads. By default it caches the last 1024 compiled layers of all sizes
# and does not free them with the model: that looks like a leak and saves little for a repeated
# size.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")

import openvino as ov
from openvino import opset13 as ops

from sfseg_ros.backends.cut_graph import check_scores, split_model_of
from sfseg_ros.backends.processor import bf16_is_faster, bf16_unit, thread_count, threads_text
from sfseg_ros.backends.protocol import DEFAULT_OPTIONS, BackendOptions, check_images
from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.kernels.cpu_tail import CompiledTail, installed_tail
from sfseg_ros.model.manifest import UNLABELLED, Manifest

MAX_COMPILED_SIZES = 8
"""Maximum number of input sizes kept compiled: six different cameras, the warm-up, and one to
spare. Each holds its own copy of the weights and its buffers, about 100 MB for a ResNet-18 at
352x480. Most cameras share a size, which is a multiple of 32 and depends only on the aspect
ratio."""


class OpenVinoBackend:
    """See `Backend`. Compiles the model for each input size at its first use, because a fixed size
    runs faster than a free one. Compiling takes some tenths of a second. The most recently used
    sizes are kept.

    The images of a batch run one after another through the same compiled model. A model compiled
    for the batch is no faster (benchmarks/batches.json), and every batch size would need its own.
    """

    name = "openvino"
    precisions = ("fp32", "bf16")
    reason = "asked for"

    def __init__(self, manifest: Manifest, options: BackendOptions = DEFAULT_OPTIONS) -> None:
        precision, unit = options.precision, bf16_unit()
        if precision == "bf16" and unit is None:
            raise BackendError(
                "precision bf16: this processor has neither AMX nor AVX-512 BF16 and would be "
                "slower than in fp32; use precision fp32 or auto"
            )
        use_bf16 = precision == "bf16" or (precision == "auto" and bf16_is_faster())
        threads = thread_count(options.threads)
        self._manifest = manifest
        self.precision = "bf16" if use_bf16 else "fp32"
        self._core: ov.Core | None = new_core()
        self._trunk_options = _options("bf16" if use_bf16 else "f32", threads)
        # Interpolation, arg-max and softmax stay fp32, whatever the precision of the trunk.
        self._tail_options = _options("f32", threads)
        trunk = split_model_of(manifest).trunk
        try:
            self._trunk: ov.Model | None = self._core.read_model(trunk.SerializeToString())
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO refuses {manifest.onnx_path}: {one_line(error)}"
            ) from error
        self._routine = installed_tail(options.warn)
        self._pipelines: OrderedDict[tuple[int, int], _Pipeline] = OrderedDict()
        self._lock = threading.Lock()
        self.description = (
            f"OpenVINO {ov.__version__.split('-')[0]}, "
            f"{f'bf16 ({unit})' if use_bf16 else 'fp32'}, {threads_text(threads)}"
        )

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        check_images(self._manifest, rgb)
        # OpenVINO only shares memory with writable arrays, although it does not write to them.
        shared = np.require(rgb, np.uint8, ["C", "W"])
        labels = np.empty(rgb.shape[:3], np.uint8)
        certainty = np.empty_like(labels) if confidence else None
        pipeline = self._pipeline((rgb.shape[1], rgb.shape[2]))
        try:
            for i in range(len(shared)):
                pipeline.run(shared[i], labels[i], None if certainty is None else certainty[i])
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {one_line(error)}") from error
        return labels, certainty

    def close(self) -> None:
        with self._lock:
            self._trunk = None
            self._pipelines.clear()
            # The core owns the threads of everything that it compiled, four per size.
            self._core = None

    def _pipeline(self, size: tuple[int, int]) -> "_Pipeline":
        with self._lock:
            if self._trunk is None:
                raise BackendError("backend openvino is closed: open it again")
            if size not in self._pipelines:
                # Pass the core on: `close` may run before the size is compiled.
                self._pipelines[size] = _Pipeline(
                    partial(self._compiled_trunk, self._core, self._trunk, size),
                    partial(self._compiled_tail, self._core),
                    self._routine,
                    self._manifest.output_stride,
                )
            self._pipelines.move_to_end(size)
            if len(self._pipelines) > MAX_COMPILED_SIZES:
                self._pipelines.popitem(last=False)
            return self._pipelines[size]

    def _compiled_trunk(
        self, core: ov.Core, model: ov.Model, size: tuple[int, int]
    ) -> ov.CompiledModel:
        trunk = model.clone()  # shares the weights
        trunk.reshape([1, *size, 3])
        sizes = trunk.output(0).partial_shape
        check_scores(self._manifest, size, [s.get_length() if s.is_static else None for s in sizes])
        return core.compile_model(trunk, "CPU", self._trunk_options)

    def _compiled_tail(
        self, core: ov.Core, scores_shape: list[int], confidence: bool
    ) -> ov.CompiledModel:
        tail = upsample_argmax(scores_shape, self._manifest.output_stride, confidence)
        return core.compile_model(tail, "CPU", self._tail_options)


class _Pipeline:
    """The trunk and its tails for one input size, each compiled at its first use.

    Each size has its own lock, so compiling one size does not block the others.
    """

    def __init__(
        self,
        compiled_trunk: Callable[[], ov.CompiledModel],
        compiled_tail: Callable[[list[int], bool], ov.CompiledModel],
        routine: CompiledTail | None,
        stride: int,
    ) -> None:
        self._compiled_trunk = compiled_trunk
        self._compiled_tail = compiled_tail
        self._routine = routine
        self._stride = stride
        self._lock = threading.Lock()
        self._trunk: ov.InferRequest | None = None
        self._tails: dict[bool, ov.InferRequest] = {}

    def run(self, rgb: Uint8Array, labels: Uint8Array, certainty: Uint8Array | None) -> None:
        """Segment uint8 (H, W, 3) RGB into uint8 (H, W) `labels` and, unless None, `certainty`."""
        with self._lock:
            if self._trunk is None:
                self._trunk = self._compiled_trunk().create_infer_request()
            self._trunk.set_input_tensor(ov.Tensor(rgb[None], shared_memory=True))
            self._trunk.infer()
            if self._routine is not None:
                scores = self._trunk.get_output_tensor().data[0]
                self._routine.run(scores, self._stride, labels, certainty)
                return
            tail = self._tail(self._trunk, certainty is not None)
            tail.infer()
            # Copies: the next frame overwrites the request's own outputs.
            labels[:] = tail.get_output_tensor(0).data[0]
            if certainty is not None:
                certainty[:] = tail.get_output_tensor(1).data[0]

    def _tail(self, trunk: ov.InferRequest, confidence: bool) -> ov.InferRequest:
        if confidence not in self._tails:
            scores = trunk.get_output_tensor()
            request = self._compiled_tail(list(scores.shape), confidence).create_infer_request()
            request.set_input_tensor(scores)  # no copy between the two
            self._tails[confidence] = request
        return self._tails[confidence]


def new_core() -> ov.Core:
    """Return a core whose CPU plugin was loaded by a thread that has ended.

    On a processor with AMX the plugin gives the thread that loads it a new signal stack
    (openvinotoolkit/openvino#11894) and frees that stack with the core. If one thread opens two
    cores and closes them in the same order, the second core restores the stack that the first has
    freed. The next signal (Ctrl-C, the end of a child) then kills the process without a message.
    """

    def load() -> ov.Core:
        core = ov.Core()
        core.get_versions("CPU")
        return core

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(load).result()


def upsample_argmax(scores_shape: list[int], stride: int, confidence: bool) -> ov.Model:
    """Return `sfseg::UpsampleArgmax` as a model of operators that OpenVINO runs fast.

    Its labels equal those of the body in the ONNX file; its confidence differs by at most 1 of 255.
    OpenVINO would run the body's ArgMax as a sort, which takes as long as the rest of the network.
    This model instead takes the lowest index among the scores that equal the maximum, which is the
    same label (measured: benchmarks/backends.json).

    `scores_shape` is (N, C, h, w). The outputs are labels and, if `confidence`, the confidence,
    both uint8 (N, h * stride, w * stride).
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
        # Always set, because OpenVINO itself chooses bf16 on processors with AVX-512 BF16.
        "INFERENCE_PRECISION_HINT": precision,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return options
