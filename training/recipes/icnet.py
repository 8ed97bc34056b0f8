# SPDX-License-Identifier: Apache-2.0
"""Runs of ICNet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from training.data.camvid import CAMVID_CLASSES
from training.data.cityscapes import CITYSCAPES_CLASSES, train_mixture, validation
from training.data.transforms import Augmentation
from training.losses import cross_entropy
from training.networks.icnet import ICNet
from training.recipe import Recipe
from training.recipes.sfnet_lite import camvid_r18


def cityscapes_icnet() -> Recipe:
    """The paper's run: 30 000 steps of 16 pictures, about 160 epochs, on a GPU.

    Differs: the paper trains PSPNet-50 first and prunes it to half of its channels; this trains the
    half from random weights. The crop, which it does not state, is that of the SFNet authors' runs.
    """
    return Recipe(
        name="icnet_cityscapes",
        network=partial(ICNet, len(CITYSCAPES_CLASSES)),
        classes=CITYSCAPES_CLASSES,
        mixture=train_mixture,
        validation=validation,
        augmentation=Augmentation(
            crop_size=(1024, 1024),
            scale=(0.5, 2.0),
            jitter=0.0,
            hue_degrees=0.0,
            blur_probability=0.0,
        ),
        backbone_weights=None,
        optimiser="sgd",
        learning_rate=0.01,
        pretrained_factor=1.0,
        weight_decay=1e-4,
        batch_size=16,
        epochs=160,
        input_size=(1024, 2048),
        loss=cross_entropy,
    )


def camvid_icnet() -> Recipe:
    """On CamVid and LabelMeFacade with what a CPU reaches, see sfnet_lite:camvid_r18."""
    return replace(
        camvid_r18(),
        name="icnet_camvid",
        network=partial(ICNet, len(CAMVID_CLASSES)),
        backbone_weights=None,
        loss=cross_entropy,
    )
