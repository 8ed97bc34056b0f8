# SPDX-License-Identifier: Apache-2.0
"""The build for GPUs, which needs a compiler but no GPU: all kernels compile and none spills."""

import importlib
import re
import shutil
import sys
import threading

import numpy as np
import pytest

from sfseg_ros.errors import BackendError
from sfseg_ros.geometry import View, geometry_of
from sfseg_ros.imaging import ENCODINGS
from sfseg_ros.kernels import binaries
from sfseg_ros.kernels.camera_image import NetworkInput, camera_image_launch
from sfseg_ros.kernels.flow_warp import flow_warp_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion_launch
from sfseg_ros.kernels.overlay import color_mask_launch, overlay_launch
from sfseg_ros.kernels.upsample_argmax import upsample_argmax_launch


def has_nvrtc():
    try:
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception:
        return False
    return True


needs_compiler = pytest.mark.skipif(
    not has_nvrtc() and shutil.which("nvcc") is None,
    reason="neither NVRTC (pip install cuda-bindings nvidia-cuda-nvrtc) nor nvcc",
)
SPILLS = re.compile(
    r"Function properties for (\w+)\s*\n?.*?(\d+) bytes stack frame, (\d+) bytes spill"
)


def all_launches():
    """One launch of every kernel."""
    storages = [("float32", "float32"), ("float16", "float32"), ("float16", "float16")]
    for layout in ("linear", "hwc"):
        for dtype, flow_dtype in storages:
            common = (True, dtype, layout, flow_dtype)
            yield flow_warp_launch((1, 8, 2, 2), (1, 2, 4, 4), *common)
            yield gated_flow_fusion_launch((1, 8, 2, 2), (1, 8, 4, 4), *common)
        for dtype in ("float32", "float16"):
            for confidence in (False, True):
                for remap in (False, True):
                    yield upsample_argmax_launch(
                        (1, 8, 2, 2), 4, dtype, layout, confidence, remap=remap
                    )
    geometry = geometry_of((4, 4), View(), lambda area: area)
    for encoding in ENCODINGS:
        yield camera_image_launch(encoding, 32, geometry)
        for layout in ("linear", "hwc"):
            for dtype in ("float32", "float16"):
                yield camera_image_launch(encoding, 32, geometry, made=NetworkInput(dtype, layout))
    yield color_mask_launch((1, 4, 4))
    yield overlay_launch((1, 4, 4), 0.5)


def assert_fits(cubin, log):
    """Every launch has its kernel, and no kernel uses the stack."""
    assert cubin[:4] == b"\x7fELF"
    frames = SPILLS.findall(log)
    compiled = {name for name, *_ in frames}
    assert compiled == {launch.kernel for launch in all_launches()}
    assert [frame for frame in frames if frame[1:] != ("0", "0")] == []
    for name in compiled:
        assert name.encode() in cubin


@needs_compiler
def test_every_kernel_of_every_launch_compiles_for_an_h200_without_spills():
    assert_fits(*binaries.compiled_with_log(90))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("architecture", binaries.ARCHITECTURES)
def test_every_architecture_compiles_without_spills(architecture):
    assert_fits(*binaries.compiled_with_log(architecture))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.slow
@pytest.mark.parametrize("architecture", [75, 90, 121])
def test_nvcc_compiles_without_spills_too(architecture, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    assert_fits(*binaries.compiled_with_log(architecture))


def test_the_cache_is_keyed_by_source_and_arguments(monkeypatch, tmp_path):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    made = []

    def make():
        made.append(len(made))
        return bytes(made)

    first = binaries.cached("a.bin", ["-x"], make)
    assert binaries.cached("a.bin", ["-x"], make) == first
    assert made == [0]
    assert binaries.cached("a.bin", ["-y"], make) != first
    monkeypatch.setattr(binaries, "source_digest", lambda: "another")
    assert binaries.cached("a.bin", ["-x"], make) != first
    assert made == [0, 1, 2]
    assert first[0].read_bytes() == first[1] == bytes([0])
    assert all(path.suffix == ".bin" for path in tmp_path.rglob("*") if path.is_file())


def test_many_may_fill_the_cache_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    barrier = threading.Barrier(8)
    content = np.random.default_rng(0).bytes(1 << 20)
    seen = []

    def fill():
        barrier.wait()
        seen.append(binaries.cached("a.bin", [], lambda: content)[1])

    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [content] * 8


@pytest.mark.parametrize("damage", [b"", b"cubi", b"cubin!", b"other"])
def test_a_damaged_binary_is_compiled_again(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return b"cubin"

    path, _ = binaries.cached("sm_90.cubin", [], make)
    path.write_bytes(damage)
    assert binaries.cached("sm_90.cubin", [], make) == (path, b"cubin")
    assert path.read_bytes() == b"cubin"
    assert len(made) == 2
    assert binaries.cached("sm_90.cubin", [], make) == (path, b"cubin")
    assert len(made) == 2


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_binary_that_another_user_could_have_written_is_not_used(monkeypatch, tmp_path, place):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    path, _ = binaries.cached("sm_90.cubin", [], lambda: b"cubin")
    (path if place == "file" else path.parent).chmod(0o777)
    with pytest.raises(BackendError, match="can be written by other users"):
        binaries.cached("sm_90.cubin", [], pytest.fail)


def test_a_link_to_a_binary_is_not_followed(monkeypatch, tmp_path):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path / "cache"))
    path, _ = binaries.cached("sm_90.cubin", [], lambda: b"cubin")
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    with pytest.raises(BackendError, match="is a symbolic link"):
        binaries.cached("sm_90.cubin", [], pytest.fail)


def test_a_cache_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    (tmp_path / "kernels").write_text("a file where a folder is needed")
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    with pytest.raises(BackendError, match="set SFSEG_CACHE_DIR"):
        binaries.cached("a.bin", [], lambda: b"")


def test_the_digest_is_that_of_the_sources(monkeypatch, tmp_path):
    copy = shutil.copytree(
        binaries.SOURCES, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__")
    )
    digest = binaries.source_digest()
    try:
        monkeypatch.setattr(binaries, "SOURCES", copy)
        binaries.source_digest.cache_clear()
        assert binaries.source_digest() == digest
        with (copy / "overlay.cu").open("a") as file:
            file.write("\n")
        binaries.source_digest.cache_clear()
        assert binaries.source_digest() != digest
    finally:
        binaries.source_digest.cache_clear()


@pytest.mark.parametrize("architecture", [70, 88, 900])
def test_an_unknown_architecture_names_the_known(architecture):
    with pytest.raises(BackendError, match=r"7\.5, 8\.0, 8\.6, 8\.7, 8\.9, 9\.0"):
        binaries.compiled(architecture)


def test_no_compiler_names_both_ways_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(BackendError) as error:
        binaries.compiled(90)
    assert "pip install cuda-bindings nvidia-cuda-nvrtc" in str(error.value)
    assert "nvcc" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_source_that_does_not_compile_is_named_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "all.cu").write_text("__global__ void f() { nothing; }")
    monkeypatch.setattr(binaries, "SOURCES", tmp_path)
    if not has_nvrtc() and shutil.which("nvcc") is None:
        pytest.skip("no compiler")
    with pytest.raises(BackendError, match='"nothing" is undefined') as error:
        binaries.compiled_with_log(90)
    assert "\n" not in str(error.value)
