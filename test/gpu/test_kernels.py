# SPDX-License-Identifier: Apache-2.0
"""Every kernel on the GPU: the tests of test/kernels, and tests that only a GPU can run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_arrays import DeviceKernels
from sfseg_ros.geometry import View, geometry_of
from sfseg_ros.kernels.camera_image import NetworkInput, camera_image, camera_image_launch
from sfseg_ros.kernels.flow_warp import flow_warp, flow_warp_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion, gated_flow_fusion_launch
from sfseg_ros.kernels.overlay import color_mask, color_mask_launch, overlay, overlay_launch
from sfseg_ros.kernels.upsample_argmax import upsample_argmax, upsample_argmax_launch

ROOT = Path(__file__).resolve().parents[2]
COMPARISONS = ROOT / "test" / "kernels"
STORAGES = [
    (dtype, flow_dtype, layout)
    for layout in ("linear", "hwc")
    for dtype, flow_dtype in (
        ("float32", "float32"),
        ("float16", "float32"),
        ("float16", "float16"),
    )
]


@pytest.fixture
def kernels():
    kernels = DeviceKernels()
    yield kernels
    kernels.close()


@pytest.mark.parametrize(
    ("mode", "files"),
    [
        # The shipped warps may fuse multiply and add, so the exact comparison builds them without
        # fusing. All other kernels round each operation like the reference.
        (["--exact"], ["test_warps.py"]),
        ([], ["test_upsample_argmax.py", "test_camera_image.py", "test_overlay.py"]),
    ],
    ids=["warps, not fused", "all others, as shipped"],
)
def test_the_kernel_tests_of_the_processor_pass_on_the_gpu(mode, files):
    """Runs in a child process, because an illegal access of a kernel would fail all later tests."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_arrays", *mode, *(COMPARISONS / f for f in files)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.parametrize(("dtype", "flow_dtype", "layout"), STORAGES)
@pytest.mark.parametrize("channels", [1, 8, 19, 128])
@pytest.mark.parametrize("align_corners", [False, True])
def test_shipped_warps_match_the_reference_within_fused_rounding(
    kernels, dtype, flow_dtype, layout, channels, align_corners
):
    rng = np.random.default_rng(channels)
    small, large = (2, channels, 13, 29), (2, channels, 50, 101)
    high, low = (rng.standard_normal(shape).astype(dtype) for shape in (small, large))
    flow = (20 * rng.standard_normal((2, 4, *large[2:]))).astype(flow_dtype)
    gate = rng.random((2, 1, *large[2:])).astype(flow_dtype)
    flow[:, :, 3, 5:9] = (np.nan, np.inf, -np.inf, 60000.0)

    warped = np.full(large, np.nan, dtype)
    launch = flow_warp_launch(small, (2, 2, *large[2:]), align_corners, dtype, layout, flow_dtype)
    shift = np.ascontiguousarray(flow[:, :2])
    warped = run_maps(kernels, launch, layout, [high], [shift], large, dtype)
    assert_close(warped, flow_warp(high, shift, align_corners))

    launch = gated_flow_fusion_launch(small, large, align_corners, dtype, layout, flow_dtype)
    fused = run_maps(kernels, launch, layout, [high, low], [flow, gate], large, dtype)
    assert_close(fused, gated_flow_fusion(high, low, flow, gate, align_corners))


def test_a_full_size_map_is_correct_everywhere(kernels):
    """The map needs more blocks than the GPU runs at once; both layouts are tested."""
    rng = np.random.default_rng(0)
    high = rng.standard_normal((1, 128, 32, 64)).astype(np.float16)
    low = rng.standard_normal((1, 128, 256, 512)).astype(np.float16)
    flow = (30 * rng.standard_normal((1, 4, 256, 512))).astype(np.float16)
    gate = rng.random((1, 1, 256, 512)).astype(np.float16)
    expected = gated_flow_fusion(high, low, flow, gate)
    for layout in ("linear", "hwc"):
        launch = gated_flow_fusion_launch(high.shape, low.shape, True, "float16", layout, "float16")
        fused = run_maps(kernels, launch, layout, [high, low], [flow, gate], low.shape, "float16")
        assert_close(fused, expected)


