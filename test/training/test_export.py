# SPDX-License-Identifier: Apache-2.0
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from sfseg_ros.errors import ManifestError
from sfseg_ros.kernels import ONNX_DOMAIN
from sfseg_ros.model.manifest import load_manifest
from training import export
from training.export import DeployedModel, halved_weights, manifest_of, onnx_from_network
from training.model_card import model_card
from training.networks.sfnet_lite import SFNetLite, sfnet_lite_r18
from training.onnx_functions import OPSET, functions
from training.operators import flow_warp, gated_flow_fusion, upsample_argmax
from training.recipe import Recipe
from training.recipes.sfnet_lite import camvid_r18, camvid_r18_paper


class Shallow(torch.nn.Module):
    """Class scores at a quarter of the size; has a small size_multiple."""

    description = "one convolution"
    output_stride = 4
    size_multiple = 4
    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Conv2d(3, 3, 4, stride=4)


@pytest.fixture(scope="module")
def network() -> SFNetLite:
    """A network with random weights and batch norms that are not the identity, so that folding
    matters."""
    torch.manual_seed(0)
    network = sfnet_lite_r18(7, "plain", (1, 1)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


@pytest.fixture(scope="module")
def model(network: SFNetLite) -> onnx.ModelProto:
    return onnx_from_network(network)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 96, 160), (1, 224, 352)])
def test_one_file_gives_the_labels_of_torch_at_every_size(
    network: SFNetLite, model: onnx.ModelProto, shape: tuple[int, int, int]
) -> None:
    coarse = np.random.default_rng(1).integers(0, 256, (shape[0], *(s // 16 for s in shape[1:]), 3))
    images = coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    labels, confidence = session(model).run(None, {"image": images})
    with torch.inference_mode():
        expected, expected_confidence = DeployedModel(network)(torch.from_numpy(images))
    assert labels.dtype == confidence.dtype == np.uint8
    assert labels.shape == confidence.shape == shape
    assert (labels == expected.numpy()).mean() >= 0.999
    assert np.abs(confidence.astype(int) - expected_confidence.numpy().astype(int)).max() <= 1


def test_a_network_of_small_stride_exports_down_to_the_least_size() -> None:
    torch.manual_seed(0)
    network = Shallow().eval()
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 68, 3), dtype=np.uint8)
    labels, _ = session(onnx_from_network(network)).run(None, {"image": images})
    with torch.inference_mode():
        expected, _ = DeployedModel(network)(torch.from_numpy(images))
    assert (labels == expected.numpy()).mean() >= 0.999


def test_the_graph_is_small_and_its_norms_are_folded(model: onnx.ModelProto) -> None:
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Gather") < 10  # the exporter alone emits hundreds for the pools
    assert len(operators) < 200


def test_sfseg_nodes_name_the_plugin_and_have_bodies(model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.domain == ONNX_DOMAIN]
    assert [node.op_type for node in nodes] == ["GatedFlowFusion", "UpsampleArgmax"]
    for node in nodes:
        attributes = {a.name: a for a in node.attribute}
        assert attributes["plugin_namespace"].s == b"sfseg"
        assert attributes["plugin_version"].s == b"1"
    assert {f.name for f in model.functions} == {"FlowWarp", "GatedFlowFusion", "UpsampleArgmax"}
    assert {output.name for output in model.graph.output} == set(nodes[-1].output)


def test_stored_halves_lose_little_and_compute_stays_fp32(
    network: SFNetLite, model: onnx.ModelProto
) -> None:
    half = halved_weights(model)
    assert half.ByteSize() < 0.55 * model.ByteSize()
    image = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3), np.uint8)
    full_labels, _ = session(model).run(None, {"image": image})
    half_labels, _ = session(half).run(None, {"image": image})
    assert (full_labels == half_labels).mean() > 0.99


def test_the_file_names_no_folder_of_this_machine(model: onnx.ModelProto) -> None:
    assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()


