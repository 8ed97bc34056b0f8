# SPDX-License-Identifier: Apache-2.0
"""Writes a model directory: python -m training.export RECIPE --checkpoint FILE --output-dir
models/NAME ...

The ONNX file serves ONNX Runtime, OpenVINO and TensorRT (docs/adr/0001 and 0002). It takes uint8
RGB and returns uint8 labels and confidence; all steps between are nodes of the graph.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from sfseg_ros.errors import ManifestError
from sfseg_ros.kernels import ONNX_DOMAIN
from sfseg_ros.model.manifest import Manifest, SemanticClass, save_manifest
from training import checkpoint
from training.data.dataset import DataError
from training.data_roots import DataRootAction, validation_pictures
from training.exported_weights import note_lost_parameters
from training.model_card import model_card
from training.normalisation import images_from_rgb
from training.onnx_functions import OPSET, functions
from training.operators import upsample_argmax
from training.recipe import Recipe, built_network, load_recipe

MIN_SIZE = (64, 64)
MAX_SIZE = (2048, 4096)
MIN_AGREEMENT = 0.999
MEASURED = {"pictures", "lists", "measured", "protocol", "commit", "miou", "pixel_accuracy", "iou"}
"""Fields of a measurement that the model card prints."""


class DeployedModel(nn.Module):
    """The network as deployed: uint8 (N, H, W, 3) RGB -> uint8 labels and confidence (N, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network.scores(images_from_rgb(image, self.network))  # type: ignore[operator]
        return upsample_argmax(scores, int(self.network.output_stride))  # type: ignore[arg-type]


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe)
    network = built_network(recipe).eval()
    check_input_size(recipe, int(network.size_multiple))  # type: ignore[arg-type]
    measured = measurements(arguments.evaluation, [name for name, _ in recipe.classes])
    provenance: dict[str, Any] = {"recipe": arguments.recipe, "training": "none: random weights"}
    if arguments.checkpoint:
        provenance |= training_record(checkpoint.load_network(network, arguments.checkpoint))
    else:
        print("no --checkpoint: the model gets random weights")
    pictures = parity_images(arguments, recipe)
    exact = onnx_from_network(network)
    stored = halved_weights(exact)
    content = stored.SerializeToString()
    parity = check_parity(network, exact.SerializeToString(), content, pictures)
    print(agreement_report(parity))
    if parity["pixel_agreement_before_rounding"] < MIN_AGREEMENT:
        raise SystemExit(
            f"the ONNX graph disagrees with torch, expected {100 * MIN_AGREEMENT:.1f} % of pixels "
            f"or more before rounding: nothing is written to {arguments.output_dir}"
        )
    manifest = manifest_of(
        recipe, network, arguments.output_dir, content, parity, provenance, measured
    )
    write_model(manifest, content)
    print(f"{manifest.onnx_path}: {len(content) / 1e6:.1f} MB, {len(stored.graph.node)} nodes")


def check_input_size(recipe: Recipe, multiple: int) -> None:
    """Ends the program if the network does not take the recipe's input_size."""
    height, width = recipe.input_size
    if height % multiple or width % multiple:
        raise SystemExit(
            f"recipe {recipe.name!r} has input_size {height}x{width}: its network takes multiples "
            f"of {multiple} only"
        )


