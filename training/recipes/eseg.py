# SPDX-License-Identifier: Apache-2.0
"""Runs of ESeg."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from training.data.camvid import CAMVID_CLASSES, camvid
from training.data.cityscapes import CITYSCAPES_CLASSES
from training.data.mixture import MixturePart
from training.data.transforms import Augmentation
from training.data.unlabelled import Unlabelled
from training.losses import ohem_cross_entropy
from training.networks.eseg import (
    eseg_efficientnet_lite,
    eseg_l,
    eseg_lite_l,
    eseg_lite_m,
    eseg_lite_s,
    eseg_m,
    eseg_s,
)
from training.recipe import Distillation, Recipe
from training.recipes.cityscapes import cityscapes_run
from training.recipes.sfnet_lite import camvid_r18
from training.schedules import cosine

CLASSES = len(CITYSCAPES_CLASSES)


def hard_pixels(output: dict[str, Any], labels: Tensor) -> Tensor:
    """OHEM of HRNet and OCR, which the paper uses: pixels whose true class has a probability of at
    most 0.9, at least 131,072 of them."""
    return ohem_cross_entropy(output["logits"], labels, threshold=0.9, keep=131_072)


def cityscapes_s() -> Recipe:
    """The paper's run (section 4.1): 90 000 steps of 16 crops, on a GPU.

    The paper mentions no colour changes and no warm-up, and not the decay of its average.
    """
    run = cityscapes_run(
        "eseg_s_cityscapes",
        eseg_s,
        "efficientnet_b1_rwightman-bac287d4.pth",
        epochs=484,
        crop_size=(512, 1024),
        scale=(0.5, 2.0),
    )
    return replace(
        run,
        learning_rate=0.08,
        weight_decay=5e-5,
        ema_decay=0.9998,
        loss=hard_pixels,
        schedule=cosine,
    )


def cityscapes_m() -> Recipe:
    """The same with ESeg-M."""
    return replace(
        cityscapes_s(),
        name="eseg_m_cityscapes",
        network=partial(eseg_m, CLASSES),
        backbone_weights="efficientnet_b4_rwightman-23ab8bcd.pth",
    )


def cityscapes_l() -> Recipe:
    """The same with ESeg-L."""
    return replace(
        cityscapes_s(),
        name="eseg_l_cityscapes",
        network=partial(eseg_l, CLASSES),
        backbone_weights="efficientnet_b7_lukemelas-c5b4e57e.pth",
    )


def cityscapes_lite_s() -> Recipe:
    """The same with ESeg-Lite-S, from random weights: its encoder has no public ImageNet weights.

    Paper: section 4.3, "larger crop size" without a number: here DDRNet's, which the paper says it
    follows.
    """
    return replace(
        cityscapes_s(),
        name="eseg_lite_s_cityscapes",
        network=partial(eseg_lite_s, CLASSES),
        backbone_weights=None,
        augmentation=replace(cityscapes_s().augmentation, crop_size=(1024, 1024)),
    )


def cityscapes_lite_m() -> Recipe:
    """The same with ESeg-Lite-M."""
    return replace(
        cityscapes_lite_s(),
        name="eseg_lite_m_cityscapes",
        network=partial(eseg_lite_m, CLASSES),
    )


def cityscapes_lite_l() -> Recipe:
    """The same with ESeg-Lite-L."""
    return replace(
        cityscapes_lite_s(),
        name="eseg_lite_l_cityscapes",
        network=partial(eseg_lite_l, CLASSES),
    )


def camvid_s() -> Recipe:
    """ESeg-S on CamVid and LabelMeFacade within the means of a CPU, see sfnet_lite:camvid_r18."""
    return replace(
        camvid_r18(),
        name="eseg_s_camvid",
        network=partial(eseg_s, len(CAMVID_CLASSES)),
        backbone_weights="efficientnet_b1_rwightman-bac287d4.pth",
        schedule=cosine,
    )


def camvid_lite_s() -> Recipe:
    """The same with ESeg-Lite-S, from random weights."""
    return replace(
        camvid_s(),
        name="eseg_lite_s_camvid",
        network=partial(eseg_lite_s, len(CAMVID_CLASSES)),
        backbone_weights=None,
    )


def camvid_efficientnet_lite2() -> Recipe:
    """ESeg-Lite's decoder on EfficientNet-Lite2 with ImageNet weights.

    Differs: the trunk learns at the same rate as the decoder. Small crops make steps cheap, and the
    scales include those of sfnet_lite:camvid_town_r18.
    """
    return replace(
        camvid_s(),
        name="eseg_efficientnet_lite2_camvid",
        network=partial(eseg_efficientnet_lite, len(CAMVID_CLASSES), 2),
        backbone_weights="efficientnet-lite2-9656183e.pth",
        augmentation=Augmentation(crop_size=(256, 352), scale=(0.6, 2.0)),
        learning_rate=6e-4,
        pretrained_factor=1.0,
    )


def camvid_efficientnet_lite0() -> Recipe:
    """The same on EfficientNet-Lite0."""
    return replace(
        camvid_efficientnet_lite2(),
        name="eseg_efficientnet_lite0_camvid",
        network=partial(eseg_efficientnet_lite, len(CAMVID_CLASSES), 0),
        backbone_weights="efficientnet-lite0-57934424.pth",
    )


def camvid_lite_s_distilled() -> Recipe:
    """ESeg-Lite-S with ESeg on EfficientNet-Lite2 as teacher; start it with --init from a run of
    camvid_lite_s.

    The facades have no labels here, because theirs label a pole in front of a house as a house.
    """
    return replace(
        camvid_lite_s(),
        mixture=_trainval_and_unlabelled,
        augmentation=Augmentation(crop_size=(256, 352), scale=(0.6, 2.0)),
        distillation=Distillation("eseg:camvid_efficientnet_lite2"),
    )


def _trainval_and_unlabelled(roots: dict[str, Path]) -> list[MixturePart]:
    photographs = camvid(roots["camvid"], ("train.txt", "val.txt"))
    return [
        MixturePart(photographs, len(photographs)),
        MixturePart(Unlabelled(roots["labelmefacade"] / "images"), 120),
        MixturePart(Unlabelled(roots["street"]), 24),
    ]
