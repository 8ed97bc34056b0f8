# SPDX-License-Identifier: Apache-2.0
"""Heads and laterals that several networks share."""

from __future__ import annotations

from torch import nn

from training.networks.layers import conv_bn_relu


def lateral(in_channels: int, channels: int) -> nn.Sequential:
    """A map of the trunk brought to the width of the pyramid."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


def score_head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """Class scores of concatenated maps."""
    return nn.Sequential(
        *conv_bn_relu(in_channels, channels, 3), nn.Conv2d(channels, num_classes, 1)
    )


def supervision_head(channels: int, num_classes: int) -> nn.Sequential:
    """Class scores of one level, for training. Paper: ECCV section 3.3, "cascaded deeply
    supervised learning". Differs: ECCV's code has one more such head, on layer3 of the trunk; the
    authors' later code, which this follows, has not."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )
