# SPDX-License-Identifier: Apache-2.0
"""The compiled tail against the reference, for AVX2 and for any processor."""

import subprocess

import numpy as np
import pytest

from sfseg_ros.errors import BackendError
from sfseg_ros.kernels.cpu_tail import SOURCE, compiled_tail
from sfseg_ros.kernels.upsample_argmax import upsample_argmax

FUNCTIONS = ["sfseg_upsample_argmax", "sfseg_upsample_argmax_generic"]


@pytest.fixture(scope="session")
def library(tmp_path_factory, cxx_compiler):
    built = tmp_path_factory.mktemp("cpu_tail") / "tail.so"
    subprocess.run(
        [
            *("cc", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wno-psabi"),
            *(
                "-fsanitize=bounds",
                "-fsanitize-undefined-trap-on-error",
                "-o",
                built,
                SOURCE,
                "-lm",
            ),
        ],
        check=True,
    )
    return built


@pytest.fixture(params=FUNCTIONS)
def tail(library, request):
    return compiled_tail(library, request.param)


def run(tail, scores, stride, confidence=True):
    size = (scores.shape[2] * stride, scores.shape[3] * stride)
    labels = np.full((len(scores), *size), 77, np.uint8)
    certainty = np.full_like(labels, 77)
    for i in range(len(scores)):
        tail.run(scores[i], stride, labels[i], certainty[i] if confidence else None)
    return labels, certainty


def compare(tail, scores, stride):
    labels, certainty = upsample_argmax(scores, stride)
    found, confidence = run(tail, scores, stride)
    np.testing.assert_array_equal(found, labels)
    assert np.abs(confidence.astype(int) - certainty).max() <= 1
    np.testing.assert_array_equal(run(tail, scores, stride, confidence=False)[0], labels)


def flat_regions(rng, shape):
    """Scores that change rarely, as a network's do, so that most blocks agree."""
    coarse = rng.normal(0, 12, (*shape[:2], -(-shape[2] // 5), -(-shape[3] // 5)))
    return coarse.repeat(5, 2).repeat(5, 3)[:, :, : shape[2], : shape[3]]


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("shape", [(1, 11, 22, 30), (2, 19, 9, 41), (1, 1, 3, 5), (1, 255, 2, 9)])
@pytest.mark.parametrize("kind", ["noise", "faint", "flat", "ties"])
def test_labels_have_the_bits_of_the_reference_and_confidence_differs_by_at_most_1(
    tail, shape, stride, kind
):
    rng = np.random.default_rng(sum(shape) + stride)
    scores = flat_regions(rng, shape) if kind == "flat" else rng.normal(0, 4, shape)
    if kind == "faint":
        scores *= 1e-4
    if kind == "ties":
        scores = np.round(scores)
    compare(tail, np.ascontiguousarray(scores, np.float32), stride)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (1, 8), (3, 17)])
def test_maps_smaller_than_a_block(tail, size):
    rng = np.random.default_rng(7)
    compare(tail, rng.normal(0, 3, (1, 5, *size)).astype(np.float32), 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_scores_that_are_not_finite(tail, value, share):
    rng = np.random.default_rng(3)
    for scale in (1, 40):
        scores = rng.normal(0, scale, (1, 6, 12, 26)).astype(np.float32)
        scores[rng.random(scores.shape) < share] = value
        compare(tail, scores, 4)


def test_a_missing_library_is_none_and_a_broken_one_an_error(tmp_path):
    assert compiled_tail(tmp_path / "none.so") is None
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    with pytest.raises(BackendError, match="broken.so: cannot be loaded"):
        compiled_tail(broken)


@pytest.mark.parametrize(
    ("scores", "stride", "labels"),
    [
        (np.zeros((3, 4, 4), np.float64), 4, np.zeros((16, 16), np.uint8)),
        (np.zeros((256, 4, 4), np.float32), 4, np.zeros((16, 16), np.uint8)),
        (np.zeros((3, 4, 4), np.float32), 0, np.zeros((0, 0), np.uint8)),
        (np.zeros((3, 4, 4), np.float32), 4, np.zeros((16, 15), np.uint8)),
        (np.zeros((3, 4, 4), np.float32), 4, np.zeros((16, 32), np.uint8)[:, ::2]),
        (np.zeros((3, 8, 4), np.float32)[:, ::2], 4, np.zeros((16, 16), np.uint8)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tail, scores, stride, labels):
    with pytest.raises(BackendError, match="expected"):
        tail.run(scores, stride, labels)
