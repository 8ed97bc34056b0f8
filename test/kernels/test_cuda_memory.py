# SPDX-License-Identifier: Apache-2.0
import ctypes
import inspect
import re
import runpy
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import cuda_memory
from sfseg_ros.kernels.cuda_memory import CudaError, Gpu, launch_kernel
from sfseg_ros.kernels.launch import Launch


@pytest.fixture
def gpu(cuda):
    gpu = Gpu()
    yield gpu
    gpu.close()


def test_importing_needs_neither_gpu_nor_bindings():
    code = (
        "import sys; sys.modules['cuda'] = None; from sfseg_ros.kernels import cuda_memory\n"
        "try: cuda_memory.Gpu()\n"
        "except cuda_memory.CudaError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search("no NVIDIA driver here|pip install cuda-bindings", said.stdout)
    assert said.stdout.count("\n") == 1


def test_the_imitated_driver_has_the_signatures_of_the_real_one(cuda):
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    for name, function in vars(type(cuda)).items():
        if not name.startswith("cu") or not inspect.isfunction(function):
            continue
        signature = re.match(rf"{name}\((.*?)\)", getattr(real, name).__doc__).group(1)
        expected = len([part for part in signature.split(",") if part.strip()])
        parameters = list(inspect.signature(function).parameters.values())[1:]
        if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
            assert expected == 11, name
        else:
            assert len(parameters) == expected, name
    for table in ("CUresult", "CUctx_flags", "CUevent_flags", "CUstream_flags"):
        for member in getattr(cuda, table):
            assert int(getattr(getattr(real, table), member.name)) == int(member), member
    for table in ("CUstreamCaptureMode", "CUdevice_attribute"):
        for member in getattr(cuda, table):
            assert int(getattr(getattr(real, table), member.name)) == int(member), member


def test_the_errors_that_lose_a_context_have_the_numbers_of_driver_and_runtime():
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    from cuda.bindings import driver, runtime

    for name, number in cuda_memory.LOST.items():  # older bindings lack some
        assert int(getattr(driver.CUresult, f"CUDA_ERROR_{name}", number)) == number, name
    assert runtime.cudaError_t.cudaErrorIllegalAddress == cuda_memory.LOST["ILLEGAL_ADDRESS"]
    assert runtime.cudaError_t.cudaErrorLaunchFailure == cuda_memory.LOST["LAUNCH_FAILED"]
    assert runtime.cudaError_t.cudaErrorMemoryAllocation not in cuda_memory.LOST.values()


def test_bytes_go_to_the_device_and_back(cuda, gpu):
    with gpu.current():
        stream, host, device = gpu.stream(), gpu.pinned(24), gpu.memory(24)
        host.array((2, 3, 4))[...] = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        stream.upload(device, host, 24)
        stream.wait()
        host.array((24,))[:] = 0
        stream.download(host, device, 10)
        assert not host.array((24,)).any(), "nothing runs before `wait`"
        stream.wait()
        np.testing.assert_array_equal(host.array((24,))[:10], np.arange(10))
        assert not host.array((24,))[10:].any()
        for owned in (stream, host, device):
            owned.free()
            owned.free()
    gpu.close()
    assert cuda.everything_is_freed()


def test_a_copy_beyond_the_end_is_refused(cuda, gpu):
    with gpu.current():
        stream, host, device = gpu.stream(), gpu.pinned(8), gpu.memory(16)
        with pytest.raises(BackendError, match="copy of 16 bytes from 8 to 16"):
            stream.upload(device, host, 16)
        host.free()
        with pytest.raises(BackendError, match="a bug in sfseg_ros"):
            stream.upload(device, host, 8)
        with pytest.raises(BackendError, match="a bug in sfseg_ros"):
            host.array((1,))


def test_a_graph_repeats_the_captured_work_and_capturing_runs_nothing(cuda, gpu):
    with gpu.current():
        stream, host, back = gpu.stream(), gpu.pinned(4), gpu.pinned(4)
        device = gpu.memory(4)

        def there_and_back():
            stream.upload(device, host, 4)
            stream.download(back, device, 4)

        back.array((4,))[:] = 9
        graph = stream.captured(there_and_back)
        stream.wait()
        assert (back.array((4,)) == 9).all()
        for value in (1, 2):
            host.array((4,))[:] = value
            stream.launch(graph)
            stream.wait()
            assert (back.array((4,)) == value).all()
        assert not cuda.graphs, "only its instance is needed"
        for owned in (graph, stream, host, back, device):
            owned.free()
    gpu.close()
    assert cuda.everything_is_freed()


@pytest.mark.parametrize("error", [BackendError("no"), KeyboardInterrupt()])
def test_an_exception_during_a_capture_ends_it(cuda, gpu, error):
    with gpu.current():
        stream, host, device = gpu.stream(), gpu.pinned(4), gpu.memory(4)

        def failing():
            stream.upload(device, host, 4)
            raise error

        with pytest.raises(type(error)):
            stream.captured(failing)
        assert not cuda.graphs
        stream.upload(device, host, 4)  # the stream still works
        stream.wait()


def test_a_call_that_cannot_be_captured_raises_its_error(cuda, gpu):
    with gpu.current():
        stream = gpu.stream()
        with pytest.raises(CudaError, match="cuMemAlloc: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            stream.captured(lambda: gpu.memory(4))
        # The work swallows the error; the end of the capture still reports it.
        with pytest.raises(CudaError, match="cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INV"):
            stream.captured(lambda: cuda.cuMemAlloc(4))


def test_an_error_names_call_name_text_and_advice_in_one_line(cuda, gpu):
    cuda.fail["cuMemAlloc"] = cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with gpu.current(), pytest.raises(CudaError) as caught:
        gpu.memory(2**40)
    assert str(caught.value) == (
        "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (as the driver says it); close other programs on the "
        "GPU, or use a smaller network_size or max_batch"
    )
    assert caught.value.name == "CUDA_ERROR_OUT_OF_MEMORY"
    assert not caught.value.lost
    assert gpu.lost is None


def test_without_a_device_the_advice_is_where_to_look(cuda):
    cuda.devices = 0
    with pytest.raises(CudaError, match=r"CUDA_ERROR_NO_DEVICE .*nvidia-smi"):
        Gpu()


def test_the_tests_of_the_gpu_are_skipped_without_one_and_fail_with_a_broken_one(cuda):
    conftest = runpy.run_path(str(Path(__file__).parents[1] / "gpu" / "conftest.py"))
    assert conftest["no_gpu"]() == ""
    cuda.fail["cuDevicePrimaryCtxRetain"] = cuda.CUresult.CUDA_ERROR_ECC_UNCORRECTABLE
    assert conftest["no_gpu"]() == ""
    cuda.devices = 0
    assert "CUDA_ERROR_NO_DEVICE" in conftest["no_gpu"]()


def test_a_function_that_the_driver_lacks_is_one_error(cuda, gpu):
    def missing(*_):
        raise RuntimeError('Function "cuGraphLaunch" not found')

    cuda.cuCtxGetDevice = missing
    with pytest.raises(CudaError, match='cuCtxGetDevice: .*"cuGraphLaunch" not found; .*update it'):
        cuda_memory.call("cuCtxGetDevice")


def test_a_lost_context_is_noted_and_reset_when_it_is_closed(cuda):
    gpu = Gpu()
    with gpu.current():
        stream = gpu.stream()
        gpu.memory(16)
    cuda.fail["cuEventSynchronize"] = cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError, match="open the backend again") as caught, gpu.current():
        stream.wait()
    assert caught.value.lost
    assert str(gpu.lost) == str(caught.value)
    assert gpu.lost.__traceback__ is None
    with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"), gpu.current():
        gpu.memory(16)
    gpu.close()
    fresh = Gpu()
    with fresh.current():
        fresh.memory(16).free()
    fresh.close()
    assert cuda.everything_is_freed()


def test_a_lost_context_stays_until_its_last_user_here_closes_it(cuda):
    old, new = Gpu(), Gpu()
    with old.current():
        memory = old.memory(16)
    cuda.fail["cuMemAlloc"] = cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError), new.current():
        new.memory(16)
    new.close()
    # Handles of a context that was reset are invalid.
    with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"), old.current():
        memory.free()
    assert old.lost
    old.close()
    fresh = Gpu()
    with fresh.current():
        fresh.memory(16).free()
    fresh.close()
    assert cuda.everything_is_freed()


