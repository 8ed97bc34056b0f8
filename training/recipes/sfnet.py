# SPDX-License-Identifier: Apache-2.0
"""Runs of SFNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from training.networks import sfnet
from training.recipe import Recipe
from training.recipes import sfnet_lite


def cityscapes_r18() -> Recipe:
    """The papers' run (ECCV section 4.1): 50 000 steps of 16 crops, about 269 epochs, on a GPU."""
    return _cityscapes("r18", sfnet.sfnet_r18, "resnet18-deep-inplane128.pth")


def cityscapes_r50() -> Recipe:
    return _cityscapes("r50", sfnet.sfnet_r50, "resnet50-deep.pth")


def cityscapes_r101() -> Recipe:
    return _cityscapes("r101", sfnet.sfnet_r101, "resnet101-deep.pth")


def cityscapes_df1() -> Recipe:
    return _cityscapes("df1", sfnet.sfnet_df1, "df1_imagenet.pth")


def cityscapes_df2() -> Recipe:
    return _cityscapes("df2", sfnet.sfnet_df2, "df2_imagenet.pth")


def released_df1() -> Recipe:
    """The width of the authors' public checkpoints, half of the width that the papers' GFLOPs need.

    Checkpoints from before July 2022 may have been trained with align_corners=False in the warp,
    depending on their version of torch: `align=partial(FlowAlignment, align_corners=False)`. Use
    whichever scores better.
    """
    return _cityscapes("df1_released", sfnet.sfnet_df1, "df1_imagenet.pth", channels=64)


def released_df2() -> Recipe:
    return _cityscapes("df2_released", sfnet.sfnet_df2, "df2_imagenet.pth", channels=64)


def cityscapes_stdc1() -> Recipe:
    return _cityscapes("stdc1", sfnet.sfnet_stdc1, "STDCNet813M_73.91.tar")


def cityscapes_stdc2() -> Recipe:
    return _cityscapes("stdc2", sfnet.sfnet_stdc2, "STDCNet1446_76.47.tar")


def cityscapes_shufflenet() -> Recipe:
    """ECCV table 4's smallest trunk, with torchvision's ImageNet weights."""
    weights = "shufflenetv2_x1-5666bf0f80.pth"
    return _cityscapes("shufflenet", sfnet.sfnet_shufflenet, weights)


def _cityscapes(
    trunk: str, network: Callable[..., nn.Module], weights: str, **options: int
) -> Recipe:
    run = sfnet_lite.cityscapes_r18()
    return replace(
        run,
        name=f"sfnet_{trunk}_cityscapes",
        network=partial(network, len(run.classes), deep_supervision=True, **options),
        backbone_weights=weights,
        epochs=269,
    )


def camvid_r18() -> Recipe:
    """On CamVid and LabelMeFacade within the means of a CPU: sfnet_lite:camvid_r18 with SFNet."""
    run = sfnet_lite.camvid_r18()
    return replace(
        run,
        name="sfnet_r18_camvid",
        network=partial(
            sfnet.sfnet_r18,
            len(run.classes),
            stem="plain",
            dilations=(1, 1),
            deep_supervision=True,
        ),
    )
