# SPDX-License-Identifier: Apache-2.0
"""Losses on class scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg_ros.model.manifest import UNLABELLED
from training.operators import resize


def ohem_cross_entropy(
    logits: Tensor, labels: Tensor, threshold: float = 0.7, keep: int = 100_000
) -> Tensor:
    """Mean cross entropy over the hard pixels of the batch.

    A pixel is hard when the probability of its true class is at most `threshold`; when fewer than
    `keep` pixels are, the `keep` hardest count. Batches with no more than `keep` valid pixels are
    not mined. Differs: the papers say "the 10 % hardest"; this is the rule of the authors'
    OhemCrossEntropy2dTensor.

    Args:
        logits: float (N, C, H, W).
        labels: integer (N, H, W), 255 = ignore.

    Returns:
        Scalar; 0 with a gradient of 0 when every pixel is ignored.
    """
    losses = F.cross_entropy(
        logits.float(), labels.long(), ignore_index=UNLABELLED, reduction="none"
    ).flatten()
    losses = losses[(labels != UNLABELLED).flatten()]
    if losses.numel() == 0:
        return logits.sum() * 0.0
    if losses.numel() > keep:
        hard = losses >= -torch.log(torch.tensor(threshold))
        enough = int(hard.sum()) >= keep
        losses = losses[hard] if enough else losses.topk(keep, sorted=False).values
    return losses.mean()


def deeply_supervised(output: dict[str, Tensor | list[Tensor]], labels: Tensor) -> Tensor:
    """OHEM on the main scores plus OHEM on every auxiliary head, weight 1 each, as the
    authors' code."""
    logits, aux = output["logits"], output["aux"]
    assert isinstance(logits, Tensor)
    assert isinstance(aux, list)
    total = ohem_cross_entropy(logits, labels)
    for scores in aux:
        size = (labels.shape[1], labels.shape[2])
        total = total + ohem_cross_entropy(resize(scores, size), labels)
    return total


def cross_entropy(
    output: dict[str, Tensor | list[Tensor]], labels: Tensor, aux_weight: float = 0.4
) -> Tensor:
    """Mean cross entropy of the main scores plus `aux_weight` times that of each auxiliary head.

    Paper: PSPNet section 3.3 and ICNet section 3.3 (0.4); DFANet, which has no such head, section
    4.
    """
    logits, aux = output["logits"], output["aux"]
    assert isinstance(logits, Tensor)
    size = (labels.shape[1], labels.shape[2])
    valid = (labels != UNLABELLED).sum().clamp(min=1)
    total = logits.new_zeros((), dtype=torch.float32)
    for scores, weight in ((logits, 1.0), *((scores, aux_weight) for scores in aux)):
        full = resize(scores.float(), size)
        losses = F.cross_entropy(full, labels.long(), ignore_index=UNLABELLED, reduction="sum")
        total = total + weight * losses / valid
    return total
