# SPDX-License-Identifier: Apache-2.0
"""Runs of STDC-Seg."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.camvid import CAMVID_CLASSES
from training.data.cityscapes import CITYSCAPES_CLASSES
from training.networks.stdc_seg import stdc1_seg, stdc2_seg, stdc_seg_loss
from training.recipe import Recipe
from training.recipes.cityscapes import cityscapes_run
from training.recipes.sfnet_lite import camvid_r18


def cityscapes_stdc1() -> Recipe:
    """The authors' run: 60 000 steps of 48 crops, about 970 epochs, on a GPU.

    Differs: the scale is drawn uniformly instead of in steps of an eighth; the warm-up is linear;
    all layers without ImageNet weights learn ten times as fast, in the authors' code only those
    from the fusion on.
    """
    run = cityscapes_run(
        "stdc1_seg_cityscapes",
        stdc1_seg,
        "STDCNet813M_73.91.tar",
        epochs=970,
        crop_size=(512, 1024),
        scale=(0.125, 1.5),
    )
    return replace(
        run,
        augmentation=replace(run.augmentation, jitter=0.5),
        learning_rate=0.1,
        pretrained_factor=0.1,
        batch_size=48,
        warmup_steps=1000,
        input_size=(768, 1536),
        loss=stdc_seg_loss,
    )


def cityscapes_stdc2() -> Recipe:
    """The same with STDC2."""
    return replace(
        cityscapes_stdc1(),
        name="stdc2_seg_cityscapes",
        network=partial(stdc2_seg, len(CITYSCAPES_CLASSES)),
        backbone_weights="STDCNet1446_76.47.tar",
    )


def camvid_stdc1() -> Recipe:
    """On CamVid and LabelMeFacade within the means of a CPU, see sfnet_lite:camvid_r18."""
    return replace(
        camvid_r18(),
        name="stdc1_seg_camvid",
        network=partial(stdc1_seg, len(CAMVID_CLASSES)),
        backbone_weights="STDCNet813M_73.91.tar",
        loss=stdc_seg_loss,
    )
