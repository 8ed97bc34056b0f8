# SPDX-License-Identifier: Apache-2.0
"""The accuracy gate: measure an engine against fp32, and refuse it below a threshold."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from sfseg_ros.backends.cut_graph import model_of
from sfseg_ros.backends.tensorrt.engine_store import EngineStore, StoredEngine
from sfseg_ros.backends.tensorrt.precision import typed_model
from sfseg_ros.errors import BackendError
from sfseg_ros.evaluation.engine_accuracy import MIN_AGREEMENT, Labeller, labeller_of, measure
from sfseg_ros.kernels.cuda_memory import gpu_is_there
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.recordings.pictures import LabelledPicture
from sfseg_ros.tools.terminal import complain, say

TIMED_RUNS = 50


def is_accurate(
    manifest: Manifest,
    stored: StoredEngine,
    pictures: Iterable[LabelledPicture],
    threshold: float | None,
    store: EngineStore,
) -> bool:
    """Measure, print and store the accuracy; returns False if the engine is refused.

    Without a GPU the engine's graph runs in ONNX Runtime instead of the engine.
    """
    model = model_of(manifest)
    size = stored.key.shapes[1][1:3]
    threshold = MIN_AGREEMENT[stored.key.precision] if threshold is None else threshold
    reference = labeller_of(typed_model(model, "fp32"))
    on_gpu = gpu_is_there()
    if on_gpu:
        what = "the engine on this GPU"
        runner: contextlib.AbstractContextManager[Labeller] = _engine_labeller(manifest, stored)
    else:
        what = "the engine's graph in ONNX Runtime, rounded as its types say"
        ranges = (stored.about.get("calibration") or {}).get("ranges")
        candidate = labeller_of(typed_model(model, stored.key.precision, ranges))
        runner = contextlib.nullcontext(candidate)
    inference_ms = None
    with runner as candidate:
        accuracy = measure(reference, candidate, pictures, manifest, size, say)
        if on_gpu:
            inference_ms = _inference_ms(candidate, size)
    accepted = accuracy.pixel_agreement >= threshold
    measured = accuracy.as_dict() | {
        "threshold": threshold,
        "accepted": accepted,
        "engine_ran": on_gpu,
        "inference_ms": inference_ms,
    }
    store.remember(stored, {"accuracy": measured})  # before printing, which can be interrupted
    print(f"accuracy of {what}, against fp32 in ONNX Runtime:")
    for line in accuracy.lines():
        print(f"  {line}")
    if inference_ms is None:
        print("  speed won: not measured: no GPU")
        print("  the engine itself did not run: no GPU")
    else:
        for line in _speed_lines(store, manifest.name, stored, inference_ms):
            print(f"  {line}")
    if not accepted:
        complain(
            f"sfseg engine: refused: {100 * accuracy.pixel_agreement:.3f} % of the pixels agree "
            f"with fp32, {100 * threshold:g} % are required (--min-agreement); use another "
            "precision, or calibrate with more pictures of the camera"
        )
    return accepted


@contextlib.contextmanager
def _engine_labeller(manifest: Manifest, stored: StoredEngine) -> Iterator[Labeller]:
    """The engine in the backend that the node uses; never run on a GPU so far."""
    from sfseg_ros.backends.tensorrt.backend import TensorRtBackend

    backend = TensorRtBackend(manifest, only=stored)
    try:
        yield lambda rgb: backend.infer(rgb, confidence=False)[0]
    finally:
        backend.close()


def _inference_ms(runner: Labeller, size: tuple[int, int]) -> float:
    """Median time of one image, from host memory to host memory."""
    black = np.zeros((1, *size, 3), np.uint8)
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        runner(black)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[TIMED_RUNS // 5 :]))


def _speed_lines(
    store: EngineStore, manifest_name: str, stored: StoredEngine, ms: float
) -> Iterator[str]:
    """The engine's time, compared with verified engines that differ only in precision."""
    yield f"speed: {ms:.2f} ms for one image, from host memory to host memory"
    alone = True
    for _, other in store.engines(manifest_name):
        if isinstance(other, BackendError) or other.path == stored.path:
            continue
        other_ms = (other.about.get("accuracy") or {}).get("inference_ms")
        key = replace(other.key, precision=stored.key.precision, calibration=stored.key.calibration)
        if other_ms and key == stored.key:
            alone = False
            yield f"speed won over {other.key.precision}: {other_ms:.2f} ms, {other_ms / ms:.2f} x"
    if alone:
        yield "speed won: not known, no other precision of this engine was verified here"
