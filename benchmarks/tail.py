# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.tail: labels and confidence from scores, by every routine side by side.

The routines are the compiled one, OpenVINO's and ONNX Runtime's operators, each in one thread, and
they take turns. The figures are CPU time in ms, the median of all turns. The scores are those of
the shipped model for a frame of the demo's drive, or random if there are more classes than it has:
the compiled routine takes longest for scores that are close together.

Writes benchmarks/tail.json.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import openvino as ov

from sfseg_ros.backends.cut_graph import split_model_of
from sfseg_ros.backends.openvino_backend import new_core, upsample_argmax
from sfseg_ros.imaging import resized_rgb
from sfseg_ros.installed_files import DEFAULT_MODEL, DEMO_DRIVE, find_model, shared_file
from sfseg_ros.kernels.cpu_tail import installed_tail
from sfseg_ros.model.manifest import load_manifest
from sfseg_ros.recordings.pictures import sampled_pictures
from sfseg_ros.tools.machine import machine_facts

CASES = ((352, 480, 11), (1024, 2048, 11), (1024, 2048, 19))
STRIDE = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    rows = [
        row
        for height, width, classes in CASES
        for confidence in (False, True)
        for row in rows_of(height, width, classes, confidence, arguments.repeats)
    ]
    document = {
        "command": f"python -m benchmarks.tail --repeats {arguments.repeats}",
        "machine": dict(machine_facts()),
        "load_average": os.getloadavg()[0],
        "unit": "CPU ms per image, one thread",
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def rows_of(
    height: int, width: int, classes: int, confidence: bool, repeats: int
) -> list[dict[str, object]]:
    scores = scores_of(height, width, classes)
    routines = {
        "compiled": compiled(scores, confidence),
        "openvino": openvino_operators(scores, confidence),
        "onnxruntime": onnxruntime_operators(scores, confidence),
    }
    times: dict[str, list[float]] = {name: [] for name in routines}
    for turn in range(repeats + 1):
        for name, call in routines.items():
            begin = time.process_time()
            call()
            if turn:  # the first call prepares
                times[name].append((time.process_time() - begin) * 1e3)
    result = "labels, confidence" if confidence else "labels"
    rows: list[dict[str, object]] = []
    for name, measured in times.items():
        row = {"routine": name, "size": f"{height}x{width}", "classes": classes, "result": result}
        rows.append(row | {"cpu_ms": round(statistics.median(measured), 2)})
        print(", ".join(str(value) for value in rows[-1].values()), flush=True)
    return rows


def scores_of(height: int, width: int, classes: int) -> np.ndarray:
    """float32 (1, classes, height / 4, width / 4)."""
    manifest = load_manifest(find_model(DEFAULT_MODEL))
    if classes != len(manifest.classes):
        shape = (1, classes, height // STRIDE, width // STRIDE)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    drive = shared_file(DEMO_DRIVE)
    assert drive is not None
    picture = next(iter(sampled_pictures(drive, 1)))
    rgb = resized_rgb(picture.rgb, (height, width))
    session = ort.InferenceSession(split_model_of(manifest).trunk.SerializeToString())
    return np.asarray(session.run(None, {"image": rgb[None]})[0])


def compiled(scores: np.ndarray, confidence: bool) -> Callable[[], object]:
    def missing(text: str) -> None:
        raise SystemExit(text)

    tail = installed_tail(missing)
    assert tail is not None
    return partial(tail.labels_of, scores, STRIDE, confidence)


def openvino_operators(scores: np.ndarray, confidence: bool) -> Callable[[], object]:
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
    }
    graph = upsample_argmax(list(scores.shape), STRIDE, confidence)
    request = new_core().compile_model(graph, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(scores, shared_memory=True))
    infer: Callable[[], object] = request.infer
    return infer


def onnxruntime_operators(scores: np.ndarray, confidence: bool) -> Callable[[], object]:
    model = split_model_of(load_manifest(find_model(DEFAULT_MODEL)))
    body = model.confidence_tail if confidence else model.labels_tail
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(body.SerializeToString(), options)
    return partial(session.run, None, {session.get_inputs()[0].name: scores})


if __name__ == "__main__":
    main()
