# SPDX-License-Identifier: Apache-2.0
"""Runs of BiSeNet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.camvid import CAMVID_CLASSES
from training.data.cityscapes import CITYSCAPES_CLASSES
from training.networks.bisenet import bisenet_r18, bisenet_r101, bisenet_xception39
from training.recipe import Recipe
from training.recipes.cityscapes import cityscapes_run
from training.recipes.sfnet_lite import camvid_r18 as sfnet_lite_camvid_r18


def cityscapes_r18() -> Recipe:
    """The run of the authors' code: 80 000 steps of 16 crops, about 430 epochs, on a GPU.

    Differs: the scale is drawn uniformly instead of from six values. Learning rate and weight decay
    follow the code, 0.01 and 5e-4; the paper has 0.025 and 1e-4.
    """
    run = cityscapes_run("bisenet_r18_cityscapes", bisenet_r18, "resnet18-f37072fd.pth", epochs=430)
    return replace(run, input_size=(768, 1536))


def cityscapes_r101() -> Recipe:
    """The same with ResNet-101."""
    return replace(
        cityscapes_r18(),
        name="bisenet_r101_cityscapes",
        network=partial(bisenet_r101, len(CITYSCAPES_CLASSES)),
        backbone_weights="resnet101-deep.pth",
    )


def cityscapes_xception39() -> Recipe:
    """The same with Xception-39 and 140 000 steps. Differs: starts from random weights, because no
    public file of the backbone is known."""
    return replace(
        cityscapes_r18(),
        name="bisenet_xception39_cityscapes",
        network=partial(bisenet_xception39, len(CITYSCAPES_CLASSES)),
        backbone_weights=None,
        epochs=750,
    )


def camvid_r18() -> Recipe:
    """On CamVid and LabelMeFacade within the means of a CPU, see sfnet_lite:camvid_r18."""
    return replace(
        sfnet_lite_camvid_r18(),
        name="bisenet_r18_camvid",
        network=partial(bisenet_r18, len(CAMVID_CLASSES)),
    )
