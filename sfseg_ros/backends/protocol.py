# SPDX-License-Identifier: Apache-2.0
"""What every inference backend implements: one method on plain arrays (docs/adr/0001)."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from sfseg_ros.errors import BackendError, ManifestError
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import CameraBytes, Uint8Array
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.model.published_labels import LabelRules

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "fp8")
MOST_THREADS = 256
GPU_WAITS = ("block", "spin")
"""How a thread waits for the GPU: "block" sleeps; "spin" keeps a core busy and wakes some
microseconds sooner."""


def _ignore(text: str) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class BackendOptions:
    """How to open a backend. A backend ignores what does not concern it.

    `precision`: one of PRECISIONS; "auto" is the backend's choice. `threads`: number of processor
    threads, 0 for the library's choice. `network_size`: (height, width) of every image, or None if
    sizes differ. `gpu_wait`: one of GPU_WAITS. `progress` is called with a one-line status during
    slow work and with "" when the work ends. `cancelled` is polled during slow work, which stops if
    it returns True. `warn` is called with one line about anything slower than it could be. The
    callbacks run in whichever thread opens a backend or infers. Raises BackendError for a value out
    of range.
    """

    precision: str = "auto"
    threads: int = 0
    network_size: tuple[int, int] | None = None
    gpu_wait: str = "block"
    progress: Callable[[str], None] = _ignore
    cancelled: Callable[[], bool] = _never
    warn: Callable[[str], None] = logging.getLogger("sfseg_ros").warning

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BackendError(
                f"precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}"
            )
        if not 0 <= self.threads <= MOST_THREADS:
            raise BackendError(
                f"threads is {self.threads}: expected 0 (the library's choice) to {MOST_THREADS}"
            )
        if self.gpu_wait not in GPU_WAITS:
            raise BackendError(f"gpu_wait {self.gpu_wait!r}: expected {' or '.join(GPU_WAITS)}")


DEFAULT_OPTIONS = BackendOptions()


class Backend(Protocol):
    """A loaded model, made by `Class(manifest, options)`.

    Several threads may call `infer` at once: while one infers frames of a camera, another may
    prepare the backend for the image size of the next camera.
    """

    name: str
    precisions: tuple[str, ...]
    """The members of PRECISIONS that the class supports; some need a certain processor or GPU."""
    description: str
    """One line for people: library, version, precision, threads or device."""
    precision: str
    """Arithmetic of the network: a member of PRECISIONS other than "auto"."""
    reason: str
    """Why this backend was chosen: the user asked for it, or "auto" found it."""

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        """Segment a batch of images of one size.

        `rgb` is uint8 (N, H, W, 3); the manifest says which H and W are allowed. Returns labels
        uint8 (N, H, W) and, if `confidence`, the softmax probability of the winning class in
        255ths, uint8 (N, H, W), else None. The caller owns both arrays. Raises BackendError; if its
        `lost` is True, every later call raises too.
        """
        ...

    def close(self) -> None:
        """Release the model. A later `infer` raises BackendError."""
        ...


@dataclass(frozen=True)
class Inferred:
    """Results at the network's size (H, W).

    `labels` is uint8 (N, H, W). `confidence` is uint8 (N, H, W), or None if the caller did not
    ask for it. `painted` holds the requested PAINTED_IMAGES by name, uint8 (N, H, W, 3) RGB.
    """

    labels: Uint8Array
    confidence: Uint8Array | None = None
    painted: Mapping[str, Uint8Array] = field(default_factory=dict)


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend that can also run the steps before and after the network on its device.

    `takes_camera` and `applies_label_rules` report which of these steps it supports.
    """

    def takes_camera(self, camera: CameraBytes, geometry: FrameGeometry) -> bool:
        """True if `infer_frames` accepts such an image."""
        ...

    def applies_label_rules(self, size: tuple[int, int]) -> bool:
        """True if `infer_frames` can paint and apply rules other than NO_RULES for a network input
        of `size` (height, width). The call may take as long as the first `infer`."""
        ...

    def infer_frames(
        self,
        frames: Sequence[Uint8Array | tuple[CameraBytes, FrameGeometry]],
        confidence: bool,
        rules: LabelRules,
        to_paint: Collection[str],
    ) -> Inferred:
        """Segment frames of one network size, with the steps before and after the network.

        A frame is uint8 (H, W, 3) RGB, or a camera's image with the geometry that fits it to the
        network; the result then equals `infer` of `FrameGeometry.network_input`, up to the rounding
        of its resize. The labels are `rules.labels_from` of `infer`'s labels; the confidence is
        the network's. `to_paint` names PAINTED_IMAGES, which are painted from these labels and the
        network's input; they differ from `imaging` by at most one level of 255.
        """
        ...


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
