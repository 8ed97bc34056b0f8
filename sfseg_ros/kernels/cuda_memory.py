# SPDX-License-Identifier: Apache-2.0
"""The part of the CUDA driver API that inference needs: memory, one stream, graphs, kernels.

It uses `cuda.bindings` (12.6 and later, 13) and imports the package at the first use, so this
module can be imported without a GPU. Every error of the driver becomes a CudaError. The owner of an
object frees it; freeing twice does nothing. Handles and addresses are plain integers.
"""

import contextlib
import ctypes
import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.kernels.launch import Launch

DRIVER = "libcuda.so.1"
INSTALL = "pip install cuda-bindings"
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"

# Advice on common errors, by the driver's name.
_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "look at nvidia-smi and CUDA_VISIBLE_DEVICES; a container needs --gpus",
    "CUDA_ERROR_INVALID_DEVICE": "look at nvidia-smi and CUDA_VISIBLE_DEVICES",
    OUT_OF_MEMORY: "close other programs on the GPU, or use a smaller network_size or max_batch",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver was updated: restart the machine",
    "CUDA_ERROR_UNKNOWN": "after a suspend: reload the kernel module nvidia_uvm",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "delete the cached kernels, they are for another GPU",
    "CUDA_ERROR_INVALID_IMAGE": "delete the cached kernels, the file is damaged",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "update the driver, it is older than the compiler",
}
# After one of these errors every later call in the same context fails, and only a new context
# works. The driver's name without CUDA_ERROR_, and the number, which the CUDA runtime uses, too.
LOST = {
    "DEINITIALIZED": 4,
    "DEVICE_UNAVAILABLE": 46,
    "ECC_UNCORRECTABLE": 214,
    "NVLINK_UNCORRECTABLE": 220,
    "CONTAINED": 226,
    "ILLEGAL_ADDRESS": 700,
    "LAUNCH_TIMEOUT": 702,
    "CONTEXT_IS_DESTROYED": 709,
    "ASSERT": 710,
    "HARDWARE_STACK_ERROR": 714,
    "ILLEGAL_INSTRUCTION": 715,
    "MISALIGNED_ADDRESS": 716,
    "INVALID_ADDRESS_SPACE": 717,
    "INVALID_PC": 718,
    "LAUNCH_FAILED": 719,
    "TENSOR_MEMORY_LEAK": 721,
    "EXTERNAL_DEVICE": 911,
}
_LOST_NAMES = {f"CUDA_ERROR_{name}" for name in LOST}
# Errors of a machine without a GPU, or without a driver or its binding (empty name).
NO_GPU = ("", "CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE", "CUDA_ERROR_STUB_LIBRARY")
_LOST_ADVICE = (
    "the GPU's context is lost: open the backend again, and look at dmesg for the driver's message"
)


class CudaError(BackendError):
    """The driver refused a call. `name` is the driver's name of the error, such as
    CUDA_ERROR_OUT_OF_MEMORY, or empty without a driver. `lost` is as in BackendError."""

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text)
        self.name = name
        self.lost = name in _LOST_NAMES


class Gpu:
    """A device and its primary context, which TensorRT and cudart share.

    Any thread may use the context, inside `with gpu.current():`.
    """

    def __init__(self, index: int = 0, wait: str = "block") -> None:
        """Retain the context of device `index`; `wait` is "block" or "spin". Raises CudaError."""
        self._blocking = wait == "block"
        call("cuInit", 0)
        self._device = call("cuDeviceGet", index)
        if not self._blocking:
            self._set_spinning()
        with _users_lock:
            self._context: Any = call("cuDevicePrimaryCtxRetain", self._device)
            _users[int(self._context)] += 1
        self.name = _text(call("cuDeviceGetName", 256, self._device))
        self.architecture = _architecture(self._device)
        self.lost: CudaError | None = None
        """The error that lost the context."""

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread. Notes a CudaError that loses the context."""
        if self._context is None:
            raise CudaError(f"the context of {self.name} is released: open the backend again")
        try:
            call("cuCtxPushCurrent", self._context)
            try:
                yield
            finally:
                call("cuCtxPopCurrent")
        except CudaError as error:
            if error.lost:
                self.note_lost(error)
            raise

    def note_lost(self, error: CudaError) -> None:
        """Note that `error` has lost the context."""
        self.lost = CudaError(str(error), error.name)  # without the frames of its traceback
        _lost.add(int(self._context))

    def pinned(self, size: int) -> "PinnedBuffer":
        """Allocate `size` bytes of page-locked host memory."""
        return PinnedBuffer(size)

    def memory(self, size: int) -> "DeviceBuffer":
        """Allocate `size` bytes on the device."""
        return DeviceBuffer(size)

    def stream(self) -> "Stream":
        """Make a stream that does not wait for the default stream."""
        return Stream(self._blocking)

    def close(self) -> None:
        """Release the context. The last user in this process destroys a lost context, so that the
        next Gpu gets a new one."""
        context, self._context = self._context, None
        if context is None:
            return
        handle = int(context)
        with _users_lock:  # no thread may retain it between its last release and its reset
            _users[handle] -= 1
            if not _users[handle]:
                _unload_kernels(context)
            call("cuDevicePrimaryCtxRelease", self._device)
            if not _users[handle] and handle in _lost:
                _lost.discard(handle)
                call("cuDevicePrimaryCtxReset", self._device)

    def _set_spinning(self) -> None:
        flags = driver().CUctx_flags
        mask, spin = int(flags.CU_CTX_SCHED_MASK), int(flags.CU_CTX_SCHED_SPIN)
        now, _active = call("cuDevicePrimaryCtxGetState", self._device)
        if now & mask != spin:
            call("cuDevicePrimaryCtxSetFlags", self._device, now & ~mask | spin)


class PinnedBuffer:
    """Page-locked host memory: the device copies it while the processor continues."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(call("cuMemHostAlloc", size, 0))

    def array(self, shape: Sequence[int]) -> Uint8Array:
        """Return a uint8 view of the first bytes. Do not use it after `free`."""
        size = int(np.prod(shape))
        if not self.address or size > self.size:
            raise BackendError(f"{size} bytes of a buffer of {self.size}: a bug in sfseg_ros")
        buffer = (ctypes.c_uint8 * size).from_address(self.address)
        flat: Uint8Array = np.ctypeslib.as_array(buffer)
        return flat.reshape(shape)

    def free(self) -> None:
        address, self.address = self.address, 0
        if address:
            call("cuMemFreeHost", address)


