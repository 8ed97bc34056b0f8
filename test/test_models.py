# SPDX-License-Identifier: Apache-2.0
"""The committed models: intact, equal in every library, and equal to their golden labels.

`PYTHONPATH=. python test/test_models.py` rewrites the golden labels; commit a change of
numbers separately.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sfseg_ros.backends.choice import open_backend
from sfseg_ros.backends.processor import bf16_unit
from sfseg_ros.backends.protocol import BackendOptions
from sfseg_ros.model.manifest import load_manifest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "data" / "golden_labels"
MODELS = sorted(path.parent for path in (ROOT / "models").glob("*/manifest.yaml"))


def test_the_repository_holds_a_model():
    assert MODELS, "models/ has no manifest.yaml: the committed model is missing"


def street(height, width):
    """Sky, houses, road, a car and trees as flat shapes with some noise, uint8 (1, H, W, 3)."""
    canvas = np.full((360, 480, 3), (150, 180, 220), np.uint8)
    for left, top, colour in ((0, 90, (140, 110, 90)), (120, 130, (170, 150, 130))):
        cv2.rectangle(canvas, (left, top), (left + 110, 230), colour, -1)
    cv2.rectangle(canvas, (360, 60), (480, 240), (120, 90, 80), -1)
    cv2.circle(canvas, (300, 170), 55, (50, 90, 40), -1)
    road = np.array([(180, 215), (300, 215), (480, 360), (0, 360)])
    cv2.fillPoly(canvas, [road], (95, 95, 100))
    cv2.line(canvas, (240, 220), (240, 360), (210, 210, 210), 4)
    cv2.rectangle(canvas, (270, 230), (330, 265), (150, 20, 25), -1)
    cv2.line(canvas, (90, 60), (90, 260), (60, 60, 60), 5)
    grain = np.random.default_rng(0).integers(-12, 13, canvas.shape)
    picture = np.clip(canvas.astype(int) + grain, 0, 255).astype(np.uint8)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)[None]


@pytest.fixture(scope="module", params=MODELS, ids=lambda path: path.name)
def manifest(request):
    return load_manifest(request.param)


@pytest.fixture(scope="module")
def onnx_runtime(manifest):
    pytest.importorskip("onnxruntime")
    return open_backend("onnxruntime", manifest)


@pytest.fixture(scope="module")
def openvino(manifest):
    pytest.importorskip("openvino")
    return open_backend("openvino", manifest, BackendOptions("fp32"))


def test_the_folder_has_the_name_of_the_model(manifest):
    assert manifest.directory.name == manifest.name


@pytest.mark.parametrize("scale", ["input", "smallest", "tall"])
def test_the_libraries_agree_in_fp32(manifest, onnx_runtime, openvino, scale):
    low, size = manifest.min_size, manifest.input_size
    height, width = {"input": size, "smallest": low, "tall": (size[1], low[1])}[scale]
    rgb = street(height, width)
    labels, confidence = onnx_runtime.infer(rgb, confidence=True)
    others, certainty = openvino.infer(rgb, confidence=True)
    assert (labels == others).mean() >= 0.999
    assert np.abs(confidence.astype(int) - certainty).mean() < 0.5
    assert labels.max() < len(manifest.classes)


@pytest.mark.skipif(bf16_unit() is None, reason="this processor has no bf16 unit")
def test_bf16_changes_few_labels(manifest, openvino):
    rgb = street(*manifest.input_size)
    labels, _ = openvino.infer(rgb, confidence=False)
    bf16 = open_backend("openvino", manifest, BackendOptions("bf16"))
    rounded, _ = bf16.infer(rgb, confidence=False)
    assert (labels == rounded).mean() > 0.97


def test_labels_equal_the_committed_golden_labels(manifest, onnx_runtime):
    golden = cv2.imread(str(GOLDEN / f"{manifest.name}.png"), cv2.IMREAD_UNCHANGED)
    command = "PYTHONPATH=. python test/test_models.py"
    assert golden is not None, f"missing: {command}, look at it, and commit it"
    labels, _ = onnx_runtime.infer(street(*manifest.input_size), confidence=False)
    assert (labels[0] == golden).mean() >= 0.999


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        known = load_manifest(model)
        written, _ = open_backend("onnxruntime", known).infer(street(*known.input_size), False)
        cv2.imwrite(str(GOLDEN / f"{known.name}.png"), written[0])
        print(GOLDEN / f"{known.name}.png")
