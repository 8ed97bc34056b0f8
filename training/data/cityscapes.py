# SPDX-License-Identifier: Apache-2.0
"""Cityscapes with fine labels, 19 classes, in the folders of its archives."""

from __future__ import annotations

from pathlib import Path

from training.data.listed_folder import ListedFolder
from training.data.mixture import MixturePart
from training.data.panoptic_folder import PanopticFolder

# The order is the train id.
CITYSCAPES_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)

# The label id of each train id; other label ids are ignored.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class CityscapesFolder(ListedFolder):
    """A ListedFolder whose lists are the splits "train", "val" and "test"."""

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        pictures = sorted((self.root / "leftImg8bit" / name).glob("*/*_leftImg8bit.png"))
        if not pictures:
            raise FileNotFoundError(
                f"{self.root}/leftImg8bit/{name} holds no <city>/*_leftImg8bit.png: unpack "
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there; check --data-root"
            )
        pairs = []
        for picture in pictures:
            stem = picture.name.removesuffix("_leftImg8bit.png")
            label = Path("gtFine", name, picture.parent.name, f"{stem}_gtFine_labelIds.png")
            pairs.append((str(picture.relative_to(self.root)), str(label)))
        return pairs


def cityscapes(root: Path, splits: tuple[str, ...]) -> ListedFolder:
    """Cityscapes, 1024x2048; "train", "val" and "test" have 2975, 500 and 1525 (unlabelled)
    pictures."""
    return CityscapesFolder(root, splits, {label: train for train, label in enumerate(LABEL_IDS)})


def train_mixture(roots: dict[str, Path]) -> list[MixturePart]:
    """For a recipe: all of "train" in each epoch, from --data-root cityscapes=FOLDER."""
    data = cityscapes(roots["cityscapes"], ("train",))
    return [MixturePart(data, len(data))]


def validation(roots: dict[str, Path]) -> ListedFolder:
    """For a recipe: the split "val"."""
    return cityscapes(roots["cityscapes"], ("val",))


def cityscapes_panoptic(root: Path, split: str) -> PanopticFolder:
    """Cityscapes with instances, 8 of the 19 classes are things; split "train" or "val".

    createPanopticImgs of cityscapesscripts writes the JSON file, with or without --use-train-id. It
    lists the classes in the order of the train ids.
    """
    annotations = root / "gtFine" / f"cityscapes_panoptic_{split}.json"

    def picture(name: str) -> Path:
        return root / "leftImg8bit" / split / name.partition("_")[0] / name

    return PanopticFolder(annotations, picture)
