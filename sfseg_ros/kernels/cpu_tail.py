# SPDX-License-Identifier: Apache-2.0
"""UpsampleArgmax on the processor: `cpu_tail.c`, compiled when the package is built.

`upsample_argmax.py` defines the function. The compiled library does not use Python's C API, so one
file serves every Python version. ctypes releases the interpreter lock during a call.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BackendError
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.kernels.launch import MAX_ELEMENTS
from sfseg_ros.model.manifest import UNLABELLED

SOURCE = Path(__file__).with_name("cpu_tail.c")
LIBRARY = Path(__file__).with_name("_cpu_tail.abi3.so")
MISSING = (
    "labels are computed by the inference library's own operators, which is slower: the compiled "
    "routine is missing; install a C compiler and run `pip install .` again (in the source tree: "
    "python setup.py build_ext --inplace)"
)


@dataclass(frozen=True)
class CompiledTail:
    """Computes labels and confidence from scores in one thread; safe for several threads."""

    function: Any

    def labels_of(
        self, scores: npt.NDArray[np.float32], stride: int, confidence: bool
    ) -> tuple[Uint8Array, Uint8Array | None]:
        """Return labels of a batch (N, C, h, w) and, if requested, confidence (see `run`)."""
        size = (len(scores), scores.shape[2] * stride, scores.shape[3] * stride)
        labels = np.empty(size, np.uint8)
        certainty = np.empty(size, np.uint8) if confidence else None
        for i in range(len(scores)):
            self.run(scores[i], stride, labels[i], None if certainty is None else certainty[i])
        return labels, certainty

    def run(
        self,
        scores: npt.NDArray[np.float32],
        stride: int,
        labels: Uint8Array,
        confidence: Uint8Array | None = None,
    ) -> None:
        """Compute the labels of one image.

        Args:
            scores: float32 (C, h, w) before softmax, 1 <= C <= 255, C-contiguous.
            stride: the factor between scores and labels, 1 or more.
            labels: uint8 (h * stride, w * stride), C-contiguous; overwritten.
            confidence: None, or an array like `labels`; overwritten.

        Labels are bit-equal to the reference, and confidence differs by at most 1. Raises
        BackendError if the arrays do not match.
        """
        classes, height, width = scores.shape
        full = (height * stride, width * stride)
        results = (labels,) if confidence is None else (labels, confidence)
        if (
            scores.dtype != np.float32
            or not 1 <= classes <= UNLABELLED
            or min(height, width, stride) < 1
            or full[0] * full[1] > MAX_ELEMENTS
            or not scores.flags.c_contiguous
        ):
            raise BackendError(
                f"scores are {scores.dtype} {scores.shape} with stride {stride}: expected "
                f"contiguous float32 (1 to {UNLABELLED} classes, height, width), stride 1 or more"
            )
        for result in results:
            if (
                result.dtype != np.uint8
                or result.shape != full
                or not result.flags.c_contiguous
                or not result.flags.writeable
            ):
                raise BackendError(
                    f"result is {result.dtype} {result.shape}: expected contiguous, writable "
                    f"uint8 {full}"
                )
        failed = self.function(
            scores.ctypes.data,
            classes,
            height,
            width,
            stride,
            labels.ctypes.data,
            None if confidence is None else confidence.ctypes.data,
        )
        if failed:
            raise BackendError(f"no memory for the labels of {full[0]}x{full[1]} pixels")


def installed_tail(warn: Callable[[str], None]) -> CompiledTail | None:
    """Return the routine that was built with the package, or call `warn` and return None."""
    tail = compiled_tail(LIBRARY)
    if tail is None:
        warn(MISSING)
    return tail


def compiled_tail(library: Path, name: str = "sfseg_upsample_argmax") -> CompiledTail | None:
    """Return the function `name` of the compiled `library`, or None if it was not built.

    Raises BackendError if the library cannot be loaded or lacks the function.
    """
    if not library.is_file():
        return None
    try:
        function = getattr(ctypes.CDLL(str(library)), name)
    except (OSError, AttributeError) as error:
        raise BackendError(
            f"{library}: cannot be loaded ({error}); delete it and build the package again"
        ) from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    function.argtypes = [pointer, number, number, number, number, pointer, pointer]
    function.restype = number
    return CompiledTail(function)