class DeviceBuffer:
    """Device memory, aligned to 256 bytes or more."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(call("cuMemAlloc", size))

    def free(self) -> None:
        address, self.address = self.address, 0
        if address:
            call("cuMemFree", address)


class Stream:
    """A queue of work on the device, done in order. Only `wait` blocks."""

    def __init__(self, blocking: bool) -> None:
        """`blocking`: `wait` sleeps instead of spinning."""
        cuda = driver()
        flags = cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING
        if blocking:
            flags |= cuda.CUevent_flags.CU_EVENT_BLOCKING_SYNC
        self._stream: Any = call("cuStreamCreate", cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self.handle = int(self._stream)
        self._done: Any = call("cuEventCreate", int(flags))

    def upload(self, target: DeviceBuffer, source: PinnedBuffer, size: int) -> None:
        """Copy the first `size` bytes to the device."""
        _check_copy(target, source, size)
        call("cuMemcpyHtoDAsync", target.address, source.address, size, self._stream)

    def download(self, target: PinnedBuffer, source: DeviceBuffer, size: int) -> None:
        """Copy the first `size` bytes from the device."""
        _check_copy(target, source, size)
        call("cuMemcpyDtoHAsync", target.address, source.address, size, self._stream)

    def wait(self) -> None:
        """Wait until all work so far is done. Raises CudaError if any of it failed."""
        call("cuEventRecord", self._done, self._stream)
        call("cuEventSynchronize", self._done)

    def captured(self, work: Callable[[], None]) -> "Graph":
        """Return the work that `work()` puts into this stream as a graph, without running it.

        Raises CudaError if some of it cannot be captured, and every exception of `work`.
        """
        mode = driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            with contextlib.suppress(CudaError):  # the capture is known to be invalid
                graph = call("cuStreamEndCapture", self._stream)
                call("cuGraphDestroy", graph)
            raise
        graph = call("cuStreamEndCapture", self._stream)
        try:
            return Graph(call("cuGraphInstantiate", graph, 0))
        finally:
            call("cuGraphDestroy", graph)

    def launch(self, graph: "Graph") -> None:
        """Run a graph once."""
        call("cuGraphLaunch", graph.handle, self._stream)

    def free(self) -> None:
        stream, self._stream, self.handle = self._stream, None, 0
        if stream is not None:
            call("cuEventDestroy", self._done)
            call("cuStreamDestroy", stream)


class Graph:
    """Captured work. It keeps the addresses that it was captured with."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def free(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            call("cuGraphExecDestroy", handle)


def reset_lost_context(reason: str) -> None:
    """Reset the context after another library has reported its loss and released it.

    The next user then gets a new context. If a Gpu of this process still uses the context, it is
    reset when that Gpu is closed.
    """
    gpu = Gpu()
    gpu.note_lost(CudaError(reason))
    gpu.close()


def launch_kernel(
    launch: Launch, inputs: Sequence[int], outputs: Sequence[int], stream: int
) -> None:
    """Put one of our kernels into the stream with this handle, in the current context.

    The first use in a context compiles and loads the kernels. `inputs` and `outputs` are device
    addresses; the kernel gets inputs, scalars, outputs. Raises CudaError, or BackendError if there
    is no compiler.
    """
    scalars = [ctypes.c_float(s) if isinstance(s, float) else _int32(s) for s in launch.scalars]
    values = [
        *(ctypes.c_void_p(address) for address in inputs),
        *scalars,
        *(ctypes.c_void_p(address) for address in outputs),
    ]
    # The driver reads the values during the call; they need not live longer.
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    call(
        "cuLaunchKernel",
        _kernel(launch.kernel),
        *launch.grid,
        *launch.block,
        launch.shared_bytes,
        driver().CUstream(stream),
        ctypes.addressof(pointers),
        0,
    )


