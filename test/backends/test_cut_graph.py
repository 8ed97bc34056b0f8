# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto

from sfseg_ros.backends.cut_graph import split_model_of
from sfseg_ros.errors import BackendError


def operators(model):
    return {node.op_type for node in model.graph.node}


@pytest.fixture
def written(tmp_path, tiny_manifest):
    """A manifest whose ONNX file is the tiny model after `edit`."""

    def write(edit):
        model = onnx.load(tiny_manifest.onnx_path)
        edit(model)
        onnx.save(model, tmp_path / "model.onnx")
        return replace(tiny_manifest, directory=tmp_path)

    return write


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


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 99])
def test_a_damaged_file_is_one_line(tmp_path, tiny_manifest, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BackendError, match="not a valid ONNX file") as caught:
        split_model_of(replace(tiny_manifest, directory=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path, tiny_manifest):
    with pytest.raises(BackendError, match="not a valid ONNX file .*No such file"):
        split_model_of(replace(tiny_manifest, directory=tmp_path))