def test_no_thread_gets_a_lost_context_between_its_last_user_and_its_reset(cuda, monkeypatch):
    gpu = Gpu()
    cuda.fail["cuMemAlloc"] = cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError), gpu.current():
        gpu.memory(16)
    made, call = [], cuda_memory.call

    def slow(name, *arguments):
        if name == "cuDevicePrimaryCtxReset":
            thread.start()
            thread.join(0.2)
            assert not made
        return call(name, *arguments)

    thread = threading.Thread(target=lambda: made.append(Gpu()))
    monkeypatch.setattr(cuda_memory, "call", slow)
    gpu.close()
    thread.join(20)
    (fresh,) = made
    with fresh.current():
        fresh.memory(16).free()
    fresh.close()
    assert cuda.everything_is_freed()


def test_spinning_is_asked_of_the_context_and_blocking_of_the_event(cuda):
    flags = cuda.CUctx_flags
    cuda.flags = int(flags.CU_CTX_SCHED_BLOCKING_SYNC) | 8  # 8: another flag, which must stay
    spinning = Gpu(wait="spin")
    assert cuda.flags == int(flags.CU_CTX_SCHED_SPIN) | 8
    with spinning.current():
        spinning.stream().free()
    assert not cuda.event_flags & cuda.CUevent_flags.CU_EVENT_BLOCKING_SYNC
    spinning.close()
    blocking = Gpu(wait="block")
    with blocking.current():
        blocking.stream().free()
    assert cuda.event_flags & cuda.CUevent_flags.CU_EVENT_BLOCKING_SYNC
    blocking.close()