def onnx_from_network(network: nn.Module) -> onnx.ModelProto:
    """Exports the deployed form of `network`: fp32, with the sfseg functions, N, H and W free."""
    multiple = int(network.size_multiple)  # type: ignore[arg-type]
    rows = torch.export.Dim("rows", min=MIN_SIZE[0] // multiple, max=MAX_SIZE[0] // multiple)
    columns = torch.export.Dim("columns", min=MIN_SIZE[1] // multiple, max=MAX_SIZE[1] // multiple)
    # Sizes without a common factor with each other or with the pooling bins, so that the exporter
    # specialises nothing by accident; the larger pair keeps to the minimum size.
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
    used = {node.op_type for node in model.graph.node if node.domain == ONNX_DOMAIN}
    if "UpsampleArgmax" not in used:
        # If torch.export.export(strict=False) fails, PyTorch silently traces in another way, in
        # which torch.onnx.is_in_onnx_export() is False.
        raise RuntimeError(
            "the graph was traced without the sfseg operations, expected torch.export to take the "
            "network as it is: torch.export.export(DeployedModel(network), ...) shows the reason"
        )
    del model.functions[:]
    bodies = functions(int(network.output_stride))  # type: ignore[arg-type]
    model.functions.extend(_needed(bodies, used))
    if not any(opset.domain == ONNX_DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(ONNX_DOMAIN, 1))
    _name_dimensions(model)
    for node in model.graph.node:  # the exporter notes source files, with folders of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    model = fold_batch_norms(model)
    note_lost_parameters(model, network)
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(bodies: list[onnx.FunctionProto], used: set[str]) -> list[onnx.FunctionProto]:
    """Returns the functions that the graph calls, directly or through other functions."""
    by_name = {body.name: body for body in bodies}
    pending, needed = list(used), set()
    while pending:
        name = pending.pop()
        needed.add(name)
        pending += [n.op_type for n in by_name[name].node if n.domain == ONNX_DOMAIN]
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
        # Folding keeps the convolution's shape but changes its values: other nodes may read only
        # the shape.
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
    """Returns a copy that stores convolution weights as fp16 and casts them back.

    The file is half as large; the arithmetic stays fp32.
    """
    original, model = model, onnx.ModelProto()
    model.CopyFrom(original)
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
    network: nn.Module,
    exact: bytes,
    stored: bytes,
    images: list[np.ndarray[Any, Any]],
) -> dict[str, Any]:
    """Measures the share of pixels with equal labels, ONNX Runtime fp32 against torch fp32.

    `exact` has the network's own weights, so it shows whether the graph computes what torch does.
    Rounding to fp16 changes the scores a little: in `stored`, pixels whose best two classes are
    nearly equal change their label. A network after a few training steps has many such pixels.

    Args:
        exact: the ONNX file with fp32 weights.
        stored: the deployed ONNX file, with weights rounded to fp16.
        images: uint8 (H, W, 3) RGB; the sides are multiples of the network's size_multiple.
    """
    import onnxruntime

    sessions = [
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for content in (exact, stored)
    ]
    deployed = DeployedModel(network).eval()
    equal = [0, 0]
    total = 0
    largest = 0
    for image in images:
        with torch.inference_mode():
            expected, expected_confidence = deployed(torch.from_numpy(image)[None])
        for i, session in enumerate(sessions):
            labels, confidence = session.run(None, {"image": image[None]})
            equal[i] += int((labels == expected.numpy()).sum())
        total += labels.size
        difference = confidence.astype(int) - expected_confidence.numpy().astype(int)
        largest = max(largest, int(abs(difference).max()))
    return {
        "reference": "torch fp32, weights before rounding to fp16",
        "backend": f"onnxruntime {onnxruntime.__version__} fp32",
        "images": len(images),
        "pixel_agreement_before_rounding": round(equal[0] / total, 6),
        "pixel_agreement": round(equal[1] / total, 6),
        "largest_confidence_difference": largest,
    }


def agreement_report(parity: dict[str, Any]) -> str:
    """Returns the result of `check_parity` as lines of text."""
    stored = parity["pixel_agreement"]
    text = (
        f"agreement with torch: {100 * parity['pixel_agreement_before_rounding']:.3f} % of pixels, "
        f"{100 * stored:.3f} % with the weights rounded to fp16, as they are stored; "
        f"confidence within {parity['largest_confidence_difference']} of 255"
    )
    if stored < MIN_AGREEMENT:
        text += (
            "\nrounding to fp16 changes more labels than usual: compare the mIoU of the checkpoint "
            "and of the model with training.evaluate before using it"
        )
    return text


def parity_images(arguments: argparse.Namespace, recipe: Recipe) -> list[np.ndarray[Any, Any]]:
    """Returns pictures at the input size for the parity check.

    They come from --parity-data or from the recipe's validation set; without either they are noise.
    """
    height, width = recipe.input_size
    if arguments.parity_data is None and arguments.data_root is None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (2, height // 16, width // 16, 3), np.uint8)
        return [np.kron(c, np.ones((16, 16, 1), np.uint8)) for c in coarse]
    data, _ = validation_pictures(
        recipe, arguments.data_root, arguments.parity_data, arguments.parity_lists
    )
    chosen = np.linspace(0, len(data) - 1, min(len(data), 24)).astype(int)
    try:
        images = [data[int(i)].image for i in chosen]
    except DataError as error:
        raise SystemExit(str(error)) from None
    return [np.asarray(cv2.resize(image, (width, height)), np.uint8) for image in images]


def measurements(evaluation: list[str], class_names: list[str]) -> dict[str, dict[str, Any]]:
    """Reads NAME=FILE pairs, where `training.evaluate --json` wrote FILE; returns them by name.

    Raises:
        SystemExit: an argument is no pair, a file is missing or is no measurement of these classes.
    """
    measured = {}
    for pair in evaluation:
        name, separator, path = pair.partition("=")
        if not separator:
            raise SystemExit(
                f"--evaluation {pair!r}: expected NAME=FILE, where FILE is what "
                "`python -m training.evaluate ... --json FILE` writes"
            )
        try:
            run = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SystemExit(
                f"--evaluation {path} cannot be read ({error}); expected what "
                "`python -m training.evaluate ... --json FILE` writes"
            ) from None
        if not (isinstance(run, dict) and run.keys() >= MEASURED and isinstance(run["iou"], dict)):
            raise SystemExit(
                f"--evaluation {path} is no measurement: expected what "
                "`python -m training.evaluate ... --json FILE` writes"
            )
        if list(run["iou"]) != class_names:
            raise SystemExit(
                f"--evaluation {path} measures {len(run['iou'])} classes "
                f"({', '.join(list(run['iou'])[:3])}, ...): expected the recipe's "
                f"{len(class_names)} ({', '.join(class_names[:3])}, ...)"
            )
        measured[name] = run
    return measured


def training_record(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest's record of the origin of a checkpoint's weights."""
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
    directory: Path,
    content: bytes,
    parity: dict[str, Any],
    provenance: dict[str, Any],
    measured: dict[str, dict[str, Any]],
) -> Manifest:
    """Builds the manifest of the ONNX file `content` in `directory`, which may not exist yet."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Manifest(
        directory=directory,
        name=recipe.name,
        classes=tuple(
            SemanticClass(index, name, color) for index, (name, color) in enumerate(recipe.classes)
        ),
        onnx_file="model.onnx",
        onnx_sha256=hashlib.sha256(content).hexdigest(),
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


def write_model(manifest: Manifest, content: bytes) -> None:
    """Writes the model directory of `manifest` with the ONNX file `content`, whole or not at all.

    The three files are complete in a temporary folder before they are moved. The manifest moves
    last: it holds the hash of the ONNX file, so the runtime refuses a mixture of old and new files.
    Other files in the directory stay.

    Raises:
        SystemExit: the folder cannot be written, or the runtime would refuse the manifest.
    """
    try:
        manifest.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=manifest.directory) as folder:
            written = replace(manifest, directory=Path(folder))
            written.onnx_path.write_bytes(content)
            card = Path(folder) / "README.md"
            card.write_text(model_card(manifest), encoding="utf-8")
            for path in (card, written.onnx_path, save_manifest(written)):
                path.replace(manifest.directory / path.name)
    except (ManifestError, OSError) as error:
        raise SystemExit(f"{manifest.directory} is not written: {error}") from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="module:function in training/recipes")
    parser.add_argument("--checkpoint", type=Path, help="averaged weights of a training run")
    parser.add_argument("--output-dir", type=Path, required=True)
    real = parser.add_mutually_exclusive_group()
    real.add_argument(
        "--parity-data", type=Path, help="folder with list files of pictures for the parity check"
    )
    real.add_argument(
        "--data-root",
        action=DataRootAction,
        metavar="NAME=FOLDER",
        help="instead of --parity-data: the recipe's validation pictures, as in training",
    )
    parser.add_argument("--parity-lists", nargs="+", default=["val.txt"], help="with --parity-data")
    parser.add_argument(
        "--evaluation",
        nargs="*",
        default=[],
        metavar="NAME=FILE",
        help="measurements that training.evaluate --json wrote, for the manifest and the card",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
