# SPDX-License-Identifier: Apache-2.0
"""The renderer's class numbers are those that training uses."""

import numpy as np
import pytest

from training.rendered_town.labels import (
    MAX_INSTANCE,
    VALID_LABELS,
    Label,
    labels_and_instances,
    pass_index,
)


def test_class_numbers_follow_the_order_of_the_training_classes() -> None:
    camvid = pytest.importorskip("training.data.camvid", reason="needs torch")

    names = [name for name, _ in camvid.CAMVID_CLASSES]

    assert [name.upper() for name in names] == [label.name.replace("_", "") for label in Label]


def test_labels_and_blender_indices_are_one_to_one() -> None:
    indices = {pass_index(label) for label in VALID_LABELS}

    assert len(indices) == len(VALID_LABELS)
    assert 0 not in indices  # what a ray into the sky leaves


def test_packing_and_unpacking_an_index_round_trips() -> None:
    pairs = [(label, n) for label in sorted(VALID_LABELS) for n in (0, 1, 77, MAX_INSTANCE)]
    index = np.array([pass_index(label, n) for label, n in pairs])

    labels, instances = labels_and_instances(index)

    assert index.min() > 0
    assert index.max() < 2**15
    assert list(zip(labels.tolist(), instances.tolist(), strict=True)) == pairs
    assert labels_and_instances(np.array([0]))[0] == Label.SKY


def test_an_instance_number_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=f"expected 0 to {MAX_INSTANCE}"):
        pass_index(Label.CAR, MAX_INSTANCE + 1)
