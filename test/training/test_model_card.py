# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sfseg_ros.manifest import Manifest, SemanticClass, load_manifest
from sfseg_ros.share import DEFAULT_MODEL
from training.model_card import model_card

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


def test_a_model_without_measurements_says_so(manifest: Manifest) -> None:
    assert "Not measured." in model_card(manifest)


def test_the_card_names_the_network_of_its_manifest(manifest: Manifest) -> None:
    assert "SomeNet (a trunk), 2 classes, 1.50 M parameters" in model_card(manifest)


@pytest.mark.parametrize(
    ("recipe", "ours"), [("sfnet_lite:camvid_town_r18", True), ("my_recipes:warehouse", False)]
)
def test_terms_and_limits_of_our_data_are_claimed_for_our_recipes_only(
    manifest: Manifest, recipe: str, ours: bool
) -> None:
    facts = {"seed": 0, "epochs": 1, "steps": 2, "minutes": 3, "hardware": "h", "commit": "c"}
    provenance = {**manifest.provenance, "training": {"recipe": recipe, **facts}}
    card = model_card(replace(manifest, provenance=provenance))
    assert ("trained on\n\n- CamVid" in card) == ours
    assert ("one English town" in card) == ours
    assert ("To be written by who trained it" in card) == (not ours)


def test_the_committed_card_is_what_its_manifest_says() -> None:
    directory = MODELS / DEFAULT_MODEL
    assert (directory / "README.md").read_text(encoding="utf-8") == model_card(
        load_manifest(directory)
    )
