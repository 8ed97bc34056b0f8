# SPDX-License-Identifier: Apache-2.0
"""Open a backend by name, or the best one that works on this machine.

To add a backend, write its module, add one row to BACKENDS, and subclass the contract test. The
libraries are optional, so each module is imported only when its backend is tried.
"""

import importlib
from typing import Any

from sfseg_ros.backends.protocol import DEFAULT_OPTIONS, Backend, BackendOptions
from sfseg_ros.errors import BackendError, BackendUnavailableError, one_line
from sfseg_ros.model.manifest import Manifest

# name -> (class, how to install its library); "auto" takes the first that works on this machine.
BACKENDS = {
    "tensorrt": (
        "tensorrt.backend:TensorRtBackend",
        "pip install tensorrt cuda-bindings onnx",
    ),
    "onnxruntime-cuda": (
        "onnxruntime_backend:OnnxRuntimeCudaBackend",
        "pip install onnxruntime-gpu onnx",
    ),
    "openvino": ("openvino_backend:OpenVinoBackend", "pip install openvino onnx"),
    "onnxruntime": ("onnxruntime_backend:OnnxRuntimeBackend", "pip install onnxruntime onnx"),
}


def open_backend(
    name: str, manifest: Manifest, options: BackendOptions = DEFAULT_OPTIONS
) -> Backend:
    """Load the model of `manifest` into the library `name`: a key of BACKENDS, or "auto".

    Precision "auto" is fp16 in TensorRT, bf16 in OpenVINO if the processor has AMX, else fp32.
    Backend "auto" skips a backend that this machine lacks and says so in `reason`; it never skips
    a library that is installed and fails. Raises BackendError if the library is missing or cannot
    run the model.
    """
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"backend {name!r}: expected one of auto, {', '.join(BACKENDS)}")
    passed_over = []
    for candidate in BACKENDS if name == "auto" else [name]:
        try:
            backend_class = _backend_class(candidate)
            if options.precision not in ("auto", *backend_class.precisions):
                raise BackendUnavailableError(
                    f"backend {candidate} computes in {' or '.join(backend_class.precisions)} "
                    f"only, not in {options.precision}: use precision auto"
                )
            backend: Backend = backend_class(manifest, options)
        except BackendUnavailableError as error:
            passed_over.append(str(error))
        except ImportError as error:
            advice = BACKENDS[candidate][1]
            passed_over.append(f"{candidate} cannot be imported ({one_line(error)}): {advice}")
        else:
            backend.reason = _reason(name, passed_over)
            return backend
    raise BackendUnavailableError("; or ".join(passed_over))


def _backend_class(name: str) -> Any:
    module, attribute = BACKENDS[name][0].split(":")
    return getattr(importlib.import_module(f"sfseg_ros.backends.{module}"), attribute)


def _reason(asked: str, passed_over: list[str]) -> str:
    if asked != "auto":
        return "asked for"
    return f"the best that works here; {'; '.join(passed_over)}" if passed_over else "the best"
