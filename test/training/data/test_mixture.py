# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import torch

from training.data.listed_folder import ListedFolder
from training.data.mixture import Mixture, MixturePart
from training.data.transforms import Augmentation


def mixture(street: Path, epoch: int = 0) -> Mixture:
    a = ListedFolder(street, ("train.txt",), keep=("A",))
    b = ListedFolder(street, ("train.txt",), keep=("B",))
    return Mixture(
        [MixturePart(a, 4), MixturePart(b, 5)], Augmentation((32, 32)), seed=1, epoch=epoch
    )


def test_every_part_has_its_number_and_repeats_only_if_it_is_too_small(street: Path) -> None:
    order = mixture(street).order
    first = [picture for part, picture in order if part == 0]
    second = [picture for part, picture in order if part == 1]
    assert len(first) == len(set(first)) == 4
    assert sorted(second) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_an_epoch_is_reproducible_and_the_next_one_differs(street: Path) -> None:
    assert torch.equal(mixture(street)[3][0], mixture(street)[3][0])
    assert mixture(street, 0).order != mixture(street, 1).order
