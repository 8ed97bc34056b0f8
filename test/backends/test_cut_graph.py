# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sfseg_ros.backends.choice import BACKENDS, open_backend
from sfseg_ros.backends.cut_graph import split_model_of
from sfseg_ros.errors import BackendError


def operators(model):
    return {node.op_type for node in model.graph.node}


def test_trunk_and_tails_together_are_the_model(tiny_manifest):
    model = split_model_of(tiny_manifest)
    assert "Conv" in operators(model.trunk)
    assert "ArgMax" not in operators(model.trunk)
    assert [value.name for value in model.trunk.graph.input] == ["image"]
    for tail, outputs in (
        (model.labels_tail, ["labels"]),
        (model.confidence_tail, ["labels", "confidence"]),
    ):
        assert [value.name for value in tail.graph.output] == outputs
        assert tail.graph.input[0].name == model.trunk.graph.output[0].name


def test_weights_exist_once(tiny_manifest):
    model = split_model_of(tiny_manifest)
    assert {weight.name for weight in model.trunk.graph.initializer} >= {"weight", "bias"}
    assert not model.labels_tail.graph.initializer
    assert not model.confidence_tail.graph.initializer


def test_labels_alone_compute_no_softmax(tiny_manifest):
    model = split_model_of(tiny_manifest)
    assert "Exp" in operators(model.confidence_tail)
    assert "Exp" not in operators(model.labels_tail)


def test_no_local_function_is_left(tiny_manifest):
    model = split_model_of(tiny_manifest)
    for part in (model.trunk, model.labels_tail, model.confidence_tail):
        assert not part.functions
        assert all(node.domain == "" for node in part.graph.node)
        onnx.checker.check_model(part, full_check=True)


def rename_output(model):
    model.graph.output[0].name = "mask"
    model.graph.node[-1].output[0] = "mask"


def float_input(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def rename_tail(model):
    model.graph.node[-1].op_type = "ArgmaxUpsample"
    model.functions[1].name = "ArgmaxUpsample"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename_output, "maps image to mask, confidence, expected image to labels, confidence"),
        (float_input, "has image of type FLOAT, expected UINT8"),
        (rename_tail, "has 0 sfseg::UpsampleArgmax nodes, expected one"),
    ],
)
def test_a_model_that_breaks_the_contract_is_refused(written, edit, message):
    with pytest.raises(BackendError, match=message):
        split_model_of(written(edit))


def external(tensor):
    """Move the tensor's values to another file, which exists and has the right size."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "4096")):
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")


def external_initializer(model):
    external(model.graph.initializer[0])


def external_constant(model):
    constant = helper.make_node("Constant", [], ["unused"], value=model.graph.initializer[0])
    external(constant.attribute[0].t)
    model.graph.node.insert(0, constant)


def external_in_a_function(model):
    constant = helper.make_node("Constant", [], ["unused"], value=model.graph.initializer[0])
    external(constant.attribute[0].t)
    model.functions[0].node.insert(0, constant)


def external_in_a_branch(model):
    branch = helper.make_graph([], "branch", [], [], [model.graph.initializer[0]])
    external(branch.initializer[0])
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    both = {"then_branch": branch, "else_branch": branch}
    model.graph.node.insert(0, helper.make_node("If", ["condition"], ["unused"], **both))


@pytest.mark.parametrize(
    "edit",
    [external_initializer, external_constant, external_in_a_function, external_in_a_branch],
)
@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_weights_in_another_file_are_refused_by_every_backend(
    written, tmp_path, request, backend, edit
):
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    manifest = written(edit)
    message = r"keeps \w+ in another file \(external data\)"
    if backend == "tensorrt":
        request.getfixturevalue("tensorrt_library")(None)
        request.getfixturevalue("engines")
    elif backend is not None:
        pytest.importorskip(backend.split("-")[0])
    if backend == "onnxruntime-cuda":
        pytest.skip("opens the model as onnxruntime does, on a GPU")
    with pytest.raises(BackendError, match=message) as caught:
        split_model_of(manifest) if backend is None else open_backend(backend, manifest)
    assert "\n" not in str(caught.value)


def test_one_function_reads_onnx_files():
    """Every other reader would have to refuse external data, too."""
    root, readers = Path(__file__).parents[2], []
    for folder in ("sfseg_ros", "training", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if re.search(r"onnx\.load|parse_from_file|read_model\(.*path", source):
                readers.append(path.name)
            assert not re.search(r"InferenceSession\(\s*(str\(|\w*path)", source), path
    assert readers == ["cut_graph.py"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 99])
def test_a_damaged_file_is_one_line(tmp_path, tiny_manifest, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BackendError, match="not a valid ONNX file") as caught:
        split_model_of(replace(tiny_manifest, directory=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path, tiny_manifest):
    with pytest.raises(BackendError, match="not a valid ONNX file .*No such file"):
        split_model_of(replace(tiny_manifest, directory=tmp_path))
