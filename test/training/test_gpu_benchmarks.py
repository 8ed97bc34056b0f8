# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmarks on the processor with tiny sizes: variants, checks and written results."""

import contextlib
import ctypes
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make test")
pytest.importorskip("onnxruntime")

import onnxruntime as ort
import torch

from benchmarks import gpu_device, gpu_kernels
from benchmarks.gpu_device import (
    Rehearsal,
    Report,
    latencies_ms,
    statistics_of,
    times_faster,
)
from benchmarks.gpu_networks import pictures
from benchmarks.torch_pipeline import KernelNetwork, TorchPipeline, folded, network_from_onnx
from sfseg_ros.backends.tensorrt.plugin import OPERATORS
from sfseg_ros.errors import BackendError
from sfseg_ros.installed_files import find_model
from sfseg_ros.kernels import cuda_memory
from sfseg_ros.kernels.overlay import overlay, overlay_launch
from sfseg_ros.model.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def device():
    try:
        return Rehearsal()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path / "result.json", 100.0)


def test_every_kernel_is_measured_and_right(device, report):
    torch.manual_seed(0)
    for case in gpu_kernels.cases(device):
        row = gpu_kernels.measured(device, report, replace_compiled(case), rounds=2)
        assert row["correct"], (case.name, row["error"])
        assert set(row["times"]) >= {"ours", *case.chains, "copy of as many bytes"}
        assert row["share_of_copy"] > 0
    assert "not_measured" not in report.found
    assert json.dumps(row)


def test_the_kernels_of_an_engine_are_among_the_measured(device):
    """An engine computes labels with confidence, which is a separate kernel."""
    measured = {case.launch.kernel for case in gpu_kernels.cases(device)}
    for operator, shapes in {
        "FlowWarp": [(1, 8, 4, 4), (1, 2, 8, 8)],
        "GatedFlowFusion": [(1, 8, 4, 4), (1, 8, 8, 8), (1, 4, 8, 8), (1, 1, 8, 8)],
        "UpsampleArgmax": [(1, 19, 8, 8)],
    }.items():
        kinds = [("HALF", "HWC8" if i == 0 else "LINEAR") for i in range(len(shapes))]
        assert OPERATORS[operator].launch_for(shapes, 1, kinds).kernel in measured


def replace_compiled(case):
    """Replaces torch.compile, which takes seconds."""
    from dataclasses import replace

    return replace(case, compiled=False)


def test_a_kernel_that_is_wrong_is_not_correct(device, report, monkeypatch):
    case = gpu_kernels.flow_warp_case(device, 1, torch.float16, "hwc")
    launch = device.launch

    def wrong(launched, inputs, outputs):
        launch(launched, inputs, outputs)
        outputs[0].mul_(1.02)

    monkeypatch.setattr(device, "launch", wrong)
    assert not gpu_kernels.measured(device, report, replace_compiled(case), 2)["correct"]
    monkeypatch.setattr(device, "launch", lambda *_: None)  # writes nothing
    assert not gpu_kernels.measured(device, report, replace_compiled(case), 2)["correct"]


def test_the_network_in_torch_with_our_kernels_has_the_labels_of_the_file(device):
    manifest = load_manifest(find_model("sfnet_lite_r18_camvid"))
    shape = (2, 64, 128, 3)
    rgb = pictures(shape)
    session = ort.InferenceSession(str(manifest.onnx_path), providers=["CPUExecutionProvider"])
    expected = session.run(["labels"], {"image": rgb})[0]
    network = KernelNetwork(device, folded(network_from_onnx(manifest.onnx_path))).half()
    segment = network.to(memory_format=torch.channels_last)
    pipeline = TorchPipeline(device, segment, shape, shape[1:3])
    labels = pipeline.infer(np.ascontiguousarray(rgb[..., ::-1]))
    assert (labels == expected).mean() > 0.995
    assert set(pipeline.device_steps()) == {
        *("upload", "camera image kernel", "network and labels", "download"),
    }


def test_a_report_is_on_disk_after_every_entry_and_names_what_failed(tmp_path):
    report = Report(tmp_path / "r.json", 0.5)
    report.add("rows", 1)
    assert json.loads(report.path.read_text()) == {"rows": [1]}

    def fails():
        raise RuntimeError("exact\nwords")

    assert report.attempt("one", fails) is None
    assert report.attempt("two", lambda: 1, needs_s=60) is None
    assert report.attempt("three", lambda: 3) == 3
    missed = json.loads(report.path.read_text())["not_measured"]
    assert missed[0] == {"what": "one", "reason": "RuntimeError: exact\nwords"}
    assert "60 s are needed" in missed[1]["reason"]


