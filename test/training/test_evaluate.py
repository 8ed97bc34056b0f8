# SPDX-License-Identifier: Apache-2.0
"""Measurements of a checkpoint on the recipe's validation pictures or on list files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sfseg_ros.evaluation.metrics import ConfusionMatrix
from training import evaluate
from training.data.listed_folder import ListedFolder
from training.recipe import Recipe

RAW = 20  # difference between raw label ids and train ids


@pytest.fixture
def measure(
    street: Path, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, object]]:
    """Runs the command on random weights; returns its JSON."""

    def run(*options: str, recipe: Recipe = tiny_recipe) -> dict[str, object]:
        torch.manual_seed(0)
        torch.save({"ema": tiny_recipe.network().state_dict()}, tmp_path / "last.pt")
        files = ["--checkpoint", str(tmp_path / "last.pt"), "--json", str(tmp_path / "out.json")]
        monkeypatch.setattr(evaluate, "load_recipe", lambda _: recipe)
        monkeypatch.setattr("sys.argv", ["", "tiny", *files, *options])
        evaluate.main()
        measured: dict[str, object] = json.loads((tmp_path / "out.json").read_text())
        return measured

    return run


def with_raw_ids(recipe: Recipe, street: Path) -> Recipe:
    """Changes `recipe` to label maps of raw ids, which its validation maps to train ids."""
    for path in street.glob("labels/*/*"):
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(ids == 255, 0, ids + RAW).astype(np.uint8))
    table = {RAW + i: i for i in range(3)}
    return replace(
        recipe, validation=lambda roots: ListedFolder(roots["street"], ("train.txt",), table)
    )


def test_data_root_measures_the_recipes_validation_with_its_own_raw_ids(
    measure: Callable[..., dict[str, object]], tiny_recipe: Recipe, street: Path
) -> None:
    by_list = measure("--data", str(street), "--lists", "train.txt")
    recipe = with_raw_ids(tiny_recipe, street)
    by_root = measure("--data-root", f"street={street}", recipe=recipe)
    assert by_list.pop("lists") == ["train.txt"]
    assert by_root.pop("lists") == ["validation of tiny"]
    assert by_root == by_list


def test_error_names_raw_ids_in_a_folder(
    measure: Callable[..., dict[str, object]], tiny_recipe: Recipe, street: Path
) -> None:
    with_raw_ids(tiny_recipe, street)
    with pytest.raises(SystemExit, match=r"labels/train/A_000\.png holds 2\d: expected 0 to 2"):
        measure("--data", str(street), "--lists", "train.txt")


def test_a_recipe_that_cannot_be_measured_ends_with_one_line(
    measure: Callable[..., dict[str, object]], tiny_recipe: Recipe, street: Path
) -> None:
    root = ("--data-root", f"street={street}")
    with pytest.raises(SystemExit, match=r"^recipe 'tiny' has no validation .*--help$"):
        measure(*root, recipe=replace(tiny_recipe, validation=None))
    with pytest.raises(SystemExit, match=r"val is missing: .*; --data-root takes the recipe's"):
        measure("--data", str(street), "--lists", "val")
    with pytest.raises(SystemExit, match=r"^no folder for 'street': add --data-root street=FOLDER"):
        measure("--data-root", f"camvid={street}")
    with pytest.raises(SystemExit, match="has 2 classes, but its network scores 3"):
        measure(*root, recipe=replace(tiny_recipe, classes=tiny_recipe.classes[:2]))


def test_a_recorded_iou_is_rounded_once(street: Path) -> None:
    matrix = ConfusionMatrix(2)
    truth = np.zeros(100_000, np.uint8)
    matrix.update((np.arange(100_000) >= 21_046).astype(np.uint8), truth)
    data = ListedFolder(street, ("train.txt",))
    recorded = evaluate.record(matrix, ["Pole", "Sky"], data, [], "a test")["iou"]
    assert isinstance(recorded, dict)
    assert f"{100 * recorded['Pole']:.1f}" == "21.0"
    assert "Pole  21.0" in evaluate.report(matrix, ["Pole", "Sky"])
