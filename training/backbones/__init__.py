# SPDX-License-Identifier: Apache-2.0
"""The encoders, one paper per file."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


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
        """The feature maps of images float (N, 3, H, W), RGB, normalised with the ImageNet mean and
        deviation."""
