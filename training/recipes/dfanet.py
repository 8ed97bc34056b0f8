# SPDX-License-Identifier: Apache-2.0
"""Runs of DFANet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.camvid import CAMVID_CLASSES
from training.data.cityscapes import CITYSCAPES_CLASSES
from training.losses import cross_entropy
from training.networks.dfanet import dfanet_a, dfanet_b
from training.recipe import Recipe
from training.recipes.cityscapes import cityscapes_run
from training.recipes.sfnet_lite import camvid_r18


def cityscapes_a() -> Recipe:
    """The paper's run (section 4): 40 000 steps of 48 crops, about 640 epochs, on a GPU.

    Differs: the paper starts from ImageNet weights of its backbones, which are not public.
    """
    run = cityscapes_run("dfanet_a_cityscapes", dfanet_a, None, epochs=640, scale=(0.75, 1.75))
    return replace(
        run,
        learning_rate=0.2,
        weight_decay=1e-5,
        batch_size=48,
        input_size=(1024, 1024),
        loss=cross_entropy,
    )


def cityscapes_a_half() -> Recipe:
    """DFANet A': A, exported for images of half the height (table 5)."""
    return replace(cityscapes_a(), name="dfanet_a_half_cityscapes", input_size=(512, 1024))


def cityscapes_b() -> Recipe:
    """The same with backbone B."""
    return replace(
        cityscapes_a(),
        name="dfanet_b_cityscapes",
        network=partial(dfanet_b, len(CITYSCAPES_CLASSES)),
    )


def camvid_a() -> Recipe:
    """On CamVid and LabelMeFacade within the means of a CPU, see sfnet_lite:camvid_r18."""
    return replace(
        camvid_r18(),
        name="dfanet_a_camvid",
        network=partial(dfanet_a, len(CAMVID_CLASSES)),
        backbone_weights=None,
        loss=cross_entropy,
    )
