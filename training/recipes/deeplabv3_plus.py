# SPDX-License-Identifier: Apache-2.0
"""Runs of DeepLabV3+: "exactly the same training settings" as ESeg's (ESeg table 8)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.cityscapes import CITYSCAPES_CLASSES
from training.networks.deeplabv3_plus import deeplabv3_plus_b1, deeplabv3_plus_r50
from training.recipe import Recipe
from training.recipes.eseg import cityscapes_s

CLASSES = len(CITYSCAPES_CLASSES)


def cityscapes_b1() -> Recipe:
    """With atrous convolutions on EfficientNet-B1, on a GPU."""
    return replace(
        cityscapes_s(),
        name="deeplabv3_plus_b1_cityscapes",
        network=partial(deeplabv3_plus_b1, CLASSES),
    )


def cityscapes_b1_without_atrous() -> Recipe:
    """The same at output stride 32."""
    return replace(
        cityscapes_s(),
        name="deeplabv3_plus_b1_os32_cityscapes",
        network=partial(deeplabv3_plus_b1, CLASSES, atrous=False),
    )


def cityscapes_r50() -> Recipe:
    """With atrous convolutions on ResNet-50."""
    return replace(
        cityscapes_s(),
        name="deeplabv3_plus_r50_cityscapes",
        network=partial(deeplabv3_plus_r50, CLASSES),
        backbone_weights="resnet50-0676ba61.pth",
    )


def cityscapes_r50_without_atrous() -> Recipe:
    """The same at output stride 32."""
    return replace(
        cityscapes_r50(),
        name="deeplabv3_plus_r50_os32_cityscapes",
        network=partial(deeplabv3_plus_r50, CLASSES, atrous=False),
    )
