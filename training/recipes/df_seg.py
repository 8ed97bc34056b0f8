# SPDX-License-Identifier: Apache-2.0
"""Runs of DF-Seg."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.camvid import CAMVID_CLASSES
from training.data.cityscapes import CITYSCAPES_CLASSES
from training.data.transforms import Augmentation
from training.networks.df_seg import df1_seg, df2_seg
from training.recipe import Recipe
from training.recipes.cityscapes import cityscapes_run
from training.recipes.sfnet_lite import camvid_r18


def cityscapes_df1() -> Recipe:
    """SFNet's training (IJCV section 4.1), 50 000 steps of 16 crops, about 270 epochs, on a GPU.

    Differs: a weight decay of 1e-4, as DF's authors recommend and SFNet's code has; the paper has
    5e-4.
    """
    run = cityscapes_run("df1_seg_cityscapes", df1_seg, "df1_imagenet.pth", epochs=270)
    return replace(
        run, augmentation=Augmentation((1024, 1024), scale=(0.75, 2.0)), weight_decay=1e-4
    )


def cityscapes_df2() -> Recipe:
    """The same with DF2."""
    return replace(
        cityscapes_df1(),
        name="df2_seg_cityscapes",
        network=partial(df2_seg, len(CITYSCAPES_CLASSES)),
        backbone_weights="df2_imagenet.pth",
    )


def camvid_df1() -> Recipe:
    """On CamVid and LabelMeFacade within the means of a CPU, see sfnet_lite:camvid_r18."""
    return replace(
        camvid_r18(),
        name="df1_seg_camvid",
        network=partial(df1_seg, len(CAMVID_CLASSES)),
        backbone_weights="df1_imagenet.pth",
    )
