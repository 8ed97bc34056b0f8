# SPDX-License-Identifier: Apache-2.0
"""Measures the mIoU of a checkpoint or a model directory: whole images, one scale, no flip."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from sfseg_ros.backends.protocol import BackendOptions
from sfseg_ros.errors import SfsegError
from sfseg_ros.evaluation.metrics import ConfusionMatrix
from sfseg_ros.segmenter import Segmenter, open_segmenter
from training import checkpoint
from training.data.dataset import SegmentationDataset
from training.data_roots import DataRootAction, validation_pictures
from training.normalisation import images_from_rgb
from training.recipe import built_network, load_recipe


@torch.inference_mode()
def evaluate(
    network: nn.Module, data: SegmentationDataset, num_classes: int, device: torch.device
) -> ConfusionMatrix:
    """Returns the confusion matrix of `network` over `data`, fp32, each picture at its own size."""
    network.eval()
    matrix = ConfusionMatrix(num_classes)
    for index in tqdm(range(len(data)), "evaluate", mininterval=5.0):
        sample = data[index]
        rgb = torch.from_numpy(sample.image)[None].to(device)
        labels = network(images_from_rgb(rgb, network))["logits"].argmax(1)[0]
        matrix.update(labels.to(torch.uint8).cpu().numpy(), sample.labels)
    return matrix


def evaluate_segmenter(segmenter: Segmenter, data: SegmentationDataset) -> ConfusionMatrix:
    """Returns the confusion matrix of a deployed model, with the labels that the node publishes."""
    matrix = ConfusionMatrix(len(segmenter.manifest.classes))
    for index in tqdm(range(len(data)), "evaluate", mininterval=5.0):
        sample = data[index]
        matrix.update(segmenter.segment(sample.image, confidence=False).labels, sample.labels)
    return matrix


def report(matrix: ConfusionMatrix, names: list[str]) -> str:
    """Per-class IoU, mIoU and pixel accuracy in percent, as lines of text."""
    lines = [f"{name:>12} {100 * iou:5.1f}" for name, iou in zip(names, matrix.iou(), strict=True)]
    lines.append(f"{'mIoU':>12} {100 * matrix.miou():5.2f}")
    lines.append(f"{'pixels':>12} {100 * matrix.pixel_accuracy():5.2f}")
    return "\n".join(lines)


def record(
    matrix: ConfusionMatrix,
    names: list[str],
    data: SegmentationDataset,
    lists: list[str],
    what: str,
) -> dict[str, object]:
    """Returns the measurement as plain values for a manifest.

    IoUs are 0 to 1, with enough digits that a percentage is rounded once.
    """
    iou = {
        name: None if np.isnan(value) else round(float(value), 6)
        for name, value in zip(names, matrix.iou(), strict=True)
    }
    return {
        "pictures": len(data),
        "lists": lists,
        "measured": what,
        "protocol": "whole image, single scale, no flip",
        "commit": checkpoint.commit(),
        "hardware": checkpoint.hardware(),
        "miou": round(matrix.miou(), 6),
        "pixel_accuracy": round(matrix.pixel_accuracy(), 6),
        "iou": iou,
    }


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe)
    data, lists = validation_pictures(recipe, arguments.data_root, arguments.data, arguments.lists)
    data.expect_classes(len(recipe.classes))
    names = [name for name, _ in recipe.classes]
    if arguments.model:
        try:
            segmenter = open_segmenter(
                arguments.model, arguments.backend, BackendOptions(arguments.precision)
            )
        except SfsegError as error:
            raise SystemExit(str(error)) from None
        deployed = [c.name for c in segmenter.manifest.classes]
        if deployed != names:
            raise SystemExit(
                f"{arguments.model} has {len(deployed)} classes ({', '.join(deployed[:3])}, ...), "
                f"{arguments.recipe} {len(names)} ({', '.join(names[:3])}, ...): expected its own"
            )
        what = f"exported model, {segmenter.backend.description}"
        measure = partial(evaluate_segmenter, segmenter, data)
    else:
        network = built_network(recipe)
        checkpoint.load_network(network, arguments.checkpoint)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        what = "checkpoint, torch fp32, pictures at their own size"
        measure = partial(evaluate, network.to(device), data, len(names), device)
    try:
        matrix = measure()
    except ValueError as error:  # a DataError, or a size that the network does not take
        raise SystemExit(str(error)) from None
    print(what)
    print(report(matrix, names))
    if arguments.json:
        result = record(matrix, names, data, lists, what)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="module:function in training/recipes; gives the classes")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="averaged weights of a training run")
    what.add_argument("--model", type=Path, help="exported model directory, through the runtime")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--data", type=Path, help="folder with list files; label maps hold train ids"
    )
    where.add_argument(
        "--data-root",
        action=DataRootAction,
        metavar="NAME=FOLDER",
        help="instead of --data: the recipe's validation pictures, as in training",
    )
    parser.add_argument(
        "--lists", nargs="+", default=["test.txt"], help="with --data: list files to join"
    )
    parser.add_argument("--backend", default="auto", help="with --model")
    parser.add_argument("--precision", default="auto", help="with --model")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
