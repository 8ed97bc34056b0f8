# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest

from sfseg_ros.manifest import Manifest, SemanticClass, load_manifest
from sfseg_ros.share import DEFAULT_MODEL
from training.model_card import model_card

MODELS = Path(__file__).parents[2] / "models"


def manifest(evaluation: dict[str, object]) -> Manifest:
    return Manifest(
        directory=Path("models/two_classes"),
        name="two_classes",
        classes=(SemanticClass(0, "Road", (1, 2, 3)), SemanticClass(1, "Sky", (4, 5, 6))),
        onnx_file="model.onnx",
        onnx_sha256="0" * 64,
        opset=18,
        weights_dtype="float16",
        input_size=(64, 96),
        size_multiple=32,
        min_size=(64, 64),
        max_size=(128, 128),
        output_stride=4,
        evaluation=evaluation,
        parity={"pixel_agreement": 0.9995, "images": 3, "backend": "b", "reference": "r"},
        provenance={"parameters": 1_500_000, "training": "none: random weights"},
    )


def test_the_card_has_each_measured_number_and_a_dash_where_there_is_none() -> None:
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
    card = model_card(manifest({"somewhere": run}))
    assert "| Road | 65.4 |" in card
    assert "| Sky | – |" in card
    assert "| **mIoU** | **65.4** |" in card
    assert "7 pictures (test.txt), whole image; checkpoint; commit abc" in card
    assert "99.950 %" in card


def test_a_model_without_measurements_says_so() -> None:
    assert "Not measured." in model_card(manifest({}))


@pytest.mark.parametrize(
    ("recipe", "ours"), [("sfnet_lite:camvid_town_r18", True), ("my_recipes:warehouse", False)]
)
def test_terms_and_limits_of_our_data_are_claimed_for_our_recipes_only(
    recipe: str, ours: bool
) -> None:
    facts = {"seed": 0, "epochs": 1, "steps": 2, "minutes": 3, "hardware": "h", "commit": "c"}
    provenance = {"parameters": 1, "training": {"recipe": recipe, **facts}}
    card = model_card(replace(manifest({}), provenance=provenance))
    assert ("trained on\n\n- CamVid" in card) == ours
    assert ("one English town" in card) == ours
    assert ("To be written by who trained it" in card) == (not ours)


def test_the_committed_card_is_what_its_manifest_says() -> None:
    directory = MODELS / DEFAULT_MODEL
    assert (directory / "README.md").read_text(encoding="utf-8") == model_card(
        load_manifest(directory)
    )
