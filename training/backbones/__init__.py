# SPDX-License-Identifier: Apache-2.0
"""The encoders, one paper per file."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Backbone(Protocol):
    """Interface of an encoder to its network; every encoder is an nn.Module as well."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of each feature map, shallow to deep."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each feature map, in pixels of the image."""

    @property
    def name(self) -> str:
        """Name for descriptions, such as "ResNet-50 (deep stem)"."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Returns the feature maps of images float (N, 3, H, W), RGB.

        The images are normalised by the trunk's attribute `normalisation`, or, without one, by the
        ImageNet mean and deviation.
        """


def initialise_convolutions(module: nn.Module) -> None:
    """Draws random weights that keep the scale of gradients through ReLUs.

    Paper: He et al., "Delving Deep into Rectifiers", section 2.2, scaled by a layer's outputs as in
    the code of SFNet's and STDC's authors.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
