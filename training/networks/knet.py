# SPDX-License-Identifier: Apache-2.0
"""K-Net's panoptic head on SFNet's aligned decoder: one kernel per thing or stuff class, one mask
per kernel.

Paper: Zhang et al., "K-Net: Towards Unified Image Segmentation", NeurIPS 2021, section 3, and Li et
al., "SFNet", IJCV, section 4.5, which replaces K-Net's backbone by SFNet but prints no layers.
"Differs:" marks our choices, and where the code of K-Net's authors departs from their text.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.sfnet import SFNet, sfnet_r18, sfnet_stdc1, sfnet_stdc2
from training.operators import resize

MIN_THING_SCORE = 0.3
MIN_VISIBLE = 0.6  # share of a mask that no better mask covers


class KernelUpdate(nn.Module):
    """Updates a kernel by the features under its mask; two gates weight kernel and features.

    Paper: K-Net section 3.2, equations 3 to 5.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.from_features = nn.Linear(channels, 2 * channels)
        self.from_kernel = nn.Linear(channels, 2 * channels)
        self.kernel_gate = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.feature_gate = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.kernel_norm = nn.LayerNorm(channels)
        self.feature_norm = nn.LayerNorm(channels)
        self.out = nn.Sequential(
            nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(inplace=True)
        )

    def forward(self, kernels: Tensor, features: Tensor) -> Tensor:
        """kernels and features float (N, K, C) -> kernels (N, K, C)."""
        feature_in, feature_out = self.from_features(features).chunk(2, dim=-1)
        kernel_in, kernel_out = self.from_kernel(kernels).chunk(2, dim=-1)
        both = feature_in * kernel_in
        mixed = torch.sigmoid(self.feature_gate(both)) * self.feature_norm(feature_out)
        mixed = mixed + torch.sigmoid(self.kernel_gate(both)) * self.kernel_norm(kernel_out)
        return self.out(mixed)  # type: ignore[no-any-return]


class KernelAttention(nn.Module):
    """Lets kernels interact by multi-head attention and a feed-forward layer, each with a residual
    and a norm. Paper: K-Net section 3.2, "kernel interaction"."""

    def __init__(self, channels: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.mix = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, feedforward),
            nn.ReLU(inplace=True),
            nn.Linear(feedforward, channels),
        )
        self.feedforward_norm = nn.LayerNorm(channels)

    def forward(self, kernels: Tensor) -> Tensor:
        """(N, K, C) -> (N, K, C)."""
        split = (*kernels.shape[:2], self.heads, kernels.shape[2] // self.heads)
        queries, keys, values = (
            part.reshape(split).transpose(1, 2)
            for part in self.queries_keys_values(kernels).chunk(3, dim=-1)
        )
        weights = torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(split[3]), dim=-1)
        seen = (weights @ values).transpose(1, 2).reshape(kernels.shape)
        kernels = self.norm(kernels + self.mix(seen))
        return self.feedforward_norm(kernels + self.feedforward(kernels))  # type: ignore[no-any-return]


