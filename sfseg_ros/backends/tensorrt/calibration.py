# SPDX-License-Identifier: Apache-2.0
"""Measure the ranges of a network's activations on real pictures, for the scales of int8 and fp8.

ONNX Runtime runs the network in fp32, and each tensor gets a histogram of its absolute values. For
int8 the range minimises the squared error of clipping and rounding together. fp8 has its own
exponent and uses the largest value.

Differs: the calibrators of `onnxruntime.quantization` keep every tensor of every picture in memory
and choose tensors by operator, whereas this module excludes some convolutions.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from sfseg_ros.backends.processor import thread_count
from sfseg_ros.backends.tensorrt.precision import QUANTIZED_MAX, plain_model, tensors_to_calibrate
from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.imaging import Uint8Array

BINS = 4096
CANDIDATES = 100
"""Number of ranges tried for int8, from 1/100 of the largest value to all of it."""
VERSION = 1
"""Part of the digest. Increase it when the same pictures give other ranges."""


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration. `ranges`: the largest absolute value of each tensor that must be
    representable. `digest`: of pictures and method, 64 hexadecimal digits."""

    ranges: dict[str, float]
    pictures: int
    digest: str


def calibrate(
    model: ModelProto,
    precision: str,
    images: Iterable[Uint8Array],
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Return the ranges for `typed_model(model, precision, ...)`.

    `images` are uint8 (H, W, 3) RGB of a size that the network takes. Raises BackendError if there
    are none, if a value is not finite, or if the model has nothing to calibrate.
    """
    plain = plain_model(model)
    tensors = tensors_to_calibrate(plain, precision)
    if not tensors:
        raise BackendError(f"no convolution of this model can be {precision}: use fp16")
    del plain.graph.output[:]  # ONNX Runtime skips nodes that lead to no output
    plain.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors
    )
    session = session_of(plain)
    histograms = {name: Histogram() for name in tensors}
    digest = hashlib.sha256(f"calibration {VERSION} {precision}".encode())
    count = 0
    for count, image in enumerate(images, start=1):
        digest.update(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
        for name, values in zip(tensors, run(session, image[None])):
            histograms[name].add(values, name)
        progress(f"calibrating: picture {count}")
    if count == 0:
        raise BackendError("no pictures to calibrate with: expected some of the camera's")
    ranges = {
        name: histogram.largest if precision == "fp8" else histogram.int8_reach()
        for name, histogram in histograms.items()
    }
    return Calibration(ranges, count, digest.hexdigest())


class Histogram:
    """Counts of absolute values in BINS equal bins from 0. The width doubles as values grow."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.largest = 0.0

    def add(self, values: npt.NDArray[np.float32], name: str = "tensor") -> None:
        """Count the values. Raises BackendError if a value is not finite."""
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise BackendError(f"{name} is not finite on a picture: the model is damaged")
        self.largest = max(self.largest, largest)
        if largest == 0.0:
            self.counts[0] += magnitudes.size
            return
        if self.width == 0.0:
            # Zeros that were counted before stay in the first bin.
            self.width = largest
        while largest > self.width:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[BINS // 2 :] = 0
            self.width *= 2.0
        bins = np.minimum((magnitudes * np.float32(BINS / self.width)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def int8_reach(self) -> float:
        """Return the range with the least squared error of rounding to 127 steps and clipping."""
        if self.width == 0.0:
            return 0.0
        centres = (np.arange(BINS) + 0.5) * (self.width / BINS)
        best, best_error = self.largest, np.inf
        for share in range(1, CANDIDATES + 1):
            reach = self.largest * share / CANDIDATES
            step = reach / QUANTIZED_MAX["int8"]
            # Inside the range the rounding error is uniform in a step; outside, values are clipped.
            clipped = np.maximum(centres - reach, 0.0)
            error = float((self.counts * np.where(clipped > 0, clipped**2, step**2 / 12)).sum())
            if error < best_error:
                best, best_error = reach, error
        return best


def session_of(model: ModelProto, literal: bool = False) -> Any:
    """Open an ONNX Runtime session on the processor.

    Raises BackendError if ONNX Runtime refuses the model or is missing; a robot may lack it.
    `literal` runs node by node, as a rounded graph requires: ONNX Runtime 1.31.1 removes a Relu
    before an fp8 QuantizeLinear, as if fp8 had no negative numbers.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(
            f"calibration and the comparison with fp32 need ONNX Runtime ({one_line(error)}): "
            "pip install onnxruntime"
        ) from error
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; they arrive as exceptions anyway
    options.intra_op_num_threads = thread_count(0)
    if literal:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base class
        raise BackendError(
            f"ONNX Runtime {ort.__version__} refuses the model: {one_line(error)[:300]}"
        ) from error


def run(session: Any, rgb: Uint8Array) -> list[Any]:
    """Return all outputs for uint8 (N, H, W, 3). Raises BackendError."""
    try:
        return list(session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(rgb)}))
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed: {one_line(error)[:300]}") from error
