# SPDX-License-Identifier: Apache-2.0
"""STDC-Seg: BiSeNet's decoder on an STDC trunk, with detail guidance in training.

Paper: Fan et al., "Rethinking BiSeNet For Real-time Semantic Segmentation", CVPR 2021, section 3.2
and figure 4. SFNet's papers compare it with SFNet on the same trunks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones.stdc import ConvBatchNormReLU, STDCNet, stdc1, stdc2
from training.losses import ohem_cross_entropy
from training.operators import resize
from training.weights import renamed


class AttentionRefinement(nn.Module):
    """3x3 convolution whose channels are scaled by a gate on their mean (BiSeNet's ARM)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvBatchNormReLU(in_channels, channels, 3)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H, W)."""
        x = self.conv(x)
        return x * self.gate(_global_mean(x))  # type: ignore[no-any-return]


class FeatureFusion(nn.Module):
    """1x1 convolution of two concatenated maps, plus itself scaled by channel (BiSeNet's FFM)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvBatchNormReLU(in_channels, channels, 1)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Two maps of one size -> (N, channels, H, W)."""
        x = self.conv(torch.cat([detail, context], dim=1))
        return x + x * self.gate(_global_mean(x))  # type: ignore[no-any-return]


class STDCSeg(nn.Module):
    """STDC-Seg with the detail head on the stride-8 map.

    Differs: the authors build boundary heads on four maps but train only the one at stride 8; the
    others are not built here.

    Args:
        trunk: gives maps at strides 4, 8, 16, 32.
        num_classes: width of the class scores.
    """

    output_stride = 8
    size_multiple = 32

    def __init__(self, trunk: STDCNet, num_classes: int) -> None:
        super().__init__()
        self.description = f"STDC-Seg with {trunk.name}"
        self.trunk = trunk
        self.num_classes = num_classes
        _, stride8, stride16, stride32 = trunk.channels
        self.refine16 = AttentionRefinement(stride16, 128)
        self.refine32 = AttentionRefinement(stride32, 128)
        self.smooth16 = ConvBatchNormReLU(128, 128, 3)
        self.smooth32 = ConvBatchNormReLU(128, 128, 3)
        self.mean = ConvBatchNormReLU(stride32, 128, 1)
        self.fuse = FeatureFusion(stride8 + 128, 256)
        self.head = _head(256, 256, num_classes)
        self.aux_head8 = _head(128, 64, num_classes)
        self.aux_head16 = _head(128, 64, num_classes)
        self.detail_head = _head(stride8, 64, 1)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("trunk."):
                nn.init.kaiming_normal_(module.weight, a=1)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/8, W/8) of normalised images (N, 3, H, W)."""
        stride8, context8, _ = self._features(images)
        return self.head(self.fuse(stride8, context8))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}.

        In training, "aux" holds the scores of the context maps at strides 8 and 16, and "detail"
        the boundary logits (N, 1, H/8, W/8) for stdc_seg_loss.
        """
        stride8, context8, context16 = self._features(images)
        scores = self.head(self.fuse(stride8, context8))
        logits = resize(scores, (images.shape[2], images.shape[3]))
        if not self.training:
            return {"logits": logits, "aux": []}
        aux = [self.aux_head8(context8), self.aux_head16(context16)]
        return {"logits": logits, "aux": aux, "detail": self.detail_head(stride8)}

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The trunk's stride-8 map and the context maps (128 channels) at strides 8 and 16."""
        _, stride8, stride16, stride32 = self.trunk(images)
        context = self.refine32(stride32) + self.mean(_global_mean(stride32))
        context16 = self.smooth32(_nearest(context, stride16))
        context8 = self.smooth16(_nearest(self.refine16(stride16) + context16, stride8))
        return stride8, context8, context16


def _global_mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=(like.shape[2], like.shape[3]), mode="nearest")


def _head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBatchNormReLU(in_channels, channels, 3), nn.Conv2d(channels, num_classes, 1, bias=False)
    )


def stdc_seg_loss(output: dict[str, Tensor | list[Tensor]], labels: Tensor) -> Tensor:
    """Sums OHEM of the scores and of both auxiliary heads and the detail loss, each of weight 1.

    Paper: section 3.3. OHEM counts at least a sixteenth of the pixels.

    Args:
        output: of STDCSeg in training.
        labels: integer (N, H, W), 255 = ignore.
    """
    logits, aux, detail = output["logits"], output["aux"], output["detail"]
    assert isinstance(logits, Tensor)
    assert isinstance(aux, list)
    assert isinstance(detail, Tensor)
    size = (labels.shape[1], labels.shape[2])
    keep = labels.numel() // 16
    total = ohem_cross_entropy(logits, labels, keep=keep)
    for scores in aux:
        total = total + ohem_cross_entropy(resize(scores, size), labels, keep=keep)
    return total + detail_loss(detail, labels)


