# SPDX-License-Identifier: Apache-2.0
"""A CUDA driver and a TensorRT of plain Python, as strict as the real ones are by their documents.

The network is a function on arrays, but for its last node: that is our real plugin, which launches
its kernel as it would on a GPU. Kernels are their references, or their own code (`host_kernels`).

Work is put off until somebody waits for it, memory that was freed must not be touched, a capture
refuses what a capture refuses, calls need a context in their thread. What breaks a rule that the
real library answers with undefined behaviour is an AssertionError; what it answers with an error
is that error. `test_cuda_memory.py` compares the names and arguments with the real bindings.
"""

import ctypes
import enum
import threading
import types

import numpy as np
import pytest

from sfseg_ros.backends.protocol import BackendOptions
from sfseg_ros.backends.tensorrt import engine_builder, plugin
from sfseg_ros.backends.tensorrt.backend import TensorRtBackend
from sfseg_ros.backends.tensorrt.engine_builder import BuildResult
from sfseg_ros.backends.tensorrt.library import TensorRt
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import binaries, cuda_memory, host_emulation, overlay
from sfseg_ros.kernels.launch import Launch


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
    """`cuda.bindings.driver`. `fail[name]` is what that function answers next, `calls` its past."""

    CUresult, CUctx_flags, CUevent_flags = Result, ContextFlags, EventFlags
    CUstream_flags, CUstreamCaptureMode, CUdevice_attribute = StreamFlags, CaptureMode, Attribute

    def __init__(self):
        self.fail, self.calls = {}, []
        self.devices, self.flags, self.event_flags = 1, 0, None
        self.retained = 0
        self.generation = 0  # of the primary context
        self.sticky = Result.CUDA_SUCCESS
        self.memory, self.host, self.streams, self.events, self.graphs = {}, {}, {}, {}, {}
        self.execs, self.modules, self.functions = {}, {}, {}
        self.kernels = {}  # name -> function(addresses as ints..., scalars), for cuLaunchKernel
        self._next = 0x1000
        self._stack = threading.local()
        self._one_at_a_time = threading.RLock()
        self.CUstream = int

    # What the tests ask.

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
            self.calls.append(name)
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

    def add_kernels(self, argmax, paint):
        """Our kernels by functions (cuda, Launch, addresses of inputs, and of outputs)."""
        for name, signature in _SIGNATURES.items():
            work = argmax if "argmax" in name else paint

            def kernel(parameters, name=name, signature=signature, work=work):
                inputs, scalars, outputs = _arguments(parameters, signature)
                launch = Launch(name, self.grid, self.block, scalars)
                return lambda: work(self, launch, inputs, outputs)

            self.kernels[name] = kernel

    def put(self, handle, work):
        """What a library does with a stream: later, or into the capture."""
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
        return Result.CUDA_SUCCESS, 0xC0 + self.generation

    def cuDevicePrimaryCtxRelease(self, device):
        self.retained -= 1
        assert self.retained >= 0, "released more often than retained"
        return (Result.CUDA_SUCCESS,)

    def cuDevicePrimaryCtxReset(self, device):
        self.generation += 1
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
        # Full of rubbish, as it is on a device.
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
        # What a value is, only the kernel knows: it reads from the addresses during this call.
        self.put(stream, self.functions[function](parameters))
        return (Result.CUDA_SUCCESS,)


# Of our kernels: inputs, scalars (i: int, f: float) and outputs, in this order.
_SIGNATURES = {
    "sfseg_color_mask": (2, "i", 1),
    "sfseg_overlay": (3, "iff", 1),
    "sfseg_upsample_argmax_f32_linear_confidence": (1, "iiiiii", 2),
    "sfseg_upsample_argmax_f32_linear_confidence_remap": (2, "iiiiii", 2),
}


def _arguments(parameters, signature):
    """(addresses of inputs, scalars, addresses of outputs), read now as the driver does."""
    inputs, scalars, outputs = signature
    kinds = [ctypes.c_void_p] * inputs
    kinds += [ctypes.c_int if kind == "i" else ctypes.c_float for kind in scalars]
    kinds += [ctypes.c_void_p] * outputs
    pointers = (ctypes.c_void_p * len(kinds)).from_address(parameters)
    values = [kind.from_address(pointer).value for kind, pointer in zip(kinds, pointers)]
    return values[:inputs], tuple(values[inputs:-outputs]), values[-outputs:]