def run_function(
    name: str, attributes: dict[str, object], *inputs: torch.Tensor
) -> list[np.ndarray]:
    """Runs one node of the domain, with its body, in ONNX Runtime."""
    outputs = {"UpsampleArgmax": ["a", "b"]}.get(name, ["a"])
    names = [f"in{i}" for i in range(len(inputs))]
    node = helper.make_node(name, names, outputs, domain=ONNX_DOMAIN, **attributes)
    kind = TensorProto.UINT8 if name == "UpsampleArgmax" else TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        name,
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, t.shape)
            for n, t in zip(names, inputs)
        ],
        [helper.make_tensor_value_info(n, kind, None) for n in outputs],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ONNX_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions(4), ir_version=10)
    return session(model).run(None, {n: t.numpy() for n, t in zip(names, inputs)})


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("sizes", [((3, 5), (7, 4)), ((4, 4), (16, 16)), ((2, 3), (1, 1))])
def test_body_of_flow_warp_is_torchs(
    align_corners: int, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    features, flow = torch.randn(2, 3, *sizes[0]), 3 * torch.randn(2, 2, *sizes[1])
    (warped,) = run_function("FlowWarp", {"align_corners": align_corners}, features, flow)
    expected = flow_warp(features, flow, bool(align_corners)).numpy()
    np.testing.assert_allclose(warped, expected, atol=1e-4)


def test_body_of_gated_flow_fusion_is_torchs() -> None:
    high, low = torch.randn(1, 3, 2, 3), torch.randn(1, 3, 8, 12)
    flow, gate = torch.randn(1, 4, 8, 12), torch.rand(1, 1, 8, 12)
    (fused,) = run_function("GatedFlowFusion", {"align_corners": 1}, high, low, flow, gate)
    np.testing.assert_allclose(fused, gated_flow_fusion(high, low, flow, gate).numpy(), atol=1e-4)


def test_body_of_upsample_argmax_is_torchs() -> None:
    scores = 5 * torch.randn(2, 6, 5, 7)
    labels, confidence = run_function("UpsampleArgmax", {"stride": 4}, scores)
    expected, expected_confidence = upsample_argmax(scores, 4)
    assert (labels == expected.numpy()).mean() > 0.999
    difference = confidence.astype(int) - expected_confidence.numpy().astype(int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("recipe", "stem"), [(camvid_r18(), "plain"), (camvid_r18_paper(), "deep")]
)
def test_the_card_tells_the_stem_of_the_recipes_network(
    tmp_path: Path, recipe: Recipe, stem: str
) -> None:
    parity = {"pixel_agreement": 1.0, "images": 1, "backend": "b", "reference": "r"}
    provenance = {"training": "none: random weights"}
    manifest = manifest_of(recipe, recipe.network(), tmp_path, b"", parity, provenance, {})
    assert f"SFNet-Lite with ResNet-18 ({stem} stem), 11 classes" in model_card(manifest)


@pytest.fixture
def run_export(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Exports the same convolution each time; returns the model directory."""

    def run(
        *options: str,
        network: type[Shallow] = Shallow,
        input_size: tuple[int, int] = tiny_recipe.input_size,
    ) -> Path:
        torch.manual_seed(0)
        recipe = replace(tiny_recipe, network=network, input_size=input_size)
        monkeypatch.setattr(export, "load_recipe", lambda _: recipe)
        output = ["--output-dir", str(tmp_path / "model")]
        monkeypatch.setattr(sys, "argv", ["", "own:recipe", *output, *options])
        export.main()
        return tmp_path / "model"

    return run


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def measurement(tmp_path: Path, *classes: str) -> Path:
    run = dict.fromkeys(export.MEASURED, 0.5) | {"iou": dict.fromkeys(classes, 0.5), "lists": ["a"]}
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(run))
    return path


def test_export_writes_a_model_directory_and_replaces_one(
    run_export: Callable[..., Path], tmp_path: Path
) -> None:
    directory = run_export()
    assert set(contents(directory)) == {"manifest.yaml", "model.onnx", "README.md"}
    assert load_manifest(directory).evaluation == {}
    (directory / "notes.txt").write_text("mine")
    run_export("--evaluation", f"here={measurement(tmp_path, 'Sky', 'Road', 'Car')}")
    assert list(load_manifest(directory).evaluation) == ["here"]
    assert "| Car | 50.0 |" in (directory / "README.md").read_text()
    assert (directory / "notes.txt").read_text() == "mine"


def test_data_root_compares_on_the_recipes_validation(
    run_export: Callable[..., Path], street: Path
) -> None:
    assert load_manifest(run_export("--data-root", f"street={street}")).parity["images"] == 8


def test_an_unreadable_parity_label_map_ends_with_one_line(
    run_export: Callable[..., Path], street: Path
) -> None:
    (street / "labels/train/A_000.png").write_text("no picture")
    with pytest.raises(SystemExit, match=r"labels/train/A_000\.png: label map .*") as end:
        run_export("--parity-data", str(street), "--parity-lists", "train.txt")
    assert "\n" not in str(end.value)


def test_a_network_of_other_classes_is_refused(
    run_export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shallow, "num_classes", 11)
    with pytest.raises(SystemExit, match="has 3 classes, but its network scores 11"):
        run_export()


def test_an_input_size_that_the_network_does_not_take_is_refused(
    run_export: Callable[..., Path],
) -> None:
    with pytest.raises(SystemExit, match=r"^recipe 'tiny' has input_size 90x96: .* multiples of 4"):
        run_export(input_size=(90, 96))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("{folder}/measured.json", "expected NAME=FILE"),
        ("test={folder}/missing.json", "missing.json cannot be read"),
        ("test={folder}/train.txt", "train.txt cannot be read"),
        ("test={folder}/list.json", "list.json is no measurement"),
        ("test={folder}/measured.json", r"measures 2 classes .*: expected the recipe's 3"),
    ],
)
def test_a_wrong_measurement_ends_with_one_line_before_anything_is_written(
    run_export: Callable[..., Path], street: Path, pair: str, message: str
) -> None:
    measurement(street, "Sky", "Road")
    (street / "list.json").write_text("[]")
    with pytest.raises(SystemExit, match=message) as end:
        run_export("--evaluation", pair.format(folder=street))
    assert "\n" not in str(end.value)
    assert not (street / "model").exists()


def _no_space(_: object) -> Path:
    raise OSError("no space left")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("save_manifest", _no_space, "model is not written: no space left"),
        ("MIN_AGREEMENT", 1.1, "disagrees with torch"),
    ],
)
def test_an_export_that_fails_late_leaves_the_old_model(
    run_export: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    message: str,
) -> None:
    directory = run_export()
    before = contents(directory)
    monkeypatch.setattr(export, name, value)
    with pytest.raises(SystemExit, match=message):
        run_export(network=AlmostTied)
    assert contents(directory) == before


def test_an_onnx_file_beside_the_old_manifest_is_refused(
    run_export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = run_export()
    move = Path.replace

    def power_cut(path: Path, target: Path) -> Path:
        if path.name == "manifest.yaml":
            raise OSError("power cut")
        return move(path, target)

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(SystemExit, match="power cut"):
        run_export(network=AlmostTied)
    with pytest.raises(ManifestError, match="SHA-256"):
        load_manifest(directory)


class AlmostTied(Shallow):
    """Three classes whose order is lost when the weights are rounded to fp16."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.zeros_like(self.scores.weight)
        weight[:, 0, 0, 0] = torch.tensor([1.0, 1.0004, 1.0002])
        self.scores = torch.nn.Conv2d(3, 3, 4, stride=4, bias=False)
        self.scores.weight = torch.nn.Parameter(weight)


def test_labels_that_change_with_rounding_are_reported_but_accepted(
    run_export: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    parity = load_manifest(run_export(network=AlmostTied)).parity
    assert parity["pixel_agreement_before_rounding"] >= 0.999
    assert parity["pixel_agreement"] < 0.9
    assert "compare the mIoU of the checkpoint and of the model" in capsys.readouterr().out


def test_a_graph_that_computes_something_else_is_refused(
    run_export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = onnx_from_network(AlmostTied())
    monkeypatch.setattr(export, "onnx_from_network", lambda _: other)
    with pytest.raises(SystemExit, match="the ONNX graph disagrees with torch") as end:
        run_export()
    assert "\n" not in str(end.value)
    assert not (tmp_path / "model").exists()
