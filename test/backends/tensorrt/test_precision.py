# SPDX-License-Identifier: Apache-2.0
"""The graph in other types: the type of each tensor, unchanged labels, and unusual models."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sfseg_ros.backends.tensorrt import precision
from sfseg_ros.backends.tensorrt.calibration import calibrate, run, session_of
from sfseg_ros.backends.tensorrt.precision import element_types, emulated, plain_model, typed_model
from sfseg_ros.errors import BackendError
from sfseg_ros.evaluation.engine_accuracy import MIN_AGREEMENT, labeller_of
from sfseg_ros.imaging import resized_rgb
from sfseg_ros.recordings.pictures import sampled_pictures

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models/sfnet_lite_r18_camvid/model.onnx"
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def shipped() -> onnx.ModelProto:
    return onnx.load(MODEL)


@pytest.fixture(scope="module")
def images():
    """Smooth noise, uint8 (64, 96, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3)).astype(np.float32)
    rows = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
    for axis in (1, 2):
        rows = (rows + np.roll(rows, 3, axis) + np.roll(rows, 5, axis)) / 3
    return rows.astype(np.uint8)


@pytest.fixture(scope="module")
def drive():
    """Pictures of the recorded drive, uint8 (192, 256, 3)."""
    pictures = sampled_pictures(ROOT / "test/data/town_drive", 2)
    return [np.ascontiguousarray(resized_rgb(p.rgb, (192, 256))) for p in pictures]


def ranges_of(model, name, images):
    if name not in precision.QUANTIZED_PRECISIONS:
        return None
    return calibrate(model, name, images).ranges


def types_of_inputs(model, operator):
    types = element_types(model)
    return [[types.get(i) for i in n.input] for n in model.graph.node if n.op_type == operator]


# --- the recipe ---------------------------------------------------------------------------------

GRAPHS = {
    "fp32": "549860c00434fd18",
    "fp16": "c8105e87bf83eaf8",
    "bf16": "22f7e939cec08f46",
    "int8": "6dd49eda2a25ed98",
    "fp8": "19cf44cf9dcaf49c",
}


@pytest.mark.parametrize("name", precision.ENGINE_PRECISIONS)
def test_a_changed_graph_needs_a_new_recipe_number(shipped, name):
    """An engine of the old graph must not be found for the new one. If this fails, raise
    precision.RECIPE, then write the new digests here."""
    plain = plain_model(shipped)
    ranges = dict.fromkeys(precision.tensors_to_calibrate(plain, "int8"), 4.0)
    typed = typed_model(shipped, name, ranges)
    digest = hashlib.sha256()
    for node in typed.graph.node:
        attributes = [(a.name, helper.get_attribute_value(a)) for a in node.attribute]
        digest.update(
            f"{node.op_type} {[*node.input, *node.output]} {sorted(attributes)}\n".encode()
        )
    for weight in typed.graph.initializer:
        digest.update(f"{weight.name} {weight.data_type} {list(weight.dims)}\n".encode())
        digest.update(weight.raw_data)
    assert (precision.RECIPE, digest.hexdigest()[:16]) == (2, GRAPHS[name])


# --- fp16 and bf16 ------------------------------------------------------------------------------


def test_fp16_convolutions_compute_on_fp16_only(shipped):
    typed = typed_model(shipped, "fp16")
    for inputs in types_of_inputs(typed, "Conv"):
        assert set(inputs) == {TensorProto.FLOAT16}
    ((high, low, flow, gate),) = types_of_inputs(typed, "GatedFlowFusion")
    assert {high, low, flow, gate} == {TensorProto.FLOAT16}


def test_bf16_keeps_flow_gate_scores_and_the_kernels_in_fp32(shipped):
    typed = typed_model(shipped, "bf16")
    (fused,) = types_of_inputs(typed, "GatedFlowFusion")
    (scores,) = types_of_inputs(typed, "UpsampleArgmax")
    assert {*fused, *scores} == {TensorProto.FLOAT}
    kinds = Counter(inputs[0] for inputs in types_of_inputs(typed, "Conv"))
    assert kinds == {TensorProto.BFLOAT16: 30, TensorProto.FLOAT: 3}


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_normalisation_and_pooling_weights_stay_fp32(shipped, name):
    types = element_types(typed_model(shipped, name))
    for tensor in ("sub_3", "div", "permute", "sum_1", "div_1", "div_2"):
        assert types[tensor] == TensorProto.FLOAT, tensor


