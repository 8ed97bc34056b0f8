# SPDX-License-Identifier: Apache-2.0
"""LabelMeFacade: 945 street photographs, 8 classes."""

from __future__ import annotations

from pathlib import Path

from training.data.listed_folder import ListedFolder

# Raw ids 0 to 7: building, car, door, pavement, road, sky, vegetation, window.
LABELMEFACADE_TO_CAMVID = {0: 1, 1: 8, 2: 1, 3: 4, 4: 3, 5: 0, 6: 5, 7: 1}


def labelmefacade(root: Path) -> ListedFolder:
    """LabelMeFacade with the train ids of CamVid, at most 512 pixels wide or high."""
    return ListedFolder(root, ("train.txt",), LABELMEFACADE_TO_CAMVID, long_side=512)
