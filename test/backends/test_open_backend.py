# SPDX-License-Identifier: Apache-2.0
import sys
import types

import pytest

from sfseg_ros.backends.choice import BACKENDS, open_backend
from sfseg_ros.backends.protocol import DEFAULT_OPTIONS, BackendOptions
from sfseg_ros.errors import BackendError, BackendUnavailableError

pytest.importorskip("onnxruntime")


@pytest.fixture
def uninstall(monkeypatch):
    """Make `import library` fail as if it were not installed."""

    def hide(library):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules, f"sfseg_ros.backends.{library}_backend", raising=False)

    return hide


def test_auto_takes_openvino_and_says_why(tiny_manifest):
    pytest.importorskip("openvino")
    backend = open_backend("auto", tiny_manifest)
    assert backend.name == "openvino"
    # What would have been faster, and why it was not taken.
    assert backend.reason.startswith("the best that works here; tensorrt")
    assert "onnxruntime-cuda: " in backend.reason
    assert "\n" not in backend.reason


def test_auto_takes_onnx_runtime_where_openvino_is_missing(tiny_manifest, uninstall):
    uninstall("openvino")
    backend = open_backend("auto", tiny_manifest)
    assert backend.name == "onnxruntime"
    assert "openvino cannot be imported" in backend.reason
    assert "pip install openvino" in backend.reason


def test_without_any_library_the_error_names_the_packages_to_install(tiny_manifest, uninstall):
    for library in ("tensorrt", "onnxruntime", "openvino"):
        uninstall(library)
    with pytest.raises(BackendError, match=r"pip install openvino onnx; or .*onnxruntime") as error:
        open_backend("auto", tiny_manifest)
    assert all(name in str(error.value) for name in BACKENDS)


def test_a_named_backend_is_not_replaced_by_another(tiny_manifest, uninstall):
    uninstall("openvino")
    with pytest.raises(BackendError, match=r"openvino cannot be imported.*pip install openvino"):
        open_backend("openvino", tiny_manifest)
    assert open_backend("onnxruntime", tiny_manifest).reason == "asked for"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torch", {}, "'torch': expected one of auto, tensorrt, onnxruntime-cuda, openvino"),
        ("auto", {"precision": "fp64"}, "'fp64': expected one of auto, fp32, bf16"),
        (
            "openvino",
            {"precision": "int8"},
            "openvino computes in fp32 or bf16 only",
        ),
        ("auto", {"threads": -1}, "threads is -1: expected 0"),
        ("auto", {"threads": 10**20}, r"expected 0 \(the library's choice\) to 256"),
        ("auto", {"gpu_wait": "poll"}, "gpu_wait 'poll': expected block or spin"),
        ("onnxruntime", {"precision": "bf16"}, "onnxruntime computes in fp32 only"),
    ],
)
def test_unknown_names_and_options_are_refused(tiny_manifest, name, options, message):
    with pytest.raises(BackendError, match=message):
        open_backend(name, tiny_manifest, BackendOptions(**options))


class Pretend:
    """A backend whose constructor raises `outcome` if that is an exception."""

    precisions = ("fp16",)
    name, description, precision, reason = "tensorrt", "pretend", "fp16", ""

    def __init__(self, manifest, options=DEFAULT_OPTIONS):
        if isinstance(self.outcome, Exception):
            raise self.outcome


@pytest.fixture
def pretend(monkeypatch):
    def install(outcome=None):
        Pretend.outcome = outcome
        module = types.ModuleType("sfseg_ros.backends.tensorrt.backend")
        module.TensorRtBackend = Pretend
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def test_auto_takes_the_gpu_first_where_it_works(tiny_manifest, pretend):
    pretend()
    backend = open_backend("auto", tiny_manifest)
    assert backend.name == "tensorrt"
    assert backend.reason == "the best"


def test_auto_passes_over_a_missing_gpu_and_names_the_reason(tiny_manifest, pretend):
    pretend(BackendUnavailableError("tensorrt: no device"))
    backend = open_backend("auto", tiny_manifest)
    assert backend.name in ("openvino", "onnxruntime")
    assert "tensorrt: no device" in backend.reason


def test_auto_does_not_hide_a_gpu_that_is_there_and_fails(tiny_manifest, pretend):
    pretend(BackendError("the engine cannot be built"))
    with pytest.raises(BackendError, match="cannot be built"):
        open_backend("auto", tiny_manifest)


def test_auto_passes_over_backends_without_the_precision(tiny_manifest, pretend):
    pretend()
    with pytest.raises(BackendError, match="only, not in int8") as error:
        open_backend("auto", tiny_manifest, BackendOptions("int8"))
    assert all(name in str(error.value) for name in BACKENDS)