def test_fp32_keeps_the_results_of_the_network(shipped, images):
    plain = typed_model(shipped, "fp32")
    weights = {w.name for w in plain.graph.initializer}
    stored = [n for n in plain.graph.node if n.op_type == "Cast" and n.input[0] in weights]
    assert not stored
    assert not [n for n in plain.graph.node if n.op_type == "Constant"]
    assert len(plain.functions) == len(shipped.functions)
    for a, b in zip(run(session_of(shipped), images), run(session_of(plain), images)):
        np.testing.assert_array_equal(a, b)


def test_the_given_model_is_not_changed(shipped, images):
    before = shipped.SerializeToString()
    typed_model(shipped, "int8", ranges_of(shipped, "int8", images[:1]))
    assert shipped.SerializeToString() == before


def test_bf16_weights_are_rounded_to_nearest_even():
    values = np.array([1.0, 1.00390625, 1.01171875, -3.3e38, 1e-40, 0.1], np.float32)
    tensor = precision._half_tensor("w", values, TensorProto.BFLOAT16)
    back = numpy_helper.to_array(precision._float_tensor(tensor))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    np.testing.assert_array_equal(back, values.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_a_graph_whose_opset_differs_from_its_functions_is_refused_in_one_line(tiny_manifest):
    """As by onnx.checker; the inliner would raise RuntimeError, for some forms."""
    model = onnx.load(tiny_manifest.onnx_path)
    model.opset_import[0].version = 20
    for name in precision.ENGINE_PRECISIONS:
        with pytest.raises(BackendError, match=r"graph is of opset 20, its function \w+ of 18: ex"):
            typed_model(model, name)
    del model.opset_import[0]
    with pytest.raises(BackendError, match="names no opset"):
        typed_model(model, "fp16")


def test_a_weight_beyond_fp16_is_refused_and_bf16_suggested(tiny_manifest):
    model = onnx.load(tiny_manifest.onnx_path)
    for weight in model.graph.initializer:
        if weight.name == "bias":
            weight.CopyFrom(numpy_helper.from_array(np.full(3, 1e6, np.float32), "bias"))
    with pytest.raises(BackendError, match="fp16 ends at 65504: use bf16"):
        typed_model(model, "fp16")


# --- what rounding costs ------------------------------------------------------------------------


def agreement(model, name, images):
    reference, candidate = labeller_of(plain_model(model)), None
    candidate = labeller_of(typed_model(model, name, ranges_of(model, name, images)))
    return np.mean([reference(i[None]) == candidate(i[None]) for i in images])


@pytest.mark.parametrize("name", precision.ENGINE_PRECISIONS)
def test_labels_of_the_shipped_model_agree_with_fp32(shipped, drive, name):
    assert agreement(shipped, name, drive) >= MIN_AGREEMENT[name]


def test_the_emulation_rounds_every_half_precision_tensor(shipped, images):
    """Every tensor is rounded; ONNX Runtime itself computes a chain of fp16 operators in fp32."""
    typed = typed_model(shipped, "fp16")
    graph = emulated(typed)
    names = [n for n, kind in element_types(typed).items() if kind == TensorProto.FLOAT16]
    produced = {output for node in graph.graph.node for output in node.output}
    names = [name for name in names if name in produced][::7]
    assert len(names) > 10
    graph.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    for name, values in zip(names, run(session_of(graph, literal=True), images[:1])[2:]):
        np.testing.assert_array_equal(values, values.astype(np.float16), err_msg=name)


def test_the_comparison_detects_a_wrong_scale(shipped, images):
    """The measurement can fail: ranges ten times too small change the labels."""
    ranges = {n: r / 10 for n, r in ranges_of(shipped, "int8", images).items()}
    reference = labeller_of(plain_model(shipped))
    broken = labeller_of(typed_model(shipped, "int8", ranges))
    assert np.mean(reference(images[:1]) == broken(images[:1])) < 0.9


# --- int8 and fp8 -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_qdq_is_symmetric_and_no_bias_is_quantised(shipped, images, name):
    typed = typed_model(shipped, name, ranges_of(shipped, name, images[:1]))
    onnx.checker.check_model(typed, full_check=True)
    weights = {w.name: w for w in typed.graph.initializer}
    kind = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}[name]
    types = element_types(typed)
    nodes = [n for n in typed.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(nodes) > 80
    for node in nodes:
        zero = weights[node.input[2]]
        assert zero.data_type == kind
        assert not any(zero.raw_data)
        outside = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
        assert types[node.input[1]] == types[outside]
        if node.op_type == "DequantizeLinear":
            assert types[node.output[0]] == TensorProto.FLOAT16
        axis = {a.name: a.i for a in node.attribute}
        is_weight = node.input[0].split("::")[0].endswith(("weight", "folded"))
        assert axis == ({"axis": 0} if name == "int8" and is_weight else {})
    for node in typed.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            assert "::dequantized" not in node.input[2]


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_first_flow_gate_and_score_layers_are_not_quantised(shipped, images, name):
    typed = typed_model(shipped, name, ranges_of(shipped, name, images[:1]))
    left = [
        node.input[1].removesuffix("::fp16")
        for node in typed.graph.node
        if node.op_type == "Conv" and "dequantized" not in node.input[0]
    ]
    assert left == [
        "network.trunk.conv1.weight",
        "network.align.flow_make.weight",
        "network.align.flow_gate.0.weight",
        "network.head.3.weight",
    ]


def test_no_weight_is_clipped_and_fp16_holds_the_scale():
    reach = np.array([1e-12, 1e-6, 3e-4, 0.7, 13.0, 6e4])
    for limit in precision.QUANTIZED_MAX.values():
        scale = precision._scale(reach, limit)
        np.testing.assert_array_equal(scale, scale.astype(np.float16))
        assert (scale * limit >= reach).all()
        assert (scale > 0).all()


def test_a_model_without_wide_convolutions_is_refused_for_int8(tiny_manifest, images):
    model = onnx.load(tiny_manifest.onnx_path)
    with pytest.raises(BackendError, match="no convolution of this model can be int8"):
        calibrate(model, "int8", images)
    with pytest.raises(BackendError, match="no convolution of this model can be int8"):
        typed_model(model, "int8", {})


def test_missing_ranges_are_named(shipped):
    with pytest.raises(BackendError, match="needs the range of max_pool2d and 28 more"):
        typed_model(shipped, "int8", {})


# --- random models -----------------------------------------------------------------------------

SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 24))]


