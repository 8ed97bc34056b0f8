# SPDX-License-Identifier: Apache-2.0
"""Runs of K-Net on SFNet: panoptic segmentation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from training.data.camvid import CAMVID_CLASSES
from training.data.cityscapes import CITYSCAPES_CLASSES, cityscapes_panoptic
from training.data.mixture import MixturePart
from training.data.rendered_town import rendered_town_panoptic
from training.data.transforms import Augmentation
from training.networks.knet import CITYSCAPES_THINGS, knet_r18, knet_stdc1, knet_stdc2
from training.panoptic_losses import knet_loss
from training.recipe import Recipe
from training.schedules import two_drops

TOWN_THINGS = (8, 9, 10)  # cars, pedestrians, bicyclists


def _town(roots: dict[str, Path]) -> list[MixturePart]:
    data = rendered_town_panoptic(roots["town"], "train", long_side=224)
    return [MixturePart(data, len(data))]


def town_r18() -> Recipe:
    """A small head on the plain-stem ResNet-18 with ImageNet weights, on the rendered town.

    Differs: half the widths, 40 kernels, pictures of 128x224 and AdamW at five times the rate, for
    half an hour on a busy CPU.
    """
    decoder = {"stem": "plain", "dilations": (1, 1), "channels": 64}
    sizes = {"kernels": 40, "channels": 128, "feedforward": 256}
    return Recipe(
        name="knet_r18_town",
        network=partial(knet_r18, len(CAMVID_CLASSES), TOWN_THINGS, decoder, **sizes),
        classes=CAMVID_CLASSES,
        mixture=_town,
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


def cityscapes_stdc1() -> Recipe:
    """IJCV table 15 on Cityscapes, with the K-Net authors' optimiser and schedule, on a GPU.

    Differs: starts from ImageNet weights; the paper's run is pretrained on COCO for 36 epochs. The
    paper states neither crop nor length on Cityscapes: the crop is SFNet's, the length K-Net's.
    """
    return _cityscapes("stdc1", knet_stdc1, "STDCNet813M_73.91.tar")


def cityscapes_stdc2() -> Recipe:
    return _cityscapes("stdc2", knet_stdc2, "STDCNet1446_76.47.tar")


def _cityscapes(trunk: str, network: Callable[..., nn.Module], weights: str) -> Recipe:
    return Recipe(
        name=f"knet_{trunk}_cityscapes",
        network=partial(network, len(CITYSCAPES_CLASSES), CITYSCAPES_THINGS),
        classes=CITYSCAPES_CLASSES,
        mixture=_cityscapes_train,
        validation=None,
        augmentation=Augmentation(crop_size=(1024, 1024), scale=(0.5, 2.0)),
        backbone_weights=weights,
        optimiser="adamw",
        learning_rate=1e-4,
        pretrained_factor=0.25,
        weight_decay=0.05,
        batch_size=16,
        epochs=36,
        warmup_steps=1000,
        clip_norm=1.0,
        input_size=(1024, 2048),
        loss=partial(knet_loss, things=CITYSCAPES_THINGS),
        schedule=two_drops,
    )


def _cityscapes_train(roots: dict[str, Path]) -> list[MixturePart]:
    data = cityscapes_panoptic(roots["cityscapes"], "train")
    return [MixturePart(data, len(data))]
