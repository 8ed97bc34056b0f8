# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

ov = pytest.importorskip("openvino")
ort = pytest.importorskip("onnxruntime")

from sfseg_ros.backends.graph import split_model_of  # noqa: E402
from sfseg_ros.backends.openvino_backend import (  # noqa: E402
    MAX_COMPILED_SIZES,
    OpenVinoBackend,
    upsample_argmax,
)


@pytest.fixture(scope="module")
def onnx_body(tiny_manifest):
    """scores -> labels, confidence by the function's body, run by ONNX Runtime."""
    model = split_model_of(tiny_manifest).confidence_tail.SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda scores: session.run(None, {session.get_inputs()[0].name: scores})


@pytest.fixture(scope="module")
def compiled_tail():
    def run(scores, confidence=True):
        model = upsample_argmax(list(scores.shape), 4, confidence)
        results = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(scores)
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


def test_only_the_last_sizes_stay_compiled(tiny_manifest):
    backend = OpenVinoBackend(tiny_manifest, "fp32", threads=1)
    for width in range(32, 32 * (MAX_COMPILED_SIZES + 3), 32):
        backend.infer(np.zeros((1, 32, width, 3), np.uint8), confidence=False)
    assert len(backend._pipelines) == MAX_COMPILED_SIZES
