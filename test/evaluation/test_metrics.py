# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sfseg_ros.evaluation.metrics import ConfusionMatrix

CLASSES = 4
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=6)


@st.composite
def predictions_with_truth(draw):
    shape = draw(SHAPES)
    labels = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 9, 255])))
    truth = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255])))
    return labels, truth


def slow_iou(labels, truth, index):
    """IoU by definition, one pixel at a time; None for a class in neither truth nor prediction."""
    hits = misses = false_alarms = 0
    for label, true in zip(labels.flat, truth.flat, strict=True):
        if true == 255:
            continue
        hits += label == index and true == index
        misses += label != index and true == index
        false_alarms += label == index and true != index
    union = hits + misses + false_alarms
    return hits / union if union else None


@given(predictions_with_truth())
def test_iou_and_accuracy_equal_their_definitions(pair):
    labels, truth = pair
    confusion = ConfusionMatrix(CLASSES)
    confusion.update(labels, truth)
    expected = [slow_iou(labels, truth, index) for index in range(CLASSES)]
    for value, slow in zip(confusion.iou(), expected, strict=True):
        assert np.isnan(value) if slow is None else value == slow
    present = [value for value in expected if value is not None]
    counted = truth != 255
    if present:
        assert confusion.miou() == pytest.approx(np.mean(present))
        assert confusion.pixel_accuracy() == pytest.approx((labels == truth)[counted].mean())
    else:
        assert np.isnan(confusion.miou())
        assert np.isnan(confusion.pixel_accuracy())


@given(predictions_with_truth(), predictions_with_truth())
def test_merging_equals_counting_together(first, second):
    together, left, right = (ConfusionMatrix(CLASSES) for _ in range(3))
    for labels, truth in (first, second):
        together.update(labels, truth)
    left.update(*first)
    right.update(*second)
    left.merge(right)
    np.testing.assert_array_equal(left.matrix, together.matrix)
    np.testing.assert_array_equal(left.iou(), together.iou())


def test_rows_are_truth_and_columns_are_predictions():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([1, 1, 0]), np.array([0, 0, 0]))
    np.testing.assert_array_equal(confusion.matrix, [[1, 2], [0, 0]])
    assert confusion.matrix.dtype == np.int64


def test_an_unlabelled_prediction_is_a_false_negative_and_in_no_column():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0, 255], np.uint8), np.array([0, 0], np.uint8))
    np.testing.assert_array_equal(confusion.matrix, [[1, 0], [0, 0]])
    np.testing.assert_array_equal(confusion.truth_pixels, [2, 0])
    assert confusion.iou()[0] == 0.5
    assert confusion.pixel_accuracy() == 0.5


def test_ignored_pixels_do_not_count():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0, 1], np.uint8), np.array([255, 255], np.uint8))
    assert confusion.matrix.sum() == 0


def test_the_matrix_is_a_copy():
    confusion = ConfusionMatrix(2)
    confusion.matrix[:] = 7
    assert confusion.matrix.sum() == 0


def test_a_truth_value_that_is_no_class_is_refused_and_named():
    confusion = ConfusionMatrix(2)
    with pytest.raises(ValueError, match="truth holds 7: expected 0 to 1 or 255"):
        confusion.update(np.zeros(2, np.uint8), np.array([0, 7], np.uint8))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="not the same"):
        ConfusionMatrix(2).update(np.zeros(2, np.uint8), np.zeros(3, np.uint8))


def test_different_class_counts_do_not_merge():
    with pytest.raises(ValueError, match="cannot merge 3 classes into 2"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))


@pytest.mark.parametrize(("classes", "ignore"), [(0, 255), (256, 255), (3, 2)])
def test_impossible_class_counts_are_refused(classes, ignore):
    with pytest.raises(ValueError, match=r"num_classes is|ignore is"):
        ConfusionMatrix(classes, ignore)
