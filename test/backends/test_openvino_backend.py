# SPDX-License-Identifier: Apache-2.0
import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")
ort = pytest.importorskip("onnxruntime")

from sfseg_ros.backends.cut_graph import split_model_of  # noqa: E402
from sfseg_ros.backends.openvino_backend import (  # noqa: E402
    MAX_COMPILED_SIZES,
    OpenVinoBackend,
    new_core,
    upsample_argmax,
)
from sfseg_ros.backends.protocol import BackendOptions  # noqa: E402
from sfseg_ros.errors import BackendError  # noqa: E402
from sfseg_ros.installed_files import DEFAULT_MODEL, find_model  # noqa: E402
from sfseg_ros.kernels import cpu_tail  # noqa: E402


@pytest.fixture(scope="module")
def onnx_body(tiny_manifest):
    """The function's body in ONNX Runtime: scores -> labels, confidence."""
    model = split_model_of(tiny_manifest).confidence_tail.SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda scores: session.run(None, {session.get_inputs()[0].name: scores})


@pytest.fixture(scope="module")
def compiled_tail():
    def run(scores, confidence=True):
        model = upsample_argmax(list(scores.shape), 4, confidence)
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        results = new_core().compile_model(model, "CPU", options)(scores)
        return [results[index] for index in range(len(results))]

    return run


@pytest.mark.parametrize(
    "shape", [(1, 11, 22, 30), (2, 3, 5, 7), (1, 1, 4, 4), (1, 254, 4, 5), (1, 2, 1, 1)]
)
@pytest.mark.parametrize("amplitude", [0.01, 3.0, 80.0])
def test_the_tail_equals_the_body_in_the_onnx_file(onnx_body, compiled_tail, shape, amplitude):
    scores = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * amplitude
    expected_labels, expected_confidence = onnx_body(scores)
    labels, confidence = compiled_tail(scores)
    agreement = (labels == expected_labels).mean()
    # Libraries round the interpolation differently, which decides pixels where two classes tie.
    assert agreement > 0.9999
    assert np.abs(confidence.astype(int) - expected_confidence).max() <= 1
    np.testing.assert_array_equal(compiled_tail(scores, confidence=False)[0], labels)


def test_of_equal_scores_the_lowest_class_wins(onnx_body, compiled_tail):
    # Small whole numbers: interpolation at the corners and between equals is exact.
    scores = np.random.default_rng(0).integers(0, 2, (1, 5, 6, 6)).astype(np.float32)
    labels, _ = compiled_tail(scores)
    expected, _ = onnx_body(scores)
    corners = np.ix_([0, -1], [0, -1])
    np.testing.assert_array_equal(labels[0][corners], scores[0].argmax(axis=0)[corners])
    np.testing.assert_array_equal(expected[0][corners], scores[0].argmax(axis=0)[corners])
    everywhere_equal, _ = compiled_tail(np.ones((1, 5, 3, 3), np.float32))
    assert not everywhere_equal.any()


@pytest.fixture
def backend(tiny_manifest, monkeypatch):
    """With the library's own tail, which is compiled per size as the trunk is."""
    monkeypatch.setattr(cpu_tail, "LIBRARY", Path("not built"))
    return OpenVinoBackend(tiny_manifest, BackendOptions("fp32", threads=1))


def sizes(count):
    """Return `count` different (height, width) that the tiny model takes."""
    sides = range(32, 257, 32)
    return [(height, width) for height in sides for width in sides][:count]


def black(height, width, count=1):
    return np.zeros((count, height, width, 3), np.uint8)


class CountingCore:
    """An ov.Core that counts compilations and waits while `go_on` is not set."""

    def __init__(self, core):
        self.core = core
        self.compiled = 0
        self.compiling = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def compile_model(self, *arguments):
        self.compiled += 1
        self.compiling.set()
        assert self.go_on.wait(60)
        return self.core.compile_model(*arguments)


def test_only_the_last_sizes_stay_compiled(backend):
    for size in sizes(MAX_COMPILED_SIZES + 3):
        backend.infer(black(*size), confidence=False)
    assert len(backend._pipelines) == MAX_COMPILED_SIZES


