# SPDX-License-Identifier: Apache-2.0
"""The steps from one level of SFNet's pyramid to the next finer one: FAM and its alternatives.

Paper: SFNet, ECCV section 3.2 and IJCV section 3.2, whose equations are cited here. Of two levels,
`low` is the shallow, fine map and `high` the deep, coarse one.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.operators import flow_warp, resize

Upsampling = Literal["bilinear", "nearest", "deconvolution"]
Matching = Literal["concatenation", "correlation"]


class FlowAlignment(nn.Module):
    """FAM and the addition after it: low + warp(high, flow).

    Paper: equations 1 to 3. Differs: one 3x3 flow convolution after two 1x1 reductions (text: two
    3x3); the warped map is the unreduced one. The layers have the authors' names, in which h is
    `high` and l is `low`.

    Args:
        channels: of both maps.
        kernel_size: of the flow convolution, 3, 5 or 7 (IJCV table 9b).
        upsampling: of the reduced coarse map before the flow convolution (table 9a).
        matching: "concatenation" of the two reduced maps, as in FlowNet-S, or their "correlation"
            in a neighbourhood, as in FlowNet-C (table 9c).
        align_corners: convention of the warp, see operators.flow_warp.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Literal[3, 5, 7] = 3,
        upsampling: Upsampling = "bilinear",
        matching: Matching = "concatenation",
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        _check("kernel_size", kernel_size, (3, 5, 7))
        _check("upsampling", upsampling, ("bilinear", "nearest", "deconvolution"))
        _check("matching", matching, ("concatenation", "correlation"))
        self.upsampling = upsampling
        self.matching = matching
        self.align_corners = align_corners
        half = channels // 2
        self.down_h = nn.Conv2d(channels, half, 1, bias=False)
        self.down_l = nn.Conv2d(channels, half, 1, bias=False)
        if upsampling == "deconvolution":
            self.deconvolution = nn.ConvTranspose2d(half, half, 4, 2, padding=1, bias=False)
        matched = half if matching == "concatenation" else len(DISPLACEMENTS) ** 2
        self.flow_make = nn.Conv2d(
            matched + half, 2, kernel_size, padding=kernel_size // 2, bias=False
        )

    def flow(self, low: Tensor, high: Tensor) -> Tensor:
        """Equation 1. low (N, C, H, W), high (N, C, h, w) -> (N, 2, H, W), in the units of
        operators.flow_warp."""
        low_reduced = self.down_l(low)
        high_reduced = self._upsampled(self.down_h(high), (low.shape[2], low.shape[3]))
        if self.matching == "correlation":
            high_reduced = correlation(low_reduced, high_reduced)
        return self.flow_make(torch.cat([high_reduced, low_reduced], dim=1))  # type: ignore[no-any-return]

    def _upsampled(self, high: Tensor, size: tuple[int, int]) -> Tensor:
        if self.upsampling == "nearest":
            return F.interpolate(high, size=size, mode="nearest")
        if self.upsampling == "deconvolution":  # doubles the size, so an odd size does not fit
            high = self.deconvolution(high)
            return high if (high.shape[2], high.shape[3]) == size else resize(high, size)
        return resize(high, size)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        return low + flow_warp(high, self.flow(low, high), self.align_corners)


DISPLACEMENTS = (-4, -2, 0, 2, 4)


def correlation(low: Tensor, high: Tensor) -> Tensor:
    """Returns the mean product over channels of `low` and displaced `high`, for displacements of -4
    to 4 pixels in steps of 2.

    Paper: Dosovitskiy et al., "FlowNet", section 3. Differs: its displacements reach 20 pixels, for
    motion in video, in the same steps; SFNet's paper states none.

    Args:
        low, high: float (N, C, H, W).

    Returns:
        (N, 25, H, W), zero where the displaced position lies outside.
    """
    reach = DISPLACEMENTS[-1]
    padded = F.pad(high, (reach, reach, reach, reach))
    height, width = low.shape[2:]
    products = [
        low * padded[:, :, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        for dy in DISPLACEMENTS
        for dx in DISPLACEMENTS
    ]
    return torch.cat([product.mean(dim=1, keepdim=True) for product in products], dim=1)


class DeformableAlignment(nn.Module):
    """A 3x3 deformable convolution of the two maps instead of FAM; IJCV table 9d, section 4.3.

    Paper: Dai et al., "Deformable Convolutional Networks", equation 2. It is written as nine warps
    and nine 1x1 convolutions, which all runtimes support.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # x and y of each tap, in pixels; the initial zeros make it a plain convolution.
        self.offsets = nn.Conv2d(2 * channels, 18, 3, padding=1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]
        taps = [nn.Conv2d(2 * channels, channels, 1, bias=False) for _ in range(9)]
        self.taps = nn.ModuleList(taps)
        for tap in taps:  # as in one 3x3 convolution, which has nine times the inputs
            nn.init.uniform_(tap.weight, -(bound := 1 / math.sqrt(18 * channels)), bound)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        height, width = low.shape[2], low.shape[3]
        both = torch.cat([resize(high, (height, width)), low], dim=1)
        offsets = self.offsets(both)
        # The unit of flow_warp is (W - 1) / (2 W) pixels if both maps have the same size.
        x_unit, y_unit = 2 * width / max(width - 1, 1), 2 * height / max(height - 1, 1)
        total = low
        for i, tap in enumerate(self.taps):
            x = (offsets[:, 2 * i : 2 * i + 1] + (i % 3 - 1)) * x_unit
            y = (offsets[:, 2 * i + 1 : 2 * i + 2] + (i // 3 - 1)) * y_unit
            total = total + tap(flow_warp(both, torch.cat([x, y], dim=1)))
        return total


class BilinearAddition(nn.Module):
    """The step of a plain feature pyramid: low + high, resized."""

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        return low + resize(high, (low.shape[2], low.shape[3]))


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {allowed}")
