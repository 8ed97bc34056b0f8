# SPDX-License-Identifier: Apache-2.0
"""The build's child process: what happens when it crashes, hangs, is cancelled or loses its
parent. A module in place of the library behaves badly; `test_engines.py` builds real engines."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
import pytest

from sfseg_ros.backends.tensorrt.engine_builder import (
    BuildRequest,
    engine_from_onnx,
    layers_of_inspector,
    prepare,
)
from sfseg_ros.errors import BackendError

ROOT = Path(__file__).resolve().parents[3]
REQUEST = BuildRequest(((1, 64, 96, 3),) * 3, plugins=False, library="tensorrt_rtx")

LIBRARY = """
import os, sys, time
from pathlib import Path

__version__ = "1.7.1"

class ILogger:
    class Severity:
        ERROR, WARNING = 1, 2

class Builder:
    def __init__(self, log):
        Path({pid_file!r}).write_text(str(os.getpid()))
        {behaviour}
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """(what Builder does) -> the file in which the child writes its process id."""

    def make(behaviour: str) -> Path:
        folder = tmp_path / "library"
        folder.mkdir()
        pid_file = tmp_path / "pid"
        (folder / "tensorrt_rtx.py").write_text(
            LIBRARY.format(pid_file=str(pid_file), behaviour=behaviour)
        )
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        return pid_file

    return make


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, "the child still runs"
        time.sleep(0.05)


def build(tiny_manifest, progress=lambda _: None, cancelled=lambda: False):
    return engine_from_onnx(onnx.load(tiny_manifest.onnx_path), REQUEST, progress, cancelled)


def test_a_crash_becomes_one_error_with_the_last_words(library, tiny_manifest):
    library("print('out of patience', flush=True); os.abort()")
    with pytest.raises(BackendError) as caught:
        build(tiny_manifest)
    assert "ended by SIGABRT; its last output: out of patience" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_crash_without_a_word(library, tiny_manifest):
    library("os.kill(os.getpid(), 11)")
    with pytest.raises(BackendError, match="ended by SIGSEGV; its last output: none"):
        build(tiny_manifest)


def test_an_exception_of_the_library_is_its_last_word(library, tiny_manifest):
    library("raise RuntimeError('no such luck')")
    with pytest.raises(BackendError, match="ended with code 1; .*RuntimeError: no such luck"):
        build(tiny_manifest)


def test_bytes_that_are_no_text_do_not_matter(library, tiny_manifest):
    library("os.write(1, b'\\xff\\xfe \\n' * 3); os._exit(7)")
    with pytest.raises(BackendError, match="ended with code 7"):
        build(tiny_manifest)


def test_an_early_success_without_an_engine_is_an_error(library, tiny_manifest):
    library("os._exit(0)")
    with pytest.raises(BackendError, match="left no result"):
        build(tiny_manifest)


def test_a_full_disk_is_said_with_the_folder(library, tiny_manifest, monkeypatch, tmp_path):
    library("os._exit(0)")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(BackendError, match="missing .*free space there or set TMPDIR"):
        build(tiny_manifest)


def test_progress_arrives_while_the_build_goes_on(library, tiny_manifest):
    library("time.sleep(60)")
    said = []
    start = time.monotonic()

    def cancelled():
        return bool(said) or time.monotonic() - start > 30

    with pytest.raises(BackendError, match="cancelled"):
        build(tiny_manifest, said.append, cancelled)
    assert said == ["TensorRT-RTX 1.7.1: reading the network"]


def test_cancelling_ends_the_child_at_once(library, tiny_manifest):
    pid_file = library("time.sleep(60)")
    with pytest.raises(BackendError, match="the engine's build was cancelled"):
        build(tiny_manifest, cancelled=lambda: pid_file.exists() and pid_file.read_text() != "")
    wait_until_dead(int(pid_file.read_text()))


def test_an_exception_of_the_caller_ends_the_child(library, tiny_manifest):
    """Ctrl-C, for one."""
    pid_file = library("time.sleep(60)")

    def interrupt():
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        build(tiny_manifest, cancelled=interrupt)
    wait_until_dead(int(pid_file.read_text()))


PARENT = """
import sys, onnx
from sfseg_ros.backends.tensorrt.engine_builder import BuildRequest, engine_from_onnx
request = BuildRequest(((1, 64, 96, 3),) * 3, plugins=False, library="tensorrt_rtx")
engine_from_onnx(onnx.load(sys.argv[1]), request)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux")
def test_a_child_whose_parent_is_killed_ends_too(library, tiny_manifest):
    pid_file = library("time.sleep(60)")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tiny_manifest.onnx_path)], env=environment
    )
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int(pid_file.read_text())
    assert is_alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until_dead(child)


# --- forms and layers ---------------------------------------------------------------------------


def test_a_portable_engine_needs_the_bodies(tiny_manifest):
    model = onnx.load(tiny_manifest.onnx_path)
    del model.functions[:]
    with pytest.raises(BackendError, match="lacks the standard-ONNX body of sfseg::FlowWarp"):
        prepare(model, plugins=False)
    assert {n.op_type for n in prepare(model, plugins=True).graph.node} > {"FlowWarp"}


def test_layers_are_read_from_the_inspectors_json():
    """The forms in which TensorRT 8 to 11 write types; not run on a GPU."""
    text = """{"Layers": [
      {"Name": "a", "LayerType": "CaskConvolution",
       "Inputs": [{"Name": "x", "Format/Datatype": "Half"}],
       "Outputs": [{"Name": "y", "Format/Datatype": "Channel major FP16 format where C % 8 == 0"}]},
      {"Name": "b", "LayerType": "CaskConvolution",
       "Inputs": [{"Format/Datatype": "Int8 NHWC"}], "Outputs": [{"Format/Datatype": "Half"}]},
      {"Name": "c", "LayerType": "Myelin", "Outputs": [{"Format/Datatype": "BFloat16"}]},
      {"Name": "d", "LayerType": "kgen", "Outputs": [{"Format/Datatype": "Float, row-major"}]},
      {"Name": "e"},
      "only a name"
    ], "Bindings": []}"""
    assert layers_of_inspector(text) == [
        ("a", "CaskConvolution", "fp16"),
        ("b", "CaskConvolution", "int8"),
        ("c", "Myelin", "bf16"),
        ("d", "kgen", "fp32"),
        ("e", "", "unknown"),
        ("only a name", "", "unknown"),
    ]


def test_the_next_builder_removes_the_folder_of_a_killed_one(
    library, tiny_manifest, monkeypatch, tmp_path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("sfseg_engine_dead", "sfseg_engine_used", "sfseg_engine_new"):
        (tmp_path / name).mkdir()
    for name in ("sfseg_engine_dead", "sfseg_engine_used"):
        (tmp_path / name / "model.onnx").write_bytes(b"x" * 999)
    lock = os.open(tmp_path / "sfseg_engine_used", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    library("os._exit(1)")
    with pytest.raises(BackendError):
        build(tiny_manifest)
    os.close(lock)
    left = sorted(path.name for path in tmp_path.glob("sfseg_engine_*"))
    assert left == ["sfseg_engine_new", "sfseg_engine_used"]