def pretended_argmax(cuda, launch, inputs, outputs):
    """Labels and confidence that stand where the scores would be, through threshold and table."""
    classes, stored, h, w, stride, threshold = launch.scalars
    assert (classes, stored, stride) == (FakeEngine.classes, FakeEngine.classes, STRIDE)
    pixels = launch.grid[2] * h * w * stride * stride
    labels, confidence = cuda.device_array(inputs[0], 2 * pixels).reshape(2, pixels)
    labels = np.where(confidence < threshold, np.uint8(255), labels)
    if len(inputs) > 1:
        labels = cuda.device_array(inputs[1], 256)[labels]
    cuda.device_array(outputs[0], pixels)[:] = labels
    cuda.device_array(outputs[1], pixels)[:] = confidence


def painted(cuda, launch, inputs, outputs):
    pixels = launch.scalars[0]
    palette = cuda.device_array(inputs[-1], 768).reshape(256, 3)
    labels = cuda.device_array(inputs[-2], pixels)[None, None]
    made = overlay.color_mask(labels, palette)
    if len(inputs) == 3:
        share, rest = (np.float32(scalar) for scalar in launch.scalars[1:])
        rgb = cuda.device_array(inputs[0], 3 * pixels).reshape(made.shape)
        blended = np.rint(rgb * rest + made * share).clip(0, 255).astype(np.uint8)
        made = np.where((labels == 255)[..., None], rgb, blended)
    cuda.device_array(outputs[0], 3 * pixels)[:] = made.reshape(-1)