class UpdateStage(nn.Module):
    """One round: gathers features under the masks, updates the kernels, computes new masks and
    scores.

    Paper: K-Net figure 2. Differs: features are gathered under hard masks, threshold 0.5, as in the
    authors' code.
    """

    def __init__(self, channels: int, num_classes: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(channels, channels, 1)
        self.update = KernelUpdate(channels)
        self.attention = KernelAttention(channels, heads, feedforward)
        self.score = _branch(channels)
        self.classes = nn.Linear(channels, num_classes)
        self.mask = _branch(channels)
        self.kernel = nn.Linear(channels, channels)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.constant_(self.classes.bias, -math.log(99))  # a hundredth, for the focal loss

    def forward(
        self, features: Tensor, kernels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """features (N, C, h, w), kernels (N, K, C), masks (N, K, h, w) before the sigmoid ->
        class scores (N, K, classes) before the sigmoid, masks, kernels."""
        features = self.transform(features)
        kernels = self.attention(self.update(kernels, gather(features, masks)))
        masks = _apply(self.kernel(self.mask(kernels)), features)
        return self.classes(self.score(kernels)), masks, kernels


def gather(features: Tensor, masks: Tensor) -> Tensor:
    """Sums features (N, C, h, w) where the sigmoid of a mask (N, K, h, w) exceeds 0.5: (N, K, C).

    The sum under a large mask can leave the range of fp16, but not that of bf16.
    """
    inside = (masks > 0).flatten(2).to(features.dtype)
    return inside @ features.flatten(2).transpose(1, 2)


def _apply(kernels: Tensor, features: Tensor) -> Tensor:
    """Applies each kernel (N, K, C) as a 1x1 convolution to the features: (N, K, h, w)."""
    masks = kernels @ features.flatten(2)
    return masks.unflatten(2, (features.shape[2], features.shape[3]))  # type: ignore[no-any-return]


def _branch(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU(inplace=True)
    )


def position_code(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Returns sines and cosines of the row, then of the column, (1, channels, height, width).

    Without the position, two equal cars would have equal features.
    Paper: Carion et al., "DETR", appendix A.4; both
    coordinates run from 0 to 2 pi, as in the K-Net authors' code.
    """
    quarter = channels // 4
    periods = 10000 ** (torch.arange(quarter, device=device) / quarter)

    def code(size: int) -> Tensor:
        steps = torch.arange(1, size + 1, device=device, dtype=torch.float32)
        # By the last step, not by `size`: the exporter has no product with a free size.
        angles = 2 * math.pi * steps[None, :] / steps[-1] / periods[:, None]
        return torch.cat([angles.sin(), angles.cos()])

    rows = code(height)[:, :, None].expand(-1, -1, width)
    columns = code(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None]


class KNet(nn.Module):
    """A pixel decoder, initial kernels and masks, and rounds of kernel updates.

    Differs: SFNet without its class layer replaces K-Net's feature pyramid, whose levels meet at
    stride 8; a 3x3 convolution takes it from stride 4 to 8, where the position code is added.

    Args:
        decoder: the SFNet that computes the features; its class layer is removed.
        num_classes: number of things and stuff classes.
        things: train ids of the classes with instances; the others are stuff.
        kernels: number of kernels for things; each stuff class has one more.
        channels: width of kernels and features, a multiple of 32.
        stages: rounds of updates.
        feedforward: width inside the attention's second layer.
    """

    output_stride = 4

    def __init__(
        self,
        decoder: SFNet,
        num_classes: int,
        things: tuple[int, ...],
        kernels: int = 100,
        channels: int = 256,
        stages: int = 3,
        feedforward: int = 2048,
    ) -> None:
        super().__init__()
        if not things or not set(things) < set(range(num_classes)):
            raise ValueError(f"things is {things}, expected some, not all, of 0..{num_classes - 1}")
        if channels % 32:
            raise ValueError(f"channels is {channels}, expected a multiple of 32")
        if decoder.output_stride != 4:
            raise ValueError(f"decoder has output stride {decoder.output_stride}, expected 4")
        self.description = f"K-Net head on {decoder.description}"
        self.size_multiple = decoder.size_multiple
        self.num_classes = num_classes
        self.things = things
        self.stuff = tuple(c for c in range(num_classes) if c not in things)
        width = int(decoder.head[-1].in_channels)  # type: ignore[arg-type]
        decoder.head[-1] = nn.Identity()
        self.decoder = decoder
        self.reduce = _conv_norm_relu(width, channels, 3, stride=2)
        self.locate = _conv_norm_relu(channels, channels, 1)
        self.classify = _conv_norm_relu(channels, channels, 1)
        self.kernels = nn.Parameter(torch.randn(kernels, channels))
        self.segmentation = nn.Conv2d(channels, num_classes, 1)
        self.stages = nn.ModuleList(
            UpdateStage(channels, num_classes, heads=8, feedforward=feedforward)
            for _ in range(stages)
        )
        for convolution in (self.locate[0], self.classify[0], self.segmentation):
            nn.init.normal_(convolution.weight, std=0.01)  # type: ignore[arg-type]
        nn.init.constant_(self.segmentation.bias, -math.log(99))  # type: ignore[arg-type]

    @property
    def trunk(self) -> nn.Module:
        """The encoder, whose pretrained weights are loaded."""
        return self.decoder.get_submodule("trunk")

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """Computes what training and merging need, from normalised images (N, 3, H, W).

        Returns:
            "logits": (N, classes, H, W), see `scores`; "aux": [];
            "segmentation": class scores (N, classes, H/4, W/4) before the first update;
            "masks": before the sigmoid, at H/4 and W/4: first (N, kernels, ...) for things only,
            then (N, kernels + stuff classes, ...) after each round;
            "classes": after each round (N, kernels + stuff classes, classes) before the sigmoid;
            in evaluation "masks" and "classes" hold the last round only.
        """
        segmentation, masks, classes = self._rounds(images)
        size = (2 * segmentation.shape[2], 2 * segmentation.shape[3])
        if not self.training:
            masks, classes = masks[-1:], classes[-1:]
        masks = [resize(m, size) for m in masks]
        scores = self._reading(masks[-1], classes[-1])
        return {
            "logits": resize(scores, (images.shape[2], images.shape[3])),
            "aux": [],
            "segmentation": resize(segmentation, size),
            "masks": masks,
            "classes": classes,
        }

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, classes, H/4, W/4) of normalised images (N, 3, H, W).

        They are the logarithm of the best kernel's class score times mask, by which `merge`
        decides.
        """
        _, masks, classes = self._rounds(images)
        size = (2 * masks[-1].shape[2], 2 * masks[-1].shape[3])
        return self._reading(resize(masks[-1], size), classes[-1])

    def _rounds(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Class scores per pixel, masks and class scores per kernel of all rounds, at stride 8."""
        x = self.reduce(self.decoder.scores(images))
        x = x + position_code(x.shape[2], x.shape[3], x.shape[1], x.device)
        located, classified = self.locate(x), self.classify(x)
        first = self.kernels.expand(x.shape[0], -1, -1)
        thing_masks = _apply(first, located)
        segmentation = self.segmentation(classified)
        # Paper: section 3.3. The layer that scores a stuff class is its initial kernel.
        stuff = list(self.stuff)
        stuff_kernels = self.segmentation.weight[stuff].flatten(1).expand(x.shape[0], -1, -1)
        features = located + classified
        kernels = torch.cat([first + gather(features, thing_masks), stuff_kernels], dim=1)
        masks = [thing_masks, torch.cat([thing_masks, segmentation[:, stuff]], dim=1)]
        classes = []
        for stage in self.stages:
            scores, new, kernels = stage(features, kernels, masks[-1])
            masks.append(new)
            classes.append(scores)
        return segmentation, [masks[0], *masks[2:]], classes

    def _reading(self, masks: Tensor, classes: Tensor) -> Tensor:
        # Sums of logarithms keep a gradient where the product is almost zero.
        # The exporter turns logsigmoid into Log(Sigmoid); ONNX Runtime's Sigmoid is 0 below -18.
        inside, score = -F.softplus(-masks.float()), -F.softplus(-classes.float())
        count = len(self.kernels)
        planes: list[Tensor] = []
        for c in range(self.num_classes):
            if c in self.things:
                planes.append((inside[:, :count] + score[:, :count, c, None, None]).amax(dim=1))
            else:
                k = count + self.stuff.index(c)
                planes.append(inside[:, k] + score[:, k, c, None, None])
        return torch.stack(planes, dim=1)


def _conv_norm_relu(
    in_channels: int, channels: int, kernel_size: int, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.GroupNorm(32, channels),
        nn.ReLU(inplace=True),
    )


def merge(
    network: KNet, masks: Tensor, classes: Tensor, size: tuple[int, int]
) -> tuple[Tensor, list[int]]:
    """Merges the masks of one picture into segments that do not overlap.

    Each pixel goes to the kernel with the largest class score times mask. Things below
    MIN_THING_SCORE and segments that show less than MIN_VISIBLE of their mask are dropped. Paper:
    Kirillov et al., "Panoptic Feature Pyramid Networks"; source: the code of K-Net's authors.

    Args:
        network: gives things and stuff.
        masks: (kernels + stuff classes, h, w) before the sigmoid.
        classes: (kernels + stuff classes, classes) before the sigmoid.
        size: (height, width) of the picture.

    Returns:
        Segments int64 (height, width), 0 = void, and the train id of segments 1, 2, 3 ...
    """
    count = len(network.kernels)
    weights = torch.sigmoid(classes.float())
    best = weights[:count][:, list(network.things)].max(dim=1)
    own = torch.arange(len(network.stuff), device=classes.device)
    stuff = torch.tensor(network.stuff, device=classes.device)
    scores = torch.cat([best.values, weights[count + own, stuff]])
    labels = torch.cat([torch.tensor(network.things, device=classes.device)[best.indices], stuff])
    full = resize(torch.sigmoid(masks.float())[None], size)[0]
    winner = (scores[:, None, None] * full).argmax(dim=0)
    segments = torch.zeros(size, dtype=torch.int64, device=masks.device)
    found: list[int] = []
    for k in scores.argsort(descending=True).tolist():
        if k < count and scores[k] < MIN_THING_SCORE:
            continue
        shown, area = winner == k, int((full[k] >= 0.5).sum())
        visible = int(shown.sum())
        if visible and area and visible >= MIN_VISIBLE * area:
            found.append(int(labels[k]))
            segments[shown] = len(found)
    return segments, found


# The named models; `options` are arguments of KNet, `decoder` holds those of the SFNet.
Options = dict[str, Any]


def knet_r18(
    num_classes: int, things: tuple[int, ...], decoder: Options | None = None, **options: int
) -> KNet:
    return KNet(sfnet_r18(num_classes, **(decoder or {})), num_classes, things, **options)


def knet_stdc1(
    num_classes: int, things: tuple[int, ...], decoder: Options | None = None, **options: int
) -> KNet:
    return KNet(sfnet_stdc1(num_classes, **(decoder or {})), num_classes, things, **options)


def knet_stdc2(
    num_classes: int, things: tuple[int, ...], decoder: Options | None = None, **options: int
) -> KNet:
    return KNet(sfnet_stdc2(num_classes, **(decoder or {})), num_classes, things, **options)


CITYSCAPES_THINGS = tuple(range(11, 19))
