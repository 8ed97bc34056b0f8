# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from training import checkpoint, distillation
from training.distillation import distillation_loss, opened_teacher
from training.recipe import Distillation, Recipe

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Returns fixed scores."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        assert images.shape[1] == 3
        return {"logits": self.scores}


def test_loss_is_the_weighted_divergence_of_softened_probabilities() -> None:
    torch.manual_seed(0)
    own, taught = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    rgb = torch.zeros(2, 3, 5, 3, dtype=torch.uint8)
    loss = distillation_loss(Distillation("", 0.5, temperature=3.0), Fixed(taught), rgb, own)
    p, q = (taught / 3).softmax(1), (own / 3).softmax(1)
    expected = 0.5 * 9 * (p * (p / q).log()).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_is_zero_if_the_student_agrees() -> None:
    scores = torch.randn(1, 4, 3, 5)
    own = (scores + 7.0).requires_grad_()  # the same probabilities
    rgb = torch.zeros(1, 3, 5, 3, dtype=torch.uint8)
    loss = distillation_loss(Distillation(""), Fixed(scores), rgb, own)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert own.grad is not None
    assert own.grad.abs().max() < 1e-6


def test_the_teacher_is_frozen_and_has_the_checkpoints_weights(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "load_recipe", lambda _: tiny_recipe)
    weights = {
        name: torch.full_like(value, 0.25)
        for name, value in tiny_recipe.network().state_dict().items()
    }
    checkpoint.save(tmp_path / "last.pt", {"ema": weights})
    student = replace(tiny_recipe, distillation=Distillation("tiny"))
    teacher = opened_teacher(student, tmp_path / "last.pt", CPU)
    assert teacher is not None
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all((p == 0.25).all() for p in teacher.parameters())


def test_a_missing_or_superfluous_teacher_ends_with_one_line(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opened_teacher(tiny_recipe, None, CPU) is None
    with pytest.raises(SystemExit, match=r"'tiny' has no teacher: omit --teacher .*"):
        opened_teacher(tiny_recipe, tmp_path / "last.pt", CPU)
    student = replace(tiny_recipe, distillation=Distillation("tiny"))
    with pytest.raises(SystemExit, match="'tiny' learns from tiny: add --teacher FILE"):
        opened_teacher(student, None, CPU)
    others = (("Sea", (0, 0, 255)), *tiny_recipe.classes[1:])
    monkeypatch.setattr(distillation, "load_recipe", lambda _: replace(tiny_recipe, classes=others))
    with pytest.raises(SystemExit, match="other classes: expected the same names"):
        opened_teacher(student, tmp_path / "last.pt", CPU)
