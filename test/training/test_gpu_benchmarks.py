# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmarks on the processor, tiny: their ways, their checks and what they write down."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make test")
pytest.importorskip("onnxruntime")

import onnxruntime as ort
import torch

from benchmarks import gpu_kernels
from benchmarks.gpu_device import (
    Rehearsal,
    Report,
    latencies_ms,
    statistics_of,
    times_faster,
)
from benchmarks.gpu_networks import pictures
from benchmarks.torch_pipeline import KernelNetwork, TorchPipeline, folded, network_from_onnx
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels.plugin import OPERATORS
from sfseg_ros.manifest import load_manifest
from sfseg_ros.share import find_model

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
        assert ("targets" in row) == case.judged
    assert "not_measured" not in report.found
    assert json.dumps(row)


def test_the_kernels_of_an_engine_are_among_the_measured(device):
    """An engine's labels come with their confidence, which is a kernel of its own."""
    measured = {case.launch.kernel for case in gpu_kernels.cases(device)}
    for operator, shapes in {
        "FlowWarp": [(1, 8, 4, 4), (1, 2, 8, 8)],
        "GatedFlowFusion": [(1, 8, 4, 4), (1, 8, 8, 8), (1, 4, 8, 8), (1, 1, 8, 8)],
        "UpsampleArgmax": [(1, 19, 8, 8)],
    }.items():
        kinds = [("HALF", "HWC8" if i == 0 else "LINEAR") for i in range(len(shapes))]
        assert OPERATORS[operator].launch_for(shapes, 1, kinds).kernel in measured


def replace_compiled(case):
    """Without torch.compile, which takes seconds."""
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
