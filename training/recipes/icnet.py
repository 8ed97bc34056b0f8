# SPDX-License-Identifier: Apache-2.0
"""Runs of ICNet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.camvid import CAMVID_CLASSES
from training.losses import cross_entropy
from training.networks.icnet import ICNet
from training.recipe import Recipe
from training.recipes.cityscapes import cityscapes_run
from training.recipes.sfnet_lite import camvid_r18


def cityscapes_icnet() -> Recipe:
    """The paper's run: 30 000 steps of 16 pictures, about 160 epochs, on a GPU.

    Differs: the paper trains PSPNet-50 and prunes it to half of its channels; this run trains the
    halved network from random weights. The paper does not state the crop; this is SFNet's.
    """
    run = cityscapes_run("icnet_cityscapes", ICNet, None, epochs=160, scale=(0.5, 2.0))
    return replace(run, weight_decay=1e-4, loss=cross_entropy)


def camvid_icnet() -> Recipe:
    """On CamVid and LabelMeFacade within the means of a CPU, see sfnet_lite:camvid_r18."""
    return replace(
        camvid_r18(),
        name="icnet_camvid",
        network=partial(ICNet, len(CAMVID_CLASSES)),
        backbone_weights=None,
        loss=cross_entropy,
    )
