# SPDX-License-Identifier: Apache-2.0
"""The encoders, one paper per file."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Backbone(Protocol):
    """What a network knows of its encoder, which is an nn.Module as well."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each feature map, shallow to deep."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each feature map, in pixels of the image."""

    @property
    def name(self) -> str:
        """Such as "ResNet-50 (deep stem)"."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The feature maps of images float (N, 3, H, W), RGB, normalised as the trunk's attribute
        `normalisation` says; without one, with the ImageNet mean and deviation."""


def initialise_convolutions(module: nn.Module) -> None:
    """Random weights that keep the size of gradients through ReLUs.

    Paper: He et al., "Delving Deep into Rectifiers", section 2.2; by the outputs of a layer, as the
    authors of SFNet and of STDC have it.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
