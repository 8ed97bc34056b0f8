# SPDX-License-Identifier: Apache-2.0
"""The contract of a data set: what recipes, training, evaluation and export expect of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class DataError(ValueError):
    """A picture or label map cannot be used; the message is one line."""


@dataclass(frozen=True)
class Sample:
    """One picture with its labels.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: train ids (H, W), 255 = ignore: uint8, or uint16 if the data set tells instances
            apart (panoptic_folder.py).
        name: file stem of the picture.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8] | NDArray[np.uint16]
    name: str


class SegmentationDataset(Protocol):
    """Pictures with label maps, read when indexed. Indices count from 0.

    A data set is one file in training/data/: its class names, the table from its raw ids to train
    ids, and a function that opens it in a folder. ListedFolder and PanopticFolder read the two
    common layouts.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample:
        """Raises DataError if the picture or its label map cannot be used."""
        ...

    def expect_classes(self, num_classes: int) -> None:
        """Makes the data set refuse train ids other than 0 to num_classes - 1 and 255.

        Raises:
            DataError: the data set already knows that it has another number of classes.
        """
        ...
