# SPDX-License-Identifier: Apache-2.0
"""The released model in TensorRT on a GPU, with and without plugins: its labels agree with ONNX
Runtime in fp32 for several sizes and batches, in sequence and from several threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sfseg_ros.backends.tensorrt.engine_store import EngineStore
from sfseg_ros.backends.tensorrt.engines import EngineRequest, built_engine
from sfseg_ros.backends.tensorrt.library import load_tensorrt
from sfseg_ros.errors import BackendError
from sfseg_ros.geometry import WHOLE_IMAGE
from sfseg_ros.imaging import Picture, color_mask, overlay
from sfseg_ros.installed_files import find_model
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import load_manifest
from sfseg_ros.model.published_labels import PAINTED_IMAGES, LabelRules
from sfseg_ros.segmenter import Segmenter

ort = pytest.importorskip("onnxruntime")
SIZES = ((64, 64), (352, 480), (352, 480))


def no_tensorrt():
    """Return why TensorRT cannot run here, or "" if it can."""
    try:
        load_tensorrt()
    except BackendError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(no_tensorrt()), reason=f"no TensorRT: {no_tensorrt()}")


@pytest.fixture(scope="module")
def manifest():
    return load_manifest(find_model("sfnet_lite_r18_camvid"))


@pytest.fixture(scope="module")
def reference(manifest):
    session = ort.InferenceSession(str(manifest.onnx_path), providers=["CPUExecutionProvider"])
    return lambda rgb: session.run(["labels"], {"image": rgb})[0]


@pytest.fixture(scope="module", params=[True, False], ids=["plugins", "portable"])
def backend(request, manifest, tmp_path_factory):
    from sfseg_ros.backends.tensorrt.backend import TensorRtBackend

    wanted = EngineRequest(sizes=SIZES, batches=(1, 1, 2), precision="fp16", plugins=request.param)
    stored, _ = built_engine(manifest, wanted, EngineStore(tmp_path_factory.mktemp("engines")))
    backend = TensorRtBackend(manifest, only=stored)
    yield backend
    backend.close()


def waves(seed, shape):
    """Smooth areas, uint8 (N, H, W, 3); noise would have class borders everywhere."""
    phases = np.random.default_rng(seed).random((shape[0], 3, 2)) * 6
    y, x = np.mgrid[: shape[1], : shape[2]]
    pictures = [
        [127 + 120 * np.sin(y / 37 + a) * np.cos(x / 53 + b) for a, b in phase] for phase in phases
    ]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 2, 3, 1)).astype(np.uint8)


def test_labels_agree_with_fp32_for_changing_shapes(backend, reference):
    """Each shape has a graph, which is replayed again after the other graphs were captured."""
    shapes = [(1, 352, 480, 3), (2, 352, 480, 3), (1, 96, 160, 3)]
    for turn in range(3):
        for shape in shapes:
            rgb = waves(turn, shape)
            labels, _ = backend.infer(rgb, confidence=bool(turn % 2))
            assert (labels == reference(rgb)).mean() >= 0.99


def test_each_thread_gets_the_labels_of_its_own_picture(backend, reference):
    pictures = [waves(seed, (1, 96 + 32 * (seed % 3), 160, 3)) for seed in range(12)]
    expected = [reference(rgb) for rgb in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rgb: backend.infer(rgb, confidence=False)[0], pictures))
    for labels, wanted in zip(found, expected, strict=True):
        assert (labels == wanted).mean() >= 0.99


def test_published_labels_and_colours_equal_those_of_the_processor(backend, manifest):
    """Graphs are captured again at each change. Labels and mask must be exactly equal."""
    segmenter = Segmenter(manifest, backend)
    groups = np.append(np.arange(255)[::-1] % 5, 255).astype(np.uint8)
    mapping = LabelMapping(groups, manifest.classes[:5])
    for rules in (
        LabelRules(mapping, 0.5, 0.3),
        LabelRules(mapping, 0.9, 0.3),
        LabelRules(alpha=0.7),
    ):
        for seed in range(3):
            rgb = waves(seed, (1, 352, 480, 3))[0]
            raw = segmenter.segment(rgb)
            (result,) = segmenter.segment_batch(
                [(Picture(rgb), WHOLE_IMAGE)], False, rules, PAINTED_IMAGES
            )
            expected = rules.labels_from(raw.labels, raw.confidence)
            np.testing.assert_array_equal(result.labels, expected)
            assert set(result.painted) == (
                set(PAINTED_IMAGES) if backend.applies_label_rules((352, 480)) else set()
            )
            palette = rules.mapping.palette_rgb
            for name, painted in result.painted.items():
                wanted = color_mask(expected, palette)
                if name == "overlay":
                    wanted = overlay(rgb, expected, palette, rules.alpha)
                assert np.abs(painted.astype(int) - wanted).max() <= (name == "overlay")
