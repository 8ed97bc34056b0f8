# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the processor: fp32, any size without preparation."""

from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from sfseg_ros.backends import Uint8Array, check_images
from sfseg_ros.backends.graph import split_model_of
from sfseg_ros.backends.processor import thread_count, threads_text
from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.manifest import Manifest


class OnnxRuntimeBackend:
    """See `Backend`. Takes every size from the first frame on; nothing is compiled per size."""

    name = "onnxruntime"
    precision = "fp32"
    reason = "asked for"

    def __init__(self, manifest: Manifest, precision: str = "auto", threads: int = 0) -> None:
        if precision == "bf16":
            raise BackendError(
                "backend onnxruntime computes in fp32 only: use precision fp32 or auto"
            )
        self._manifest = manifest
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = thread_count(threads)
        # Waiting threads sleep instead of spinning: on a robot other nodes want the cores, and the
        # trunk's threads would spin while the tail's work.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options.log_severity_level = 3  # errors only; they arrive as exceptions anyway
        model = split_model_of(manifest)
        self._trunk: Any = self._session(model.trunk)
        self._labels_tail: Any = self._session(model.labels_tail)
        self._confidence_tail: Any = self._session(model.confidence_tail)
        threads_used = threads_text(self._options.intra_op_num_threads)
        self.description = f"ONNX Runtime {ort.__version__}, fp32, {threads_used}"

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        check_images(self._manifest, rgb)
        trunk, tail = self._trunk, self._confidence_tail if confidence else self._labels_tail
        if trunk is None or tail is None:
            raise BackendError("backend onnxruntime is closed: open it again")
        try:
            (scores,) = trunk.run(None, {"image": np.ascontiguousarray(rgb)})
            outputs = tail.run(None, {tail.get_inputs()[0].name: scores})
        except Exception as error:  # its exceptions share no base class
            raise BackendError(f"ONNX Runtime failed: {one_line(error)}") from error
        return outputs[0], outputs[1] if confidence else None

    def close(self) -> None:
        self._trunk = self._labels_tail = self._confidence_tail = None

    def _session(self, model: ModelProto) -> Any:
        try:
            return ort.InferenceSession(
                model.SerializeToString(), self._options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} refuses {self._manifest.onnx_path}: "
                f"{one_line(error)}"
            ) from error
