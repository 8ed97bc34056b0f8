# SPDX-License-Identifier: Apache-2.0
"""What the runs on Cityscapes have in common; each paper's recipe names its differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from training.data.cityscapes import CITYSCAPES_CLASSES, train_mixture, validation
from training.data.transforms import Augmentation
from training.recipe import Recipe


def cityscapes_run(
    name: str,
    network: Callable[[int], nn.Module],
    backbone_weights: str | None,
    epochs: int,
    crop_size: tuple[int, int] = (1024, 1024),
    scale: tuple[float, float] = (0.75, 2.0),
) -> Recipe:
    """Trains with SGD on batches of 16 crops of "train"; changes no colours; validates on "val".

    Args:
        name: of the recipe.
        network: builds the network for a number of classes.
        backbone_weights, epochs: as in Recipe.
        crop_size, scale: as in Augmentation.
    """
    return Recipe(
        name=name,
        network=partial(network, len(CITYSCAPES_CLASSES)),
        classes=CITYSCAPES_CLASSES,
        mixture=train_mixture,
        validation=validation,
        augmentation=Augmentation(
            crop_size, scale, jitter=0.0, hue_degrees=0.0, blur_probability=0.0
        ),
        backbone_weights=backbone_weights,
        optimiser="sgd",
        learning_rate=0.01,
        pretrained_factor=1.0,
        weight_decay=5e-4,
        batch_size=16,
        epochs=epochs,
        input_size=(1024, 2048),
    )
