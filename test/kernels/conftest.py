# SPDX-License-Identifier: Apache-2.0
"""Runs a launch on guarded arrays that reveal wrong writes."""

import numpy as np
import pytest
from imitated_cuda import cuda  # noqa: F401

from sfseg_ros.kernels import host_emulation

POISON = 0xA5
GUARD_BYTES = 64


def _displaced(array, offset):
    """A copy that begins `offset` elements after a multiple of 16 bytes."""
    memory = np.zeros(array.nbytes + GUARD_BYTES + offset * array.itemsize, np.uint8)
    begin = -memory.ctypes.data % 16 + offset * array.itemsize
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture
def run_guarded():
    """See `_run_guarded`."""
    return _run_guarded


def _run_guarded(launch, inputs, shapes_and_types, offset=0):
    """The outputs of a launch into poisoned memory; fails if it writes outside of them, or if two
    runs with different poison and in opposite order differ: then some elements were not written, or
    threads depend on each other."""
    results = []
    for poison, is_reversed in ((POISON, False), (POISON ^ 0xFF, True)):
        memories, outputs = [], []
        for shape, dtype in shapes_and_types:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            memory = np.full(size + 2 * GUARD_BYTES + 16, poison, np.uint8)
            begin = GUARD_BYTES + -memory.ctypes.data % 16 + offset * np.dtype(dtype).itemsize
            memories.append((memory, begin, begin + size))
            outputs.append(memory[begin : begin + size].view(dtype).reshape(shape))
        displaced = [_displaced(array, offset) for array in inputs]
        host_emulation.kernels().run(launch, displaced, outputs, is_reversed)
        for memory, begin, end in memories:
            assert (memory[:begin] == poison).all()
            assert (memory[end:] == poison).all()
        results.append(outputs)
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first.view(np.uint8), second.view(np.uint8))
    return results[0]
