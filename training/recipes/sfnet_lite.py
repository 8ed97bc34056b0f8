# SPDX-License-Identifier: Apache-2.0
"""Runs of SFNet-Lite."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from training.data.camvid import CAMVID_CLASSES, camvid
from training.data.cityscapes import CITYSCAPES_CLASSES
from training.data.labelmefacade import labelmefacade
from training.data.listed_folder import ListedFolder
from training.data.mixture import MixturePart
from training.data.rendered_town import rendered_town
from training.data.transforms import Augmentation
from training.networks.sfnet_lite import (
    sfnet_lite_efficientnet_lite,
    sfnet_lite_r18,
    sfnet_lite_r101,
    sfnet_lite_stdc1,
    sfnet_lite_stdc2,
)
from training.recipe import Recipe
from training.recipes.cityscapes import cityscapes_run

HELD_OUT_DRIVE = (
    "0006R0",
)  # a drive of CamVid train; `val` is a clip of a training drive, so its scores are too good
CLASSES = len(CAMVID_CLASSES)


def _trainval(roots: dict[str, Path]) -> ListedFolder:
    return camvid(roots["camvid"], ("train.txt", "val.txt"))


def _trainval_and_facades(roots: dict[str, Path]) -> list[MixturePart]:
    photographs = _trainval(roots)
    return [
        MixturePart(photographs, len(photographs)),
        MixturePart(labelmefacade(roots["labelmefacade"]), 160),
    ]


def _trainval_and_town(roots: dict[str, Path]) -> list[MixturePart]:
    photographs = _trainval(roots)
    return [
        MixturePart(photographs, len(photographs)),
        MixturePart(rendered_town(roots["town"]), 132),
    ]


def _without_held_out(roots: dict[str, Path]) -> list[MixturePart]:
    photographs = camvid(roots["camvid"], ("train.txt", "val.txt"), drop=HELD_OUT_DRIVE)
    return [MixturePart(photographs, len(photographs))]


def _held_out(roots: dict[str, Path]) -> ListedFolder:
    return ListedFolder(roots["camvid"], ("train.txt",), keep=HELD_OUT_DRIVE)


def camvid_r18() -> Recipe:
    """The first stage of a run: plain-stem ResNet-18 with ImageNet weights, on CamVid trainval and
    LabelMeFacade.

    Small crops allow twice as many steps in the same time; the second stage sees whole pictures.
    Differs: AdamW and 36 epochs instead of SGD and hundreds, for an hour and a half on a CPU.
    """
    return Recipe(
        name="sfnet_lite_r18_camvid",
        network=partial(sfnet_lite_r18, CLASSES, "plain", (1, 1)),
        classes=CAMVID_CLASSES,
        mixture=_trainval_and_facades,
        validation=None,
        augmentation=Augmentation(crop_size=(256, 352), scale=(0.6, 1.7)),
        backbone_weights="resnet18_imagenet_stem-layer3.safetensors",
        optimiser="adamw",
        learning_rate=1e-3,
        pretrained_factor=0.3,
        weight_decay=0.02,
        batch_size=8,
        epochs=36,
    )


def camvid_town_r18() -> Recipe:
    """The second stage, started with --resume: larger crops, rendered drives instead of facades.

    The facades have no poles, signs or people, so they help early and harm these classes late.
    """
    return replace(
        camvid_r18(),
        mixture=_trainval_and_town,
        augmentation=Augmentation(crop_size=(352, 480), scale=(0.75, 2.0)),
    )


def camvid_r18_held_out() -> Recipe:
    """The first stage without the drive 0006R0, which validates it: for model selection only."""
    return replace(camvid_r18(), mixture=_without_held_out, validation=_held_out)


def camvid_r18_paper() -> Recipe:
    """The paper's network and optimiser on CamVid: deep stem, SGD, 300 epochs. Needs a GPU and
    deep-stem weights."""
    return replace(
        camvid_r18(),
        name="sfnet_lite_r18_deep_camvid",
        network=partial(sfnet_lite_r18, CLASSES),
        mixture=_without_facades,
        backbone_weights=None,
        optimiser="sgd",
        learning_rate=0.01,
        pretrained_factor=1.0,
        weight_decay=5e-4,
        batch_size=16,
        epochs=300,
    )


def _without_facades(roots: dict[str, Path]) -> list[MixturePart]:
    photographs = _trainval(roots)
    return [MixturePart(photographs, len(photographs))]


def cityscapes_r18() -> Recipe:
    """The paper's run (IJCV section 4.1, table 10c: 1000 epochs) on a GPU.

    Differs: no sampling by class and no coarse labels (table 10c: +0.3 and +0.7); a short warm-up,
    averaged weights and gradient clipping, as in all runs here.
    """
    return cityscapes_run(
        "sfnet_lite_r18_cityscapes", sfnet_lite_r18, "resnet18-deep-inplane128.pth", epochs=1000
    )


def cityscapes_r101() -> Recipe:
    return replace(
        cityscapes_r18(),
        name="sfnet_lite_r101_cityscapes",
        network=partial(sfnet_lite_r101, len(CITYSCAPES_CLASSES)),
        backbone_weights="resnet101-deep.pth",
    )


def cityscapes_stdc1() -> Recipe:
    return replace(
        cityscapes_r18(),
        name="sfnet_lite_stdc1_cityscapes",
        network=partial(sfnet_lite_stdc1, len(CITYSCAPES_CLASSES)),
        backbone_weights="STDCNet813M_73.91.tar",
    )


def cityscapes_stdc1_half() -> Recipe:
    """A head of half the width: 43 GMAC at 1024x2048 instead of 74."""
    return replace(
        cityscapes_stdc1(),
        name="sfnet_lite_stdc1_half_cityscapes",
        network=partial(sfnet_lite_stdc1, len(CITYSCAPES_CLASSES), channels=64),
    )


def cityscapes_stdc2() -> Recipe:
    return replace(
        cityscapes_r18(),
        name="sfnet_lite_stdc2_cityscapes",
        network=partial(sfnet_lite_stdc2, len(CITYSCAPES_CLASSES)),
        backbone_weights="STDCNet1446_76.47.tar",
    )


def camvid_stdc1_half() -> Recipe:
    """On CamVid and LabelMeFacade within the means of a CPU: camvid_r18, smallest network."""
    return replace(
        camvid_r18(),
        name="sfnet_lite_stdc1_half_camvid",
        network=partial(sfnet_lite_stdc1, CLASSES, channels=64),
        backbone_weights="STDCNet813M_73.91.tar",
    )


def camvid_efficientnet_lite2() -> Recipe:
    """On EfficientNet-Lite2 with ImageNet weights; trunk and head have the same learning rate."""
    return replace(
        camvid_r18(),
        name="sfnet_lite_efficientnet_lite2_camvid",
        network=partial(sfnet_lite_efficientnet_lite, CLASSES, 2),
        backbone_weights="efficientnet-lite2-9656183e.pth",
        augmentation=Augmentation(crop_size=(256, 352), scale=(0.6, 2.0)),
        learning_rate=6e-4,
        pretrained_factor=1.0,
    )


def camvid_efficientnet_lite2_64() -> Recipe:
    """The same with a head of 64 channels, which costs less than the trunk."""
    return replace(
        camvid_efficientnet_lite2(),
        name="sfnet_lite_efficientnet_lite2_64_camvid",
        network=partial(sfnet_lite_efficientnet_lite, CLASSES, 2, channels=64),
    )
