# SPDX-License-Identifier: Apache-2.0
"""Comparing a candidate with fp32: what is counted."""

import numpy as np
import onnx
import pytest

from sfseg_ros.backends.tensorrt.precision import ENGINE_PRECISIONS, plain_model
from sfseg_ros.errors import BackendError, SfsegError
from sfseg_ros.evaluation.engine_accuracy import MIN_AGREEMENT, labeller_of, measure
from sfseg_ros.recordings.pictures import LabelledPicture

SIZE = (64, 96)


def halves(left: int, right: int):
    """A labeller that returns `left` for the left half of the image and `right` for the other."""
    labels = np.full((1, *SIZE), left, np.uint8)
    labels[..., SIZE[1] // 2 :] = right
    return lambda rgb: labels


def picture(truth=None, size=SIZE):
    return LabelledPicture("p", np.zeros((*size, 3), np.uint8), truth)


def test_agreement_and_miou_are_counted_over_all_pixels(tiny_manifest):
    found = measure(halves(0, 1), halves(0, 2), [picture()] * 3, tiny_manifest, SIZE)
    assert found.pictures == 3
    assert found.pixel_agreement == 0.5
    assert found.miou_of_fp32 == pytest.approx(1 / 3)  # 1, 0 and 0
    assert found.miou is None
    assert "mIoU lost: not measured" in found.lines()[-1]


def test_labels_are_compared_with_truth_at_the_pictures_size(tiny_manifest):
    truth = np.zeros((128, 192), np.uint8)
    truth[:, 96:] = 1
    truth[0] = 255
    pictures = [picture(truth, (128, 192)), picture()]
    found = measure(halves(0, 1), halves(0, 2), pictures, tiny_manifest, SIZE)
    assert found.miou_fp32 == 1.0
    assert found.miou == pytest.approx(1 / 3)
    assert "+66.67 points lost" in found.lines()[-1]


@pytest.mark.parametrize(
    ("reference", "candidate", "truth", "words"),
    [
        (halves(0, 9), halves(0, 1), None, "labels without a class"),
        (halves(0, 1), lambda rgb: np.zeros((1, 2, 2), np.uint8), None, "labels have shape"),
        (halves(0, 1), halves(0, 1), np.full(SIZE, 77, np.uint8), "truth of p: truth holds 77"),
    ],
)
def test_labels_or_truth_that_do_not_fit_are_an_error(
    tiny_manifest, reference, candidate, truth, words
):
    with pytest.raises(SfsegError, match=words):
        measure(reference, candidate, [picture(truth)], tiny_manifest, SIZE)


def test_no_picture_is_an_error(tiny_manifest):
    with pytest.raises(BackendError, match="no pictures"):
        measure(halves(0, 1), halves(0, 1), [], tiny_manifest, SIZE)


def test_the_labeller_returns_the_networks_labels(tiny_manifest):
    labeller = labeller_of(plain_model(onnx.load(tiny_manifest.onnx_path)))
    rgb = np.zeros((1, *SIZE, 3), np.uint8)
    rgb[..., 1] = 255
    np.testing.assert_array_equal(labeller(rgb), np.ones((1, *SIZE), np.uint8))


def test_every_precision_has_a_threshold():
    assert set(MIN_AGREEMENT) == set(ENGINE_PRECISIONS)
