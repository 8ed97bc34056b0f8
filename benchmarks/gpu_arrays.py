# SPDX-License-Identifier: Apache-2.0
"""Run the kernels on the GPU with numpy arrays, as `kernels/host_emulation.py` does on the CPU.

Run the tests of test/kernels on the GPU:

    python -m benchmarks.gpu_arrays [--exact] PYTEST_ARGUMENT ...
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sfseg_ros.kernels import binaries, host_emulation
from sfseg_ros.kernels.cuda_memory import DeviceBuffer, Gpu, call, launch_kernel
from sfseg_ros.kernels.launch import Launch

Array = npt.NDArray[Any]

GUARD_BYTES = 256
ALIGNMENT = 16
# Products and sums are not fused, so that all kernels match the bits of their references.
EXACT = "--fmad=false"


class DeviceKernels:
    """`HostKernels` on the GPU. Arrays keep their alignment to 16 bytes, and writes around the
    outputs are detected. Close it to free the GPU."""

    def __init__(self) -> None:
        self._gpu = Gpu()
        self._fills = 0

    def run(
        self,
        launch: Launch,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        is_reversed: bool = False,
    ) -> None:
        """Run `launch` on C-contiguous arrays; it writes `outputs`.

        `is_reversed` has no effect, because the GPU chooses the order of threads. Raises
        AssertionError if the kernel wrote outside of its outputs.
        """
        with self._gpu.current():
            guarded = [_Guarded(array, self._next_fill()) for array in (*inputs, *outputs)]
            try:
                addresses = [memory.address for memory in guarded]
                launch_kernel(launch, addresses[: len(inputs)], addresses[len(inputs) :], 0)
                call("cuCtxSynchronize")
                for memory, array in zip(guarded[len(inputs) :], outputs, strict=True):
                    memory.read_into(array, launch.kernel)
            finally:
                for memory in guarded:
                    memory.free()

    def close(self) -> None:
        self._gpu.close()

    def _next_fill(self) -> int:
        self._fills = self._fills % 251 + 1
        return self._fills


class _Guarded:
    """Copy an array to the device, between two bands of `fill`."""

    def __init__(self, array: Array, fill: int) -> None:
        if not array.flags.c_contiguous:
            raise ValueError("expected contiguous arrays")
        self._begin = GUARD_BYTES + array.ctypes.data % ALIGNMENT
        self._end = self._begin + array.nbytes
        self._host = np.full(self._end + GUARD_BYTES, fill, np.uint8)
        self._host[self._begin : self._end] = array.reshape(-1).view(np.uint8)
        self._fill = fill
        self._buffer = DeviceBuffer(self._host.nbytes)
        self.address = self._buffer.address + self._begin
        call("cuMemcpyHtoD", self._buffer.address, self._host.ctypes.data, self._host.nbytes)

    def read_into(self, array: Array, kernel: str) -> None:
        call("cuMemcpyDtoH", self._host.ctypes.data, self._buffer.address, self._host.nbytes)
        for band in (self._host[: self._begin], self._host[self._end :]):
            assert (band == self._fill).all(), f"{kernel} wrote outside of its output"
        array.reshape(-1).view(np.uint8)[...] = self._host[self._begin : self._end]

    def free(self) -> None:
        self._buffer.free()


def main(arguments: list[str]) -> int:
    """Run pytest with every kernel of test/kernels on the GPU."""
    if arguments[:1] == ["--exact"]:
        arguments = arguments[1:]
        binaries.OPTIONS = (*binaries.OPTIONS, EXACT)
    kernels: Any = DeviceKernels()
    host_emulation.kernels = lambda: kernels  # type: ignore[assignment]
    try:
        return int(pytest.main(["-p", "no:cacheprovider", "-q", *arguments]))
    finally:
        kernels.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
