# SPDX-License-Identifier: Apache-2.0
"""Distillation: a network learns from the scores of a better one, the teacher.

Paper: Hinton et al., "Distilling the Knowledge in a Neural Network", section 2, for each pixel.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import checkpoint
from training.normalisation import images_from_rgb
from training.recipe import Distillation, Recipe, built_network, load_recipe


def opened_teacher(recipe: Recipe, file: Path | None, device: torch.device) -> nn.Module | None:
    """Opens the teacher of `recipe`, frozen, with the weights of `file`, a checkpoint or a model
    directory. Returns None if the recipe has no teacher.

    Raises:
        SystemExit: only one of teacher and file is given, the file belongs to another network, or
            the teacher has other classes.
    """
    if recipe.distillation is None:
        if file is not None:
            raise SystemExit(f"recipe {recipe.name!r} has no teacher: omit --teacher {file}")
        return None
    if file is None:
        raise SystemExit(
            f"recipe {recipe.name!r} learns from {recipe.distillation.teacher}: add --teacher FILE,"
            " a checkpoint of a run of that recipe, or a model directory"
        )
    taught_by = load_recipe(recipe.distillation.teacher)
    if taught_by.classes != recipe.classes:
        raise SystemExit(
            f"recipe {recipe.name!r} and its teacher {taught_by.name!r} have other classes: "
            "expected the same names in the same order"
        )
    network = built_network(taught_by)
    checkpoint.load_all_but_classes(network, file, len(recipe.classes))
    network.requires_grad_(False).eval()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def distillation_loss(
    distillation: Distillation, teacher: nn.Module, rgb: Tensor, logits: Tensor
) -> Tensor:
    """Computes `weight` times the mean divergence of the class probabilities from the teacher's.

    The mean covers all pixels, with and without labels. The square of the temperature keeps the
    scale of the gradient.

    Args:
        rgb: uint8 (N, H, W, 3), input of both networks.
        logits: the student's scores, float (N, C, H, W).
    """
    temperature = distillation.temperature
    with torch.no_grad():
        expected = teacher(images_from_rgb(rgb, teacher))["logits"]
    taught = F.log_softmax(expected.float() / temperature, dim=1)
    own = F.log_softmax(logits.float() / temperature, dim=1)
    divergence = F.kl_div(own, taught, reduction="sum", log_target=True)
    pixels = logits.shape[0] * logits.shape[2] * logits.shape[3]
    return distillation.weight * temperature**2 * divergence / pixels
