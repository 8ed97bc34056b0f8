# SPDX-License-Identifier: Apache-2.0
"""Published labels: how a confidence threshold and class groups change the network's labels.

`LabelRules.labels_from` is the reference implementation on the processor. A `DeviceBackend` applies
the same rules on its device.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sfseg_ros.model.class_groups import UNCHANGED, LabelMapping
from sfseg_ros.model.manifest import UNLABELLED

PAINTED_IMAGES = ("color_mask", "overlay")
"""Names of the images that show labels in colour: `imaging.color_mask` and `imaging.overlay`."""


@dataclass(frozen=True)
class LabelRules:
    """How the network's labels become published labels, and how these are painted.

    Labels whose confidence is below `threshold` (0 to 1) become 255 (unlabelled). `mapping` then
    gives the published label of each label and its colour; 255 stays 255. `alpha` (0 to 1) is the
    opacity of the colours in an overlay.
    """

    mapping: LabelMapping = UNCHANGED
    threshold: float = 0.0
    alpha: float = 0.5

    @property
    def least_confidence(self) -> int:
        """The lowest confidence that keeps its label, in 255ths (0 to 255)."""
        return math.ceil(self.threshold * 255)

    @property
    def changes_labels(self) -> bool:
        return self.least_confidence > 0 or self.mapping.changes_labels

    def labels_from(
        self, labels: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.uint8]:
        """Return the published labels, or `labels` itself if no rule changes any label.

        `labels` and `confidence` are uint8 (H, W). `confidence` may be None if `least_confidence`
        is 0.
        """
        if confidence is not None and self.least_confidence > 0:
            unsure = confidence < self.least_confidence
            labels = np.where(unsure, np.uint8(UNLABELLED), labels)
        return self.mapping.apply(labels)


NO_RULES = LabelRules()
"""Rules that leave the network's labels unchanged."""
