# SPDX-License-Identifier: Apache-2.0
"""Run the kernels' device code on the CPU: compiled by a C++ compiler, on numpy arrays.

There is one function per kernel, with the arguments of its reference plus `layout`. Arithmetic,
indices and bounds are those of the GPU. Slow; for tests, and to try a change without a GPU.
"""

import ctypes
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BackendError
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import ByteBuffer, FloatArray, Uint8Array
from sfseg_ros.kernels.binaries import SOURCES, cached
from sfseg_ros.kernels.camera_image import UINT8_HWC, NetworkInput, camera_image_launch
from sfseg_ros.kernels.flow_warp import flow_warp_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion_launch
from sfseg_ros.kernels.launch import Launch
from sfseg_ros.kernels.overlay import color_mask_launch, overlay_launch
from sfseg_ros.kernels.upsample_argmax import upsample_argmax_launch

Array = npt.NDArray[Any]

# No fused multiply-add: host_shim.h relies on it.
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


class HostKernels:
    """All kernels, compiled for this processor by `$CXX` or g++.

    `flags` are added to FLAGS. The user's cache keeps one binary per set of flags. Raises
    BackendError if there is no compiler or if it fails.
    """

    def __init__(self, flags: Sequence[str] = ()) -> None:
        arguments = (*FLAGS, *flags)
        path, _ = cached("host.so", arguments, lambda: _compiled(arguments))
        self._library = ctypes.CDLL(str(path))
        # The library keeps the index of the running block in global variables.
        self._lock = threading.Lock()

    def run(
        self,
        launch: Launch,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        is_reversed: bool = False,
    ) -> None:
        """Run `launch` on C-contiguous arrays, which writes `outputs`.

        Blocks run one after the other, and so do threads between two barriers. `is_reversed` starts
        with the last, which changes the result only if they depend on each other.
        """
        for array in (*inputs, *outputs):
            if not array.flags.c_contiguous:
                raise BackendError(f"{launch.kernel}: expected contiguous arrays")
        kernel = getattr(self._library, launch.kernel)
        arguments = [
            *(ctypes.c_void_p(array.ctypes.data) for array in inputs),
            *(
                ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int(value)
                for value in launch.scalars
            ),
            *(ctypes.c_void_p(array.ctypes.data) for array in outputs),
        ]
        with self._lock:
            self._library.sfseg_host_block_size(*launch.block)
            self._library.sfseg_host_reverse(ctypes.c_bool(is_reversed))
            blocks = [*itertools.product(*(range(size) for size in reversed(launch.grid)))]
            for z, y, x in blocks[::-1] if is_reversed else blocks:
                self._library.sfseg_host_block(x, y, z)
                kernel(*arguments)


@functools.lru_cache(maxsize=1)
def kernels() -> HostKernels:
    """Return the kernels that the functions below run. Compiles them at first use."""
    return HostKernels()


def flow_warp(
    features: FloatArray, flow: FloatArray, align_corners: bool = True, layout: str = "linear"
) -> FloatArray:
    """See `sfseg_ros.kernels.flow_warp.flow_warp`. `layout` is the kernel's layout in memory;
    arrays are (N, C, H, W) for both layouts."""
    launch = flow_warp_launch(
        features.shape, flow.shape, align_corners, str(features.dtype), layout, str(flow.dtype)
    )
    shape = (*features.shape[:2], *flow.shape[2:])
    return _map_by(launch, layout, [features], [flow], shape)


def gated_flow_fusion(
    high: FloatArray,
    low: FloatArray,
    flow: FloatArray,
    gate: FloatArray,
    align_corners: bool = True,
    layout: str = "linear",
) -> FloatArray:
    """See `sfseg_ros.kernels.gated_flow_fusion.gated_flow_fusion`. `layout` is the kernel's layout
    in memory; arrays are (N, C, H, W) for both layouts."""
    launch = gated_flow_fusion_launch(
        high.shape, low.shape, align_corners, str(high.dtype), layout, str(flow.dtype)
    )
    n, _, height, width = low.shape
    _expect("low", low, low.shape, high.dtype)
    _expect("flow", flow, (n, 4, height, width), flow.dtype)
    _expect("gate", gate, (n, 1, height, width), flow.dtype)
    return _map_by(launch, layout, [high, low], [flow, gate], low.shape)