def _int32(value: int) -> ctypes.c_int32:
    if not -(2**31) <= value < 2**31:
        raise BackendError(
            f"kernel argument {value} does not fit into 32 bits: use a smaller image"
        )
    return ctypes.c_int32(value)


# By context: the number of Gpu objects that share it (a new model loads beside the one in use),
# whether it is lost, the module with all kernels, and its functions.
_users: Counter[int] = Counter()
_users_lock = threading.Lock()
_lost: set[int] = set()
_modules: dict[int, Any] = {}
_functions: dict[tuple[int, str], Any] = {}
_modules_lock = threading.Lock()


def load_kernels() -> None:
    """Compile the kernels and load them into the current context, before they are needed.

    Raises CudaError with the name of the file if the driver refuses it, and BackendError without a
    compiler.
    """
    with _modules_lock:
        _module(_current_context())


def _kernel(name: str) -> Any:
    """Return the function of this name in the current context."""
    context = _current_context()
    with _modules_lock:
        if (context, name) not in _functions:
            function = call("cuModuleGetFunction", _module(context), name.encode())
            _functions[context, name] = function
        return _functions[context, name]


def _current_context() -> int:
    context = int(call("cuCtxGetCurrent"))
    if not context:
        raise CudaError("no CUDA context is current in this thread: use `with gpu.current():`")
    return context


def _module(context: int) -> Any:
    """Return the module with all kernels in this current context. The caller holds the lock."""
    if context not in _modules:
        from sfseg_ros.kernels import binaries  # it may have to compile

        architecture = _architecture(call("cuCtxGetDevice"))
        cubin = binaries.compiled(architecture)
        try:
            _modules[context] = call("cuModuleLoadData", cubin)
        except CudaError as error:
            file = binaries.compiled_path(architecture)
            raise CudaError(f"{error} (the cached kernels are {file})", error.name) from error
    return _modules[context]


def _unload_kernels(context: Any) -> None:
    """Forget the kernels of a context, as the next one may have the same handle, and unload them
    unless the context is lost."""
    with _modules_lock:
        module = _modules.pop(int(context), None)
        for key in [key for key in _functions if key[0] == int(context)]:
            del _functions[key]
    if module is not None and int(context) not in _lost:
        call("cuCtxPushCurrent", context)
        try:
            call("cuModuleUnload", module)
        finally:
            call("cuCtxPopCurrent")


def gpu_is_there() -> bool:
    """Return whether the driver finds a GPU. Works without `cuda.bindings`, which building and
    listing engines does not require."""
    try:
        library = ctypes.CDLL(DRIVER)
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        library.cuInit(0) == 0
        and library.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


@functools.cache
def driver() -> Any:
    """Return the module `cuda.bindings.driver`. Raises CudaError."""
    try:
        ctypes.CDLL(DRIVER)
        from cuda.bindings import driver as module
    except OSError as error:
        raise CudaError(f"no NVIDIA driver here ({error}); a container needs --gpus") from error
    except ImportError as error:
        reason = one_line(error)
        raise CudaError(f"cuda.bindings cannot be imported ({reason}): {INSTALL}") from error
    return module


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the driver. Returns its result, or a tuple if there are several.

    Raises CudaError if the status is not success or if the driver is missing.
    """
    cuda = driver()
    try:
        status, *results = getattr(cuda, name)(*arguments)
    except (RuntimeError, AttributeError) as error:  # libcuda is missing or lacks this function
        raise CudaError(
            f"{name}: {one_line(error)}; install the NVIDIA driver, or update it"
        ) from error
    if status != cuda.CUresult.CUDA_SUCCESS:
        raise _error(cuda, name, status)
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)


def _error(cuda: Any, call_name: str, status: Any) -> CudaError:
    name, text = (
        _text(found) if known == cuda.CUresult.CUDA_SUCCESS and found else f"error {int(status)}"
        for known, found in (cuda.cuGetErrorName(status), cuda.cuGetErrorString(status))
    )
    advice = (
        _LOST_ADVICE if name in _LOST_NAMES else _ADVICE.get(name, "look at nvidia-smi and dmesg")
    )
    return CudaError(f"{call_name}: {name} ({text}); {advice}", name)


def _architecture(device: Any) -> int:
    """Return the compute capability as in ARCHITECTURES: 87 is 8.7."""
    attribute = driver().CUdevice_attribute
    major, minor = (
        int(call("cuDeviceGetAttribute", which, device))
        for which in (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return 10 * major + minor


def _check_copy(target: Any, source: Any, size: int) -> None:
    """Raise BackendError for a copy beyond a buffer's end, which the driver would not report."""
    if not (target.address and source.address) or size > min(target.size, source.size):
        raise BackendError(
            f"copy of {size} bytes from {source.size} to {target.size}: a bug in sfseg_ros"
        )


def _text(found: bytes) -> str:
    return found.split(b"\0")[0].decode(errors="replace")
