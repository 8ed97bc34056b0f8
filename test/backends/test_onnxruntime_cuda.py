# SPDX-License-Identifier: Apache-2.0
"""Tests of backend onnxruntime-cuda that need no GPU; the others are in test_contract.py."""

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime")

from sfseg_ros.backends import onnxruntime_backend  # noqa: E402
from sfseg_ros.backends.choice import open_backend  # noqa: E402
from sfseg_ros.backends.protocol import BackendOptions  # noqa: E402
from sfseg_ros.errors import BackendError, BackendUnavailableError  # noqa: E402
from sfseg_ros.kernels import cuda_memory  # noqa: E402


@pytest.fixture
def pretend(monkeypatch, tiny_manifest):
    """Open the backend where ONNX Runtime lists the provider and its sessions have `provider`."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [onnxruntime_backend.CUDA])
    monkeypatch.setattr(onnxruntime_backend, "CUDA_MEMORY", "cpu")

    def open_it(provider):
        real, asked, without_fallback = ort.InferenceSession, [], []

        def session(model, options, providers):
            asked.append(providers)
            made = real(model, options, providers=["CPUExecutionProvider"])
            monkeypatch.setattr(made, "get_providers", lambda: [provider, "CPUExecutionProvider"])
            disable = made.disable_fallback
            made.disable_fallback = lambda: without_fallback.append(made) or disable()
            return made

        monkeypatch.setattr(ort, "InferenceSession", session)
        backend = open_backend("onnxruntime-cuda", tiny_manifest, BackendOptions(threads=1))
        return backend, asked, without_fallback

    return open_it


def test_an_onnxruntime_without_the_provider_is_refused_with_the_command(tiny_manifest):
    if onnxruntime_backend.CUDA in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(BackendUnavailableError, match="pip install onnxruntime-gpu"):
        open_backend("onnxruntime-cuda", tiny_manifest)


def test_a_provider_that_does_not_start_is_refused_and_the_processor_not_taken(pretend):
    with pytest.raises(BackendUnavailableError, match="could not start its CUDAExecution.*cudnn"):
        pretend("AzureExecutionProvider")


def test_the_gpu_is_asked_first_and_no_session_falls_back(pretend, tiny_manifest):
    backend, asked, without_fallback = pretend(onnxruntime_backend.CUDA)
    assert [providers[0][0] for providers in asked] == 3 * ["CUDAExecutionProvider"]
    assert len(without_fallback) == 3
    assert backend.description.endswith("fp32, CUDA")
    # Scores that stay where the trunk left them give the labels that arrays give.
    plain = open_backend("onnxruntime", tiny_manifest, BackendOptions(threads=1))
    rgb = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    for confidence in (False, True):
        (labels, certainty), (expected, expected_certainty) = (
            opened.infer(rgb, confidence) for opened in (backend, plain)
        )
        np.testing.assert_array_equal(labels, expected)
        if confidence:
            difference = certainty.astype(int) - expected_certainty
            assert np.abs(difference).max() <= 1


def test_it_computes_in_fp32_only(pretend, tiny_manifest):
    with pytest.raises(BackendUnavailableError, match="computes in fp32 only, not in fp16"):
        open_backend("onnxruntime-cuda", tiny_manifest, BackendOptions("fp16"))


def failure(number, text, place="cudaStreamSynchronize(static_cast<cudaStream_t>(stream_))"):
    """Return the exception of a node or a copy, with the message of ONNX Runtime's CudaCall."""
    return RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. "
        f"Name:'/trunk/conv1' Status Message: CUDA failure {number}: {text} ; GPU=0 ; hostname=r2 ;"
        f" file=/onnxruntime_src/onnxruntime/core/providers/cuda/x.cc ; line=65 ; expr={place};"
    )


BLACK = np.zeros((1, 64, 96, 3), np.uint8)


def fail_with(backend, error, monkeypatch):
    def run(*_):
        raise error

    monkeypatch.setattr(backend, "_run", run)
    with pytest.raises(BackendError, match="ONNX Runtime failed: RuntimeError: ") as caught:
        backend.infer(BLACK, False)
    return caught.value


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (700, "an illegal memory access was encountered"),
        (719, "unspecified launch failure"),
        (702, "the launch timed out and was terminated"),
        (214, "uncorrectable ECC error encountered"),
        (46, "all CUDA-capable devices are busy or unavailable"),
    ],
)
def test_a_lost_context_is_reported_and_the_next_backend_gets_a_new_one(
    cuda, pretend, monkeypatch, number, text
):
    backend, *_ = pretend(onnxruntime_backend.CUDA)
    with monkeypatch.context() as patch:
        error = fail_with(backend, failure(number, text), patch)
    assert error.lost
    assert f"CUDA failure {number}" in str(error)
    left = []
    reset = cuda.cuDevicePrimaryCtxReset
    cuda.cuDevicePrimaryCtxReset = lambda device: (left.append(backend._trunk), reset(device))[1]
    backend.close()
    backend.close()
    assert left == [None]  # once, and after the sessions
    assert cuda.everything_is_freed()


@pytest.mark.parametrize(
    "error",
    [
        failure(2, "out of memory", "cudaMalloc((void**)&p, 719)"),
        RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 700"),
        RuntimeError("CUDNN failure 2000: CUDNN_STATUS_BAD_PARAM ; GPU=0 ; line=700"),
    ],
)
def test_an_error_of_one_frame_is_not_a_lost_context(cuda, pretend, monkeypatch, error):
    backend, *_ = pretend(onnxruntime_backend.CUDA)
    with monkeypatch.context() as patch:
        assert not fail_with(backend, error, patch).lost
    backend.infer(BLACK, False)
    backend.close()
    assert cuda.resets == 0


def test_a_lost_context_is_reset_only_after_its_last_user(cuda, pretend, monkeypatch):
    backend, *_ = pretend(onnxruntime_backend.CUDA)
    gpu = cuda_memory.Gpu()
    with monkeypatch.context() as patch:
        fail_with(backend, failure(700, "an illegal memory access was encountered"), patch)
    backend.close()
    assert cuda.resets == 0
    gpu.close()
    assert cuda.resets == 1


def test_the_processors_backend_never_loses_a_device(tiny_manifest, monkeypatch):
    backend = open_backend("onnxruntime", tiny_manifest, BackendOptions(threads=1))
    assert not fail_with(backend, failure(700, "never"), monkeypatch).lost
