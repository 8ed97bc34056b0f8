# SPDX-License-Identifier: Apache-2.0
"""Writes a model directory: python -m training.export RECIPE --checkpoint FILE --output-dir
models/NAME ...

One ONNX file for ONNX Runtime, OpenVINO and TensorRT (docs/adr/0001 and 0002): uint8 RGB in, uint8
labels and confidence out, everything between as nodes of the graph.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from sfseg_ros.manifest import Manifest, SemanticClass, save_manifest
from training import checkpoint
from training.config import Recipe, load_recipe
from training.data.street_folder import StreetFolder
from training.model_card import model_card
from training.networks.normalisation import images_from_rgb
from training.networks.operators import upsample_argmax
from training.onnx_functions import DOMAIN, OPSET, functions

MIN_SIZE = (64, 64)
MAX_SIZE = (2048, 4096)
MIN_AGREEMENT = 0.999


class DeployedModel(nn.Module):
    """The contract around a network: uint8 (N, H, W, 3) RGB -> uint8 labels and confidence (N, H,
    W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network.scores(images_from_rgb(image))  # type: ignore[operator]
        return upsample_argmax(scores, int(self.network.output_stride))  # type: ignore[arg-type]


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe)
    network = recipe.network().eval()
    provenance: dict[str, Any] = {"recipe": arguments.recipe, "training": "none: random weights"}
    if arguments.checkpoint:
        provenance |= training_record(checkpoint.load_network(network, arguments.checkpoint))
    else:
        print("no --checkpoint: the model gets random weights")
    pictures = parity_images(arguments, recipe)
    model = halved_weights(onnx_from_network(network))
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    onnx_path = arguments.output_dir / "model.onnx"
    onnx.save(model, onnx_path)
    parity = check_parity(network, onnx_path, pictures)
    manifest = manifest_of(recipe, network, onnx_path, parity, provenance, arguments.evaluation)
    save_manifest(manifest)
    (arguments.output_dir / "README.md").write_text(model_card(manifest), encoding="utf-8")
    print(f"{onnx_path}: {onnx_path.stat().st_size / 1e6:.1f} MB, {len(model.graph.node)} nodes")
    print(
        f"agreement with torch: {100 * parity['pixel_agreement']:.3f} % of pixels, "
        f"confidence within {parity['largest_confidence_difference']} of 255"
    )
    if parity["pixel_agreement"] < MIN_AGREEMENT:
        raise SystemExit(f"{onnx_path} disagrees with torch: do not use it")


