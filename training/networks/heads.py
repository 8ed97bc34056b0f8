# SPDX-License-Identifier: Apache-2.0
"""Heads and laterals that several networks share."""

from __future__ import annotations

from torch import nn

from training.networks.layers import conv_bn_relu


def lateral(in_channels: int, channels: int) -> nn.Sequential:
    """1x1 convolution of a trunk's map to the width of the pyramid."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


def score_head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """3x3 convolution and classifier for class scores."""
    return nn.Sequential(
        *conv_bn_relu(in_channels, channels, 3), nn.Conv2d(channels, num_classes, 1)
    )


def supervision_head(channels: int, num_classes: int) -> nn.Sequential:
    """Auxiliary class scores of one level, for training.

    Paper: ECCV section 3.3, "cascaded deeply supervised learning". Differs: ECCV's code has one
    more head, on layer3 of the trunk; the authors' later code, which this follows, has none there.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )
