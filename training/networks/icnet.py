# SPDX-License-Identifier: Apache-2.0
"""ICNet: deep layers at a quarter of the resolution, shallow layers at full resolution.

Paper: Zhao et al., "ICNet for Real-Time Semantic Segmentation on High-Resolution Images", ECCV
2018, figures 2 and 3. The layers are those of the authors' public prototxt file: the network after
the paper's compression to half of PSPNet-50's channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from training.backbones.resnet import ResNet
from training.networks.layers import conv_bn_relu
from training.operators import adaptive_average_pools, resize

CHANNELS = 128
BINS = (1, 2, 3, 6)


class CascadeFeatureFusion(nn.Module):
    """CFF: the coarse map, convolved with dilation 2, plus a projected finer map.

    Paper: figure 3.
    """

    def __init__(self, coarse_channels: int, fine_channels: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Conv2d(coarse_channels, CHANNELS, 3, padding=2, dilation=2, bias=False),
            nn.BatchNorm2d(CHANNELS),
        )
        self.fine = nn.Sequential(
            nn.Conv2d(fine_channels, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS)
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """coarse (N, coarse_channels, h, w), already at the size of fine (N, fine_channels, h, w)
        -> (N, 128, h, w)."""
        return relu(self.coarse(coarse) + self.fine(fine))


class ICNet(nn.Module):
    """ICNet, with ResNet-50.

    Differs: the trunk's stride is on a block's 3x3 convolution, as in the other networks here
    (prototxt: on the 1x1 before it), and pooling cells follow any size (prototxt: fixed kernels for
    1025x2049).

    Args:
        num_classes: width of the class scores.
        width: of the trunk's layer1: 32 after compression, 64 before.
        auxiliary: whether to build the two classifiers for training (cascade label guidance).
    """

    output_stride = 4
    size_multiple = 32

    def __init__(self, num_classes: int, width: int = 32, auxiliary: bool = True) -> None:
        super().__init__()
        self.trunk = ResNet(50, "deep", dilations=(2, 4), output_stride=8, width=width)
        self.description = f"ICNet with {self.trunk.name}, width {width}"
        self.num_classes = num_classes
        _, middle, _, deep = self.trunk.channels
        self.detail = nn.Sequential(
            conv_bn_relu(3, 32, 3, stride=2),
            conv_bn_relu(32, 32, 3, stride=2),
            conv_bn_relu(32, 64, 3, stride=2),
        )
        self.reduce = conv_bn_relu(deep, deep // 4, 1)
        self.fuse_quarter_half = CascadeFeatureFusion(deep // 4, middle)
        self.fuse_half_full = CascadeFeatureFusion(CHANNELS, 64)
        self.head = nn.Conv2d(CHANNELS, num_classes, 1)
        self.auxiliary_heads = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1)
            for channels in ((deep // 4, CHANNELS) if auxiliary else ())
        )

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/4, W/4) of normalised images (N, 3, H, W)."""
        return self._scores_and_coarse(images)[0]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": scores at strides 16 and 8 while training}."""
        scores, coarse = self._scores_and_coarse(images)
        aux: list[Tensor] = []
        if self.training and len(self.auxiliary_heads):
            aux = [head(x) for head, x in zip(self.auxiliary_heads, coarse, strict=True)]
        return {"logits": resize(scores, (images.shape[2], images.shape[3])), "aux": aux}

    def _scores_and_coarse(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, and the coarse inputs of the two fusions, at strides 16 and 8."""
        trunk, (height, width) = self.trunk, images.shape[2:]
        half = resize(images, ((height + 1) // 2, (width + 1) // 2))
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(half))))
        # The branches of half and quarter resolution separate after "conv3_1".
        middle = trunk.layer2[0](trunk.layer1(x))
        x = resize(middle, ((middle.shape[2] + 1) // 2, (middle.shape[3] + 1) // 2))
        deep = trunk.layer4(trunk.layer3(trunk.layer2[1:](x)))
        deep = self.reduce(_pyramid_sum(deep))
        detail = self.detail(images)

        deep = resize(deep, (middle.shape[2], middle.shape[3]))
        fused = self.fuse_quarter_half(deep, middle)
        fused = resize(fused, (detail.shape[2], detail.shape[3]))
        finest = self.fuse_half_full(fused, detail)
        finest = resize(finest, ((height + 3) // 4, (width + 3) // 4))
        return self.head(finest), [deep, fused]


def _pyramid_sum(x: Tensor) -> Tensor:
    """Adds to `x` its averages over the cells of a pyramid; unlike PSPNet's, it has no layers."""
    size = (x.shape[2], x.shape[3])
    for pool in adaptive_average_pools(x, BINS):
        x = x + resize(pool, size)
    return x
