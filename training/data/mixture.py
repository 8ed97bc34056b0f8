# SPDX-License-Identifier: Apache-2.0
"""Mixes several data sets in one epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.dataset import SegmentationDataset
from training.data.transforms import Augmentation


@dataclass(frozen=True)
class MixturePart:
    """A data set and the number of its pictures per epoch.

    They are drawn without repeats if the data set has enough.
    """

    data: SegmentationDataset
    per_epoch: int


class Mixture(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """The augmented pictures of one epoch.

    Seed and epoch determine order and augmentation, so a resumed run sees the pictures that the
    uninterrupted run would see.

    Items: image uint8 (h, w, 3) RGB, labels uint8 (h, w) train ids, both at the crop size.
    """

    def __init__(
        self, parts: list[MixturePart], augmentation: Augmentation, seed: int, epoch: int
    ) -> None:
        self.parts = parts
        self.augmentation = augmentation
        self.seed = (seed, epoch)
        rng = np.random.default_rng(self.seed)
        order = [(p, i) for p, part in enumerate(parts) for i in _draw(part, rng)]
        self.order = [order[i] for i in rng.permutation(len(order))]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        part, picture = self.order[index]
        rng = np.random.default_rng((*self.seed, index))
        sample = self.augmentation(self.parts[part].data[picture], rng)
        return torch.from_numpy(sample.image), torch.from_numpy(sample.labels)


def _draw(part: MixturePart, rng: np.random.Generator) -> Iterator[int]:
    remaining = part.per_epoch
    while remaining > 0:
        drawn = rng.permutation(len(part.data))[:remaining]
        remaining -= len(drawn)
        yield from (int(i) for i in drawn)
