# SPDX-License-Identifier: Apache-2.0
"""K-Net's training losses: things are matched to kernels, each stuff class has its own kernel.

Paper: Zhang et al., "K-Net", NeurIPS 2021, section 3.4; the weights follow the authors' code.
A label map here is train id + 256 * instance (data/panoptic_folder.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg_ros.model.manifest import UNLABELLED
from training.data.panoptic_folder import INSTANCE_STEP

CLASS_WEIGHT = 2.0
DICE_WEIGHT = 4.0
MASK_WEIGHT = 1.0
RANK_WEIGHT = 0.1
GAMMA = 2
ALPHA = 0.25


@dataclass(frozen=True)
class Targets:
    """Targets of one picture, at the size of the masks.

    Args:
        thing_masks: float (T, h, w), fraction of each cell that a thing covers.
        thing_classes: int64 (T,), train ids.
        stuff_masks: float (S, h, w) of the stuff classes in order; zero for absent classes.
        classes: int64 (h, w), train ids with 255 = void.
    """

    thing_masks: Tensor
    thing_classes: Tensor
    stuff_masks: Tensor
    classes: Tensor


def targets_of(
    labels: Tensor, things: tuple[int, ...], stuff: tuple[int, ...], size: tuple[int, int]
) -> Targets:
    """Computes the targets of a label map, integer (H, W).

    Raises:
        ValueError: a side is not a multiple of the side of `size`.
    """
    if labels.shape[0] % size[0] or labels.shape[1] % size[1]:
        raise ValueError(
            f"label map is {tuple(labels.shape)}, expected multiples of the masks' {size}: "
            "train on crops whose sides are multiples of the network's size_multiple"
        )
    labels = labels.long()
    values = labels.unique()
    values = values[values >= INSTANCE_STEP]
    values = values[torch.isin(values % INSTANCE_STEP, labels.new_tensor(things))]
    semantic = labels % INSTANCE_STEP
    every = torch.cat([labels == values[:, None, None], semantic == _planes(stuff, labels)])
    masks = F.adaptive_avg_pool2d(every.float(), size)
    rows, columns = labels.shape[0] // size[0], labels.shape[1] // size[1]
    return Targets(
        masks[: len(values)],
        values % INSTANCE_STEP,
        masks[len(values) :],
        semantic[rows // 2 :: rows, columns // 2 :: columns],
    )


def _planes(numbers: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_tensor(numbers)[:, None, None]


def knet_loss(output: dict[str, Any], labels: Tensor, things: tuple[int, ...]) -> Tensor:
    """Sums all losses of the output of KNet.forward in training.

    The predictions of the previous round match the things of a round to kernels.

    Args:
        output: see KNet.forward.
        labels: integer (N, H, W).
        things: train ids of the classes with instances.
    """
    segmentation: Tensor = output["segmentation"].float()
    masks: list[Tensor] = [m.float() for m in output["masks"]]
    classes: list[Tensor] = [c.float() for c in output["classes"]]
    stuff = tuple(c for c in range(segmentation.shape[1]) if c not in things)
    size = (segmentation.shape[2], segmentation.shape[3])
    count = masks[0].shape[1]
    targets = [targets_of(picture, things, stuff, size) for picture in labels]
    total = segmentation_loss(segmentation, torch.stack([t.classes for t in targets]))
    pairs = [match(m, None, t) for m, t in zip(masks[0].detach(), targets, strict=True)]
    total = total + mask_loss(masks[0], [rows_shown(t, p) for t, p in zip(targets, pairs)])
    for i, (m, c) in enumerate(zip(masks[1:], classes, strict=True)):
        if i > 0:
            before = zip(masks[i].detach(), classes[i - 1].detach(), targets, strict=True)
            pairs = [match(bm[:count], bc[:count], t) for bm, bc, t in before]
        shown = [rows_shown(t, p, stuff_from=count) for t, p in zip(targets, pairs)]
        total = total + mask_loss(m, shown) + class_loss(c, targets, pairs, things, stuff)
    return total


# Kernels (P,), and the indices (P,) or the masks (P, h, w) of their things or stuff.
Pairs = tuple[Tensor, Tensor]


@torch.no_grad()
def match(masks: Tensor, classes: Tensor | None, targets: Targets) -> Pairs:
    """Finds the cheapest one-to-one matching of thing kernels and things (Hungarian method).

    Args:
        masks: float (K, h, w) before the sigmoid.
        classes: float (K, classes) before the sigmoid; None before the first round.
    """
    from scipy.optimize import linear_sum_assignment

    score = torch.sigmoid(masks).flatten(1)
    true = targets.thing_masks.flatten(1)
    shared = score @ true.T
    squares = score.square().sum(dim=1)[:, None] + true.square().sum(dim=1)[None]
    outside = (1 - score) @ (1 - true).T
    cost = -DICE_WEIGHT * 2 * shared / (squares + 2e-3)
    cost = cost - MASK_WEIGHT * (shared + outside) / score.shape[1]
    if classes is not None:
        p = torch.sigmoid(classes)[:, targets.thing_classes]
        is_it = ALPHA * (1 - p) ** GAMMA * torch.log(p + 1e-12)
        is_not = (1 - ALPHA) * p**GAMMA * torch.log(1 - p + 1e-12)
        cost = cost + CLASS_WEIGHT * (is_not - is_it)
    kernels, things = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(kernels).to(masks.device), torch.as_tensor(things).to(masks.device)


def focal_loss(scores: Tensor, true: Tensor) -> Tensor:
    """Computes the sigmoid focal loss per element. Paper: Lin et al., "Focal Loss", equation 5."""
    p = torch.sigmoid(scores)
    wrong = p + true - 2 * p * true  # 1 - p where true is 1, p where it is 0
    weight = ALPHA * true + (1 - ALPHA) * (1 - true)
    entropy = F.binary_cross_entropy_with_logits(scores, true, reduction="none")
    return weight * wrong**GAMMA * entropy


def segmentation_loss(scores: Tensor, classes: Tensor) -> Tensor:
    """Computes the focal loss of the initial class scores (N, C, h, w) over the labelled cells of
    (N, h, w).

    Differs: the authors' code trains void cells as none of the classes.
    """
    labelled = classes != UNLABELLED
    true = F.one_hot(classes.clamp(max=scores.shape[1] - 1), scores.shape[1])
    losses = focal_loss(scores, true.movedim(3, 1).float())
    return (losses * labelled[:, None]).sum() / labelled.sum().clamp(min=1)


def rows_shown(targets: Targets, pairs: Pairs, stuff_from: int | None = None) -> Pairs:
    """Returns the kernels of things and stuff in the picture, and their true masks (P, h, w).

    Args:
        stuff_from: index of the first stuff kernel; None if there are no stuff kernels yet.
    """
    kernels, things = pairs
    masks = targets.thing_masks[things]
    if stuff_from is None:
        return kernels, masks
    present = targets.stuff_masks.flatten(1).any(dim=1).nonzero()[:, 0]
    return (
        torch.cat([kernels, present + stuff_from]),
        torch.cat([masks, targets.stuff_masks[present]]),
    )


def mask_loss(masks: Tensor, shown: list[Pairs]) -> Tensor:
    """Sums cross entropy, dice and rank loss of masks (N, K, h, w) before the sigmoid.

    The rank loss rewards the largest mask value for the kernel that owns a cell.
    """
    scores = torch.cat([m[rows] for m, (rows, _) in zip(masks, shown, strict=True)])
    true = torch.cat([wanted for _, wanted in shown])
    if len(true) == 0:
        return masks.sum() * 0.0
    entropy = F.binary_cross_entropy_with_logits(scores, true)
    p, t = torch.sigmoid(scores).flatten(1), true.flatten(1)
    both, squares = (p * t).sum(dim=1), p.square().sum(dim=1) + t.square().sum(dim=1)
    dice = (1 - 2 * both / (squares + 2e-3)).mean()
    rank = F.cross_entropy(masks, owners(shown, masks), ignore_index=-1)
    return MASK_WEIGHT * entropy + DICE_WEIGHT * dice + RANK_WEIGHT * torch.nan_to_num(rank)


def owners(shown: list[Pairs], masks: Tensor) -> Tensor:
    """Returns the kernel of each cell, int64 (N, h, w); -1 if none covers more than half of it."""
    result = torch.full_like(masks[:, 0], -1, dtype=torch.int64)
    for owner, (rows, wanted) in zip(result, shown, strict=True):
        if len(rows):
            share, best = wanted.max(dim=0)
            owner[:] = torch.where(share > 0.5, rows[best], -1)
    return result


def class_loss(
    classes: Tensor,
    targets: list[Targets],
    pairs: list[Pairs],
    things: tuple[int, ...],
    stuff: tuple[int, ...],
) -> Tensor:
    """Computes the focal loss of class scores (N, K + S, classes) before the sigmoid.

    A thing kernel is trained on things only, the kernel of a stuff class on that class only.
    """
    count = classes.shape[1] - len(stuff)
    asked = torch.zeros_like(classes)
    asked[:, :count, list(things)] = 1.0
    own = torch.arange(len(stuff), device=classes.device)
    stuff_ids = torch.tensor(stuff, device=classes.device)
    asked[:, count + own, stuff_ids] = 1.0
    true = torch.zeros_like(classes)
    for row, t, (kernels, matched) in zip(true, targets, pairs, strict=True):
        row[kernels, t.thing_classes[matched]] = 1.0
        row[count + own, stuff_ids] = t.stuff_masks.flatten(1).any(dim=1).float()
    losses = focal_loss(classes, true) * asked
    return CLASS_WEIGHT * losses.sum() / true.sum().clamp(min=1.0)
