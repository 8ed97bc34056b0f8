# SPDX-License-Identifier: Apache-2.0
"""Drives that `training.rendered_town.render` wrote, with the 11 classes of CamVid."""

from __future__ import annotations

from pathlib import Path

from training.data.listed_folder import ListedFolder
from training.data.panoptic_folder import PanopticFolder


def rendered_town(root: Path) -> ListedFolder:
    """Pictures and label maps, at most 480 pixels wide, as CamVid is."""
    return ListedFolder(root, ("train.txt",), long_side=480)


def rendered_town_panoptic(root: Path, split: str, long_side: int = 0) -> PanopticFolder:
    """The same pictures with instances; three classes are things. Split "train" or "val"."""
    return PanopticFolder(root / f"panoptic_{split}.json", lambda name: root / name, long_side)
