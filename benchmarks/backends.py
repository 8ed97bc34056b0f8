# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.backends MODEL: every backend and precision of this machine side by side.

Other programs change the CPU time little, but the wall time much; wall time is therefore recorded
only on an idle machine.
Agreement is the share of pixels with the label of ONNX Runtime in fp32, on a picture of smooth
noise, whose classes have closer scores than those of a street. Writes benchmarks/backends.json.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import openvino as ov

from sfseg_ros.backends.choice import open_backend
from sfseg_ros.backends.cut_graph import split_model_of
from sfseg_ros.backends.openvino_backend import new_core, upsample_argmax
from sfseg_ros.backends.processor import bf16_unit
from sfseg_ros.backends.protocol import Backend, BackendOptions
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.installed_files import find_model
from sfseg_ros.model.manifest import Manifest, load_manifest
from sfseg_ros.tools.machine import machine_facts

Row = dict[str, str | float]
QUIET = os.getloadavg()[0] < 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model directory or name")
    parser.add_argument("--sizes", nargs="+", default=["352x480", "1024x2048"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch", type=int, help="this number of images at once, instead")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    manifest = load_manifest(find_model(arguments.model))
    rows: list[Row] = []
    for size in arguments.sizes:
        height, width = (int(side) for side in size.split("x"))
        if arguments.batch:
            rows += batch_rows(manifest, height, width, arguments.batch, arguments.repeats)
        else:
            rows += whole_model_rows(manifest, height, width, arguments.repeats)
            rows += tail_rows(manifest, height, width, arguments.repeats)
    document = {
        "command": f"python -m benchmarks.backends {manifest.name} "
        f"--sizes {' '.join(arguments.sizes)} --repeats {arguments.repeats}"
        + (f" --batch {arguments.batch}" if arguments.batch else ""),
        "onnx_sha256": manifest.onnx_sha256,
        "machine": dict(machine_facts()),
        "load_average": os.getloadavg()[0],
        "unit": "ms per frame",
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def whole_model_rows(manifest: Manifest, height: int, width: int, repeats: int) -> list[Row]:
    rgb = smooth_noise(height, width)
    rows: list[Row] = []
    reference: Uint8Array | None = None
    for name, precision in backends_of_this_machine():
        backend = open_backend(name, manifest, BackendOptions(precision))
        labels, _ = backend.infer(rgb, confidence=False)
        reference = labels if reference is None else reference
        agreement = round(float((labels == reference).mean()), 6)
        for confidence in (False, True):
            what = f"{name} {precision} {height}x{width} labels{' + confidence' * confidence}"
            row = measured(what, partial(backend.infer, rgb, confidence), repeats)
            rows.append(row | {"backend": backend.description, "agreement": agreement})
        backend.close()
    return rows


def batch_rows(manifest: Manifest, height: int, width: int, batch: int, repeats: int) -> list[Row]:
    """Infer `batch` images in one call, one by one, and with OpenVINO compiled for the batch. Our
    OpenVINO backend does not compile for the batch."""
    rgb = smooth_noise(height, width).repeat(batch, axis=0)
    rows: list[Row] = []
    for name, precision in backends_of_this_machine():
        what = f"{name} {precision} {height}x{width} {batch} images"
        backend = open_backend(name, manifest, BackendOptions(precision))
        calls: dict[str, Callable[[], object]] = {
            "one call": partial(backend.infer, rgb, confidence=False),
            "one by one": partial(infer_one_by_one, backend, rgb),
        }
        if name == "openvino":
            calls["compiled for the batch"] = openvino_batch(manifest, rgb, precision)
        for how, call in calls.items():
            row = measured(f"{what}, {how}", call, repeats, frames=batch)
            rows.append(row | {"backend": backend.description})
        backend.close()
    return rows


def infer_one_by_one(backend: Backend, rgb: Uint8Array) -> None:
    for image in rgb:
        backend.infer(image[None], confidence=False)


def openvino_batch(manifest: Manifest, rgb: Uint8Array, precision: str) -> Callable[[], object]:
    """Return a function that infers labels of uint8 (N, H, W, 3), compiled for this N."""
    core = new_core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    trunk_options = options | {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    model = core.read_model(split_model_of(manifest).trunk.SerializeToString())
    model.reshape(list(rgb.shape))
    trunk = core.compile_model(model, "CPU", trunk_options).create_infer_request()
    trunk.set_input_tensor(ov.Tensor(rgb, shared_memory=True))
    scores = trunk.get_output_tensor()
    labels = upsample_argmax(list(scores.shape), manifest.output_stride, confidence=False)
    tail = core.compile_model(labels, "CPU", options).create_infer_request()
    tail.set_input_tensor(scores)
    return lambda: (trunk.infer(), tail.infer())


def backends_of_this_machine() -> list[tuple[str, str]]:
    """(name, precision), the reference first."""
    kinds = [("onnxruntime", "fp32"), ("openvino", "fp32")]
    return [*kinds, ("openvino", "bf16")] if bf16_unit() else kinds


def tail_rows(manifest: Manifest, height: int, width: int, repeats: int) -> list[Row]:
    """Time UpsampleArgmax alone: its body in the ONNX file, and the tail of openvino_backend.py."""
    shape = [1, len(manifest.classes), height // 4, width // 4]
    scores = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model = split_model_of(manifest)
    core = new_core()
    rows: list[Row] = []
    for confidence, body in ((False, model.labels_tail), (True, model.confidence_tail)):
        name = f"{height}x{width} labels{' + confidence' * confidence}"
        session = ort.InferenceSession(body.SerializeToString(), providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: scores}
        run = partial(session.run, None, feed)
        rows.append(measured(f"tail onnxruntime body {name}", run, repeats))
        openvino_body = core.read_model(body.SerializeToString())
        openvino_body.reshape(shape)
        ours = upsample_argmax(shape, manifest.output_stride, confidence)
        for what, graph in (("body", openvino_body), ("ours", ours)):
            options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
            request = core.compile_model(graph, "CPU", options).create_infer_request()
            request.set_input_tensor(ov.Tensor(scores, shared_memory=True))
            rows.append(measured(f"tail openvino {what} {name}", request.infer, repeats))
    return rows


def measured(what: str, call: Callable[[], object], repeats: int, frames: int = 1) -> Row:
    """Return median wall and mean CPU time in ms per frame of calls with `frames` frames each. The
    first call is a warm-up and does not count."""
    call()
    wall = []
    cpu = time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        wall.append((time.perf_counter() - start) * 1e3 / frames)
    cpu_ms = (time.process_time() - cpu) * 1e3 / repeats / frames
    row: Row = {"what": what, "cpu_ms": round(cpu_ms, 2)}
    if QUIET:
        row["wall_ms_min"] = round(min(wall), 2)
        row["wall_ms_p50"] = round(statistics.median(wall), 2)
    print(", ".join(str(value) for value in row.values()), flush=True)
    return row


def smooth_noise(height: int, width: int) -> Uint8Array:
    """uint8 (1, H, W, 3): shapes of many sizes and colours, always the same."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(picture, np.uint8)[None]


if __name__ == "__main__":
    main()