def onnx_from_network(network: nn.Module) -> onnx.ModelProto:
    """The deployed form of `network`, fp32, with the sfseg functions; N, H and W stay free."""
    multiple = int(network.size_multiple)  # type: ignore[arg-type]
    rows = torch.export.Dim("rows", min=MIN_SIZE[0] // multiple, max=MAX_SIZE[0] // multiple)
    columns = torch.export.Dim("columns", min=MIN_SIZE[1] // multiple, max=MAX_SIZE[1] // multiple)
    # Sizes that share no factor with each other or with the bins, so that nothing is specialised
    # by accident; larger ones where these would be below the least size.
    height, width = (11, 13) if 11 * multiple >= max(MIN_SIZE) else (67, 71)
    example = torch.zeros((2, height * multiple, width * multiple, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        DeployedModel(network).eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["labels", "confidence"],
        dynamic_shapes=(
            {
                0: torch.export.Dim("batch", min=1, max=64),
                1: multiple * rows,
                2: multiple * columns,
            },
        ),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    if "UpsampleArgmax" not in used:
        # What PyTorch does, silently, where torch.export.export(strict=False) fails: in its other
        # way of tracing torch.onnx.is_in_onnx_export() is False.
        raise RuntimeError(
            "the graph was traced without the sfseg operations, expected torch.export to take the "
            "network as it is: run torch.export.export(DeployedModel(network), ...) to see why not"
        )
    del model.functions[:]
    # type: ignore[arg-type]
    model.functions.extend(_needed(functions(int(network.output_stride)), used))
    if not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    _name_dimensions(model)
    for (
        node
    ) in model.graph.node:  # source-file notes of the exporter: names of one machine's folders
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    model = fold_batch_norms(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(bodies: list[onnx.FunctionProto], used: set[str]) -> list[onnx.FunctionProto]:
    """The functions that the graph calls, and those that they call."""
    by_name = {body.name: body for body in bodies}
    pending, needed = list(used), set()
    while pending:
        name = pending.pop()
        needed.add(name)
        pending += [n.op_type for n in by_name[name].node if n.domain == DOMAIN]
    return [body for body in bodies if body.name in needed]


def _name_dimensions(model: onnx.ModelProto) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        for dimension, name in zip(
            value.type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False
        ):
            dimension.Clear()
            dimension.dim_param = name


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds every BatchNormalization that follows a Conv into the Conv's weight and bias."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    producer = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for norm in [n for n in model.graph.node if n.op_type == "BatchNormalization"]:
        conv = producer.get(norm.input[0])
        if conv is None or conv.op_type != "Conv":
            continue
        # Somebody may ask for the convolution's shape, which folding keeps; nobody else may see
        # its values.
        others = [node for node in readers[norm.input[0]] if node is not norm]
        if any(node.op_type != "Shape" for node in others):
            continue
        scale, shift, mean, variance = (
            numpy_helper.to_array(weights[name]).astype(np.float64) for name in norm.input[1:5]
        )
        epsilon = next(a.f for a in norm.attribute if a.name == "epsilon")
        factor = scale / np.sqrt(variance + epsilon)
        weight = numpy_helper.to_array(weights[conv.input[1]]).astype(np.float64)
        bias = numpy_helper.to_array(weights[conv.input[2]]) if len(conv.input) > 2 else 0.0
        folded = {
            f"{conv.input[1]}.folded": weight * factor[:, None, None, None],
            f"{conv.input[1]}.bias": (bias - mean) * factor + shift,
        }
        for name, value in folded.items():
            weights[name] = numpy_helper.from_array(value.astype(np.float32), name)
        del conv.input[1:]
        conv.input.extend(folded)
        conv.output[0] = norm.output[0]
        for node in others:
            node.input[0] = norm.output[0]
        model.graph.node.remove(norm)
    named = {name for node in model.graph.node for name in node.input}
    del model.graph.initializer[:]
    model.graph.initializer.extend(t for name, t in weights.items() if name in named)
    return model


def halved_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores convolution weights as fp16 with a Cast back: half the file, the same fp32
    arithmetic."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    casts = []
    for node in model.graph.node:
        if node.op_type != "Conv" or weights[node.input[1]].data_type != TensorProto.FLOAT:
            continue
        name = node.input[1]
        stored = f"{name}.fp16"
        half = numpy_helper.to_array(weights[name]).astype(np.float16)
        if not np.isfinite(half).all():
            raise SystemExit(f"weight {name} does not fit fp16: training has diverged")
        weights[name].CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.checker.check_model(model, full_check=True)
    return model


def check_parity(
    network: nn.Module, onnx_path: Path, images: list[np.ndarray[Any, Any]]
) -> dict[str, Any]:
    """Share of pixels with equal labels, ONNX Runtime fp32 against torch fp32.

    Args:
        images: uint8 (H, W, 3) RGB, sides multiples of the network's.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    deployed = DeployedModel(network).eval()
    equal = total = 0
    largest = 0
    for image in images:
        labels, confidence = session.run(None, {"image": image[None]})
        with torch.inference_mode():
            expected, expected_confidence = deployed(torch.from_numpy(image)[None])
        equal += int((labels == expected.numpy()).sum())
        total += labels.size
        difference = confidence.astype(int) - expected_confidence.numpy().astype(int)
        largest = max(largest, int(abs(difference).max()))
    return {
        "reference": "torch fp32, weights before rounding to fp16",
        "backend": f"onnxruntime {onnxruntime.__version__} fp32",
        "images": len(images),
        "pixel_agreement": round(equal / total, 6),
        "largest_confidence_difference": largest,
    }


def parity_images(arguments: argparse.Namespace, recipe: Recipe) -> list[np.ndarray[Any, Any]]:
    """Pictures of --parity-data at the input size, or noise when there are none."""
    height, width = recipe.input_size
    if arguments.parity_data is None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (2, height // 16, width // 16, 3), np.uint8)
        return [np.kron(c, np.ones((16, 16, 1), np.uint8)) for c in coarse]
    try:
        data = StreetFolder(arguments.parity_data, tuple(arguments.parity_lists))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    chosen = np.linspace(0, len(data) - 1, min(len(data), 24)).astype(int)
    return [np.asarray(cv2.resize(data[int(i)].image, (width, height)), np.uint8) for i in chosen]


def training_record(state: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says about where the weights of a checkpoint come from."""
    if "published" in state:  # written by training/weights.py
        return {"training": state["published"]}
    return {
        "training": {
            "recipe": state["recipe"],
            "commit": state["commit"],
            "seed": state["seed"],
            "epochs": state["epoch"],
            "steps": state["step"],
            "minutes": round(state["seconds"] / 60, 1),
            "hardware": state["hardware"],
        }
    }


def manifest_of(
    recipe: Recipe,
    network: nn.Module,
    onnx_path: Path,
    parity: dict[str, Any],
    provenance: dict[str, Any],
    evaluation: list[str],
) -> Manifest:
    """The manifest; `evaluation` holds NAME=JSON-FILE pairs as training/evaluate.py writes them."""
    measured = {
        name: json.loads(Path(path).read_text())
        for name, path in (pair.split("=", 1) for pair in evaluation)
    }
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Manifest(
        directory=onnx_path.parent,
        name=recipe.name,
        classes=tuple(
            SemanticClass(index, name, color) for index, (name, color) in enumerate(recipe.classes)
        ),
        onnx_file=onnx_path.name,
        onnx_sha256=hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        opset=OPSET,
        weights_dtype="float16",
        input_size=recipe.input_size,
        size_multiple=int(network.size_multiple),  # type: ignore[arg-type]
        min_size=MIN_SIZE,
        max_size=MAX_SIZE,
        output_stride=int(network.output_stride),  # type: ignore[arg-type]
        evaluation=measured,
        parity=parity,
        provenance={
            "network": str(network.description),
            "parameters": parameters,
            "export_commit": checkpoint.commit(),
            **provenance,
        },
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="module:function in training/recipes")
    parser.add_argument("--checkpoint", type=Path, help="averaged weights of a training run")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument(
        "--parity-data", type=Path, help="folder with the list files of real pictures"
    )
    parser.add_argument("--parity-lists", nargs="+", default=["val.txt"])
    parser.add_argument(
        "--evaluation",
        nargs="*",
        default=[],
        help="NAME=FILE of evaluate.py --json, for the manifest",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
