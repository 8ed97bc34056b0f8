# SPDX-License-Identifier: Apache-2.0
"""Converts camera bytes to network input, in training and in the exported graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of RGB / 255 that the weights of a network expect."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Statistics of ImageNet, with which most backbones were trained."""


def images_from_rgb(rgb: Tensor, network: nn.Module) -> Tensor:
    """Normalises uint8 (N, H, W, 3) RGB to float32 (N, 3, H, W).

    Mean and deviation come from the attribute `normalisation` of the network's trunk; without one
    they are ImageNet's. The permuted view is channels-last in memory, which suits convolutions.
    """
    expected = getattr(getattr(network, "trunk", None), "normalisation", IMAGENET)
    mean = torch.tensor(expected.mean, device=rgb.device) * 255.0
    std = torch.tensor(expected.std, device=rgb.device) * 255.0
    normalised: Tensor = (rgb.float() - mean) / std
    return normalised.permute(0, 3, 1, 2)