def upsample_argmax(
    scores: FloatArray,
    stride: int,
    threshold: int = 0,
    remap: Uint8Array | None = None,
    layout: str = "linear",
    confidence: bool = True,
) -> tuple[Uint8Array, Uint8Array | None]:
    """See `sfseg_ros.kernels.upsample_argmax.upsample_argmax`. `layout` is the kernel's layout
    in memory; arrays are (N, C, h, w) for both layouts. Without `confidence`, runs the shorter
    kernel and returns None in its place."""
    launch = upsample_argmax_launch(
        scores.shape,
        stride,
        str(scores.dtype),
        layout,
        confidence,
        threshold,
        remap=remap is not None,
    )
    if remap is not None:
        _expect("remap", remap, (256,), np.dtype(np.uint8))
    n, _, h, w = scores.shape
    outputs = [np.empty((n, h * stride, w * stride), np.uint8) for _ in range(1 + confidence)]
    tables = [] if remap is None else [np.ascontiguousarray(remap)]
    kernels().run(launch, [_stored(scores, layout), *tables], outputs)
    return outputs[0], outputs[1] if confidence else None


def camera_image(
    data: ByteBuffer,
    encoding: str,
    step: int,
    geometry: FrameGeometry,
    is_bigendian: bool = False,
    made: NetworkInput = UINT8_HWC,
) -> Array:
    """See `sfseg_ros.kernels.camera_image.camera_image`."""
    launch = camera_image_launch(encoding, step, geometry, is_bigendian, made)
    samples = np.frombuffer(data, np.uint8)
    _expect("data", samples, (step * geometry.image_size[0],), np.dtype(np.uint8))
    size = geometry.network_size
    image = np.empty((1, *size, 3) if made.layout == "hwc" else (1, 3, *size), made.dtype)
    kernels().run(launch, [samples], [image])
    return image


def color_mask(labels: Uint8Array, palette_rgb: Uint8Array) -> Uint8Array:
    """See `sfseg_ros.kernels.overlay.color_mask`."""
    launch = color_mask_launch(labels.shape)
    return _painted(launch, [labels], palette_rgb)


def overlay(
    rgb: Uint8Array, labels: Uint8Array, palette_rgb: Uint8Array, alpha: float
) -> Uint8Array:
    """See `sfseg_ros.kernels.overlay.overlay`."""
    launch = overlay_launch(labels.shape, alpha)
    _expect("rgb", rgb, (*labels.shape, 3), np.dtype(np.uint8))
    return _painted(launch, [rgb, labels], palette_rgb)


def _painted(launch: Launch, images: Sequence[Uint8Array], palette_rgb: Uint8Array) -> Uint8Array:
    labels = images[-1]
    _expect("labels", labels, labels.shape, np.dtype(np.uint8))
    _expect("palette", palette_rgb, (256, 3), np.dtype(np.uint8))
    painted = np.empty((*labels.shape, 3), np.uint8)
    inputs = [np.ascontiguousarray(array) for array in (*images, palette_rgb)]
    kernels().run(launch, inputs, [painted])
    return painted


def _map_by(
    launch: Launch,
    layout: str,
    maps: Sequence[FloatArray],
    linear: Sequence[FloatArray],
    shape: tuple[int, ...],
) -> FloatArray:
    """Return the (N, C, H, W) array that a kernel makes from `maps` in `layout` and from `linear`
    maps."""
    n, channels, height, width = shape
    dtype = maps[0].dtype
    stored = (n, height, width, channels) if layout == "hwc" else shape
    output = np.empty(stored, dtype)
    inputs = [_stored(array, layout) for array in maps]
    kernels().run(launch, inputs + [_stored(array, "linear") for array in linear], [output])
    return np.ascontiguousarray(output.transpose(0, 3, 1, 2)) if layout == "hwc" else output


def _stored(array: FloatArray, layout: str) -> FloatArray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if layout == "hwc" else array)


def _expect(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise BackendError(f"{name} is {array.dtype} {array.shape}, expected {dtype} {shape}")


def _compiled(arguments: Sequence[str]) -> bytes:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise BackendError("no C++ compiler for the kernels: install g++ or set CXX to another")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "host.so"
        command = [
            *(compiler, *arguments, "-shared", "-fPIC", "-x", "c++"),
            *(str(SOURCES / "all.cu"), "-o", str(library)),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[0]
            raise BackendError(f"{compiler} could not compile the kernels: {reason}")
        return library.read_bytes()
