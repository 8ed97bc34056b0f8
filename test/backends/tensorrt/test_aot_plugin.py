# SPDX-License-Identifier: Apache-2.0
"""What `tensorrt.plugin` is told about our operators; test_library_bindings.py has the real one."""

import inspect
import types
from typing import Any

import numpy as np
import pytest

from sfseg_ros.backends.tensorrt import aot_plugin, plugin
from sfseg_ros.backends.tensorrt.library import TensorRt
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import binaries

ATTRIBUTES = {
    "FlowWarp": {"align_corners": np.array([1], np.int32)},
    "GatedFlowFusion": {"align_corners": np.array([0], np.int32)},
    "UpsampleArgmax": {"stride": np.array([4], np.int32)},
}


class Words(types.ModuleType):
    """The names of tensorrt.plugin that are used; keeps the functions that are registered."""

    class TensorDesc:
        def __init__(self, dtype: str, shape: Any, form: str = "LINEAR") -> None:
            self.dtype, self.format = (types.SimpleNamespace(name=n) for n in (dtype, form))
            self.shape = self.shape_expr = shape
            self.is_dynamic = -1 in shape

    AutoTuneCombination = staticmethod(lambda io_types, layouts: (io_types, layouts))
    KernelLaunchParams = staticmethod(lambda *numbers: numbers)
    SymIntExprs = staticmethod(lambda length: {})
    SymInt32 = int

    def __init__(self) -> None:
        super().__init__("tensorrt.plugin")
        self.found: dict[tuple[str, str], Any] = {}
        for kind in ("register", "autotune", "aot_impl"):
            setattr(self, kind, lambda identity, kind=kind: self.keep(kind, identity))

    def keep(self, kind: str, identity: str) -> Any:
        return lambda function: self.found.__setitem__((kind, identity), function)

    def from_shape_expr(self, shape: Any, dtype: str) -> Any:
        return self.TensorDesc(dtype, shape)


@pytest.fixture
def words(monkeypatch):
    """Registered for compute capability 8.7 with a library of version 11."""
    words = Words()
    monkeypatch.setattr(TensorRt, "quick_plugins", lambda _library: words)
    monkeypatch.setattr(binaries, "ptx", lambda architecture: b"ptx of %d" % architecture)
    names = {name: name for name in ("FLOAT", "HALF", "INT8")}
    module = types.SimpleNamespace(DataType=types.SimpleNamespace(**names))
    aot_plugin.register(TensorRt("tensorrt", module, (11, 4, 0)), 87)
    return words


def fusion_inputs(form: str, batch: int = 1) -> list[Any]:
    sizes = [(batch, 30, 8, 8), (batch, 30, 16, 16), (batch, 4, 16, 16), (batch, 1, 16, 16)]
    forms = [form, form, "LINEAR", "LINEAR"]
    return [Words.TensorDesc("HALF", shape, form) for shape, form in zip(sizes, forms)]


def test_all_operators_are_registered_under_the_names_of_the_file(words):
    kinds = ("register", "autotune", "aot_impl")
    assert set(words.found) == {
        (kind, f"sfseg::{name}") for kind in kinds for name in plugin.OPERATORS
    }


def test_arguments_are_the_nodes_inputs_and_its_attribute(words):
    for kind, more in (
        ("register", ["stride"]),
        ("autotune", ["outputs"]),
        ("aot_impl", ["stride", "outputs", "tactic"]),
    ):
        signature = inspect.signature(words.found[kind, "sfseg::UpsampleArgmax"])
        assert list(signature.parameters) == ["input0", *more]
        assert signature.return_annotation is not inspect.Signature.empty
    returned = inspect.signature(words.found["register", "sfseg::UpsampleArgmax"])
    assert returned.return_annotation.__args__ == (Words.TensorDesc,) * 2


def test_outputs_follow_from_the_inputs(words):
    describe = words.found["register", "sfseg::UpsampleArgmax"]
    outputs = describe(Words.TensorDesc("HALF", (2, 11, 16, 24)), **ATTRIBUTES["UpsampleArgmax"])
    assert [(o.dtype.name, o.shape) for o in outputs] == [("INT8", (2, 64, 96))] * 2
    describe = words.found["register", "sfseg::GatedFlowFusion"]
    output = describe(*fusion_inputs("LINEAR"), **ATTRIBUTES["GatedFlowFusion"])
    assert (output.dtype.name, output.shape) == ("HALF", (1, 30, 16, 16))


def test_the_builder_times_linear_and_channels_last(words):
    storages = words.found["autotune", "sfseg::GatedFlowFusion"]
    output = Words.TensorDesc("HALF", (1, 30, 16, 16))
    halves = "FP16,FP16,FP16,FP16,FP16"
    assert storages(*fusion_inputs("LINEAR"), (output,)) == [
        (halves, "LINEAR,LINEAR,LINEAR,LINEAR,LINEAR"),
        (halves, "HWC8,HWC8,LINEAR,LINEAR,HWC8"),
    ]
    storages = words.found["autotune", "sfseg::UpsampleArgmax"]
    outputs = (Words.TensorDesc("INT8", (1, 64, 96)),) * 2
    assert storages(Words.TensorDesc("FLOAT", (1, 11, 16, 24)), outputs) == [
        ("FP32,INT8,INT8", "LINEAR,LINEAR,LINEAR"),
        ("FP32,INT8,INT8", "HWC,LINEAR,LINEAR"),
    ]


@pytest.mark.parametrize("form", ["LINEAR", "HWC8"])
def test_kernel_and_launch_are_those_of_the_other_plugin(words, form):
    kernel = words.found["aot_impl", "sfseg::GatedFlowFusion"]
    inputs = fusion_inputs(form)
    outputs = (Words.TensorDesc("HALF", (1, 30, 16, 16), form),)
    align = ATTRIBUTES["GatedFlowFusion"]["align_corners"]
    name, binary, parameters, scalars = kernel(*inputs, align, outputs, 0)
    launch = plugin.OPERATORS["GatedFlowFusion"].launch_for(
        [tensor.shape for tensor in inputs],
        0,
        [(tensor.dtype.name, tensor.format.name) for tensor in inputs],
    )
    assert (name, binary) == (launch.kernel, b"ptx of 87")
    assert parameters == (*launch.grid, *launch.block, launch.shared_bytes)
    assert tuple(scalars.values()) == launch.scalars


def test_sizes_that_vary_are_refused(words):
    kernel = words.found["aot_impl", "sfseg::GatedFlowFusion"]
    align = ATTRIBUTES["GatedFlowFusion"]["align_corners"]
    with pytest.raises(BackendError, match="has one shape; build it for one"):
        kernel(*fusion_inputs("LINEAR", batch=-1), align, (), 0)


@pytest.mark.parametrize(
    ("name", "version"), [("tensorrt", (10, 8, 0)), ("tensorrt_rtx", (1, 7, 1))]
)
def test_a_library_that_cannot_store_kernels_says_so(name, version):
    library = TensorRt(name, types.SimpleNamespace(), version)
    with pytest.raises(BackendError, match=r"cannot store kernels in an engine, TensorRT 10\.9"):
        aot_plugin.register(library, 86)
