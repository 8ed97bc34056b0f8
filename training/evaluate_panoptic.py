# SPDX-License-Identifier: Apache-2.0
"""Measures panoptic quality of a checkpoint: whole pictures at the recipe's size, no flip.

    python -m training.evaluate_panoptic knet:town_r18 --checkpoint RUN/last.pt --data DIR \
        --output-dir RUN

Writes the predicted segments in COCO's panoptic format, which panopticapi reads as well.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from sfseg_ros.model.manifest import UNLABELLED
from training import checkpoint
from training.data.cityscapes import cityscapes_panoptic
from training.data.coco import coco_panoptic
from training.data.dataset import DataError
from training.data.panoptic_folder import INSTANCE_STEP, PanopticFolder
from training.data.rendered_town import rendered_town_panoptic
from training.data.transforms import PADDING_RGB
from training.networks.knet import KNet, merge
from training.normalisation import images_from_rgb
from training.operators import resize
from training.panoptic_quality import quality_of_files, write_ids
from training.recipe import built_network, load_recipe

LAYOUTS = {"town": rendered_town_panoptic, "cityscapes": cityscapes_panoptic, "coco": coco_panoptic}


@torch.inference_mode()
def segments_of(
    network: KNet, image: np.ndarray[Any, Any], fit: tuple[int, int], device: torch.device
) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Segments an image uint8 (H, W, 3) RGB; returns segments int64 (H, W), 0 = void, and their
    train ids.

    The image is scaled to fit into `fit` (height, width), and padded at the right and bottom with
    the grey of training.
    """
    height, width = image.shape[:2]
    scale = min(fit[0] / height, fit[1] / width)
    rows, columns = round(height * scale), round(width * scale)
    quality = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    multiple = network.size_multiple
    size = (-(-rows // multiple) * multiple, -(-columns // multiple) * multiple)
    padded = np.full((*size, 3), PADDING_RGB, np.uint8)
    padded[:rows, :columns] = cv2.resize(image, (columns, rows), interpolation=quality)
    output = network(images_from_rgb(torch.from_numpy(padded)[None].to(device), network))
    masks = resize(output["masks"][-1], size)[0, :, :rows, :columns]
    segments, found = merge(network, masks, output["classes"][-1][0], (height, width))
    return segments.cpu().numpy(), found


def most_frequent_classes(data: PanopticFolder) -> np.ndarray[Any, Any]:
    """Returns the most frequent class of each pixel, int64 (H, W): a prediction without a picture.

    Raises:
        DataError: pictures of different sizes.
    """
    counts = np.zeros((len(data.categories), *data[0].labels.shape), np.int32)
    for index in tqdm(range(len(data)), "count", mininterval=5.0):
        sample = data[index]
        labels = sample.labels % INSTANCE_STEP
        if labels.shape != counts.shape[1:]:
            raise DataError(
                f"{data.annotations}: {sample.name} is {_text(labels)}, the first picture "
                f"{_text(counts[0])}: --blind expects pictures of one size"
            )
        for c in np.unique(labels[labels != UNLABELLED]):
            counts[c] += labels == c
    return np.asarray(counts.argmax(axis=0))


def _text(array: np.ndarray[Any, Any]) -> str:
    return "x".join(map(str, array.shape))


def write_prediction(
    data: PanopticFolder, path: Path, predictions: list[tuple[np.ndarray[Any, Any], list[int]]]
) -> None:
    """Writes (segments, train ids) of each picture of `data` as a JSON file and PNGs."""
    path.with_suffix("").mkdir(parents=True, exist_ok=True)
    annotations = []
    for (_, entry), (segments, classes) in zip(data.entries, predictions, strict=True):
        present = np.unique(segments[segments > 0]).tolist()
        info = [
            {"id": i, "category_id": data.categories[classes[i - 1]]["id"], "iscrowd": 0}
            for i in present
        ]
        write_ids(path.with_suffix("") / entry["file_name"], segments.astype(np.uint32))
        annotations.append(
            {
                "image_id": entry["image_id"],
                "file_name": entry["file_name"],
                "segments_info": info,
            }
        )
    path.write_text(json.dumps({"annotations": annotations}) + "\n")


def main() -> None:
    arguments = parse_arguments()
    layout = LAYOUTS[arguments.layout]
    try:
        data = layout(arguments.data, arguments.split)
        path = arguments.output_dir / f"panoptic_{arguments.split}.json"
        if path.resolve() == data.annotations.resolve():
            raise SystemExit(f"{path} is the ground truth: expected another folder as --output-dir")
        if arguments.blind:
            mean = most_frequent_classes(layout(arguments.data, "train")) + 1
            predictions = [(mean, list(range(len(data.categories))))] * len(data)
        else:
            predictions = predict(arguments, data)
        write_prediction(data, path, predictions)
        quality = quality_of_files(data.annotations, path)
    except (FileNotFoundError, ValueError) as error:  # a DataError, or --blind of another size
        raise SystemExit(str(error)) from None
    print(quality.report())
    if arguments.json:
        what = "the class that each pixel has most often in train" if arguments.blind else "network"
        record = {
            "pictures": len(data),
            "measured": what,
            "protocol": "whole pictures scaled to the input size, single scale, no flip",
            "commit": checkpoint.commit(),
            "hardware": checkpoint.hardware(),
            **quality.record(),
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def predict(
    arguments: argparse.Namespace, data: PanopticFolder
) -> list[tuple[np.ndarray[Any, Any], list[int]]]:
    """Runs the network on every picture."""
    recipe = load_recipe(arguments.recipe)
    data.expect_classes(len(recipe.classes))
    network = built_network(recipe)
    if not isinstance(network, KNet):
        raise SystemExit(
            f"{arguments.recipe} builds no KNet: expected a recipe of training/recipes/knet.py"
        )
    if arguments.checkpoint:
        checkpoint.load_network(network, arguments.checkpoint)
    else:
        print("no --checkpoint: random weights")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.eval().to(device)
    steps = tqdm(range(len(data)), "evaluate", mininterval=5.0)
    return [segments_of(network, data[i].image, recipe.input_size, device) for i in steps]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="module:function in training/recipes")
    parser.add_argument("--checkpoint", type=Path, help="averaged weights of a training run")
    parser.add_argument(
        "--blind",
        action="store_true",
        help="use no network: predict the most frequent class of each pixel in train",
    )
    parser.add_argument("--data", type=Path, required=True, help="root of the data set")
    parser.add_argument("--layout", choices=LAYOUTS, default="town")
    parser.add_argument("--split", default="val")
    parser.add_argument("--output-dir", type=Path, required=True, help="for the segments")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
