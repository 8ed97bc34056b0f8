# SPDX-License-Identifier: Apache-2.0
"""The contract of every backend. A new backend subclasses BackendContract in three lines."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from imitated_tensorrt import FakeContext
from onnx import helper, numpy_helper

from sfseg_ros.backends.choice import open_backend
from sfseg_ros.backends.processor import bf16_unit
from sfseg_ros.backends.protocol import Backend, BackendOptions
from sfseg_ros.backends.tensorrt.library import load_tensorrt
from sfseg_ros.errors import BackendError
from sfseg_ros.geometry import WHOLE_IMAGE
from sfseg_ros.imaging import Picture, color_mask, overlay
from sfseg_ros.kernels import cpu_tail, cuda_memory
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import Manifest, SemanticClass
from sfseg_ros.model.published_labels import PAINTED_IMAGES, LabelRules
from sfseg_ros.segmenter import Segmenter

COLOURS = np.eye(3, dtype=np.uint8) * 255  # the tiny model's classes: red, green, blue


GROUPS = np.full(256, 255, np.uint8)
GROUPS[:3] = 1, 0, 0
MAPPING = LabelMapping(
    GROUPS, (SemanticClass(0, "cold", (9, 99, 199)), SemanticClass(1, "warm", (250, 120, 0)))
)


def quarters(height=64, width=96):
    """Return (image, labels): four areas in red, green, blue and red."""
    labels = np.zeros((height, width), np.uint8)
    labels[: height // 2, width // 2 :] = 1
    labels[height // 2 :, : width // 2] = 2
    return COLOURS[labels], labels


def away_from_edges(labels):
    """Return the pixels whose neighbourhood has one label, which upsampling cannot change."""
    inside = np.ones(labels.shape, bool)
    for axis in (-2, -1):
        for distance in range(1, 9):
            inside &= (np.roll(labels, distance, axis) == labels) & (
                np.roll(labels, -distance, axis) == labels
            )
    return inside


def pooling_of(model):
    return next(node for node in model.graph.node if node.op_type == "AveragePool")


def scores_at_stride_8(model):
    for attribute in pooling_of(model).attribute:
        attribute.ints[:] = [8, 8]


def scores_of_the_whole_image(model):
    node = pooling_of(model)
    node.op_type = "GlobalAveragePool"
    del node.attribute[:]


def scores_of_a_fixed_size(model):
    """16x24 for every image: right for one of 64x96 only."""
    node, sizes = pooling_of(model), numpy_helper.from_array(np.array([1, 3, 16, 24]), "sizes")
    model.graph.initializer.append(sizes)
    resize = helper.make_node("Resize", ["planes", "", "", "sizes"], ["blocks"], mode="nearest")
    node.CopyFrom(resize)


@pytest.fixture(scope="class")
def backend(request: pytest.FixtureRequest, tiny_manifest: Manifest) -> Backend:
    return open_backend(
        request.cls.name, tiny_manifest, BackendOptions(request.cls.precision, threads=1)
    )


class BackendContract:
    name: str
    precision: str
    where = "1 thread"

    def test_it_reports_its_precision(self, backend):
        assert backend.precision == self.precision

    def test_it_describes_itself_in_one_line(self, backend):
        assert backend.name == self.name
        assert self.precision in backend.description
        assert self.where in backend.description
        assert "\n" not in backend.description

    def test_labels_follow_the_picture(self, backend):
        rgb, expected = quarters()
        labels, _ = backend.infer(rgb[None], confidence=True)
        assert labels.shape == (1, 64, 96)
        assert labels.dtype == np.uint8
        inside = away_from_edges(expected)
        np.testing.assert_array_equal(labels[0][inside], expected[inside])

    def test_confidence_is_the_softmax_of_the_winner(self, backend):
        rgb, expected = quarters()
        _, confidence = backend.infer(rgb[None], confidence=True)
        assert confidence.shape == (1, 64, 96)
        assert confidence.dtype == np.uint8
        # On a pure colour the scores are 1, -1, -1.
        certain = round(255 / (1 + 2 * np.exp(-2)))
        assert np.abs(confidence[0][away_from_edges(expected)].astype(int) - certain).max() <= 1

    def test_confidence_is_none_unless_requested_and_does_not_change_labels(self, backend):
        rgb, _ = quarters()
        with_confidence, _ = backend.infer(rgb[None], confidence=True)
        labels, nothing = backend.infer(rgb[None], confidence=False)
        assert nothing is None
        np.testing.assert_array_equal(labels, with_confidence)

    def test_a_batch_equals_its_images_one_by_one(self, backend):
        rgb, _ = quarters()
        batch = np.stack([rgb, rgb[::-1], 255 - rgb])
        labels, confidence = backend.infer(batch, confidence=True)
        for index, image in enumerate(batch):
            alone, certainty = backend.infer(image[None], confidence=True)
            np.testing.assert_array_equal(labels[index], alone[0])
            assert np.abs(confidence[index].astype(int) - certainty[0]).max() <= 1

    @pytest.mark.parametrize("size", [(64, 96), (90, 130)])
    @pytest.mark.parametrize("threshold", [0.0, 0.7])
    @pytest.mark.parametrize("confidence", [False, True])
    def test_published_labels_and_colours_equal_those_of_the_processor(
        self, backend, tiny_manifest, confidence, threshold, size
    ):
        """Whether the backend itself or the processor applies the rules."""
        segmenter = Segmenter(tiny_manifest, backend)
        rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        rgb[:, : size[1] // 2] = quarters(*size)[0][:, : size[1] // 2]
        rules = LabelRules(MAPPING, threshold, alpha=0.3)
        raw = segmenter.segment(rgb)
        expected = rules.labels_from(raw.labels, raw.confidence)
        assert set(np.unique(expected)) == {0, 1} | ({255} if threshold else set())
        for frames in (1, 2, 2):
            results = segmenter.segment_batch(
                [(Picture(rgb), WHOLE_IMAGE)] * frames, confidence, rules, PAINTED_IMAGES
            )
            for result in results:
                np.testing.assert_array_equal(result.labels, expected)
                if confidence:
                    assert np.abs(result.confidence.astype(int) - raw.confidence).max() <= 1
                else:
                    assert result.confidence is None
                painted = {
                    "color_mask": color_mask(expected, MAPPING.palette_rgb),
                    "overlay": overlay(rgb, expected, MAPPING.palette_rgb, 0.3),
                }
                for name, made in result.painted.items():
                    off = np.abs(made.astype(int) - painted[name]).max()
                    assert off <= (1 if name == "overlay" else 0)
        np.testing.assert_array_equal(segmenter.segment(rgb).labels, raw.labels)

    def test_results_survive_the_next_frame(self, backend):
        rgb, _ = quarters()
        labels, confidence = backend.infer(rgb[None], confidence=True)
        before = labels.copy(), confidence.copy()
        backend.infer(255 - rgb[None], confidence=True)
        np.testing.assert_array_equal(labels, before[0])
        np.testing.assert_array_equal(confidence, before[1])

    def test_threads_that_infer_at_the_same_time_get_their_own_results(self, backend):
        pictures = [quarters(64, 64)[0], 255 - quarters(64, 64)[0], quarters(96, 64)[0]]
        alone = [backend.infer(rgb[None], confidence=True) for rgb in pictures]
        with ThreadPoolExecutor(len(pictures)) as pool:
            for _ in range(5):
                infer = partial(backend.infer, confidence=True)
                together = list(pool.map(infer, (rgb[None] for rgb in pictures)))
                for (labels, confidence), expected in zip(together, alone):
                    np.testing.assert_array_equal(labels, expected[0])
                    np.testing.assert_array_equal(confidence, expected[1])

    def test_more_sizes_than_are_kept_work_in_turn(self, backend):
        sizes = [(height, width) for height in range(32, 161, 32) for width in (64, 96)]
        for height, width in sizes * 2:
            rgb, expected = quarters(height, width)
            labels, _ = backend.infer(rgb[None], confidence=False)
            assert labels.shape == (1, height, width)
            inside = away_from_edges(expected)
            np.testing.assert_array_equal(labels[0][inside], expected[inside])

    def test_read_only_and_strided_images_work(self, backend):
        rgb, _ = quarters()
        expected, _ = backend.infer(rgb[None], confidence=False)
        read_only = np.frombuffer(rgb.tobytes(), np.uint8).reshape(1, *rgb.shape)
        padded = np.pad(rgb, ((0, 0), (0, 5), (0, 0)))[:, :96]
        for image in (read_only, padded[None]):
            labels, _ = backend.infer(image, confidence=False)
            np.testing.assert_array_equal(labels, expected)

    @pytest.mark.parametrize(
        ("shape", "dtype", "message"),
        [
            ((64, 96, 3), np.uint8, r"expected uint8 \(N, height, width, 3\)"),
            ((1, 64, 96, 4), np.uint8, r"uint8 \(1, 64, 96, 4\): expected"),
            ((1, 3, 64, 96), np.uint8, "expected uint8"),
            ((1, 64, 96, 3), np.float32, "input is float32"),
            ((0, 64, 96, 3), np.uint8, "N >= 1"),
            ((1, 64, 100, 3), np.uint8, "multiples of 32 only, such as 64x96"),
            ((1, 0, 0, 3), np.uint8, "takes 32x32 to 256x256"),
            ((1, 288, 64, 3), np.uint8, "takes 32x32 to 256x256"),
        ],
    )
    def test_an_array_that_the_model_cannot_take_is_refused(self, backend, shape, dtype, message):
        with pytest.raises(BackendError, match=message) as caught:
            backend.infer(np.zeros(shape, dtype), confidence=True)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("count", [2, 4])
    def test_a_manifest_with_another_number_of_classes_than_the_scores_is_refused(
        self, tiny_manifest, count
    ):
        """Labels without a name would be published."""
        classes = tuple(SemanticClass(i, f"class {i}", (i, i, i)) for i in range(count))
        self.check_refused(
            replace(tiny_manifest, classes=classes), f"scores 3 classes, its manifest names {count}"
        )

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (scores_at_stride_8, "scores are 8x12 for an image of 64x96, expected 16x24"),
            (scores_of_the_whole_image, "scores are 1x1 for an image of 64x96, expected 16x24"),
        ],
    )
    def test_scores_at_another_size_than_image_by_stride_are_refused(self, written, edit, message):
        self.check_refused(written(edit), message)

    def test_a_manifest_with_another_stride_than_the_model_is_refused(self, tiny_manifest):
        message = "upsamples by 4, its manifest says output stride 8"
        self.check_refused(replace(tiny_manifest, output_stride=8), message)

    def test_scores_that_fit_one_image_size_only_are_refused_at_another(self, written):
        manifest = written(scores_of_a_fixed_size)
        backend = self.opened(manifest)
        labels, _ = backend.infer(np.zeros((1, 64, 96, 3), np.uint8), confidence=False)
        assert labels.shape == (1, 64, 96)
        message = "scores are 16x24 for an image of 64x64, expected 16x16"
        with pytest.raises(BackendError, match=message):
            backend.infer(np.zeros((1, 64, 64, 3), np.uint8), confidence=False)
        backend.close()

    def check_refused(self, manifest, message):
        with pytest.raises(BackendError, match=message) as caught:
            self.opened(manifest)
        assert "\n" not in str(caught.value)

    def opened(self, manifest):
        return open_backend(self.name, manifest, BackendOptions(self.precision, threads=1))

    def test_a_closed_backend_says_so(self, tiny_manifest):
        backend = open_backend(self.name, tiny_manifest, BackendOptions(self.precision, threads=1))
        backend.close()
        backend.close()
        with pytest.raises(BackendError, match=f"backend {self.name} is closed"):
            backend.infer(quarters()[0][None], confidence=False)


def needs(library):
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed")


@needs("onnxruntime")
class TestOnnxRuntime(BackendContract):
    name, precision = "onnxruntime", "fp32"


@needs("openvino")
class TestOpenVino(BackendContract):
    name, precision = "openvino", "fp32"


@pytest.fixture(scope="class")
def no_compiled_tail():
    """As installed without a C compiler: the library's own operators make the labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_tail, "LIBRARY", Path("not built"))
        yield