def test_a_new_batch_size_compiles_nothing(backend):
    backend.infer(black(64, 96), confidence=True)
    backend._core = core = CountingCore(backend._core)
    for count in (1, 2, 3, 5):
        backend.infer(black(64, 96, count), confidence=True)
    assert core.compiled == 0
    backend.infer(black(96, 96), confidence=True)
    assert core.compiled == 2  # trunk and tail


def test_a_new_size_that_compiles_keeps_no_other_size_waiting(backend):
    backend.infer(black(64, 96), confidence=False)
    backend._core = core = CountingCore(backend._core)
    core.go_on.clear()
    newcomer = threading.Thread(target=backend.infer, args=(black(96, 96), False))
    newcomer.start()
    try:
        assert core.compiling.wait(60)
        backend.infer(black(64, 96), confidence=False)
        assert newcomer.is_alive()
    finally:
        core.go_on.set()
        newcomer.join()
    assert core.compiled == 2


def test_a_size_that_could_not_be_compiled_is_tried_again(backend, monkeypatch):
    compiled_trunk = backend._compiled_trunk
    failures = [RuntimeError("no memory\nleft")]

    def sometimes(*arguments):
        if failures:
            raise failures.pop()
        return compiled_trunk(*arguments)

    monkeypatch.setattr(backend, "_compiled_trunk", sometimes)
    with pytest.raises(BackendError, match="OpenVINO failed: RuntimeError: no memory left"):
        backend.infer(black(64, 96), confidence=False)
    labels, _ = backend.infer(black(64, 96), confidence=False)
    assert labels.shape == (1, 64, 96)


def output_of(program):
    """Return what the program prints about the shipped model, in a child process."""
    command = [sys.executable, "-c", program, str(find_model(DEFAULT_MODEL))]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


SIGNALS = """
import faulthandler, os, signal, sys
from sfseg_ros.backends.openvino_backend import OpenVinoBackend
from sfseg_ros.model.manifest import load_manifest
import numpy as np

faulthandler.enable()  # as pytest and many programs do
manifest = load_manifest(sys.argv[1])
backends = [OpenVinoBackend(manifest) for _ in range(2)]
for backend in backends:
    backend.infer(np.zeros((1, 64, 96, 3), np.uint8), confidence=False)
while backends:
    backends.pop(0).close()
signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_signals_arrive_after_two_models_followed_each_other():
    assert output_of(SIGNALS) == "interrupted\n"


THREADS = """
import sys
from pathlib import Path
import numpy as np
from sfseg_ros.backends.openvino_backend import OpenVinoBackend
from sfseg_ros.model.manifest import load_manifest

def threads():
    return len(list(Path("/proc/self/task").iterdir()))

def infer(backend, *sides):
    for side in sides:
        backend.infer(np.zeros((1, 64, side, 3), np.uint8), confidence=True)

manifest = load_manifest(sys.argv[1])
infer(OpenVinoBackend(manifest), 64)  # what the library itself keeps
before = threads()
backend = OpenVinoBackend(manifest)
infer(backend, 64, 96, 128, 160)
during = threads()
backend.close()
print(before, during, threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_a_closed_model_leaves_no_threads_even_if_it_is_still_referenced():
    before, during, after = map(int, output_of(THREADS).split())
    assert during >= before + 4, "counts nothing"
    assert after <= before + 2


USED_MEMORY = """
import ctypes, sys
import numpy as np
from sfseg_ros.backends.openvino_backend import OpenVinoBackend
from sfseg_ros.model.manifest import load_manifest

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")]
    _fields_ += [("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo
manifest = load_manifest(sys.argv[1])
sizes = [(h, w) for h in range(64, 225, 32) for w in range(64, 225, 32)]
for part in range(3):
    backend = OpenVinoBackend(manifest)
    for size in sizes[10 * part : 10 * part + 10]:
        backend.infer(np.zeros((1, *size, 3), np.uint8), confidence=True)
    backend.close()
    used = mallinfo2()
    print((used.uordblks + used.hblkhd) / 2**20)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="memory is counted by glibc 2.33 and later"
)
def test_a_closed_model_leaves_no_memory_however_many_sizes_it_saw():
    first, _, last = map(float, output_of(USED_MEMORY).split())
    assert last - first < 10, f"{first} MiB after ten sizes, {last} MiB after thirty"
