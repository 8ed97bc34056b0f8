# SPDX-License-Identifier: Apache-2.0
"""The network in torch with the kernels and CUDA graphs gives the labels of the exported file."""

import numpy as np
import pytest

from sfseg_ros.installed_files import find_model
from sfseg_ros.model.manifest import load_manifest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def parts():
    """(device, manifest, network): the released model in torch."""
    from benchmarks.gpu_device import CudaDevice
    from benchmarks.torch_pipeline import network_from_onnx

    torch.set_grad_enabled(False)
    yield (
        CudaDevice(),
        manifest := load_manifest(find_model("sfnet_lite_r18_camvid")),
        network_from_onnx(manifest.onnx_path),
    )
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("shape", [(1, 352, 480, 3), (2, 96, 160, 3)])
def test_host_picture_to_host_labels_agrees_with_onnx_runtime_in_fp32(parts, shape):
    from benchmarks.gpu_networks import pictures
    from benchmarks.torch_pipeline import KernelNetwork, TorchPipeline, folded

    device, manifest, network = parts
    rgb = pictures(shape)
    session = ort.InferenceSession(str(manifest.onnx_path), providers=["CPUExecutionProvider"])
    expected = session.run(["labels"], {"image": rgb})[0]
    segment = KernelNetwork(device, folded(network)).cuda().half()
    segment = segment.to(memory_format=torch.channels_last)
    pipeline = TorchPipeline(device, segment, shape, shape[1:3])
    labels = pipeline.infer(np.ascontiguousarray(rgb[..., ::-1]))
    assert (labels == expected).mean() > 0.995
    # Another picture replays the same graph.
    rolled = np.roll(rgb, 32, axis=2)
    expected = session.run(["labels"], {"image": rolled})[0]
    labels = pipeline.infer(np.ascontiguousarray(rolled[..., ::-1]))
    assert (labels == expected).mean() > 0.995
