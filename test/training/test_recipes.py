# SPDX-License-Identifier: Apache-2.0
"""Every recipe, and the example of training/README.md, can start a run."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from training import recipes
from training.recipe import load_recipe

README = Path(__file__).resolve().parents[2] / "training" / "README.md"


def names() -> Iterator[str]:
    """module:function of each recipe."""
    for found in pkgutil.iter_modules(recipes.__path__):
        module = importlib.import_module(f"{recipes.__name__}.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and not inspect.signature(function).parameters:
                yield f"{found.name}:{name}"


@pytest.mark.parametrize("name", list(names()))
def test_network_scores_the_classes_of_the_recipe_at_its_input_size(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        network = recipe.network()
    assert network.num_classes == len(recipe.classes)
    assert [side % network.size_multiple for side in recipe.input_size] == [0, 0]
    if recipe.backbone_weights:
        network.get_submodule("trunk")  # where training loads them


def test_the_recipe_in_the_readme_is_complete(
    street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType("training.recipes.field")
    exec(textwrap.dedent(example), module.__dict__)
    monkeypatch.setitem(sys.modules, "training.recipes.field", module)
    (street / "val.txt").write_text((street / "train.txt").read_text())

    recipe = load_recipe("field:field_r18")

    network = recipe.network()
    assert network.num_classes == len(recipe.classes)
    assert [side % network.size_multiple for side in recipe.input_size] == [0, 0]
    (part,) = recipe.mixture({"field": street})
    assert recipe.validation is not None
    assert len(recipe.validation({"field": street})) == part.per_epoch == len(part.data)