def test_statistics_and_ratios(device):
    found = statistics_of([2.0, 1.0, 3.0, 100.0], calls=2)
    assert (found["median_ms"], found["min_ms"], found["p99_ms"]) == (1.25, 0.5, 50.0)
    assert times_faster([4.0, 10.0, 9.0], [2.0, 1.0, 3.0]) == 3.0
    calls = []
    times = latencies_ms(
        device, {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 4
    )
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4}
    assert calls[:4] == ["a", "b", "b", "a"]  # they take turns at being first


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["gpu_networks", "network"],
        ["gpu_networks", "end_to_end"],
        ["gpu_machine"],
        ["gpu_kernels"],
    ],
    ids=" ".join,
)
def test_a_rehearsal_of_a_part_measures_everything_that_needs_no_gpu(command, tmp_path):
    result = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]),
            *("--rehearse", "--result", str(result), "--seconds", "600"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    for missed in found.get("not_measured", []):
        assert any(
            word in missed["what"] for word in ("TensorRT", "tensorrt", "ONNX Runtime CUDA")
        ) or (missed["what"] in ("nvidia-smi", "NVRTC", "nvcc")), missed


@pytest.fixture
def pretended_gpu(device, monkeypatch):
    """`CudaDevice` on the processor, which replaces torch.cuda and the driver: a capture records
    launches and copies, and a replay executes them."""
    capturing: list[list] = []
    clock = iter(range(10**9))

    def put(work):
        (capturing[-1].append(work) if capturing else work())

    class Graph:
        def __init__(self):
            self.works = []

        def replay(self):
            for work in self.works:
                work()

    class Capture:
        def __init__(self, graph):
            self.graph = graph

        def __enter__(self):
            capturing.append(self.graph.works)

        def __exit__(self, *_):
            capturing.pop()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def elapsed_time(self, end):
            return float(end.at - self.at)

    stream = SimpleNamespace(cuda_stream=7, wait_stream=lambda _other: None)
    properties = SimpleNamespace(L2_cache_size=1, multi_processor_count=1)
    for name, value in {
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": Capture,
        "Stream": lambda: stream,
        "stream": lambda _stream: contextlib.nullcontext(),
        "current_stream": lambda: stream,
        "synchronize": lambda: None,
        "get_device_properties": lambda _index: properties,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(gpu_device.CudaDevice, "torch_device", torch.device("cpu"))
    monkeypatch.setattr(gpu_device, "matrix_product", lambda _device: (lambda: None, 1.0))

    def launch_kernel(launch, inputs, outputs, handle):
        assert handle == 7
        at = [
            [np.ctypeslib.as_array((ctypes.c_uint8 * 1).from_address(a)) for a in side]
            for side in (inputs, outputs)
        ]
        put(lambda: device._kernels.run(launch, *at))

    def call(name, target, source, size, handle):
        assert (name[:8], handle) == ("cuMemcpy", 7)
        put(lambda: ctypes.memmove(target, source, size))

    monkeypatch.setattr(cuda_memory, "Gpu", lambda: None)
    monkeypatch.setattr(cuda_memory, "launch_kernel", launch_kernel)
    monkeypatch.setattr(cuda_memory, "call", call)
    monkeypatch.setattr(cuda_memory, "driver", lambda: SimpleNamespace(CUstream=int))
    return gpu_device.CudaDevice()


def test_on_a_gpu_work_is_captured_replayed_copied_and_timed(pretended_gpu):
    rgb = torch.randint(0, 256, (1, 8, 16, 3), dtype=torch.uint8)
    labels = torch.randint(0, 3, (1, 8, 16), dtype=torch.uint8)
    palette = torch.randint(0, 256, (256, 3), dtype=torch.uint8)
    uploaded, painted, back = (torch.zeros_like(rgb) for _ in range(3))

    def work():
        pretended_gpu.upload(uploaded, rgb)
        pretended_gpu.launch(
            overlay_launch((1, 8, 16), 0.3), [uploaded, labels, palette], [painted]
        )
        pretended_gpu.download(back, painted)

    replay = pretended_gpu.graph(work)
    rgb.copy_(rgb.flip(1))
    back.zero_()
    replay()
    expected = overlay(rgb.numpy(), labels.numpy(), palette.numpy(), 0.3)
    np.testing.assert_array_equal(back.numpy(), expected)
    times = pretended_gpu.times_ms({"a": replay, "b": replay}, rounds=5)
    assert times == {"a": [1.0] * 5, "b": [1.0] * 5}
