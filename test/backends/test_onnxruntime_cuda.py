# SPDX-License-Identifier: Apache-2.0
"""What can be known of backend onnxruntime-cuda without a GPU; the rest is in test_contract.py."""

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime")

from sfseg_ros.backends import onnxruntime_backend, open_backend  # noqa: E402
from sfseg_ros.errors import BackendUnavailableError  # noqa: E402


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
        backend = open_backend("onnxruntime-cuda", tiny_manifest, threads=1)
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
    plain = open_backend("onnxruntime", tiny_manifest, threads=1)
    rgb = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    for confidence in (False, True):
        for found, expected in zip(backend.infer(rgb, confidence), plain.infer(rgb, confidence)):
            np.testing.assert_array_equal(found, expected)


def test_it_computes_in_fp32_only(pretend, tiny_manifest):
    with pytest.raises(BackendUnavailableError, match="computes in fp32 only, not in fp16"):
        open_backend("onnxruntime-cuda", tiny_manifest, "fp16")
