# SPDX-License-Identifier: Apache-2.0
"""Inference libraries behind one method on plain arrays (docs/adr/0001).

To add a backend: its module, one row of BACKENDS, and a subclass of the contract test. The
libraries are optional, so their modules are imported when they are asked for.
"""

import importlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sfseg_ros.errors import BackendError, BackendUnavailableError, ManifestError, one_line
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import CameraBytes, Uint8Array
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.model.published_labels import Finish

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
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "fp8")
GPU_WAITS = ("block", "spin")
"""How a thread waits for the GPU: asleep, or on a core of its own and some microseconds sooner."""


class Backend(Protocol):
    """A loaded model. Several threads may call `infer`: the frames of one camera by one thread,
    while another prepares the backend for the image size of the next camera."""

    name: str
    precisions: tuple[str, ...]
    """What the class can compute in, of PRECISIONS; some of it only on some machines."""
    description: str
    """One line for people: library, version, precision, threads or device."""
    precision: str
    """Arithmetic of the network: one of PRECISIONS but "auto"."""
    reason: str
    """Why this backend runs: asked for, or what "auto" found."""

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        """Segment a batch of images of one size.

        `rgb` is uint8 (N, H, W, 3); H and W satisfy the manifest. Returns labels uint8 (N, H, W)
        and, if asked for, the confidence: uint8 (N, H, W), softmax of the winner in 255ths. Both
        are the caller's to keep. Raises BackendError; with `lost`, each later call does.
        """
        ...

    def close(self) -> None:
        """Release the model; a later `infer` raises BackendError."""
        ...


@dataclass(frozen=True)
class Inferred:
    """Labels uint8 (N, H, W); confidence uint8 (N, H, W), None where it was not asked for; by name,
    each of PAINTS that was asked for, uint8 (N, H, W, 3) RGB. H and W are the network's."""

    labels: Uint8Array
    confidence: Uint8Array | None = None
    painted: Mapping[str, Uint8Array] = field(default_factory=dict)


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend that can also do what comes before and after the network, where the network runs.
    Which of it, its answers to the first two methods say."""

    def takes_camera(self, camera: CameraBytes, geometry: FrameGeometry) -> bool:
        """Whether `infer_frames` may be called with such an image."""
        ...

    def finishes(self, size: tuple[int, int]) -> bool:
        """Whether `infer_frames` may be called with a finish that is not PLAIN, and with paints,
        for a network input of `size` (height, width). May take as long as the first `infer`."""
        ...

    def infer_frames(
        self,
        frames: Sequence[Uint8Array | tuple[CameraBytes, FrameGeometry]],
        confidence: bool,
        finish: Finish,
        paints: Collection[str],
    ) -> Inferred:
        """As `infer` of images uint8 (H, W, 3) RGB, or of what `FrameGeometry.network_input` makes
        of cameras' images, up to the rounding of its resize; all of one network size.

        The labels are those that `finish.labels_from` makes of `infer`'s, the confidence is the
        network's. `paints`, of PAINTS, are made of these labels and of the network's input, up to
        one level of 255 as in `imaging`.
        """
        ...


def _ignore(text: str) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class GpuOptions:
    """What only the backends on a GPU want to know; the others ignore it.

    wait: one of GPU_WAITS. network_size: (height, width) of all images to come, None where they may
    differ. progress hears, in one line, what takes long while it goes on, and an empty line at its
    end; cancelled is asked meanwhile whether to give it up. warn hears what works less well than it
    could. All may be called from any thread that opens a backend or infers.
    """

    wait: str = "block"
    network_size: tuple[int, int] | None = None
    progress: Callable[[str], None] = _ignore
    cancelled: Callable[[], bool] = _never
    warn: Callable[[str], None] = logging.getLogger("sfseg_ros").warning

    def __post_init__(self) -> None:
        if self.wait not in GPU_WAITS:
            raise BackendError(f"gpu_wait {self.wait!r}: expected {' or '.join(GPU_WAITS)}")


DEFAULT_GPU = GpuOptions()


def open_backend(
    name: str,
    manifest: Manifest,
    precision: str = "auto",
    threads: int = 0,
    gpu: GpuOptions = DEFAULT_GPU,
) -> Backend:
    """Load the model of `manifest` into the library `name`: one of BACKENDS, or "auto".

    `precision` "auto" is fp16 in TensorRT, bf16 in OpenVINO if the processor has AMX, else fp32.
    `threads` 0 lets the library choose. "auto" passes over what this machine lacks and says
    so in `reason`; it never passes over a library that is there and fails. Raises BackendError
    where the library is missing or cannot do it.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if threads < 0:
        raise BackendError(f"threads is {threads}: expected 0 (the library's choice) or more")
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"backend {name!r}: expected one of auto, {', '.join(BACKENDS)}")
    passed_over = []
    for candidate in BACKENDS if name == "auto" else [name]:
        try:
            backend_class = _backend_class(candidate)
            if precision not in ("auto", *backend_class.precisions):
                raise BackendUnavailableError(
                    f"backend {candidate} computes in {' or '.join(backend_class.precisions)} "
                    f"only, not in {precision}: use precision auto"
                )
            backend: Backend = backend_class(manifest, precision, threads, gpu)
        except BackendUnavailableError as error:
            passed_over.append(str(error))
        except ImportError as error:
            advice = BACKENDS[candidate][1]
            passed_over.append(f"{candidate} cannot be imported ({one_line(error)}): {advice}")
        else:
            backend.reason = _reason(name, passed_over)
            return backend
    raise BackendUnavailableError("; or ".join(passed_over))


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


def _reason(asked: str, passed_over: list[str]) -> str:
    if asked != "auto":
        return "asked for"
    return f"the best that works here; {'; '.join(passed_over)}" if passed_over else "the best"
