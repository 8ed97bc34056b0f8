# SPDX-License-Identifier: Apache-2.0
"""The renderer's class numbers are those that training uses."""

import pytest

from training.town.labels import VALID_LABELS, VOID, Label, pass_index


def test_the_order_is_that_of_the_training_classes() -> None:
    street_folder = pytest.importorskip("training.data.street_folder", reason="needs torch")

    names = [name for name, _ in street_folder.CAMVID_CLASSES]

    assert [name.upper() for name in names] == [label.name.replace("_", "") for label in Label]


def test_labels_and_blender_indices_are_one_to_one() -> None:
    indices = {pass_index(label) for label in VALID_LABELS}

    assert len(indices) == len(VALID_LABELS)
    assert 0 not in indices  # what a ray into the sky leaves
    assert pass_index(VOID) - 1 == VOID