@pytest.mark.parametrize("seed", SEEDS)
def test_unseen_networks_keep_their_labels(make_random_model, images, seed):
    """In half of a random network's pixels two classes nearly tie, so the bounds are wide."""
    model = onnx.load(make_random_model(seed).onnx_path)
    for name, least in (("fp16", 0.998), ("bf16", 0.98), ("int8", 0.93), ("fp8", 0.85)):
        try:
            assert agreement(model, name, images) >= least, name
        except BackendError as error:
            assert "no convolution of this model can be fp8" in str(error)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_without_the_functions_gets_the_same_types(make_random_model, seed):
    model = onnx.load(make_random_model(seed).onnx_path)
    typed = typed_model(model, "fp16")
    del model.functions[:]
    assert typed_model(model, "fp16").graph == typed.graph


def test_other_functions_are_inlined(make_random_model, images):
    """Exporters leave their own functions in a file; the `sfseg` functions stay nodes."""
    model = onnx.load(make_random_model(0).onnx_path)
    body = [helper.make_node("Mul", ["x", "x"], ["xx"]), helper.make_node("Sqrt", ["xx"], ["y"])]
    model.functions.append(
        helper.make_function("other", "Magnitude", ["x"], ["y"], body, list(model.opset_import))
    )
    model.opset_import.append(helper.make_opsetid("other", 1))
    (tail,) = [n for n in model.graph.node if n.op_type == "UpsampleArgmax"]
    node = helper.make_node("Magnitude", [tail.input[0]], ["magnitude"], domain="other")
    tail.input[0] = "magnitude"
    model.graph.node.insert(len(model.graph.node) - 1, node)
    typed = typed_model(model, "fp16")
    assert {n.domain for n in typed.graph.node} == {"", "sfseg"}
    assert {f.domain for f in typed.functions} == {"sfseg"}
    labels = labeller_of(typed)(images[:1])
    assert np.mean(labels == labeller_of(plain_model(model))(images[:1])) > 0.99


