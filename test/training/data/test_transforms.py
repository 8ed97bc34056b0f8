# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from training.data.dataset import Sample
from training.data.transforms import Augmentation


def half_and_half() -> Sample:
    """Left half black and class 0, right half white and class 1."""
    labels = np.repeat(np.repeat([[0, 1]], 40, axis=1), 60, axis=0).astype(np.uint8)
    return Sample(np.repeat(labels[..., None] * 255, 3, axis=2).astype(np.uint8), labels, "half")


@pytest.mark.parametrize("seed", range(20))
def test_labels_move_with_the_picture(seed: int) -> None:
    augmentation = Augmentation(
        (48, 64), rotation_degrees=10, jitter=0, hue_degrees=0, blur_probability=0
    )
    out = augmentation(half_and_half(), np.random.default_rng(seed))
    assert out.image.shape == (48, 64, 3)
    assert out.labels.shape == (48, 64)
    inside = out.labels != 255
    bright = out.image.mean(axis=2) > 127
    # Only pixels on the border between the halves may disagree, less than one column of them.
    assert (bright != (out.labels == 1))[inside].mean() < 0.05


def test_pixels_outside_the_picture_are_ignored() -> None:
    out = Augmentation((100, 100), scale=(0.5, 0.5))(half_and_half(), np.random.default_rng(0))
    assert (out.labels == 255).mean() == pytest.approx(1 - 30 * 40 / 100**2, abs=0.03)


def test_the_generator_determines_the_result() -> None:
    augmentation = Augmentation((32, 32), rotation_degrees=5)
    first, again = (augmentation(half_and_half(), np.random.default_rng(7)) for _ in range(2))
    other = augmentation(half_and_half(), np.random.default_rng(8))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_colour_changes_leave_the_labels_alone() -> None:
    sample = half_and_half()
    plain = Augmentation((60, 80), (1, 1), 0, 0, 0, 0)(sample, np.random.default_rng(0))
    strong = Augmentation((60, 80), (1, 1), 0, 0.5, 20, 1)(sample, np.random.default_rng(0))
    assert np.array_equal(plain.labels, strong.labels)
    assert not np.array_equal(plain.image, strong.image)
