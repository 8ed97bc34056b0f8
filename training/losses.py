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
    """Computes the mean cross entropy over the hard pixels of the batch (OHEM).

    A pixel is hard if the probability of its true class is at most `threshold`. If fewer than
    `keep` pixels are hard, the `keep` hardest count. If the batch has at most `keep` labelled
    pixels, all count. Differs: the papers say "the 10 % hardest"; the authors'
    OhemCrossEntropy2dTensor has this rule.

    Args:
        logits: float (N, C, H, W).
        labels: integer (N, H, W), 255 = ignore.

    Returns:
        Scalar; 0 with a gradient of 0 if every pixel is ignored.
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
    """Sums OHEM of the main scores and of each auxiliary head with weight 1, as the authors do."""
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
    """Sums the mean cross entropy of the main scores and `aux_weight` times that of each auxiliary
    head.

    Paper: PSPNet section 3.3 and ICNet section 3.3 (0.4); DFANet section 4, without such heads.
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
