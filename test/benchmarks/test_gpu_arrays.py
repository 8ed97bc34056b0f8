# SPDX-License-Identifier: Apache-2.0
"""The GPU tests of the kernels, tried without one: the processor's memory and kernels in its place.

What this shows is that they would run, and that they would see a kernel that is wrong.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("cxx_compiler")
ROOT = Path(__file__).resolve().parents[2]
PRETEND = """
import contextlib, ctypes, sys
import numpy as np, pytest
from sfseg_ros.kernels import cuda_memory
from sfseg_ros.kernels import host_emulation

on_the_processor = host_emulation.kernels()

class DeviceBuffer:
    def __init__(self, size):
        self.memory = np.empty(size + 256, np.uint8)
        self.address = self.memory.ctypes.data + -self.memory.ctypes.data % 256
    def array(self, shape):
        begin, size = self.address - self.memory.ctypes.data, int(np.prod(shape))
        return self.memory[begin : begin + size].reshape(shape)
    def free(self):
        pass

class Stream:
    handle = 1
    def upload(self, target, source, size):
        ctypes.memmove(target.address, source.address, size)
    download = upload
    def wait(self):
        pass
    def captured(self, work):
        graph = Stream()
        graph.work = work
        return graph
    def launch(self, graph):
        graph.work()
    def free(self):
        pass

class Gpu:
    pinned = memory = DeviceBuffer
    stream = Stream
    def __init__(self, wait="block"):
        pass
    def current(self):
        return contextlib.nullcontext()
    def close(self):
        pass

def at(address):
    return np.ctypeslib.as_array((ctypes.c_uint8 * 1).from_address(address))

def launch_kernel(launch, inputs, outputs, stream):
    on_the_processor.run(launch, [at(a) for a in inputs], [at(a) for a in outputs])
    if FAULT == "outside":
        at(outputs[-1] - 1)[0] ^= 1
    if FAULT == "wrong":
        at(outputs[0])[0] ^= 64

def call(name, *arguments):
    if name.startswith("cuMemcpy"):
        ctypes.memmove(*arguments)

FAULT = sys.argv[1]
cuda_memory.Gpu, cuda_memory.DeviceBuffer = Gpu, DeviceBuffer
cuda_memory.launch_kernel, cuda_memory.call = launch_kernel, call
from benchmarks import gpu_arrays
sys.exit(gpu_arrays.main(sys.argv[2:]))
"""


def pretend(fault, *arguments):
    return subprocess.run(
        [sys.executable, "-c", PRETEND, fault, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def test_the_tests_of_the_kernels_hold_there():
    done = pretend("", "--exact", "test/kernels/test_overlay.py", "test/kernels/test_warps.py")
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_the_tests_for_a_gpu_hold_there():
    files = [f"test/gpu/test_{name}.py" for name in ("kernels", "enqueue", "cuda_memory")]
    # Left out is what needs a driver's own errors, a process, or a large map's time.
    needs = (
        *("error", "failed_capture", "full_size_map", "kernel_tests_of_the_processor"),
        *("running_out_of_memory", "thousand_replays"),
    )
    done = pretend("", "-m", "gpu", *files, "-k", " and ".join(f"not {name}" for name in needs))
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(("fault", "says"), [("outside", "wrote outside"), ("wrong", "Mismatch")])
def test_a_kernel_that_is_wrong_is_seen(fault, says):
    done = pretend(fault, "-m", "gpu", "test/gpu/test_kernels.py", "-k", "checker")
    assert done.returncode == 1, done.stdout[-4000:]
    assert says in done.stdout
