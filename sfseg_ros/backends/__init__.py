# SPDX-License-Identifier: Apache-2.0
"""Inference libraries behind one method on plain arrays (design.md, D1).

To add a backend: its module, one row of BACKENDS, and a subclass of the contract test. The
libraries are optional, so their modules are imported when they are asked for.
"""

import importlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BackendError, ManifestError, one_line
from sfseg_ros.manifest import Manifest

Uint8Array = npt.NDArray[np.uint8]

# name -> (class, how to install its library); "auto" takes the first whose library imports.
BACKENDS = {
    "openvino": ("openvino_backend:OpenVinoBackend", "pip install openvino onnx"),
    "onnxruntime": ("onnxruntime_backend:OnnxRuntimeBackend", "pip install onnxruntime onnx"),
}
PRECISIONS = ("auto", "fp32", "bf16")


class Backend(Protocol):
    """A loaded model. Several threads may call `infer`: the frames of one camera by one thread,
    while another prepares the backend for the image size of the next camera."""

    name: str
    description: str
    """One line for people: library, version, precision, threads."""
    precision: str
    """Arithmetic of the network: one of PRECISIONS but "auto"."""
    reason: str
    """Why this backend runs: asked for, or what "auto" found."""

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        """Segment a batch of images of one size.

        `rgb` is uint8 (N, H, W, 3); H and W satisfy the manifest. Returns labels uint8 (N, H, W)
        and, if asked for, the confidence: uint8 (N, H, W), softmax of the winner in 255ths. Both
        are the caller's to keep. Raises BackendError.
        """
        ...

    def close(self) -> None:
        """Release the model; a later `infer` raises BackendError."""
        ...


def open_backend(
    name: str, manifest: Manifest, precision: str = "auto", threads: int = 0
) -> Backend:
    """Load the model of `manifest` into the library `name`: "openvino", "onnxruntime" or "auto".

    `precision` "auto" is bf16 where processor and library compute in it, else fp32. `threads` 0
    lets the library choose. Raises BackendError where the library is missing or cannot do it.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if threads < 0:
        raise BackendError(f"threads is {threads}: expected 0 (the library's choice) or more")
    if name == "tensorrt":
        raise BackendError("backend 'tensorrt' does not exist yet; use auto")
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"backend {name!r}: expected one of auto, {', '.join(BACKENDS)}")
    missing = []
    for candidate in BACKENDS if name == "auto" else [name]:
        try:
            backend_class = _backend_class(candidate)
        except ImportError as error:
            advice = BACKENDS[candidate][1]
            missing.append(f"{candidate} cannot be imported ({one_line(error)}): {advice}")
            continue
        backend: Backend = backend_class(manifest, precision, threads)
        backend.reason = _reason(name, missing)
        return backend
    raise BackendError("; or ".join(missing))


def check_images(manifest: Manifest, rgb: Uint8Array) -> None:
    """Raise BackendError unless `rgb` is uint8 (N, H, W, 3) of a size that the model takes."""
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[3] != 3 or rgb.shape[0] < 1:
        raise BackendError(
            f"input is {rgb.dtype} {rgb.shape}: expected uint8 (N, height, width, 3), N >= 1"
        )
    try:
        manifest.check_network_size((rgb.shape[1], rgb.shape[2]))
    except ManifestError as error:
        raise BackendError(str(error)) from error


def _backend_class(name: str) -> Any:
    module, attribute = BACKENDS[name][0].split(":")
    return getattr(importlib.import_module(f"sfseg_ros.backends.{module}"), attribute)


def _reason(asked: str, missing: list[str]) -> str:
    if asked != "auto":
        return "asked for"
    return "; ".join(missing) if missing else "the fastest on processors, and it is installed"
