# SPDX-License-Identifier: Apache-2.0
"""A TensorRT in plain Python, on the imitated CUDA driver.

A function on arrays stands for the network, except for its last node. The last node is our real
plugin, which launches its kernel as on a GPU. The kernels run their references, or their own device
code compiled for the processor. `test_backend.py` compares names with the real library.
"""

import ctypes
import enum
import types

import numpy as np

from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.kernels import host_emulation, overlay
from sfseg_ros.kernels.launch import Launch

# Arguments of our kernels: inputs, scalars (i: int, f: float) and outputs, in this order.
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


def add_kernels(cuda, argmax, paint):
    """Our kernels by functions (cuda, Launch, addresses of inputs, and of outputs)."""
    for name, signature in _SIGNATURES.items():
        work = argmax if "argmax" in name else paint

        def kernel(parameters, name=name, signature=signature, work=work):
            inputs, scalars, outputs = _arguments(parameters, signature)
            launch = Launch(name, cuda.grid, cuda.block, scalars)
            return lambda: work(cuda, launch, inputs, outputs)

        cuda.kernels[name] = kernel


def pretended_argmax(cuda, launch, inputs, outputs):
    """Apply threshold and table to labels and confidence, which take the place of the scores."""
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


def run_device_code(cuda, launch, inputs, outputs):
    """The device code of a kernel, compiled for the processor."""
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


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Logger:
    Severity = Severity


class Allocation(enum.IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class FakeContext:
    """IExecutionContext: refuses unknown names, and refuses to run before all tensors are set.

    `network` gives labels and confidence, which UpsampleArgmax then finds as its scores (see
    `pretended_argmax`), or true scores float32 (N, C, H / 4, W / 4).
    """

    def __init__(self, engine, allocation, config=None):
        self.engine, self.allocation, self.config = engine, allocation, config
        self.shape, self.addresses, self.scratch = None, {}, None
        self.recorded = None  # the plugin's part of the library's own graph
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
        # TensorRT loads code at the first run of a shape, which breaks a capture.
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
            if not engine.has_plugins:  # the node's body computes the same
                labels, confidence = raw.reshape(2, pixels)
                cuda.device_array(addresses["labels"], pixels)[:] = labels
                cuda.device_array(addresses["confidence"], pixels)[:] = confidence
            if engine.crash:
                cuda.sticky = engine.crash

        cuda.put(stream_handle, run)
        return not engine.has_plugins or self._enqueue_plugin(address, addresses, stream_handle)

    def _enqueue_plugin(self, scores, addresses, stream_handle):
        """Call the plugin in this thread. A library that has recorded the launch does not call
        again."""
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
        """Whether TensorRT-RTX makes its own graph."""
        return getattr(self.config, "cuda_graph_strategy", 0) == 1


STRIDE = 4
NAMES = types.ModuleType("tensorrt")  # the part of the library that our plugins use
for _name in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime"):
    setattr(NAMES, _name, type(_name, (), {}))
NAMES.IPluginCreatorV3One = type("IPluginCreatorV3One", (), {})
NAMES.PluginField = lambda name, data, kind: types.SimpleNamespace(name=name, data=data)
NAMES.PluginFieldCollection = list
NAMES.PluginFieldType = types.SimpleNamespace(INT32=0)


class FakeEngine:
    """ICudaEngine whose network is a function on numpy arrays."""

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
