# SPDX-License-Identifier: Apache-2.0
"""The one place that turns camera bytes into network input, in training and in the exported
graph."""

from __future__ import annotations

import torch
from torch import Tensor

# ImageNet mean and deviation of RGB / 255, which the backbones were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def images_from_rgb(rgb: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) RGB -> float32 (N, 3, H, W), normalised.

    The permuted view is channels-last in memory, which the convolutions want.
    """
    mean = torch.tensor(MEAN, device=rgb.device) * 255.0
    std = torch.tensor(STD, device=rgb.device) * 255.0
    normalised: Tensor = (rgb.float() - mean) / std
    return normalised.permute(0, 3, 1, 2)