@pytest.fixture
def cuda(monkeypatch):
    """The pretended driver in place of the real one, with kernels."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda_memory, "driver", lambda: fake)
    fake.add_kernels(pretended_argmax, painted)
    return fake


@pytest.fixture
def host_kernels(cuda):
    """The device code of these kernels, compiled for the processor."""

    def run(cuda, launch, inputs, outputs):
        pixels = launch.scalars[0]
        sizes = [3 * pixels, pixels, 768][-len(inputs) :], [3 * pixels]
        if "argmax" in launch.kernel:
            classes, _, h, w, stride, _ = launch.scalars
            frames = launch.grid[2] * h * w
            sizes = [4 * classes * frames, 256][: len(inputs)], [frames * stride**2] * 2
        arrays = [
            [cuda.device_array(address, size) for address, size in zip(addresses, of)]
            for addresses, of in zip((inputs, outputs), sizes)
        ]
        host_emulation.kernels().run(launch, *arrays)

    cuda.add_kernels(run, run)


# TensorRT.


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Logger:
    Severity = Severity


class Allocation(enum.IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class FakeContext:
    """IExecutionContext: refuses unknown names, and to run before all is set.

    `network` gives labels and confidence, which UpsampleArgmax then finds as its scores (see
    `pretended_argmax`), or true scores float32 (N, C, H / 4, W / 4).
    """

    def __init__(self, engine, allocation, config=None):
        self.engine, self.allocation, self.config = engine, allocation, config
        self.shape, self.addresses, self.scratch = None, {}, None
        self.recorded = None  # the plugin's part of a graph of the library's own
        (creator,) = (c for c in plugin._creators(NAMES) if c.name == "UpsampleArgmax")
        field = NAMES.PluginField("stride", np.array([STRIDE], np.int32), None)
        self.plugin = creator.create_plugin("tail", [field], None).attach_to_context(self)

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.profile
        if name != "image" or len(shape) != 4:
            return False
        if not all(a <= b <= c for a, b, c in zip(low, shape, high)):
            self.engine.log.log(Severity.ERROR, f"shape {shape} is outside of the profile\n")
            return False
        self.shape = tuple(shape)
        return True

    def infer_shapes(self):
        return [] if self.shape else ["image"]

    def get_tensor_shape(self, name):
        return self.shape if name == "image" else self.shape[:3]

    def update_device_memory_size_for_shapes(self):
        assert self.allocation == Allocation.USER_MANAGED, "only for memory of the user"
        assert self.shape
        return int(np.prod(self.shape)) * 4

    def set_device_memory(self, address, size):
        assert address % 256 == 0
        self.scratch = (address, size)

    def set_tensor_address(self, name, address):
        if name not in ("image", "labels", "confidence") or not address:
            return False
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream):
        assert self.config is not None, "TensorRT-RTX only"
        return self.engine.capturable

    def execute_async_v3(self, stream_handle):
        cuda, engine, shape = self.engine.cuda, self.engine, self.shape
        assert set(self.addresses) == {"image", "labels", "confidence"}
        address, size = self.scratch
        assert size >= self.update_device_memory_size_for_shapes()
        if engine.refuses:
            engine.log.log(Severity.ERROR, engine.refuses)
            return False
        first = self not in engine.ran
        engine.ran.append(self)
        # What TensorRT loads at the first run of a shape, a capture does not survive.
        if (first or not engine.capturable) and cuda.spoil_captures():
            return False
        addresses = dict(self.addresses)
        pixels = int(np.prod(shape[:3]))

        def run():
            cuda.device_array(address, size)[:] = 0xEE
            image = cuda.device_array(addresses["image"], 3 * pixels).reshape(shape)
            scores = engine.network(image)
            if isinstance(scores, tuple):
                scores = np.stack(scores)
            raw = scores.reshape(-1).view(np.uint8)
            cuda.device_array(address, raw.size)[:] = raw
            if not engine.has_plugins:  # the node's body makes the same of it
                labels, confidence = raw.reshape(2, pixels)
                cuda.device_array(addresses["labels"], pixels)[:] = labels
                cuda.device_array(addresses["confidence"], pixels)[:] = confidence
            if engine.crash:
                cuda.sticky = engine.crash

        cuda.put(stream_handle, run)
        return not engine.has_plugins or self._enqueue_plugin(address, addresses, stream_handle)

    def _enqueue_plugin(self, scores, addresses, stream_handle):
        """In this thread. A library that has recorded the launch does not ask again."""
        cuda, (n, height, width, _) = self.engine.cuda, self.shape
        outputs = [addresses["labels"], addresses["confidence"]]
        if self.recorded is None:
            classes = self.engine.classes
            described = types.SimpleNamespace(
                type=types.SimpleNamespace(name="FLOAT"),
                format=types.SimpleNamespace(name="LINEAR"),
                dims=(n, classes, height // STRIDE, width // STRIDE),
            )
            self.plugin.on_shape_change([described], [])
            stream = cuda._stream(stream_handle)
            before = len(stream.waiting if stream.capture is None else stream.capture)
            try:
                self.plugin.enqueue([], [], [scores], outputs, 0, stream_handle)
            except Exception:  # the bindings print it
                return True
            if self._records():
                (self.recorded,) = stream.waiting[before:]
        else:
            cuda.put(stream_handle, self.recorded)
        return True

    def _records(self):
        """Whether TensorRT-RTX makes a graph of its own."""
        return getattr(self.config, "cuda_graph_strategy", 0) == 1


STRIDE = 4
NAMES = types.ModuleType("tensorrt")  # as much of the library as our plugins know
for _name in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime"):
    setattr(NAMES, _name, type(_name, (), {}))
NAMES.IPluginCreatorV3One = type("IPluginCreatorV3One", (), {})
NAMES.PluginField = lambda name, data, kind: types.SimpleNamespace(name=name, data=data)
NAMES.PluginFieldCollection = list
NAMES.PluginFieldType = types.SimpleNamespace(INT32=0)


class FakeEngine:
    """ICudaEngine of a network that a function on numpy arrays stands for."""

    num_io_tensors = 3
    classes = 3

    def __init__(self, library, cuda, network, profile, log, has_plugins=True):
        self.library, self.cuda, self.network = library, cuda, network
        self.has_plugins = has_plugins
        self.profile, self.log = profile, log
        self.capturable, self.refuses, self.crash, self.ran = True, "", None, []
        self.contexts = []

    def get_tensor_name(self, index):
        return ("image", "labels", "confidence")[index]

    def get_tensor_dtype(self, name):
        return self.library.DataType.UINT8

    def get_tensor_profile_shape(self, name, profile):
        assert (name, profile) == ("image", 0)
        return [list(shape) for shape in self.profile]

    def create_execution_context(self, chosen):
        if isinstance(chosen, Allocation):
            context = FakeContext(self, chosen)
        else:
            context = FakeContext(self, chosen.allocation, chosen)
        self.contexts.append(context)
        return context


class FakeTensorRt:
    """The module `tensorrt`. `engines` are those that were deserialised."""

    ILogger, ExecutionContextAllocationStrategy = Logger, Allocation

    class DataType(enum.IntEnum):
        FLOAT, INT8, UINT8 = 0, 2, 6

    def __init__(self, cuda, network):
        self.cuda, self.network, self.engines = cuda, network, []
        self.configure = lambda engine: None
        self.shapes = None

    def Runtime(self, log):
        def deserialize(data):
            assert self.cuda._current() is not None
            if not data.startswith(b"engine"):
                log.log(Severity.ERROR, "serialization failed\n(magic tag)")
                return None
            profile = np.frombuffer(data[8:], np.int32).reshape(3, 4).tolist()
            plugins = data[6:8] == b"+p"
            engine = self.engine_class(self, self.cuda, self.network, profile, log, plugins)
            self.configure(engine)
            self.engines.append(engine)
            return engine

        return types.SimpleNamespace(deserialize_cuda_engine=deserialize)

    engine_class, context_class = FakeEngine, FakeContext


class FakeRtxEngine(FakeEngine):
    def create_runtime_config(self):
        config = types.SimpleNamespace(allocation=Allocation.STATIC, cache=None)

        def allocate(strategy):
            config.allocation = strategy

        def create_cache():
            cache = types.SimpleNamespace(blob=b"empty", accepted=None)

            def deserialize(blob):
                cache.accepted = blob.startswith(b"cache")
                return cache.accepted

            cache.deserialize = deserialize
            cache.serialize = lambda: b"cache" + bytes(len(self.ran))
            return cache

        def set_cache(cache):
            config.cache = cache
            return True

        config.set_execution_context_allocation_strategy = allocate
        config.create_runtime_cache = create_cache
        config.set_runtime_cache = set_cache
        return config

    def create_execution_context(self, chosen):
        assert not isinstance(chosen, Allocation), "TensorRT-RTX is given a runtime config"
        return super().create_execution_context(chosen)


class FakeTensorRtRtx(FakeTensorRt):
    engine_class = FakeRtxEngine

    class CudaGraphStrategy(enum.IntEnum):
        DISABLED, WHOLE_GRAPH_CAPTURE = range(2)

    class DynamicShapesKernelSpecializationStrategy(enum.IntEnum):
        LAZY, EAGER, NONE = range(3)


@pytest.fixture
def tensorrt_library(cuda, monkeypatch):
    """A function that installs the pretended library, whose engines compute `network`."""

    def install(network, rtx=False):
        module = (FakeTensorRtRtx if rtx else FakeTensorRt)(cuda, network)
        library = TensorRt(
            "tensorrt_rtx" if rtx else "tensorrt", module, (1, 7, 1) if rtx else (10, 3, 0)
        )
        for user in ("backend", "engines"):
            monkeypatch.setattr(
                f"sfseg_ros.backends.tensorrt.{user}.load_tensorrt", lambda name="auto": library
            )
        return module

    return install


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """What was built: BuildRequests; the store is empty at first."""
    requests = []

    def engine_from_onnx(model, request, progress, cancelled):
        requests.append(request)
        progress("building")
        if cancelled():
            raise BackendError("the build was cancelled")
        form = b"+p" if request.plugins and not request.stored_kernels else b"-p"
        engine = b"engine" + form + np.array(request.shapes, np.int32).tobytes()
        return engine, BuildResult("TensorRT 10.3.0", ())

    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_builder, "engine_from_onnx", engine_from_onnx)
    monkeypatch.setattr(binaries, "compiled", lambda architecture: b"cubin")
    monkeypatch.setattr(TensorRt, "register", lambda self, creators: None)
    monkeypatch.setattr(plugin, "creators", lambda module: [])
    return requests


@pytest.fixture
def open_tensorrt_with(cuda, tensorrt_library, engines, tiny_manifest):
    """A function that opens the backend of an engine that computes `network`; in the end they are
    closed, and nothing may be left."""
    opened = []

    def open_it(network, rtx=False, configure=lambda engine: None, precision="auto", **options):
        module = tensorrt_library(network, rtx)
        module.configure = configure
        backend = TensorRtBackend(tiny_manifest, BackendOptions(precision, **options))
        opened.append(backend)
        return backend, module

    yield open_it
    for backend in opened:
        backend.close()
    assert cuda.everything_is_freed()
