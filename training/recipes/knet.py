# SPDX-License-Identifier: Apache-2.0
"""Runs of K-Net on SFNet: panoptic segmentation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from training.config import Recipe
from training.data.mixture import Portion
from training.data.panoptic_folder import town_panoptic
from training.data.street_folder import CAMVID_CLASSES
from training.data.transforms import Augmentation
from training.networks.knet import knet_r18
from training.panoptic_losses import knet_loss

TOWN_THINGS = (8, 9, 10)  # cars, pedestrians, bicyclists


def _town(roots: dict[str, Path]) -> list[Portion]:
    data = town_panoptic(roots["town"], "train", long_side=224)
    return [Portion(data, len(data))]


def town_r18() -> Recipe:
    """A small head on the plain-stem ResNet-18 with ImageNet weights, on the rendered town.

    Differs: half the widths, 40 kernels, pictures of 128x224 and AdamW at five times the rate; it
    is what a crowded CPU reaches in half an hour.
    """
    decoder = {"stem": "plain", "dilations": (1, 1), "channels": 64}
    sizes = {"kernels": 40, "channels": 128, "feedforward": 256}
    return Recipe(
        name="knet_r18_town",
        network=partial(knet_r18, len(CAMVID_CLASSES), TOWN_THINGS, decoder, **sizes),
        classes=CAMVID_CLASSES,
        portions=_town,
        validation=None,
        augmentation=Augmentation(crop_size=(128, 224), scale=(0.8, 1.5)),
        backbone_weights="resnet18_imagenet_stem-layer3.safetensors",
        optimiser="adamw",
        learning_rate=5e-4,
        pretrained_factor=0.25,
        weight_decay=0.05,
        batch_size=4,
        epochs=32,
        warmup_steps=20,
        ema_decay=0.99,
        clip_norm=10.0,
        input_size=(128, 224),
        loss=partial(knet_loss, things=TOWN_THINGS),
    )
