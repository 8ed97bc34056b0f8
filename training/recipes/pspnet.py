# SPDX-License-Identifier: Apache-2.0
"""Runs of PSPNet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.camvid import CAMVID_CLASSES
from training.data.cityscapes import CITYSCAPES_CLASSES
from training.data.transforms import Augmentation
from training.losses import cross_entropy, deeply_supervised
from training.networks.pspnet import pspnet
from training.recipe import Recipe
from training.recipes.cityscapes import cityscapes_run
from training.recipes.sfnet_lite import camvid_r18
from training.schedules import poly


def cityscapes_r101() -> Recipe:
    """The paper's run (section 5.1): 90 000 steps of 16 crops, about 480 epochs, on a GPU."""
    run = cityscapes_run(
        "pspnet_r101_cityscapes",
        partial(pspnet, depth=101),
        "resnet101-deep.pth",
        epochs=480,
        crop_size=(713, 713),
        scale=(0.5, 2.0),
    )
    return replace(run, weight_decay=1e-4, loss=cross_entropy)


def cityscapes_r50_sfnet() -> Recipe:
    """The network that SFNet's authors compare with theirs, trained as in their script.

    Differs: their script samples classes uniformly and trains on four data sets.
    """
    return replace(
        cityscapes_r101(),
        name="pspnet_r50_cityscapes",
        network=partial(pspnet, len(CITYSCAPES_CLASSES), 50, "sfnet"),
        augmentation=Augmentation(crop_size=(832, 832), scale=(0.5, 2.0), blur_probability=1.0),
        backbone_weights="resnet50-deep.pth",
        epochs=160,
        loss=deeply_supervised,
        schedule=partial(poly, power=1.0),
    )


def camvid_r50() -> Recipe:
    """On CamVid and LabelMeFacade, see sfnet_lite:camvid_r18; slow without a GPU."""
    return replace(
        camvid_r18(),
        name="pspnet_r50_camvid",
        network=partial(pspnet, len(CAMVID_CLASSES), 50),
        backbone_weights="resnet50-deep.pth",
        loss=cross_entropy,
    )
