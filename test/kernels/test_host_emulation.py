# SPDX-License-Identifier: Apache-2.0
"""The build for the CPU, on which the other tests of this folder rely."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import host_emulation
from sfseg_ros.kernels.flow_warp import flow_warp_launch

pytestmark = pytest.mark.usefixtures("cxx_compiler")

ROOT = Path(__file__).resolve().parents[2]
COMPARISONS = (
    "test_warps.py",
    "test_upsample_argmax.py",
    "test_camera_image.py",
    "test_overlay.py",
)


def test_every_float16_is_read_and_written_as_numpy_does():
    values = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(np.float16)
    features = values.reshape(1, -1, 1, 1)
    warped = host_emulation.flow_warp(features, np.zeros((1, 2, 1, 1), np.float32)).reshape(-1)
    np.testing.assert_array_equal(warped, values)
    number = ~np.isnan(values) & (values != 0)
    assert (warped.view(np.uint16) == values.view(np.uint16))[number].all()


def test_halves_are_rounded_as_numpy_does():
    """Blends of two neighbours that lie between two halves, on ties and beside them."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 0x7C00, (1, 20000, 1, 2)).astype(np.uint16).view(np.float16)
    pairs[:, ::2, :, 1] = np.nextafter(pairs[:, ::2, :, 0], np.float16(np.inf))
    flow = np.zeros((1, 2, 1, 1), np.float32)
    # A single pixel lies at -1, the centre of the first; a flow of 1 moves by half a pixel.
    for shift in (1.0, 0.999, 1.001, 0.3):
        flow[:, 0] = shift
        share = np.float32(shift) * np.float32(0.5)
        first, second = (pairs[..., i].astype(np.float32) for i in (0, 1))
        with np.errstate(over="ignore"):
            expected = (first * (1 - share) + second * share).astype(np.float16)
        np.testing.assert_array_equal(host_emulation.flow_warp(pairs, flow)[..., 0], expected)


def test_without_a_compiler_the_error_says_how_to_install_one(monkeypatch, tmp_path):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendError, match="install g\\+\\+ or set CXX"):
        host_emulation.HostKernels()


def test_a_compiler_that_fails_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    with pytest.raises(BackendError, match="could not compile the kernels") as error:
        host_emulation.HostKernels(("-fno-such-option",))
    assert "\n" not in str(error.value)


def test_arrays_with_gaps_are_refused():
    launch = flow_warp_launch((1, 1, 2, 2), (1, 2, 2, 2), True, "float32", "linear")
    gaps = np.zeros((1, 1, 2, 4), np.float32)[..., ::2]
    flow, output = np.zeros((1, 2, 2, 2), np.float32), np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(BackendError, match="contiguous"):
        host_emulation.kernels().run(launch, [gaps, flow], [output])


@pytest.mark.slow
def test_the_comparisons_are_clean_under_the_sanitizers():
    """An access out of bounds or undefined behaviour ends the process; numpy's arrays get red
    zones."""
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("g++ has no address sanitizer here")
    flags = "'-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'"
    program = f"""
import sys, pytest
from sfseg_ros.kernels import host_emulation
sanitized = host_emulation.HostKernels(({flags}))
host_emulation.kernels = lambda: sanitized
files = {[str(Path(__file__).parent / name) for name in COMPARISONS]!r}
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *files]))
"""
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        # Python keeps memory until it ends, and OpenCV's loops are not under test.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