def test_labels_at_full_size_equal_the_reference(kernels):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((1, 19, 128, 256)).astype(np.float16)
    expected, expected_confidence = upsample_argmax(scores, 4)
    padded = np.full((1, 128, 256, 24), np.nan, np.float16)
    padded[..., :19] = scores.transpose(0, 2, 3, 1)
    for layout, stored, channels in (("linear", scores, None), ("hwc", padded, 24)):
        launch = upsample_argmax_launch(
            scores.shape, 4, "float16", layout, confidence=True, padded_channels=channels
        )
        labels, confidence = (np.full(expected.shape, 0xA5, np.uint8) for _ in range(2))
        kernels.run(launch, [stored], [labels, confidence])
        np.testing.assert_array_equal(labels, expected)
        assert np.abs(confidence.astype(int) - expected_confidence).max() <= 1


def test_every_kernel_passes_the_memory_checker(kernels):
    """Small and odd sizes of each kernel, because compute-sanitizer is slow."""
    rng = np.random.default_rng(0)
    small, large = (1, 19, 5, 7), (1, 19, 18, 37)
    for dtype, flow_dtype, layout in STORAGES:
        high, low = (rng.standard_normal(shape).astype(dtype) for shape in (small, large))
        flow = (9 * rng.standard_normal((1, 4, 18, 37))).astype(flow_dtype)
        gate = rng.random((1, 1, 18, 37)).astype(flow_dtype)
        shift = np.ascontiguousarray(flow[:, :2])
        launch = flow_warp_launch(small, shift.shape, True, dtype, layout, flow_dtype)
        warped = run_maps(kernels, launch, layout, [high], [shift], large, dtype)
        assert_close(warped, flow_warp(high, shift))
        launch = gated_flow_fusion_launch(small, large, True, dtype, layout, flow_dtype)
        fused = run_maps(kernels, launch, layout, [high, low], [flow, gate], large, dtype)
        assert_close(fused, gated_flow_fusion(high, low, flow, gate))
        for confidence in (False, True):
            expected = upsample_argmax(low, 3)[: 1 + confidence]
            launch = upsample_argmax_launch(low.shape, 3, dtype, layout, confidence)
            outputs = [np.zeros_like(array) for array in expected]
            kernels.run(launch, [stored(low, layout)], outputs)
            np.testing.assert_array_equal(outputs[0], expected[0])
    data = rng.integers(0, 256, 33 * 47 * 3, np.uint8)
    for network in ((33, 47), (16, 24), (40, 60)):
        geometry = geometry_of((33, 47), View(fit="letterbox"), lambda _area, to=network: to)
        arguments = ("bgr8", 47 * 3, geometry, False, NetworkInput("float16", "hwc"))
        image = np.zeros((1, *network, 3), np.float16)
        kernels.run(camera_image_launch(*arguments), [data], [image])
        np.testing.assert_array_equal(image, camera_image(data.tobytes(), *arguments))
    rgb, labels = data.reshape(1, 33, 47, 3), data[: 33 * 47].reshape(1, 33, 47)
    palette = rng.integers(0, 256, (256, 3), np.uint8)
    painted, mask = np.zeros_like(rgb), np.zeros_like(rgb)
    kernels.run(overlay_launch(labels.shape, 0.4), [rgb, labels, palette], [painted])
    np.testing.assert_array_equal(painted, overlay(rgb, labels, palette, 0.4))
    kernels.run(color_mask_launch(labels.shape), [labels, palette], [mask])
    np.testing.assert_array_equal(mask, color_mask(labels, palette))


def stored(array, layout):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if layout == "hwc" else array)


def run_maps(kernels, launch, layout, maps, linear, shape, dtype):
    """Run on maps in `layout` and arrays that are always linear; return (N, C, H, W) of `shape`."""
    output = np.full(stored(np.empty(shape), layout).shape, np.nan, dtype)
    kernels.run(launch, [*(stored(array, layout) for array in maps), *linear], [output])
    return output.transpose(0, 3, 1, 2) if layout == "hwc" else output


def assert_close(found, expected):
    """Compare values of about 1 within their last bits: 5 of float32, 1 of float16."""
    assert found.dtype == expected.dtype
    limit = 2.0**-9 if found.dtype == np.float16 else 5 * 2.0**-22
    np.testing.assert_allclose(
        found.astype(np.float64), expected.astype(np.float64), rtol=limit, atol=limit
    )