def test_a_graph_inside_a_node_is_refused_in_one_line(tiny_manifest):
    model = onnx.load(tiny_manifest.onnx_path)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["bytes"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    node = helper.make_node("If", ["condition"], ["either"], then_branch=branch, else_branch=branch)
    model.graph.node.insert(1, node)
    with pytest.raises(BackendError, match="a node If with a graph inside"):
        typed_model(model, "fp16")


def test_unbounded_clips_and_masks_survive_fp16(tiny_manifest, images):
    """ "No bound" of Clip is often written as the largest fp32."""
    model = onnx.load(tiny_manifest.onnx_path)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "low"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3.4e38), "high"))
    (tail,) = [n for n in model.graph.node if n.op_type == "UpsampleArgmax"]
    clip = helper.make_node("Clip", [tail.input[0], "low", "high"], ["clipped"])
    tail.input[0] = "clipped"
    model.graph.node.insert(len(model.graph.node) - 1, clip)
    typed = typed_model(model, "fp16")
    (bounds,) = [
        numpy_helper.to_array(w) for w in typed.graph.initializer if w.name == "high::fp16"
    ]
    assert bounds == np.float16(65504)
    assert labeller_of(typed)(images[:1]).shape == (1, 64, 96)


def test_comparisons_compare_equal_types(tiny_manifest):
    model = onnx.load(tiny_manifest.onnx_path)
    (tail,) = [n for n in model.graph.node if n.op_type == "UpsampleArgmax"]
    scores = tail.input[0]
    tail.input[0] = "chosen"
    at = len(model.graph.node) - 1
    greater = helper.make_node("Greater", [scores, "scale"], ["greater"])
    chosen = helper.make_node("Where", ["greater", scores, scores], ["chosen"])
    model.graph.node.insert(at, greater)
    model.graph.node.insert(at + 1, chosen)
    typed = typed_model(model, "fp16")
    onnx.checker.check_model(typed, full_check=True)
    types = element_types(typed)
    (compared,) = types_of_inputs(typed, "Greater")
    assert compared == [TensorProto.FLOAT] * 2
    assert types["chosen"] == TensorProto.FLOAT16


def test_an_unknown_precision_is_refused(shipped):
    with pytest.raises(BackendError, match="expected one of fp32, fp16, bf16, int8, fp8"):
        typed_model(shipped, "int4")


def test_a_range_beyond_any_scale_is_refused():
    for reach in (1e30, np.inf, np.nan):
        with pytest.raises(BackendError, match="the model is damaged, or needs bf16"):
            precision._scale(np.array([1.0, reach]), 127.0)
    assert np.isfinite(precision._scale(np.array(8e6), 127.0))


def test_a_transposed_convolution_stays_fp32_in_bf16(tiny_manifest):
    model = onnx.load(tiny_manifest.onnx_path)
    index, pool = next((i, n) for i, n in enumerate(model.graph.node) if n.output[0] == "blocks")
    pool.output[0] = "pooled"
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel")
    model.graph.initializer.append(weight)
    up = helper.make_node("ConvTranspose", ["pooled", "kernel"], ["blocks"])
    model.graph.node.insert(index + 1, up)
    for name, kind in (("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.FLOAT)):
        assert types_of_inputs(typed_model(model, name), "ConvTranspose") == [[kind, kind]]