def test_the_context_is_current_only_inside_the_block_and_in_any_thread(cuda, gpu):
    def use():
        with gpu.current():
            gpu.memory(8).free()
        with pytest.raises(CudaError, match="INVALID_CONTEXT"):
            gpu.memory(8)

    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    gpu.close()
    with pytest.raises(CudaError, match="is released"), gpu.current():
        pass


# Kernels.


def add_kernel(cuda):
    """kernel(a, n, factor, out): out[:n] = factor * a[:n]"""

    def kernel(parameters):
        pointers = (ctypes.c_void_p * 4).from_address(parameters)
        source = ctypes.c_void_p.from_address(pointers[0]).value
        count = ctypes.c_int32.from_address(pointers[1]).value
        factor = ctypes.c_float.from_address(pointers[2]).value
        target = ctypes.c_void_p.from_address(pointers[3]).value

        def run():
            cuda.device_array(target, count)[:] = factor * cuda.device_array(source, count)

        return run

    cuda.kernels["scale"] = kernel


@pytest.fixture
def binaries(monkeypatch):
    compiled = []
    module = types.ModuleType("sfseg_ros.kernels.binaries")
    module.compiled = lambda architecture: compiled.append(architecture) or b"cubin"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("sfseg_ros.kernels.binaries", module, raising=False)
    return compiled


def test_a_kernel_gets_inputs_scalars_outputs(cuda, gpu, binaries):
    add_kernel(cuda)
    launch = Launch("scale", (1, 1, 1), (32, 1, 1), (5, 2.0))
    with gpu.current():
        stream, host = gpu.stream(), gpu.pinned(5)
        source, target = gpu.memory(5), gpu.memory(5)
        host.array((5,))[:] = [1, 2, 3, 4, 5]
        stream.upload(source, host, 5)
        for _ in range(2):
            launch_kernel(launch, [source.address], [target.address], stream.handle)
        stream.download(host, target, 5)
        stream.wait()
        np.testing.assert_array_equal(host.array((5,)), [2, 4, 6, 8, 10])
        for owned in (stream, host, source, target):
            owned.free()
    assert binaries == [87], "compiled once, for this GPU"
    assert len(cuda.modules) == len(cuda.functions) == 1
    gpu.close()
    assert cuda.everything_is_freed()


def test_kernels_outlive_one_of_two_models_and_not_the_context(cuda, binaries):
    add_kernel(cuda)
    launch = Launch("scale", (1, 1, 1), (32, 1, 1), (5, 2.0))
    for _ in range(2):  # the second context may have the handle of the first
        old, new = Gpu(), Gpu()
        with old.current():
            launch_kernel(launch, [1], [2], old.stream().handle)
        old.close()
        assert len(cuda.modules) == 1
        with new.current():
            launch_kernel(launch, [1], [2], new.stream().handle)
        new.close()
        assert not cuda.modules
    assert binaries == [87, 87]


def test_a_kernel_that_is_missing_and_a_number_that_is_too_large_are_refused(cuda, gpu, binaries):
    with gpu.current():
        with pytest.raises(CudaError, match="cuModuleGetFunction: CUDA_ERROR_NOT_FOUND"):
            launch_kernel(Launch("no", (1, 1, 1), (1, 1, 1), ()), [], [], 1)
        with pytest.raises(BackendError, match="does not fit into 32 bits"):
            launch_kernel(Launch("scale", (1, 1, 1), (1, 1, 1), (2**31,)), [], [], 1)
    with pytest.raises(CudaError, match="no CUDA context is current"):
        launch_kernel(Launch("scale", (1, 1, 1), (1, 1, 1), ()), [], [], 1)
