# SPDX-License-Identifier: Apache-2.0
"""The description of a training run: a frozen value that a function in training/recipes returns."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from training.data.dataset import DataError, SegmentationDataset
from training.data.mixture import MixturePart
from training.data.transforms import Augmentation
from training.losses import deeply_supervised
from training.schedules import poly


@dataclass(frozen=True)
class Distillation:
    """The teacher of a recipe.

    Args:
        teacher: module:function of the recipe that builds the teacher's network.
        weight: of the distillation loss; the loss on the labels has weight 1.
        temperature: divides the scores of both networks; a higher one gives improbable classes
            more weight.
    """

    teacher: str
    weight: float = 1.0
    temperature: float = 2.0


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        name: of the exported model.
        network: builds the network with random weights.
        classes: (name, RGB colour) per train id.
        mixture: data roots by name -> the data sets of an epoch.
        validation: data roots by name -> pictures for model selection; None if the run trains on
            everything.
        augmentation: paired transforms.
        backbone_weights: file in the data root `weights` that initialises the trunk: a published
            trunk or network, or the checkpoint of a run. None: random weights.
        optimiser: "sgd" (momentum 0.9) or "adamw".
        learning_rate: of layers with random initial weights.
        pretrained_factor: multiplies the learning rate of loaded layers.
        weight_decay: of convolution weights; other parameters have none.
        batch_size, epochs, warmup_steps: length of the run.
        ema_decay: of the averaged weights, which are evaluated and exported.
        clip_norm: maximum norm of the gradient.
        input_size: (height, width) of the exported model's usual input.
        loss: (output of the network in training, label maps integer (N, H, W)) -> scalar.
        schedule: (step, total, warmup=steps) -> factor of the learning rate. For `poly` with
            another power use functools.partial.
        distillation: the teacher whose scores the network learns beside the labels, or None.
    """

    name: str
    network: Callable[[], nn.Module]
    classes: tuple[tuple[str, tuple[int, int, int]], ...]
    mixture: Callable[[dict[str, Path]], list[MixturePart]]
    validation: Callable[[dict[str, Path]], SegmentationDataset] | None
    augmentation: Augmentation
    backbone_weights: str | None
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    pretrained_factor: float
    weight_decay: float
    batch_size: int
    epochs: int
    warmup_steps: int = 100
    ema_decay: float = 0.998
    clip_norm: float = 5.0
    input_size: tuple[int, int] = (352, 480)
    loss: Callable[[dict[str, Any], Tensor], Tensor] = deeply_supervised
    schedule: Callable[..., float] = poly
    distillation: Distillation | None = None


def load_recipe(path: str) -> Recipe:
    """Loads the recipe `module:function`; `module` is one of training.recipes.

    Raises:
        SystemExit: no such module or function.
    """
    module_name, _, function = path.partition(":")
    try:
        recipe = getattr(importlib.import_module(f"training.recipes.{module_name}"), function)()
    except (ModuleNotFoundError, AttributeError, TypeError, ValueError) as error:
        raise SystemExit(
            f"recipe {path!r} not found ({error}); "
            "expected module:function, e.g. sfnet_lite:camvid_r18"
        ) from None
    if not isinstance(recipe, Recipe):
        raise SystemExit(f"{path!r} is not a recipe: expected a function that returns a Recipe")
    return recipe


def training_data(recipe: Recipe, roots: dict[str, Path]) -> list[MixturePart]:
    """Opens the data sets of an epoch and tells each one the number of classes.

    Raises:
        SystemExit: a data set is missing or has other classes.
    """
    try:
        parts = recipe.mixture(roots)
        for part in parts:
            part.data.expect_classes(len(recipe.classes))
    except (FileNotFoundError, DataError) as error:
        raise SystemExit(str(error)) from None
    return parts


def validation_data(recipe: Recipe, roots: dict[str, Path]) -> SegmentationDataset | None:
    """Opens the validation pictures likewise; returns None if the recipe has none.

    Raises:
        SystemExit: the data set is missing or has other classes.
    """
    if recipe.validation is None:
        return None
    try:
        data = recipe.validation(roots)
        data.expect_classes(len(recipe.classes))
    except (FileNotFoundError, DataError) as error:
        raise SystemExit(str(error)) from None
    return data


def built_network(recipe: Recipe) -> nn.Module:
    """Builds the recipe's network and compares its `num_classes`, if it has one, with the recipe's
    classes.

    Raises:
        SystemExit: the network scores another number of classes.
    """
    network = recipe.network()
    scored = getattr(network, "num_classes", len(recipe.classes))
    if scored != len(recipe.classes):
        raise SystemExit(
            f"recipe {recipe.name!r} has {len(recipe.classes)} classes, but its network scores "
            f"{scored}: expected the same number; give the recipe's `network` "
            f"{len(recipe.classes)} classes"
        )
    return network