def detail_loss(detail: Tensor, labels: Tensor) -> Tensor:
    """Sums binary cross entropy and dice loss of boundary logits.

    Paper: equations 3 and 4.

    Args:
        detail: float (N, 1, h, w), before the sigmoid; resized to the size of the labels.
        labels: integer (N, H, W).
    """
    target = detail_target(labels)
    logits = resize(detail.float(), (labels.shape[1], labels.shape[2]))
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    probability, target = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = (probability * target).sum(dim=1)
    total = probability.sum(dim=1) + target.sum(dim=1)
    dice = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)
    return cross_entropy + dice.mean()


def detail_target(labels: Tensor) -> Tensor:
    """Returns 1.0 where the Laplacian of the label map is positive at stride 1 or 2.

    Differs: the paper fuses strides 1, 2 and 4 by a trainable 1x1 convolution and a threshold of
    0.1. No gradient passes the threshold, so the authors' convolution keeps its initial weights
    0.6, 0.3 and 0.1, and stride 4 alone never exceeds the threshold. As in the authors' code, class
    numbers (255 included) act as heights: of two neighbours, the one with the greater number is on
    the boundary.

    Args:
        labels: integer (N, H, W).

    Returns:
        float (N, 1, H, W).
    """
    heights = labels[:, None].float()
    kernel = torch.full((1, 1, 3, 3), -1.0, device=labels.device)
    kernel[..., 1, 1] = 8.0
    fine = F.conv2d(heights, kernel, padding=1) > 0.1
    coarse = F.conv2d(heights, kernel, stride=2, padding=1) > 0.1
    return (fine | (_nearest(coarse.float(), heights) > 0)).float()


def stdc1_seg(num_classes: int) -> STDCSeg:
    """STDC1-Seg."""
    return STDCSeg(stdc1(), num_classes)


def stdc2_seg(num_classes: int) -> STDCSeg:
    """STDC2-Seg."""
    return STDCSeg(stdc2(), num_classes)


# Of the authors' files: the ImageNet classifier, second names of the trunk's layers
# (cp.backbone.x8.features...), and the boundary heads that are not trained.
DEAD_LAYERS = (
    *(f"cp.backbone.{layer}." for layer in ("conv_last", "fc", "bn", "linear")),
    "cp.backbone.x",
    *(f"conv_out_sp{stride}." for stride in (2, 4, 16)),
)


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of an STDC-Seg checkpoint to ours.

    `DEAD_LAYERS` are dropped. In the authors' files the norms outside the trunk are in-place batch
    norms (weights.plain_norms).
    """
    prefixes = (
        ("cp.backbone.features.", "trunk.features."),
        ("cp.arm16.conv.", "refine16.conv."),
        ("cp.arm16.conv_atten.", "refine16.gate.0."),
        ("cp.arm16.bn_atten.", "refine16.gate.1."),
        ("cp.arm32.conv.", "refine32.conv."),
        ("cp.arm32.conv_atten.", "refine32.gate.0."),
        ("cp.arm32.bn_atten.", "refine32.gate.1."),
        ("cp.conv_head16.", "smooth16."),
        ("cp.conv_head32.", "smooth32."),
        ("cp.conv_avg.", "mean."),
        ("ffm.convblk.", "fuse.conv."),
        ("ffm.conv1.", "fuse.gate.0."),
        ("ffm.conv2.", "fuse.gate.2."),
        ("conv_out.conv.", "head.0."),
        ("conv_out.conv_out.", "head.1."),
        # Their names have the stride of the trunk's map from which the scores are computed.
        ("conv_out16.conv.", "aux_head8.0."),
        ("conv_out16.conv_out.", "aux_head8.1."),
        ("conv_out32.conv.", "aux_head16.0."),
        ("conv_out32.conv_out.", "aux_head16.1."),
        ("conv_out_sp8.conv.", "detail_head.0."),
        ("conv_out_sp8.conv_out.", "detail_head.1."),
    )
    return renamed(state, prefixes)
