# SPDX-License-Identifier: Apache-2.0
"""Labels with the plugins and without: what an engine would launch, on the kernels' CPU build.

ONNX Runtime computes the layers between the `sfseg` nodes, the plugins' own callbacks are called as
an engine calls them, and the kernel that `enqueue` launches runs on arrays in the storage that the
library would have given it.
"""

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper

from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.backends.tensorrt.engine_builder import prepare
from sfseg_ros.backends.tensorrt.precision import typed_model
from sfseg_ros.kernels import ONNX_DOMAIN, cuda_memory, host_emulation
from sfseg_ros.recordings.pictures import sampled_pictures

FOLDER = Path(__file__).resolve().parent
TEST = FOLDER.parents[1]
DRIVE = TEST / "data" / "town_drive"
CAMVID = TEST.parent / "models" / "sfnet_lite_r18_camvid" / "model.onnx"
TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.uint8}
NAMES = {np.dtype(np.float32): "FLOAT", np.dtype(np.float16): "HALF"}


def loaded(name: str) -> Any:
    """Another file of this folder, whose models and fakes are needed here."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAKES, ENGINES = loaded("test_plugin"), loaded("test_plugin_engines")


class Engine:
    """Runs a prepared model as an engine with plugins does; `library` decides what is offered."""

    def __init__(self, model: ModelProto, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = prepare(model, plugins=True)
        self.types = {
            value.name: value.type.tensor_type.elem_type
            for value in onnx.shape_inference.infer_shapes(model).graph.value_info
        }
        self.trt = FAKES.fake_trt(library)
        self.forms: list[str] = []
        monkeypatch.setattr(cuda_memory, "launch_kernel", self.launched)

    def run(self, image: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and confidence, with features in the format `form`."""
        values = {"image": image}
        for node in self.model.graph.node:
            if node.domain == ONNX_DOMAIN:
                values |= self.between(values, list(node.input))
                values |= zip(node.output, self.by_plugin(node, values, form))
        return values["labels"], values["confidence"]

    def between(self, values: dict[str, np.ndarray], wanted: list[str]) -> dict[str, np.ndarray]:
        """The tensors that a node wants, from those that are known, by ONNX Runtime."""
        nodes, needed = [], set(wanted) - set(values)
        if not needed:
            return {}
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(set(node.input) - set(values))
        weights = [w for w in self.model.graph.initializer if w.name in needed]
        used = {name for node in nodes for name in node.input}.intersection(values)
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape
            )
            for name in sorted(used)
        ]
        asked = [name for name in wanted if name not in values]
        outputs = [helper.make_tensor_value_info(name, self.types[name], None) for name in asked]
        graph = helper.make_graph(nodes[::-1], "between", inputs, outputs, weights)
        part = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        session = onnxruntime.InferenceSession(part.SerializeToString())
        return dict(zip(asked, session.run(asked, {name: values[name] for name in used})))

    def by_plugin(
        self, node: onnx.NodeProto, values: dict[str, np.ndarray], form: str
    ) -> list[np.ndarray]:
        operator = plugin.OPERATORS[node.op_type]
        attribute = next(a.i for a in node.attribute if a.name == operator.attribute)
        made = FAKES.made(self.trt, node.op_type, attribute)
        inputs = [values[name] for name in node.input]
        kinds = [NAMES[array.dtype] for array in inputs]
        if form == "HWC8" and kinds[0] == "FLOAT":  # padded storage is offered for fp16 only
            form = "HWC"
        kinds += [
            kind.name for kind in made.get_output_data_types([FAKES.DataType[k] for k in kinds])
        ]
        forms = [
            form if position in operator.features else "LINEAR" for position in range(len(kinds))
        ]
        shapes = [array.shape for array in inputs]
        shapes += made.get_output_shapes(shapes, [], Numbers())
        described = [FAKES.tensor(kind, shape) for kind, shape in zip(zip(kinds, forms), shapes)]
        count = operator.inputs
        assert all(
            made.supports_format_combination(position, described, count)
            for position in range(len(described))
        )
        made = made.attach_to_context(None)
        made.on_shape_change(described[:count], described[count:])
        given = [stored(array, form_) for array, form_ in zip(inputs, forms)]
        taken = [
            stored(np.zeros(shape, TYPES[kind]), form_)
            for shape, kind, form_ in zip(shapes[count:], kinds[count:], forms[count:])
        ]
        self.arrays = {array.ctypes.data: array for array in (*given, *taken)}
        made.enqueue(
            described[:count],
            described[count:],
            [array.ctypes.data for array in given],
            [array.ctypes.data for array in taken],
            0,
            0,
        )
        return [
            logical(array, form_, shape)
            for array, form_, shape in zip(taken, forms[count:], shapes[count:])
        ]

    def launched(self, launch: Any, inputs: list[int], outputs: list[int], _stream: int) -> None:
        host_emulation.kernels().run(
            launch, [self.arrays[a] for a in inputs], [self.arrays[a] for a in outputs]
        )


