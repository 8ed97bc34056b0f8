# SPDX-License-Identifier: Apache-2.0
"""K-Net's losses on hand-made masks."""

import pytest
import torch

from training.panoptic_losses import (
    class_loss,
    knet_loss,
    mask_loss,
    match,
    owners,
    rows_shown,
    segmentation_loss,
    targets_of,
)

pytest.importorskip("scipy", reason="requirements/training.in")

THINGS = (1, 3)
STUFF = (0, 2)
ROAD, PERSON, SKY, CAR, VOID = 0, 1, 2, 3, 255


def label_map() -> torch.Tensor:
    """16 x 16: sky above road, two cars and a crowd of people below, void in one corner."""
    labels = torch.full((16, 16), SKY)
    labels[8:] = ROAD
    labels[8:16, 0:4] = CAR + 256 * 1
    labels[8:16, 8:12] = CAR + 256 * 2
    labels[8:12, 12:16] = PERSON
    labels[0:4, 0:4] = VOID
    return labels.to(torch.uint16)


def targets():
    return targets_of(label_map(), THINGS, STUFF, (4, 4))


def perfect(kernels: int = 3, first: tuple[int, int] = (2, 0)) -> dict[str, object]:
    """Returns the output of a perfect network; the two cars are kernels `first`."""
    t = targets()
    masks = torch.full((kernels + 2, 4, 4), -9.0)
    for kernel, mask in zip(first, t.thing_masks, strict=True):
        masks[kernel] = mask * 18 - 9
    masks[kernels:] = t.stuff_masks * 18 - 9
    classes = torch.full((kernels + 2, 4), -9.0)
    for kernel in first:
        classes[kernel, CAR] = 9.0
    classes[kernels, ROAD] = classes[kernels + 1, SKY] = 9.0
    one_hot = torch.nn.functional.one_hot(t.classes.clamp(max=3), 4).movedim(2, 0)
    return {
        "segmentation": (one_hot * 18.0 - 9)[None],
        "masks": [masks[None, :kernels], masks[None], masks[None]],
        "classes": [classes[None], classes[None]],
    }


def test_targets_hold_things_one_by_one_and_stuff_by_class() -> None:
    t = targets()

    assert t.thing_classes.tolist() == [CAR, CAR]  # a crowd has no instances
    assert t.thing_masks.shape == (2, 4, 4)
    assert t.thing_masks[0].nonzero().tolist() == [[2, 0], [3, 0]]
    assert t.stuff_masks[0].sum() == 3  # road
    assert t.stuff_masks[1].sum() == 7  # sky without the void corner
    assert t.classes[2, 3] == PERSON
    assert t.classes[0, 0] == VOID


def test_a_cell_that_a_thing_half_covers_is_half_a_target() -> None:
    labels = torch.zeros((16, 16), dtype=torch.int32)
    labels[:4, :2] = CAR + 256

    assert targets_of(labels, THINGS, STUFF, (4, 4)).thing_masks[0, 0, 0] == 0.5


def test_loss_of_perfect_output_is_almost_zero_and_grows_with_a_mistake() -> None:
    labels = label_map()[None]
    least = knet_loss(perfect(), labels, THINGS)
    wrong_mask, wrong_class, wrong_segmentation = perfect(), perfect(), perfect()
    wrong_mask["masks"][2] = wrong_mask["masks"][2].roll(1, dims=3)
    wrong_class["classes"][1] = -wrong_class["classes"][1]
    wrong_segmentation["segmentation"] = -wrong_segmentation["segmentation"]

    assert least < 0.1
    for wrong in (wrong_mask, wrong_class, wrong_segmentation):
        assert knet_loss(wrong, labels, THINGS) > least + 1


def test_the_loss_does_not_depend_on_which_kernel_says_it() -> None:
    labels = label_map()[None]

    values = [knet_loss(perfect(first=f), labels, THINGS) for f in ((2, 0), (0, 1), (1, 2))]

    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


def test_things_are_matched_by_mask_and_where_masks_are_equal_by_class() -> None:
    t = targets()
    masks = torch.full((3, 4, 4), -9.0)
    masks[1], masks[2] = t.thing_masks[1] * 18 - 9, t.thing_masks[0] * 18 - 9

    kernels, things = match(masks, None, t)
    assert sorted(zip(kernels.tolist(), things.tolist(), strict=True)) == [(1, 1), (2, 0)]

    masks[:] = 0.0
    classes = torch.zeros((3, 4))
    classes[0, CAR] = -5.0
    assert match(masks, classes, t)[0].tolist() == [1, 2]


def test_a_picture_without_things_trains_the_stuff_kernels() -> None:
    labels = torch.full((1, 16, 16), SKY, dtype=torch.int32)
    output = perfect()
    for masks in output["masks"]:
        masks.requires_grad_()

    knet_loss(output, labels, THINGS).backward()

    assert output["masks"][1].grad[0, 4].abs().sum() > 0  # the sky's kernel
    assert all(torch.isfinite(masks.grad).all() for masks in output["masks"])


def test_void_is_left_out_of_the_segmentation_loss() -> None:
    scores = torch.zeros((1, 4, 2, 2), requires_grad=True)

    segmentation_loss(scores, torch.tensor([[[ROAD, VOID], [SKY, CAR]]])).backward()

    assert (scores.grad[0, :, 0, 1] == 0).all()
    assert (scores.grad[0, :, 0, 0] != 0).all()
    everything_void = torch.full((1, 2, 2), VOID)
    assert segmentation_loss(scores, everything_void) == 0


def test_a_kernel_is_trained_only_on_its_possible_classes() -> None:
    t = targets()
    classes = torch.zeros((1, 5, 4), requires_grad=True)
    pairs = (torch.tensor([2, 0]), torch.tensor([0, 1]))

    class_loss(classes, [t], [pairs], THINGS, STUFF).backward()

    asked = (classes.grad[0] != 0).int().tolist()
    assert asked == [[0, 1, 0, 1]] * 3 + [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert classes.grad[0, 2, CAR] < 0 < classes.grad[0, 1, CAR]


def test_the_rank_loss_wants_the_owner_of_a_cell_on_top() -> None:
    t = targets()
    shown = [rows_shown(t, (torch.tensor([2, 0]), torch.tensor([0, 1])), stuff_from=3)]
    masks = torch.zeros((1, 5, 4, 4), requires_grad=True)

    owner = owners(shown, masks)
    mask_loss(masks, shown).backward()

    assert owner[0].tolist() == [[-1, 4, 4, 4], [4, 4, 4, 4], [2, 3, 0, -1], [2, 3, 0, 3]]
    assert masks.grad[0, 1].abs().sum() > 0  # the idle kernel only learns from the rank loss
    assert (masks.grad[0, 1] >= 0).all()
    assert (masks.grad[0, 1, 0, 0], masks.grad[0, 1, 2, 3]) == (0, 0)
