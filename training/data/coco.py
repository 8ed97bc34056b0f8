# SPDX-License-Identifier: Apache-2.0
"""COCO 2017 with panoptic labels."""

from __future__ import annotations

from pathlib import Path

from training.data.panoptic_folder import PanopticFolder


def coco_panoptic(root: Path, split: str) -> PanopticFolder:
    """COCO as its site unpacks it: 133 classes, 80 of them things; split "train" or "val"."""
    annotations = root / "annotations" / f"panoptic_{split}2017.json"
    return PanopticFolder(annotations, lambda name: root / f"{split}2017" / name)