@needs("onnxruntime")
@pytest.mark.usefixtures("no_compiled_tail")
class TestOnnxRuntimeWithoutCompiler(BackendContract):
    name, precision = "onnxruntime", "fp32"


@needs("openvino")
@pytest.mark.usefixtures("no_compiled_tail")
class TestOpenVinoWithoutCompiler(BackendContract):
    name, precision = "openvino", "fp32"

    def test_it_warns_that_labels_take_longer(self, tiny_manifest):
        warnings = []
        options = BackendOptions(threads=1, warn=warnings.append)
        open_backend("openvino", tiny_manifest, options).close()
        assert warnings == [cpu_tail.MISSING]


@needs("openvino")
@pytest.mark.skipif(bf16_unit() is None, reason="this processor has no bf16 unit")
class TestOpenVinoBf16(BackendContract):
    name, precision = "openvino", "bf16"


@needs("onnxruntime")
class TestTensorRtPretended(BackendContract):
    """Pinned memory, graphs and a stream of the imitated driver around the network on the CPU."""

    name, precision, where = "tensorrt", "fp32", "Pretend 1000"

    @pytest.fixture
    def backend(self, open_tensorrt_with, tiny_manifest):
        network = open_backend("onnxruntime", tiny_manifest, BackendOptions(threads=1))
        backend, _ = open_tensorrt_with(partial(network.infer, confidence=True), precision="fp32")
        return backend

    @pytest.fixture(autouse=True)
    def _imitated(self, backend):
        """Every engine that a test opens is imitated too."""

    def test_scores_that_fit_one_image_size_only_are_refused_at_another(self, backend, monkeypatch):
        """An engine's labels have the size that its scores lead to."""
        monkeypatch.setattr(
            FakeContext,
            "get_tensor_shape",
            lambda context, name: context.shape if name == "image" else (1, 64, 96),
        )
        labels, _ = backend.infer(np.zeros((1, 64, 96, 3), np.uint8), confidence=False)
        assert labels.shape == (1, 64, 96)
        with pytest.raises(BackendError, match="refuses labels of .* 1 images of 64x64"):
            backend.infer(np.zeros((1, 64, 64, 3), np.uint8), confidence=False)


def no_cuda_provider():
    if importlib.util.find_spec("onnxruntime") is None:
        return True
    import onnxruntime

    return "CUDAExecutionProvider" not in onnxruntime.get_available_providers()


@pytest.mark.gpu
@pytest.mark.skipif(no_cuda_provider(), reason="ONNX Runtime has no CUDA provider")
class TestOnnxRuntimeCuda(BackendContract):
    name, precision, where = "onnxruntime-cuda", "fp32", "CUDA"


def no_tensorrt():
    """Return why TensorRT cannot run here, or "" if it can."""
    try:
        cuda_memory.Gpu().close()
        load_tensorrt()
    except BackendError as error:
        return str(error)
    return ""


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(bool(no_tensorrt()), reason=f"no TensorRT: {no_tensorrt()}")
class TestTensorRt(BackendContract):
    name, precision, where = "tensorrt", "fp32", "TensorRT"


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(bool(no_tensorrt()), reason=f"no TensorRT: {no_tensorrt()}")
class TestTensorRtFp16(BackendContract):
    name, precision, where = "tensorrt", "fp16", "TensorRT"
