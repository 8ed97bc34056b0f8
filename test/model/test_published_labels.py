# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.kernels.upsample_argmax import upsample_argmax
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import SemanticClass
from sfseg_ros.model.published_labels import NO_RULES, LabelRules

EVERY_LABEL = np.arange(256, dtype=np.uint8).reshape(16, 16)
GROUPS = np.full(256, 255, np.uint8)
GROUPS[:11] = [0, 0, 1, 255, 2, 2, 2, 0, 1, 255, 2]
MAPPING = LabelMapping(GROUPS, (SemanticClass(0, "drivable", (1, 2, 3)),))


@given(st.floats(0, 1))
def test_the_threshold_is_rounded_up_to_whole_255ths(threshold):
    least = LabelRules(threshold=threshold).least_confidence
    assert 0 <= least <= 255
    confidence = EVERY_LABEL.copy()
    np.testing.assert_array_equal(confidence < least, confidence < threshold * 255)


def test_no_rules_return_the_same_array():
    assert not NO_RULES.changes_labels
    assert NO_RULES.labels_from(EVERY_LABEL, None) is EVERY_LABEL
    assert not LabelRules(alpha=0.1).changes_labels
    same = LabelMapping(np.arange(256, dtype=np.uint8), MAPPING.classes)
    assert not LabelRules(same).changes_labels


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mapping", [NO_RULES.mapping, MAPPING])
def test_labels_agree_with_the_reference_of_the_kernel(mapping, threshold):
    scores = np.random.default_rng(0).standard_normal((1, 11, 6, 9)).astype(np.float32)
    rules = LabelRules(mapping, threshold)
    labels, confidence = upsample_argmax(scores, 4)
    expected, _ = upsample_argmax(scores, 4, rules.least_confidence, mapping.table)
    np.testing.assert_array_equal(rules.labels_from(labels[0], confidence[0]), expected[0])
    assert rules.changes_labels == (threshold > 0 or mapping is MAPPING)


def test_rules_with_the_same_values_are_equal():
    assert LabelRules(MAPPING, 0.3) == LabelRules(MAPPING, 0.3)
    others = [
        NO_RULES,
        LabelRules(MAPPING),
        LabelRules(MAPPING, 0.3, 0.1),
        LabelRules(NO_RULES.mapping, 0.3),
    ]
    assert LabelRules(MAPPING, 0.3) not in others
