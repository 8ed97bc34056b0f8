# SPDX-License-Identifier: Apache-2.0
"""What a run is: a frozen value returned by a function in `training/recipes/`."""

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
    """What a recipe says about its teacher.

    Args:
        teacher: the recipe of the teacher's network.
        weight: of this loss beside the one on the labels.
        temperature: by which both networks' scores are divided: the higher, the more the
            improbable classes count.
    """

    teacher: str
    weight: float = 1.0
    temperature: float = 2.0


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        name: of the model directory that export writes.
        network: builds the network, random weights.
        classes: (name, RGB colour) per train id.
        mixture: data roots by name -> the data sets of an epoch.
        validation: data roots by name -> pictures for choosing; None when the run uses everything.
        augmentation: paired transforms.
        backbone_weights: file in the `weights` root to start the trunk from, or None: a published
            trunk or network, or the checkpoint of a run.
        optimiser: "sgd" (momentum 0.9) or "adamw".
        learning_rate: of layers that start from random values.
        pretrained_factor: learning-rate factor of layers that were loaded.
        weight_decay: on convolution weights only.
        batch_size, epochs, warmup_steps: length of the run.
        ema_decay: of the averaged weights that are evaluated and exported.
        clip_norm: largest norm of the gradient.
        input_size: (height, width) of the exported model's usual input.
        loss: of what the network returns in training and the label maps, integer (N, H, W).
        schedule: learning-rate factor of (step, total, warmup=steps); `poly` with another power is
            a functools.partial.
        distillation: the teacher whose scores are learned beside the labels, or None.
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
    """The recipe that `module:function` names; `module` is inside training.recipes.

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
        raise SystemExit(f"{path!r} is no recipe: expected a function that returns a Recipe")
    return recipe


def training_data(recipe: Recipe, roots: dict[str, Path]) -> list[MixturePart]:
    """`recipe.mixture(roots)`, where every data set knows how many classes there are.

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
    """`recipe.validation(roots)`, likewise; None where the recipe has none."""
    if recipe.validation is None:
        return None
    try:
        data = recipe.validation(roots)
        data.expect_classes(len(recipe.classes))
    except (FileNotFoundError, DataError) as error:
        raise SystemExit(str(error)) from None
    return data


def built_network(recipe: Recipe) -> nn.Module:
    """`recipe.network()`, where the number of classes that it says it scores (`num_classes`) is
    the recipe's; a network that says none is not checked.

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
