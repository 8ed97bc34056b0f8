# SPDX-License-Identifier: Apache-2.0
import sys

import pytest

from sfseg_ros.backends import BACKENDS, open_backend
from sfseg_ros.errors import BackendError

pytest.importorskip("onnxruntime")


@pytest.fixture
def uninstall(monkeypatch):
    """Makes `import library` fail as if it were not installed."""

    def hide(library):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules, f"sfseg_ros.backends.{library}_backend", raising=False)

    return hide


def test_auto_takes_openvino_and_says_why(tiny_manifest):
    pytest.importorskip("openvino")
    backend = open_backend("auto", tiny_manifest)
    assert backend.name == "openvino"
    assert backend.reason == "the fastest on processors, and it is installed"


def test_auto_takes_onnx_runtime_where_openvino_is_missing(tiny_manifest, uninstall):
    uninstall("openvino")
    backend = open_backend("auto", tiny_manifest)
    assert backend.name == "onnxruntime"
    assert "openvino cannot be imported" in backend.reason
    assert "pip install openvino" in backend.reason


def test_no_library_at_all_says_what_to_install(tiny_manifest, uninstall):
    for library in BACKENDS:
        uninstall(library)
    with pytest.raises(BackendError, match=r"pip install openvino onnx; or .*onnxruntime"):
        open_backend("auto", tiny_manifest)


def test_a_named_backend_is_not_replaced_by_another(tiny_manifest, uninstall):
    uninstall("openvino")
    with pytest.raises(BackendError, match=r"openvino cannot be imported.*pip install openvino"):
        open_backend("openvino", tiny_manifest)
    assert open_backend("onnxruntime", tiny_manifest).reason == "asked for"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tensorrt"}, "'tensorrt' does not exist yet"),
        ({"name": "torch"}, "'torch': expected one of auto, openvino, onnxruntime"),
        ({"name": "auto", "precision": "int8"}, "'int8': expected one of auto, fp32, bf16"),
        ({"name": "auto", "threads": -1}, "threads is -1: expected 0"),
        ({"name": "onnxruntime", "precision": "bf16"}, "onnxruntime computes in fp32 only"),
    ],
)
def test_what_does_not_exist_is_refused(tiny_manifest, arguments, message):
    with pytest.raises(BackendError, match=message):
        open_backend(manifest=tiny_manifest, **arguments)
