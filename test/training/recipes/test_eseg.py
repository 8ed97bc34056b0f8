# SPDX-License-Identifier: Apache-2.0
import inspect
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from training.losses import ohem_cross_entropy
from training.recipe import Recipe
from training.recipes import deeplabv3_plus, eseg


def recipes(module: ModuleType) -> list[Callable[[], Recipe]]:
    functions = [f for _, f in inspect.getmembers(module, inspect.isfunction)]
    own = [f for f in functions if f.__module__ == module.__name__]
    return [f for f in own if inspect.signature(f).return_annotation == "Recipe"]


@pytest.mark.parametrize("recipe", [*recipes(eseg), *recipes(deeplabv3_plus)])
def test_every_recipe_builds_the_network_that_its_name_says(recipe: Callable[[], Recipe]) -> None:
    run = recipe()
    with torch.device("meta"):
        network = run.network()
    assert network.num_classes == len(run.classes)
    family = {"ESeg": "eseg", "DeepLabV3Plus": "deeplabv3_plus"}[type(network).__name__]
    assert run.name.startswith(family)
    size = run.augmentation.crop_size
    assert all(side % network.size_multiple == 0 for side in (*size, *run.input_size))


def test_hard_pixels_are_hrnets() -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(2, 4, 300, 300), torch.randint(0, 4, (2, 300, 300))
    loss = eseg.hard_pixels({"logits": logits, "aux": []}, labels)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").flatten()
    hardest = losses.sort(descending=True).values
    count = max(131_072, int((losses >= -torch.log(torch.tensor(0.9))).sum()))
    assert float(loss) == pytest.approx(float(hardest[:count].mean()), rel=1e-5)
    assert float(loss) != pytest.approx(float(ohem_cross_entropy(logits, labels)), rel=1e-3)
