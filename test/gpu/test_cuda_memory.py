# SPDX-License-Identifier: Apache-2.0
"""The driver layer on the real driver: graphs, their replay and re-capture, lost contexts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sfseg_ros.kernels.cuda_memory import CudaError, launch_kernel
from sfseg_ros.kernels.overlay import color_mask, color_mask_launch
from sfseg_ros.kernels.upsample_argmax import upsample_argmax, upsample_argmax_launch

ROOT = Path(__file__).resolve().parents[2]


class MaskPipeline:
    """Labels in pinned memory to colours in pinned memory: upload, kernel, download."""

    def __init__(self, gpu, shape, palette):
        self.shape, self.pixels = shape, int(np.prod(shape))
        self.stream = gpu.stream()
        self.labels, self.mask = gpu.pinned(self.pixels), gpu.pinned(3 * self.pixels)
        self.device_labels, self.device_mask = gpu.memory(self.pixels), gpu.memory(3 * self.pixels)
        self.palette, host = gpu.memory(768), gpu.pinned(768)
        host.array((256, 3))[...] = palette
        self.stream.upload(self.palette, host, 768)
        self.stream.wait()
        self.owned = [host, self.labels, self.mask, self.device_labels, self.device_mask]
        self.owned += [self.palette, self.stream]

    def work(self):
        self.stream.upload(self.device_labels, self.labels, self.pixels)
        inputs = [self.device_labels.address, self.palette.address]
        launch = color_mask_launch(self.shape)
        launch_kernel(launch, inputs, [self.device_mask.address], self.stream.handle)
        self.stream.download(self.mask, self.device_mask, 3 * self.pixels)

    def run(self, labels, graph=None):
        self.labels.array(self.shape)[...] = labels
        if graph is None:
            self.work()
        else:
            self.stream.launch(graph)
        self.stream.wait()
        return self.mask.array((*self.shape, 3)).copy()

    def free(self):
        for owned in self.owned:
            owned.free()


@pytest.mark.parametrize("wait", ["block", "spin"])
def test_a_graph_replays_with_new_labels_and_is_captured_again_for_a_new_size(wait):
    from sfseg_ros.kernels.cuda_memory import Gpu

    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (256, 3), np.uint8)
    gpu = Gpu(wait=wait)
    try:
        with gpu.current():
            for shape in ((1, 33, 65), (4, 16, 16), (1, 33, 65)):
                pipeline = MaskPipeline(gpu, shape, palette)
                first = rng.integers(0, 256, shape, np.uint8)
                np.testing.assert_array_equal(pipeline.run(first), color_mask(first, palette))
                graph = pipeline.stream.captured(pipeline.work)
                for _ in range(3):
                    labels = rng.integers(0, 256, shape, np.uint8)
                    np.testing.assert_array_equal(
                        pipeline.run(labels, graph), color_mask(labels, palette)
                    )
                graph.free()
                pipeline.free()
    finally:
        gpu.close()


def test_a_failed_capture_raises_an_error_and_the_stream_stays_usable(gpu):
    palette = np.arange(768, dtype=np.uint8).reshape(256, 3)
    pipeline = MaskPipeline(gpu, (1, 8, 8), palette)
    labels = np.full((1, 8, 8), 7, np.uint8)
    pipeline.run(labels)  # loads the kernels

    def forbidden():
        pipeline.work()
        pipeline.stream.wait()

    with pytest.raises(CudaError, match="CAPTURE"):
        pipeline.stream.captured(forbidden)
    np.testing.assert_array_equal(pipeline.run(labels), color_mask(labels, palette))
    pipeline.free()


def test_a_thousand_replays_give_the_same_results(gpu):
    """Replays the graph of a kernel with two outputs, which are overwritten before each replay."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((2, 11, 24, 40)).astype(np.float16)
    labels, confidence = upsample_argmax(scores, 4)
    stream, host = gpu.stream(), gpu.pinned(max(scores.nbytes, labels.nbytes))
    source, targets = gpu.memory(scores.nbytes), [gpu.memory(labels.nbytes) for _ in range(2)]
    host.array((scores.nbytes,))[...] = scores.reshape(-1).view(np.uint8)
    stream.upload(source, host, scores.nbytes)
    launch = upsample_argmax_launch(scores.shape, 4, "float16", "linear", confidence=True)
    addresses = [target.address for target in targets]

    def work():
        launch_kernel(launch, [source.address], addresses, stream.handle)

    work()
    graph = stream.captured(work)
    for _ in range(1000):
        stream.launch(graph)
    for target, expected in zip(targets, (labels, confidence), strict=True):
        stream.download(host, target, labels.nbytes)
        stream.wait()
        found = host.array(labels.shape)
        assert np.abs(found.astype(int) - expected).max() <= (expected is confidence)
    for owned in (graph, source, *targets, host, stream):
        owned.free()


LOSE_THE_CONTEXT = """
import numpy as np
from sfseg_ros.kernels.cuda_memory import CudaError, Gpu, launch_kernel
from sfseg_ros.kernels.overlay import color_mask_launch

def mask(gpu, address):
    with gpu.current():
        stream = gpu.stream()
        labels, colours = gpu.memory(4096), gpu.memory(3 * 4096)
        launch = color_mask_launch((1, 64, 64))
        launch_kernel(launch, [address or labels.address, labels.address], [colours.address],
                      stream.handle)
        stream.wait()

gpu = Gpu()
mask(gpu, 0)
try:
    mask(gpu, 4096)  # an unmapped address
except CudaError as error:
    print("first:", error.name, bool(error.lost), bool(gpu.lost))
try:
    with gpu.current():
        gpu.memory(16)
except CudaError as error:
    print("second:", error.name)
gpu.close()
again = Gpu()
mask(again, 0)
again.close()
print("recovered")
"""


def test_after_a_device_error_a_new_gpu_works():
    """Runs in a child process, because the error invalidates the context for all its users."""
    done = subprocess.run(
        [sys.executable, "-c", LOSE_THE_CONTEXT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0] == "first: CUDA_ERROR_ILLEGAL_ADDRESS True True", lines
    assert lines[-1] == "recovered", lines


def test_running_out_of_memory_is_reported_and_loses_nothing(gpu):
    with pytest.raises(CudaError, match="OUT_OF_MEMORY") as error:
        gpu.memory(2**46)
    assert not error.value.lost
    gpu.memory(2**20).free()
