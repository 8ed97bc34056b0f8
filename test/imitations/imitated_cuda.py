# SPDX-License-Identifier: Apache-2.0
"""A CUDA driver in plain Python, as strict as its documentation.

Work runs only when a caller waits for it. Freed memory must not be touched. A capture refuses what
a real capture refuses. Calls need a current context in their thread. Where the real driver has
undefined behaviour, the imitation raises AssertionError; where the real driver returns an error,
the imitation returns that error. `test_cuda_memory.py` compares names and arguments with the real
bindings.
"""

import ctypes
import enum
import threading
import types

import numpy as np
import pytest

from sfseg_ros.kernels import cuda_memory


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_ECC_UNCORRECTABLE = 214
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class ContextFlags(enum.IntEnum):
    CU_CTX_SCHED_SPIN = 1
    CU_CTX_SCHED_BLOCKING_SYNC = 4
    CU_CTX_SCHED_MASK = 7


class EventFlags(enum.IntEnum):
    CU_EVENT_BLOCKING_SYNC = 1
    CU_EVENT_DISABLE_TIMING = 2


class StreamFlags(enum.IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class CaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class Attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class FakeStream:
    def __init__(self):
        self.waiting = []  # functions, in order
        self.capture = None  # the list that a capture fills
        self.spoilt = False


class FakeCuda:
    """`cuda.bindings.driver`. `fail[name]` is the next result of that function."""

    CUresult, CUctx_flags, CUevent_flags = Result, ContextFlags, EventFlags
    CUstream_flags, CUstreamCaptureMode, CUdevice_attribute = StreamFlags, CaptureMode, Attribute

    def __init__(self):
        self.fail = {}
        self.devices, self.flags, self.event_flags = 1, 0, None
        self.retained = 0
        self.resets = 0  # of the primary context
        self.sticky = Result.CUDA_SUCCESS
        self.memory, self.host, self.streams, self.events, self.graphs = {}, {}, {}, {}, {}
        self.execs, self.modules, self.functions = {}, {}, {}
        self.kernels = {}  # name -> function(addresses as ints..., scalars), for cuLaunchKernel
        self._next = 0x1000
        self._stack = threading.local()
        self._one_at_a_time = threading.RLock()
        self.CUstream = int

    # Queries of the tests.

    def pinned_and_device_memory(self):
        return len(self.host), len(self.memory)

    def everything_is_freed(self):
        kinds = (self.memory, self.host, self.streams, self.events, self.graphs, self.execs)
        return not any(kinds) and not self.modules and self.retained == 0

    # Rules.

    def __getattribute__(self, name):
        value = object.__getattribute__(self, name)
        if not name.startswith("cu"):
            return value

        def checked(*arguments):
            failure = self.fail.pop(name, None)
            if failure is not None:
                if failure >= 700 and failure < 900:
                    self.sticky = failure
                return (failure,) + (None,) * (name in ("cuMemAlloc", "cuGraphInstantiate"))
            free_of_context = ("cuGetError", "cuInit", "cuDevice", "cuCtxP", "cuCtxGet")
            if not name.startswith(free_of_context):
                if self._current() is None:
                    return (Result.CUDA_ERROR_INVALID_CONTEXT, None)
                if self.sticky:
                    return (self.sticky, None)
            with self._one_at_a_time:
                return value(*arguments)

        return checked

    def _current(self):
        stack = getattr(self._stack, "contexts", [])
        return stack[-1] if stack else None

    def _handle(self, table, value):
        self._next += 0x1000
        table[self._next] = value
        return self._next

    def _stream(self, handle):
        assert handle in self.streams, "a stream that was destroyed"
        return self.streams[handle]

    def put(self, handle, work):
        """Queue a library's work: for later, or in the capture."""
        stream = self._stream(handle)
        (stream.waiting if stream.capture is None else stream.capture).append(work)

    def spoil_captures(self):
        """A call that must not be made during a capture."""
        capturing = [s for s in self.streams.values() if s.capture is not None]
        for stream in capturing:
            if stream.thread == threading.get_ident():
                stream.spoilt = True
                return True
        return False

    def device_array(self, address, size, dtype=np.uint8):
        """A view of device memory; the range must be inside one allocation."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + block.size:
                return block.data[address - start :][:size].view(dtype)
        raise AssertionError(f"{size} bytes at {address:#x} are not device memory")

    # The driver.

    def cuGetErrorName(self, status):
        return Result.CUDA_SUCCESS, Result(status).name.encode()

    def cuGetErrorString(self, status):
        return Result.CUDA_SUCCESS, b"as the driver says it"

    def cuInit(self, flags):
        assert flags == 0
        return (Result.CUDA_SUCCESS if self.devices else Result.CUDA_ERROR_NO_DEVICE,)

    def cuDeviceGet(self, index):
        assert index < self.devices
        return Result.CUDA_SUCCESS, index

    def cuDeviceGetName(self, length, device):
        return Result.CUDA_SUCCESS, b"Pretend 1000".ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute, device):
        major = attribute == Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        return Result.CUDA_SUCCESS, 8 if major else 7

    def cuDevicePrimaryCtxGetState(self, device):
        return Result.CUDA_SUCCESS, self.flags, int(self.retained > 0)

    def cuDevicePrimaryCtxSetFlags(self, device, flags):
        self.flags = int(flags)
        return (Result.CUDA_SUCCESS,)

    def cuDevicePrimaryCtxRetain(self, device):
        self.retained += 1
        return Result.CUDA_SUCCESS, 0xC0 + self.resets

    def cuDevicePrimaryCtxRelease(self, device):
        self.retained -= 1
        assert self.retained >= 0, "released more often than retained"
        return (Result.CUDA_SUCCESS,)

    def cuDevicePrimaryCtxReset(self, device):
        self.resets += 1
        self.sticky = Result.CUDA_SUCCESS
        for table in (self.memory, self.host, self.streams, self.events, self.graphs, self.execs):
            table.clear()
        self.modules.clear()
        return (Result.CUDA_SUCCESS,)

    def cuCtxPushCurrent(self, context):
        if not hasattr(self._stack, "contexts"):
            self._stack.contexts = []
        self._stack.contexts.append(context)
        return (Result.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self):
        return Result.CUDA_SUCCESS, self._stack.contexts.pop()

    def cuCtxGetCurrent(self):
        return Result.CUDA_SUCCESS, self._current() or 0

    def cuCtxGetDevice(self):
        return Result.CUDA_SUCCESS, 0

    def cuMemHostAlloc(self, size, flags):
        if self.spoil_captures():
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        block = ctypes.create_string_buffer(size)
        self.host[ctypes.addressof(block)] = block
        return Result.CUDA_SUCCESS, ctypes.addressof(block)

    def cuMemFreeHost(self, address):
        assert address in self.host, "host memory freed twice"
        del self.host[address]
        return (Result.CUDA_SUCCESS,)

    def cuMemAlloc(self, size):
        if self.spoil_captures():
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        assert size > 0
        # Filled with garbage, as on a device.
        data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
        address = self._handle(self.memory, types.SimpleNamespace(size=size, data=data))
        self._next += size // 0x1000 * 0x1000  # the next block begins behind this one
        return Result.CUDA_SUCCESS, address

    def cuMemFree(self, address):
        assert address in self.memory, "device memory freed twice"
        del self.memory[address]
        return (Result.CUDA_SUCCESS,)

    def _host_array(self, address, size):
        for start, block in self.host.items():
            if start <= address and address + size <= start + len(block):
                return np.frombuffer(block, np.uint8)[address - start :][:size]
        raise AssertionError(f"{size} bytes at {address:#x} are not pinned memory")

    def cuMemcpyHtoDAsync(self, target, source, size, stream):
        def copy():
            self.device_array(target, size)[:] = self._host_array(source, size)

        self.put(stream, copy)
        return (Result.CUDA_SUCCESS,)

    def cuMemcpyDtoHAsync(self, target, source, size, stream):
        def copy():
            self._host_array(target, size)[:] = self.device_array(source, size)

        self.put(stream, copy)
        return (Result.CUDA_SUCCESS,)

    def cuStreamCreate(self, flags):
        return Result.CUDA_SUCCESS, self._handle(self.streams, FakeStream())

    def cuStreamDestroy(self, stream):
        assert not self._stream(stream).waiting, "destroyed with work in it"
        del self.streams[stream]
        return (Result.CUDA_SUCCESS,)

    def cuEventCreate(self, flags):
        self.event_flags = flags
        return Result.CUDA_SUCCESS, self._handle(self.events, None)

    def cuEventDestroy(self, event):
        del self.events[event]
        return (Result.CUDA_SUCCESS,)

    def cuEventRecord(self, event, stream):
        assert event in self.events
        self.events[event] = (stream, len(self._stream(stream).waiting))
        return (Result.CUDA_SUCCESS,)

    def cuEventSynchronize(self, event):
        if self.spoil_captures():
            return (Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        stream, count = self.events[event]
        waiting = self._stream(stream).waiting
        for _ in range(count):
            waiting.pop(0)()
            if self.sticky:
                waiting.clear()
                return (self.sticky,)
        self.events[event] = (stream, 0)
        return (Result.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream, mode):
        assert mode == CaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        found = self._stream(stream)
        assert found.capture is None
        found.capture, found.spoilt, found.thread = [], False, threading.get_ident()
        return (Result.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream):
        found = self._stream(stream)
        assert found.capture is not None
        work, found.capture = found.capture, None
        if found.spoilt:
            return Result.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        return Result.CUDA_SUCCESS, self._handle(self.graphs, work)

    def cuGraphInstantiate(self, graph, flags):
        return Result.CUDA_SUCCESS, self._handle(self.execs, list(self.graphs[graph]))

    def cuGraphDestroy(self, graph):
        del self.graphs[graph]
        return (Result.CUDA_SUCCESS,)

    def cuGraphExecDestroy(self, graph):
        del self.execs[graph]
        return (Result.CUDA_SUCCESS,)

    def cuGraphLaunch(self, graph, stream):
        assert graph in self.execs, "a graph that was destroyed"
        for work in self.execs[graph]:
            self.put(stream, work)
        return (Result.CUDA_SUCCESS,)

    def cuModuleLoadData(self, image):
        assert isinstance(image, bytes)
        if self.spoil_captures():
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        return Result.CUDA_SUCCESS, self._handle(self.modules, image)

    def cuModuleUnload(self, module):
        del self.modules[module]
        return (Result.CUDA_SUCCESS,)

    def cuModuleGetFunction(self, module, name):
        assert module in self.modules
        if name.decode() not in self.kernels:
            return Result.CUDA_ERROR_NOT_FOUND, None
        return Result.CUDA_SUCCESS, self._handle(self.functions, self.kernels[name.decode()])

    def cuLaunchKernel(self, function, *arguments):
        *grid_and_block, _shared, stream, parameters, extra = arguments
        assert extra == 0
        assert len(grid_and_block) == 6
        self.grid, self.block = tuple(grid_and_block[:3]), tuple(grid_and_block[3:])
        # Only the kernel knows the types of the values; it reads them from the addresses now.
        self.put(stream, self.functions[function](parameters))
        return (Result.CUDA_SUCCESS,)


@pytest.fixture
def cuda(monkeypatch):
    """The imitated driver in place of the real one. It has no kernels."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda_memory, "driver", lambda: fake)
    return fake