class Numbers:
    """The library's expression builder, with numbers instead of expressions."""

    def constant(self, value: int) -> int:
        return value

    def operation(self, operation: Any, first: int, second: int) -> int:
        assert operation.name == "PROD"
        return first * second


def stored(array: np.ndarray, form: str) -> np.ndarray:
    """(N, C, H, W) in the memory layout of a format; padded channels hold garbage."""
    if form == "LINEAR":
        return np.ascontiguousarray(array)
    pad = -array.shape[1] % 8 if form == "HWC8" else 0
    padded = np.pad(array, ((0, 0), (0, pad), (0, 0), (0, 0)), constant_values=np.nan)
    return np.ascontiguousarray(padded.transpose(0, 2, 3, 1))


def logical(array: np.ndarray, form: str, shape: tuple[int, ...]) -> np.ndarray:
    if form == "LINEAR":
        return array
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)[:, : shape[1]])


def picture(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some edges, uint8 (N, H, W, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (batch, height // 8 + 1, width // 8 + 1, 3))
    image = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return (image + random.integers(-8, 9, image.shape)).clip(0, 255).astype(np.uint8)


def portable(model: ModelProto, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(prepare(model, plugins=False).SerializeToString())
    labels, confidence = session.run(["labels", "confidence"], {"image": image})
    return labels, confidence


def assert_agreement(with_plugins: Any, without: Any, share: float, difference: int) -> None:
    """`share` of the labels equal; confidence within `difference` 255ths where they are."""
    labels, confidence = with_plugins
    expected_labels, expected_confidence = without
    assert labels.shape == expected_labels.shape
    same = labels == expected_labels
    assert same.mean() >= share
    off = np.abs(confidence.astype(int) - expected_confidence.astype(int))[same]
    assert off.max() <= difference
    assert np.bincount(labels.ravel()).max() < 0.98 * labels.size  # something to agree about


FORMS = [
    *(("tensorrt", False, "LINEAR"), ("tensorrt", False, "HWC"), ("tensorrt_rtx", False, "HWC")),
    *(("tensorrt", True, "LINEAR"), ("tensorrt", True, "HWC8"), ("tensorrt_rtx", True, "HWC")),
]


@pytest.mark.parametrize(
    ("library", "half", "form"), FORMS, ids=["-".join(map(str, row)) for row in FORMS]
)
@pytest.mark.parametrize("gated", [False, True], ids=["warp", "gated"])
def test_random_models_agree(monkeypatch, library, half, form, gated):
    for seed, (batch, height, width) in itertools.product((1, 2), ((1, 64, 96), (2, 40, 72))):
        model = ENGINES.random_model(seed, half, gated)
        image = picture(batch, height, width, seed)
        engine = Engine(model, library, monkeypatch)
        share, difference = (0.98, 3) if half else (0.9999, 1)
        assert_agreement(engine.run(image, form), portable(model, image), share, difference)


@pytest.mark.parametrize("seed", [*range(11), *range(13, 20)])
def test_wild_models_agree(monkeypatch, make_random_model, seed):
    """Every `sfseg` node anywhere, up to 255 classes, features of one channel."""
    model = onnx.load(make_random_model(seed, wild=True).onnx_path)
    precision, library, form = [
        *(("fp32", "tensorrt", "LINEAR"), ("fp32", "tensorrt_rtx", "HWC")),
        *(("fp16", "tensorrt", "HWC8"), ("fp16", "tensorrt_rtx", "HWC")),
    ][seed % 4]
    typed = typed_model(model, precision)
    image = picture(1 + seed % 2, 64, 96, seed)
    engine = Engine(typed, library, monkeypatch)
    share, difference = (0.97, 6) if precision == "fp16" else (0.999, 1)
    assert_agreement(engine.run(image, form), portable(typed, image), share, difference)


@pytest.mark.parametrize("form", ["LINEAR", "HWC"])
def test_the_trained_model_agrees_on_a_recorded_picture(monkeypatch, form):
    model = onnx.load(CAMVID)
    (frame,) = sampled_pictures(DRIVE, 1)
    image = np.ascontiguousarray(frame.rgb[None, :320:2, :448:2])
    engine = Engine(model, "tensorrt", monkeypatch)
    assert_agreement(engine.run(image, form), portable(model, image), 0.9999, 1)
