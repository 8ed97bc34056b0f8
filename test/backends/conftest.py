# SPDX-License-Identifier: Apache-2.0
"""Backends on an imitated GPU."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from imitated_cuda import cuda as bare_cuda  # noqa: F401
from imitated_tensorrt import (
    FakeTensorRt,
    FakeTensorRtRtx,
    add_kernels,
    painted,
    pretended_argmax,
    run_device_code,
)

from sfseg_ros.backends.protocol import BackendOptions
from sfseg_ros.backends.tensorrt import engine_builder, plugin
from sfseg_ros.backends.tensorrt.backend import TensorRtBackend
from sfseg_ros.backends.tensorrt.engine_builder import BuildResult
from sfseg_ros.backends.tensorrt.library import TensorRt
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import binaries


@pytest.fixture
def written(tmp_path, tiny_manifest):
    """Returns a manifest whose ONNX file is the tiny model after `edit`."""

    def write(edit):
        model = onnx.load(tiny_manifest.onnx_path)
        edit(model)
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        return replace(tiny_manifest, directory=tmp_path)

    return write


@pytest.fixture
def cuda(bare_cuda):  # noqa: F811
    """The imitated driver, with the kernels of the network's last node and of the colours."""
    add_kernels(bare_cuda, pretended_argmax, painted)
    return bare_cuda


@pytest.fixture
def host_kernels(cuda):
    """The same kernels by their device code, compiled for the processor."""
    add_kernels(cuda, run_device_code, run_device_code)


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
        form = b"+p" if request.plugins else b"-p"
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
