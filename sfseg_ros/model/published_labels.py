# SPDX-License-Identifier: Apache-2.0
"""What becomes of the network's labels before somebody sees them: unsure ones go, classes become
groups, and labels get colours. Here on the processor, which defines it; a `DeviceBackend` does the
same where the labels are made.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sfseg_ros.model.class_groups import UNCHANGED, LabelMapping
from sfseg_ros.model.manifest import UNLABELLED

PAINTS = ("color_mask", "overlay")
"""Pictures that are painted of labels: `imaging.color_mask` and `imaging.overlay`."""


@dataclass(frozen=True)
class Finish:
    """Of labels with less confidence than `threshold` (0 to 1) comes 255, unlabelled; `mapping`
    says what is published for each of them, and in which colour; `alpha`, 0 to 1, is how much an
    overlay shows of that colour. 255 stays 255."""

    mapping: LabelMapping = UNCHANGED
    threshold: float = 0.0
    alpha: float = 0.5

    @property
    def least_confidence(self) -> int:
        """0 to 255: confidence of a label that stays, in 255ths."""
        return math.ceil(self.threshold * 255)

    @property
    def changes_labels(self) -> bool:
        return self.least_confidence > 0 or self.mapping.changes_labels

    def labels_from(
        self, labels: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.uint8]:
        """The published labels of uint8 (H, W), the array itself where none changes. `confidence`,
        of that shape too, may be None where `least_confidence` is 0."""
        if confidence is not None and self.least_confidence > 0:
            unsure = confidence < self.least_confidence
            labels = np.where(unsure, np.uint8(UNLABELLED), labels)
        return self.mapping.apply(labels)


PLAIN = Finish()
"""The network's labels as they are."""
