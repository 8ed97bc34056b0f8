# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F

from training.losses import cross_entropy, deeply_supervised, ohem_cross_entropy


def logits_for(probabilities: list[float]) -> torch.Tensor:
    """Two-class scores, one row of pixels whose class 0 has these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([p.log(), (1 - p).log()])[None, :, None, :]


def test_easy_pixels_are_omitted_if_enough_are_hard() -> None:
    logits = logits_for([0.1, 0.5, 0.9, 0.99])
    loss = ohem_cross_entropy(logits, torch.zeros(1, 1, 4, dtype=torch.uint8), 0.7, keep=2)
    assert loss.item() == pytest.approx(-(torch.tensor([0.1, 0.5]).log().mean()).item(), rel=1e-5)


def test_the_hardest_are_kept_when_too_few_are_hard() -> None:
    logits = logits_for([0.1, 0.8, 0.9, 0.99])
    loss = ohem_cross_entropy(logits, torch.zeros(1, 1, 4, dtype=torch.uint8), 0.7, keep=2)
    assert loss.item() == pytest.approx(-(torch.tensor([0.1, 0.8]).log().mean()).item(), rel=1e-5)


def test_small_batches_are_not_mined_and_ignored_pixels_do_not_count() -> None:
    logits = torch.randn(2, 5, 4, 6)
    labels = torch.randint(0, 5, (2, 4, 6))
    labels[0, :2] = 255
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(ohem_cross_entropy(logits, labels), expected)


def test_loss_of_a_batch_without_labels_is_zero() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_auxiliary_scores_are_resized_and_added() -> None:
    labels = torch.randint(0, 3, (1, 8, 8))
    main, aux = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 2, 2)
    full = F.interpolate(aux, size=(8, 8), mode="bilinear", align_corners=True)
    expected = F.cross_entropy(main, labels) + F.cross_entropy(full, labels)
    torch.testing.assert_close(deeply_supervised({"logits": main, "aux": [aux]}, labels), expected)


def test_plain_cross_entropy_weighs_coarser_scores_less() -> None:
    logits, labels = torch.randn(2, 5, 4, 6), torch.randint(0, 5, (2, 4, 6))
    labels[0, :2] = 255
    main = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(cross_entropy({"logits": logits, "aux": []}, labels), main)
    # Corner-aligned doubling of a constant map changes nothing.
    coarse = torch.randn(2, 5, 1, 1).expand(-1, -1, 2, 3)
    aux = F.cross_entropy(coarse[:, :, :1, :1].expand(-1, -1, 4, 6), labels, ignore_index=255)
    both = cross_entropy({"logits": logits, "aux": [coarse, coarse]}, labels, aux_weight=0.25)
    torch.testing.assert_close(both, main + 0.5 * aux)


def test_plain_cross_entropy_of_a_batch_without_labels_is_zero() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = cross_entropy({"logits": logits, "aux": []}, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0.0
